"""Arrays whose numbers would be taken for others: masked ones, sparse ones, integers that a dtype does not hold."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from explainers import Explainer, References, errors

X = np.array([[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]])
MASK = [[False, True, False], [False, False, False]]


def linear(x: np.ndarray) -> np.ndarray:
    return x @ np.array([[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]])


def masked() -> Any:
    return np.ma.masked_array(X, MASK)


def sparse(kind: str) -> Any:
    return getattr(pytest.importorskip("scipy.sparse"), kind)(X)


ODD = {
    "masked": (masked, r"masked array, with 1 of 6 entries masked.*x\.filled\(0\.0\)"),
    **{
        kind: (lambda kind=kind: sparse(kind), rf"sparse matrix \({kind}\).*x\.toarray\(\)")
        for kind in ("csr_matrix", "csc_array", "coo_matrix")
    },
}
PLACES = {
    "input": (lambda e, odd: e(odd, target=0), "input 'input'"),
    "predict": (lambda e, odd: e.predict(odd), "input 'input'"),
    "baseline": (lambda e, odd: e(X, target=0, baseline=odd), "the baseline of 'input'"),
    "baseline in a tuple": (lambda e, odd: e(X, target=0, baseline=(odd,)), "the baseline of 'input'"),
    "baseline by name": (lambda e, odd: e(X, target=0, baseline={"input": odd}), "the baseline of 'input'"),
    "baseline made": (lambda e, odd: e(X, target=0, baseline=lambda batch: odd), "the baseline of 'input'"),
    "references": (lambda e, odd: e(X, target=0, baseline=References(odd)), "the baseline of 'input'"),
    "target": (lambda e, odd: e(X, target=odd), "target"),
    "example": (lambda e, odd: Explainer.compile(linear, "occlusion", inputs=odd), "the example"),
    "first call": (lambda e, odd: Explainer.compile(linear, "occlusion")(odd, target=0), "the example"),
}  # fmt: skip


@pytest.mark.parametrize("kind", ODD)
@pytest.mark.parametrize("place", PLACES)
def test_what_is_no_plain_array_is_refused_everywhere(place: str, kind: str) -> None:
    explain = Explainer.compile(linear, "shapley_sampling", inputs=X)
    (make, words), (give, what) = ODD[kind], PLACES[place]
    with pytest.raises(errors.InputError, match=rf"^{what} is a {words}"):
        give(explain, make())


def test_seeds_are_not_masked() -> None:
    with pytest.raises(errors.InputError, match="seed is a masked array"):
        Explainer.compile(linear, "shapley_sampling")(X, target=0, seed=np.ma.masked_array([1, 2], [True, False]))


def test_a_mask_that_hides_nothing_is_no_mask() -> None:
    explain = Explainer.compile(linear, "exact_shapley", inputs=X)
    right = X * [1.0, 3.0, 5.0]
    for given in (np.ma.masked_array(X), np.ma.masked_array(X, np.zeros((2, 3), bool))):
        np.testing.assert_allclose(explain(given, target=0), right)
        each = References(given[:, None], per_sample=True)
        np.testing.assert_allclose(explain(X, target=0, baseline=each), 0, atol=1e-12)


# --- integers --------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def of_ids() -> dict[str, Explainer]:
    """The gradient of Σ e(id) is 1 at the target, 0 elsewhere."""
    torch = pytest.importorskip("torch")

    class Bag(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.e = torch.nn.Embedding(10, 2)

        def forward(self, ids: Any) -> Any:
            return self.e(ids).sum(1)

    ids = {dtype: np.zeros((1, 3), dtype) for dtype in ("int64", "int32")}
    return {dtype: Explainer.compile(Bag(), "gradient", inputs=some, wrt="e") for dtype, some in ids.items()}


@pytest.mark.parametrize(
    ("model", "given", "value"),
    [
        ("int64", "uint64", 2**63), ("int64", "uint64", 2**64 - 1),
        ("int32", "uint64", 2**63), ("int32", "int64", 2**31), ("int32", "int64", 2**32 + 1),
        ("int32", "int64", -(2**40)), ("int32", "uint32", 2**31),
    ],
)  # fmt: skip
def test_integers_do_not_wrap(of_ids: dict[str, Explainer], model: str, given: str, value: int) -> None:
    explain, ids = of_ids[model], np.ones((2, 3), given)
    ids[1, 2] = value
    with pytest.raises(errors.InputError, match=rf"input 'ids' holds {value} at \(1, 2\); the model takes {model}"):
        explain(ids, target=0)
    with pytest.raises(errors.InputError, match=f"holds {value}"):
        explain.predict(ids)
    ids[1, 2] = 3
    right = np.broadcast_to([1.0, 0.0], (2, 3, 2))
    np.testing.assert_array_equal(explain(ids, target=0), right)


BIG = [2**63, 2**64, 10**30, -(2**70), [2**63, 0], [2**64, 1], [[2**63], [0]], np.array([2**63, 1], np.uint64)]


@pytest.mark.parametrize("target", BIG, ids=str)
def test_targets_do_not_wrap_and_are_no_masks(target: Any) -> None:
    """Two samples and two outputs: a list of two could be a mask, if its integers became floating-point."""
    with pytest.raises(errors.TargetError):
        Explainer.compile(linear, "feature_ablation")(X, target=target)


def test_small_unsigned_targets_are_targets() -> None:
    explain = Explainer.compile(linear, "feature_ablation")
    np.testing.assert_allclose(
        explain(X, target=np.array([1, 0], np.uint64)), X * [[2.0, 4.0, 6.0], [1.0, 3.0, 5.0]], atol=1e-12
    )

"""Multipliers and hypothetical contributions: against loops over letters, and against Captum's multipliers."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import pytest

from explainers import Explainer, References, methods
from explainers.errors import InputError

from .naive import quadrature

torch = pytest.importorskip("torch")
N, LETTERS, POSITIONS, CLASSES = 3, 4, 12, 3
KINDS = {
    "integrated_gradients": lambda **options: methods.IntegratedGradients(steps=9, **options),
    "gradient_shap": lambda **options: methods.GradientShap(samples=6, **options),
    "deeplift": lambda **options: methods.DeepLift(**options),
    "deeplift-genomics": lambda **options: methods.DeepLift(rule="genomics", **options),
    "deeplift_shap": lambda **options: methods.DeepLiftShap(**options),
}


def one_hot(count: int, seed: int, last: bool = False) -> np.ndarray:
    letters = np.random.default_rng(seed).integers(0, LETTERS, (count, POSITIONS))
    x = np.eye(LETTERS)[letters]
    return x if last else np.ascontiguousarray(x.transpose(0, 2, 1))


@pytest.fixture(scope="module")
def net() -> Any:
    """With weights large enough that the softmax is sharp."""
    torch.manual_seed(3)
    layers = [torch.nn.Conv1d(LETTERS, 6, 3), torch.nn.ReLU(), torch.nn.MaxPool1d(2), torch.nn.Flatten()]
    model = torch.nn.Sequential(*layers, torch.nn.Linear(30, CLASSES), torch.nn.Softmax(-1)).double()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter *= 3
    return model


@pytest.fixture(scope="module")
def keras_net() -> Any:
    keras = pytest.importorskip("keras")
    keras.utils.set_random_seed(2)
    layers = [keras.layers.Conv1D(6, 3, activation="relu"), keras.layers.Flatten(), keras.layers.Dense(CLASSES)]
    for layer in layers:
        layer.dtype_policy = keras.DTypePolicy("float64")
    return keras.Sequential([keras.Input((POSITIONS, LETTERS), dtype="float64"), *layers])


def references_of(kind: str, table: np.ndarray) -> Any:
    return References(table) if kind in ("deeplift_shap", "gradient_shap") else table[:N]


@pytest.mark.parametrize("framework", ["torch", "tensorflow"])
@pytest.mark.parametrize("kind", KINDS)
def test_hypothetical_is_the_loop_over_letters(framework: str, kind: str, request: Any) -> None:
    """Where the letter x' stands, the multipliers m of x give Σ m·(x' − r) at each of its positions."""
    last = framework == "tensorflow"
    model = request.getfixturevalue("keras_net" if last else "net")
    x, single = one_hot(N, 0, last), one_hot(1, 5, last)
    letters = 2 if last else 1

    def run(table: np.ndarray, **options: Any) -> Any:
        explain = Explainer.compile(model, KINDS[kind](**options), inputs=x)
        return explain(x, target=1, baseline=references_of(kind, table), seed=4)

    one = np.repeat(single, N, axis=0)  # the same reference for all: m does not hang on which
    multipliers, hypothetical, plain = run(one, multiply=False), run(one, hypothetical=True), run(one)
    expected = np.zeros_like(x)
    for letter in range(LETTERS):
        e = np.zeros_like(x)
        e[(slice(None), slice(None), letter) if last else (slice(None), letter)] = 1
        part = (multipliers * (e - single)).sum(letters)
        expected[(slice(None), slice(None), letter) if last else (slice(None), letter)] = part
    assert abs(expected).max() > 1e-3
    np.testing.assert_allclose(hypothetical, expected, atol=1e-10)
    np.testing.assert_allclose(plain, multipliers * (x - single), atol=1e-10)
    several = one_hot(N, 7, last)  # differing references: what the letters there contribute stays the attribution
    whole = (run(several, hypothetical=True) * x).sum(letters)
    np.testing.assert_allclose(whole, run(several).sum(letters), atol=1e-10)


def test_multipliers_of_the_path_are_the_mean_gradient(net: Any) -> None:
    x, b = one_hot(N, 0), one_hot(N, 1)
    expected = np.zeros_like(x)
    for alpha, weight in quadrature("gauss_legendre", 9):
        point = torch.tensor(b + alpha * (x - b), requires_grad=True)
        net(point)[:, 2].sum().backward()
        expected += weight * point.grad.numpy()
    explain = Explainer.compile(net, methods.IntegratedGradients(steps=9, multiply=False), inputs=x)
    np.testing.assert_allclose(explain(x, target=2, baseline=b), expected, rtol=1e-9, atol=1e-12)


def test_multipliers_are_those_of_captum(net: Any) -> None:
    captum = pytest.importorskip("captum.attr")
    logits = torch.nn.Sequential(net[0], torch.nn.ReLU(), torch.nn.Flatten(), torch.nn.Linear(60, CLASSES).double())
    x, r = one_hot(N, 0), one_hot(N, 1)
    peer = captum.DeepLift(logits, multiply_by_inputs=False)
    rows = [torch.tensor(x[i : i + 1], requires_grad=True) for i in range(N)]
    with pytest.warns(UserWarning, match="hooks"):
        parts = [peer.attribute(row, torch.tensor(r[i : i + 1]), target=1) for i, row in enumerate(rows)]
    expected = torch.cat(parts)
    explain = Explainer.compile(logits, methods.DeepLift(multiply=False), inputs=x)
    np.testing.assert_allclose(explain(x, target=1, baseline=r), expected.detach().numpy(), atol=1e-8)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("options", [{"multiply": False}, {"hypothetical": True}], ids=["multipliers", "hypothetical"])
def test_files_and_warmup(net: Any, kind: str, options: dict[str, Any]) -> None:
    x, file = one_hot(N, 0), io.BytesIO()
    explain = Explainer.compile(net, KINDS[kind](**options), inputs=x).warmup()
    explain.save(file)
    loaded = Explainer.load(file.getvalue())
    assert loaded.method == explain.method
    baseline = references_of(kind, one_hot(N, 1))
    assert (loaded(x, target=1, baseline=baseline) == explain(x, target=1, baseline=baseline)).all()
    gap = explain.explanation(x, target=1, baseline=baseline).completeness_gap
    plain = Explainer.compile(net, KINDS[kind](), inputs=x).explanation(x, target=1, baseline=baseline)
    if kind == "gradient_shap" or "multiply" in options:
        assert gap is None
    else:
        np.testing.assert_allclose(gap, plain.completeness_gap, atol=1e-10)


def test_hypothetical_contributions_are_guarded(net: Any) -> None:
    """The letters that are there must add up to the change, as attributions do."""
    x = one_hot(N, 0)
    explain = Explainer.compile(net, methods.DeepLift(hypothetical=True), inputs=x, strict=True)
    explain(x, target=1, baseline=one_hot(N, 1))
    assert explain.stats.incomplete == 0


def test_errors(net: Any) -> None:
    x = one_hot(N, 0)
    with pytest.raises(InputError, match="one of them"):
        methods.DeepLift(hypothetical=True, multiply=False)
    with pytest.raises(InputError, match="alphabet_axis must be"):
        methods.DeepLift(alphabet_axis=2)
    with pytest.raises(InputError, match="tolerance"):
        methods.IntegratedGradients(tolerance=0.1, multiply=False)
    explain = Explainer.compile(net, methods.DeepLift(hypothetical=True), inputs=x)
    wrong = x.copy()
    wrong[1, :, 4] = 0.25
    with pytest.raises(InputError, match=r"sample 1 of 3 has .* at position 4"):
        explain(wrong, target=0)
    with pytest.raises(InputError, match="wrt= is a layer"):
        Explainer.compile(net, methods.DeepLift(hypothetical=True), inputs=x, wrt="0")
    flat = torch.nn.Linear(5, 2)
    with pytest.raises(InputError, match="one-hot sequences"):
        Explainer.compile(flat, methods.DeepLift(hypothetical=True), inputs=np.zeros((1, 5), np.float32))
    square = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(16, 2))
    with pytest.raises(InputError, match="which axis"):
        Explainer.compile(square, methods.DeepLift(hypothetical=True), inputs=np.zeros((1, 4, 4), np.float32))

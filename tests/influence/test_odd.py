"""Models and calls that are easily computed wrong without a word: each once against plain derivatives, or refused."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from explainers.errors import ArtifactError, InputError, TargetError
from explainers.influence import EKFAC, GradientSimilarity, HarmonicMean, Influence, TracIn

from .naive import keras_derivatives, torch_derivatives
from .test_derivatives import assert_products, cross_entropy

pytestmark = pytest.mark.usefixtures("doubles")
RNG = np.random.default_rng(0)


class Model(nn.Module):
    """Weights by name, and a function of them and the input."""

    def __init__(self, run: Any, **shapes: Any) -> None:
        super().__init__()
        self.run = run
        for name, shape in shapes.items():
            setattr(self, name, shape if isinstance(shape, nn.Module) else nn.Parameter(torch.randn(*shape)))

    def forward(self, x: Any) -> Any:
        return self.run(self, x)


def padded(m: Any, x: Any) -> Any:
    return m.head(m.table(x).mean(1))


def once_more(m: Any, x: Any) -> Any:
    return m.head((m.first(x) + m.b) * torch.tanh(m.first(2 * x) + m.b.view(2, 2).t().reshape(4)))


IDS = torch.from_numpy(RNG.integers(0, 5, (9, 4)))
VECTORS, CUBES = (torch.from_numpy(RNG.normal(size=size)) for size in ((9, 4), (9, 4, 4)))
MODELS: dict[str, tuple[Any, Any]] = {
    "padding": (lambda: Model(padded, table=nn.Embedding(5, 4, padding_idx=0), head=nn.Linear(4, 3)), IDS),
    "a bias behind a transpose": (
        lambda: Model(lambda m, x: m.head((F.linear(x, m.w).transpose(1, 2) + m.b).sum(1)), w=(4, 4), b=(4,),
                      head=nn.Linear(4, 3)), CUBES),
    "a bias of heads behind a transpose": (
        lambda: Model(lambda m, x: m.head((m.first(x).view(-1, 2, 2, 3).transpose(1, 2) + m.b).flatten(1)), b=(2, 3),
                      first=nn.Linear(4, 6), head=nn.Linear(12, 3)), torch.randn(9, 2, 4, dtype=torch.float64)),
    "a bias in two orders": (
        lambda: Model(once_more, b=(4,), first=nn.Linear(4, 4, bias=False), head=nn.Linear(4, 3)), VECTORS),
    "stacked matrices": (
        lambda: Model(lambda m, x: m.head(torch.matmul(x, m.w).flatten(1)), w=(4, 4, 2), head=nn.Linear(8, 3)),
        torch.randn(9, 4, 1, 4, dtype=torch.float64)),
    "a scaled product": (
        lambda: Model(lambda m, x: torch.addmm(m.b, x, m.w, beta=0.5, alpha=2), b=(3,), w=(4, 3)), VECTORS),
    "one bias for all": (lambda: Model(lambda m, x: torch.addmm(m.b, x, m.w), b=(1,), w=(4, 3)), VECTORS),
    "shared by unlike convolutions": (
        lambda: Model(lambda m, x: m.head((F.conv1d(x, m.w) + F.conv1d(x, m.w[:, :2], groups=2)).amax(-1)), w=(4, 4, 2),
                      head=nn.Linear(4, 3)), torch.randn(9, 4, 5, dtype=torch.float64)),
    "a bilinear layer": (lambda: Model(lambda m, x: m.head(x, torch.tanh(x)), head=nn.Bilinear(4, 4, 3)), VECTORS),
}  # fmt: skip


@pytest.mark.parametrize("name", MODELS)
def test_equal_or_listed(name: str) -> None:
    make, x = MODELS[name]
    model, y = make().eval(), torch.from_numpy(RNG.integers(0, 3, 9))
    compiled = Influence.compile(model, method=GradientSimilarity(), inputs=x[:2])
    left_out = {row.names for row in compiled.coverage if row.rule == "none"}
    for weight_name, weight in model.named_parameters():
        weight.requires_grad_(weight_name not in left_out)
    assert_products(compiled.fit((x, y))((x[:5], y[:5])), torch_derivatives(model, x, y, cross_entropy))
    assert name in ("shared by unlike convolutions",) or not left_out, left_out


def test_the_first_call_in_another_mode() -> None:
    model, y = (
        nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 3)).eval(),
        torch.from_numpy(RNG.integers(0, 3, 9)),
    )
    wanted = Influence.compile(model, inputs=VECTORS[:2]).fit((VECTORS, y))((VECTORS, y))
    for mode in (torch.inference_mode(), torch.no_grad(), torch.autocast("cpu", torch.bfloat16)):
        with mode:
            found = Influence.compile(model, inputs=VECTORS[:2]).fit((VECTORS, y))((VECTORS, y))
        np.testing.assert_allclose(found, wanted, rtol=1e-9)


def test_outputs_behind_another_squash_than_the_loss_takes() -> None:
    x, dense = VECTORS, nn.Linear(4, 3)
    y = torch.from_numpy(RNG.integers(0, 3, 9))
    soft = nn.Sequential(dense, nn.Softmax(-1)).eval()
    found = Influence.compile(soft, method=GradientSimilarity(), inputs=x[:2]).fit((x, y))((x, y))
    wanted = torch_derivatives(nn.Sequential(dense), x, y, cross_entropy)
    np.testing.assert_allclose(found, wanted @ wanted.T, atol=1e-12)
    for last, loss in ((nn.Softmax(-1), "binary_cross_entropy"), (nn.Sigmoid(), "cross_entropy")):
        with pytest.raises(InputError, match="takes logits, and the output is behind"):
            Influence.compile(nn.Sequential(dense, last).eval(), loss, inputs=x[:2])
    with pytest.raises(InputError, match="along another axis"):
        Influence.compile(nn.Sequential(dense, nn.Softmax(1)).eval(), inputs=torch.randn(2, 3, 4))
    with pytest.raises(InputError, match="takes logits"):
        Influence.compile(nn.Sequential(dense, nn.Softmax(-1), nn.Unflatten(1, (1, 3))).eval(), inputs=x[:2])
    with pytest.raises(TargetError, match="from 0 to 1"):
        Influence.compile(nn.Sequential(dense), "binary_cross_entropy", inputs=x[:2]).fit((x, 2.0 * np.ones((9, 3))))


def test_losses_that_divide_by_the_batch() -> None:
    with pytest.raises(InputError, match="depends on the samples of its batch"):
        Influence.compile(
            nn.Linear(4, 3),
            lambda f, y: ((f - y) ** 2).sum(1) / f.shape[0],
            inputs=VECTORS[:2],
            targets=torch.zeros(2, 3),
        )


def test_checkpoints_leave_no_trace(tmp_path: Any) -> None:
    model, other, y = nn.Linear(4, 3), nn.Linear(4, 3), torch.from_numpy(RNG.integers(0, 3, 9))
    fitted = Influence.compile(model, method=TracIn([other.state_dict()]), inputs=VECTORS[:2]).fit((VECTORS, y))
    before = fitted.losses((VECTORS, y))
    found = fitted((VECTORS, y))
    np.testing.assert_array_equal(fitted.losses((VECTORS, y)), before)
    fitted.save(tmp_path / "fitted")
    np.testing.assert_array_equal(fitted.influence.load(tmp_path / "fitted", (VECTORS, y))((VECTORS, y)), found)
    third = Influence.compile(model, method=TracIn([nn.Linear(4, 3).state_dict()]), inputs=VECTORS[:2])
    with pytest.raises(ArtifactError, match="its method is"):
        third.load(tmp_path / "fitted", (VECTORS, y))
    fitted.lazy((VECTORS, y), chunks=(2, 9)).to_zarr(tmp_path / "a.zarr")


def test_checkpoints_beside_other_threads() -> None:
    """Weights are arguments of the kernels: what one thread computes at a checkpoint is not seen by another."""
    y = torch.from_numpy(RNG.integers(0, 3, 9))
    states = [nn.Linear(4, 3).state_dict() for _ in range(2)]
    fitted = Influence.compile(nn.Linear(4, 3), method=TracIn(states), inputs=VECTORS[:2]).fit((VECTORS, y))
    losses, scores = fitted.losses((VECTORS, y)), fitted((VECTORS, y))
    with ThreadPoolExecutor(4) as pool:
        found = [pool.submit(fitted.losses if i % 2 else fitted, (VECTORS, y)) for i in range(40)]
        for i, future in enumerate(found):
            np.testing.assert_array_equal(future.result(), losses if i % 2 else scores)


def test_what_a_run_on_disk_is_known_by(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """A part of other labels, other checkpoints or another loss is not continued."""
    from explainers.influence import scores

    pytest.importorskip("zarr")
    x, y = torch.randn(60, 4).numpy(), RNG.integers(0, 3, 60)
    model, kept = nn.Linear(4, 3), scores.Store.keep

    def stops(store: Any) -> None:
        kept(store)
        if store.done >= 20:
            raise KeyboardInterrupt

    place = tmp_path / "scores.zarr"
    states = [nn.Linear(4, 3).state_dict() for _ in range(2)]
    first = Influence.compile(model, method=TracIn([states[0]]), inputs=x[:2]).fit((x, y))
    monkeypatch.setattr(scores.Store, "keep", stops)
    with pytest.raises(KeyboardInterrupt):
        first.lazy((x, y), chunks=(10, 60)).to_zarr(place)
    monkeypatch.setattr(scores.Store, "keep", kept)
    other_labels = y.copy()
    other_labels[30] = (y[30] + 1) % 3
    second = Influence.compile(model, method=TracIn([states[1]]), inputs=x[:2]).fit((x, y))
    for lazy in (second.lazy((x, y), chunks=(10, 60)), first.lazy((x, other_labels), chunks=(10, 60))):
        with pytest.raises(InputError, match="part of another run"):
            lazy.to_zarr(place)
    first.lazy((x, y), chunks=(10, 60)).to_zarr(place)


def test_dampings_are_what_was_given() -> None:
    x, y = VECTORS, torch.from_numpy(RNG.integers(0, 3, 9))
    model = nn.Linear(4, 3)
    for method in (HarmonicMean(damping=1e-12), EKFAC(damping=1e-12)):
        assert abs(Influence.compile(model, method=method, inputs=x[:2]).fit((x, y))((x, y))).max() > 1
    Influence.compile(model, method=EKFAC(damping=np.float32(0.1)), inputs=x[:2])
    with pytest.raises(InputError, match="relative_damping must be a number"):
        EKFAC(relative_damping=None)  # type: ignore[arg-type]


def test_large_tables_have_a_diagonal_covariance() -> None:
    model = Model(padded, table=nn.Embedding(3000, 4), head=nn.Linear(4, 3)).eval()
    ids, y = torch.from_numpy(RNG.integers(0, 3000, (20, 4))), torch.from_numpy(RNG.integers(0, 3, 20))
    fitted = Influence.compile(model, method=EKFAC(draws=None), inputs=ids[:2]).fit((ids, y))
    assert fitted.state["left_0"].size == 0
    found = fitted((ids[:5], y[:5]))
    np.testing.assert_allclose(fitted.self_influence()[:5], np.diag(found[:, :5]), rtol=1e-9)
    small = Model(padded, table=nn.Embedding(5, 4), head=nn.Linear(4, 3)).eval()
    state = Influence.compile(small, method=EKFAC(draws=None), inputs=IDS[:2]).fit((IDS, y[:9])).state
    squares = sum(
        (part.reshape(9, 5, 4) @ state["right_0"][0]) ** 2 for part in _pseudo(small, IDS)
    )  # fmt: skip
    np.testing.assert_allclose(state["values_0"][0], squares.mean(0), atol=1e-12)


def _pseudo(model: Any, ids: Any) -> list[np.ndarray]:
    """The derivatives towards the table from each column of the curvature's root."""
    found = []
    f = model(ids).detach()
    p = torch.softmax(f, -1)
    for c in range(3):
        root = torch.sqrt(p)[:, c, None] * (torch.eye(3)[c] - p)
        rows = []
        for i in range(len(ids)):
            (g,) = torch.autograd.grad((model(ids[i : i + 1]) * root[i]).sum(), [model.table.weight])
            rows.append(g.numpy())
        found.append(np.stack(rows))
    return found


def test_bfloat16() -> None:
    x, y = torch.randn(9, 4, dtype=torch.bfloat16), torch.from_numpy(RNG.integers(0, 3, 9))
    model = nn.Linear(4, 3).to(torch.bfloat16)
    found = Influence.compile(model, method=GradientSimilarity(), inputs=x[:2]).fit((x, y))((x, y))
    wide = nn.Linear(4, 3)
    wide.load_state_dict({name: weight.double() for name, weight in model.state_dict().items()})
    wanted = torch_derivatives(wide, x.double(), y, cross_entropy)
    np.testing.assert_allclose(found, wanted @ wanted.T, atol=0.05 * abs(wanted @ wanted.T).max())


def test_layers_of_different_dtypes() -> None:
    """Half of the layers compute in bfloat16, as with a large model and adapters."""
    model = Model(
        lambda m, x: m.head(m.norm(torch.relu(m.first(x.to(torch.bfloat16)))).float()),
        first=nn.Linear(4, 5).to(torch.bfloat16), norm=nn.LayerNorm(5).to(torch.bfloat16), head=nn.Linear(5, 3).float(),
    ).eval()  # fmt: skip
    x, y = torch.randn(9, 4, dtype=torch.float32), torch.from_numpy(RNG.integers(0, 3, 9))
    weights = list(model.parameters())
    rows = []
    for i in range(9):
        found = torch.autograd.grad(cross_entropy(model(x[i : i + 1]), y[i : i + 1]).sum(), weights)
        rows.append(torch.cat([part.reshape(-1).double() for part in found]))
    wanted = (torch.stack(rows) @ torch.stack(rows).T).numpy()
    found = Influence.compile(model, method=GradientSimilarity(), inputs=x[:2]).fit((x, y))((x, y))
    np.testing.assert_allclose(found, wanted, atol=0.02 * abs(wanted).max())


@pytest.mark.parametrize("policy", ["mixed_bfloat16", "mixed_float16"])
def test_keras_policies_of_mixed_precision(policy: str) -> None:
    keras = pytest.importorskip("keras")
    import tensorflow as tf

    keras.utils.set_random_seed(0)
    layers = [
        keras.layers.Conv1D(4, 2, activation="tanh", dtype=policy), keras.layers.LayerNormalization(dtype=policy),
        keras.layers.Flatten(dtype=policy), keras.layers.Dense(3, dtype="float32"),
    ]  # fmt: skip
    model = keras.Sequential([keras.Input((4, 3), dtype="float32"), *layers])
    x, y = RNG.normal(size=(9, 4, 3)).astype(np.float32), RNG.integers(0, 3, 9)
    compiled = Influence.compile(model, method=GradientSimilarity())
    assert [row.rule for row in compiled.coverage] == ["conv", "full", "full", "full", "dense"]  # as in float32
    loss = tf.nn.sparse_softmax_cross_entropy_with_logits
    wanted = keras_derivatives(model, x, y, lambda f, y: loss(y, f))
    products = wanted @ wanted.T
    np.testing.assert_allclose(compiled.fit((x, y))((x, y)), products, atol=0.02 * abs(products).max())


def test_keras_layers_that_are_frozen_and_checkpoints() -> None:
    keras = pytest.importorskip("keras")
    import tensorflow as tf

    keras.utils.set_random_seed(0)
    layers = [keras.layers.Dense(5, activation="tanh"), keras.layers.Dense(3)]
    model = keras.Sequential([keras.Input((4,)), *layers])
    layers[0].trainable = False
    x, y = RNG.normal(size=(9, 4)).astype(np.float32), RNG.integers(0, 3, 9)

    def loss(f: Any, y: Any) -> Any:
        return tf.nn.sparse_softmax_cross_entropy_with_logits(y, f)

    compiled = Influence.compile(model, method=GradientSimilarity())
    assert {row.rule for row in compiled.coverage} == {"dense", "left out"}
    wanted = keras_derivatives(model, x, y, loss)
    np.testing.assert_allclose(compiled.fit((x, y))((x, y)), wanted @ wanted.T, atol=1e-5)
    other = keras.models.clone_model(model)
    other.set_weights([weight + 1 for weight in model.get_weights()])
    other.layers[0].trainable = False
    wanted = keras_derivatives(other, x, y, loss)
    for state in (
        other.get_weights(),
        {v.path: w.numpy() for v, w in zip(model.variables, other.variables, strict=True)},
    ):
        found = Influence.compile(model, method=TracIn([state])).fit((x, y))((x, y))
        np.testing.assert_allclose(found, wanted @ wanted.T, rtol=1e-4, atol=1e-5)

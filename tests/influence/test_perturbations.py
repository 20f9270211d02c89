"""The derivative of influences towards training inputs: against second derivatives, and against differences."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from explainers.errors import InputError, UnsupportedOperation
from explainers.influence import (
    EKFAC,
    KFAC,
    TRAK,
    Arnoldi,
    ConjugateGradient,
    GaussNewton,
    GradientSimilarity,
    HarmonicMean,
    Influence,
    LiSSA,
    Nystroem,
    TracIn,
)

from .test_derivatives import SERIES, TORCH, VECTORS, cross_entropy

pytestmark = pytest.mark.usefixtures("doubles")
X, Y = (array.numpy() for array in VECTORS)


class Residual(nn.Module):
    """Operations of which one operand depends on the other, over patches of an image."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.head = nn.Linear(3, 4), nn.Linear(4, 3)
        self.attention = nn.TransformerEncoderLayer(4, 2, 8, batch_first=True, dropout=0.0)

    def forward(self, x: Any) -> Any:
        x = self.first(x)
        x = x * torch.sigmoid(x) + self.attention(x)
        return self.head(x.mean(1))


def second_derivatives(model: nn.Module, x: Any, y: Any, tests: int, trains: int) -> Any:
    """∂/∂x_j of g_t·g_j by autograd twice, (tests, trains, …)."""
    weights = [p for p in model.parameters() if p.requires_grad]

    def gradient(x: Any, y: Any) -> Any:
        found = torch.autograd.grad(
            cross_entropy(model(x[None]), y[None]).sum(), weights, create_graph=True, allow_unused=True
        )
        return torch.cat([part.reshape(-1) for part in found if part is not None])

    rows = []
    for t in range(tests):
        own = gradient(x[t], y[t]).detach()
        for j in range(trains):
            moving = x[j].clone().requires_grad_(True)
            with torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH):  # others have one derivative
                rows.append(torch.autograd.grad(own @ gradient(moving, y[j]), moving)[0])
    return torch.stack(rows).reshape(tests, trains, *x.shape[1:]).numpy()


MODELS = ["vision", "dense", "no bias", "odd", "conv1d", "conv3d", "lstm", "gru", "tokens"]


@pytest.mark.parametrize("name", [*MODELS, "conv2d", "residual"])
@pytest.mark.parametrize("engine", ["torchscript", "eager"])
def test_torch(name: str, engine: str) -> None:
    model, x, y = (Residual(), *SERIES) if name == "residual" else TORCH[name]()
    model.eval()
    fitted = Influence.compile(model, method=GradientSimilarity(), inputs=x[:2], engine=engine).fit((x, y))
    found = fitted.perturbation((x[:2], y[:2]), (x[:4], y[:4]))
    wanted = second_derivatives(model, x, y, 2, 4)
    assert abs(wanted).max() > 1e-3
    np.testing.assert_allclose(found, wanted, atol=1e-11 * abs(wanted).max())


@pytest.mark.parametrize(
    "method",
    [
        EKFAC(), KFAC(), GaussNewton(), ConjugateGradient(tolerance=1e-11), Nystroem(rank=8), Arnoldi(rank=8, steps=9),
        LiSSA(depth=50, damping=0.5), HarmonicMean(), TRAK(16), GradientSimilarity(), "tracin",
    ],
    ids=lambda method: getattr(method, "name", method),
)  # fmt: skip
def test_every_method_against_differences_of_its_scores(method: Any) -> None:
    model = nn.Sequential(nn.Linear(6, 5), nn.Tanh(), nn.Linear(5, 3)).eval()
    if method == "tracin":
        other = {name: 1.1 * weight for name, weight in model.state_dict().items()}
        method = TracIn([model.state_dict(), other], [0.5, 2.0])
    fitted = Influence.compile(model, method=method, inputs=X[:2]).fit((X, Y))
    tests, step = (X[:2], Y[:2]), 1e-5
    found = fitted.perturbation(tests, (X[2:5], Y[2:5]))
    assert found.shape == (2, 3, 6)
    for place in range(6):
        above, below = (X[2:5] + sign * step * np.eye(6)[place] for sign in (1, -1))
        wanted = (fitted(tests, (above, Y[2:5])) - fitted(tests, (below, Y[2:5]))) / (2 * step)
        np.testing.assert_allclose(found[:, :, place], wanted, atol=1e-6 * abs(found).max())


def test_of_the_training_data_in_any_batches_with_a_loss_of_its_own() -> None:
    """A function as loss has floating targets, of which there is no derivative."""

    def loss(output: Any, targets: Any) -> Any:
        return ((output - targets) ** 4).sum(1)

    y = np.random.default_rng(0).normal(size=(12, 3))
    model = nn.Sequential(nn.Linear(6, 5), nn.Tanh(), nn.Linear(5, 3)).eval()
    results = [
        Influence.compile(model, loss, inputs=X[:2], targets=y[:2], batch_size=size).fit((X, y)) for size in (5, None)
    ]
    first, second = (fitted.perturbation((X[:2], y[:2])) for fitted in results)
    assert isinstance(first, np.ndarray)
    assert first.shape == (2, 12, 6)
    np.testing.assert_allclose(first, second, atol=1e-10 * abs(second).max())


def test_several_inputs() -> None:
    class Both(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embed, self.head, self.other = nn.Embedding(10, 4), nn.Linear(4, 3), nn.Linear(6, 3)

        def forward(self, ids: Any, x: Any, gate: Any) -> Any:
            return self.head(self.embed(ids).mean(1)) * torch.tanh(self.other(x)) * gate

    ids, gate = np.random.default_rng(0).integers(0, 10, (12, 5)), np.full((12, 1), 0.5)
    model = Both().eval()
    data = ids, X, gate, Y
    influence = Influence.compile(model, method=GradientSimilarity(), inputs=(ids[:1], X[:1], gate[:1]))
    first, second = influence.fit(data).perturbation(tuple(array[:2] for array in data))
    assert (first.shape, second.shape) == ((2, 12, 6), (2, 12, 1))
    step = 1e-6
    moved = [influence.fit((ids, X, gate + sign * step, Y)) for sign in (1, -1)]
    tests = tuple(array[:2] for array in data)
    above, below = (fitted(tests) for fitted in moved)
    np.testing.assert_allclose(second[..., 0], (above - below) / (2 * step), atol=1e-6 * abs(second).max())


def test_what_cannot_be_asked() -> None:
    model, ids, y = TORCH["attention"]()
    fitted = Influence.compile(model.eval(), method=GradientSimilarity(), inputs=ids[:2]).fit((ids, y))
    with pytest.raises(UnsupportedOperation, match="whole numbers"):
        fitted.perturbation((ids[:2], y[:2]))
    dense = nn.Sequential(nn.Linear(6, 3)).eval()
    cosine = Influence.compile(dense, method=GradientSimilarity(cosine=True), inputs=X[:2]).fit((X, Y))
    with pytest.raises(UnsupportedOperation, match="leave out cosine"):
        cosine.perturbation((X[:2], Y[:2]))


def test_what_does_not_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    dense = nn.Sequential(nn.Linear(6, 3)).eval()
    fitted = Influence.compile(dense, inputs=X[:2]).fit((X, Y))
    free = type("Memory", (), {"available": 8 * 2 * 12 * 6 - 1})()
    monkeypatch.setattr("explainers.influence.scores.psutil.virtual_memory", lambda: free)
    with pytest.raises(InputError, match="give fewer tests"):
        fitted.perturbation((X[:2], Y[:2]))


@pytest.mark.parametrize("engine", ["graph", "eager"])
def test_keras(engine: str) -> None:
    pytest.importorskip("tensorflow")
    import keras
    import tensorflow as tf

    keras.utils.set_random_seed(0)
    layers = keras.layers
    model = keras.Sequential([
        keras.Input((6, 6, 2), dtype="float64"), layers.Conv2D(3, 3, activation="tanh", dtype="float64"),
        layers.LayerNormalization(dtype="float64"), layers.DepthwiseConv2D(2, activation="gelu", dtype="float64"),
        layers.Flatten(dtype="float64"), layers.Dense(3, "softmax", dtype="float64"),
    ])  # fmt: skip
    x, y = np.random.default_rng(0).normal(size=(6, 6, 6, 2)), np.arange(6) % 3
    fitted = Influence.compile(model, method=GradientSimilarity(), engine=engine).fit((x, y))
    found = fitted.perturbation((x[:2], y[:2]), (x[2:5], y[2:5]))

    def gradient(x: Any, y: Any) -> Any:
        with tf.GradientTape() as tape:
            loss = -tf.math.log(model(x[None], training=False)[0, y])
        return tf.concat([tf.reshape(part, [-1]) for part in tape.gradient(loss, model.trainable_variables)], 0)

    for t in range(2):
        own = gradient(tf.constant(x[t]), y[t])
        for j in range(3):
            moving = tf.constant(x[2 + j])
            with tf.GradientTape() as tape:
                tape.watch(moving)
                product = tf.tensordot(own, gradient(moving, y[2 + j]), 1)
            wanted = tape.gradient(product, moving).numpy()
            np.testing.assert_allclose(found[t, j], wanted, atol=1e-9 * abs(wanted).max())

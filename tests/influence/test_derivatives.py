"""The derivative of each sample towards every weight: equal to the frameworks' own, in float64, for many operations."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from explainers.errors import UnsupportedOperation
from explainers.influence import GradientSimilarity, Influence

from .naive import keras_derivatives, torch_derivatives

pytestmark = pytest.mark.usefixtures("doubles")
RNG = np.random.default_rng(0)


def cross_entropy(f: Any, y: Any) -> Any:
    return F.cross_entropy(f.reshape(-1, f.shape[-1]), y.reshape(-1), reduction="none")


class Attention(nn.Module):
    """Tokens with learnt positions, an encoder, and a head with the embedding's weights."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.place = nn.Embedding(10, 8), nn.Parameter(torch.randn(5, 8))
        self.encoder = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True, dropout=0.0)
        self.head = nn.Linear(8, 10, bias=False)
        self.head.weight = self.embed.weight

    def forward(self, ids: Any) -> Any:
        return self.head(self.encoder(self.embed(ids) + self.place))


class Recurrent(nn.Module):
    def __init__(self, kind: Any) -> None:
        super().__init__()
        self.layer, self.slope, self.head = kind(3, 4, batch_first=True), nn.PReLU(4), nn.Linear(4, 3)

    def forward(self, x: Any) -> Any:
        return self.head(self.slope(self.layer(x)[0][:, -1]))


class Odd(nn.Module):
    """Weights that are transposed, scaled, cut, masked and used twice, and a bias that is added by hand."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Parameter(torch.randn(6, 6)), nn.Parameter(torch.randn(6))
        self.scale, self.shared = nn.Parameter(torch.randn(1)), nn.Linear(6, 6)
        self.head = nn.Linear(6, 3)

    def forward(self, x: Any) -> Any:
        x = torch.tanh(x @ self.a.t() + self.b)
        x = self.shared(torch.tanh(self.shared(x) * self.scale)) / (1 + self.b**2)
        return self.head(x)


class Made(nn.Module):
    """Weights that are made of others: positions by number, parts of a table, a mask, a norm of weights."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.place, self.parts = nn.Embedding(10, 8), nn.Embedding(7, 8), nn.Parameter(torch.randn(12, 8))
        self.attention, self.mask = nn.MultiheadAttention(8, 2, batch_first=True), nn.Parameter(torch.randn(8, 8))
        self.head = nn.utils.parametrizations.weight_norm(nn.Linear(8, 10))

    def forward(self, ids: Any) -> Any:
        x = self.embed(ids) + self.place(torch.arange(5)) + torch.cat([self.parts[2:4], self.parts[5:8]])
        x = x + self.attention(x, x, x)[0]
        return self.head(x @ torch.tril(self.mask) @ torch.linalg.inv(self.mask + 9 * torch.eye(8)))


class Vision(nn.Module):
    """Tokens of classes, repeated for every sample in three ways, before those of patches."""

    def __init__(self) -> None:
        super().__init__()
        self.patch, self.head = nn.Conv2d(2, 8, 3, stride=3), nn.Linear(8, 3)
        self.cls, self.register, self.last = (nn.Parameter(torch.randn(*shape)) for shape in ((1, 1, 8), (2, 8), (8,)))
        self.encoder = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True, dropout=0.0)

    def forward(self, x: Any) -> Any:
        patches, count = self.patch(x).flatten(2).transpose(1, 2), x.shape[0]
        tokens = self.cls.expand(count, -1, -1), self.register.repeat(count, 1, 1), patches
        last = self.last.expand(count, 1, 8)
        x = self.encoder(torch.cat([*tokens, last], 1))
        return self.head(x[:, 0] * self.cls.expand(count, 3, 8).sum(1) + x[:, -1])


class OnlyRecurrent(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.LSTM(3, 4, batch_first=True)

    def forward(self, x: Any) -> Any:
        return self.layer(x)[0][:, -1]


def images(*shape: int) -> tuple[Any, Any]:
    return torch.randn(12, *shape), torch.from_numpy(RNG.integers(0, 3, 12))


def lazily(model: nn.Module, x: Any) -> nn.Module:
    model(x[:2])
    return model


VECTORS = torch.randn(12, 6, dtype=torch.float64), torch.from_numpy(RNG.integers(0, 3, 12))
IDS = torch.from_numpy(RNG.integers(0, 10, (12, 5))), torch.from_numpy(RNG.integers(0, 10, (12, 5)))
SERIES = torch.randn(12, 5, 3, dtype=torch.float64), torch.from_numpy(RNG.integers(0, 3, 12))
TOKENS = torch.from_numpy(RNG.integers(0, 7, (12, 5)))
TORCH: dict[str, Any] = {
    "dense": lambda: (nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3)), *VECTORS),
    "no bias": lambda: (nn.Sequential(nn.Linear(6, 8, bias=False), nn.Tanh(), nn.Linear(8, 3, bias=False)), *VECTORS),
    "odd": lambda: (Odd(), *VECTORS),
    "conv2d": lambda: conv2d(),
    "conv1d": lambda: series_conv(),
    "conv3d": lambda: conv3d(),
    "vision": lambda: (Vision(), *images(2, 6, 6)),
    "attention": lambda: (Attention(), *IDS),
    "made": lambda: (Made(), *IDS),
    "only recurrent": lambda: (OnlyRecurrent(), *SERIES),
    "lstm": lambda: (Recurrent(nn.LSTM), *SERIES),
    "gru": lambda: (Recurrent(nn.GRU), *SERIES),
    "tokens": lambda: (nn.Sequential(nn.Linear(3, 4), nn.GELU(), nn.LayerNorm(4), nn.Linear(4, 7)), SERIES[0], TOKENS),
}  # fmt: skip


def conv2d() -> tuple[Any, ...]:
    x, y = images(2, 7, 7)
    model = nn.Sequential(
        nn.Conv2d(2, 4, 3, stride=2, padding=1, groups=2), nn.BatchNorm2d(4), nn.ReLU(),
        nn.ConvTranspose2d(4, 2, 3, stride=2, output_padding=1, groups=2), nn.GroupNorm(2, 2),
        nn.Conv2d(2, 3, 3, dilation=2, padding=(1, 2)), nn.GELU(), nn.Flatten(), nn.LazyLinear(3),
    )  # fmt: skip
    model(x)  # running statistics other than 0 and 1
    return model, x, y


def series_conv() -> tuple[Any, ...]:
    x, y = images(3, 9)
    layers = nn.Conv1d(3, 4, 3, padding="same", dilation=2), nn.Conv1d(4, 4, 2, stride=2, groups=4)
    return lazily(nn.Sequential(layers[0], nn.ReLU(), layers[1], nn.Flatten(), nn.LazyLinear(3)), x), x, y


def conv3d() -> tuple[Any, ...]:
    x, y = images(1, 4, 5, 4)
    return (
        lazily(nn.Sequential(nn.Conv3d(1, 2, 2, stride=(1, 2, 1)), nn.Tanh(), nn.Flatten(), nn.LazyLinear(3)), x),
        x,
        y,
    )


def assert_products(found: Any, derivatives: Any) -> None:
    wanted = derivatives[:5] @ derivatives.T
    np.testing.assert_allclose(found, wanted, atol=1e-12 * abs(wanted).max())


@pytest.mark.parametrize("name", TORCH)
def test_torch(name: str) -> None:
    model, x, y = TORCH[name]()
    model.eval()
    compiled = Influence.compile(model, "cross_entropy", GradientSimilarity(), inputs=x[:2])
    assert compiled.coverage.share == 1, str(compiled.coverage)
    fitted = compiled.fit((x, y))
    wanted = torch_derivatives(model, x, y, cross_entropy)
    assert_products(fitted((x[:5], y[:5])), wanted)
    np.testing.assert_allclose(fitted.self_influence(), (wanted**2).sum(1), rtol=1e-12)
    np.testing.assert_allclose(
        fitted.losses((x, y)), [cross_entropy(model(x[i : i + 1]), y[i : i + 1]).sum().item() for i in range(12)]
    )


def test_batches_do_not_matter() -> None:
    model, x, y = TORCH["conv2d"]()
    model.eval()
    results = [
        Influence.compile(model, method="ekfac", inputs=x[:2], batch_size=size).fit((x, y))((x[:5], y[:5]))
        for size in (1, 3, 5, None)
    ]
    for found in results[1:]:
        np.testing.assert_allclose(found, results[0], atol=1e-9 * abs(results[0]).max())


def test_what_cannot_be_told_apart_is_listed() -> None:
    class Folded(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.slope, self.head = nn.Linear(6, 4), nn.PReLU(2), nn.Linear(4, 3)
            self.unused = nn.Linear(2, 2)

        def forward(self, x: Any) -> Any:
            return self.head(self.slope(self.first(x).reshape(-1, 2)).reshape(-1, 4))

    x, y = VECTORS
    model = Folded().eval()
    compiled = Influence.compile(model, method=GradientSimilarity(), inputs=x[:2])
    rules = {row.names: row.rule for row in compiled.coverage}
    assert rules["first.weight + first.bias"] == "dense"
    assert rules["unused.weight"] == "unused"
    assert 0.5 < compiled.coverage.share < 1
    (opaque,) = (row for row in compiled.coverage if row.rule == "none")
    assert (opaque.names, opaque.entries) == ("slope.weight", 2)
    assert "folded into an axis of aten.prelu" in opaque.reason
    model.slope.requires_grad_(False)
    assert_products(compiled.fit((x, y))((x[:5], y[:5])), torch_derivatives(model, x, y, cross_entropy))


def test_frozen_weights_and_patterns() -> None:
    model = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3)).eval()
    model[0].requires_grad_(False)
    x, y = VECTORS
    wanted = torch_derivatives(model, x, y, cross_entropy)
    by_default = Influence.compile(model, method=GradientSimilarity(), inputs=x[:2])
    assert [row.reason for row in by_default.coverage if row.rule == "left out"] == ["not trained"] * 2
    assert_products(by_default.fit((x, y))((x[:5], y[:5])), wanted)
    named = Influence.compile(model, method=GradientSimilarity(), inputs=x[:2], wrt="2")
    assert_products(named.fit((x, y))((x[:5], y[:5])), wanted)
    model.requires_grad_(False)
    with pytest.raises(UnsupportedOperation, match="all are frozen"):
        Influence.compile(model, inputs=x[:2])


def test_losses() -> None:
    x, _ = VECTORS
    model = nn.Sequential(nn.Linear(6, 5), nn.Tanh(), nn.Linear(5, 3)).eval()
    reals = torch.randn(12, 3)
    several = (
        ("squared_error", reals, lambda f, y: 0.5 * ((f - y) ** 2).sum(-1)),
        (
            "binary_cross_entropy",
            (reals > 0).double(),
            lambda f, y: F.binary_cross_entropy_with_logits(f, y, reduction="none").sum(-1),
        ),
    )
    for name, y, plain in several:
        wanted = torch_derivatives(model, x, y, plain)
        for loss in (name, plain):
            compiled = Influence.compile(model, loss, GradientSimilarity(), inputs=x[:2], targets=y[:2])
            fitted = compiled.fit((x, y))
            assert_products(fitted((x[:5], y[:5])), wanted)
            np.testing.assert_allclose(fitted.losses((x, y)), plain(model(x), y).detach().numpy())


def test_tokens_that_do_not_count() -> None:
    model, x, y = TORCH["tokens"]()
    y = y.clone()
    y[:, 3:] = -100
    wanted = torch_derivatives(model.eval(), x, y, cross_entropy)
    fitted = Influence.compile(model, method=GradientSimilarity(), inputs=x[:2]).fit((x, y))
    assert_products(fitted((x[:5], y[:5])), wanted)


def keras_model(name: str) -> tuple[Any, Any, Any]:
    import keras
    from keras import layers as L

    keras.utils.set_random_seed(0)
    y = RNG.integers(0, 3, 12)
    if name == "dense":
        return (
            keras.Sequential([keras.Input((6,)), L.Dense(8, activation="relu"), L.Dense(3)]),
            RNG.normal(size=(12, 6)),
            y,
        )
    if name == "conv":
        layers = [
            L.Conv2D(4, 3, strides=2, padding="same"), L.BatchNormalization(), L.Activation("gelu"),
            L.DepthwiseConv2D(3, depth_multiplier=2), L.Conv2DTranspose(2, 3, strides=2), L.PReLU(),
            L.Conv2D(3, 2, dilation_rate=2), L.GroupNormalization(3), L.Flatten(), L.Dense(3),
        ]  # fmt: skip
        return keras.Sequential([keras.Input((8, 8, 2)), *layers]), RNG.normal(size=(12, 8, 8, 2)), y
    if name == "attention":
        ids = keras.Input((5,), dtype="int32")
        embedded = L.Embedding(10, 8)(ids)
        hidden = L.LayerNormalization()(embedded + L.MultiHeadAttention(2, 4)(embedded, embedded))
        model = keras.Model(ids, L.Dense(3)(L.Dense(6, activation="gelu")(hidden)))
        return model, RNG.integers(0, 10, (12, 5)).astype("int32"), RNG.integers(0, 3, (12, 5))
    if name == "class token":

        class Token(L.Layer):  # type: ignore[misc]
            """A learnt vector before the others, of every sample in two ways."""

            def build(self, shape: Any) -> None:
                self.token = self.add_weight(shape=(1, 1, shape[-1]), initializer="normal")

            def call(self, x: Any) -> Any:
                count = keras.ops.shape(x)[0]
                first = keras.ops.broadcast_to(self.token, (count, 1, x.shape[-1]))
                return keras.ops.concatenate([first, x, keras.ops.tile(self.token, (count, 1, 1))], 1)

        layers = [Token(), L.Dense(6, activation="gelu"), L.Flatten(), L.Dense(3)]
        return keras.Sequential([keras.Input((4, 3)), *layers]), RNG.normal(size=(12, 4, 3)), y
    layers = [L.Conv1D(4, 3, padding="causal", dilation_rate=2), L.GRU(4), L.Dense(3)]
    return keras.Sequential([keras.Input((7, 3)), *layers]), RNG.normal(size=(12, 7, 3)), y


@pytest.mark.parametrize("name", ["dense", "conv", "attention", "class token", "gru"])
def test_keras(name: str) -> None:
    keras = pytest.importorskip("keras")
    import tensorflow as tf

    before, policy = keras.config.floatx(), keras.config.dtype_policy()
    keras.config.set_floatx("float64")
    keras.config.set_dtype_policy("float64")
    try:
        model, x, y = keras_model(name)
        compiled = Influence.compile(model, "cross_entropy", GradientSimilarity())
        fitted = compiled.fit((x, y))
        found, own = fitted((x[:5], y[:5])), fitted.self_influence()
        wanted = keras_derivatives(model, x, y, lambda f, y: tf.nn.sparse_softmax_cross_entropy_with_logits(y, f))
    finally:
        keras.config.set_floatx(before)
        keras.config.set_dtype_policy(policy)
    assert not [row for row in compiled.coverage if row.rule in ("none", "unused")], str(compiled.coverage)
    assert_products(found, wanted)
    np.testing.assert_allclose(own, (wanted**2).sum(1), rtol=1e-12)

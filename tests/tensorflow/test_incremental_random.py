"""Rows on windows equal whole rows in Keras networks of layers drawn at random, whatever their strides and borders."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers

from explainers import Explainer, methods
from explainers.program import incremental, regions
from tests.contract.models_keras import in_dtype

from .test_incremental import drawn

pytestmark = pytest.mark.slow
CHANNELS, LARGEST = 4, 2500  # places of an image
Part = Callable[[Any], Any]


def convolution(rng: random.Random) -> Part:
    pick, kernel = rng.choice, (rng.choice([1, 2, 3, 5]), rng.choice([1, 2, 3]))
    given: dict[str, Any] = {"padding": pick(["same", "valid"]), "use_bias": pick([True, False])}
    if pick([True, False]):
        given["dilation_rate"] = (pick([1, 2, 3]), pick([1, 2]))
    else:
        given["strides"] = pick([1, 2, (1, 2), (3, 1)])
    return layers.Conv2D(CHANNELS, kernel, **given)


def depthwise(rng: random.Random) -> Part:
    given: dict[str, Any] = {"dilation_rate": 2} if rng.random() < 0.5 else {"strides": rng.choice([1, 2])}
    kernel, padding = rng.choice([1, 2, 3]), rng.choice(["same", "valid"])
    kinds = [layers.DepthwiseConv2D(kernel, padding=padding, **given)]
    kinds.append(layers.SeparableConv2D(CHANNELS, kernel, padding=padding, **given))
    return rng.choice(kinds)


def transposed(rng: random.Random) -> Part:
    kernel, stride = (rng.choice([1, 2, 3]), rng.choice([2, 3])), rng.choice([1, 2, 3, (1, 2), (3, 2)])
    return layers.Conv2DTranspose(CHANNELS, kernel, stride, padding=rng.choice(["same", "valid"]))


def pool(rng: random.Random) -> Part:
    kind = rng.choice([layers.MaxPooling2D, layers.MaxPooling2D, layers.AveragePooling2D])
    return kind(rng.choice([2, 3, (1, 3)]), rng.choice([1, 2, 3]), padding=rng.choice(["same", "valid"]))


def moved(rng: random.Random) -> Part:
    start, stop, step = rng.choice([0, 1]), rng.choice([-1, None]), rng.choice([1, 2])
    times = rng.choice([1, 2, 3])
    return rng.choice([
        lambda x: x[:, start:stop, ::step],
        lambda x: tf.concat([x[..., 2:], x[..., :2]], -1),
        layers.Permute((2, 1, 3)),
        layers.ZeroPadding2D(((rng.choice([0, 1, 2]), 1), (0, rng.choice([0, 2])))),
        layers.Cropping2D(((rng.choice([0, 1, 2]), 1), (0, rng.choice([0, 2])))),
        layers.UpSampling2D(rng.choice([2, (1, 2), (3, 1)])),
        lambda x: tf.compat.v1.image.resize_nearest_neighbor(x, [x.shape[1] * times, x.shape[2] * 2]),
        lambda x: tf.reshape(tf.stack(tf.unstack(x, axis=3)[::-1], -1), [-1, *x.shape[1:]]),
        lambda x: tf.roll(tf.gather(x, [1, 0, 3, 2], axis=3), 1, 3),
    ])  # fmt: skip


def pointwise(rng: random.Random) -> Part:
    return rng.choice([
        tf.nn.relu, keras.activations.gelu, tf.nn.softmax, layers.BatchNormalization(), layers.LayerNormalization(),
        layers.PReLU(), layers.Dense(CHANNELS), lambda x: x * tf.sigmoid(x) + tf.abs(x),
        lambda x: tf.nn.l2_normalize(x, -1), lambda x: x * tf.reduce_max(x, -1, keepdims=True),
        lambda x: tf.einsum("bhwc,cd->bhwd", x, tf.constant(np.arange(16.0).reshape(4, 4) / 9)),
    ])  # fmt: skip


def over_all(rng: random.Random) -> Part:
    squeeze = layers.Dense(CHANNELS, activation="sigmoid")
    return rng.choice([
        lambda x: x + tf.reduce_mean(x, (1, 2), keepdims=True) - tf.reduce_mean(x, 2, keepdims=True),
        layers.GroupNormalization(2), lambda x: x * squeeze(tf.reduce_mean(x, (1, 2)))[:, None, None],
        lambda x: tf.pad(x, [[0, 0], [1, 1], [1, 0], [0, 0]], "SYMMETRIC"),
        lambda x: tf.reverse(x, [1]), lambda x: tf.cumsum(x, 2),
    ])  # fmt: skip


def joined(rng: random.Random) -> Part:
    """Two branches, added where both have a place."""
    first, second = layer(rng, 0.0), layer(rng, 0.0)

    def both(x: Any) -> Any:
        a, b = first(x), second(x)
        height, width = min(a.shape[1], b.shape[1]), min(a.shape[2], b.shape[2])
        return a[:, :height, :width] + b[:, :height, :width]

    return both


def layer(rng: random.Random, nested: float = 1.0) -> Part:
    kinds = [convolution, depthwise, transposed, pool, moved, pointwise, over_all, joined]
    return rng.choices(kinds, [5, 2, 1, 2, 4, 3, 1, 2 * nested])[0](rng)


class Network(keras.Model):
    """Layers that fit one another, and one of several heads."""

    def __init__(self, rng: random.Random, x: Any) -> None:
        super().__init__()
        self.parts: list[Any] = []
        for _ in range(rng.randrange(2, 7)):
            found = layer(rng)
            try:
                y = found(x)
            except (ValueError, tf.errors.OpError):  # smaller than its window
                continue
            if y.shape.rank == 4 and min(y.shape) > 0 and y.shape[1] * y.shape[2] <= LARGEST and y.shape[3] == CHANNELS:
                self.parts.append(found)
                x = y
        self.last = layers.Dense(2)
        self.pool = rng.choice([
            lambda x: tf.reduce_mean(tf.tanh(x), (1, 2)), layers.Flatten(), layers.GlobalMaxPooling2D(),
            lambda x: tf.reduce_sum(x, (1, 3)),
        ])  # fmt: skip

    def call(self, x: Any) -> Any:
        for part in self.parts:
            x = part(x)
        return self.last(self.pool(x))


@pytest.mark.parametrize("seed", range(60))
def test_random_networks(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    rng = random.Random(seed)
    monkeypatch.setattr(incremental, "GAIN", 0.0)
    monkeypatch.setattr(regions, "MOST", rng.choice([0.5, 1.0]))
    size = (rng.choice([9, 13, 16]), rng.choice([8, 11, 16]))
    x = np.random.default_rng(seed).normal(size=(2, *size, CHANNELS))

    def make() -> Any:
        model = Network(rng, tf.constant(x))
        model(tf.constant(x))
        return model

    model = drawn(in_dtype(make, "float64"), seed)
    window = rng.randrange(1, 4), rng.randrange(1, 4), rng.choice([CHANNELS, 2])
    occlusion = methods.Occlusion(window, tuple(rng.randrange(1, size + 1) for size in window))
    method: Any = rng.choice([occlusion, occlusion, "feature_ablation"])
    found, whole = (
        np.asarray(Explainer.compile(model, method, inputs=x, incremental=given)(x, target="max"))
        for given in ("auto", False)
    )
    scale = max(1e-3, float(abs(whole).max()), float(abs(model(x)).numpy().max()))
    np.testing.assert_allclose(found, whole, atol=1e-11 * scale, rtol=0)

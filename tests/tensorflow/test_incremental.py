"""Keras and TensorFlow models: rows computed on windows equal whole rows, for every kind of operation and of call."""

from __future__ import annotations

import io
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers

from explainers import Explainer, References, methods
from explainers.program import incremental, regions
from tests.contract import zoo
from tests.contract.models_keras import in_dtype

SIZE = 16
TILES = methods.Occlusion((3, 2, 2), (3, 2, 2))


@pytest.fixture(autouse=True)
def always(monkeypatch: pytest.MonkeyPatch) -> None:
    """Small models, too, where it does not pay."""
    monkeypatch.setattr(incremental, "GAIN", 0.0)
    monkeypatch.setattr(regions, "MOST", 1.0)


def drawn(model: Any, seed: int = 0) -> Any:
    """The model with random weights, norms included."""
    rng = np.random.default_rng(seed)
    for weight in model.weights if isinstance(model, keras.Model) else model.variables:
        name, shape = getattr(weight, "path", weight.name), tuple(weight.shape)
        fan = max(math.prod(shape[:-1]), 1)
        array = rng.uniform(0.5, 2, shape) if "variance" in name else rng.normal(size=shape) * (1.5 / math.sqrt(fan))
        weight.assign(array)
    return model


def net(*parts: Any, shape: Sequence[int] = (SIZE, SIZE, 2), head: bool = True) -> Any:
    """Layers and functions one after the other, in float64; a mean over all places and a dense layer behind them."""

    def make() -> Any:
        given = keras.Input(tuple(shape))
        x = given
        for part in [part() if isinstance(part, Late) else part for part in parts]:
            x = part(x)
        if head:
            x = keras.ops.tanh(x)
            for _ in range(len(x.shape) - 2):
                x = keras.ops.mean(x, 1)
            x = layers.Dense(3)(x)
        return keras.Model(given, x)

    return drawn(in_dtype(make, "float64"))


class Late:
    """A layer that is made where the model is."""

    def __init__(self, kind: Callable[..., Any], *args: Any, **options: Any) -> None:
        self.made = lambda: kind(*args, **options)

    def __call__(self) -> Any:
        return self.made()


def conv(*args: Any, **options: Any) -> Late:
    return Late(layers.Conv2D, *args, **options)


def raw(function: Callable[[Any], Any]) -> Late:
    return Late(layers.Lambda, function)


class Residual(layers.Layer):
    """x joined with a branch whose windows are wider."""

    def __init__(self, join: Callable[[Any, Any], Any], **options: Any) -> None:
        super().__init__()
        self.branch, self.join = layers.Conv2D(options.pop("filters", 2), 3, **options), join

    def call(self, x: Any) -> Any:
        return self.join(x, self.branch(x))


class Places(layers.Layer):
    """A learnt number for each place, another for each channel, and a mask."""

    def build(self, shape: Any) -> None:
        self.places = self.add_weight(shape=(*shape[1:-1], 1))
        self.channels = self.add_weight(shape=(shape[-1],))
        self.mask = np.random.default_rng(0).random((1, *shape[1:-1], 1)) > 0.2

    def call(self, x: Any) -> Any:
        return tf.where(self.mask, x * self.channels + self.places, -tf.abs(x))


class OwnGradient(layers.Layer):
    def call(self, x: Any) -> Any:
        @tf.custom_gradient
        def doubled(x: Any) -> Any:
            return tf.tanh(x) * 2, lambda message: message

        return doubled(x)


def rows_of_batch(x: Any) -> Any:
    """Reshaped by sizes that are computed."""
    sizes = tf.shape(x)
    return tf.reshape(x, [sizes[0], sizes[1], -1, 2, sizes[3] // 2])


def nearest(size: Sequence[int], **options: Any) -> Late:
    return raw(lambda x: tf.compat.v1.image.resize_nearest_neighbor(x, size, **options))


def flipped(x: Any) -> Any:
    return tf.concat([x[..., 3:], tf.reverse(x[..., :3], [-1])], -1)


IMAGES: dict[str, tuple[Any, ...]] = {
    "strides that skip": (conv(6, 2, strides=3), Late(layers.ReLU), conv(6, 1, strides=2)),
    "same": (conv(6, (4, 3), padding="same"), Late(layers.Activation, "silu"), conv(6, 5, padding="same")),
    "same with strides": (conv(6, (4, 3), padding="same", strides=(3, 2)), conv(6, (2, 5), 2, padding="same")),
    "grouped": (conv(6, 3, groups=2, use_bias=False), conv(6, (1, 3), groups=3, padding="same", use_bias=False)),
    "dilated": (conv(6, 3, dilation_rate=2), conv(6, (2, 3), dilation_rate=(1, 3), padding="same")),
    "dilated with a wide reach": (conv(6, 3, dilation_rate=(7, 5), padding="same"), conv(6, 2, dilation_rate=(4, 1))),
    "explicit padding": (
        raw(lambda x: tf.nn.conv2d(x, tf.ones((3, 2, 2, 6), x.dtype) / 5, (2, 1), [[0, 0], [2, 1], [0, 3], [0, 0]])),
        conv(6, 3),
    ),
    "dilated in one operation": (
        raw(
            lambda x: tf.raw_ops.Conv2D(
                input=x,
                filter=tf.ones((3, 3, 2, 6), x.dtype) / 5,
                strides=[1] * 4,
                padding="SAME",
                dilations=[1, 2, 3, 1],
            )
        ),
        conv(6, 3),
    ),
    "depthwise": (
        Late(layers.DepthwiseConv2D, 3, depth_multiplier=3),
        Late(layers.DepthwiseConv2D, 3, padding="same", strides=2),
        Late(layers.SeparableConv2D, 6, 2, padding="same"),
    ),
    "depthwise dilated": (
        Late(layers.DepthwiseConv2D, 3, dilation_rate=2, depth_multiplier=3),
        Late(layers.DepthwiseConv2D, (1, 3), dilation_rate=3, padding="same"),
    ),
    "max pools": (conv(6, 3), Late(layers.MaxPooling2D, 2, 1), Late(layers.MaxPooling2D, 3, 2, padding="same")),
    "padded pool of negative numbers": (
        conv(6, 3),
        raw(lambda x: -tf.exp(x)),
        Late(layers.MaxPooling2D, 3, 2, padding="same"),
    ),
    "average pools": (conv(6, 3), Late(layers.AveragePooling2D, 2), Late(layers.AveragePooling2D, 2, 1)),
    "average pools that pad nothing": (conv(6, 3), Late(layers.AveragePooling2D, 2, padding="same")),
    "average pools of what is there": (conv(6, 3), Late(layers.AveragePooling2D, 3, 1, padding="same")),
    "batch norm": (conv(6, 3), Late(layers.BatchNormalization), Late(layers.Dropout, 0.5), Late(layers.PReLU)),
    "batch norm in one operation": (
        conv(6, 3),
        raw(
            lambda x: tf.raw_ops.FusedBatchNormV3(
                x=tf.cast(x, tf.float32),
                scale=[1.0, 2, 3, 4, 5, 6],
                offset=[0.1] * 6,
                mean=[0.2] * 6,
                variance=[1.0, 2, 1, 2, 3, 1],
                is_training=False,
            )[0]
        ),
        raw(lambda x: tf.cast(x, tf.float64)),
        conv(6, 3),
    ),
    "residual": (conv(2, 3, padding="same"), Late(Residual, tf.add, padding="same"), conv(6, 3)),
    "residual with a stride": (
        Late(Residual, lambda x, y: x[:, ::2, 1::2] * y[:, ::2, 1::2], padding="same"),
        conv(6, 2),
    ),
    "concatenated": (Late(Residual, lambda x, y: tf.concat([x, y, x], -1), padding="same"), conv(6, 3)),
    "concatenated places": (conv(6, 3), raw(lambda x: tf.concat([x, x[:, :2]], 1)), conv(6, 3)),
    "split": (
        conv(6, 3),
        raw(lambda x: tf.concat(tf.split(x, [1, 2, 3], -1)[::-1], -1)),
        raw(lambda x: tf.concat(tf.split(x, 3, 3)[::-1], 3)),
        raw(lambda x: sum(tf.unstack(x, axis=3))[..., tf.newaxis]),
    ),
    "slices and padding": (
        raw(lambda x: tf.pad(x, [[0, 0], [0, 2], [3, 0], [0, 0]], constant_values=0.7)[:, 1:-1, ::2]),
        conv(6, 3),
        raw(lambda x: tf.slice(x, [0, 1, 0, 0], [-1, 4, -1, 6])),
        raw(lambda x: x[..., -2:-4, :] if x.shape[1] == 0 else x[:, 2]),
    ),
    "cropped": (conv(6, 3), Late(layers.Cropping2D, ((1, 0), (0, 2))), Late(layers.ZeroPadding2D, 1), conv(6, 3)),
    "mirrored": (conv(6, 3), raw(lambda x: tf.pad(x, [[0, 0], [1, 1], [1, 1], [0, 0]], "REFLECT")), conv(6, 3)),
    "upsampled": (conv(6, 3, strides=2), Late(layers.UpSampling2D, (2, 3)), conv(6, 3)),
    "resized": (conv(6, 3, strides=2), nearest((14, 21)), nearest((28, 21), half_pixel_centers=True), conv(6, 3)),
    "resized unevenly": (conv(6, 3), nearest((21, 30)), conv(6, 3)),
    "resized between corners": (conv(6, 3), nearest((42, 42), align_corners=True), conv(6, 3)),
    "bilinear": (conv(6, 3), Late(layers.UpSampling2D, 2, interpolation="bilinear"), conv(6, 3)),
    "transposed": (
        Late(layers.Conv2DTranspose, 6, 3, 2, padding="same"),
        Late(layers.ReLU),
        Late(layers.Conv2DTranspose, 6, 2),
    ),
    "transposed with gaps": (
        Late(layers.Conv2DTranspose, 6, 2, (3, 1)),
        Late(layers.Conv2DTranspose, 6, 1, 4),
        Late(layers.Conv2DTranspose, 6, 4, 3, output_padding=1),
        conv(6, 2, strides=2),
    ),
    "depthwise transposed": (
        raw(
            lambda x: tf.raw_ops.DepthwiseConv2dNativeBackpropInput(
                input_sizes=[tf.shape(x)[0], 2 * SIZE, 2 * SIZE, 2],
                filter=tf.constant(np.arange(18.0).reshape(3, 3, 2, 1)),
                out_backprop=x,
                strides=[1, 2, 2, 1],
                padding="SAME",
            )
        ),
        conv(6, 3),
    ),
    "places": (conv(6, 3, padding="same"), Late(Places), conv(6, 3)),
    "norm of channels": (conv(6, 3), Late(layers.LayerNormalization), conv(6, 3), raw(tf.nn.softmax)),
    "norm over places": (conv(6, 3), Late(layers.GroupNormalization, 2), conv(6, 3)),
    "norm over a row": (conv(6, 3), Late(layers.LayerNormalization, axis=(2, 3)), conv(6, 3)),
    "length of channels": (conv(6, 3), raw(lambda x: tf.nn.l2_normalize(x, -1)), Late(layers.UnitNormalization)),
    "largest channel": (
        conv(6, 3),
        raw(lambda x: x * tf.reduce_max(x, -1, keepdims=True) - tf.reduce_min(x, 3)[..., None]),
    ),
    "running sums of channels": (conv(6, 3), raw(lambda x: tf.roll(tf.cumsum(x, -1), [1], [3])), raw(flipped)),
    "attention": (
        conv(4, 3, strides=2),
        Late(layers.Reshape, (-1, 4)),
        raw(lambda x: x + tf.nn.softmax(tf.matmul(x, x, transpose_b=True)) @ x),
        Late(layers.Dense, 3),
    ),
    "mean over rows": (
        conv(6, 3),
        raw(lambda x: tf.reduce_mean(x, 1) + tf.reduce_sum(x, -3)),
        Late(layers.Conv1D, 6, 3),
    ),
    "mean of channels": (conv(6, 3), raw(lambda x: x - tf.reduce_mean(x, 3, keepdims=True)), conv(6, 3)),
    "positive places counted": (
        conv(6, 3),
        raw(lambda x: x * tf.cast(tf.reduce_sum(tf.cast(x > 0, tf.int32), 1, keepdims=True), x.dtype) / 9),
    ),
    "bytes summed": (
        conv(6, 3),
        raw(lambda x: x * tf.cast(tf.reduce_sum(tf.cast(tf.abs(20 * x), tf.uint8), 2, keepdims=True), x.dtype) / 99),
    ),
    "whole numbers averaged": (
        conv(6, 3),
        raw(lambda x: x * tf.cast(tf.reduce_mean(tf.cast(9 * x, tf.int32), 2, keepdims=True), x.dtype) / 9),
    ),
    "maximum": (conv(6, 3), Late(layers.GlobalMaxPooling2D)),
    "flat": (conv(6, 3), Late(layers.Flatten), Late(layers.Dense, 6)),
    "reshaped": (
        conv(6, 3),
        raw(lambda x: tf.transpose(tf.reshape(x, [-1, SIZE - 2, SIZE - 2, 2, 3]), [0, 1, 2, 4, 3])),
        Late(layers.Reshape, (SIZE - 2, SIZE - 2, 6)),
        conv(6, 3),
        raw(rows_of_batch),
        raw(lambda x: x[:, :, :, 1]),
    ),
    "one place at a time": (
        Late(layers.Dense, 6, activation="gelu"),
        Late(layers.Permute, (2, 1, 3)),
        Late(layers.EinsumDense, "abcd,de->abce", (None, None, 6)),
        Late(layers.Dense, 4),
        raw(lambda x: tf.matmul(x, tf.constant(np.arange(16.0).reshape(4, 4)))),
    ),
    "picked": (
        raw(lambda x: tf.gather(tf.gather(x, [5, 4, 4, 9, 0], axis=1), 0, axis=3)),
        raw(lambda x: x[:, :, ::3, None]),
    ),
    "tiled": (
        conv(6, 3),
        raw(lambda x: tf.tile(x, [1, 1, 1, 2])),
        raw(lambda x: tf.broadcast_to(x[:, :, :, :1], [tf.shape(x)[0], SIZE - 2, SIZE - 2, 4])),
        raw(lambda x: tf.repeat(x, 3, 2)),
    ),
    "own derivative": (conv(6, 3), Late(OwnGradient), conv(6, 3)),
    "sizes that are checked": (
        conv(6, 3),
        raw(lambda x: tf.ensure_shape(x, [None, SIZE - 2, SIZE - 2, 6])),
        conv(6, 3),
    ),
    "channels first": (
        raw(lambda x: tf.transpose(x, [0, 3, 1, 2])),
        raw(lambda x: tf.nn.bias_add(x, [0.5, 2.0], "NCHW")),
        raw(lambda x: tf.transpose(x, [0, 2, 3, 1])),
        conv(6, 3),
    ),
}
WHOLE = {
    "average pools of what is there", "mirrored", "resized unevenly", "resized between corners",
    "bilinear", "norm over places", "attention", "maximum", "flat", "picked",
    "whole numbers averaged",
}  # fmt: skip
HEAD = ("Tanh", "Mean", "MatMul", "BiasAdd", "Const", "Shape", "Pack")


def rules(explain: Explainer) -> set[str]:
    return {row.rule for row in explain.coverage if row.rule != "once per sample"}


def close(got: Any, want: Any, atol: float) -> None:
    got, want = np.asarray(got, np.float64), np.asarray(want, np.float64)
    assert abs(want).max() > 1e-7
    np.testing.assert_allclose(got, want, atol=atol * max(1, abs(want).max()), rtol=0)


def agree(
    model: Any, method: Any, x: Any, atol: float = 1e-11, calls: Any = None, windows: bool = True, **options: Any
) -> Explainer:  # fmt: skip
    """Compile it on windows and whole, compare calls, and return the first."""
    examples = x if isinstance(x, tuple) else (x,)
    explain = Explainer.compile(model, method, inputs=x, **options)
    whole = Explainer.compile(model, method, inputs=x, incremental=False, **options)
    assert rules(whole) == {"forward only"}
    assert ("windows" in rules(explain)) is windows
    for call in calls or ({"target": 1}, {"target": "all"}):
        close(explain(*examples, **call), whole(*examples, **call), atol)
    return explain


def image(count: int = 2, channels: int = 2) -> np.ndarray:
    return np.random.default_rng(1).normal(size=(count, SIZE, SIZE, channels))


@pytest.mark.parametrize("name", IMAGES)
def test_images(name: str) -> None:
    calls = [{"target": 1}, {"target": "all", "batch_size": 13}]
    atol = 1e-6 if "batch norm in one" in name else 1e-11
    explain = agree(net(*IMAGES[name]), TILES, image(), atol, calls=calls)
    inside = {row.rule for row in explain.coverage if row.op not in HEAD and row.rule != "once per sample"}
    assert inside == ({"windows", "whole"} if name in WHOLE else {"windows"})


# --- sequences, volumes, tokens --------------------------------------------------------------


CHANNELS: dict[str, Callable[[Any], Any]] = {
    "bias": lambda x: tf.nn.bias_add(x, [0.5, 2, 3, 4, 5, 6]),
    "bias of channels first": lambda x: tf.transpose(
        tf.nn.bias_add(tf.transpose(x, [0, 3, 1, 2]), [0.5, 2, 3, 4, 5, 6], "NCHW"), [0, 2, 3, 1]
    ),
    "constants": lambda x: x * tf.constant([1.0, 2, 3, 4, 5, 6], x.dtype),
    "running sum": lambda x: tf.cumsum(x, -1),
    "rolled": lambda x: tf.roll(x, [1, 2], [3, 3]),
    "split": lambda x: tf.concat(tf.split(x, 3, -1)[::-1], -1),
    "picked": lambda x: tf.gather(x, [5, 0, 3], axis=-1),
    "padded": lambda x: tf.pad(x, [[0, 0], [0, 0], [0, 0], [2, 1]])[..., 1:8:2],
    "softmax": tf.nn.softmax,
    "largest": lambda x: x + tf.reduce_max(x, -1, keepdims=True),
    "unstacked": lambda x: tf.stack(tf.unstack(x, axis=-1)[1:], -1),
    "product": lambda x: tf.matmul(x, tf.constant(np.arange(24.0).reshape(6, 4), x.dtype)),
    "weights of each channel": lambda x: tf.einsum("bhwc,cd,c->bhwd", x, tf.ones((6, 3), x.dtype), tf.ones(6, x.dtype))
    + tf.einsum("bhwc,c->bhwc", x, tf.constant(np.arange(6.0), x.dtype))[..., :3],
    "norm": lambda x: tf.compat.v1.nn.fused_batch_norm(
        tf.cast(x, tf.float32), [1.0, 2, 3, 4, 5, 6], [0.5] * 6, [0.1, 0.2, 0.3, 0.4, 0.5, 0.6], [1.0, 2, 1, 2, 1, 3],
        is_training=False,
    )[0],
}  # fmt: skip


@pytest.mark.parametrize("name", CHANNELS)
def test_boxes_of_some_channels(name: str) -> None:
    @tf.function(input_signature=[tf.TensorSpec((None, 5, 6, 6), tf.float64)])
    def model(x: Any) -> Any:
        y = tf.nn.relu(CHANNELS[name](x))
        return tf.stack([tf.reduce_sum(y, (1, 2, 3)), tf.reduce_max(y, (1, 2, 3))], 1)

    x = np.random.default_rng(0).normal(size=(2, 5, 6, 6))
    agree(model, methods.Occlusion((2, 3, 2), (1, 2, 1)), x, 1e-5 if name == "norm" else 1e-11)


def test_a_dilated_convolution_with_crops_of_its_own() -> None:
    @tf.function(input_signature=[tf.TensorSpec((None, 24, 3), tf.float64)])
    def model(x: Any) -> Any:
        apart = tf.space_to_batch(x, [2], [[4, 2]])
        y = tf.nn.conv1d(apart, tf.constant(np.arange(18.0).reshape(3, 3, 2)), 1, "VALID")
        return tf.reduce_mean(tf.tanh(tf.batch_to_space(y, [2], [[3, 1]]) / 50), 1)

    explain = agree(model, methods.Occlusion((2, 3), (1, 3)), np.random.default_rng(0).normal(size=(2, 24, 3)))
    assert {row.rule for row in explain.coverage if "SpaceToBatchND" in row.op} == {"windows"}


def one_hot(count: int, length: int) -> np.ndarray:
    return np.eye(4)[np.random.default_rng(3).integers(0, 4, (count, length))]


def sequences(padding: str = "same") -> Any:
    """Dilated convolutions with skip connections, cropped where they do not pad."""

    def make() -> Any:
        given = keras.Input((40, 4))
        x = layers.Conv1D(8, 5, padding="same", activation="relu")(given)
        for i in range(3):
            y = layers.Conv1D(8, 3, padding=padding, dilation_rate=2**i, activation="gelu")(x)
            cut = x.shape[1] - y.shape[1]
            x = layers.Add()([layers.Cropping1D((cut // 2, cut - cut // 2))(x) if padding == "valid" else x, y])
        x = layers.AveragePooling1D(2)(layers.UpSampling1D(3)(layers.MaxPooling1D(2)(x)))
        return keras.Model(given, layers.Dense(2)(layers.GlobalAveragePooling1D()(layers.Dense(5)(x))))

    return drawn(in_dtype(make, "float64"))


@pytest.mark.parametrize("padding", ["same", "valid", "causal"])
def test_sequences(padding: str) -> None:
    explain = agree(sequences(padding), "ism", one_hot(3, 40), calls=[{"target": 1}])
    dilated = {row.rule for row in explain.coverage if "SpaceToBatchND" in row.op}
    assert dilated == {"windows"}


@pytest.mark.parametrize("method", ["feature_ablation", methods.Occlusion((5, 4), (2, 4)), methods.Occlusion((3, 1))])
def test_methods_on_sequences(method: Any) -> None:
    agree(sequences(), method, one_hot(2, 40), calls=[{"target": "all"}])


def test_motifs() -> None:
    """Convolutions, norms, pools and dense layers, as in networks of regulatory sequences."""

    def make() -> Any:
        blocks = []
        for width, kernel, pool in ((12, 7, 3), (8, 5, 2)):
            blocks += [layers.Conv1D(width, kernel, padding="same"), layers.BatchNormalization(), layers.ReLU()]
            blocks += [layers.MaxPooling1D(pool, padding="same")]
        depthwise = [layers.DepthwiseConv1D(3, padding="same"), layers.SeparableConv1D(6, 3), layers.ZeroPadding1D(1)]
        spread = [layers.Conv1DTranspose(5, 4, strides=2, padding="same"), layers.LayerNormalization()]
        return keras.Sequential([keras.Input((60, 4)), *blocks, *depthwise, *spread, layers.Flatten(), layers.Dense(3)])

    agree(drawn(in_dtype(make, "float64")), "ism", one_hot(2, 60), calls=[{"target": 0}])


def test_volumes() -> None:
    def make() -> Any:
        parts = [layers.Conv3D(3, 2, dilation_rate=2), layers.Conv3D(3, 3, strides=2, padding="same")]
        parts += [layers.MaxPooling3D(2, 1), layers.Conv3DTranspose(3, 3, 2), layers.UpSampling3D((1, 2, 1))]
        parts += [layers.AveragePooling3D(2, 1)]
        return keras.Sequential(
            [keras.Input((13, 12, 14, 2)), *parts, layers.GlobalAveragePooling3D(), layers.Dense(3)]
        )

    x = np.random.default_rng(0).normal(size=(1, 13, 12, 14, 2)).astype("float32")
    explain = agree(drawn(in_dtype(make, "float32")), methods.Occlusion((2, 3, 3, 2), (2, 3, 3, 2)), x, 5e-6)
    assert {row.rule for row in explain.coverage if "Conv3D" in row.op} == {"windows"}


def test_tokens() -> None:
    def make() -> Any:
        ids = keras.Input((20,), dtype="int32")
        x = layers.Add()([layers.Embedding(30, 6)(ids), keras.ops.one_hot(ids % 6, 6, dtype="float64")])
        x = keras.ops.tanh(layers.Conv1D(8, 3)(x))
        return keras.Model(ids, layers.Dense(3)(keras.ops.sum(x, 1)))

    ids = np.random.default_rng(0).integers(0, 30, (3, 20)).astype("int32")
    model = drawn(in_dtype(make, "float64"))
    explain = agree(model, "feature_ablation", ids, baseline=0)
    assert {row.rule for row in explain.coverage if row.op in ("GatherV2", "OneHot", "Conv2D")} == {"windows"}
    agree(model, methods.Occlusion(3, 2), ids, baseline=7)


# --- every kind of call ----------------------------------------------------------------------


def residual() -> Any:
    return net(*IMAGES["residual"])


def test_groups_of_any_shape() -> None:
    tiles = np.arange(SIZE)[:, None, None] // 4 * 6 + np.arange(SIZE)[:, None] // 3
    agree(residual(), methods.FeatureAblation(tiles), image())


def test_baselines_of_every_kind() -> None:
    rng = np.random.default_rng(0)
    kinds = [
        0.5,
        rng.normal(size=(SIZE, SIZE, 2)),
        References(rng.normal(size=(3, 1, SIZE, SIZE, 2)), per_sample=True),
        References(rng.normal(size=(4, SIZE, SIZE, 2))),
    ]
    calls = [{"target": [0, 1, 2], "baseline": baseline} for baseline in kinds]
    agree(residual(), methods.Occlusion((3, 3, 2), (3, 3, 2)), image(3), calls=calls)


def test_a_second_input_and_one_that_is_not_attributed() -> None:
    def make() -> Any:
        x, places, each = (keras.Input(shape, name=name) for shape, name in (
            ((SIZE, SIZE, 2), "x"), ((SIZE, SIZE), "places"), ((4,), "each")))  # fmt: skip
        y = layers.Conv2D(4, 3, padding="same")(x) + places[..., None]
        y = keras.ops.relu(y) * each[:, None, None]
        y = keras.ops.mean(layers.Conv2D(4, 3)(y), (1, 2)) + each
        return keras.Model([x, places, each], layers.Dense(2)(y))

    rng = np.random.default_rng(0)
    given = tuple(rng.normal(size=(3, *shape)) for shape in ((SIZE, SIZE, 2), (SIZE, SIZE), (4,)))
    agree(drawn(in_dtype(make, "float64")), methods.Occlusion((3, 3, 2)), given, wrt="x")


def test_layers_and_outputs() -> None:
    model, x = residual(), image()
    first = model.layers[1].name
    agree(model, methods.Occlusion((3, 3, 2), (2, 2, 2)), x, wrt=first)
    agree(model, methods.Occlusion((3, 3, 2)), x, output=first, calls=[{"target": (5, 7, 1)}, {"target": (0, 0, 0)}])


class Plain(tf.Module):
    """Without Keras: sizes are computed, and the filters are variables."""

    def __init__(self) -> None:
        super().__init__()
        rng = np.random.default_rng(0)
        self.first = tf.Variable(rng.normal(size=(3, 3, 2, 4)), dtype=tf.float32)
        self.second = tf.Variable(rng.normal(size=(4, 3)), dtype=tf.float32)
        self.scale = tf.Variable(rng.uniform(0.5, 2, 4), dtype=tf.float32)

    @tf.function(input_signature=[tf.TensorSpec((None, SIZE, SIZE, 2), tf.float32)])
    def __call__(self, x: Any) -> Any:
        rows = tf.shape(x)[0]
        y = tf.nn.conv2d(x, self.first, 1, "SAME", dilations=2)
        y, _, _ = tf.compat.v1.nn.fused_batch_norm(
            y, self.scale, self.scale / 3, mean=self.scale / 2, variance=self.scale, is_training=False
        )
        y = tf.reshape(tf.nn.relu(y), tf.stack([rows, SIZE, -1, 4]))
        y = tf.tensordot(y, self.second, [[3], [0]]) + 0.1
        y = tf.nn.relu(tf.reshape(y, tf.concat([tf.shape(x)[:3], [3]], 0)))
        return tf.reduce_mean(tf.nn.max_pool2d(y, 3, 2, "SAME"), tf.range(1, 3))


def test_functions_and_saved_models(tmp_path: Path) -> None:
    x = image().astype("float32")
    model = Plain()
    explain = agree(model, TILES, x, 1e-5)
    assert {row.rule for row in explain.coverage if row.op in ("MaxPool", "FusedBatchNormV3")} == {"windows"}
    tf.saved_model.save(model, str(tmp_path / "saved"))
    saved = agree(str(tmp_path / "saved"), TILES, x, 1e-5)
    close(saved(x, target=1), explain(x, target=1), 1e-6)


@pytest.mark.parametrize("engine", ["graph", "xla"])
def test_files_and_engines(engine: str) -> None:
    model, x = net(*IMAGES["transposed"]), image()
    method = methods.Occlusion((3, 3, 2), (3, 3, 2))
    explain = agree(model, method, x, engine=engine, calls=[{"target": 1}])
    held = io.BytesIO()
    explain.save(held)
    loaded = Explainer.load(io.BytesIO(held.getvalue()))
    assert str(loaded.coverage) == str(explain.coverage)
    np.testing.assert_allclose(loaded(x, target=0), explain(x, target=0), atol=1e-14)
    whole = io.BytesIO()
    Explainer.compile(model, method, inputs=x, incremental=False, engine=engine).save(whole)
    assert rules(Explainer.load(io.BytesIO(whole.getvalue()))) == {"forward only"}


def test_dilated_and_dense_layers_on_xla() -> None:
    agree(sequences(), "ism", one_hot(1, 40), engine="xla", calls=[{"target": 1}])


def test_weights_that_change() -> None:
    model, x = residual(), image(1)
    explain = Explainer.compile(model, TILES, inputs=x)
    explain(x, target=0)
    for weight in model.weights:
        weight.assign(weight * 1.5)
    close(explain(x, target=0), Explainer.compile(model, TILES, inputs=x, incremental=False)(x, target=0), 1e-11)


@pytest.mark.parametrize("scale", [1, 30])
def test_a_trained_network(scale: float) -> None:
    """float32, as users have it, with a sharp softmax: within rounding of the output, not of the sum."""
    model, x = zoo.network("tensorflow-cnn", "float32", scale), zoo.data("tensorflow-cnn").x[:4]
    method = methods.Occlusion((2, 2, 1))
    explain = Explainer.compile(model, method, inputs=x)
    whole = Explainer.compile(model, method, inputs=x, incremental=False)
    assert "windows" in rules(explain)
    got, want = (np.asarray(each(x, target="all"), np.float64) for each in (explain, whole))
    assert abs(want).max() > 1e-3
    np.testing.assert_allclose(got, want, atol=1e-5, rtol=0)


def test_derivatives_of_joined_operations() -> None:
    """Dilated convolutions, dense layers and repetitions are one node for methods of gradients, too."""
    model, x = sequences(), one_hot(2, 40)
    with tf.GradientTape() as tape:
        point = tf.constant(x)
        tape.watch(point)
        value = tf.reduce_sum(model(point, training=False)[:, 1])
    close(Explainer.compile(model, "gradient", inputs=x)(x, target=1), tape.gradient(value, point), 1e-12)


def test_only_where_it_pays(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    x = np.random.default_rng(0).normal(size=(1, 64, 64, 3)).astype("float32")
    body = [layers.Conv2D(8, 3, activation="relu"), layers.Conv2D(8, 3)]
    convolutional = keras.Sequential([keras.Input((64, 64, 3)), *body, layers.Flatten(), layers.Dense(2)])
    dense = keras.Sequential([keras.Input((64, 64, 3)), layers.Conv2D(2, 3), layers.Flatten(), layers.Dense(2000)])
    for model, windows in ((convolutional, True), (dense, False)):
        explain = Explainer.compile(model, methods.Occlusion((8, 8, 3), (8, 8, 3)), inputs=x)
        assert ("windows" in rules(explain)) is windows
    monkeypatch.setattr(incremental, "GAIN", 4.0)
    for size, windows in ((8, False), (32, True)):  # each package evaluates the sample, too
        method = methods.Occlusion((16, 16, 3), (8, 8, 3))
        explain = Explainer.compile(convolutional, method, inputs=x, batch_size=size)
        assert ("windows" in rules(explain)) is windows


def test_a_large_value_that_leaves_a_mean_of_small_ones() -> None:
    """In single precision (1e7 + 0.3) − 1e7 is not 0.3, and the sigmoid behind would show it."""

    @tf.function(input_signature=[tf.TensorSpec((None, SIZE, SIZE, 2), tf.float32)])
    def bright(x: Any) -> Any:
        return tf.sigmoid(tf.reduce_mean(tf.nn.relu(x), (1, 2)) * 3 - 1)

    x = np.random.default_rng(0).random((2, SIZE, SIZE, 2)).astype("float32")
    x[:, 5, 5] = 1e9
    agree(bright, methods.Occlusion((2, 2, 2), (2, 2, 2)), x, 1e-6, calls=[{"target": 1}])

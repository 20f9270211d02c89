"""Small Keras models, deterministic, with non-trivial batch-norm statistics. For whichever Keras backend is set."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras
import numpy as np
from keras import layers

from .cases import Case, Input


def seeded(make: Callable[[], Any], *example: tuple[int, ...]) -> Callable[[str], Any]:
    """A builder ``dtype → model``; ``example``: sample shapes, to build a subclassed model by calling it."""

    def build(dtype: str) -> Any:
        model = in_dtype(make, dtype, *example)
        spread(model)
        return model

    return build


def in_dtype(make: Callable[[], Any], dtype: str, *example: tuple[int, ...]) -> Any:
    """The model made with a seed while Keras computes in ``dtype``."""
    keras.utils.set_random_seed(5)
    before = keras.config.dtype_policy(), keras.config.floatx()
    keras.config.set_dtype_policy(dtype)
    keras.config.set_floatx(dtype)  # what keras.Input takes
    try:
        model = make()
        if example:
            arrays = [np.zeros((2, *shape), dtype) for shape in example]
            model(arrays[0] if len(arrays) == 1 else arrays)
    finally:
        keras.config.set_dtype_policy(before[0])
        keras.config.set_floatx(before[1])
    return model


def spread(model: Any) -> None:
    """Weights that are neither 0 nor 1: biases, norms and running statistics too."""
    generator = np.random.default_rng(11)
    for weight in model.weights:
        if str(weight.dtype).startswith("float") and len(weight.shape) == 1:
            low, high = (0.5, 1.5) if weight.name in ("gamma", "moving_variance") else (-0.5, 0.5)
            weight.assign(generator.uniform(low, high, weight.shape).astype(weight.dtype))


def sequential() -> Any:
    return keras.Sequential(
        [keras.Input((5,)), layers.Dense(7, activation="relu"), layers.Dense(6), layers.ReLU(), layers.Dense(3)]
    )


def cnn() -> Any:
    return keras.Sequential([
        keras.Input((8, 8, 1)), layers.Conv2D(3, 3, padding="same", activation="relu"), layers.MaxPooling2D(),
        layers.Conv2D(4, 3, activation="relu"), layers.MaxPooling2D(), layers.Flatten(), layers.Dense(3),
    ])  # fmt: skip


def functional() -> Any:
    x = given = keras.Input((5, 5, 2), name="image")
    x = layers.ReLU()(layers.BatchNormalization()(layers.Conv2D(4, 3, padding="same")(x)))
    skip = x
    x = layers.BatchNormalization()(layers.Conv2D(4, 3, padding="same", use_bias=False)(x))
    x = layers.ReLU()(layers.Add()([x, skip]))
    x = layers.Dropout(0.5)(layers.GlobalAveragePooling2D()(x))
    return keras.Model(given, layers.Dense(3)(x))


def two_inputs() -> Any:
    left, right = keras.Input((4,), name="left"), keras.Input((3,), name="right")
    joined = layers.Multiply()([layers.Dense(5, "tanh")(left), layers.Dense(5, "relu")(right)])
    return keras.Model([left, right], layers.Dense(2)(joined))


def attention() -> Any:
    x = given = keras.Input((4, 6))
    h = layers.LayerNormalization()(x)
    x = layers.Add()([x, layers.MultiHeadAttention(2, 3)(h, h)])
    h = layers.Dense(8, activation="gelu")(layers.LayerNormalization()(x))
    h = layers.Dense(6, activation="silu")(h)
    x = layers.GlobalAveragePooling1D()(layers.Add()([x, h]))
    return keras.Model(given, layers.Dense(3, activation="softmax")(x))


def tokens() -> Any:
    given = keras.Input((5,), dtype="int32", name="ids")
    x = layers.Embedding(11, 6, name="embeddings")(given)
    x = layers.Dense(5, activation="relu")(layers.Flatten()(x))
    return keras.Model(given, layers.Dense(3)(x))


def embedded(model: Any) -> tuple[Any, Any]:
    def tail(point: Any, ids: Any) -> Any:
        for layer in model.layers[2:]:
            point = layer(point)
        return point

    return model.get_layer("embeddings"), tail


def recurrent() -> Any:
    return keras.Sequential([keras.Input((4, 3)), layers.LSTM(4), layers.Dense(2)])


def unrolled() -> Any:
    return keras.Sequential([keras.Input((4, 3)), layers.LSTM(4, unroll=True), layers.Dense(2)])


def several_outputs() -> Any:
    given = keras.Input((4,))
    hidden = layers.Dense(5, activation="relu")(given)
    return keras.Model(given, {"hidden": hidden, "logits": layers.Dense(3)(hidden)})


@keras.saving.register_keras_serializable(package="tests")
class Subclassed(keras.Model):
    """One layer run three times, then a head."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.block = layers.Dense(5)
        self.relu = layers.ReLU()
        self.head = layers.Dense(2)

    def call(self, x: Any, training: bool = False) -> Any:
        for _ in range(3):
            x = self.relu(self.block(x))
        return self.head(x)


def _case(name: str, build: Any, *inputs: Input, **options: Any) -> Case:
    return Case(name, "tensorflow", build, inputs, **options)


CASES = [
    _case("sequential", seeded(sequential), Input((5,))),
    _case("cnn", seeded(cnn), Input((8, 8, 1))),
    _case("functional", seeded(functional), Input((5, 5, 2))),
    _case("subclassed", seeded(Subclassed, (5,)), Input((5,))),
    _case("two_inputs", seeded(two_inputs), Input((4,), name="left"), Input((3,), name="right"), packed=True),
    _case("attention", seeded(attention), Input((4, 6))),
    _case("tokens", seeded(tokens), Input((5,), "ids", 11), wrt="embeddings", layer=embedded),
    _case("lstm", seeded(recurrent), Input((4, 3))),
    _case("unrolled_lstm", seeded(unrolled), Input((4, 3))),
    _case("dict", seeded(several_outputs), Input((4,)), output="logits", pick=lambda r: r["logits"]),
]

"""The zoo's Keras members, for whichever Keras backend is set; trained on TensorFlow."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras
import numpy as np
from keras import layers

from .models_keras import in_dtype
from .zoo import Data, Member


def cnn() -> Any:
    return keras.Sequential([
        keras.Input((8, 8, 1)), layers.Conv2D(16, 3, padding="same", activation="relu"), layers.MaxPooling2D(),
        layers.Conv2D(32, 3, padding="same", activation="relu"), layers.MaxPooling2D(), layers.Flatten(),
        layers.Dense(32, activation="relu"), layers.Dense(10, activation="softmax"),
    ])  # fmt: skip


def dense() -> Any:
    return keras.Sequential([
        keras.Input((30,)), layers.Dense(24, activation="relu"), layers.Dense(12, activation="relu"),
        layers.Dense(2, activation="softmax"),
    ])  # fmt: skip


def attention() -> Any:
    """Rows of an image as tokens."""
    given = keras.Input((8, 8))
    x = layers.Dense(16)(given)
    h = layers.LayerNormalization()(x)
    x = layers.Add()([x, layers.MultiHeadAttention(2, 8)(h, h)])
    h = layers.Dense(32, activation="gelu")(layers.LayerNormalization()(x))
    x = layers.Add()([x, layers.Dense(16)(h)])
    x = layers.Flatten()(layers.LayerNormalization()(x))
    return keras.Model(given, layers.Dense(10, activation="softmax")(x))


def training(epochs: int, rate: float = 3e-3) -> Callable[[Any, Data], None]:
    def train(model: Any, data: Data) -> None:
        keras.utils.set_random_seed(2)
        model.compile(
            keras.optimizers.Adam(rate, epsilon=1e-5), "sparse_categorical_crossentropy", steps_per_execution=14
        )
        model.fit(data.x, data.labels, batch_size=128, epochs=epochs, verbose=0)

    return train


def weights(model: Any) -> Any:
    return model.get_weights()


def load(model: Any, arrays: Any, scale: float) -> None:
    model.set_weights([*arrays[:-2], scale * arrays[-2], scale * arrays[-1]])


def outputs(model: Any, x: np.ndarray) -> np.ndarray:
    return keras.ops.convert_to_numpy(model(x, training=False))


def gradient(model: Any, x: np.ndarray, target: np.ndarray) -> np.ndarray:
    """By GradientTape, of each sample's target."""
    import tensorflow as tf

    point = tf.constant(x)
    with tf.GradientTape() as tape:
        tape.watch(point)
        value = tf.reduce_sum(tf.gather(model(point, training=False), target, batch_dims=1))
    return tape.gradient(value, point).numpy()


def member(name: str, data: str, make: Callable[[], Any], epochs: int) -> Member:
    return Member(name, "tensorflow", data, lambda dtype: in_dtype(make, dtype), training(epochs))


MEMBERS = [
    member("cnn", "images_last", cnn, 80),
    member("dense", "cancer", dense, 100),
    member("attention", "rows", attention, 20),
]

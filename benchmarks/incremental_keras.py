"""The Keras models of the incremental benchmark, as those on torch, with channels last."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
import tensorflow as tf
from keras import layers

from .tensorflow_cells import model


def versions() -> str:
    return f"tensorflow {tf.__version__}, keras {keras.__version__}"


def lenet() -> Any:
    return model("cnn")


def basset() -> Any:
    keras.utils.set_random_seed(0)
    blocks: list[Any] = []
    for width, kernel, pool in ((300, 19, 3), (200, 11, 4), (200, 7, 4)):
        blocks += [layers.Conv1D(width, kernel, padding="same"), layers.BatchNormalization(), layers.ReLU()]
        blocks.append(layers.MaxPooling1D(pool))
    head = [layers.Flatten(), layers.Dense(1000, "relu"), layers.Dense(1000, "relu"), layers.Dense(164)]
    return keras.Sequential([keras.Input((600, 4)), *blocks, *head])


def dilated() -> Any:
    keras.utils.set_random_seed(0)
    given = keras.Input((2114, 4))
    x = layers.Conv1D(64, 21, padding="same", activation="relu")(given)
    for i in range(1, 9):
        x = layers.Add()([x, layers.Conv1D(64, 3, padding="same", dilation_rate=2**i, activation="relu")(x)])
    return keras.Model(given, layers.Dense(2)(layers.GlobalAveragePooling1D()(x)))


def images(count: int) -> Any:
    return np.random.default_rng(0).standard_normal((count, 28, 28, 1)).astype("float32")


def letters(count: int, length: int) -> Any:
    return np.eye(4, dtype="float32")[np.random.default_rng(0).integers(0, 4, (count, length))]

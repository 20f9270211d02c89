"""Rows that static engines add and remove: on the processor by numpy, which has a tenth of the overhead."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers

from explainers import Explainer
from explainers_tensorflow import BACKEND

ROWS = {
    "float32": np.arange(6, dtype="float32").reshape(3, 2),
    "int32": np.arange(6, dtype="int32").reshape(3, 2),
    "bool": np.array([[True, False], [False, False], [True, True]]),
    "bfloat16": np.arange(6, dtype="float32").reshape(3, 2),
    "string": np.array([["a", "b"], ["c", "d"], ["e", "f"]], object),
    "empty": np.zeros((3, 0), "float32"),
}


def tensor(kind: str) -> Any:
    return tf.cast(ROWS[kind], "bfloat16") if kind == "bfloat16" else tf.constant(ROWS[kind])


@pytest.mark.parametrize("kind", ROWS)
def test_pad_repeats_the_first_row(kind: str) -> None:
    array = tensor(kind)
    padded = BACKEND.pad(array, 5)
    assert padded.dtype == array.dtype
    assert padded.device == array.device
    expected = np.concatenate([array.numpy(), array.numpy()[[0, 0]]])
    np.testing.assert_array_equal(padded.numpy(), expected)
    assert BACKEND.pad(array, 3) is array


@pytest.mark.parametrize("kind", ROWS)
def test_first_takes_the_first_rows(kind: str) -> None:
    array = tensor(kind)
    kept = BACKEND.first(array, 2)
    assert kept.dtype == array.dtype
    np.testing.assert_array_equal(kept.numpy(), array.numpy()[:2])


@pytest.mark.parametrize("count", [1, 2, 3, 5, 9])
@pytest.mark.parametrize("method", ["gradient", "integrated_gradients", "deeplift", "occlusion"])
def test_xla_at_any_number_of_rows(count: int, method: str) -> None:
    keras.utils.set_random_seed(0)
    model = keras.Sequential([keras.Input((7,)), layers.Dense(6, "tanh"), layers.Dense(2)])
    x = np.random.default_rng(count).normal(size=(count, 7)).astype("float32")
    graph, xla = (Explainer.compile(model, method, engine=engine) for engine in ("graph", "xla"))
    np.testing.assert_allclose(xla(x, target=1), graph(x, target=1), atol=1e-5)

"""The derivative of a product with a large weight: another form than TensorFlow's own, with the same numbers."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers

from explainers import Explainer, methods
from explainers_tensorflow import products

WIDE = 800, 700  # more than LARGE entries
RNG = np.random.default_rng(0)


def net(dtype: str = "float32") -> Any:
    keras.utils.set_random_seed(0)
    inside = keras.Input((WIDE[0],), dtype=dtype)
    return keras.Model(inside, layers.Dense(3, dtype=dtype)(layers.Dense(WIDE[1], "tanh", dtype=dtype)(inside)))


def by_tape(model: Any, x: Any) -> Any:
    """The gradient of output 1, each row by itself."""
    found = []
    for row in x:
        point = tf.constant(row[None])
        with tf.GradientTape() as tape:
            tape.watch(point)
            y = model(point)[:, 1]
        found.append(tape.gradient(y, point).numpy()[0])
    return np.stack(found)


def kinds(native: Any) -> list[str]:
    """The types of all operations of a function and of the functions in it."""
    definition = native.graph.as_graph_def()
    nodes = [*definition.node, *(node for function in definition.library.function for node in function.node_def)]
    return [node.op for node in nodes]


def close(scores: Any, expected: Any) -> None:
    np.testing.assert_allclose(np.asarray(scores), expected, rtol=0, atol=1e-5 * abs(expected).max())


@pytest.mark.parametrize("count", [1, 2, 15, 16, 17, 40])
@pytest.mark.parametrize("engine", ["graph", "xla", "eager"])
def test_gradient_of_any_number_of_rows(count: int, engine: str) -> None:
    model = net()
    x = RNG.normal(size=(count, WIDE[0])).astype("float32")
    close(Explainer.compile(model, "gradient", engine=engine)(x, target=1), by_tape(model, x))


def test_both_forms_are_in_the_graph_of_large_weights_only() -> None:
    assert WIDE[0] * WIDE[1] >= products.LARGE
    large = kinds(Explainer.compile(net(), "gradient").native)
    assert large.count("BatchMatMulV2") == 1  # the small last layer has its own derivative
    assert "If" in large or "StatelessIf" in large
    small = keras.Sequential([keras.Input((8,)), layers.Dense(6), layers.Dense(2)])
    assert "BatchMatMulV2" not in kinds(Explainer.compile(small, "gradient").native)


def test_other_dtypes_have_their_own_derivative() -> None:
    model = net("float64")
    x = RNG.normal(size=(20, WIDE[0]))
    explain = Explainer.compile(model, "gradient")
    assert "BatchMatMulV2" not in kinds(explain.native)
    np.testing.assert_allclose(explain(x, target=1), by_tape(model, x), atol=1e-12)


def test_a_weight_that_is_stored_transposed() -> None:
    weight = tf.Variable(RNG.normal(size=(WIDE[1], WIDE[0])).astype("float32") / 30)

    class Turned(tf.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = weight

        @tf.function(input_signature=[tf.TensorSpec((None, WIDE[0]), tf.float32)])
        def __call__(self, x: Any) -> Any:
            return tf.tanh(tf.matmul(x, self.weight, transpose_b=True))[:, :2]

    model = Turned()
    x = RNG.normal(size=(20, WIDE[0])).astype("float32")
    close(Explainer.compile(model, "gradient")(x, target=1), by_tape(model, x))


def test_new_weights_are_seen() -> None:
    model = net()
    x = RNG.normal(size=(20, WIDE[0])).astype("float32")
    explain = Explainer.compile(model, "gradient")
    before = np.asarray(explain(x, target=1))
    model.layers[1].kernel.assign(model.layers[1].kernel * 2)
    close(explain(x, target=1), by_tape(model, x))
    assert abs(np.asarray(explain(x, target=1)) - before).max() > 1e-3


@pytest.mark.parametrize("method", [methods.IntegratedGradients(20), methods.DeepLift(), methods.LRP()])
def test_methods_give_the_same_with_and_without_it(method: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    model = net()
    x = RNG.normal(size=(18, WIDE[0])).astype("float32")
    found = Explainer.compile(model, copy.copy(method))(x, target=1)
    monkeypatch.setattr(products, "LARGE", 2**60)
    close(found, np.asarray(Explainer.compile(model, method)(x, target=1)))


def test_in_a_file(tmp_path: Path) -> None:
    model = net()
    explain = Explainer.compile(model, "gradient")
    explain.save(tmp_path / "wide.explainer")
    loaded = Explainer.load(tmp_path / "wide.explainer")
    for count in (1, 20):
        x = RNG.normal(size=(count, WIDE[0])).astype("float32")
        np.testing.assert_array_equal(loaded(x, target=1), explain(x, target=1))
        close(loaded(x, target=1), by_tape(model, x))

"""What the graph says of TensorFlow's operations, and the arrays that rules compute with."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers

from explainers import Explainer
from explainers.errors import UnsupportedOperation
from explainers.graph import Attributes, Graph, Node, Role
from explainers_tensorflow import BACKEND, ops

from .test_trace import attention, recurrent, traced_model


def graph_of(function: Callable[..., Any], *shape: int) -> Graph:
    return traced_model(tf.function(function), np.ones((2, *shape), "float32")).graph


def only(graph: Graph, op: str) -> Node:
    (node,) = [node for node in graph if node.op == op]
    return node


# --- functions and attributes ----------------------------------------------------------------


def test_dense_and_softmax() -> None:
    model = keras.Sequential([keras.Input((5,)), layers.Dense(4, "sigmoid"), layers.Dense(3, "softmax")])
    graph = traced_model(model).graph
    softmax = only(graph, "Softmax")
    assert (softmax.role, softmax.function, softmax.attributes) == (Role.COMPOSITE, "softmax", Attributes(axis=-1))
    assert only(graph, "Sigmoid").function == "sigmoid"
    assert graph.logits(graph.outputs[0][1]) == softmax.inputs[0]
    for node in [node for node in graph if node.op == "MatMul"]:
        assert (node.role, node.function) == (Role.LINEAR, "dense")
        assert node.attributes == Attributes(weight=1, contracted=0)
    assert all(node.elementwise for node in graph if node.op in ("BiasAdd", "AddV2", "Sigmoid"))


def test_convolutions() -> None:
    model = keras.Sequential([
        keras.Input((6, 6, 2)), layers.Conv2D(3, 3, activation="relu"), layers.DepthwiseConv2D(2),
        layers.Conv2DTranspose(2, 3), layers.ReLU(),
    ])  # fmt: skip
    graph = traced_model(model).graph
    found = [(n.op, n.role, n.attributes) for n in graph if n.function == "conv"]
    assert found == [
        ("Conv2D", Role.LINEAR, Attributes(weight=1)), ("DepthwiseConv2dNative", Role.LINEAR, Attributes(weight=1)),
        ("Conv2DBackpropInput", Role.LINEAR, Attributes(weight=1)),
    ]  # fmt: skip
    assert [n.function for n in graph if n.op == "Relu"] == ["relu", "relu"]


def test_attention_and_lstm() -> None:
    graph = traced_model(attention()).graph
    kinds = {(node.role, node.function) for node in graph if node.op in ("Einsum", "MatMul", "BatchMatMulV2")}
    assert kinds == {(Role.LINEAR, "dense"), (Role.BILINEAR, "")}
    graph = traced_model(recurrent(False)).graph
    assert {node.attributes.weight for node in graph if node.function == "dense"} == {1}
    assert {node.role for node in graph if node.op == "Mul"} == {Role.PRODUCT}
    assert all(node.elementwise for node in graph if node.op in ("Mul", "Tanh", "Sigmoid"))


OF_TWO: dict[str, tuple[Callable[[Any, Any], Any], str, Role, str]] = {
    "quotient": (lambda x, y: x / y, "RealDiv", Role.PRODUCT, "quotient"),
    "guarded": (tf.math.divide_no_nan, "DivNoNan", Role.OPAQUE, "bivariate"),
    "square": (lambda x, y: x * x, "Mul", Role.UNIVARIATE, "arithmetic"),
    "reciprocal": (lambda x, y: 1 / x, "RealDiv", Role.UNIVARIATE, "arithmetic"),
    "minimum": (tf.minimum, "Minimum", Role.REDUCE_MAX, "minimum"),
    "clipped": (lambda x, y: tf.minimum(x, 1.0), "Minimum", Role.UNIVARIATE, ""),
    "least": (lambda x, y: tf.reduce_min(x, 1), "Min", Role.REDUCE_MAX, "minimum"),
    "largest": (lambda x, y: tf.reduce_max(x, 1), "Max", Role.REDUCE_MAX, ""),
    "top": (lambda x, y: tf.math.top_k(x, 2)[0], "TopKV2", Role.OPAQUE, ""),
    "distance": (tf.math.squared_difference, "SquaredDifference", Role.PRODUCT, ""),
    "centred": (lambda x, y: tf.math.squared_difference(x, 1.0), "SquaredDifference", Role.UNIVARIATE, "arithmetic"),
    "power": (tf.pow, "Pow", Role.OPAQUE, "bivariate"),
    "clip": (lambda x, y: tf.raw_ops.ClipByValue(t=x, clip_value_min=y, clip_value_max=3.0), "ClipByValue",
             Role.OPAQUE, ""),
    "log": (lambda x, y: tf.nn.log_softmax(x), "LogSoftmax", Role.COMPOSITE, "log_softmax"),
    "entropy": (lambda x, y: tf.math.xlogy(2.0, x), "Xlogy", Role.UNIVARIATE, ""),
    "trace": (lambda x, y: tf.einsum("bi->b", x), "Einsum", Role.LINEAR, ""),
    "stopped": (lambda x, y: x + tf.stop_gradient(y), "StopGradient", Role.LINEAR, "stop_gradient"),
}  # fmt: skip


@pytest.mark.parametrize("name", OF_TWO)
def test_roles_and_functions(name: str) -> None:
    function, op, role, called = OF_TWO[name]
    node = only(graph_of(lambda x: function(x, tf.tanh(x)), 3), op)
    assert (node.role, node.function) == (role, called)


def test_the_constant_operand_is_the_weight() -> None:
    weight = tf.Variable(np.ones((4, 3), "float32"))
    assert only(graph_of(lambda x: tf.transpose(weight @ tf.transpose(x)), 3), "MatMul").attributes == Attributes(
        weight=0
    )
    assert only(graph_of(lambda x: tf.einsum("ij,bj->bi", weight, x), 3), "Einsum").attributes == Attributes(weight=0)


def test_elementwise_where_nothing_is_differentiable() -> None:
    graph = graph_of(lambda x: tf.where(tf.logical_not(x > 0), tf.zeros_like(x), tf.cumsum(x, 1)), 3)
    found = {node.op: node.elementwise for node in graph}
    assert all(found[op] for op in ("Greater", "LogicalNot", "SelectV2", "ZerosLike"))
    assert not found["Cumsum"]
    assert only(graph, "ZerosLike").function == "shape"


# --- where the samples lie -------------------------------------------------------------------


def test_plain() -> None:
    def function(x: Any) -> Any:
        size = tf.shape(x)[0]
        folded = tf.reshape(tf.tanh(tf.reshape(x, (size * 2, 3))), (size, 6))
        return tf.gather_nd(folded, tf.stack([tf.range(size), tf.zeros(size, tf.int32)], 1)) + tf.transpose(x)[0]

    graph = graph_of(function, 6)
    axes = {node.op: (node.outputs[0].plain, node.outputs[0].batch_axis) for node in graph if node.outputs}
    assert axes["placeholder"] == (True, 0)
    assert axes["Transpose"] == (True, 1)
    assert axes["Tanh"] == (False, None)  # two rows a sample
    assert axes["Shape"] == axes["Range"] == axes["Pack"] == (False, None)  # the batch size is written into them
    assert graph.output(graph.outputs[0][1]).batch_axis == 0


def test_a_known_shape_is_plain() -> None:
    graph = graph_of(lambda x: x * tf.cast(tf.shape(x[0])[0], tf.float32), 6)
    assert all(node.outputs[0].plain for node in graph)


# --- arrays ----------------------------------------------------------------------------------


def everything(a: Any, b: Any) -> list[Any]:
    """``a``: (U·B, 3, U·B), ``b``: (U, 1, 3) and (B, 3)."""
    u, r = b
    split = ops.split_axis(a, 0, u, 0, r, 0)
    inner = ops.split_axis(a, 2, u, 0, r, 0)
    wide = ops.expand_axis(u, 1, r, 0)
    return [
        split, inner, ops.join_axis(split, 0), ops.join_axis(inner, 2), wide,
        ops.broadcast_like(u, wide), ops.blank(u, 0, u, r), ops.sum_like(split, split[:1, :, :1]),
        ops.sum_like(wide, r), ops.sum_like(wide, wide), ops.stack([r, r]), ops.sum_axis(wide, 1),
        ops.move_axis(a, 0, 1), ops.move_axis(a, 2, 0), ops.insert_axis(r, 1), ops.row_mean(r), ops.row_mean(r[:, 0]),
        ops.reduce_sum(r, -1), ops.reduce_max(r, 1), ops.sign(r - r), ops.signum(r - r), ops.ones_like(r),
        ops.minimum(ops.log(ops.exp(r)), ops.absolute(r) - 1),
    ]  # fmt: skip


def expected(a: np.ndarray, u: np.ndarray, r: np.ndarray) -> list[np.ndarray]:
    split = a.reshape(2, 4, 3, 8)
    wide = np.broadcast_to(u, (2, 4, 3))
    return [
        split, a.reshape(8, 3, 2, 4), a, a, wide, wide, np.zeros((8, 1, 3)), split.sum((0, 2), keepdims=True)[:, :4],
        wide.sum(0), wide, np.stack([r, r], -1), wide.sum(1), a.transpose(1, 0, 2), a.transpose(2, 0, 1), r[:, None],
        r.mean(1, keepdims=True), np.zeros(4), r.sum(1, keepdims=True), r.max(1, keepdims=True), np.ones_like(r),
        np.zeros_like(r), np.ones_like(r), np.minimum(r, abs(r) - 1),
    ]  # fmt: skip


@pytest.mark.parametrize("engine", BACKEND.engines)
def test_arrays(engine: str) -> None:
    generator = np.random.default_rng(0)
    a, u, r = (generator.normal(size=size).astype("float32") for size in ((8, 3, 8), (2, 1, 3), (4, 3)))
    free = engine == "graph"
    specs = [
        tf.TensorSpec((None, 3, None) if free else a.shape),
        *(tf.TensorSpec((None if free else len(p), *p.shape[1:])) for p in (u, r)),
    ]
    run: Callable[..., list[Any]] = lambda a, u, r: everything(a, (u, r))  # noqa: E731
    if engine != "eager":
        run = tf.function(run, input_signature=specs, autograph=False, jit_compile=engine == "xla")
    got = run(*map(tf.constant, (a, u, r)))
    for place, (one, want) in enumerate(zip(got, expected(a, u, r), strict=True)):
        assert one.shape == want.shape, place
        np.testing.assert_allclose(one, want, atol=1e-5, err_msg=str(place))
    if free:
        static = [tensor.shape.as_list() for tensor in tf.nest.flatten(run.get_concrete_function().structured_outputs)]
        assert static[4] == [None, None, 3]
        assert static[6] == [None, 1, 3]


@pytest.mark.parametrize("layer", ["masking", "lstm"])
def test_a_mask_of_the_input_stays_behind_the_layer_that_the_error_names(layer: str) -> None:
    """The mask of a zero reference would be another one. Padded steps get nothing, in x as in the reference."""
    keras.utils.set_random_seed(0)
    model = keras.Sequential([
        keras.Input((5, 3)), layers.Masking(0.0, name="masking"), layers.LSTM(3, name="lstm"), layers.Dense(2),
    ])  # fmt: skip
    x = np.random.default_rng(0).normal(size=(2, 5, 3)).astype("float32")
    x[0, 3:] = 0
    with pytest.raises(UnsupportedOperation, match=r"'SelectV2'.*as a mask does.*with wrt='masking' it stays"):
        Explainer.compile(model, "deeplift")
    got = Explainer.compile(model, "deeplift", wrt=layer)(x, target=0)
    lstm, head = model.get_layer("lstm"), model.layers[-1]
    mask = tf.reduce_any(x != 0, -1)
    end, start = lstm(x, mask=mask), lstm(0 * x, mask=mask)
    low = head(start) if layer == "masking" else head(0 * end)
    np.testing.assert_allclose(got.reshape(2, -1).sum(1), (head(end) - low)[:, 0], rtol=1e-4, atol=1e-6)
    assert layer == "lstm" or not got[0, 3:].any()

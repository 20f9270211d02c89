"""TensorFlow operations on windows of their operands, which hold what would be padding."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import tensorflow as tf

from explainers.graph import Node, Repeating, Sliding, Spreading, Summing

from .joined import matrix_product, weighted

RESHAPES = ("Reshape", "Squeeze", "ExpandDims")
SIZED = ("EnsureShape",)  # checks the size of whole values


def evaluate_window(node: Node, arrays: Sequence[Any], shape: tuple[int, ...]) -> tuple[Any, ...]:
    """Run the node on windows of its operands. ``shape``: of the first result's samples."""
    fact, x = node.attributes.locality, arrays[0]
    if isinstance(fact, Repeating):
        return (_repeated(x, fact, shape),)
    if isinstance(fact, Summing):
        total = tf.reduce_mean if fact.mean else tf.reduce_sum
        return (total(x, fact.axes, keepdims=fact.keeps),)
    if isinstance(fact, Spreading):
        return (_spread(node, fact, arrays),)
    if isinstance(fact, Sliding):
        return (_slid(node, fact, arrays),)
    return _at_each_place(node, fact, arrays, shape)


def _at_each_place(node: Node, fact: Any, arrays: Sequence[Any], shape: tuple[int, ...]) -> tuple[Any, ...]:
    x = arrays[0]
    if node.op in RESHAPES:
        return (tf.reshape(x, (-1, *shape)),)
    if node.op == "BroadcastTo":
        return (tf.broadcast_to(x, (tf.shape(x)[0], *shape)),)
    if node.op in SIZED:
        return (x,)
    if node.op in ("BiasAdd", "BiasAddV1") and arrays[1].shape.rank > 1:
        return (x + arrays[1],)  # cut along the channels
    product = matrix_product(node)
    if product is not None:
        flat = tf.reshape(x, (-1, x.shape[-1]))
        return (tf.reshape(product.payload.make(node.name, [flat, arrays[1]]).outputs[0], (-1, *shape)),)
    return tuple(node.payload.make(node.name, arrays).outputs)


def _repeated(x: Any, fact: Repeating, shape: tuple[int, ...]) -> Any:
    times = dict(zip(fact.axes, fact.times, strict=True))
    apart, multiples = [-1], [1]
    for axis in range(1, x.shape.rank):
        apart += [x.shape[axis], 1]
        multiples += [1, times.get(axis, 1)]
    return tf.reshape(tf.tile(tf.reshape(x, apart), multiples), (-1, *shape))


def _slid(node: Node, fact: Sliding, arrays: Sequence[Any]) -> Any:
    x = arrays[0]
    convolution = weighted(node)
    if convolution is not None:
        return _convolved(convolution, node, fact, arrays)
    if "Pool" in node.op:
        recipe = node.payload.unpadded()
        return recipe.make(node.name, arrays).outputs[0]
    steps = dict(zip(fact.axes, fact.stride, strict=True))  # the window was read from the padded or sliced operand
    return x[tuple(slice(None, None, steps.get(axis, 1)) for axis in range(x.shape.rank))]


def _convolved(convolution: Node, node: Node, fact: Sliding, arrays: Sequence[Any]) -> Any:
    """The convolution, which may be inside of a joined node with other axes than its operand."""
    x, weight = arrays[:2]
    recipe = convolution.payload.unpadded()
    if convolution is node:
        return recipe.make(node.name, arrays).outputs[0]
    rank = len(convolution.outputs[0].shape)
    added = rank - x.shape.rank  # an image of one row
    x = tf.expand_dims(x, 1) if added else x
    dilation = [1] * rank
    for axis, step in zip(fact.axes, fact.dilation, strict=True):
        dilation[axis + added] = step
    layout = recipe.plain["data_format"].decode()
    rates = dilation[2:] if layout.startswith("NC") else dilation[1:-1]
    if convolution.op == "Conv2D":
        y = recipe.with_numbers("dilations", dilation).make(node.name, [x, weight]).outputs[0]
    elif convolution.op == "DepthwiseConv2dNative":  # without dilations on processors
        y = tf.nn.depthwise_conv2d(x, weight, [1] * rank, "VALID", layout, rates)
    else:
        y = tf.nn.convolution(x, weight, padding="VALID", data_format=layout, dilations=rates)
    return tf.squeeze(y, [1]) if added else y


def _spread(node: Node, fact: Spreading, arrays: Sequence[Any]) -> Any:
    x, whole = arrays[2], node.outputs[0].shape
    sizes = [tf.shape(x)[0], *whole[1:]]
    for axis, kernel, stride, dilation in zip(fact.axes, fact.kernel, fact.stride, fact.dilation, strict=True):
        sizes[axis] = (x.shape[axis] - 1) * stride + dilation * (kernel - 1) + 1
    y = node.payload.unpadded().make(node.name, [tf.stack(sizes), *arrays[1:]]).outputs[0]
    if not tf.executing_eagerly():
        y.set_shape([None, *sizes[1:]])
    return y

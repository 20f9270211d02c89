"""Derivatives towards weights, of each sample apart."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import tensorflow as tf

from explainers.graph import Function, Node, Sliding, Spreading


def weight_factors(node: Node, arrays: Sequence[Any], message: Any) -> tuple[Any, Any, int]:
    fact, weight = node.attributes.locality, arrays[node.attributes.weight]
    if node.function is Function.EMBEDDING:
        return one_hot(arrays[1], arrays[0].shape[0], message), message, 1
    if node.function is Function.DENSE:
        (x,) = (arrays[i] for i in (0, 1) if i != node.attributes.weight)
        return x, message, 1
    if isinstance(fact, Spreading):
        x = arrays[fact.operand]
        groups = weight.shape[-2] if "Depthwise" in node.op else 1
        return _places(x, fact), _patches(message, fact, _sizes(x, fact)), groups
    assert isinstance(fact, Sliding)
    x = arrays[0]
    (channels,) = _channels(x, fact)
    groups = x.shape[channels] // (1 if "Depthwise" in node.op else weight.shape[-2])
    return _patches(x, fact, _sizes(message, fact)), _places(message, fact), groups


def _channels(array: Any, fact: Sliding | Spreading) -> list[int]:
    return [axis for axis in range(1, array.shape.rank) if axis not in fact.axes]


def _sizes(array: Any, fact: Sliding | Spreading) -> list[int]:
    return [array.shape[axis] for axis in fact.axes]


def _places(array: Any, fact: Sliding | Spreading) -> Any:
    """(N, …, C), in any layout, → (N, T, C)."""
    (channels,) = _channels(array, fact)
    last = tf.transpose(array, [0, *fact.axes, channels])
    return tf.reshape(last, (-1, math.prod(_sizes(array, fact)), array.shape[channels]))


def _patches(x: Any, fact: Sliding | Spreading, result: Sequence[int]) -> Any:
    """What each place of the result sees, (N, T, C·kernel), by a convolution with filters of one 1."""
    (channels,) = _channels(x, fact)
    sizes, count = _sizes(x, fact), math.prod(fact.kernel)
    pads = [(0, 0)]
    facts = zip(sizes, result, fact.kernel, fact.stride, fact.dilation, fact.before, strict=True)
    for size, steps, kernel, stride, dilation, before in facts:
        pads.append((before, max((steps - 1) * stride + dilation * (kernel - 1) + 1 - size - before, 0)))
    apart = tf.reshape(tf.transpose(x, [0, channels, *fact.axes]), (-1, *sizes))
    apart = tf.pad(apart, pads)[..., None]
    filters = tf.reshape(tf.eye(count, dtype=x.dtype), (*fact.kernel, 1, count))
    seen = _convolved(apart, filters, fact)
    seen = tf.reshape(seen, (-1, x.shape[channels], math.prod(result), count))
    return tf.reshape(tf.transpose(seen, [0, 2, 1, 3]), (-1, math.prod(result), x.shape[channels] * count))


def _convolved(x: Any, filters: Any, fact: Sliding | Spreading) -> Any:
    """A convolution without padding. A stride after a dilation picks places, which TensorFlow does not do itself."""
    if all(step == 1 for step in fact.dilation):
        return tf.nn.convolution(x, filters, strides=list(fact.stride), padding="VALID")
    seen = tf.nn.convolution(x, filters, padding="VALID", dilations=list(fact.dilation))
    return seen[(slice(None), *(slice(None, None, step) for step in fact.stride))]


def weight_gradients(
    node: Node, arrays: Sequence[Any], place: int, axes: Sequence[int | None], message: Any, axis: int
) -> Any:
    moving = [i for i, along in enumerate(axes) if along is not None]

    def first(array: Any, along: int | None) -> Any:
        rest = [i for i in range(array.shape.rank) if i != along]
        return tf.transpose(array, [along, *rest])

    def one(parts: Sequence[Any]) -> Any:
        operands = list(arrays)
        for i, sample in zip(moving, parts[1:], strict=True):
            operands[i] = tf.expand_dims(sample, axes[i])
        others = [None] * (len(node.outputs) - 1)
        return _pulled(node, operands, place, [tf.expand_dims(parts[0], axis), *others])

    given = [first(message, axis), *(first(arrays[i], axes[i]) for i in moving)]
    return tf.vectorized_map(one, given, fallback_to_while_loop=False)


def pull_each(node: Node, arrays: Sequence[Any], place: int, messages: Sequence[Any]) -> Any:
    arrived = [i for i, message in enumerate(messages) if message is not None]

    def one(parts: Sequence[Any]) -> Any:
        given = dict(zip(arrived, parts, strict=True))
        return _pulled(node, arrays, place, [given.get(i) for i in range(len(messages))])

    return tf.vectorized_map(one, [messages[i] for i in arrived], fallback_to_while_loop=False)


def _pulled(node: Node, arrays: Sequence[Any], place: int, messages: Sequence[Any]) -> Any:
    from . import ops  # which lists the functions of this module

    _, pullback = ops.vjp(node, arrays, (place,))
    found = pullback(messages)[0]
    return tf.zeros_like(arrays[place]) if found is None else found


def run_each(node: Node, arrays: Sequence[Any], places: Sequence[int], models: int) -> None:
    return None


def split_batch(array: Any, axis: int, before: int, behind: int) -> Any:
    sizes = array.shape.as_list()
    inner = [1, 1, 1] if sizes[axis] == 1 else [before, -1, behind]
    return tf.reshape(array, [*sizes[:axis], *inner, *sizes[axis + 1 :]])


def one_hot(ids: Any, count: int, like: Any) -> Any:
    return tf.one_hot(ids, count, dtype=like.dtype)

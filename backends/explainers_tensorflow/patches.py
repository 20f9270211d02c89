"""Boxes of samples, with windows of each row in them."""

from __future__ import annotations

import math
from collections.abc import Sequence

import tensorflow as tf


def patches(
    base: tf.Tensor, sample: tf.Tensor, axes: Sequence[int], starts: Sequence[tf.Tensor], widths: Sequence[int],
    margins: Sequence[tuple[int, int]], fill: float, window: tf.Tensor | None, at: Sequence[tf.Tensor],
) -> tf.Tensor:  # fmt: skip
    """For each row a box of its sample, with the row's own window in it.

    All entries are taken at once, from the samples and the windows one behind the other.
    """
    rank = base.shape.rank
    rest = [axis for axis in range(1, rank) if axis not in axes]
    order = [0, *axes, *rest]
    source = _ordered(base, order)
    if any(map(any, margins)):
        amounts = [(0, 0), *margins, *[(0, 0)] * len(rest)]
        source = tf.pad(source, amounts, constant_values=tf.cast(fill, base.dtype))
    sizes, inner = source.shape[1 : 1 + len(axes)], source.shape[1 + len(axes) :]
    flat = tf.reshape(source, (-1, math.prod(inner)))
    boxes = [_range(s + m[0], width) for s, m, width in zip(starts, margins, widths, strict=True)]
    index = _flat([sample[:, None], *boxes], sizes)
    if window is not None:
        own = _ordered(window, order)
        own_sizes = own.shape[1 : 1 + len(axes)]
        places = [_range(s - a, width) for s, a, width in zip(starts, at, widths, strict=True)]
        inside = tf.ones((), tf.bool)
        for i, (place, size) in enumerate(zip(places, own_sizes, strict=True)):
            inside = inside & _along((place >= 0) & (place < size), i + 1, len(places) + 1)
        rows = tf.range(tf.shape(sample, tf.int64)[0])[:, None]
        index = tf.where(inside, _flat([rows, *places], own_sizes) + tf.shape(flat, tf.int64)[0], index)
        flat = tf.concat([flat, tf.reshape(own, (-1, math.prod(inner)))], 0)
    result = tf.reshape(tf.gather(flat, tf.reshape(index, (-1,))), (-1, *widths, *inner))
    return _ordered(result, [order.index(axis) for axis in range(rank)])


def _ordered(array: tf.Tensor, order: Sequence[int]) -> tf.Tensor:
    return array if list(order) == list(range(len(order))) else tf.transpose(array, order)


def _range(start: tf.Tensor, width: int) -> tf.Tensor:
    """(R, width): ``start`` and the places that follow."""
    return start[:, None] + tf.range(width, dtype=tf.int64)


def _flat(places: Sequence[tf.Tensor], sizes: Sequence[int]) -> tf.Tensor:
    """The number of each place of a box, (R, widths …), in an array whose axes after the first have ``sizes``."""
    total = tf.zeros((), tf.int64)
    for i, place in enumerate(places):
        total = total + _along(place * math.prod(sizes[i:]), i, len(places))
    return total


def _along(place: tf.Tensor, axis: int, count: int) -> tf.Tensor:
    """(R, width) with the width along axis ``axis`` of ``count``; the numbers of the rows, axis 0, stay (R, 1 …)."""
    width = place.shape[1]
    return tf.reshape(place, [-1, *(width if i == axis else 1 for i in range(1, count))])

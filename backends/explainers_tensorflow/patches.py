"""Boxes of samples, with windows of each row in them."""

from __future__ import annotations

import math
from collections.abc import Sequence

import tensorflow as tf


def patches(
    base: tf.Tensor, sample: tf.Tensor, axes: Sequence[int], starts: Sequence[tf.Tensor], widths: Sequence[int],
    margins: Sequence[tuple[int, int]], fill: float, window: tf.Tensor | None, at: Sequence[tf.Tensor],
) -> tf.Tensor:  # fmt: skip
    """For each row a box of its sample, with the row's own window in it."""
    rank = base.shape.rank
    rest = [axis for axis in range(1, rank) if axis not in axes]
    order = [0, *axes, *rest]
    source = tf.transpose(base, order)
    if any(map(any, margins)):
        amounts = [(0, 0), *margins, *[(0, 0)] * len(rest)]
        source = tf.pad(source, amounts, constant_values=tf.cast(fill, base.dtype))
    sizes, inner = source.shape[1 : 1 + len(axes)], source.shape[1 + len(axes) :]
    flat = tf.reshape(source, (-1, math.prod(inner)))
    boxes = [_range(s + m[0], w) for s, m, w in zip(starts, margins, widths, strict=True)]
    result = tf.gather(flat, _flat([sample[:, None], *boxes], sizes))
    if window is not None:
        own = tf.transpose(window, order)
        places = [_range(a - s, size) for a, s, size in zip(at, starts, own.shape[1 : 1 + len(axes)], strict=True)]
        inside = tf.ones((), tf.bool)
        for i, (place, width) in enumerate(zip(places, widths, strict=True)):
            inside = inside & _along((place >= 0) & (place < width), i + 1, len(places) + 1)
        target = _flat([tf.range(tf.shape(sample, tf.int64)[0])[:, None], *places], widths)
        kept = tf.where(tf.reshape(inside, (-1,)))[:, 0]
        values = tf.gather(tf.reshape(own, (-1, math.prod(inner))), kept)
        result = tf.tensor_scatter_nd_update(result, tf.gather(target, kept)[:, None], values)
    shaped = tf.reshape(result, (-1, *widths, *inner))
    return tf.transpose(shaped, [order.index(axis) for axis in range(rank)])


def _range(start: tf.Tensor, width: int) -> tf.Tensor:
    """(R, width): ``start`` and the places that follow."""
    return start[:, None] + tf.range(width, dtype=tf.int64)


def _flat(places: Sequence[tf.Tensor], sizes: Sequence[int]) -> tf.Tensor:
    """The number of each place of a box, (R·Π widths,), in an array whose axes after the first have ``sizes``."""
    total = tf.zeros((), tf.int64)
    for i, place in enumerate(places):
        total = total + _along(place * math.prod(sizes[i:]), i, len(places))
    return tf.reshape(total, (-1,))


def _along(place: tf.Tensor, axis: int, count: int) -> tf.Tensor:
    """(R, width) with the width along axis ``axis`` of ``count``; the numbers of the rows, axis 0, stay (R, 1 …)."""
    width = place.shape[1]
    return tf.reshape(place, [-1, *(width if i == axis else 1 for i in range(1, count))])

"""The array namespace that programs are written in, for numpy; the part that forward-only methods use."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from explainers.graph import Node

Array = Any
no_derivative = RuntimeError
where = np.where
CHEAP_COPY = 2**18  # bytes
zeros_like = np.zeros_like
ones_like = np.ones_like
absolute = np.abs
maximum = np.maximum
matmul = np.matmul
bits_and = np.bitwise_and
bits_xor = np.bitwise_xor
shift_right = np.right_shift


def evaluate(node: Node, arrays: Sequence[Array]) -> tuple[Array, ...]:
    return (node.payload(*arrays),)


def select(mask: Array, x: Array, y: Array) -> Array:
    """``where``, for masks without a pattern: numbers' bits need no branches, which would be guessed wrong.

    Rows ``x`` that were taken are written over: a new array costs more than its numbers.
    """
    if x.dtype != y.dtype or x.dtype not in (np.float16, np.float32, np.float64):
        return np.where(mask, x, y)
    whole = f"i{x.dtype.itemsize}"
    chosen = (x if x.flags.writeable else x.copy()).view(whole)
    chosen ^= y.view(whole)
    chosen *= mask
    chosen ^= y.view(whole)
    return chosen.view(x.dtype)


def take(array: Array, index: Array) -> Array:
    if len(array) == 1 and len(index) * array.nbytes > CHEAP_COPY:  # all rows have the same one
        return np.broadcast_to(array, (len(index), *array.shape[1:]))
    return np.take(array, index, axis=0)


def take_columns(array: Array, index: Array) -> Array:
    return array[:, index]


def unpack_bits(array: Array, count: int) -> Array:
    """The first ``count`` bits of each row of bytes, as booleans."""
    return np.unpackbits(array).reshape(len(array), -1)[:, :count].view(bool)


def gather_rows(array: Array, index: Array, axis: int) -> Array:
    """Each row's own entries ``index``, (R, K), along ``axis`` of a sample."""
    spread = index.reshape(len(index), *(index.shape[1] if i == axis else 1 for i in range(array.ndim - 1)))
    return np.take_along_axis(array, spread, axis + 1)


def arange(size: int, like: Array) -> Array:
    return np.arange(size)


def reshape_rows(array: Array, shape: tuple[int, ...]) -> Array:
    return array.reshape(len(array), *shape)


def move_axis(array: Array, source: int, destination: int) -> Array:
    return np.moveaxis(array, source, destination)


def scale_rows(array: Array, factor: Array) -> Array:
    """Multiply each row by its own number."""
    return array * factor.reshape(-1, *([1] * (array.ndim - 1)))


def row_sum(array: Array) -> Array:
    """The sum of each row, (R,)."""
    return array.reshape(len(array), -1).sum(axis=1) if array.ndim > 1 else array


def segment_sum(array: Array, index: Array, like: Array) -> Array:
    """Sum the rows of ``array`` that share an index; as many segments as ``like`` has rows."""
    total = np.zeros((len(like), *array.shape[1:]), array.dtype)
    np.add.at(total, index, array)
    return total


def cast(array: Array, dtype: str) -> Array:
    return array.astype(dtype, copy=False)


def cast_like(array: Array, like: Array) -> Array:
    return array.astype(like.dtype, copy=False)


def wide(array: Array) -> str:
    """The dtype to compute in beside ``array``."""
    return "float64" if array.dtype == np.float64 else "float32"


def rows_equal(row: Array, array: Array) -> Array:
    """(R, …): whether each row's number equals each entry of ``array``, which has no row axis."""
    return row.reshape(-1, *([1] * array.ndim)) == array

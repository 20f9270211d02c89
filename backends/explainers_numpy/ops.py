"""The numpy implementation of the array namespace :class:`explainers.ops.Ops`."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from statistics import NormalDist
from typing import Any

import numpy as np

from explainers.graph import Node

from .patches import patches as patches

Array = Any
no_derivative = LookupError
CHEAP_COPY = 2**18  # bytes
where = np.where
equal = np.equal
absolute = np.abs
signum = np.sign
exp = np.exp
expm1 = np.expm1
log = np.log
maximum = np.maximum
minimum = np.minimum
zeros_like = np.zeros_like
ones_like = np.ones_like
matmul = np.matmul
bits_and = np.bitwise_and
bits_xor = np.bitwise_xor
shift_right = np.right_shift
move_axis = np.moveaxis
insert_axis = np.expand_dims


# --- operations of the model -----------------------------------------------------------------


def evaluate(node: Node, arrays: Sequence[Array]) -> tuple[Array, ...]:
    """Call the node's function, which returns an array or a tuple of arrays."""
    found = node.payload(*arrays)
    return found if isinstance(found, tuple) else (found,)


def evaluate_window(node: Node, arrays: Sequence[Array], shape: tuple[int, ...]) -> tuple[Array, ...]:
    return evaluate(node, arrays)  # functions on arrays are called as a whole; none has windows


def weight_factors(node: Node, arrays: Sequence[Array], message: Array) -> tuple[Array, Array, int]:
    raise no_derivative(f"{node.op} is a function, whose weights are its own")


def weight_gradients(
    node: Node, arrays: Sequence[Array], place: int, axes: Sequence[int | None], message: Array, axis: int
) -> Array:
    raise no_derivative(f"{node.op} is a function, whose weights are its own")


def pull_each(node: Node, arrays: Sequence[Array], place: int, messages: Sequence[Array | None]) -> Array:
    raise no_derivative(f"{node.op} is a function, whose weights are its own")


def input_gradients(
    function: Callable[..., tuple[Array, Array]], arrays: Sequence[Array]
) -> tuple[Array, Sequence[Array]]:
    raise no_derivative("functions of numpy have no derivative")


def run_each(node: Node, arrays: Sequence[Array], places: Sequence[int], models: int) -> None:
    return None


def reshape(array: Array, sizes: tuple[int, ...]) -> Array:
    return array.reshape(sizes)


def split_batch(array: Array, axis: int, before: int, behind: int) -> Array:
    sizes = array.shape
    inner = (1, 1, 1) if sizes[axis] == 1 else (before, sizes[axis] // (before * behind), behind)
    return array.reshape(*sizes[:axis], *inner, *sizes[axis + 1 :])


def one_hot(ids: Array, count: int, like: Array) -> Array:
    return (ids[..., None] == np.arange(count)).astype(like.dtype)


def vjp(
    node: Node, arrays: Sequence[Array], places: Sequence[int]
) -> tuple[tuple[Array, ...], Callable[[Sequence[Array | None]], Sequence[Array | None]]]:
    """The node's outputs, and the ``vjp(arrays, messages)`` that its function brings: one array for each operand.

    Functions from users have none.
    """
    derivative = getattr(node.payload, "vjp", None)

    def pullback(messages: Sequence[Array | None]) -> Sequence[Array | None]:
        if derivative is None:
            raise no_derivative(f"{node.op} is a function without a derivative")
        found = derivative(arrays, messages)
        return [found[place] for place in places]

    return evaluate(node, arrays), pullback


def winners(
    node: Node, x: Sequence[Array], y: Sequence[Array], y_r: Sequence[Array], from_x: Array, share: Array
) -> list[Array] | None:
    """None: functions do not report which entries they picked."""
    return None


# --- entry by entry --------------------------------------------------------------------------


def select(mask: Array, x: Array, y: Array) -> Array:
    """``where`` by bit operations, for irregular masks: avoids mispredicted branches.

    Overwrites ``x``, which holds gathered rows: allocating a new array would cost more than the computation.
    """
    if x.dtype != y.dtype or x.dtype not in (np.float16, np.float32, np.float64):
        return np.where(mask, x, y)
    whole = f"i{x.dtype.itemsize}"
    chosen = (x if x.flags.writeable else x.copy()).view(whole)
    chosen ^= y.view(whole)
    chosen *= mask
    chosen ^= y.view(whole)
    return chosen.view(x.dtype)


def sign(array: Array) -> Array:
    return np.where(array >= 0, 1, -1).astype(array.dtype)


def at_least(array: Array, number: float) -> Array:
    return np.maximum(array, array.dtype.type(number))


def difference(x: Array, r: Array) -> Array:
    with np.errstate(invalid="ignore"):
        return np.where(x == r, 0, x - r)


def midway(x: Array, r: Array) -> Array:
    return (x + r) * 0.5


def minus_product(array: Array, a: Array, b: Array) -> Array:
    return array - a * b


def zeroed(array: Array, where: Array) -> Array:
    return np.where(where, array.dtype.type(0), array)


def finite(array: Array) -> Array:
    return np.nan_to_num(array, nan=0, posinf=0, neginf=0)


def normal(uniform: Array) -> Array:
    return np.vectorize(NormalDist().inv_cdf, otypes=[np.float64])(uniform).astype(uniform.dtype)


# --- sums and maxima -------------------------------------------------------------------------


def total(array: Array) -> Array:
    return array.sum().reshape(1)


def sum_axis(array: Array, axis: int) -> Array:
    return array.sum(axis)


def reduce_sum(array: Array, axis: Any) -> Array:
    return array.sum(axis, keepdims=True)


def reduce_max(array: Array, axis: Any) -> Array:
    return array.max(axis, keepdims=True)


def sum_like(array: Array, like: Array) -> Array:
    extra = array.ndim - like.ndim
    axes = [i for i in range(array.ndim) if i < extra or (like.shape[i - extra] == 1 and array.shape[i] != 1)]
    return array.sum(tuple(axes)).reshape(like.shape) if axes else array


def _by_row(array: Array) -> Array:
    return array.reshape(len(array), math.prod(array.shape[1:]))


def row_sum(array: Array) -> Array:
    return _by_row(array).sum(axis=1) if array.ndim > 1 else array


def row_max(array: Array) -> Array:
    return _by_row(array).max(axis=1) if array.ndim > 1 else array


def row_min(array: Array) -> Array:
    return _by_row(array).min(axis=1) if array.ndim > 1 else array


def row_mean(array: Array) -> Array:
    return array.mean(-1, keepdims=True) if array.ndim > 1 else np.zeros_like(array)


def one_hot_max(array: Array) -> Array:
    if array.ndim == 1:
        return np.ones_like(array)
    flat = _by_row(array)
    return (flat.argmax(1)[:, None] == np.arange(flat.shape[1])).astype(array.dtype).reshape(array.shape)


def segment_sum(array: Array, index: Array, like: Array) -> Array:
    found = np.zeros((len(like), *array.shape[1:]), array.dtype)
    np.add.at(found, index, array)
    return found


# --- indexing, reshaping, repeating -----------------------------------------------------------


def take(array: Array, index: Array) -> Array:
    if len(array) == 1 and len(index) * array.nbytes > CHEAP_COPY:  # all rows have the same index
        return np.broadcast_to(array, (len(index), *array.shape[1:]))
    return np.take(array, index, axis=0)


def take_columns(array: Array, index: Array) -> Array:
    return array[:, index]


def gather_rows(array: Array, index: Array, axis: int) -> Array:
    spread = index.reshape(len(index), *(index.shape[1] if i == axis else 1 for i in range(array.ndim - 1)))
    return np.take_along_axis(array, spread, axis + 1)


def unpack_bits(array: Array, count: int) -> Array:
    return np.unpackbits(array).reshape(len(array), -1)[:, :count].view(bool)


def rows_equal(row: Array, array: Array) -> Array:
    return row.reshape(-1, *([1] * array.ndim)) == array


def scale_rows(array: Array, factor: Array) -> Array:
    return array * factor.reshape(-1, *([1] * (array.ndim - 1)))


def reshape_rows(array: Array, shape: tuple[int, ...]) -> Array:
    return array.reshape(len(array), *shape)


def sample_shape(array: Array) -> tuple[int, ...]:
    return tuple(array.shape[1:])


def row_numbers(array: Array) -> Array:
    return np.arange(len(array))


def concat(arrays: Sequence[Array], axis: int) -> Array:
    return np.concatenate(list(arrays), axis)


def stack(arrays: Sequence[Array]) -> Array:
    return np.stack(list(arrays), -1)


def split_axis(array: Array, axis: int, first: Array, first_axis: int, second: Array, second_axis: int) -> Array:
    sizes = (first.shape[first_axis], second.shape[second_axis])
    return array.reshape(*array.shape[:axis], *sizes, *array.shape[axis + 1 :])


def join_axis(array: Array, axis: int) -> Array:
    return array.reshape(*array.shape[:axis], array.shape[axis] * array.shape[axis + 1], *array.shape[axis + 2 :])


def expand_axis(array: Array, axis: int, like: Array, like_axis: int) -> Array:
    return np.broadcast_to(array, (*array.shape[:axis], like.shape[like_axis], *array.shape[axis + 1 :]))


def broadcast_like(array: Array, like: Array) -> Array:
    return np.broadcast_to(array, like.shape)


# --- new arrays, and dtypes ------------------------------------------------------------------


def arange(size: int, like: Array) -> Array:
    return np.arange(size)


def blank(array: Array, axis: int, first: Array, second: Array) -> Array:
    return np.empty((*array.shape[:axis], len(first) * len(second), *array.shape[axis + 1 :]), array.dtype)


def cast(array: Array, dtype: str) -> Array:
    return array.astype(dtype, copy=False)


def cast_like(array: Array, like: Array) -> Array:
    return array.astype(like.dtype, copy=False)


def wide(array: Array) -> str:
    return "float64" if array.dtype == np.float64 else "float32"


def epsilon(array: Array) -> float:
    return float(np.finfo(array.dtype).eps)

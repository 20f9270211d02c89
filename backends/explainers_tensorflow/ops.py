"""The TensorFlow implementation of the array namespace :class:`explainers.ops.Ops`.

Every function works both inside a ``tf.function`` and eagerly.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from copy import copy
from functools import cached_property
from typing import Any

import ml_dtypes
import tensorflow as tf
from tensorflow.core.framework.attr_value_pb2 import AttrValue
from tensorflow.python.eager import context, execute
from tensorflow.python.framework.ops import get_gradient_function

from explainers.graph import Node

from . import products
from .patches import patches as patches
from .weights import one_hot as one_hot
from .weights import pull_each as pull_each
from .weights import run_each as run_each
from .weights import split_batch as split_batch
from .weights import weight_factors as weight_factors
from .weights import weight_gradients as weight_gradients
from .windows import evaluate_window as evaluate_window

no_derivative = LookupError
where = select = tf.where
zeros_like = tf.zeros_like
cast = tf.cast


# --- weights ---------------------------------------------------------------------------------

FIXED_TABLES = (tf.lookup.StaticHashTable, tf.lookup.StaticVocabularyTable)  # filled once


def is_table(weight: Any) -> bool:
    """Whether ``weight`` is a lookup table of words or numbers, or the handle of one."""
    return hasattr(weight, "resource_handle") or getattr(weight, "dtype", None) == tf.resource


def read(weight: Any) -> Any:
    """The current value of a variable; for a table, its handle."""
    return getattr(weight, "resource_handle", weight) if is_table(weight) else tf.convert_to_tensor(weight)


# --- operations of the model -----------------------------------------------------------------


class Recipe:
    """The data to recreate an operation: its type, the dtypes of its outputs, its attributes."""

    def __init__(self, op: tf.Operation) -> None:
        self.type = op.type
        self.dtypes = [out.dtype for out in op.outputs]
        self.definition = op.op_def
        names = {attr.name for attr in op.op_def.attr}
        self.attributes = {name: value for name, value in op.node_def.attr.items() if name in names}

    def of_type(self, kind: str) -> Recipe:
        """A recipe of another operation type with the same attributes."""
        recipe = copy(self)
        recipe.type, recipe.definition = kind, None
        return recipe

    def with_attributes(self, **given: AttrValue) -> Recipe:
        """A recipe of the same operation with other attributes."""
        recipe = copy(self)
        recipe.attributes = self.attributes | given
        for cached in ("plain", "flat"):
            recipe.__dict__.pop(cached, None)
        return recipe

    def with_numbers(self, name: str, numbers: Sequence[int]) -> Recipe:
        return self.with_attributes(**{name: AttrValue(list=AttrValue.ListValue(i=numbers))})

    def unpadded(self) -> Recipe:
        """A recipe of the same convolution or pool without padding."""
        recipe = self.with_attributes(padding=AttrValue(s=b"VALID"))
        return recipe.with_numbers("explicit_paddings", []) if "explicit_paddings" in self.attributes else recipe

    def make(self, name: str, arrays: Sequence[Any]) -> Any:
        """Run the operation on ``arrays``: returns a ``tf.Operation`` in a graph, else an :class:`EagerOperation`."""
        if tf.executing_eagerly():
            return EagerOperation(self, list(arrays))
        return tf.compat.v1.get_default_graph().create_op(
            self.type, list(arrays), self.dtypes, attrs=self.attributes, op_def=self.definition, name=name
        )

    def gradients(
        self, op: Any, arrays: Sequence[Any], cotangents: Sequence[Any], places: Sequence[int]
    ) -> list[Any | None]:  # fmt: skip
        """The derivative registered with TensorFlow, or a faster equal one, towards the inputs at ``places``."""
        if tuple(places) == (0,):
            product = products.towards_rows(op, cotangents[0])
            if product is not None:
                return [product]
        function = get_gradient_function(op)
        if function is None:
            return [None] * len(places)
        found = function(op, *cotangents)
        found = found if isinstance(found, (list, tuple)) else [found]
        return [found[place] for place in places]

    @cached_property
    def plain(self) -> dict[str, Any]:
        """The attributes as ``tf.Operation.get_attr`` gives them."""
        return {name: _plain(value) for name, value in self.attributes.items()}

    @cached_property
    def flat(self) -> tuple[Any, ...]:
        """The attributes as the eager runtime takes them: name, value, name, value …"""
        return tuple(part for name, value in self.plain.items() for part in (name, _eager(value)))


class EagerOperation:
    """An eagerly executed operation, with the parts of ``tf.Operation`` that gradient functions use."""

    _gradient_function = None
    name = ""

    def __init__(self, recipe: Recipe, inputs: list[Any]) -> None:
        self.type = recipe.type
        self.recipe = recipe
        self.inputs = inputs
        if recipe.type == "Const":
            self.outputs = [tf.constant(tf.make_ndarray(recipe.attributes["value"].tensor))]
        else:
            count = len(recipe.dtypes)
            self.outputs = execute.execute(recipe.type, count, inputs, recipe.flat, context.context())

    def get_attr(self, name: str) -> Any:
        if name not in self.recipe.plain:
            raise ValueError(f"operation {self.type} has no attribute {name}")
        return self.recipe.plain[name]


def _plain(value: Any) -> Any:
    kind = value.WhichOneof("value")
    if kind == "list":
        for field in ("s", "i", "f", "b", "type", "shape", "tensor"):
            entries = getattr(value.list, field)
            if entries:
                return [tf.as_dtype(e) for e in entries] if field == "type" else list(entries)
        return []
    plain = getattr(value, kind)
    return tf.as_dtype(plain) if kind == "type" else plain


def _eager(value: Any) -> Any:
    if isinstance(value, list):
        return [_eager(entry) for entry in value]
    if isinstance(value, tf.DType):
        return value.as_datatype_enum
    if hasattr(value, "unknown_rank"):
        return None if value.unknown_rank else [dim.size for dim in value.dim]
    return value


def evaluate(node: Node, arrays: Sequence[Any]) -> tuple[Any, ...]:
    """Run the node's operation on the values of its inputs."""
    return _outputs(node, node.payload.make(node.name, arrays))


def _outputs(node: Node, op: Any) -> tuple[Any, ...]:
    """The operation's outputs, with the node's shapes where TensorFlow infers less."""
    for tensor, expected_output in zip(op.outputs, node.outputs, strict=True):
        rank = tensor.shape.rank
        if rank is None or (rank == len(expected_output.shape) and None in tensor.shape[1:]):
            tensor.set_shape(expected_output.shape)
    return tuple(op.outputs)


def vjp(
    node: Node, arrays: Sequence[Any], places: Sequence[int]
) -> tuple[tuple[Any, ...], Callable[[Sequence[Any]], Sequence[Any]]]:
    """Run the node and return its outputs with its vector–Jacobian product towards ``places``.

    Uses the operation's own gradient function, called for this operation alone, so that no path through
    another node contributes.
    """
    op = node.payload.make(node.name, arrays)

    def pullback(messages: Sequence[Any]) -> Sequence[Any]:
        cotangents = [
            tf.zeros_like(out) if m is None and (out.dtype.is_floating or out.dtype.is_complex) else m
            for out, m in zip(op.outputs, messages, strict=True)
        ]
        with tf.name_scope("walk"):
            gradients = node.payload.gradients(op, arrays, cotangents, places)
        return [_dense(gradient, arrays[place]) for gradient, place in zip(gradients, places, strict=True)]

    return _outputs(node, op), pullback


def input_gradients(function: Callable[..., tuple[Any, Any]], arrays: Sequence[Any]) -> tuple[Any, Sequence[Any]]:
    def run(*arrays: Any) -> tuple[Any, Sequence[Any]]:
        y, z = function(*arrays)
        found = tf.gradients(y, arrays, unconnected_gradients=tf.UnconnectedGradients.ZERO)
        return z, [_dense(gradient, array) for gradient, array in zip(found, arrays, strict=True)]

    if not tf.executing_eagerly():
        return run(*arrays)
    return tf.function(run, autograph=False)(*arrays)  # operations that are run one by one are on no tape


def _dense(gradient: Any, array: Any) -> Any:
    if isinstance(gradient, tf.IndexedSlices):
        size = array.shape[0] if array.shape[0] is not None else tf.shape(array)[0]
        gradient = tf.math.unsorted_segment_sum(gradient.values, gradient.indices, size)
    if gradient is not None and not tf.executing_eagerly():
        gradient.set_shape(array.shape)
    return gradient


# --- arrays ----------------------------------------------------------------------------------


def bits_and(array: tf.Tensor, other: Any) -> tf.Tensor:
    return tf.bitwise.bitwise_and(array, tf.convert_to_tensor(other, array.dtype))


def bits_xor(array: tf.Tensor, other: Any) -> tf.Tensor:
    return tf.bitwise.bitwise_xor(array, tf.convert_to_tensor(other, array.dtype))


def shift_right(array: tf.Tensor, count: Any) -> tf.Tensor:
    return tf.bitwise.right_shift(array, tf.convert_to_tensor(count, array.dtype))


def arange(size: int, like: tf.Tensor) -> tf.Tensor:
    """0 … size−1 as int64."""
    return tf.range(size, dtype=tf.int64)


def row_numbers(like: tf.Tensor) -> tf.Tensor:
    return tf.range(tf.cast(_size(like, 0), tf.int64), dtype=tf.int64)


def take(array: tf.Tensor, index: tf.Tensor) -> tf.Tensor:
    return tf.gather(array, index)


def segment_sum(array: tf.Tensor, index: tf.Tensor, like: tf.Tensor) -> tf.Tensor:
    """Sum the rows of ``array`` that share an index; as many segments as ``like`` has rows."""
    count = like.shape[0] if like.shape[0] is not None else tf.shape(like)[0]
    return tf.math.unsorted_segment_sum(array, index, count)


def total(array: tf.Tensor) -> tf.Tensor:
    """The sum of all entries, (1,)."""
    return tf.reshape(tf.reduce_sum(array), (1,))


def cast_like(array: tf.Tensor, like: tf.Tensor) -> tf.Tensor:
    return tf.cast(array, like.dtype)


def wide(array: tf.Tensor) -> str:
    """The dtype for accumulations over ``array``."""
    return "float64" if array.dtype == tf.float64 else "float32"


def sample_shape(array: tf.Tensor) -> tuple[int, ...]:
    return tuple(array.shape[1:])


def reshape(array: tf.Tensor, sizes: tuple[int, ...]) -> tf.Tensor:
    return tf.reshape(array, sizes)


def reshape_rows(array: tf.Tensor, shape: tuple[int, ...]) -> tf.Tensor:
    return tf.reshape(array, (-1, *shape)) if 0 not in shape else tf.zeros((tf.shape(array)[0], *shape), array.dtype)


def _column(row: tf.Tensor, like: tf.Tensor) -> tf.Tensor:
    return tf.reshape(row, [-1] + [1] * (like.shape.rank - 1))


def scale_rows(array: tf.Tensor, factor: tf.Tensor) -> tf.Tensor:
    """Multiply each row by its own number."""
    return array * tf.cast(_column(factor, array), array.dtype)


def rows_equal(row: tf.Tensor, array: tf.Tensor) -> tf.Tensor:
    """(R, …): whether each row's number equals each entry of ``array``, which has no row axis."""
    return tf.equal(tf.reshape(row, [-1] + [1] * array.shape.rank), array)


def take_columns(array: tf.Tensor, index: tf.Tensor) -> tf.Tensor:
    return tf.gather(array, index, axis=1)


def unpack_bits(array: tf.Tensor, count: int) -> tf.Tensor:
    """The first ``count`` bits of each row of bytes, as booleans."""
    bits = tf.bitwise.bitwise_and(array[:, :, None], tf.constant([128 >> place for place in range(8)], array.dtype))
    return tf.reshape(tf.cast(bits, tf.bool), [-1, 8 * array.shape[1]])[:, :count]


def gather_rows(array: tf.Tensor, index: tf.Tensor, axis: int) -> tf.Tensor:
    """For each row its entries ``index``, (R, K), along ``axis`` of a sample."""
    front = move_axis(array, axis + 1, 1)
    return move_axis(tf.gather(front, index, axis=1, batch_dims=1), 1, axis + 1)


def matmul(a: tf.Tensor, b: tf.Tensor) -> tf.Tensor:
    return tf.matmul(a, b)


def difference(x: tf.Tensor, r: tf.Tensor) -> tf.Tensor:
    """x − r; 0 where both are the same infinity, as in a mask."""
    return tf.where(tf.equal(x, r), tf.zeros((), x.dtype), x - r)


def midway(x: tf.Tensor, r: tf.Tensor) -> tf.Tensor:
    return (x + r) * 0.5


def minus_product(array: tf.Tensor, a: tf.Tensor, b: tf.Tensor) -> tf.Tensor:
    """array − a·b."""
    return array - a * b


def zeroed(array: tf.Tensor, where: tf.Tensor) -> tf.Tensor:
    """0 where ``where``; the two broadcast."""
    return tf.where(where, tf.zeros((), array.dtype), array)


def finite(array: tf.Tensor) -> tf.Tensor:
    """0 in the place of NaN and infinity."""
    return tf.where(tf.math.is_finite(array), array, tf.zeros((), array.dtype))


def at_least(array: tf.Tensor, number: float) -> tf.Tensor:
    return tf.maximum(array, tf.constant(number, array.dtype))


def row_sum(array: tf.Tensor) -> tf.Tensor:
    """The sum of each row, (R,)."""
    return tf.reduce_sum(array, list(range(1, array.shape.rank)))


def row_max(array: tf.Tensor) -> tf.Tensor:
    return tf.reduce_max(array, list(range(1, array.shape.rank)))


def row_min(array: tf.Tensor) -> tf.Tensor:
    return tf.reduce_min(array, list(range(1, array.shape.rank)))


def one_hot_max(array: tf.Tensor) -> tf.Tensor:
    """1 at each row's first largest entry, else 0."""
    if array.shape.rank == 1:
        return tf.ones_like(array)
    flat = tf.reshape(array, (-1, math.prod(array.shape[1:])))
    first = tf.one_hot(tf.argmax(flat, 1), flat.shape[1], dtype=array.dtype)
    return tf.reshape(first, tf.shape(array))


def normal(uniform: tf.Tensor) -> tf.Tensor:
    """Standard normal numbers from uniform ones, by the inverse distribution function."""
    return tf.math.erfinv(uniform * 2 - 1) * math.sqrt(2)


# --- functions for rules ---------------------------------------------------------------------

absolute = tf.abs
equal = tf.equal  # unlike ==, it keeps static shapes
exp = tf.exp
expm1 = tf.math.expm1
log = tf.math.log
maximum = tf.maximum
minimum = tf.minimum
ones_like = tf.ones_like
signum = tf.sign
insert_axis = tf.expand_dims


def epsilon(array: tf.Tensor) -> float:
    """The distance from 1 to the next number of the array's dtype."""
    return float(ml_dtypes.finfo(array.dtype.as_numpy_dtype).eps)


def sign(array: tf.Tensor) -> tf.Tensor:
    """1 where ``array`` ≥ 0, else −1."""
    return tf.cast(array >= 0, array.dtype) * 2 - 1


def reduce_sum(array: tf.Tensor, axis: int) -> tf.Tensor:
    return tf.reduce_sum(array, axis, keepdims=True)


def reduce_max(array: tf.Tensor, axis: int) -> tf.Tensor:
    return tf.reduce_max(array, axis, keepdims=True)


def row_mean(array: tf.Tensor) -> tf.Tensor:
    """Mean over the last axis, kept with size 1; 0 for one number per row."""
    return tf.reduce_mean(array, -1, keepdims=True) if array.shape.rank > 1 else tf.zeros_like(array)


def sum_axis(array: tf.Tensor, axis: int) -> tf.Tensor:
    return tf.reduce_sum(array, axis)


def stack(arrays: Sequence[tf.Tensor]) -> tf.Tensor:
    return tf.stack(list(arrays), -1)


def concat(arrays: Sequence[tf.Tensor], axis: int) -> tf.Tensor:
    return tf.concat(list(arrays), axis)


def move_axis(array: tf.Tensor, source: int, destination: int) -> tf.Tensor:
    order = [i for i in range(array.shape.rank) if i != source]
    order.insert(destination, source)
    return array if source == destination else tf.transpose(array, order)


def split_axis(
    array: tf.Tensor, axis: int, first: tf.Tensor, first_axis: int, second: tf.Tensor, second_axis: int
) -> tf.Tensor:
    """An axis of size U·B as two: U is the size of ``first`` along its axis, B that of ``second``."""
    pair = [_size(first, first_axis), _size(second, second_axis)]
    return _reshaped(array, [*_sizes(array, 0, axis), *pair, *_sizes(array, axis + 1)])


def join_axis(array: tf.Tensor, axis: int) -> tf.Tensor:
    """The axes ``axis`` and ``axis + 1`` as one."""
    first, second = array.shape[axis], array.shape[axis + 1]
    guess = (first is None or second is None) and 0 not in tuple(array.shape)
    size = -1 if guess else _size(array, axis) * _size(array, axis + 1)
    return _reshaped(array, [*_sizes(array, 0, axis), size, *_sizes(array, axis + 2)])


def expand_axis(array: tf.Tensor, axis: int, like: tf.Tensor, like_axis: int) -> tf.Tensor:
    """An axis of size 1 expanded to the size of ``like`` along ``like_axis``; no change if it has that size."""
    return _expanded(array, [*_sizes(array, 0, axis), _size(like, like_axis), *_sizes(array, axis + 1)])


def broadcast_like(array: tf.Tensor, like: tf.Tensor) -> tf.Tensor:
    return _expanded(array, _sizes(like))


def blank(array: tf.Tensor, axis: int, first: tf.Tensor, second: tf.Tensor) -> tf.Tensor:
    """An array in the shape of ``array``, but at ``axis`` of the size rows of ``first`` times rows of ``second``."""
    rows = _size(first, 0) * _size(second, 0)
    return _expanded(tf.zeros((), array.dtype), [*_sizes(array, 0, axis), rows, *_sizes(array, axis + 1)])


def sum_like(array: tf.Tensor, like: tf.Tensor) -> tf.Tensor:
    """``array`` summed over the axes along which ``like`` was broadcast to it."""
    if array.shape.is_fully_defined() and array.shape == like.shape:
        return array
    _, axes = tf.raw_ops.BroadcastGradientArgs(s0=tf.shape(array), s1=tf.shape(like))
    return _reshaped(tf.reduce_sum(array, axes), _sizes(like))


def winners(
    node: Node, x: Sequence[Any], y: Sequence[Any], y_r: Sequence[Any], from_x: tf.Tensor, share: tf.Tensor
) -> list[tf.Tensor] | None:
    """None: TensorFlow's pools do not report which entries they picked."""
    return None


def _sizes(array: tf.Tensor, start: int = 0, stop: int | None = None) -> list[Any]:
    """The sizes of the axes from ``start`` to ``stop``: ints where known, else scalar tensors."""
    return [_size(array, axis) for axis in range(array.shape.rank)[start:stop]]


def _size(array: tf.Tensor, axis: int) -> Any:
    if array.shape[axis] is not None:
        return array.shape[axis]
    if not hasattr(array, "_dynamic_sizes"):  # the size of the same array is used many times
        array._dynamic_sizes = {}
    if axis not in array._dynamic_sizes:
        array._dynamic_sizes[axis] = tf.shape(array)[axis]
    return array._dynamic_sizes[axis]


def _reshaped(array: tf.Tensor, sizes: list[Any]) -> tf.Tensor:
    known = _known(sizes)
    if known.count(None) == 1 and 0 not in known:  # no need to compute it
        sizes = [-1 if size is None else size for size in known]
    return _with_sizes(tf.reshape(array, sizes), sizes)


def _expanded(array: tf.Tensor, sizes: list[Any]) -> tf.Tensor:
    known = _known(sizes)
    if None not in known and array.shape == known:
        return array
    return _with_sizes(tf.broadcast_to(array, sizes), sizes)


def _known(sizes: list[Any]) -> list[int | None]:
    return [size if isinstance(size, int) and size >= 0 else None for size in sizes]


def _with_sizes(array: tf.Tensor, sizes: list[Any]) -> tf.Tensor:
    """``array``, with its known sizes cached for later calls."""
    array.set_shape(_known(sizes))
    if not tf.executing_eagerly():
        array._dynamic_sizes = {axis: size for axis, size in enumerate(sizes) if not isinstance(size, int)}
    return array

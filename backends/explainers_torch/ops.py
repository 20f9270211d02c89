"""The torch implementation of the array namespace :class:`explainers.ops.Ops`.

Every function works both on real tensors and on the fake tensors of a trace.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from explainers.graph import Node

from . import twice
from .locality import evaluate_window as evaluate_window
from .locality import patches as patches
from .operands import Operand
from .operands import evaluate as evaluate
from .weights import one_hot as one_hot
from .weights import pull_each as pull_each
from .weights import run_each as run_each
from .weights import split_batch as split_batch
from .weights import weight_factors as weight_factors
from .weights import weight_gradients as weight_gradients

_aten = torch.ops.aten
no_derivative = RuntimeError
where = select = torch.where
zeros_like = torch.zeros_like
bits_and = torch.bitwise_and
bits_xor = torch.bitwise_xor
shift_right = torch.bitwise_right_shift


def vjp(
    node: Node, arrays: Sequence[Any], places: Sequence[int]
) -> tuple[tuple[Any, ...], Callable[[Sequence[Tensor | None]], Sequence[Tensor | None]]]:
    """Run the node and return its outputs with its vector–Jacobian product towards ``places``.

    Where gradients are recorded, by :func:`input_gradients`, messages can be differentiated again.
    """
    again = torch.is_grad_enabled()
    with torch.enable_grad():
        arrays = list(arrays)
        for place in places:  # tensors of its own, since another operand may depend on this one
            own = arrays[place] if again else arrays[place].detach()
            arrays[place] = own.view_as(own) if own.requires_grad else own.detach().requires_grad_(True)
        attached = (twice.evaluate if again else evaluate)(node, arrays)

    def pullback(messages: Sequence[Tensor | None]) -> Sequence[Tensor | None]:
        pairs = [(y, m) for y, m in zip(attached, messages, strict=True) if m is not None and y.requires_grad]
        if not pairs:
            return [None] * len(places)
        outs, cotangents = zip(*pairs, strict=True)
        inputs = [arrays[p] for p in places]
        return torch.autograd.grad(outs, inputs, cotangents, retain_graph=True, create_graph=again, allow_unused=True)

    return tuple(out.detach() if isinstance(out, Tensor) and not again else out for out in attached), pullback


def input_gradients(
    function: Callable[..., tuple[Tensor, Tensor]], arrays: Sequence[Tensor]
) -> tuple[Tensor, Sequence[Tensor]]:
    with torch.enable_grad():
        leaves = [array.detach().requires_grad_(True) for array in arrays]
        y, z = function(*leaves)
        total = y.sum()
    if not total.requires_grad:
        return z.detach(), [torch.zeros_like(leaf) for leaf in leaves]
    return z.detach(), torch.autograd.grad(total, leaves, allow_unused=True, materialize_grads=True)


def arange(size: int, like: Tensor) -> Tensor:
    """0 … size−1 as integers, on the device of ``like``."""
    return torch.arange(size, device=like.device)


def row_numbers(like: Tensor) -> Tensor:
    return torch.arange(like.shape[0], device=like.device)


absolute = torch.abs
equal = torch.eq
exp = torch.exp
expm1 = torch.expm1
log = torch.log
maximum = torch.maximum
minimum = torch.minimum
ones_like = torch.ones_like
signum = torch.sign


def epsilon(array: Tensor) -> float:
    """The distance from 1 to the next number of the array's dtype."""
    return torch.finfo(array.dtype).eps


def sign(array: Tensor) -> Tensor:
    """1 where ``array`` ≥ 0, else −1."""
    return torch.where(array >= 0, 1.0, -1.0).to(array.dtype)


def reduce_sum(array: Tensor, axis: int) -> Tensor:
    return array.sum(axis, keepdim=True)


def reduce_max(array: Tensor, axis: int) -> Tensor:
    return array.amax(axis, keepdim=True)


def row_mean(array: Tensor) -> Tensor:
    """Mean over the last axis, kept with size 1; 0 for one number per row."""
    return array.mean(-1, keepdim=True) if array.ndim > 1 else torch.zeros_like(array)


def sum_axis(array: Tensor, axis: int) -> Tensor:
    return array.sum(axis)


def total(array: Tensor) -> Tensor:
    """The sum of all entries, (1,)."""
    return array.sum().reshape(1)


def stack(arrays: Sequence[Tensor]) -> Tensor:
    return torch.stack(list(arrays), -1)


def concat(arrays: Sequence[Tensor], axis: int) -> Tensor:
    return torch.cat(list(arrays), axis)


def move_axis(array: Tensor, source: int, destination: int) -> Tensor:
    return array.movedim(source, destination)


def insert_axis(array: Tensor, axis: int) -> Tensor:
    return array.unsqueeze(axis)


def split_axis(array: Tensor, axis: int, first: Tensor, first_axis: int, second: Tensor, second_axis: int) -> Tensor:
    """An axis of size U·B as two: U is the size of ``first`` along its axis, B that of ``second``."""
    sizes = (first.shape[first_axis], second.shape[second_axis])
    return array.reshape(*array.shape[:axis], *sizes, *array.shape[axis + 1 :])


def join_axis(array: Tensor, axis: int) -> Tensor:
    """The axes ``axis`` and ``axis + 1`` as one."""
    return array.reshape(*array.shape[:axis], array.shape[axis] * array.shape[axis + 1], *array.shape[axis + 2 :])


def expand_axis(array: Tensor, axis: int, like: Tensor, like_axis: int) -> Tensor:
    """An axis of size 1 expanded to the size of ``like`` along ``like_axis``; no change if it has that size."""
    return array.expand(*array.shape[:axis], like.shape[like_axis], *array.shape[axis + 1 :])


def broadcast_like(array: Tensor, like: Tensor) -> Tensor:
    return array.expand(like.shape)


def blank(array: Tensor, axis: int, first: Tensor, second: Tensor) -> Tensor:
    """An array in the shape of ``array``, but at ``axis`` of the size rows of ``first`` times rows of ``second``."""
    rows = first.shape[0] * second.shape[0]
    return array.new_empty((*array.shape[:axis], rows, *array.shape[axis + 1 :]))


def sum_like(array: Tensor, like: Tensor) -> Tensor:
    """``array`` summed over the axes along which ``like`` was broadcast to it."""
    extra = array.ndim - like.ndim
    axes = [i for i in range(array.ndim) if i < extra or (like.shape[i - extra] == 1 and array.shape[i] != 1)]
    return array.sum(axes, keepdim=True).reshape(like.shape) if axes else array


def winners(
    node: Node, x: Sequence[Tensor], y: Sequence[Tensor], y_r: Sequence[Tensor], from_x: Tensor, share: Tensor
) -> list[Tensor] | None:
    """``share`` routed to the entries that a max-pool picked at x where ``from_x``, else at the reference.

    None for operations that do not report which entries they picked.
    """
    target, template, leaves = node.payload
    if len(y) < 2 or target not in _POOLS:
        return None
    picked = torch.where(from_x, y[1], y_r[1])
    filled = [x[0] if isinstance(leaf, Operand) else leaf for leaf in leaves]
    args, kwargs = pytree.tree_unflatten(filled, template)
    return [_POOLS[target](share, x[0], picked, *args[1:], **kwargs)]


def _pool_back(backward: Any, axes: int) -> Callable[..., Tensor]:
    def back(
        share: Tensor, x: Tensor, picked: Tensor, kernel: Any, stride: Any = (), padding: Any = 0, dilation: Any = 1,
        ceil_mode: bool = False,
    ) -> Tensor:  # fmt: skip
        full = [[v] * axes if isinstance(v, int) else list(v) for v in (kernel, stride, padding, dilation)]
        result: Tensor = backward(share, x, *full, ceil_mode, picked)
        return result

    return back


_POOLS: dict[Any, Callable[..., Tensor]] = {
    _aten.max_pool2d_with_indices.default: _pool_back(_aten.max_pool2d_with_indices_backward, 2),
    _aten.max_pool3d_with_indices.default: _pool_back(_aten.max_pool3d_with_indices_backward, 3),
    _aten.adaptive_max_pool2d.default: lambda share, x, picked, *_: _aten.adaptive_max_pool2d_backward(
        share, x, picked
    ),
    _aten.adaptive_max_pool3d.default: lambda share, x, picked, *_: _aten.adaptive_max_pool3d_backward(
        share, x, picked
    ),
}


def take(array: Tensor, index: Tensor) -> Tensor:
    return torch.index_select(array, 0, index)


def segment_sum(array: Tensor, index: Tensor, like: Tensor) -> Tensor:
    """Sum the rows of ``array`` that share an index; as many segments as ``like`` has rows."""
    total = array.new_zeros((like.shape[0], *array.shape[1:]))
    if array.device.type == "cuda":  # index_add is not deterministic there; this is
        return torch.index_put(total, (index,), array, accumulate=True)
    return torch.index_add(total, 0, index, array)


def cast(array: Tensor, dtype: str) -> Tensor:
    return array.to(getattr(torch, dtype))


def cast_like(array: Tensor, like: Tensor) -> Tensor:
    return array.to(like.dtype)


def wide(array: Tensor) -> str:
    """The dtype for accumulations over ``array``."""
    return "float64" if array.dtype is torch.float64 else "float32"


def sample_shape(array: Tensor) -> tuple[int, ...]:
    return tuple(array.shape[1:])


def reshape(array: Tensor, sizes: tuple[int, ...]) -> Tensor:
    return array.reshape(sizes)


def reshape_rows(array: Tensor, shape: tuple[int, ...]) -> Tensor:
    return array.reshape(array.shape[0], *shape)


def _column(row: Tensor, like: Tensor) -> Tensor:
    return row.reshape(-1, *([1] * (like.ndim - 1)))


def scale_rows(array: Tensor, factor: Tensor) -> Tensor:
    """Multiply each row by its own number."""
    return array * _column(factor, array)


def rows_equal(row: Tensor, array: Tensor) -> Tensor:
    """(R, …): whether each row's number equals each entry of ``array``, which has no row axis."""
    return row.reshape(-1, *([1] * array.ndim)) == array


def unpack_bits(array: Tensor, count: int) -> Tensor:
    """The first ``count`` bits of each row of bytes, as booleans."""
    place = torch.arange(count, device=array.device)
    bits = take_columns(array, place // 8) & (128 >> place % 8).to(array.dtype)
    return bits.bool()


def take_columns(array: Tensor, index: Tensor) -> Tensor:
    return torch.gather(array, 1, index.reshape(1, -1).expand(array.shape[0], index.shape[0]))


def gather_rows(array: Tensor, index: Tensor, axis: int) -> Tensor:
    """For each row its entries ``index``, (R, K), along ``axis`` of a sample."""
    spread = index.reshape(-1, *(index.shape[1] if i == axis else 1 for i in range(array.ndim - 1)))
    sizes = [index.shape[1] if i == axis + 1 else size for i, size in enumerate(array.shape)]
    return torch.gather(array, axis + 1, spread.expand(sizes))


def matmul(a: Tensor, b: Tensor) -> Tensor:
    return torch.matmul(a, b)


def difference(x: Tensor, r: Tensor) -> Tensor:
    """x − r; 0 where both are the same infinity, as in a mask."""
    return torch.nan_to_num(x - r, 0.0, math.inf, -math.inf)


def midway(x: Tensor, r: Tensor) -> Tensor:
    return torch.lerp(x, r, 0.5)


def minus_product(array: Tensor, a: Tensor, b: Tensor) -> Tensor:
    """array − a·b."""
    return torch.addcmul(array, a, b, value=-1)


def zeroed(array: Tensor, where: Tensor) -> Tensor:
    """0 where ``where``; the two broadcast."""
    return torch.where(where, 0.0, array)


def finite(array: Tensor) -> Tensor:
    """0 in the place of NaN and infinity."""
    return torch.nan_to_num(array, 0.0, 0.0, 0.0)


def at_least(array: Tensor, number: float) -> Tensor:
    return array.clamp(min=number)


def row_sum(array: Tensor) -> Tensor:
    """The sum of each row, (R,)."""
    return array.flatten(1).sum(1) if array.ndim > 1 else array


def row_max(array: Tensor) -> Tensor:
    return array.flatten(1).amax(1) if array.ndim > 1 else array


def row_min(array: Tensor) -> Tensor:
    return array.flatten(1).amin(1) if array.ndim > 1 else array


def one_hot_max(array: Tensor) -> Tensor:
    """1 at each row's first largest entry, else 0."""
    if array.ndim == 1:
        return torch.ones_like(array)
    flat = array.reshape(array.shape[0], math.prod(array.shape[1:]))
    entries = torch.arange(flat.shape[1], device=array.device)
    return (flat.argmax(1, keepdim=True) == entries).to(array.dtype).reshape(array.shape)


def normal(uniform: Tensor) -> Tensor:
    """Standard normal numbers from uniform ones, by the inverse distribution function."""
    return torch.erfinv(uniform * 2 - 1) * math.sqrt(2)

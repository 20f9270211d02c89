"""The array namespace that programs are written in, for torch.

Every function works on real tensors and on the fake ones of a trace alike.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from explainers.graph import Node

no_derivative = RuntimeError
where = torch.where
zeros_like = torch.zeros_like
bits_and = torch.bitwise_and
bits_xor = torch.bitwise_xor
shift_right = torch.bitwise_right_shift


def evaluate(node: Node, arrays: Sequence[Any]) -> tuple[Any, ...]:
    """Run the node's operation on the values of its inputs."""
    target, template, leaves = node.payload
    filled = [arrays[leaf.place] if isinstance(leaf, Operand) else leaf for leaf in leaves]
    args, kwargs = pytree.tree_unflatten(filled, template)
    result = target(*args, **kwargs)
    return tuple(result) if isinstance(result, (tuple, list)) else (result,)


class Operand:
    """Marks where an input of the node stands among its arguments."""

    __slots__ = ("place",)

    def __init__(self, place: int) -> None:
        self.place = place


def vjp(
    node: Node, arrays: Sequence[Any], places: Sequence[int]
) -> tuple[tuple[Any, ...], Callable[[Sequence[Tensor | None]], Sequence[Tensor | None]]]:
    """Run the node and return its outputs with its vector–Jacobian product towards ``places``."""
    with torch.enable_grad():
        arrays = list(arrays)
        for place in places:
            arrays[place] = arrays[place].detach().requires_grad_(True)
        attached = evaluate(node, arrays)

    def pullback(messages: Sequence[Tensor | None]) -> Sequence[Tensor | None]:
        pairs = [(out, m) for out, m in zip(attached, messages, strict=True) if m is not None]
        outs, cotangents = zip(*pairs, strict=True)
        return torch.autograd.grad(outs, [arrays[p] for p in places], cotangents, allow_unused=True)

    return tuple(out.detach() if isinstance(out, Tensor) else out for out in attached), pullback


def arange(size: int, like: Tensor) -> Tensor:
    """0 … size−1 as integers, where ``like`` is."""
    return torch.arange(size, device=like.device)


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
    """The dtype to compute in beside ``array``."""
    return "float64" if array.dtype is torch.float64 else "float32"


def sample_shape(array: Tensor) -> tuple[int, ...]:
    return tuple(array.shape[1:])


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

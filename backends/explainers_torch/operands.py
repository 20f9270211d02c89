"""A node's operation on the values of its inputs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch.utils import _pytree as pytree

from explainers.graph import Node

_aten = torch.ops.aten


class Operand:
    """A placeholder for an input of the node among its arguments."""

    __slots__ = ("place",)

    def __init__(self, place: int) -> None:
        self.place = place


def evaluate(node: Node, arrays: Sequence[Any]) -> tuple[Any, ...]:
    """Run the node's operation on the values of its inputs."""
    target = node.payload[0]
    if target in (_aten.view.default, _aten._unsafe_view.default):  # rules may pass strides unlike the model's
        target = _aten.reshape.default
    args, kwargs = filled_in(node, arrays)
    result = target(*args, **kwargs)
    return tuple(result) if isinstance(result, (tuple, list)) else (result,)


def filled_in(node: Node, arrays: Sequence[Any]) -> tuple[Any, Any]:
    """The operation's arguments, with the values of the node's inputs in their places."""
    _, template, leaves = node.payload
    filled = [arrays[leaf.place] if isinstance(leaf, Operand) else leaf for leaf in leaves]
    args, kwargs = pytree.tree_unflatten(filled, template)
    return args, kwargs

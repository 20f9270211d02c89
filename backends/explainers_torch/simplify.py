"""Rewrites that make a flat ATen graph cheaper to run, with the same results."""

from __future__ import annotations

from typing import Any

import torch
from torch import fx
from torch.utils import _pytree as pytree

aten = torch.ops.aten
_NO_OPS = {aten.detach.default, aten.alias.default, aten.lift_fresh_copy.default}


def _fresh(node: Any) -> bool:
    """Whether a node allocates a new array instead of a view of another."""
    target = getattr(node, "target", None)
    return isinstance(target, torch._ops.OpOverload) and all(r.alias_info is None for r in target._schema.returns)


def functional(target: torch._ops.OpOverload) -> torch._ops.OpOverload | None:
    """The out-of-place operation with the same arguments."""
    packet = getattr(aten, target._schema.name.removeprefix("aten::").removesuffix("_"), None)
    kinds = [str(argument.type) for argument in target._schema.arguments]
    overloads = [getattr(packet, name) for name in packet.overloads()] if packet is not None else []
    return next((o for o in overloads if [str(a.type) for a in o._schema.arguments] == kinds), None)


def make_functional(graph: fx.Graph) -> None:
    """Replace in-place writes of a derivative, into an array that it has just allocated, by out-of-place operations."""
    for node in list(graph.nodes):
        target = node.target
        if not isinstance(target, torch._ops.OpOverload) or not target._schema.is_mutable:
            continue
        written = node.args[0]
        other = functional(target)
        if other is None or not _fresh(written):
            continue  # the caller reports it
        node.target = other
        order = {other: place for place, other in enumerate(graph.nodes)}
        written.replace_all_uses_with(node, delete_user_cb=lambda user: order[user] > order[node])  # noqa: B023


def simplify(graph: fx.Graph) -> None:
    """Remove operations without effect and merge duplicate computations, in place."""
    for node in list(graph.nodes):
        if node.target is aten._conj.default and isinstance(node.args[0], (int, float, complex)):
            node.replace_all_uses_with(node.args[0].conjugate())  # from the backward of a product with a number
            graph.erase_node(node)
    for node in graph.nodes:
        if node.target is aten.view.default:  # strides at run time may differ from the trace's
            node.target = aten.reshape.default
        if node.target in _NO_OPS or (node.target is aten._to_copy.default and _same_kind(node)):
            node.replace_all_uses_with(node.args[0])
    _join_equal(graph)
    for node in list(graph.nodes):
        if node.target is aten.convolution_backward.default:
            _as_forward(graph, node)
    graph.eliminate_dead_code()


def _same_kind(node: fx.Node) -> bool:
    before, after = node.args[0].meta["val"], node.meta["val"]
    return bool(before.dtype == after.dtype and before.device == after.device and "memory_format" not in node.kwargs)


def _join_equal(graph: fx.Graph) -> None:
    node_by_key: dict[Any, fx.Node] = {}
    for node in graph.nodes:
        if node.op != "call_function":
            continue
        leaves, spec = pytree.tree_flatten((node.args, dict(node.kwargs)))
        key = (node.target, tuple((type(leaf), leaf) for leaf in leaves), str(spec))
        try:
            first = node_by_key.setdefault(key, node)
        except TypeError:  # an unhashable constant
            continue
        if first is not node:
            node.replace_all_uses_with(first)


FEW_CHANNELS = 16


def _as_forward(graph: fx.Graph, node: fx.Node) -> None:
    """The data gradient of a plain 2-d convolution into few channels as a convolution with turned weights.

    On the CPU that is 2 to 4 times faster than the library's own backward pass, which works on
    blocks of 16 channels.
    """
    message, x, weight, _, stride, padding, dilation, transposed, _, groups, output_mask = node.args
    shape = weight.meta["val"].shape
    if x.meta["val"].device.type != "cpu" or len(shape) != 4 or shape[0] >= FEW_CHANNELS:
        return
    if transposed or groups != 1 or list(stride) != [1, 1] or list(output_mask) != [True, False, False]:
        return
    around = [d * (k - 1) - p for d, k, p in zip(dilation, shape[2:], padding, strict=True)]
    if min(around) < 0:
        return
    with graph.inserting_before(node):
        turned = graph.call_function(aten.flip.default, (weight, [2, 3]))
        turned = graph.call_function(aten.transpose.int, (turned, 0, 1))
        zeros = [0, 0]
        convolution = graph.call_function(
            aten.convolution.default, (message, turned, None, [1, 1], around, list(dilation), False, zeros, 1)
        )
    for user in list(node.users):
        if user.args[1] == 0:
            convolution.meta = dict(user.meta)
            user.replace_all_uses_with(convolution)

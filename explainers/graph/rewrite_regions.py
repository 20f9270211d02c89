"""Joins elementwise operations of one active tensor into one univariate node.

``x·sigmoid(x)``, ``x·erfc(−x/√2)/2`` and one ``silu`` or ``gelu`` become the same kind of node
in every framework, so that rules for univariate functions see the whole function.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ..ops import Ops, Pullback
from . import Attributes, Function, Graph, Node, Output, Role, Value

Array = Any


@dataclass(frozen=True)
class Region:
    """The members of a joined node, in order, and the value that they compute."""

    members: tuple[Node, ...]
    inputs: tuple[Value, ...]
    result: Value


def evaluate(ops: Ops, node: Node, arrays: Sequence[Array]) -> Sequence[Array]:
    """Run a node, joined or plain, on the values of its inputs."""
    if not isinstance(node.payload, Region):
        result: Sequence[Array] = ops.evaluate(node, arrays)
        return result
    known = dict(zip(node.payload.inputs, arrays, strict=True))
    for member in node.payload.members:
        known.update(zip(member.values, ops.evaluate(member, [known[v] for v in member.inputs]), strict=True))
    return (known[node.payload.result],)


def vjp(ops: Ops, node: Node, arrays: Sequence[Array], places: Sequence[int]) -> tuple[Sequence[Array], Pullback]:
    """Run a node, joined or plain; its outputs and its vector–Jacobian product towards ``places``."""
    if not isinstance(node.payload, Region):
        result: tuple[Sequence[Array], Pullback] = ops.vjp(node, arrays, places)
        return result
    region = node.payload
    known = dict(zip(region.inputs, arrays, strict=True))
    heads = [region.inputs[place] for place in places]
    active = set(heads)
    pullbacks: list[tuple[Node, list[int], Pullback]] = []
    for member in region.members:
        operands = [known[value] for value in member.inputs]
        moving = [place for place, value in enumerate(member.inputs) if value in active]
        if moving and member.role is not Role.CONSTANT:
            results, pullback = ops.vjp(member, operands, moving)
            pullbacks.append((member, moving, pullback))
            active.update(v for v, out in zip(member.values, member.outputs, strict=True) if out.differentiable)
        else:
            results = ops.evaluate(member, operands)
        known.update(zip(member.values, results, strict=True))

    def back(messages: Sequence[Array | None]) -> Sequence[Array | None]:
        arrived: dict[Value, Array] = {region.result: messages[0]}
        for member, moving, pullback in reversed(pullbacks):
            if member.values[0] not in arrived:
                continue
            for place, part in zip(moving, pullback([arrived[member.values[0]]]), strict=True):
                if part is not None:
                    value = member.inputs[place]
                    arrived[value] = arrived[value] + part if value in arrived else part
        return [arrived.get(head) for head in heads]

    return (known[region.result],), back


def pass_stopped_maxima(graph: Graph) -> Graph:
    """The graph with the stop-gradient removed from maxima of a softmax written by hand.

    Such a softmax subtracts the maximum from its logits. The maximum's derivative cancels, and so does its difference
    when two points are compared, but only if it is propagated.
    """
    users = _users(graph)
    nodes = []
    for node in graph:
        if node.function is Function.STOP_GRADIENT:
            around = [graph.by_name[node.inputs[0].node]], users.get(node.values[0], [None])
            if any(all(other and other.role is Role.REDUCE_MAX for other in others) for others in around):
                node = dataclasses.replace(node, function=Function.IDENTITY)
        nodes.append(node)
    return Graph(tuple(nodes), graph.inputs, graph.outputs)


def join(graph: Graph, wrt: Sequence[Value]) -> Graph:
    """The graph with every maximal elementwise region of one active tensor as one univariate node.

    A region's result has the shape of that tensor. Linear operations at the start or end of a region stay
    outside it, and a region that is linear as a whole is not joined.
    """
    moved = graph.moved(wrt)
    roots = _roots(graph, moved)
    users = _users(graph)
    joined: dict[str, Node] = {}
    for node in graph:
        value = node.values[0] if node.outputs else None
        if value is None or roots.get(value, value) == value:
            continue
        if all(user is not None and roots.get(user.values[0]) == roots[value] for user in users.get(value, [None])):
            continue  # all its users are in the same region
        last = _bend(graph, node, roots, moved)
        node_of_region = _region(graph, last, roots)
        if node_of_region is not None:
            joined[last.name] = node_of_region
    nodes = tuple(joined.get(node.name, node) for node in graph)
    return Graph(nodes, graph.inputs, graph.outputs).restrict(graph.outputs)


def _roots(graph: Graph, moved: set[Value]) -> dict[Value, Value]:
    """Maps each value that is an elementwise function of one moved tensor of its own shape to that tensor."""
    roots: dict[Value, Value] = {}
    for node in graph:
        if not node.elementwise or len(node.outputs) != 1 or node.function is Function.STOP_GRADIENT:
            continue
        operand_roots = {roots.get(value, value) for value in node.inputs if value in moved}
        if len(operand_roots) == 1:
            root = operand_roots.pop()
            if graph.output(root).floating and graph.output(root).shape == node.outputs[0].shape:
                roots[node.values[0]] = root
    return roots


def _users(graph: Graph) -> dict[Value, list[Node | None]]:
    """The nodes that use each value; ``None`` where it is an output of the graph."""
    users: dict[Value, list[Node | None]] = {}
    for node in graph:
        for value in node.inputs:
            users.setdefault(value, []).append(node)
    for _, value in graph.outputs:
        users.setdefault(value, []).append(None)
    return users


def _bend(graph: Graph, node: Node, roots: Mapping[Value, Value], moved: set[Value]) -> Node:
    """The last nonlinear operation of a region: operations after it are not joined to it."""
    while node.role is Role.LINEAR:
        operands = [value for value in dict.fromkeys(node.inputs) if value in moved]
        if len(operands) != 1 or operands[0] not in roots:
            break
        node = graph.by_name[operands[0].node]
    return node


def _region(graph: Graph, last: Node, roots: Mapping[Value, Value]) -> Node | None:
    """The members between the root and ``last`` as one node; None if there is nothing to join."""
    root = roots[last.values[0]]
    members = _between(graph, last, root, roots)
    while True:  # linear operations before the first nonlinear one stay outside
        first = [member for member in members if root in member.inputs]
        if len(first) != 1 or first[0].role is not Role.LINEAR or first[0] is last:
            break
        root = first[0].values[0]
        members = [member for member in members if member is not first[0]]
    if len(members) == 1 or all(member.role in (Role.LINEAR, Role.CONSTANT) for member in members):
        return None
    inside = {value for member in members for value in member.values}
    outer = dict.fromkeys(v for member in members for v in member.inputs if v not in inside and v != root)
    names = list(dict.fromkeys(member.op for member in members))
    bent = {member.function for member in members if member.role is Role.UNIVARIATE}
    return dataclasses.replace(
        last,
        op="+".join(names),
        role=Role.UNIVARIATE,
        inputs=(root, *outer),
        function=Function.ARITHMETIC if bent == {Function.ARITHMETIC} else Function.NONE,
        elementwise=True,
        attributes=Attributes(),
        payload=Region(tuple(members), (root, *outer), last.values[0]),
    )


def _between(graph: Graph, last: Node, root: Value, roots: Mapping[Value, Value]) -> list[Node]:
    keep: set[str] = set()
    stack = [last]
    while stack:
        node = stack.pop()
        if node.name not in keep:
            keep.add(node.name)
            stack += [graph.by_name[v.node] for v in node.inputs if v != root and roots.get(v) == root]
    return [node for node in graph if node.name in keep]


def mark_behind(graph: Graph) -> Graph:
    """The graph with ``attributes.behind``, dense or conv, on univariate nodes: the map that feeds them.

    In between there may be linear operations on one tensor that have no weights of their own
    (a bias, a norm in inference, a reshape).
    """
    behind: dict[Value, Function] = {}
    nodes = []
    for node in graph:
        sources = {behind[value] for value in node.inputs if value in behind}
        if node.function.weighted:
            behind.update(dict.fromkeys(node.values, node.function))
        elif node.role is Role.LINEAR and len(sources) == 1:
            behind.update(dict.fromkeys(node.values, sources.pop()))
        elif node.role is Role.UNIVARIATE and len(sources) == 1:
            node = dataclasses.replace(node, attributes=dataclasses.replace(node.attributes, behind=sources.pop()))
        nodes.append(node)
    return Graph(tuple(nodes), graph.inputs, graph.outputs)


def join_bias(graph: Graph, wrt: Sequence[Value]) -> Graph:
    """The graph with every dense or conv node and the constant added to it as one node with a bias.

    In between, the entries may be rearranged, such as when only the bias has channels last.
    """
    active = graph.active(wrt)
    users = _users(graph)
    joined: dict[str, Node] = {}
    for node in graph:
        for value, other in zip(node.inputs, reversed(node.inputs), strict=True):
            if node.function is Function.ADD and len(node.inputs) == 2 and value in active and other not in active:
                members = _rearranged(graph, value, node, active, users)
                joined |= _with_bias(members, node, other) if members else {}
    return Graph(tuple(joined.get(n.name, n) for n in graph), graph.inputs, graph.outputs).restrict(graph.outputs)


def _rearranged(
    graph: Graph, value: Value, user: Node, active: set[Value], users: Mapping[Value, list[Node | None]]
) -> list[Node]:
    """The dense or conv node that computes ``value``, then what rearranges it for ``user`` only; [] if none."""
    members: list[Node] = []
    while users[value] == [user]:
        user = graph.by_name[value.node]
        members.insert(0, user)
        if user.function.weighted:
            return members
        operands = [operand for operand in user.inputs if operand in active]
        if user.function is not Function.COPY or len(operands) != 1 or (user.elementwise and len(user.inputs) > 1):
            break
        value = operands[0]
        if not _same_entries(graph.output(value), user.outputs[0]):
            break
    return []


def _same_entries(before: Output, behind: Output) -> bool:
    """Whether both have equally many entries, as far as is known: the batch may be folded into an axis of one."""
    sizes = [math.prod(size for size in output.shape if size is not None) for output in (before, behind)]
    return before.plain != behind.plain or sizes[0] == sizes[1]


def _with_bias(members: Sequence[Node], add: Node, bias: Value) -> dict[str, Node]:
    """All members as one node, named as the last; none if the first has a bias already, or the shape changes."""
    linear = members[0]
    if linear.attributes.bias is not None or members[-1].outputs[0].shape != add.outputs[0].shape:
        return {}
    inner = {value for member in members for value in member.values}
    others = [v for member in members[1:] for v in member.inputs if v not in inner]  # sizes of a reshape
    inputs = (*linear.inputs, bias, *others)
    made = dataclasses.replace(
        linear,
        name=add.name,
        op="+".join(member.op for member in (linear, add)),
        inputs=inputs,
        outputs=add.outputs,
        attributes=dataclasses.replace(linear.attributes, bias=len(linear.inputs)),
        payload=Region((*members, add), inputs, add.values[0]),
    )
    return {add.name: made}


def mark_rescaling(graph: Graph, wrt: Sequence[Value]) -> Graph:
    """The graph with ``attributes.rescaling`` on products: the places of the factors that only rescale the other one.

    Such a factor is a nonlinear elementwise function of a tensor that was broadcast to the product's shape:
    the reciprocal root of a variance, a gate for each channel.
    """
    active = graph.active(wrt)
    nodes = []
    for node in graph:
        if node.role is Role.PRODUCT:
            places = [p for p, v in enumerate(node.inputs) if v in active and _rescales(graph, v, node, active)]
            node = dataclasses.replace(node, attributes=dataclasses.replace(node.attributes, rescaling=tuple(places)))
        nodes.append(node)
    return Graph(tuple(nodes), graph.inputs, graph.outputs)


def _rescales(graph: Graph, value: Value, product: Node, active: set[Value]) -> bool:
    bent = small = False
    while not (bent and small):
        small = small or _smaller(graph.output(value).shape, product.outputs[0].shape)
        node = graph.by_name[value.node]
        operands = {operand for operand in node.inputs if operand in active}
        if len(operands) != 1 or not (node.elementwise or (small and node.function is Function.COPY)):
            return bent and small
        bent = bent or node.role is Role.UNIVARIATE
        value = operands.pop()
    return True


def _smaller(shape: tuple[int | None, ...], full: tuple[int | None, ...]) -> bool:
    """Whether a tensor of ``shape`` is broadcast along an axis of ``full``."""
    padded = (1,) * (len(full) - len(shape)) + shape
    return any(size == 1 and whole not in (1, None) for size, whole in zip(padded, full, strict=True))

"""Recognizing log Σ exp as TensorFlow writes it, as one operation for rules that know it.

``tf.reduce_logsumexp`` subtracts the largest entry c, behind a stop-gradient and a check that it is finite:
log Σ exp(x − c) + c.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import tensorflow as tf

from explainers.graph import Attributes, Function, Graph, Node, Role, Value
from explainers.graph.rewrite_regions import Region

ADDS = ("Add", "AddV2")


def joined(graph: Graph) -> Graph:
    """The graph with every log Σ exp(x − c) + c of x and its largest entry c as one node."""
    log_sums = {node.name: log_sum for node in graph if node.op in ADDS for log_sum in _log_sum(graph, node)}
    nodes = tuple(log_sums.get(node.name, node) for node in graph)
    return Graph(nodes, graph.inputs, graph.outputs).restrict(graph.outputs) if log_sums else graph


def _log_sum(graph: Graph, outer: Node) -> Iterator[Node]:
    """The joined node for ``outer``, if that is the last operation of such a sum."""
    for first, second in (outer.inputs, outer.inputs[::-1]):
        shift = _shift(graph, second)
        total = _before(graph, first, "Log", "Sum")
        power = None if total is None else _before(graph, total.inputs[0], "Exp", "Sub")
        if shift is None or power is None or total is None or power.inputs[1] != shift.values[0]:
            continue
        x = power.inputs[0]
        axes = graph.by_name[total.inputs[1].node]
        members = _between(graph, x, outer)
        if axes.op != "Const" or not _is_largest(graph, shift, x) or members is None:
            continue
        rank = len(graph.output(x).shape)
        axis_list = tf.make_ndarray(axes.payload.attributes["value"].tensor).reshape(-1).tolist()
        attributes = Attributes(
            axis=tuple(axis if axis < 0 else axis - rank for axis in axis_list),
            keepdims=total.payload.attributes["keep_dims"].b,
        )
        payload = Region(members, (x,), outer.values[0])
        yield replace(
            outer, op="log_sum_exp", role=Role.COMPOSITE, inputs=(x,), function=Function.LOG_SUM_EXP, elementwise=False,
            attributes=attributes, payload=payload,
        )  # fmt: skip
        return


def _before(graph: Graph, value: Value, op: str, before: str) -> Node | None:
    """The node of operation ``before`` that feeds the ``op`` which computes ``value``."""
    node = graph.by_name[value.node]
    if node.op != op:
        return None
    node = graph.by_name[node.inputs[0].node]
    return node if node.op == before else None


def _shift(graph: Graph, value: Value) -> Node | None:
    """The stop-gradient behind the final summand; in between, axes that the sum drops may be dropped."""
    node = graph.by_name[value.node]
    if node.op in ("Reshape", "Squeeze"):
        node = graph.by_name[node.inputs[0].node]
    return node if node.op == "StopGradient" else None


def _is_largest(graph: Graph, shift: Node, x: Value) -> bool:
    """Whether ``shift`` is the maximum of x, or 0 where that is infinite."""
    node = graph.by_name[shift.inputs[0].node]
    if node.op in ("Select", "SelectV2"):
        node = graph.by_name[node.inputs[1].node]
    return node.op == "Max" and node.inputs[0] == x


def _between(graph: Graph, x: Value, outer: Node) -> tuple[Node, ...] | None:
    """The nodes that compute ``outer`` from x, in order; None if they use anything else but constants."""
    node_names, queue = {outer.name}, list(outer.inputs)
    while queue:
        value = queue.pop()
        node = graph.by_name[value.node]
        if value == x or node.name in node_names:
            continue
        if node.role in (Role.INPUT, Role.WEIGHT):
            return None
        node_names.add(node.name)
        queue += node.inputs
    return tuple(node for node in graph if node.name in node_names)

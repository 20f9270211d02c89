"""A rewrite that computes the same result with less work."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Sequence

from . import Function, Graph, Node, Role, Value


def relu_behind_pools(graph: Graph, keep: Sequence[Value]) -> Graph:
    """Move a ReLU behind the max pool that follows it: max(relu(x)) = relu(max(x)), on fewer entries.

    Only where nothing else uses the value in between, and never at the values ``keep``.
    """
    users = Counter(value for node in graph for value in node.inputs)
    users.update([*keep, *(value for _, value in graph.outputs)])
    nodes: dict[str, Node] = {}
    for node in graph:
        relu = graph.by_name[node.inputs[0].node] if node.role is Role.MAX_POOL else None
        if relu is not None and _may_swap(graph, node, relu, users):
            name = f"{node.name}_before_{relu.name}"
            del nodes[relu.name]
            place = [graph.output(v).shape for v in relu.inputs].index(relu.outputs[0].shape)
            nodes[name] = dataclasses.replace(node, name=name, inputs=(relu.inputs[place], *node.inputs[1:]))
            operands = tuple(Value(name) if p == place else value for p, value in enumerate(relu.inputs))
            node = dataclasses.replace(relu, name=node.name, inputs=operands, outputs=node.outputs[:1])
        nodes[node.name] = node
    return Graph(tuple(nodes.values()), graph.inputs, graph.outputs)


def _may_swap(graph: Graph, pool: Node, relu: Node, users: Counter[Value]) -> bool:
    if relu.function is not Function.RELU or users[relu.values[0]] != 1:
        return False
    if any(users[value] for value in pool.values[1:]):  # the indices of the maximum are used
        return False
    shape = relu.outputs[0].shape
    return sum(graph.output(v).shape == shape for v in relu.inputs) == 1 and all(
        graph.output(v).shape in ((), shape) for v in relu.inputs
    )

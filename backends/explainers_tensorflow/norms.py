"""Rewriting norms into the form of other frameworks, for rules that look at the parts of a sum or product.

On TensorFlow, Keras writes x·s + (c − m·s) instead of (x − m)·s + c, and (x − m)² as one operation.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace

from explainers.graph import Function, Graph, Node, Role, Value

from . import roles

SUMS = ("AddV2", "Add")


@dataclass(frozen=True)
class _SumOfProducts:
    """``outer`` = ``first`` + ``inner``, ``inner`` = ±``second`` + ``rest``; both products have ``common``.

    Without ``rest``, ``inner`` is ``outer`` itself: the sum of both products.
    """

    outer: Node
    first: Node
    inner: Node
    second: Node
    rest: Value | None
    common: Value

    @property
    def names(self) -> set[str]:
        return {node.name for node in (self.outer, self.first, self.inner, self.second)}

    def rewritten(self) -> Iterator[Node]:
        """The equivalent nodes with a single product, to replace ``outer``."""
        x, m = (_other(product, self.common) for product in (self.first, self.second))
        outputs, last = self.outer.outputs, self.outer.name
        name = self.inner.name if self.rest is not None else f"{last}/factored"
        yield replace(self.inner, name=name, inputs=(x, m), outputs=outputs)
        factors = (Value(name, 0), self.common)
        yield replace(
            self.first, name=self.first.name if self.rest is not None else last, inputs=factors, outputs=outputs
        )
        if self.rest is not None:
            yield replace(self.outer, inputs=(self.first.values[0], self.rest))


def normalized(graph: Graph) -> Graph:
    """An equivalent graph: squared differences in two steps, norms with one product."""
    return _factored(_squares_apart(graph))


def _squares_apart(graph: Graph) -> Graph:
    nodes: list[Node] = []
    for node in graph:
        if node.op != "SquaredDifference" or node.role is not Role.PRODUCT:
            nodes.append(node)
            continue
        operands = tuple(_unstopped(graph, value) for value in node.inputs)
        for name, op, role, inputs in (
            (f"{node.name}/difference", "Sub", Role.LINEAR, operands),
            (node.name, "Square", Role.UNIVARIATE, (Value(f"{node.name}/difference", 0),)),
        ):
            function = roles.function(op, role)
            payload = node.payload.of_type(op)
            nodes.append(replace(node, name=name, op=op, role=role, inputs=inputs, function=function, payload=payload))
    return Graph(tuple(nodes), graph.inputs, graph.outputs)


def _unstopped(graph: Graph, value: Value) -> Value:
    """The mean behind the stop-gradient of ``tf.nn.moments``. Its derivative cancels, but differences must pass."""
    node = graph.by_name[value.node]
    return node.inputs[0] if node.function is Function.STOP_GRADIENT else value


def _factored(graph: Graph) -> Graph:
    uses = Counter(value for node in graph for value in node.inputs)
    uses.update(value for _, value in graph.outputs)
    matches: dict[str, _SumOfProducts] = {}
    replaced_names: set[str] = set()
    for outer in graph:
        match = _match(graph, outer, uses)
        if match is not None and replaced_names.isdisjoint(match.names):  # the first two products of a·s + b·s + c·s
            matches[outer.name] = match
            replaced_names.update(match.names)
    nodes: list[Node] = []
    for node in graph:
        if node.name in matches:
            nodes += matches[node.name].rewritten()
        elif node.name not in replaced_names:
            nodes.append(node)
    return Graph(tuple(nodes), graph.inputs, graph.outputs)


def _match(graph: Graph, outer: Node, uses: Counter[Value]) -> _SumOfProducts | None:
    """The match at ``outer``, if it is a sum of products that nothing else uses."""
    if outer.op not in SUMS:
        return None
    for a, b in (outer.inputs, outer.inputs[::-1]):
        first, inner = graph.by_name[a.node], graph.by_name[b.node]
        if not _product(first) or not uses[a] == uses[b] == 1:
            continue
        parts: list[tuple[Node, Value, Value | None]] = []
        if inner.op in SUMS:
            parts = [(inner, inner.inputs[0], inner.inputs[1]), (inner, inner.inputs[1], inner.inputs[0])]
        elif inner.op == "Sub":
            parts = [(inner, inner.inputs[1], inner.inputs[0])]
        elif _product(inner):
            parts = [(outer, b, None)]
        for summed, value, rest in parts:
            second = graph.by_name[value.node]
            common = set(first.inputs) & set(second.inputs) if _product(second) and uses[value] == 1 else set()
            if len(common) == 1:
                match = _SumOfProducts(outer, first, summed, second, rest, common.pop())
                if graph.output(_other(first, match.common)).shape == outer.outputs[0].shape:
                    return match
    return None


def _product(node: Node) -> bool:
    return node.op == "Mul" and node.role is Role.PRODUCT and len(set(node.inputs)) == 2


def _other(product: Node, factor: Value) -> Value:
    return next(value for value in product.inputs if value != factor)

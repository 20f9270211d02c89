"""Joining elementwise regions, and ReLU behind max pools: on graphs written by hand, run in numpy."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from explainers.graph import Graph, Node, Output, Role, Value, rewrite_regions
from explainers.graph.rewrite_pools import relu_behind_pools

ROW, HALF = (Output((None, 4), "float32"),), (Output((None, 2), "float32"),)
FUNCTIONS: dict[str, Any] = {
    "relu": lambda x: np.maximum(x, 0),
    "sigmoid": lambda x: 1 / (1 + np.exp(-x)),
    "mul": np.multiply,
    "add": np.add,
    "double": lambda x: 2 * x,
    "pool": lambda x: x.reshape(len(x), 2, 2).max(2),
    "sum": lambda x: x.reshape(len(x), 2, 2).sum(2),
}
SLOPES: dict[str, Any] = {
    "relu": lambda m, x: [m * (x > 0)],
    "sigmoid": lambda m, x: [m * np.exp(-x) / (1 + np.exp(-x)) ** 2],
    "mul": lambda m, x, y: [m * y, m * x],
    "add": lambda m, x, y: [m, m],
    "double": lambda m, x: [2 * m],
}


class Ops:
    @staticmethod
    def evaluate(node: Node, arrays: Sequence[Any]) -> tuple[Any, ...]:
        return (FUNCTIONS[node.op](*arrays),)

    @staticmethod
    def vjp(node: Node, arrays: Sequence[Any], places: Sequence[int]) -> tuple[Any, Any]:
        return Ops.evaluate(node, arrays), lambda m: [SLOPES[node.op](m[0], *arrays)[place] for place in places]


def node(name: str, op: str, role: Role, *inputs: str, outputs: Any = ROW) -> Node:
    elementwise = op not in ("pool", "sum")
    function = op if op == "relu" else ""
    return Node(name, op, role, tuple(Value(i) for i in inputs), outputs, function=function, elementwise=elementwise)


def graph(*nodes: Node) -> Graph:
    head = Node("x", "input", Role.INPUT, outputs=ROW)
    return Graph((head, *nodes), (Value("x"),), (("0", Value(nodes[-1].name)),))


def run(given: Graph, x: np.ndarray) -> np.ndarray:
    values = {Value("x"): x}
    for made in list(given)[1:]:
        results = rewrite_regions.evaluate(Ops, made, [values[v] for v in made.inputs])
        values.update(zip(made.values, results, strict=True))
    return values[given.outputs[0][1]]


SILU = (node("s", "sigmoid", Role.UNIVARIATE, "x"), node("y", "mul", Role.PRODUCT, "x", "s"))
X = np.random.default_rng(0).normal(size=(3, 4))


def test_a_product_with_a_function_of_itself_is_one_function() -> None:
    before = graph(*SILU)
    after = rewrite_regions.join(before, [Value("x")])
    (joined,) = (n for n in after if n.role is not Role.INPUT)
    assert (joined.role, joined.op, joined.inputs) == (Role.UNIVARIATE, "sigmoid+mul", (Value("x"),))
    np.testing.assert_array_equal(run(after, X), run(before, X))
    (y,), back = rewrite_regions.vjp(Ops, joined, [X], [0])
    step = 1e-6
    np.testing.assert_allclose(back([np.ones_like(y)])[0], (run(before, X + step) - run(before, X - step)) / 2 / step)


def test_linear_operations_around_a_region_stay_on_their_own() -> None:
    before = graph(
        node("a", "double", Role.LINEAR, "x"), node("s", "sigmoid", Role.UNIVARIATE, "a"),
        node("y", "mul", Role.PRODUCT, "a", "s"), node("z", "double", Role.LINEAR, "y"),
    )  # fmt: skip
    after = rewrite_regions.join(before, [Value("x")])
    assert [n.op for n in after] == ["input", "double", "sigmoid+mul", "double"]
    np.testing.assert_array_equal(run(after, X), run(before, X))


def test_one_operation_and_linear_ones_are_left_as_they_are() -> None:
    single = graph(node("r", "relu", Role.UNIVARIATE, "x"), node("z", "double", Role.LINEAR, "r"))
    assert [n.op for n in rewrite_regions.join(single, [Value("x")])] == ["input", "relu", "double"]
    linear = graph(node("a", "double", Role.LINEAR, "x"), node("b", "add", Role.LINEAR, "a", "x"))
    assert [n.op for n in rewrite_regions.join(linear, [Value("x")])] == ["input", "double", "add"]


def test_a_function_of_two_tensors_is_not_joined() -> None:
    other = Node("x2", "input", Role.INPUT, outputs=ROW)
    nodes = (Node("x", "input", Role.INPUT, outputs=ROW), other, node("y", "mul", Role.PRODUCT, "x", "x2"))
    two = Graph(nodes, (Value("x"), Value("x2")), (("0", Value("y")),))
    assert rewrite_regions.join(two, two.inputs).by_name["y"].role is Role.PRODUCT
    one = rewrite_regions.join(two, [Value("x")])  # x2 is a constant then
    assert one.by_name["y"].op == "mul"


def test_relu_goes_behind_the_pool() -> None:
    before = graph(node("r", "relu", Role.UNIVARIATE, "x"), node("p", "pool", Role.MAX_POOL, "r", outputs=HALF))
    after = relu_behind_pools(before, [Value("x")])
    assert [n.op for n in after] == ["input", "pool", "relu"]
    np.testing.assert_array_equal(run(after, X), run(before, X))


@pytest.mark.parametrize("why", ["used twice", "kept", "a sum"])
def test_relu_stays_where_something_else_looks_at_it(why: str) -> None:
    pool = node("p", "sum" if why == "a sum" else "pool", Role.LINEAR if why == "a sum" else Role.MAX_POOL, "r",
                outputs=HALF)  # fmt: skip
    extra = [node("q", "sum", Role.LINEAR, "r", outputs=HALF), node("z", "add", Role.LINEAR, "p", "q", outputs=HALF)]
    before = graph(node("r", "relu", Role.UNIVARIATE, "x"), pool, *(extra if why == "used twice" else []))
    after = relu_behind_pools(before, [Value("r") if why == "kept" else Value("x")])
    assert [n.op for n in after] == [n.op for n in before]


def test_univariate_nodes_know_the_map_that_feeds_them() -> None:
    dense = Node("d", "matmul", Role.LINEAR, (Value("x"),), ROW, function="dense")
    marked = rewrite_regions.mark_behind(
        graph(dense, node("b", "double", Role.LINEAR, "d"), node("r", "relu", Role.UNIVARIATE, "b"))
    )
    assert marked.by_name["r"].attributes.behind == "dense"

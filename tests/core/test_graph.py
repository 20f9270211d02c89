"""Graphs: checks, cuts, layers."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from explainers.errors import TraceError, UnknownNameError
from explainers.graph import Graph, Node, Output, Role, Value

ROW = (Output((None, 3), "float32"),)


def node(name: str, *inputs: str, modules: tuple[str, ...] = (), role: Role = Role.LINEAR) -> Node:
    return Node(name, f"op_{name}", role, tuple(map(Value, inputs)), ROW, modules=modules)


def chain() -> Graph:
    """x → a (layer f) → b (layer f) → c, with x also reaching c."""
    nodes = (
        node("x", role=Role.INPUT), node("a", "x", modules=("f", "f.0")), node("b", "a", modules=("f", "f.1")),
        node("c", "b", "x"),
    )  # fmt: skip
    return Graph(nodes, (Value("x"),), (("0", Value("c")),))


def test_a_graph_checks_itself() -> None:
    with pytest.raises(TraceError, match="two nodes called 'x'"):
        Graph((node("x"), node("x")), (), ())
    with pytest.raises(TraceError, match="uses y before it is defined"):
        Graph((node("x", "y"),), (), ())
    with pytest.raises(TraceError, match="no node defines"):
        Graph((node("x"),), (Value("z"),), ())


def test_a_layer_is_what_leaves_it() -> None:
    assert chain().layer("f") == (Value("b"),)
    assert chain().layer("f.0") == (Value("a"),)
    with pytest.raises(UnknownNameError, match=r"unknown layer 'f.2'.*f\.0"):
        chain().layer("f.2")


def test_a_cut_keeps_what_goes_around_it() -> None:
    cut = chain().cut((Value("b"),))
    assert cut.inputs == (Value("cut_0"), Value("x"))
    assert [n.name for n in cut] == ["cut_0", "x", "c"]
    assert cut.by_name["c"].inputs == (Value("cut_0"), Value("x"))


def test_a_layer_that_runs_twice_is_named_by_call() -> None:
    nodes = (node("x", role=Role.INPUT), node("a", "x", modules=("f",)), node("b", "a", modules=("f@1",)))
    graph = Graph(nodes, (Value("x"),), (("0", Value("b")),))
    with pytest.raises(UnknownNameError, match="runs 2 times; name one call: f@0, f@1"):
        graph.layer("f")
    assert graph.layer("f@0") == (Value("a"),)
    assert graph.layer("f@1") == (Value("b"),)


def test_active_values_follow_floats_only() -> None:
    index = Node("i", "argmax", Role.CONSTANT, (Value("x"),), (Output((None,), "int64"),))
    graph = Graph((node("x", role=Role.INPUT), index, node("y", "i")), (Value("x"),), (("0", Value("y")),))
    assert graph.active([Value("x")]) == {Value("x")}


def test_text_form_names_everything() -> None:
    text = str(chain())
    assert "%a: float32[batch, 3] = op_a(x) <linear>" in text
    assert text.endswith("return 0: %c")


@pytest.mark.parametrize("how", [{"function": "stop_gradient"}, {"role": Role.CONSTANT}], ids=str)
def test_nothing_behind_a_stopped_derivative_is_active(how: dict[str, Any]) -> None:
    graph = chain()
    stopped = dataclasses.replace(graph.by_name["a"], **how)
    nodes = tuple(stopped if n.name == "a" else n for n in graph.nodes)
    assert Graph(nodes, graph.inputs, graph.outputs).active([Value("x")]) == {Value("x"), Value("c")}
    assert graph.active([Value("x")]) == {Value("x"), Value("a"), Value("b"), Value("c")}

"""The reverse walk: what a missing rule says, and what a table without silent gradients means."""

from __future__ import annotations

import numpy as np
import pytest

from explainers.errors import UnsupportedOperation
from explainers.graph import Graph, Node, Output, Role, Value
from explainers.graph.coverage import Operation
from explainers.methods import METHODS, Gradient, GuidedBackprop
from explainers.program import Program
from explainers.rules import GUIDED_BACKPROP, RuleSet
from explainers.rules.gradient import vjp
from explainers.rules.lrp import _times
from explainers_numpy import ops

ROW = (Output((None, 3), "float32"),)


def graph(role: Role) -> Graph:
    odd = Node("odd_1", "aten.odd.default", role, (Value("x"),), ROW, scope="block.0", source="model.py:7")
    nodes = (Node("x", "input", Role.INPUT, outputs=ROW), odd)
    return Graph(nodes, (Value("x"),), (("0", Value("odd_1")),))


def program(role: Role, method: object) -> Program:
    return Program(graph(role), method, (Value("x"),))  # type: ignore[arg-type]


def test_a_missing_rule_names_everything(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Gradient, "rules", RuleSet("gradient", {Role.LINEAR: vjp}))
    with pytest.raises(UnsupportedOperation) as caught:
        program(Role.COMPOSITE, Gradient()).check_rules()
    message = str(caught.value)
    for part in ("rule set 'gradient'", "'aten.odd.default'", "'odd_1'", "'composite'", "'block.0'", "model.py:7"):
        assert part in message
    program(Role.LINEAR, Gradient()).check_rules()


@pytest.mark.parametrize("name", ["gradient", "guided_backprop", "deconvnet", "zero"])
@pytest.mark.parametrize("role", [r for r in Role if r not in (Role.INPUT, Role.WEIGHT, Role.CONSTANT)])
def test_the_gradient_family_passes_every_role(name: str, role: Role) -> None:
    assert callable(METHODS[name].rule_set.rule(graph(role).by_name["odd_1"]))


@pytest.mark.parametrize("role", [Role.INPUT, Role.WEIGHT, Role.CONSTANT])
def test_nothing_passes_what_is_no_operation(role: Role) -> None:
    for rules in filter(None, (method.rule_set for method in METHODS.values())):
        with pytest.raises(UnsupportedOperation):
            rules.rule(graph(role).by_name["odd_1"])


def test_a_function_goes_before_its_role() -> None:
    relu = Node("r", "clamp", Role.UNIVARIATE, (Value("x"),), ROW, function="relu")
    other = Node("s", "silu", Role.UNIVARIATE, (Value("x"),), ROW)
    rules = GUIDED_BACKPROP
    assert rules.rule(relu).__name__ == "guided_relu"
    assert rules.rule(other) is vjp


def test_coverage_lists_each_operation_with_its_rule() -> None:
    (row,) = program(Role.OPAQUE, GuidedBackprop()).coverage()
    assert row == Operation("aten.odd.default", "opaque", "vjp", "exact", 1)


def test_only_the_path_is_walked() -> None:
    """What does not lie between the attributed input and the output needs no rule."""
    nodes = (
        Node("x", "input", Role.INPUT, outputs=ROW), Node("m", "input", Role.INPUT, outputs=ROW),
        Node("a", "odd", Role.OPAQUE, (Value("m"),), ROW), Node("b", "add", Role.LINEAR, (Value("x"), Value("a")), ROW),
        Node("c", "unused", Role.OPAQUE, (Value("x"),), ROW),
    )  # fmt: skip
    whole = Graph(nodes, (Value("x"), Value("m")), (("0", Value("b")),))
    assert Program(whole, Gradient(), (Value("x"),)).path == {"b"}


def test_nothing_goes_to_a_masked_entry() -> None:
    """A logit of −∞ gets 0 where nothing is passed, and no NaN."""
    x, passed = np.array([-np.inf, 2.0, 3.0]), np.array([0.0, 0.5, 0.0])
    with np.errstate(invalid="ignore"):
        np.testing.assert_array_equal(_times(ops, x, passed), [0.0, 1.0, 0.0])

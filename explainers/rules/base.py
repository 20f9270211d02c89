"""The arguments of a rule, and the tables that choose the rule of a node."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ..errors import UnsupportedOperation
from ..graph import Function, Graph, Node, Role, Value
from ..ops import Pullback

Array = Any
Message = Any
Rule = Callable[[Any, Any], Sequence[Message | None]]  # (ops, Site)


def passing(rule: Rule) -> Rule:
    """Mark a rule that depends only on messages, not on values."""
    rule.passing = True  # type: ignore[attr-defined]
    return rule


@dataclass(frozen=True)
class Site:
    """One node during the reverse walk.

    ``x``: the values of its active inputs, at ``places`` among all its inputs. ``y``: of its outputs.
    ``message``: what arrived at each output, ``None`` where nothing did. ``pullback(message)``: the
    operation's own vector–Jacobian product, one array for each active input. ``operand(place)``: any
    input. ``apply({place: array})``: the operation with some inputs replaced; its outputs, and its
    vector–Jacobian product there. ``x_r``, ``y_r``: the same values at the reference, for rule sets
    that compare with one; they broadcast against ``x`` and ``y``. ``split``: the positive and negative
    differences of each active input, for rule sets that carry them apart. ``broadcasts``: the output
    has more entries than the first active input.
    """

    node: Node
    x: tuple[Array, ...]
    y: tuple[Array, ...]
    message: tuple[Any, ...]
    pullback: Pullback
    places: tuple[int, ...] = ()
    operand: Callable[[int], Array] = field(default=lambda place: None)
    apply: Callable[[Mapping[int, Array]], tuple[Sequence[Array], Pullback]] = field(default=lambda given: ((), list))
    x_r: tuple[Array, ...] = ()
    y_r: tuple[Array, ...] = ()
    split: tuple[Any, ...] = ()
    broadcasts: bool = False


@dataclass(frozen=True)
class RuleSet:
    """A table ``role → rule``; ``functions`` refines it by the name of what a node computes.

    ``contrast``: rules compare each value with its value at a reference. ``elementary``: composite
    operations are taken apart and elementwise regions joined before the walk. ``splits``: how
    positive and negative differences propagate forward through each role or function, for rules that need them.
    ``fallback``: used where the table has no entry; by default that is an error. ``reorders``: the order
    of a ReLU and a max pool makes no difference to the rules. ``complex``: rules hold for complex numbers.
    ``refuses``: why there is no rule for what goes by these functions, whatever their role.
    """

    name: str
    roles: Mapping[Role, Rule]
    functions: Mapping[Function, Rule] = field(default_factory=dict)
    contrast: bool = False
    elementary: bool = False
    splits: Mapping[Role | Function, Callable[[Any, Site], Sequence[Any]]] = field(default_factory=dict)
    fallback: Rule | None = None
    reorders: bool = True
    complex: bool = False
    refuses: Mapping[Function, str] = field(default_factory=dict)

    def prepare(self, graph: Graph, wrt: Sequence[Value]) -> Graph:
        """The graph as the rules need it, with ``attributes.rule`` on nodes that have a rule of their own."""
        return graph

    def rule(self, node: Node) -> Rule:
        """The rule for ``node``. A missing entry is an error, never a silent gradient."""
        why = node.attributes.lost or self.refuses.get(node.function)
        if why:
            raise unsupported(node, self.name, why)
        rule: Rule | None = node.attributes.rule or self.functions.get(node.function) or self.roles.get(node.role)
        rule = rule or self.fallback
        if rule is None:
            raise unsupported(node, self.name, "the rule set has no entry for this role")
        return rule

    def passes(self, node: Node) -> bool:
        """Whether the rule for ``node`` is the same at every point: it depends on no value."""
        return bool(getattr(self.rule(node), "passing", False))

    def stabilizer(self, node: Node) -> float:
        """The ε that the rule for ``node`` adds to denominators, as a fraction of the largest; 0 for none."""
        return 0.0

    def named(self, node: Node) -> str:
        """The name of the rule for ``node`` in a coverage table."""
        rule = self.rule(node)
        return getattr(rule, "__name__", str(rule))

    def exactness(self, graph: Graph, node: Node, places: Sequence[int]) -> str:
        """The exactness of ``node`` in a coverage table; it has a rule. ``places``: those of its active inputs."""
        return "approximate" if self.rule(node) is self.fallback else "exact"


def unsupported(node: Node, rules: str, why: str) -> UnsupportedOperation:
    where = f" in module {node.scope!r}" if node.scope else ""
    source = f" ({node.source})" if node.source else ""
    return UnsupportedOperation(
        f"rule set {rules!r} cannot pass operation {node.op!r} (node {node.name!r}, role {node.role.value!r})"
        f"{where}{source}: {why}. The error's .coverage lists every operation; pick another method, or wrt= a layer "
        "behind this one."
    )

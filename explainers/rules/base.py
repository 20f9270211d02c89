"""What a rule sees, and the table that picks it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ..errors import UnsupportedOperation
from ..graph import Node, Role

Array = Any
Rule = Callable[[Any, "Site"], Sequence[Array | None]]


@dataclass(frozen=True)
class Site:
    """One node during the reverse walk.

    ``x``: the values of its active inputs. ``y``: of its outputs. ``message``: what arrived at
    each output, ``None`` where nothing did. ``pullback(message)``: the operation's own
    vector–Jacobian product, one array for each active input.
    """

    node: Node
    x: tuple[Array, ...]
    y: tuple[Array, ...]
    message: tuple[Array | None, ...]
    pullback: Callable[[tuple[Array | None, ...]], Sequence[Array | None]]


@dataclass(frozen=True)
class RuleSet:
    """A table ``role → rule``; ``functions`` refines it by the name of what a node computes."""

    name: str
    roles: Mapping[Role, Rule]
    functions: Mapping[str, Rule] = field(default_factory=dict)

    def rule(self, node: Node) -> Rule:
        """The rule for ``node``. A missing entry is an error, never a silent gradient."""
        rule = self.functions.get(node.function) or self.roles.get(node.role)
        if rule is None:
            raise unsupported(node, self.name, "the rule set has no entry for this role")
        return rule


def unsupported(node: Node, rules: str, why: str) -> UnsupportedOperation:
    where = f" in module {node.scope!r}" if node.scope else ""
    source = f" ({node.source})" if node.source else ""
    return UnsupportedOperation(
        f"rule set {rules!r} cannot pass operation {node.op!r} (node {node.name!r}, role {node.role.value!r})"
        f"{where}{source}: {why}. explain.coverage lists every operation; pick another method, or wrt= a layer "
        "behind this one."
    )

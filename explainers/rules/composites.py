"""Composites: assignments of relevance propagation rules to layers.

Montavon et al. 2019, "Layer-Wise Relevance Propagation: An Overview", section 10.3; Kohlbrenner et al. 2020,
"Towards Best Practice in Explaining Neural Network Decisions with LRP".
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import Any

from ..errors import InputError, UnknownNameError
from ..graph import Function, Graph, Node, Role, Value, rewrite_regions
from ..stored import Stored
from .base import Rule, RuleSet
from .lrp import FUNCTIONS, ROLES, AlphaBeta, Epsilon, Flat, Gamma, LayerRule, ZBox, ZPlus

WEIGHTED = (Function.DENSE, Function.CONV)
Where = Role | str | int


@dataclass(frozen=True)
class Composite(Stored):
    """Assigns rules to layers: the first entry that fits, ``default`` for other dense and conv layers.

    ``entries``: pairs (where, rule). ``where`` is a :class:`~explainers.graph.Role`; ``"dense"`` or
    ``"conv"``; a pattern for the paths of modules, such as ``"features.*"``; or the number of dense and
    conv layers between the input and this one: 0 for the first, −1 for the last. ``Epsilon`` by a pattern
    also applies to other linear operations there, ``Pass`` also to activations; all other rules to dense and conv only.

    >>> composite = Composite([(0, ZBox(0, 1)), ("features.*", Gamma(0.5))], default=Epsilon(1e-3))
    """

    entries: Sequence[tuple[Where, Rule]] = ()
    default: Rule = field(default_factory=Epsilon)

    def __post_init__(self) -> None:
        if not isinstance(self.entries, (tuple, list)):
            raise InputError(f"a Composite takes a list of pairs of where and a rule; got {self.entries!r}")
        for entry in self.entries:
            if not isinstance(entry, (tuple, list)) or len(entry) != 2:
                raise InputError(f"an entry of a Composite is a pair of where and a rule; got {entry!r}")
            _check_entry(*entry)
        _check_entry("dense", self.default)
        object.__setattr__(self, "entries", tuple((where, rule) for where, rule in self.entries))

    def assign(self, graph: Graph, wrt: Sequence[Value]) -> Graph:
        """The graph with ``attributes.rule`` set on every node that an entry or the default applies to."""
        walked = _walked(graph, wrt)
        first, last = _depths(graph, walked)
        nodes: dict[str, Node] = {node.name: node for node in graph}
        found: set[Where] = set()
        for node in walked:
            depths = (first.get(node.name), last.get(node.name))
            fitting = [e for e in self.entries if _fits(e[1], node, e[0]) and _is_at(node, e[0], depths)]
            found.update(where for where, _ in fitting)
            rule = fitting[0][1] if fitting else self.default if node.function.weighted else None
            if rule is not None:
                nodes[node.name] = dataclasses.replace(node, attributes=dataclasses.replace(node.attributes, rule=rule))
        self._check(found, walked, len(set(first.values())))
        return Graph(tuple(nodes.values()), graph.inputs, graph.outputs)

    def _check(self, found: set[Where], walked: Sequence[Node], depth: int) -> None:
        for where, rule in self.entries:
            if where in found or isinstance(where, Role) or where in WEIGHTED:
                continue
            if isinstance(where, str):
                known = {m for node in walked if _fits(rule, node, where) for m in (*node.modules, node.scope) if m}
                raise UnknownNameError.among(
                    "module pattern", where, known, f"No layer that {rule} applies to has such a path."
                )
            if where not in (0, -1):
                raise InputError(f"no dense or conv layer is at depth {where}: there are {depth} depths, from 0")


def _check_entry(where: Any, rule: Any) -> None:
    if not isinstance(where, (Role, str, int)) or isinstance(where, bool):
        raise InputError(f"an entry of a Composite starts with a Role, a text or a depth; got {where!r}")
    if not callable(rule) or isinstance(rule, type):
        raise InputError(f"the entry {where!r} needs a rule such as Epsilon(); got {rule!r}")
    if not isinstance(rule, LayerRule):
        return
    if not rule.passes_weighted and (where in WEIGHTED or isinstance(where, int)):
        raise InputError(
            f"{rule!r} applies to operations whose input and output have the same shape, not to dense or conv layers; "
            f"got {where!r}"
        )
    if rule.only_weighted and isinstance(where, Role) and where is not Role.LINEAR:
        raise InputError(f"{rule!r} applies to dense and conv layers, which have the role linear; got {where!r}")


def _fits(rule: Rule, node: Node, where: Where) -> bool:
    """Whether ``rule`` can pass ``node``, by an entry for ``where``."""
    if isinstance(where, int) and not node.function.weighted:
        return False
    return rule.fits(node) if isinstance(rule, LayerRule) else True


def _is_at(node: Node, where: Where, depths: tuple[int | None, int | None]) -> bool:
    if isinstance(where, Role):
        return node.role is where
    if isinstance(where, int):
        return where in depths
    if where in WEIGHTED:
        return node.function == where
    return any(fnmatchcase(path.partition("@")[0], where) for path in (*node.modules, node.scope))


def _walked(graph: Graph, wrt: Sequence[Value]) -> list[Node]:
    active = graph.active(wrt)
    needed = graph.needed((value for _, value in graph.outputs), wrt)
    return [n for n in graph if n.name in needed and n.role is not Role.INPUT and active.intersection(n.values)]


def _depths(graph: Graph, walked: Sequence[Node]) -> tuple[dict[str, int], dict[str, int]]:
    """For each dense and conv node: how many precede it on the longest path; how many follow, from −1 down."""
    before: dict[Value, int] = {}
    behind: dict[Value, int] = {}
    first, last = {}, {}
    for node in walked:
        depth = max((before.get(value, 0) for value in node.inputs), default=0)
        if node.function.weighted:
            first[node.name] = depth
            depth += 1
        before.update(dict.fromkeys(node.values, depth))
    for node in reversed(walked):
        depth = max(behind.get(value, 0) for value in node.values)
        if node.function.weighted:
            depth += 1
            last[node.name] = -depth
        for value in node.inputs:
            behind[value] = max(depth, behind.get(value, 0))
    return first, last


@dataclass(frozen=True)
class Relevance(RuleSet):
    """The table of LRP, with a composite for the layers that have weights."""

    composite: Composite = field(default_factory=Composite)

    def prepare(self, graph: Graph, wrt: Sequence[Value]) -> Graph:
        return self.composite.assign(rewrite_regions.mark_rescaling(rewrite_regions.join_bias(graph, wrt), wrt), wrt)

    def exactness(self, graph: Graph, node: Node, places: Sequence[int]) -> str:
        rule = self.rule(node)
        if isinstance(rule, LayerRule):
            return "conserving" if rule.conserves(graph, node, places) else "exact"
        return "exact" if node.function.normalizes or node.function.weighted else "conserving"

    def stabilizer(self, node: Node) -> float:
        rule = self.rule(node)
        return rule.stabilizer if isinstance(rule, LayerRule) else 0.0


def composite(name: str, low: Any = None, high: Any = None) -> Composite:
    """The composite called ``name`` (Montavon et al. 2019; Kohlbrenner et al. 2020)."""
    convolutions: dict[str, Rule] = {
        "epsilon_plus": ZPlus(), "epsilon_plus_flat": ZPlus(), "epsilon_gamma_box": Gamma(), "alpha_beta": AlphaBeta(),
    }  # fmt: skip
    first: dict[str, Callable[[], Rule]] = {"epsilon_plus_flat": Flat, "epsilon_gamma_box": lambda: ZBox(low, high)}
    if name not in COMPOSITES:
        raise UnknownNameError.among("composite", name, COMPOSITES)
    if (low is not None or high is not None) and name != "epsilon_gamma_box":
        raise InputError(f"composite {name!r} takes no bounds; low= and high= go with 'epsilon_gamma_box'")
    entries: list[tuple[Where, Rule]] = [(0, first[name]())] if name in first else []
    return Composite([*entries, ("conv", convolutions[name])] if name in convolutions else entries)


COMPOSITES = ("epsilon_plus", "epsilon_plus_flat", "epsilon_gamma_box", "alpha_beta", "epsilon")


def relevance(chosen: Composite) -> Relevance:
    """The rule set of LRP with a composite."""
    return Relevance("lrp", ROLES, FUNCTIONS, elementary=True, composite=chosen)

"""Where the weights of a graph go, and which of them have derivatives that are products of two matrices.

A weight's **use** is an operation that joins it with the samples. The derivative of a sample's loss towards a dense or
a convolution's weight is Σ_t left_tᵀ·right_t, of what goes into the operation at each place t and of the message that
arrives behind it: two factors, which are much smaller than the derivative. The bias is one more row, with left = 1.
Other weights (of norms, of positions, that are reused in several roles) have whole derivatives.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import cached_property
from typing import NamedTuple

from ..errors import UnknownNameError, UnsupportedOperation
from ..graph import Function, Graph, Node, Output, Role, Spreading, Value

FEW = 1024  # entries of a weight whose curvature is kept whole, and not only its diagonal


class Use(NamedTuple):
    """An operation that joins a weight with the samples: its operand at ``place`` is the weight, or made of weights."""

    node: Node
    place: int

    @property
    def operand(self) -> Value:
        return self.node.inputs[self.place]


class Layout(NamedTuple):
    """The samples lie along ``axis`` of an array, which holds before·N·behind entries."""

    axis: int
    before: int = 1
    behind: int = 1


@dataclass(frozen=True)
class Block:
    """Weights whose curvature is kept together.

    weights: their values, the bias last if there is one. names: as the model calls them. rule: how their derivative is
    computed: ``dense``, ``conv``, ``embedding`` (factors), ``full`` or ``diagonal`` (the derivative itself). uses: of
    the weight. entries: how many there are.
    """

    names: tuple[str, ...]
    weights: tuple[Value, ...]
    rule: str
    uses: tuple[Use, ...]
    entries: int

    @property
    def factored(self) -> bool:
        return self.rule in ("dense", "conv", "embedding")

    @property
    def biased(self) -> bool:
        return self.factored and len(self.weights) > 1


@dataclass(frozen=True)
class Sites:
    """The uses of the weights of a graph that lead to ``output``.

    names: of the weights in question.
    """

    graph: Graph
    output: Value
    names: Mapping[Value, str]

    @cached_property
    def moved(self) -> set[Value]:
        """The values that depend on the samples."""
        return self.graph.moved(self.graph.inputs, by_shape=True)

    @cached_property
    def needed(self) -> set[str]:
        return self.graph.needed([self.output])

    @cached_property
    def made(self) -> dict[Value, frozenset[Value]]:
        """The values that are made of weights alone, each with those weights that a derivative leads to."""
        found = {value: frozenset([value]) for value in self.names}
        for node in self.graph:
            stops = node.function in (Function.STOP_GRADIENT, Function.SHAPE)
            if stops or node.name not in self.needed or any(value in self.moved for value in node.inputs):
                continue
            weights = frozenset().union(*(found.get(value, frozenset()) for value in node.inputs))
            if weights:
                pairs = zip(node.values, node.outputs, strict=True)
                found.update((value, weights) for value, out in pairs if out.differentiable)
        return found

    @cached_property
    def uses(self) -> dict[Value, list[Use]]:
        """The uses of each weight."""
        found: dict[Value, list[Use]] = {value: [] for value in self.names}
        for node in self.graph:
            if node.name not in self.needed or not any(value in self.moved for value in node.values):
                continue
            if node.function in (Function.STOP_GRADIENT, Function.SHAPE):
                continue
            for place, value in enumerate(node.inputs):
                for weight in self.made.get(value, ()):
                    found[weight].append(Use(node, place))
        return found

    @cached_property
    def layouts(self) -> dict[Value, Layout]:
        """Where the samples lie in each value, also where they are folded into an axis with others."""
        found: dict[Value, Layout] = {}
        for node in self.graph:
            for value, out in zip(node.values, node.outputs, strict=True):
                if out.batch_axis is not None:
                    found[value] = Layout(out.batch_axis)
                elif out.shape.count(None) == 1:
                    layout = self._folded(node, out, found)
                    if layout is not None:
                        found[value] = layout
        return found

    def _folded(self, node: Node, out: Output, known: Mapping[Value, Layout]) -> Layout | None:
        axis = out.shape.index(None)
        operands = [value for value in node.inputs if value in known]
        if not operands:
            return None
        first = operands[0]
        layout, shape = known[first], self.graph.output(first).shape
        keeps = node.elementwise or node.function in (Function.DENSE, Function.SOFTMAX)
        if keeps or node.role is Role.BILINEAR:
            alike = {known[value][1:] for value in operands}
            return layout._replace(axis=axis) if len(alike) == 1 and (1, 1) not in alike else None
        if not node.attributes.relabels:
            return None  # it may put samples elsewhere
        if sorted(map(str, shape)) == sorted(map(str, out.shape)):
            return layout._replace(axis=axis) if layout[1:] != (1, 1) else None
        before = math.prod(size or 1 for size in shape[: layout.axis]) * layout.before
        behind = layout.behind * math.prod(size or 1 for size in shape[layout.axis + 1 :])
        fronts = math.prod(size or 1 for size in out.shape[:axis])
        backs = math.prod(size or 1 for size in out.shape[axis + 1 :])
        if before % fronts or behind % backs:
            return None
        return Layout(axis, before // fronts, behind // backs)

    @cached_property
    def blocks(self) -> tuple[Block, ...]:
        """The weights that can be differentiated, a bias with what it is added to."""
        others = self._biases | self.opaque.keys()
        found = [weight for weight in self.names if self.uses[weight] and weight not in others]
        return tuple(self._with_factors.get(weight) or self._whole(weight) for weight in found)

    @cached_property
    def opaque(self) -> dict[Value, str]:
        """The weights that the output depends on and that cannot be differentiated, with the reason."""
        others = self._biases | self._with_factors.keys()
        reasons = {weight: self._reason(weight) for weight in self.names if weight not in others}
        return {weight: reason for weight, reason in reasons.items() if reason}

    @cached_property
    def _biases(self) -> set[Value]:
        """Those that belong to the block of another weight."""
        return {bias for block in self._with_factors.values() for bias in block.weights[1:]}

    @cached_property
    def _with_factors(self) -> dict[Value, Block]:
        found = {weight: self._factored(weight) for weight in self.names}
        return {weight: block for weight, block in found.items() if block is not None}

    @cached_property
    def unused(self) -> tuple[Value, ...]:
        """Weights that the output does not depend on: their derivative is 0."""
        return tuple(value for value in self.names if not self.uses[value] and value not in self.opaque)

    def size(self, value: Value) -> int:
        return math.prod(size or 0 for size in self.graph.output(value).shape)

    # --- factors -----------------------------------------------------------------------------

    def _factored(self, weight: Value) -> Block | None:
        """The block of a weight with factors, and of its bias; None if it has whole derivatives."""
        uses = self.uses[weight]
        rules = {self._rule(use, weight) for use in uses}
        kinds = {
            (use.node.op, *(self._width(value) for value in (use.node.inputs[0], use.node.values[0]))) for use in uses
        }
        if len(rules) != 1 or None in rules or len({use.operand for use in uses}) > 1:
            return None
        if rules == {"conv"} and len(kinds) > 1:  # of other groups, or transposed
            return None
        (rule,) = rules
        assert rule is not None
        biases = {self._bias(use) if rule != "embedding" else None for use in uses}
        bias = biases.pop() if len(biases) == 1 else None
        if bias is not None and len(self.uses[bias]) != len(uses):
            bias = None
        weights = (weight,) if bias is None else (weight, bias)
        entries = sum(map(self.size, weights))
        return Block(tuple(self.names[value] for value in weights), weights, rule, tuple(uses), entries)

    def _rule(self, use: Use, weight: Value) -> str | None:
        """How the use of a weight, as itself or with its entries in another order, is factored; None if it is not."""
        node, attributes = use.node, use.node.attributes
        if not self._relabelled(use.operand, weight) or node.values[0] not in self.layouts or len(node.outputs) > 1:
            return None
        others = [value for place, value in enumerate(node.inputs) if place != use.place and value in self.moved]
        others = [value for value in others if self.graph.output(value).floating]
        if node.function is Function.EMBEDDING:
            table = self.graph.output(use.operand).shape
            ids = [value for value in node.inputs[1:2] if value in self.layouts]
            plain = bool(ids) and node.outputs[0].shape == (*self.graph.output(ids[0]).shape, *table[1:])
            return "embedding" if plain and use.place == 0 and len(table) == 2 else None
        if use.place != attributes.weight or len(others) != 1 or others[0] not in self.layouts:
            return None
        if node.function is Function.CONV and attributes.locality is not None:
            return "conv" if self.layouts[node.values[0]] == (0, 1, 1) else None
        layouts = self.layouts[others[0]], self.layouts[node.values[0]]
        last = len(node.outputs[0].shape) - 1
        plain = layouts[0] == layouts[1] and layouts[0].axis < last
        plain = plain and len(self.graph.output(use.operand).shape) == 2 and attributes.contracted is not None
        return "dense" if node.function is Function.DENSE and plain else None

    def general(self, block: Block) -> bool:
        """Whether the derivative needs an operation to be differentiated for each sample apart, of any kind."""
        if block.factored:
            return False
        chains = (node for use in block.uses if use.operand != block.weights[0] for node in self.chain(use.operand))
        return any(not node.elementwise for node in chains) or any(
            not self.broadcasts(use) and not self.adds_bias(use) and not self.factored(use) for use in block.uses
        )

    def _width(self, value: Value) -> tuple[int | None, ...]:
        return self.graph.output(value).shape[1:]

    def adds_bias(self, use: Use) -> bool:
        """Whether the weight is the bias of a dense or conv map, one number for each channel."""
        node, attributes = use.node, use.node.attributes
        if use.place != attributes.bias or (node.function is not Function.CONV and attributes.contracted is None):
            return False
        return self.graph.output(use.operand).shape == (node.outputs[0].shape[self.channels(node)],)

    def broadcasts(self, use: Use) -> bool:
        """Whether the weight is repeated along the samples, as numpy does it: not so a slope for each channel."""
        node = use.node
        if not node.attributes.repeats:
            return node.elementwise and node.role is not Role.UNIVARIATE
        before, behind = self.graph.output(use.operand).shape, node.outputs[0].shape
        pairs = zip(reversed(before), reversed(behind), strict=False)
        return use.place == 0 and all(size in (1, wide) for size, wide in pairs)

    def factored(self, use: Use) -> bool:
        """Whether the use has factors that form the derivative of what it uses: of a dense map or a table."""
        return self._rule(use, use.operand) in ("dense", "embedding")

    def _relabelled(self, value: Value, weight: Value) -> bool:
        while value != weight:
            node = self.graph.by_name[value.node]
            operands = [operand for operand in node.inputs if operand in self.made]
            if not node.attributes.relabels or len(operands) != 1:
                return False
            value = operands[0]
        return True

    def _bias(self, use: Use) -> Value | None:
        """The weight that is added to each place of the use's result."""
        node, attributes = use.node, use.node.attributes
        if isinstance(attributes.locality, Spreading):
            return None  # places of the result are not those of the factors
        outputs = node.outputs[0].shape[self.channels(node)]
        if attributes.bias is not None:
            plain = self.adds_bias(Use(node, attributes.bias))
            return self._whole_weight(node.inputs[attributes.bias], outputs) if plain else None
        value = node.values[0]
        while True:
            users = [user for user in self.graph if value in user.inputs and user.function is not Function.SHAPE]
            if len(users) != 1 or value == self.output:
                return None
            (user,) = users
            if user.function is Function.ADD and len(user.inputs) == 2:
                (other,) = (operand for operand in user.inputs if operand != value)
                behind = _stripped(self.graph.output(value).shape[self.channels(node) :])
                plain = _stripped(self.graph.output(other).shape) == behind
                return self._whole_weight(other, outputs) if plain else None
            before, behind = self.graph.output(value).shape, user.outputs[0].shape
            splits = user.attributes.relabels and len(behind) > len(before) and behind[: len(before) - 1] == before[:-1]
            if not splits or node.function is Function.CONV:  # only the last axis may come apart, and none may move
                return None
            value = user.values[0]

    def channels(self, node: Node) -> int:
        """The axis of the channels in the result of a dense or conv map."""
        rank = len(node.outputs[0].shape)
        fact = node.attributes.locality
        if node.function is Function.CONV and fact is not None:
            (axis,) = (axis for axis in range(1, rank) if axis not in fact.axes)  # type: ignore[attr-defined]
            return int(axis)
        return rank - 1

    def _whole_weight(self, value: Value, size: int | None) -> Value | None:
        """The weight that ``value`` has all entries of, in any shape, if there are ``size``."""
        weights = self.made.get(value, frozenset())
        if len(weights) != 1:
            return None
        (weight,) = weights
        straight = value == weight or all(self._is_vector(node.outputs[0]) for node in self.chain(value))
        return weight if straight and self._relabelled(value, weight) and self.size(weight) == size else None

    @staticmethod
    def _is_vector(out: Output) -> bool:
        """Whether there is one order of the entries only."""
        return sum(size != 1 for size in out.shape) <= 1

    # --- whole derivatives -------------------------------------------------------------------

    def _whole(self, weight: Value) -> Block:
        entries = self.size(weight)
        rule = "full" if entries <= FEW else "diagonal"
        return Block((self.names[weight],), (weight,), rule, tuple(self.uses[weight]), entries)

    def _reason(self, weight: Value) -> str:
        """Why a weight cannot be differentiated; "" if it can, or if the output does not depend on it."""
        if not self.uses[weight]:
            return "no derivative leads from it to the loss" if weight.node in self.needed else ""
        for use in self.uses[weight]:
            node = use.node
            repeated = node.attributes.repeats and self.broadcasts(use)  # whatever the samples hold
            if (node.role is Role.CONSTANT and not repeated) or not node.outputs[0].floating:
                return f"no derivative leads through {node.op} (node {node.name!r})"
            behind = {value for user in self.graph if user.name in self.needed for value in user.inputs}
            if behind & set(node.values[1:]):
                return f"{node.op} has several results (node {node.name!r})"
            layout = self.layouts.get(node.values[0])
            if layout is None:
                return f"the samples cannot be told apart in the result of {node.op} (node {node.name!r})"
            if not self.broadcasts(use) and not self.adds_bias(use) and not self._apart(use, layout):
                return f"the samples are folded into an axis of {node.op} (node {node.name!r})"
        return ""

    def _apart(self, use: Use, layout: Layout) -> bool:
        operands = [value for value in use.node.inputs if value in self.moved and self.graph.output(value).shape]
        operands = [value for value in operands if None in self.graph.output(value).shape]
        return layout[1:] == (1, 1) and all(self.layouts.get(value, (0, 0))[1:] == (1, 1) for value in operands)

    def chain(self, value: Value) -> Iterator[Node]:
        """The operations that make ``value`` of weights, the last one first."""
        wanted = {value}
        for node in reversed(self.graph.nodes):
            if node.role is not Role.WEIGHT and any(result in wanted for result in node.values):
                wanted.update(operand for operand in node.inputs if operand in self.made)
                yield node


def _stripped(shape: Sequence[int | None]) -> tuple[int | None, ...]:
    """The shape without the 1s that it begins with."""
    sizes = list(shape)
    while sizes and sizes[0] == 1:
        del sizes[0]
    return tuple(sizes)


def chosen(names: Mapping[Value, tuple[str, bool]], wrt: Sequence[str] | None) -> dict[Value, str]:
    """The weights that are trained, or those whose names match the patterns ``wrt`` (as of a shell)."""
    if wrt is None:
        found = {value: name for value, (name, trained) in names.items() if trained}
        if not found:
            raise UnsupportedOperation(
                "no weight of the model is trained: all are frozen, or it keeps none. Name those in question with "
                f"wrt=: {_some([name for name, _ in names.values()])}"
            )
        return found
    known = [name for name, _ in names.values()]
    for pattern in wrt:
        if not any(matches(name, pattern) for name in known):
            raise UnknownNameError.among("weight", pattern, known, "Patterns such as 'layer4.*' are possible.")
    return {value: name for value, (name, _) in names.items() if any(matches(name, pattern) for pattern in wrt)}


def matches(name: str, pattern: str) -> bool:
    """Whether ``pattern`` is the name, a module that it belongs to, or matches it as in a shell."""
    return any(fnmatchcase(name, f"{pattern}{end}") for end in ("", ".*", "/*"))


def _some(names: Collection[str]) -> str:
    few = list(names)[:8]
    return ", ".join(few) + (" …" if len(names) > len(few) else "")

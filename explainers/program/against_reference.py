"""Programs that compare a sample with a reference: DeepLIFT's walk.

The reference's activations are arguments, computed beforehand by a :class:`~.program.Forward` and kept as
long as the reference stays the same. Two forms share one implementation:

* aligned: row i of the samples is compared with row i of the references, or all with the only one;
* grid: every sample is compared with every reference. The model runs once for each sample; only
  the reverse walk runs for each pair.

In a grid, rules see the batch axis as two axes, (samples, references); a value of the sample has size 1 along
the second, one of the reference along the first. The model's operations see the pairs as one flat batch.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from ..errors import UnsupportedOperation
from ..graph import Attributes, Function, Graph, Node, Role, Value, rewrite_regions
from ..ops import Ops, Pullback
from ..rules import RuleSet, Site
from ..rules.base import unsupported
from ..rules.deeplift import Split, signs
from .walk import ACCUMULATE, Forward, Placeholder, Program, Results, active_places, evaluate

Array = Any
FLAT_ROLES = (Role.MAX_POOL, Role.REDUCE_MAX)  # rules that look at windows and axes see flat rows


@dataclass(frozen=True)
class Contrast(Program):
    """``program(ops, weights, *inputs, mask, choose, *reference activations) → (output, *results)``.

    ``results``: the contributions, (U, …) for each attributed value; in a grid their sum over the
    references. With ``audit``: one array (1, nodes), the completeness gap of
    each walked node for one sample.
    """

    grid: bool = False
    audit: bool = False

    @property
    def rules(self) -> RuleSet:
        found = self.method.rule_set
        assert found is not None
        return found

    @cached_property
    def promises(self) -> bool:
        """Whether attributions add up: they need not where operations without a rule are allowed."""
        return self.method.adds_up and not self.coverage().approximate

    # --- values needed at the reference ------------------------------------------------------

    @cached_property
    def _moved(self) -> set[Value]:
        return self.graph.moved(self.wrt)

    @cached_property
    def _active(self) -> set[Value]:
        return self.graph.active(self.wrt)

    @cached_property
    def kept(self) -> tuple[Value, ...]:
        """The values at the reference that the walk compares with; the first is the output."""
        wanted: dict[Value, None] = dict.fromkeys((self.output, *self.wrt))
        for node in self.walked:
            if self.audit or not self._passes(node):
                wanted.update(dict.fromkeys(node.inputs[p] for p in active_places(node, self._active)))
                wanted.update(dict.fromkeys(node.values))
        found: dict[Value, None] = {}
        stack = list(reversed(wanted))
        while stack:
            value = stack.pop()
            if value in found or value not in self._moved:
                continue
            if self.graph.output(value).batch_axis is not None:
                found[value] = None
            else:
                stack += self.graph.by_name[value.node].inputs
        return tuple(found)

    def _passes(self, node: Node) -> bool:
        """Whether the rule is the operation's own derivative and needs no values, as for a linear operation."""
        return self.rules.passes(node) and not self.rules.splits

    @cached_property
    def reference(self) -> Forward:
        """The program that computes ``kept``."""
        return Forward(self.graph.restrict((str(i), value) for i, value in enumerate(self.kept)))

    @cached_property
    def shared(self) -> bool:
        """Whether a reference's activations are the same for every sample."""
        return not self.others

    @cached_property
    def others(self) -> tuple[Value, ...]:
        """The inputs besides ``wrt`` whose entries, not only shapes, the reference's activations depend on."""
        needed = self.graph.needed(self.kept)
        upstream = {value for node in self.graph if node.name in needed for value in node.values} & self._moved
        candidates = [value for value in self.reference.inputs if value not in self.wrt]
        return tuple(value for value in candidates if (self.graph.moved([value]) - {value}) & upstream)

    @cached_property
    def placeholders(self) -> tuple[Placeholder, ...]:
        """The kernel's arguments: as of a program without baseline, then the reference's activations."""
        axis = "baselines" if self.grid else "samples"
        result = list(self._placeholders_without_baseline())
        for index, value in enumerate(self.kept):
            kind = self.graph.output(value)
            shape = tuple(size for size in kind.shape if size is not None)
            result.append(Placeholder(f"reference_{index}", axis, shape, kind.dtype))
        return tuple(result)

    def broadcasts(self, node: Node) -> bool:
        """Whether the output of ``node`` has another shape than its first active input."""
        first = active_places(node, self._active)[0]
        return self.graph.output(node.inputs[first]).shape != node.outputs[0].shape

    def problem(self, node: Node) -> UnsupportedOperation | None:
        found = super().problem(node)
        if found is None and self.rules.splits and node.role is Role.UNIVARIATE and self.broadcasts(node):
            return unsupported(node, self.rules.name, "it spreads its operand over more entries")
        hidden = [value for value in node.inputs if value in self._moved and value not in self._active]
        if found is None and hidden and self.rules.fallback is None:
            stays = f"; with wrt={node.scope!r} it stays as it is for the sample" if node.scope else ""
            return unsupported(
                node, self.rules.name,
                f"its operand {hidden[0]} depends on the input through integers or comparisons, as a mask does, or "
                "through a stop-gradient (detach, no_grad), so that it differs between input and reference without a "
                f"derivative{stays}",
            )  # fmt: skip
        return found

    # --- running -----------------------------------------------------------------------------

    def __call__(self, ops: Ops, weights: Mapping[Value, Array], *arguments: Array) -> Results:
        args, run, messages = self.walked_back(ops, weights, arguments)
        y = ops.cast(run.values[self.output], ACCUMULATE[self.dtype(self.output)])
        if self.audit:
            return (y, self._gaps(ops, run, messages))
        results = []
        for value in self.wrt:
            x, r = run.x(value), run.r(value)
            if value not in messages:
                results.append(ops.zeros_like(run.values[value]))
                continue
            (part,) = self.method.contribute(ops, [run.multiplier(messages[value], value)], [x], [r], args)
            part = ops.cast(part, ACCUMULATE[self.dtype(value)])
            results.append(ops.sum_axis(part, 1) if self.grid else part)
        return (y, *results)

    def walked_back(
        self, ops: Ops, weights: Mapping[Value, Array], arguments: Sequence[Array]
    ) -> tuple[dict[str, Array], Layouts, dict[Value, Any]]:
        """The arguments by name, the values of the run, and the message at every value on the path."""
        args = dict(zip((p.name for p in self.placeholders), arguments, strict=True))
        inputs = [args[f"input_{value.node}"] for value in self.graph.inputs]
        values, _ = evaluate(ops, self.graph, weights, inputs, (self.output, *self.wrt, *self._targets()))
        at_reference = {
            value: ops.move_axis(args[f"reference_{i}"], 0, self.graph.output(value).batch_axis or 0)
            for i, value in enumerate(self.kept)
        }
        mask = self.method.weights(ops, args["mask"] + ops.one_hot_max(values[self.output]) * args["choose"])
        run = Layouts(ops, self, values, at_reference)
        return args, run, self._walk(ops, run, run.start(mask))

    def _targets(self) -> list[Value]:
        return [value for node in self.walked for value in (*node.inputs, *node.values)]

    def _walk(self, ops: Ops, run: Layouts, start: Array) -> dict[Value, Any]:
        """Messages, at flat rows, of every value on the path."""
        self._split(ops, run)
        first = Split(start, start) if self.rules.splits else start
        return self.carry(ops, {self.output: first}, run.site, run.flattened)

    def _split(self, ops: Ops, run: Layouts) -> None:
        """Positive and negative differences of every value on the path, if the rule set propagates them."""
        table, splits = self.rules.splits, run.splits
        if not table:
            return
        for value in self.wrt:
            splits[value] = signs(ops, run.x_rows(value) - run.r_rows(value))
        for node in self.walked:
            rule = table.get(node.function) or table[node.role]
            splits.update(zip(node.values, rule(ops, run.site(node, (None,) * len(node.outputs))), strict=False))

    def _gaps(self, ops: Ops, run: Layouts, messages: Mapping[Value, Any]) -> Array:
        """Σ m·Δ over each node's inputs minus that over its outputs, (1, nodes); for one sample."""
        gaps = []
        for node in self.walked:
            passed = run.passed.get(node.name, [])
            total = run.total(messages[self.output], self.output) * 0
            for value, message in passed:
                total = total + run.total(message, value)
            for value in node.values if passed else ():
                if value in messages:
                    total = total - run.total(messages[value], value)
            gaps.append(total)
        return ops.stack(gaps)


class Layouts:
    """The values of one run, at the sample and at the reference, in the layouts of rules and of operations.

    ``program``: a :class:`Contrast`, or another program that compares or pairs rows as a grid does.
    """

    def __init__(
        self, ops: Ops, program: Any, values: Mapping[Value, Array], at_reference: Mapping[Value, Array]
    ) -> None:
        self.ops, self.program, self.grid = ops, program, program.grid
        self.graph: Graph = program.graph
        self.values, self.base = values, at_reference
        self.moved, self.active = program._moved, program._active
        self.dependent = program.graph.moved(program.graph.inputs, by_shape=True)
        self.like_x = values[program.output]
        self.like_r = at_reference[program.output]
        self._x_rows: dict[Value, Array] = {}
        self._r_rows: dict[Value, Array] = {}
        self.splits: dict[Value, Split] = {}
        self.passed: dict[str, list[tuple[Value, Any]]] = {}

    def axis(self, value: Value) -> int | None:
        return self.graph.output(value).batch_axis

    # --- the layout of rules -----------------------------------------------------------------

    def x(self, value: Value) -> Array:
        axis = self.axis(value)
        if not self.grid:
            return self.values[value]
        return self.ops.insert_axis(self.values[value], axis + 1) if axis is not None else self.x_rows(value)

    def r(self, value: Value) -> Array:
        axis = self.axis(value)
        if value not in self.base:
            return self.r_rows(value) if axis is None else self.x(value)
        if not self.grid:
            return self.base[value]
        assert axis is not None  # values kept at references have one row per reference
        return self.ops.insert_axis(self.base[value], axis)

    def spread(self, rows: Array, value: Value) -> Array:
        """Flat rows in the layout of rules."""
        axis = self.axis(value)
        if not self.grid or axis is None:
            return rows
        return self.ops.split_axis(rows, axis, self.like_x, 0, self.like_r, 0)

    def flat(self, array: Array, value: Value) -> Array:
        """The result of a rule, as flat rows."""
        axis = self.axis(value)
        if axis is None:
            return array
        if not self.grid:
            return self.ops.broadcast_like(array, self.values[value])
        array = self.ops.expand_axis(array, axis, self.like_x, 0)
        array = self.ops.expand_axis(array, axis + 1, self.like_r, 0)
        return self.ops.join_axis(array, axis)

    # --- the layout of the model's operations ------------------------------------------------

    def x_rows(self, value: Value) -> Array:
        """The value at the sample, one entry for each row."""
        if not self.grid or value not in self.dependent:
            return self.values[value]
        if value not in self._x_rows:
            self._x_rows[value] = self._rows(value, self.x, self.x_rows)
        return self._x_rows[value]

    def r_rows(self, value: Value) -> Array:
        """The value at the reference, one entry for each row."""
        if value not in self.moved:
            return self.x_rows(value)
        if value not in self._r_rows:
            self._r_rows[value] = self._rows(value, self.r, self.r_rows)
        return self._r_rows[value]

    def _rows(self, value: Value, seen: Any, rows: Any) -> Array:
        if self.axis(value) is not None:
            return self.flat(seen(value), value)
        node = self.graph.by_name[value.node]
        return rewrite_regions.evaluate(self.ops, node, [rows(operand) for operand in node.inputs])[value.place]

    def blank(self, value: Value) -> Array:
        """An array with the shape of ``value`` at flat rows; its entries are not used."""
        axis = self.axis(value)
        if not self.grid or axis is None:
            return self.x_rows(value)
        return self.ops.blank(self.values[value], axis, self.like_x, self.like_r)

    # --- the walk ----------------------------------------------------------------------------

    def start(self, mask: Array) -> Array:
        output = self.program.output
        return self.flat(self.ops.insert_axis(mask, 1), output) if self.grid else mask

    def sees_flat(self, node: Node) -> bool:
        """Whether the rule for ``node`` gets flat rows in a grid."""
        inner = node.attributes != Attributes() and self.axis(node.values[0]) != 0  # an axis before the samples'
        windows = node.role in FLAT_ROLES or node.function is Function.BIVARIATE
        return bool(self.program.rules.splits) or (self.grid and (windows or inner))

    def site(self, node: Node, arrived: tuple[Any, ...]) -> Site:
        places = active_places(node, self.active)
        inputs = [node.inputs[place] for place in places]
        flat = self.sees_flat(node)
        see_x, see_r = (self.x_rows, self.r_rows) if flat else (self.x, self.r)
        blind = self.program._passes(node)
        kept = [] if blind else [v for v in node.values if self.graph.output(v).differentiable or v in self.base]
        if blind:
            inputs = []
        messages = zip(arrived, node.values, strict=True)

        def operand(place: int) -> Array:
            return (see_x if place in places else self.x_rows)(node.inputs[place])

        def apply(given: Mapping[int, Array]) -> tuple[Sequence[Array], Pullback]:
            return self._applied(node, places, given, flat)

        def pullback(passed: Sequence[Array | None]) -> Sequence[Array | None]:
            return apply({})[1](passed)

        return Site(
            node,
            x=tuple(see_x(v) for v in inputs),
            y=tuple(see_x(v) for v in kept),
            message=tuple(m if m is None or flat else self.spread(m, value) for m, value in messages),
            pullback=pullback,
            places=places,
            operand=operand,
            apply=apply,
            x_r=tuple(see_r(v) for v in inputs),
            y_r=tuple(see_r(v) for v in kept),
            split=tuple(self.splits[v] for v in inputs if v in self.splits),
            broadcasts=bool(places) and self.program.broadcasts(node),
        )

    def _applied(
        self, node: Node, places: Sequence[int], given: Mapping[int, Array], flat: bool
    ) -> tuple[Sequence[Array], Pullback]:
        """The operation at flat rows, on the samples' operands except those ``given`` in the layout of rules."""
        linear = node.role in (Role.LINEAR, Role.GATHER)
        arrays = []
        for place, value in enumerate(node.inputs):
            if place in given:
                arrays.append(given[place] if flat else self.flat(given[place], value))
            elif linear and place in places:
                arrays.append(self.blank(value))
            else:
                arrays.append(self.x_rows(value))
        results, pullback = rewrite_regions.vjp(self.ops, node, arrays, places)

        def back(messages: Sequence[Array | None]) -> Sequence[Array | None]:
            pairs = zip(messages, node.values, strict=True)
            rows = [m if m is None or flat else self.flat(m, value) for m, value in pairs]
            parts = zip(pullback(rows), places, strict=True)
            return [p if p is None or flat else self.spread(p, node.inputs[place]) for p, place in parts]

        return results, back

    def flattened(self, node: Node, passed: Sequence[Any]) -> Sequence[Any]:
        """A rule's results for each active input, as flat rows."""
        pairs = list(zip(passed, active_places(node, self.active), strict=True))
        if not self.sees_flat(node):
            pairs = [(m if m is None else self.flat(m, node.inputs[place]), place) for m, place in pairs]
        if self.program.audit:
            self.passed[node.name] = [(node.inputs[place], m) for m, place in pairs if m is not None]
        return [m for m, _ in pairs]

    def single(self, message: Any, value: Value) -> Array:
        """One multiplier for each difference."""
        if not isinstance(message, Split):
            return message
        return message.by_sign(self.ops, self.x_rows(value) - self.r_rows(value))

    def multiplier(self, message: Any, value: Value) -> Array:
        """One multiplier for each difference, in the layout of rules."""
        return self.spread(self.single(message, value), value)

    def total(self, message: Any, value: Value) -> Array:
        """Σ m·Δ over all entries, (1,)."""
        if isinstance(message, Split):
            return self.ops.total(message.total(self.splits[value]))
        return self.ops.total(message * self.ops.difference(self.x_rows(value), self.r_rows(value)))

"""Graph + method → one pure function of placeholders over an ``ops`` namespace.

A :class:`Program` knows no framework. A backend calls it once with its own traced arrays and
compiles the recorded operations as a kernel. Per package the kernel does, all on the device::

    take the rows' samples and baselines → expand → forward → reverse walk → contribute → sum per sample

Leading axes of the placeholders: ``samples`` (U, those in the package), ``baselines``
(B, a table), ``rows`` (R), or none.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Container, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

from ..errors import UnsupportedOperation
from ..graph import Function, Graph, Node, Role, Value, rewrite_regions
from ..graph.coverage import Coverage, Operation
from ..lengths import sized
from ..methods.base import Method
from ..methods.removal import Design
from ..ops import Ops
from ..rules import RuleSet, Site
from ..rules.base import unsupported
from ..stored import Stored

Array = Any
Results = tuple[Array, ...]
ULP = {"bfloat16": 2.0**-7, "float16": 2.0**-10, "float32": 2.0**-23, "float64": 2.0**-52}
ACCUMULATE = {"bfloat16": "float32", "float16": "float32", "float32": "float32", "float64": "float64"}


@dataclass(frozen=True)
class Placeholder(Stored):
    """One argument of a kernel: its leading axis (``samples``, ``baselines``, ``rows`` or ""), other axes and dtype."""

    name: str
    axis: str
    shape: tuple[int, ...]
    dtype: str


@dataclass(frozen=True)
class Program:
    """The function a kernel computes: ``program(ops, weights, *arguments) → (output, *results)``.

    ``output``: f of each row, (R, …). ``results``: for a walk, the sums of each sample's
    contributions, (U, …), one per attributed value and accumulator. Forward-only methods have s = Σ w·f of
    each row, (R,), and the sums that their design computes in the kernel. ``sizes``: of the axes that vary, for the
    arguments of a call; programs are compiled without.
    """

    graph: Graph
    method: Method
    wrt: tuple[Value, ...]
    sizes: Mapping[str, int] = field(default_factory=dict, kw_only=True)

    @property
    def least_rows(self) -> int:
        """Of a package, whatever the cache size."""
        return 32

    @property
    def output(self) -> Value:
        return self.graph.outputs[0][1]

    @property
    def single(self) -> bool:
        """Whether there is one row per sample, in order: no index, no expansion."""
        return self.method.single

    @property
    def rules(self) -> RuleSet | None:
        return self.method.rule_set

    @cached_property
    def moved(self) -> tuple[Value, ...]:
        """The values that the method replaces in each row."""
        return tuple(v for v in self.graph.inputs if self.graph.output(v).floating) if self.watches else self.wrt

    @property
    def watches(self) -> bool:
        """Whether the method varies the inputs and only observes ``wrt``."""
        return self.method.moves_inputs

    @cached_property
    def design(self) -> Design | None:
        """The :class:`Design` of a forward-only method."""
        return self.method.design([self.sample_shape(v) for v in self.wrt])

    @cached_property
    def path(self) -> frozenset[str]:
        """Names of the nodes that the walk visits: between ``wrt`` and the output."""
        active = self.graph.active(self.wrt)
        needed = self.graph.needed([self.output], () if self.nested else self.wrt)
        return frozenset(n.name for n in self.graph if n.name in needed and any(v in active for v in n.values))

    @cached_property
    def nested(self) -> bool:
        """Whether some of ``wrt`` are computed from others: a layer and another behind it."""
        return nested(self.graph, self.wrt)

    @cached_property
    def walked(self) -> tuple[Node, ...]:
        """The nodes that the walk visits, in order."""
        return tuple(node for node in self.graph if self._walked(node)) if self.rules else ()

    @cached_property
    def promises(self) -> bool:
        """Whether attributions are guaranteed to add up: all operations on the path conserve relevance."""
        rules = self.rules
        if rules is None or self.nested or self.stabilizer > 1e-4:
            return False
        kinds = {rules.exactness(self.graph, node, active_places(node, self._active)) for node in self.walked}
        return kinds == {"conserving"}

    @cached_property
    def rounding(self) -> float:
        """The relative rounding error of a number: a unit in the last place of the output, or the share of ε."""
        return max(self.stabilizer, ULP[self.dtype(self.output)])

    @cached_property
    def stabilizer(self) -> float:
        """The largest ε of the rules on the path."""
        assert self.rules is not None
        return max(map(self.rules.stabilizer, self.walked), default=0.0)

    @cached_property
    def _active(self) -> set[Value]:
        return self.graph.active(self.wrt)

    @property
    def plain(self) -> Program:
        """The program that evaluates the whole model for each row."""
        return self

    def constants(self) -> dict[str, Any]:
        """The arguments without a leading axis, on the host."""
        shapes = [self.sample_shape(value) for value in self.wrt]
        return self.design.constants() if self.design else self.method.constants(shapes)

    def row_bytes(self) -> int:
        """The size of one row's values in bytes."""
        return self.graph.row_bytes(self.sizes)

    @property
    def row_dtype(self) -> str:
        """The dtype of the rows' numbers: that of the attributed value, or of the output if that is an integer."""
        kind = self.dtype(self.wrt[0])
        return ACCUMULATE[kind if kind in ACCUMULATE else self.dtype(self.output)]

    def dtype(self, value: Value) -> str:
        return self.graph.output(value).dtype

    def sample_shape(self, value: Value) -> tuple[int, ...]:
        shape = [size for size in self.graph.output(value).shape[1:] if size is not None]
        return sized(shape, self.sizes) if self.sizes else tuple(shape)

    def _placeholders_without_baseline(self) -> list[Placeholder]:
        result = [replace(p, shape=sized(p.shape, self.sizes)) if self.sizes else p for p in self._inputs()]
        shape, dtype = self.sample_shape(self.output), self.dtype(self.output)
        result.append(Placeholder("mask", "samples", shape, dtype))
        if self.single:
            result.append(Placeholder("choose", "", (), dtype))
        return result

    def _inputs(self) -> Iterator[Placeholder]:
        return input_placeholders(self.graph.inputs, self.graph)

    @cached_property
    def placeholders(self) -> tuple[Placeholder, ...]:
        """The kernel's arguments, in order."""
        result = self._placeholders_without_baseline()
        if self.method.baseline != "none":
            result += [
                Placeholder(f"baseline_{i}", "baselines", self.sample_shape(v), self.dtype(v))
                for i, v in enumerate(self.moved)
            ]
        if not self.single:
            result.append(Placeholder("sample", "rows", (), "int64"))
            if self.method.baseline != "none":
                result.append(Placeholder("baseline", "rows", (), "int64"))
            shapes = [self.sample_shape(value) for value in self.wrt]
            own = self.design.placeholders() if self.design else self.method.placeholders(shapes)
            for name, (axis, shape, kind) in own.items():
                dtype = self.row_dtype if kind == "float" else kind
                result.append(Placeholder(name, axis, shape, dtype))
        return tuple(result)

    def __call__(self, ops: Ops, weights: Mapping[Value, Array], *arguments: Array) -> tuple[Array, ...]:
        args = dict(zip((p.name for p in self.placeholders), arguments, strict=True))
        inputs = [args[f"input_{value.node}"] for value in self.graph.inputs]
        return self._single(ops, weights, inputs, args) if self.single else self._rows(ops, weights, inputs, args)

    def _single(
        self, ops: Ops, weights: Mapping[Value, Array], inputs: list[Array], args: Mapping[str, Array]
    ) -> Results:
        values, pullbacks = self.forward(ops, weights, inputs)
        y = values[self.output]
        mask = args["mask"] + ops.one_hot_max(y) * args["choose"]
        x = [values[value] for value in self.wrt]
        message = self.walk(ops, values, pullbacks, self.method.start(ops, mask, y))
        contributions = self.method.contribute(ops, message, x, x, {})
        contributions = self.weighed(ops, weights, values, args, contributions)
        results = [ops.cast(c, ACCUMULATE[self.dtype(v)]) for c, v in zip(contributions, self.wrt, strict=True)]
        return (ops.cast(y, ACCUMULATE[self.dtype(self.output)]), *results)

    def weighed(
        self, ops: Ops, weights: Mapping[Value, Array], values: Mapping[Value, Array], args: Mapping[str, Array],
        contributions: list[Array],
    ) -> list[Array]:  # fmt: skip
        """The contributions of single rows, ready to be returned."""
        return contributions

    def _rows(
        self, ops: Ops, weights: Mapping[Value, Array], inputs: list[Array], args: Mapping[str, Array]
    ) -> Results:
        if self.design:
            return self._forward_rows(ops, weights, inputs, args)
        sample = args["sample"]
        rows, x, b = self.expanded(ops, inputs, args)
        values, pullbacks = self.forward(ops, weights, rows)
        y = values[self.output]
        if self.design:
            return self.scored(ops, y, x, args)
        result = ops.cast(y, ACCUMULATE[self.dtype(self.output)])
        mask = ops.take(args["mask"], sample)
        message = self.walk(ops, values, pullbacks, mask)
        if self.watches:
            ends = self.method.ends(ops, x, b, args)
            x = b = [values[value] for value in self.wrt]
            if ends is not None:
                x, b = (self._watched(ops, weights, rows, point) for point in ends)
        sums = []
        for contribution in self.method.contribute(ops, message, x, b, args):
            wide = "float64" if self.method.sampled else ACCUMULATE[self.dtype(self.wrt[0])]
            sums.append(ops.segment_sum(ops.cast(contribution, wide), sample, args["mask"]))
        return (result, *sums)

    def _forward_rows(
        self, ops: Ops, weights: Mapping[Value, Array], inputs: list[Array], args: Mapping[str, Array]
    ) -> Results:
        y, x = self.evaluated(ops, weights, inputs, args)
        return self.scored(ops, y, x, args)

    def evaluated(
        self, ops: Ops, weights: Mapping[Value, Array], inputs: list[Array], args: Mapping[str, Array]
    ) -> tuple[Array, list[Array]]:
        """The output of each row, and the samples that the rows are made of."""
        rows, x, _ = self.expanded(ops, inputs, args)
        values, _ = evaluate(ops, self.graph, weights, rows, (self.output,))
        return values[self.output], x

    def scored(self, ops: Ops, y: Array, x: list[Array], args: Mapping[str, Array]) -> Results:
        """The results of a forward-only method, from the outputs ``y`` of the rows."""
        assert self.design is not None
        result = ops.cast(y, ACCUMULATE[self.dtype(self.output)])
        mask = ops.take(args["mask"], args["sample"])
        scalar = ops.row_sum(result * ops.cast(mask, ACCUMULATE[self.dtype(self.output)]))
        parts = self.design.contribute(ops, ops.cast(scalar, "float64"), x, args)
        return (result, scalar, *(ops.segment_sum(part, args["sample"], args["mask"]) for part in parts))

    def expanded(
        self, ops: Ops, inputs: Sequence[Array], args: Mapping[str, Array]
    ) -> tuple[list[Array], list[Array], list[Array]]:
        """The inputs of the rows, the samples that the rows are made of, and their baselines."""
        rows = [ops.take(array, args["sample"]) for array in inputs]
        places = [self.graph.inputs.index(value) for value in self.moved]
        x = [rows[place] for place in places]
        b = x
        if self.method.baseline != "none":
            b = [ops.take(args[f"baseline_{i}"], args["baseline"]) for i in range(len(x))]
        for place, point in zip(places, (self.design or self.method).expand(ops, x, b, args), strict=True):
            rows[place] = point
        return rows, x, b

    def _watched(
        self, ops: Ops, weights: Mapping[Value, Array], rows: Sequence[Array], point: Sequence[Array]
    ) -> list[Array]:
        """The values of ``wrt`` when ``point`` replaces the values that vary."""
        moved = dict(zip(self.moved, point, strict=True))
        inputs = [moved.get(value, row) for value, row in zip(self.graph.inputs, rows, strict=True)]
        values, _ = evaluate(ops, self.graph, weights, inputs, self.wrt)
        return [values[value] for value in self.wrt]

    def forward(
        self, ops: Ops, weights: Mapping[Value, Array], inputs: Sequence[Array]
    ) -> tuple[dict[Value, Array], dict[str, Any]]:
        """Evaluate the graph. Nodes on the path also keep their vector–Jacobian product."""
        walked = {node.name for node in self.walked}
        return evaluate(ops, self.graph, weights, inputs, (self.output, *self.wrt), walked, self.wrt)

    def _walked(self, node: Node) -> bool:
        return node.name in self.path and any(value in self._active for value in node.inputs)

    def walk(self, ops: Ops, values: Mapping[Value, Array], pullbacks: Mapping[str, Any], mask: Array) -> list[Array]:
        """Propagate ``mask``, the message at the output, back to ``wrt`` by the rules."""
        messages = self.messages(ops, values, pullbacks, mask)
        return [messages[value] if value in messages else ops.zeros_like(values[value]) for value in self.wrt]

    def messages(
        self, ops: Ops, values: Mapping[Value, Array], pullbacks: Mapping[str, Any], mask: Array
    ) -> dict[Value, Array]:
        """The message at every value that ``mask``, the message at the output, reaches by the rules."""
        active = self.graph.active(self.wrt)

        def site(node: Node, arrived: tuple[Array | None, ...]) -> Site:
            places = active_places(node, active)
            operands = [values[value] for value in node.inputs]

            def apply(given: Mapping[int, Array]) -> Any:
                arrays = [given.get(place, operand) for place, operand in enumerate(operands)]
                return rewrite_regions.vjp(ops, node, arrays, places)

            return Site(
                node, tuple(operands[place] for place in places), tuple(values[value] for value in node.values),
                arrived, pullbacks[node.name], places, operands.__getitem__, apply,
            )  # fmt: skip

        return self.carry(ops, {self.output: mask}, site)

    def carry(
        self,
        ops: Ops,
        messages: dict[Value, Any],
        site: Callable[[Node, tuple[Any, ...]], Site],
        finished: Callable[[Node, Sequence[Any]], Sequence[Any]] = lambda node, passed: passed,
    ) -> dict[Value, Any]:
        """The reverse walk: pass every message through its node by the node's rule, and add up."""
        assert self.rules is not None
        active = self.graph.active(self.wrt)
        for node in reversed(self.graph.nodes):
            arrived = tuple(messages.get(value) for value in node.values)
            if not self._walked(node) or all(m is None for m in arrived):
                continue
            try:
                passed = finished(node, self.rules.rule(node)(ops, site(node, arrived)))
            except ops.no_derivative as error:
                raise unsupported(node, self.rules.name, f"it has no derivative ({error})") from error
            for place, message in zip(active_places(node, active), passed, strict=True):
                if message is not None:
                    value = node.inputs[place]
                    messages[value] = messages[value] + message if value in messages else message
        return messages

    def problem(self, node: Node) -> UnsupportedOperation | None:
        """The reason why the walk cannot pass ``node``; None if it can."""
        assert self.rules is not None
        outputs = [self.graph.output(value) for value in (*node.inputs, *node.values) if value in self._active]
        if not self.rules.complex and any(not output.floating for output in outputs):
            return unsupported(node, self.rules.name, "it passes complex numbers, for which there are derivatives only")
        try:
            self.rules.rule(node)
        except UnsupportedOperation as error:
            return error
        return None

    def check_rules(self) -> None:
        """Raise UnsupportedOperation now if any visited node cannot be passed; it carries the coverage.

        A derivative defined by the model is named first: what precedes it does not matter for it.
        """
        for node in sorted(self.walked, key=lambda node: node.function is not Function.OWN_DERIVATIVE):
            problem = self.problem(node)
            if problem is not None:
                problem.coverage = self.coverage()
                raise problem

    def coverage(self) -> Coverage:
        """One row per (op, role, rule): how often it occurs, and which rule the walk applies."""
        found: Counter[tuple[str, str, str, str]] = Counter()
        for node in self.graph:
            if node.role not in (Role.INPUT, Role.WEIGHT):
                found[(node.op, node.role.value, *self._passed_by(node))] += 1
        return Coverage(Operation(*kind, count=count) for kind, count in found.items())

    def _passed_by(self, node: Node) -> tuple[str, str]:
        if self.rules is None or not self._walked(node):
            return ("forward only" if self.rules is None else "not on the path"), ""
        if self.problem(node) is not None:
            return "none", "unsupported"
        exactness = self.rules.exactness(self.graph, node, active_places(node, self._active))
        return self.rules.named(node), exactness


@dataclass(frozen=True)
class Forward:
    """A program that computes the graph's outputs from the inputs that they need; samples are the leading axis."""

    graph: Graph

    @cached_property
    def inputs(self) -> tuple[Value, ...]:
        needed = self.graph.needed(value for _, value in self.graph.outputs)
        return tuple(value for value in self.graph.inputs if value.node in needed)

    @property
    def placeholders(self) -> tuple[Placeholder, ...]:
        return tuple(input_placeholders(self.inputs, self.graph))

    def __call__(self, ops: Ops, weights: Mapping[Value, Array], *arguments: Array) -> tuple[Array, ...]:
        targets = [value for _, value in self.graph.outputs]
        given = dict(zip(self.inputs, arguments, strict=True))
        values, _ = evaluate(ops, self.graph, weights, [given.get(value) for value in self.graph.inputs], targets)
        results = []
        for value in targets:
            axis = self.graph.output(value).batch_axis
            results.append(ops.move_axis(values[value], axis, 0) if axis else values[value])
        return tuple(results)


def input_placeholders(inputs: Sequence[Value], graph: Graph) -> Iterator[Placeholder]:
    """One argument for each of the inputs."""
    for value in inputs:
        kind = graph.output(value)
        shape = tuple(size for size in kind.shape[1:] if size is not None)
        yield Placeholder(f"input_{value.node}", "samples", shape, kind.dtype)


def evaluate(
    ops: Ops,
    graph: Graph,
    weights: Mapping[Value, Array],
    inputs: Sequence[Array],
    targets: Sequence[Value],
    walked: Container[str] = (),
    wrt: Iterable[Value] = (),
) -> tuple[dict[Value, Array], dict[str, Any]]:
    """Compute ``targets``, and the vector–Jacobian products, towards ``wrt``, of the nodes ``walked``."""
    values: dict[Value, Array] = dict(zip(graph.inputs, inputs, strict=True))
    pullbacks: dict[str, Any] = {}
    active = graph.active(wrt) if walked else ()
    needed = graph.needed(targets)
    for node in graph:
        if node.name not in needed or node.role is Role.INPUT:
            continue
        if node.role is Role.WEIGHT:
            values[node.values[0]] = weights[node.values[0]]
            continue
        arrays = [values[value] for value in node.inputs]
        if node.name in walked:
            results, pullbacks[node.name] = rewrite_regions.vjp(ops, node, arrays, active_places(node, active))
        else:
            results = rewrite_regions.evaluate(ops, node, arrays)
        values.update(zip(node.values, results, strict=True))
    return values, pullbacks


def nested(graph: Graph, wrt: Sequence[Value]) -> bool:
    """Whether some of the values ``wrt`` are computed from others."""
    behind = [value for value in wrt if graph.moved(set(wrt) - {value}) & {value}]
    return bool(behind)


def active_places(node: Node, active: Container[Value]) -> tuple[int, ...]:
    return tuple(place for place, value in enumerate(node.inputs) if value in active)

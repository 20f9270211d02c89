"""Programs that differentiate every output: the model runs once for each row, the reverse walk once for each output.

Rules see the batch axis as two axes, (rows, outputs), as in a grid of :mod:`.against_reference`; a value of the row
has size 1 along the second. An elementwise operation is differentiated once for each row, and the derivative
multiplies the messages of all outputs.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from math import prod
from typing import Any

from ..errors import UnsupportedOperation
from ..graph import Function, Graph, Node, Role, Value, rewrite_regions
from ..methods.base import Method
from ..ops import Ops
from ..rules import GRADIENT, Site
from .against_reference import Layouts
from .walk import ACCUMULATE, Program, Results, active_places, evaluate

Array = Any


@dataclass(frozen=True)
class EveryOutput(Program):
    """Like :class:`Program`, for M outputs of a sample at once: results have the shape (U, M, …).

    The placeholders are the same; the target mask is not used.
    """

    grid = True
    audit = False

    @cached_property
    def promises(self) -> bool:
        return False

    @cached_property
    def count(self) -> int:
        """The number of outputs, M."""
        return prod(self.sample_shape(self.output))

    @cached_property
    def _moved(self) -> set[Value]:
        return self.graph.moved(self.wrt)

    def _passes(self, node: Node) -> bool:
        """Whether the derivative of ``node`` is the same at every point, as of a linear operation."""
        return node.role in (Role.LINEAR, Role.GATHER)

    def broadcasts(self, node: Node) -> bool:
        return False

    def _single(
        self, ops: Ops, weights: Mapping[Value, Array], inputs: list[Array], args: Mapping[str, Array]
    ) -> Results:
        y, messages, x = self._differentiated(ops, weights, inputs)
        results = self.method.contribute(ops, messages, x, x, {})
        return (y, *(ops.cast(c, ACCUMULATE[self.dtype(v)]) for c, v in zip(results, self.wrt, strict=True)))

    def _rows(
        self, ops: Ops, weights: Mapping[Value, Array], inputs: list[Array], args: Mapping[str, Array]
    ) -> Results:
        sample = args["sample"]
        rows, x, b = self.expanded(ops, inputs, args)
        y, messages, _ = self._differentiated(ops, weights, rows)
        x, b = ([ops.insert_axis(value, 1) for value in values] for values in (x, b))
        sums = []
        for contribution in self.method.contribute(ops, messages, x, b, args):
            wide = "float64" if self.method.sampled else ACCUMULATE[self.dtype(self.wrt[0])]
            sums.append(ops.segment_sum(ops.cast(contribution, wide), sample, args["mask"]))
        return (y, *sums)

    def _differentiated(
        self, ops: Ops, weights: Mapping[Value, Array], inputs: Sequence[Array]
    ) -> tuple[Array, list[Array], list[Array]]:
        """The output of each row (R, …), the derivatives (R, M, …) towards ``wrt``, and the values there (R, 1, …)."""
        wanted = [value for node in self.walked for value in (*node.inputs, *node.values)]
        values, _ = evaluate(ops, self.graph, weights, inputs, (self.output, *self.wrt, *wanted))
        y = values[self.output]
        number = ops.arange(self.count, y)
        unit = ops.cast_like(ops.rows_equal(number, number), y)
        unit = ops.reshape_rows(unit, self.sample_shape(self.output))
        run = _Run(ops, self, values, {self.output: unit})
        start = run.flat(ops.insert_axis(unit, 0), self.output)
        found = self.carry(ops, {self.output: start}, run.site, run.flattened)
        messages = [
            run.spread(found[value], value) if value in found else run.spread(run.blank(value) * 0, value)
            for value in self.wrt
        ]
        return ops.cast(y, ACCUMULATE[self.dtype(self.output)]), messages, [run.x(value) for value in self.wrt]


class _Run(Layouts):
    """The values of rows, in the layouts of rules and of operations."""

    def site(self, node: Node, arrived: tuple[Any, ...]) -> Site:
        site = super().site(node, arrived)
        if self.sees_flat(node) or len(node.values) > 1 or self.axis(node.values[0]) is None:
            return site
        if node.function is Function.SOFTMAX:
            return replace(site, pullback=partial(self._softmax, node))
        places = active_places(node, self.active)
        shapes = {self.graph.output(node.inputs[place]).shape for place in places}
        if node.elementwise and shapes == {node.outputs[0].shape} and node.role is not Role.LINEAR:
            return replace(site, pullback=partial(self._slopes, node, places))
        return site

    def _softmax(self, node: Node, messages: Sequence[Array | None]) -> Sequence[Array | None]:
        """y·(m − Σ m·y), with the y that is known."""
        (message,), axis = messages, node.attributes.axis
        y = self.x(node.values[0])
        shares = message * y
        return [shares - y * self.ops.reduce_sum(shares, axis)]

    def _slopes(self, node: Node, places: Sequence[int], messages: Sequence[Array | None]) -> Sequence[Array | None]:
        """The messages times the derivative of an elementwise operation, which is computed once for each row."""
        operands = [self.values[value] for value in node.inputs]
        _, pullback = rewrite_regions.vjp(self.ops, node, operands, places)
        slopes = pullback([self.ops.ones_like(self.values[node.values[0]])])
        axis, (message,) = self.axis(node.values[0]), messages
        assert axis is not None
        return [None if slope is None else message * self.ops.insert_axis(slope, axis + 1) for slope in slopes]


def every_output(graph: Graph, method: Method, wrt: tuple[Value, ...]) -> EveryOutput:
    """The program of a method for all outputs at once.

    Raises
    ------
    UnsupportedOperation: the method is not made of plain derivatives.
    """
    if (
        method.rule_set is not GRADIENT
        or method.moves_inputs
        or method.cam is not None
        or method.refines_to is not None
    ):
        raise UnsupportedOperation(
            f"every_output=True is for methods of plain derivatives without tolerance=, such as 'gradient' and "
            f"'integrated_gradients'; "
            f"{method.name!r} explains one output at a time. Give a sample once for each output, each with its target"
        )
    return EveryOutput(graph, method, wrt)

"""A program that computes, for rows that change a small box of one input, only what that can change.

The sample itself is evaluated once in a package. A row's values are computed on windows: the box of places that may
differ (:mod:`.regions`), with what surrounds it taken from the sample's values. From the first node on whose window
would cover more than half of its places, or that sees all places at once, rows are computed whole. Results equal those
of the plain program up to rounding.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from ..graph import EachPlace, Node, Role, Sliding, Spreading, Summing, Value, rewrite_regions
from ..lengths import varies
from ..ops import Ops
from ..spec import FLOATING, Numpy
from .regions import Box, Regions, Span
from .walk import Placeholder, Program, evaluate

Array = Any
STARTS = "starts_"  # names of arguments: the tables of starts, by axis
LEAST_UNITS = 8  # rows of a sample, or of a package, below which its own values cost more than is saved
GAIN = 1.3  # times fewer operations than the plain program, at least
OWN = 16  # times the cost of a row whole: that of a package's windows, at least
COPYING = 4  # operations that an entry of a window costs beyond its own


def incremental(program: Program, batch_size: int | None = None) -> Program:
    """The program that computes changes only, or ``program`` where that would not pay.

    ``batch_size``: the rows of a package, if they are given.
    """
    design = program.design
    if batch_size is not None and batch_size < LEAST_UNITS:
        return program
    change = design.change if design is not None and len(program.wrt) == 1 else None
    if design is None or change is None or design.units < LEAST_UNITS:
        return program
    value = program.wrt[0]
    if any(varies(kind.shape) for node in program.graph for kind in node.outputs):
        return program
    found = Incremental(program.graph, program.method, program.wrt)
    rows = design.units if batch_size is None else min(design.units, batch_size)
    return found if value in program.graph.inputs and found.gain_in(rows) >= GAIN else program


@dataclass(frozen=True)
class Incremental(Program):
    """See the module."""

    @property
    def least_rows(self) -> int:
        """As many as keep the sample's own evaluation, one in each package, a small part of it."""
        return max(32, int(OWN * self.gain))

    @property
    def plain(self) -> Program:
        return Program(self.graph, self.method, self.wrt, sizes=self.sizes)

    @cached_property
    def regions(self) -> Regions:
        assert self.design is not None
        assert self.design.change is not None
        box = {axis + 1: Span(axis, s.starts, s.width) for axis, s in self.design.change.items()}
        return Regions(self.graph, self.wrt[0], box)

    @cached_property
    def demands(self) -> Demands:
        return Demands.of(self.regions, self.output)

    # --- what it costs ---------------------------------------------------------------------------

    @property
    def gain(self) -> float:
        """How many times fewer operations a row takes than in the plain program."""
        assert self.design is not None
        return self.gain_in(self.design.units)

    def gain_in(self, rows: int) -> float:
        """The gain where the sample's own values are computed once for so many rows."""
        whole, row = self._work_of_rows
        return whole / max(1.0, row + whole / rows)

    @cached_property
    def _work_of_rows(self) -> tuple[float, float]:
        """Of a row in the plain program, and of one on windows."""
        moved = [node for node in self.graph if any(value in self.regions.moved for value in node.inputs)]
        needed = self.graph.needed([self.output])
        whole = sum(self._work(node) for node in moved if node.name in needed)
        return whole, self._work_of_row()

    def _work_of_row(self) -> float:
        total = 0.0
        for node in self.graph:
            if any(value in self.demands.windows for value in node.values) and node.name in self.regions.steps:
                step = self.regions.steps[node.name]
                total += self._work(node) * self.regions.share(node.values[0], step.result)
                total += COPYING * sum(
                    self._entries(v, box) for v, box in zip(node.inputs, step.needs, strict=True) if box is not None
                )
            elif any(value in self.demands.rows - self.demands.windows for value in node.values):
                total += self._work(node) * any(value in self.regions.moved for value in node.inputs)
        return total

    def _work(self, node: Node) -> float:
        """Multiplications, about, for one row."""
        entries = self._entries(node.values[0], {})
        place = node.attributes.weight
        if node.function.weighted and place >= 0:
            return entries * self._entries(node.inputs[place], {}) / self._channels(node)
        return entries

    def _channels(self, node: Node) -> float:
        """The number of results that the weight of a dense map or a convolution has at each place."""
        fact, shape = node.attributes.locality, node.outputs[0].shape
        axes = [len(shape) - 1]
        if isinstance(fact, (Sliding, Spreading)):
            axes = [axis for axis in range(1, len(shape)) if axis not in fact.axes]
        return math.prod(shape[axis] or 1 for axis in axes)

    def _entries(self, value: Value, box: Box) -> float:
        """Entries of a sample in a box."""
        shape = self.graph.output(value).shape
        return math.prod(box[axis].width if axis in box else size or 1 for axis, size in enumerate(shape))

    def row_bytes(self) -> int:
        """Twice what the largest operation reads and writes: windows are freed when they have been used."""
        return int(2 * max(self._bytes(node) for node in self.graph))

    def _bytes(self, node: Node) -> float:
        step = self.regions.steps.get(node.name)
        total = 0.0
        if any(value in self.demands.rows for value in node.values):
            total += sum(self._size(value, {}) for value in (*node.inputs, *node.values))
        if step and any(value in self.demands.windows for value in node.values):
            total += self._size(node.values[0], step.result)
            total += sum(self._size(v, box) for v, box in zip(node.inputs, step.needs, strict=True) if box is not None)
        return total

    def _size(self, value: Value, box: Box) -> float:
        known = None in self.graph.output(value).shape
        return self._entries(value, box) * FLOATING.get(self.dtype(value), 8) if known else 0.0

    # --- arguments -------------------------------------------------------------------------------

    @cached_property
    def tables(self) -> dict[int, list[Numpy]]:
        """For each axis of the input the tables of starts, (K,) each, that the kernel looks up."""
        found: dict[int, dict[bytes, Numpy]] = {axis - 1: {} for axis in self.regions.box}
        for span in self._spans():
            if span.origin is not None:
                found[span.origin].setdefault(span.starts.tobytes(), span.starts)
        return {axis: list(tables.values()) for axis, tables in found.items()}

    def _spans(self) -> list[Span]:
        boxes: list[Box | None] = [self.regions.box]
        for name, step in self.regions.steps.items():
            if any(value in self.demands.windows for value in self.graph.by_name[name].values):
                boxes += [step.result, step.crop, *step.needs]
        return [span for box in boxes if box for span in box.values()]

    @cached_property
    def placeholders(self) -> tuple[Placeholder, ...]:
        plain = self.plain.placeholders
        own = [Placeholder(f"{STARTS}{axis}", "", array.shape, "int64") for axis, array in self._stacked().items()]
        return (*plain, *own)

    def _stacked(self) -> dict[int, Numpy]:
        return {axis: np.stack(tables, axis=1) for axis, tables in self.tables.items()}

    def constants(self) -> dict[str, Numpy]:
        return super().constants() | {f"{STARTS}{axis}": array for axis, array in self._stacked().items()}

    # --- running ---------------------------------------------------------------------------------

    def evaluated(
        self, ops: Ops, weights: Mapping[Value, Array], inputs: list[Array], args: Mapping[str, Array]
    ) -> tuple[Array, list[Array]]:
        return _Rows(self, ops, weights, inputs, args).output(), []

    def _passed_by(self, node: Node) -> tuple[str, str]:
        if not any(value in self.regions.moved for value in node.values):
            return "once per sample", ""
        windows = any(value in self.demands.windows for value in node.values)
        return ("windows" if windows else "whole"), ""


@dataclass(frozen=True)
class Demands:
    """Which values are computed on windows, for whole rows, and for the samples themselves."""

    windows: frozenset[Value]
    rows: frozenset[Value]
    base: frozenset[Value]

    @classmethod
    def of(cls, regions: Regions, output: Value) -> Demands:
        windows, rows, base = set[Value](), {output}, set[Value]()
        for node in reversed(regions.graph.nodes):
            for value in node.values:
                if value in rows and value not in regions.boxes:
                    rows.update(node.inputs)
                elif value in rows:
                    windows.add(value)
                    base.add(value)
            if any(value in windows for value in node.values) and node.name in regions.steps:
                for value in node.inputs:
                    base.add(value)
                    if value in regions.moved:
                        windows.add(value)
        return cls(frozenset(windows), frozenset(rows), frozenset(base))


class _Rows:
    """The values of a package's rows while its kernel is traced."""

    def __init__(
        self, program: Incremental, ops: Ops, weights: Mapping[Value, Array], inputs: list[Array],
        args: Mapping[str, Array],
    ) -> None:  # fmt: skip
        self.program, self.ops, self.weights, self.args = program, ops, weights, args
        self.graph, self.regions, self.demands = program.graph, program.regions, program.demands
        self.inputs = dict(zip(self.graph.inputs, inputs, strict=True))
        self.sample = args["sample"]
        targets = [value for value in self.demands.base if self.graph.by_name[value.node].role is not Role.INPUT]
        self.base, _ = evaluate(ops, self.graph, weights, inputs, targets)
        assert program.design is not None
        self.looked_up: dict[int, Array] = {}
        for axis, key in program.design.keys(ops, args).items():
            self.looked_up[axis] = ops.take(args[f"{STARTS}{axis}"], key)
        self.columns = {
            axis: {table.tobytes(): i for i, table in enumerate(tables)} for axis, tables in program.tables.items()
        }
        self.windows: dict[Value, Array] = {}
        self.rows: dict[Value, Array] = {}

    def output(self) -> Array:
        """The explained output of each row."""
        for node in self.graph:
            if any(value in self.demands.windows for value in node.values):
                self._window(node)
            wanted = [value for value in node.values if value in self.demands.rows]
            if wanted:
                self._whole(node, wanted)
        return self.rows[self.program.output]

    # --- whole rows --------------------------------------------------------------------------------

    def _whole(self, node: Node, wanted: Sequence[Value]) -> None:
        if all(value in self.regions.boxes for value in wanted):
            for value in wanted:
                self.rows[value] = self._read(value, {}, 0.0)
        elif node.role is Role.WEIGHT:
            self.rows[node.values[0]] = self.weights[node.values[0]]
        elif node.role is Role.INPUT:
            self.rows[node.values[0]] = self.ops.take(self.inputs[node.values[0]], self.sample)
        else:
            results = rewrite_regions.evaluate(self.ops, node, [self.rows[value] for value in node.inputs])
            for value, result in zip(node.values, results, strict=True):
                self.rows.setdefault(value, result)
            for value in wanted:
                if value in self.regions.boxes:
                    self.rows[value] = self._read(value, {}, 0.0)

    # --- windows -----------------------------------------------------------------------------------

    def _window(self, node: Node) -> None:
        if node.values[0] == self.regions.changed:
            self.windows[node.values[0]] = self._changed()
            return
        step = self.regions.steps[node.name]
        fact = node.attributes.locality
        fill = fact.fill if isinstance(fact, Sliding) else 0.0
        operands = [
            self._base(value) if box is None else self._read(value, box, fill)
            for value, box in zip(node.inputs, step.needs, strict=True)
        ]
        if fact is None or (isinstance(fact, EachPlace) and fact.broadcast):
            rank = len(self.graph.output(node.values[0]).shape)
            operands = [
                array if box is None else self._aligned(array, value, box, rank)
                for array, value, box in zip(operands, node.inputs, step.needs, strict=True)
            ]
        if isinstance(fact, Summing):
            self.windows[node.values[0]] = self._summed(step.node, fact, operands, step.needs[0] or {}, step.result)
            return
        shape = self._window_shape(node.values[0], step.result)
        results = list(self.ops.evaluate_window(node, operands, shape))
        if step.crop is not None:
            assert isinstance(fact, Spreading)
            results[0] = self._cropped(results[0], step.crop)
        self.windows.update(zip(node.values, results, strict=False))

    def _changed(self) -> Array:
        """The window of the attributed input: what the method puts there."""
        program, ops = self.program, self.ops
        assert program.design is not None
        value, box = self.regions.changed, self.regions.box
        x = self._patch(self.inputs[value], self.sample, value, box, 0.0)
        b = x
        if program.method.baseline != "none":
            b = self._patch(self.args["baseline_0"], self.args["baseline"], value, box, 0.0)
        places = {
            axis - 1: self._start(span)[:, None] + ops.arange(span.width, self.sample)[None]
            for axis, span in box.items()
        }
        window: Array = program.design.expand_box(ops, x, b, self.args, places)
        return window

    def _summed(self, node: Node, fact: Summing, operands: list[Array], box: Box, result: Box) -> Array:
        """The sample's own sum or mean, changed by the difference of the windows'.

        In double precision: where a large value leaves a sum of small ones, the difference has lost no digits.
        Along axes that are whole in the windows there is no need of that.
        """
        ops, x = self.ops, node.inputs[0]
        if not any(axis in fact.axes for axis in box):
            direct: Array = ops.evaluate_window(node, operands[:1], self._window_shape(node.values[0], result))[0]
            return direct
        before = self._patch(self._base(x), self.sample, x, box, 0.0)
        shape = self._window_shape(node.values[0], result)

        def total(array: Array) -> Array:
            return ops.evaluate_window(node, [array], shape)[0]

        if self.graph.output(x).floating:  # a difference of two numbers is exact to their own digits
            whole, change = (total(ops.cast(a, "float64")) for a in (self._base(x), operands[0] - before))
        else:
            whole, change = total(self._base(x)), total(operands[0]) - total(before)
        own = self._patch(whole, self.sample, node.values[0], result, 0.0)
        if fact.mean:
            change = change * self.regions.share(x, {a: s for a, s in box.items() if a in fact.axes})
        return ops.cast(own + change, self.program.dtype(node.values[0]))

    def _cropped(self, array: Array, crop: Box) -> Array:
        axes = sorted(crop)
        rows = self.ops.row_numbers(self.sample)
        starts, widths = [self._start(crop[axis]) for axis in axes], [crop[axis].width for axis in axes]
        none = [(0, 0)] * len(axes)
        return self.ops.patches(array, rows, axes, starts, widths, none, 0.0, None, [])

    # --- reading -----------------------------------------------------------------------------------

    def _base(self, value: Value) -> Array:
        if value in self.inputs:
            return self.inputs[value]
        return self.weights[value] if value in self.weights else self.base[value]

    def _read(self, value: Value, box: Box, fill: float) -> Array:
        """A box of a value of each row."""
        if value not in self.regions.moved:
            base = self._base(value)
            if None in self.graph.output(value).shape:
                return self._patch(base, self.sample, value, box, fill)
            shifted = {axis + 1: span for axis, span in box.items()}
            sizes = [0, *(size or 0 for size in self.graph.output(value).shape)]
            return self._patches(self.ops.insert_axis(base, 0), self.sample * 0, sizes, shifted, fill, None, {})
        own = self.regions.boxes[value]
        window = self.windows[value]
        if own.keys() == box.keys() and all(span.same(box[axis]) for axis, span in own.items()):
            return window
        if not own:
            return window  # all of it
        return self._patch(self._base(value), self.sample, value, box, fill, window)

    def _aligned(self, array: Array, value: Value, box: Box, rank: int) -> Array:
        """A box of a value that all samples share, (R, …), with axes of size 1 between the rows and its own."""
        shape = self.graph.output(value).shape
        if value in self.regions.moved or None in shape:
            return array
        window = [box[axis].width if axis in box else size or 0 for axis, size in enumerate(shape)]
        if len(shape) == rank:  # a first axis of size 1 stands for the samples
            return self.ops.reshape_rows(array, tuple(window[1:]))
        return self.ops.reshape_rows(array, (*[1] * (rank - 1 - len(shape)), *window))

    def _patch(
        self, base: Array, index: Array, value: Value, box: Box, fill: float, window: Array | None = None
    ) -> Array:
        if not box and window is None:
            return self.ops.take(base, index)
        sizes = [size or 0 for size in self.graph.output(value).shape]
        own = self.regions.boxes[value] if window is not None else {}
        return self._patches(base, index, sizes, box, fill, window, own)

    def _patches(
        self, base: Array, index: Array, sizes: Sequence[int], box: Box, fill: float, window: Array | None, own: Box
    ) -> Array:  # fmt: skip
        axes = sorted({*box, *own})
        whole = {axis: Span(None, np.zeros(1, np.int64), sizes[axis]) for axis in axes}
        spans = [box.get(axis, whole[axis]) for axis in axes]
        at = [self._start(own.get(axis, whole[axis])) for axis in axes] if window is not None else []
        return self.ops.patches(
            base, index, axes, [self._start(span) for span in spans], [span.width for span in spans],
            [span.margins(sizes[axis]) for axis, span in zip(axes, spans, strict=True)], fill, window, at,
        )  # fmt: skip

    def _start(self, span: Span) -> Array:
        """(R,): where the span of each row begins."""
        if span.origin is None:
            return self.sample * 0 + int(span.starts[0])
        return self.looked_up[span.origin][:, self.columns[span.origin][span.starts.tobytes()]]

    def _window_shape(self, value: Value, box: Box) -> tuple[int, ...]:
        shape = list(enumerate(self.graph.output(value).shape))[1:]
        return tuple(box[axis].width if axis in box else size or 0 for axis, size in shape)

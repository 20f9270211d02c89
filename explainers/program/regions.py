"""Which places of each value can differ between a row and its sample, when the row changes a box of one input.

All numbers are known when a program is made: a row's box is one of finitely many, and its number (for each axis, its
key) is all that a kernel is told. For each value the box of the changed places follows from the facts about
the operations (:mod:`explainers.graph.locality`): a fixed width along each axis, and a table of starts by key.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from ..graph import EachPlace, Graph, Node, Repeating, Sliding, Spreading, Summing, Value
from ..spec import Numpy

MOST = 0.5  # of a value's places; where more of them change, all are computed


@dataclass(frozen=True, eq=False)
class Span:
    """``width`` places along one axis, from ``starts`` (K,) on, by the key of the input's axis ``origin``.

    Of no origin: one start, the same for all rows. Starts may lie before the first place, and spans reach behind
    the last one: what is read there is the operation's own padding.
    """

    origin: int | None
    starts: Numpy
    width: int

    def same(self, other: Span) -> bool:
        alike = self.origin == other.origin and self.width == other.width
        return alike and np.array_equal(self.starts, other.starts)

    def margins(self, size: int) -> tuple[int, int]:
        """How far it can reach outside of an axis of ``size``."""
        last = int(self.starts.max()) + self.width
        return max(0, -int(self.starts.min())), max(0, last - size)


Box = Mapping[int, Span]  # by axis, the batch being 0; the other axes are whole


def fixed(start: int, width: int) -> Span:
    return Span(None, np.array([start], np.int64), width)


@dataclass(frozen=True)
class Step:
    """How a node is computed for the places that change.

    needs: of each operand the box that is read; None for a constant that is passed whole. result: the box that the
    operation computes. crop: where in what it computed the result begins, for operations that compute more.
    """

    node: Node
    needs: tuple[Box | None, ...]
    result: Box
    crop: Box | None = None


@dataclass
class Regions:
    """The boxes of a graph's values that depend on ``changed``, which changes at ``box``.

    boxes: for each such value the places that can change; {} if all can, in a value that is still computed from
    changes alone (a mean over all places). Values that are not in it are computed whole. steps: by node.
    """

    graph: Graph
    changed: Value
    box: Box
    boxes: dict[Value, Box] = field(default_factory=dict)
    steps: dict[str, Step] = field(default_factory=dict)
    moved: set[Value] = field(default_factory=set)

    def __post_init__(self) -> None:
        self.moved = self.graph.moved([self.changed])
        self.boxes[self.changed] = self.box
        for node in self.graph:
            if node.inputs and any(value in self.moved for value in node.values):
                step = self._step(node)
                if step is not None:
                    self.steps[node.name] = step
                    split = isinstance(node.attributes.locality, EachPlace)
                    for value in node.values if split else node.values[:1]:
                        if self._rank(value) == self._rank(node.values[0]):
                            self.boxes[value] = step.result

    def shape(self, value: Value) -> tuple[int | None, ...]:
        return self.graph.output(value).shape

    def size(self, value: Value, axis: int) -> int:
        size = self.shape(value)[axis]
        assert size is not None
        return size

    def _rank(self, value: Value) -> int:
        return len(self.shape(value))

    def share(self, value: Value, box: Box) -> float:
        """The share of the value's places that are in the box."""
        return math.prod(span.width / self.size(value, axis) for axis, span in box.items())

    def _step(self, node: Node) -> Step | None:
        """None for nodes that are computed whole."""
        fact = node.attributes.locality
        if fact is None and node.elementwise:
            fact = EachPlace(tuple(range(self._rank(node.values[0]))), broadcast=True)
        if fact is None or any(not self._known(value) for value in (*node.inputs, node.values[0])):
            return None
        moved = [value for value in node.inputs if value in self.moved]
        if any(not self.boxes.get(value) for value in moved):
            return None
        step = {
            EachPlace: self._each_place,
            Sliding: self._sliding,
            Spreading: self._spreading,
            Repeating: self._repeating,
            Summing: self._summing,
        }[type(fact)](node, fact)  # type: ignore[operator]
        if step is None or (not step.result and not isinstance(fact, Summing)):
            return None
        return step if self.share(node.values[0], step.result) <= MOST or isinstance(fact, Summing) else None

    def _known(self, value: Value) -> bool:
        """Whether its sizes are known and it has the batch first, or no batch."""
        shape = self.shape(value)
        kind = self.graph.output(value)
        return None not in shape or (kind.batch_axis == 0 and None not in shape[1:])

    def _constant(self, value: Value) -> bool:
        return value not in self.moved and None not in self.shape(value)

    def _only_first(self, node: Node, first: int = 0) -> bool:
        """Whether all operands but one are constants."""
        return all(self._constant(value) for place, value in enumerate(node.inputs) if place != first)

    def _alone(self, node: Node, box: Box, first: int = 0) -> tuple[Box | None, ...]:
        return tuple(box if place == first else None for place in range(len(node.inputs)))

    # --- one kind of fact each -----------------------------------------------------------------

    def _each_place(self, node: Node, fact: EachPlace) -> Step | None:
        if not fact.broadcast and not self._only_first(node, fact.operand):
            return None
        operands = node.inputs if fact.broadcast else (node.inputs[fact.operand],)
        if fact.broadcast and not all(self._broadcasts(value, node.values[0], fact) for value in operands):
            return None
        result: dict[int, Span] = {}
        needs: list[dict[int, Span]] = [{} for _ in operands]
        for axis, source in enumerate(fact.source):
            if axis == 0 or source is None:
                continue
            places = [source - (len(fact.source) - self._rank(v) if fact.broadcast else 0) for v in operands]
            span = self._union(axis, node.values[0], operands, places)
            if span is None:
                continue
            result[axis] = span
            for need, value, place in zip(needs, operands, places, strict=True):
                if place > 0 and self.size(value, place) > 1:
                    need[place] = span
                elif place == 0 and self.shape(value)[0] not in (None, 1):
                    need[0] = span  # a constant without a batch
        if fact.broadcast:
            kept = [need if need or not self._constant(v) else None for need, v in zip(needs, operands, strict=True)]
            return Step(node, tuple(kept), result)
        return Step(node, self._alone(node, needs[0], fact.operand), result)

    def _broadcasts(self, value: Value, result: Value, fact: EachPlace) -> bool:
        shape, whole = self.shape(value), self.shape(result)
        if len(shape) > len(whole):
            return False
        aligned = zip(shape, whole[len(whole) - len(shape) :], fact.source[len(whole) - len(shape) :], strict=True)
        return all(size in (1, full) or source is None for size, full, source in aligned)

    def _union(self, axis: int, result: Value, operands: Sequence[Value], places: Sequence[int]) -> Span | None:
        """The places along an axis of the result that change; None for all."""
        found: list[Span] = []
        for value, place in zip(operands, places, strict=True):
            if value in self.moved:
                span = self.boxes[value].get(place) if place > 0 else None
                if span is None or self.size(value, place) != self.size(result, axis):
                    return None
                found.append(span)
        if len({span.origin for span in found}) != 1:
            return None
        if all(span.same(found[0]) for span in found):
            return found[0]
        first = np.min([span.starts for span in found], axis=0)
        last = np.max([span.starts + span.width for span in found], axis=0)
        return _clipped(found[0].origin, first, last, self.size(result, axis))

    def _sliding(self, node: Node, fact: Sliding) -> Step | None:
        if not self._only_first(node):
            return None
        x, y = node.inputs[0], node.values[0]
        box = self.boxes[x]
        need: dict[int, Span] = {} if fact.mixes else {a: s for a, s in box.items() if a not in fact.axes}
        result = dict(need)
        for axis, kernel, stride, dilation, before in zip(
            fact.axes, fact.kernel, fact.stride, fact.dilation, fact.before, strict=True
        ):
            reach, size = dilation * (kernel - 1), self.size(y, axis)
            span = box.get(axis)
            if span is not None:
                first = -((reach - before - span.starts) // stride)
                last = (span.starts + span.width - 1 + before) // stride + 1
                span = _clipped(span.origin, first, last, size)
            if span is not None:
                result[axis] = span
                need[axis] = Span(span.origin, span.starts * stride - before, (span.width - 1) * stride + reach + 1)
            else:
                width = (size - 1) * stride + reach + 1
                if before or width != self.size(x, axis):
                    need[axis] = fixed(-before, width)
        return Step(node, self._alone(node, need), result)

    def _spreading(self, node: Node, fact: Spreading) -> Step | None:
        if not self._only_first(node, fact.operand):
            return None
        y, box = node.values[0], self.boxes[node.inputs[fact.operand]]
        result: dict[int, Span] = {}
        need: dict[int, Span] = {}
        crop: dict[int, Span] = {}
        for axis, kernel, stride, dilation, before in zip(
            fact.axes, fact.kernel, fact.stride, fact.dilation, fact.before, strict=True
        ):
            reach, size = dilation * (kernel - 1), self.size(y, axis)
            span = box.get(axis)
            if span is not None:
                first = span.starts * stride - before
                span = _clipped(span.origin, first, first + (span.width - 1) * stride + reach + 1, size)
            if span is not None:
                result[axis] = span
            out = span or fixed(0, size)
            from_ = (out.starts + before - reach) // stride
            to = (out.starts + out.width - 1 + before) // stride + (reach < stride - 1)
            need[axis] = Span(out.origin, from_, int((to - from_).max()) + 1)
            crop[axis] = Span(out.origin, out.starts - from_ * stride + before, out.width)
        return Step(node, self._alone(node, need, fact.operand), result, crop)

    def _repeating(self, node: Node, fact: Repeating) -> Step | None:
        box = self.boxes[node.inputs[0]]
        times = dict(zip(fact.axes, fact.times, strict=True))
        result = {a: Span(s.origin, s.starts * times.get(a, 1), s.width * times.get(a, 1)) for a, s in box.items()}
        return Step(node, self._alone(node, box), result)

    def _summing(self, node: Node, fact: Summing) -> Step | None:
        box = self.boxes[node.inputs[0]]
        summed = {axis: span for axis, span in box.items() if axis in fact.axes}
        if summed and self.share(node.inputs[0], summed) > MOST:
            return None
        left = {axis: span for axis, span in box.items() if axis not in fact.axes}
        if not fact.keeps:
            left = {axis - sum(a < axis for a in fact.axes): span for axis, span in left.items()}
        return Step(node, self._alone(node, box), left)


def _clipped(origin: int | None, first: Numpy, last: Numpy, size: int) -> Span | None:
    """The places first … last−1 inside an axis of ``size``, with one width; None for the whole axis."""
    first, last = np.clip(first, 0, size), np.clip(last, 0, size)
    width = max(1, int((last - first).max()))
    return None if width >= size else Span(origin, np.clip(first, 0, size - width), width)

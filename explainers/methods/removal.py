"""Base classes of forward-only methods: features are replaced by the baseline, and the outputs are summed up.

A method's :class:`Design` defines the rows of a sample and how their values are summed. The first row is
the sample itself; a design with two endpoints has the baseline second. Units of ``unit`` rows follow,
whose values are passed to :meth:`Design.add` together.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, ClassVar, NamedTuple

import numpy as np

from ..lengths import varies
from ..ops import Ops
from ..random_numbers import UInt64
from ..rules import RuleSet
from .base import Array, Method, Numpy, Shapes
from .groups import Groups, SampleGroups

Placeholders = dict[str, tuple[str, tuple[int, ...], str]]


class Change(NamedTuple):
    """Boxes along one axis: the start of each by its number, (K,), all inside the axis, and their width."""

    starts: Numpy
    width: int


@dataclass
class Units:
    """Units in the order of their rows, (D,) each: their samples, their numbers within the sample, and their draws."""

    sample: Numpy
    number: Numpy
    drawn: Numpy

    def first(self, count: int) -> Units:
        if count == len(self.sample):
            return self
        return Units(self.sample[:count], self.number[:count], self.drawn[:count])

    def add(self, total: Numpy, parts: Numpy) -> None:
        """Add the parts (D, …) to their samples' rows of ``total``."""
        total[self.sample[self.starts]] += np.add.reduceat(parts, self.starts)

    def by_sample(self) -> Iterator[tuple[int, slice]]:
        """Each sample with the positions of its units."""
        starts = self.starts.tolist()
        for begin, end in zip(starts, [*starts[1:], len(self.sample)], strict=True):
            yield int(self.sample[begin]), slice(begin, end)

    @cached_property
    def starts(self) -> Numpy:
        """The position of each sample's first unit."""
        return np.flatnonzero(np.concatenate([[True], self.sample[1:] != self.sample[:-1]]))


@dataclass
class Sums:
    """The running sums of a chunk's samples: ``x``, ``b``: s at the endpoints, (N, …); ``sums``: arrays (N, …)."""

    x: Numpy
    b: Numpy
    sums: list[Numpy]


class Design:
    """The rows of samples of given shapes. In ``values`` trailing axes are the outputs under ``target="all"``."""

    endpoints = 1  # rows before the units: the sample, or the sample and its baseline
    unit = 1  # rows whose values belong together
    units = 0  # by default
    all_outputs = True  # whether target="all" is possible
    one_reference = False  # whether a row has one reference that it chooses, not all of them in turn

    def __init__(self, shapes: Shapes) -> None:
        self.shapes = [tuple(shape) for shape in shapes]

    @property
    def rows_per_sample(self) -> int:
        return self.endpoints + self.units * self.unit

    def check_size(self) -> None:
        """Raise InputError if samples have more features than the method can take."""

    def placeholders(self) -> Placeholders:
        """Further kernel arguments: name → (leading axis, shape, "float" or an integer dtype)."""
        raise NotImplementedError

    def constants(self) -> dict[str, Numpy]:
        """Values of the placeholders without a leading axis."""
        return {}

    def draw(self, number: Numpy, seeds: UInt64) -> Numpy:
        """The random draws of units, (D, …), for their rows and their sums; by default their samples' seeds."""
        return seeds

    def rows(self, units: Units, row: Numpy) -> dict[str, Numpy]:
        """Values of the placeholders whose leading axis is the rows. ``row`` (R,): counted from the first unit's."""
        raise NotImplementedError

    def references(self, units: Units, row: Numpy, count: int) -> Numpy:
        """Which of ``count`` references each row uses, (R,), for designs with :attr:`one_reference`."""
        raise NotImplementedError

    def endpoint(self, which: str) -> dict[str, Any]:
        """Row values at which the expansion is the input itself, or the ``"baseline"``."""
        raise NotImplementedError

    def expand(self, ops: Ops, x: list[Array], b: list[Array], args: Mapping[str, Array]) -> list[Array]:
        """The points of the rows; ``x`` may be overwritten."""
        raise NotImplementedError

    # --- for designs of one input whose rows change a small box of it ---------------------------

    @property
    def change(self) -> dict[int, Change] | None:
        """The box outside of which a row is its sample, by axis; None if there is none."""
        return None

    def keys(self, ops: Ops, args: Mapping[str, Array]) -> dict[int, Array]:
        """For each axis of :attr:`change` the number of each row's box, (R,)."""
        raise NotImplementedError

    def expand_box(self, ops: Ops, x: Array, b: Array, args: Mapping[str, Array], places: Mapping[int, Array]) -> Array:
        """:meth:`expand` for the box of each row, (R, …). ``places``, (R, width) by axis: the box's places."""
        raise NotImplementedError

    # --- for designs of one input whose features rows keep or take from the baseline -------------

    @property
    def feature_map(self) -> Numpy | None:
        """The feature number of each element, for one input whose features rows keep or take from the baseline."""
        return None

    def features_kept(self, ops: Ops, args: Mapping[str, Array]) -> Array:
        """Which features each row keeps, (R, G) booleans, for designs with a :attr:`feature_map`."""
        raise NotImplementedError

    def contribute(self, ops: Ops, s: Array, x: list[Array], args: Mapping[str, Array]) -> list[Array]:
        """The contribution of rows with the values s (R,) to sums that the kernel computes, (R, …) each."""
        return []

    def check(self, inputs: Sequence[Numpy], first: int, count: int) -> None:
        """Raise for samples ``first`` … of ``count`` that the method cannot take; ``inputs``: the attributed ones."""

    def start(self, count: int, outputs: tuple[int, ...]) -> list[Numpy]:
        """Empty sums of ``count`` samples."""
        raise NotImplementedError

    def add(self, sums: Sums, units: Units, values: Numpy) -> None:
        """Add the units' values (D, unit, …)."""
        raise NotImplementedError

    def finish(self, sums: Sums, units: Numpy, inputs: Sequence[Numpy]) -> tuple[list[Numpy], list[Numpy] | None]:
        """Attributions (…, N, \\*shape), one per shape, and their standard errors, after ``units`` (N,) units."""
        raise NotImplementedError

    def total(self, attributions: Sequence[Numpy]) -> Numpy | None:
        """Σ over the features of each sample, (…, N), each counted once, for methods that are complete."""
        return None

    def error(self, sums: Sums, samples: Numpy, units: int) -> Numpy:
        """For each of ``samples``, its largest standard error, (n,)."""
        raise NotImplementedError


@dataclass(frozen=True)
class Removal(Method, data=False):
    """A forward-only method."""

    rules: ClassVar[RuleSet | None] = None
    baseline: ClassVar[str] = "either"
    single: ClassVar[bool] = False

    @property
    def takes_integers(self) -> bool:
        return True  # features are removed by selecting the baseline, never by multiplying

    def design(self, shapes: Shapes) -> Design:
        raise NotImplementedError


class Grouped(Removal, data=False):
    """A forward-only method with a field ``groups``: one map of feature ids for each input, or None."""

    groups: Any

    @property
    def has_groups(self) -> bool:
        return self.groups is not None

    @property
    def takes_groups(self) -> bool:
        return True

    @property
    def of_elements(self) -> Grouped:
        """The method whose kernel is told for each row which elements it keeps, for groups that come with a call."""
        return self

    def design_of(self, groups: SampleGroups) -> Coalitions:
        """The design for samples with these groups, equally many in each."""
        design = replace(self, groups=groups).design(groups.shapes)  # type: ignore[call-arg]
        assert isinstance(design, Coalitions)
        design.check_size()
        return design


class Coalitions(Design):
    """Rows that keep some features and take the others from the baseline: one bit per feature.

    ``groups``: an integer map for each attributed value, None (each element is a feature), or :class:`SampleGroups`
    with equally many features in each sample: the kernel's bits are then one per element. Where samples vary in size,
    a row has a byte per element.
    """

    endpoints = 2

    def __init__(self, shapes: Shapes, groups: Any) -> None:
        super().__init__(shapes)
        self.groups: Groups | SampleGroups = groups if isinstance(groups, SampleGroups) else Groups(groups, shapes)
        self.features = self.groups.count
        self.varies = any(map(varies, shapes))

    def of(self, groups: SampleGroups) -> Coalitions:
        """The same design for other samples with as many features."""
        other = copy.copy(self)
        other.groups = groups
        return other

    def placeholders(self) -> Placeholders:
        if self.varies:
            return {f"kept_{i}": ("rows", tuple(shape), "uint8") for i, shape in enumerate(self.shapes)}
        holders: Placeholders = {"coalition": ("rows", (-(-self.features // 8),), "uint8")}
        return holders | {name: ("", array.shape, "int64") for name, array in self.constants().items()}

    def constants(self) -> dict[str, Numpy]:
        """Each element's feature, for inputs whose elements are not simply one feature each, in order."""
        if self.varies:
            return {}
        return {f"feature_{i}": m.ravel() for i, m in enumerate(self.groups.maps) if self._slices[i] is None}

    @cached_property
    def _slices(self) -> list[slice | None]:
        """The features of each input as a slice, if its elements are one feature each, in order."""
        firsts = [int(m.min(initial=self.features)) for m in self.groups.maps]
        in_order = [(np.diff(m.ravel()) == 1).all() for m in self.groups.maps]
        return [
            slice(first, first + m.size) if plain else None
            for first, m, plain in zip(firsts, self.groups.maps, in_order, strict=True)
        ]

    def rows(self, units: Units, row: Numpy) -> dict[str, Numpy]:
        kept, sample = self.kept(units, row), units.sample[row // max(self.unit, 1)]
        if self.varies:
            return {f"kept_{i}": part for i, part in enumerate(self.groups.elements(kept, sample))}
        return {"coalition": self.groups.bits(kept, sample)}

    def kept(self, units: Units, row: Numpy) -> Numpy:
        """Which features each row keeps, (R, G) booleans."""
        raise NotImplementedError

    def endpoint(self, which: str) -> dict[str, Any]:
        if self.varies:
            return {f"kept_{i}": int(which == "input") for i in range(len(self.shapes))}
        return {"coalition": 255 if which == "input" else 0}

    @property
    def feature_map(self) -> Numpy | None:
        fixed = isinstance(self.groups, Groups) and not self.varies
        return self.groups.maps[0] if fixed and len(self.groups.maps) == 1 else None

    def features_kept(self, ops: Ops, args: Mapping[str, Array]) -> Array:
        return ops.unpack_bits(args["coalition"], self.features)

    def expand(self, ops: Ops, x: list[Array], b: list[Array], args: Mapping[str, Array]) -> list[Array]:
        if self.varies:
            kept_by_input = [args[f"kept_{i}"] > 0 for i in range(len(x))]
            return [ops.select(kept, *pair) for kept, pair in zip(kept_by_input, zip(x, b, strict=True), strict=True)]
        points = []
        features = self.features_kept(ops, args)
        for i, (value, base, shape) in enumerate(zip(x, b, self.shapes, strict=True)):
            part = self._slices[i]
            kept = ops.take_columns(features, args[f"feature_{i}"]) if part is None else features[:, part]
            points.append(ops.select(ops.reshape_rows(kept, shape), value, base))
        return points

    def start(self, count: int, outputs: tuple[int, ...]) -> list[Numpy]:
        return [np.zeros((count, self.features, *outputs))]

    def total(self, attributions: Sequence[Numpy]) -> Numpy:
        return self.groups.totals(attributions)

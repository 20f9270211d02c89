"""Base classes of forward-only methods: features are replaced by the baseline, and the outputs are summed up.

A method's :class:`Design` defines the rows of a sample and how their values are summed. The first row is
the sample itself; a design with two endpoints has the baseline second. Units of ``unit`` rows follow,
whose values are passed to :meth:`Design.add` together.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar

import numpy as np

from ..errors import InputError
from ..ops import Ops
from ..random_numbers import UInt64
from ..rules import RuleSet
from .base import Array, Method, Numpy, Shapes

Placeholders = dict[str, tuple[str, tuple[int, ...], str]]


@dataclass
class Units:
    """Units in the order of their rows, (D,) each: their samples, their numbers within the sample, and their draws."""

    sample: Numpy
    number: Numpy
    drawn: Numpy

    def first(self, count: int) -> Units:
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

    def __init__(self, shapes: Shapes) -> None:
        self.shapes = [tuple(shape) for shape in shapes]

    @property
    def rows_per_sample(self) -> int:
        return self.endpoints + self.units * self.unit

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

    def endpoint(self, which: str) -> dict[str, Any]:
        """Row values at which the expansion is the input itself, or the ``"baseline"``."""
        raise NotImplementedError

    def expand(self, ops: Ops, x: list[Array], b: list[Array], args: Mapping[str, Array]) -> list[Array]:
        """The points of the rows; ``x`` may be overwritten."""
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


# --- features --------------------------------------------------------------------------------


def feature_maps(groups: Any, shapes: Shapes) -> list[Numpy]:
    """One map of feature numbers 0…G−1 per input, each of the sample's shape."""
    if groups is None:
        sizes = [int(np.prod(shape)) for shape in shapes]
        starts = np.cumsum([0, *sizes[:-1]])
        return [np.arange(start, start + n).reshape(s) for start, n, s in zip(starts, sizes, shapes, strict=True)]
    given = groups if isinstance(groups, tuple) else (groups,)
    if len(given) != len(shapes):
        raise InputError(f"{len(given)} group maps for {len(shapes)} attributed inputs: give a tuple, one for each")
    maps = []
    for group, shape in zip(map(_group_map, given), shapes, strict=True):
        if group.dtype.kind not in "iu":
            raise InputError(f"groups must hold integer feature ids; got dtype {group.dtype}")
        try:
            maps.append(np.broadcast_to(group, shape))
        except ValueError:
            raise InputError(f"groups of shape {group.shape} do not broadcast to a sample of shape {shape}") from None
    flat = np.concatenate([m.ravel() for m in maps])
    numbers = np.unique(flat, return_inverse=True)[1]
    splits = np.split(numbers, np.cumsum([m.size for m in maps])[:-1])
    return [part.reshape(shape) for part, shape in zip(splits, shapes, strict=True)]


def _group_map(given: Any) -> Numpy:
    try:
        return np.asarray(given)
    except ValueError:
        raise InputError(
            f"groups={given!r} is ragged. Give one feature id for each element of a sample: [0, 1, 1, 2, 2] in place "
            "of [[0], [1, 2], [3, 4]]"
        ) from None


def spread(features: Numpy, maps: Sequence[Numpy]) -> list[Numpy]:
    """Spread one number per feature, (N, G, …), over the feature's elements: (…, N, \\*shape) for each map."""
    lead = np.moveaxis(features, (0, 1), (-2, -1))
    return [lead[..., m] for m in maps]


def packed(kept: Numpy) -> Numpy:
    """Booleans (R, G) as bits, (R, ⌈G/8⌉); rows of whole bytes are packed in one call."""
    whole = np.zeros((len(kept), -(-kept.shape[1] // 8), 8), bool)
    whole.reshape(len(kept), -1)[:, : kept.shape[1]] = kept
    return np.packbits(whole).reshape(whole.shape[:2])


class Coalitions(Design):
    """Rows that keep some features and take the others from the baseline: one bit per feature."""

    endpoints = 2

    def __init__(self, shapes: Shapes, groups: Any) -> None:
        super().__init__(shapes)
        self.maps = feature_maps(groups, shapes)

    @cached_property
    def features(self) -> int:
        return 1 + max((int(m.max(initial=-1)) for m in self.maps), default=-1)

    def placeholders(self) -> Placeholders:
        holders: Placeholders = {"coalition": ("rows", (-(-self.features // 8),), "uint8")}
        return holders | {name: ("", array.shape, "int64") for name, array in self.constants().items()}

    def constants(self) -> dict[str, Numpy]:
        """Each element's feature, for inputs whose elements are not simply one feature each, in order."""
        return {f"feature_{i}": m.ravel() for i, m in enumerate(self.maps) if self._slices[i] is None}

    @cached_property
    def _slices(self) -> list[slice | None]:
        """The features of each input as a slice, if its elements are one feature each, in order."""
        firsts = [int(m.min(initial=self.features)) for m in self.maps]
        in_order = [(np.diff(m.ravel()) == 1).all() for m in self.maps]
        return [
            slice(first, first + m.size) if plain else None
            for first, m, plain in zip(firsts, self.maps, in_order, strict=True)
        ]

    def rows(self, units: Units, row: Numpy) -> dict[str, Numpy]:
        return {"coalition": packed(self.kept(units, row))}

    def kept(self, units: Units, row: Numpy) -> Numpy:
        """Which features each row keeps, (R, G) booleans."""
        raise NotImplementedError

    def endpoint(self, which: str) -> dict[str, Any]:
        return {"coalition": 255 if which == "input" else 0}

    def expand(self, ops: Ops, x: list[Array], b: list[Array], args: Mapping[str, Array]) -> list[Array]:
        points = []
        features = ops.unpack_bits(args["coalition"], self.features)
        for i, (value, base, m) in enumerate(zip(x, b, self.maps, strict=True)):
            part = self._slices[i]
            kept = ops.take_columns(features, args[f"feature_{i}"]) if part is None else features[:, part]
            points.append(ops.select(ops.reshape_rows(kept, m.shape), value, base))
        return points

    def start(self, count: int, outputs: tuple[int, ...]) -> list[Numpy]:
        return [np.zeros((count, self.features, *outputs))]

    def total(self, attributions: Sequence[Numpy]) -> Numpy:
        pairs = zip(attributions, self.maps, strict=True)
        flat = np.concatenate([a.reshape(*a.shape[: a.ndim - m.ndim], m.size) for a, m in pairs], axis=-1)
        found: Numpy = flat[..., self._first_elements].sum(axis=-1, dtype=np.float64)
        return found

    @cached_property
    def _first_elements(self) -> Numpy:
        """One element of each feature."""
        return np.unique(np.concatenate([m.ravel() for m in self.maps]), return_index=True)[1]

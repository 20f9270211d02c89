"""What forward-only methods share: features that are replaced by the baseline, and sums of what comes out.

A method says by its :class:`Design` which rows a sample has and how their values add up. The first row is
the sample itself; a design with two endpoints has the baseline second. Then come units of ``unit`` rows,
whose values are given to :meth:`Design.add` together.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar

import numpy as np

from ..counter import UInt64
from ..errors import InputError
from .base import Array, Method, Numpy, Shapes

Placeholders = dict[str, tuple[str, tuple[int, ...], str]]


@dataclass
class Sums:
    """What is kept of a chunk's samples: ``x``, ``b``: s at the endpoints, (N, …); ``sums``: arrays (N, …)."""

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

    def rows(self, steps: Numpy, seeds: UInt64) -> dict[str, Numpy]:
        """Values of the placeholders whose leading axis is the rows, for steps (R,) behind the endpoints."""
        raise NotImplementedError

    def endpoint(self, which: str) -> dict[str, Any]:
        """Row values at which the expansion is the input itself, or the ``"baseline"``."""
        raise NotImplementedError

    def expand(self, ops: Any, x: list[Array], b: list[Array], args: Mapping[str, Array]) -> list[Array]:
        raise NotImplementedError

    def contribute(self, ops: Any, s: Array, x: list[Array], args: Mapping[str, Array]) -> list[Array]:
        """What rows with the values s (R,) add to sums that are kept in the kernel, (R, …) each."""
        return []

    def check(self, inputs: Sequence[Numpy], first: int, count: int) -> None:
        """Raise for samples ``first`` … of ``count`` that the method cannot take; ``inputs``: the attributed."""

    def start(self, count: int, outputs: tuple[int, ...]) -> list[Numpy]:
        """Empty sums of ``count`` samples."""
        raise NotImplementedError

    def add(self, sums: Sums, samples: Numpy, first: int, values: Numpy, seeds: UInt64) -> None:
        """Add the values (n, units · unit, …) of the units ``first`` … of ``samples`` (n,)."""
        raise NotImplementedError

    def finish(self, sums: Sums, units: Numpy, inputs: Sequence[Numpy]) -> tuple[list[Numpy], list[Numpy] | None]:
        """Attributions (…, N, \\*shape), one per shape, and their standard errors, after ``units`` (N,) units."""
        raise NotImplementedError

    def total(self, attributions: Sequence[Numpy]) -> Numpy | None:
        """Σ over the features of each sample, (…, N), each counted once, for methods that are complete."""
        return None

    def error(self, sums: Sums, samples: Numpy, units: int) -> Numpy:
        """The largest standard error of each of ``samples``, (n,)."""
        raise NotImplementedError


@dataclass(frozen=True)
class Removal(Method):
    """A forward-only method."""

    rules: ClassVar[str | None] = None
    baseline: ClassVar[str] = "either"
    single: ClassVar[bool] = False

    def design(self, shapes: Shapes) -> Design:
        raise NotImplementedError

    @property
    def error_to(self) -> float | None:
        """The standard error that every sample's attributions are brought to; None for a fixed number of rows."""
        return None

    @property
    def most_evaluations(self) -> int | None:
        return None


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
    for group, shape in zip(map(np.asarray, given), shapes, strict=True):
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


def spread(features: Numpy, maps: Sequence[Numpy]) -> list[Numpy]:
    """From one number a feature, (N, G, …), to one an element: (…, N, \\*shape) for each map."""
    lead = np.moveaxis(features, (0, 1), (-2, -1))
    return [lead[..., m] for m in maps]


class Coalitions(Design):
    """Rows that keep some features and take the others from the baseline: one bit a feature."""

    endpoints = 2

    def __init__(self, shapes: Shapes, groups: Any) -> None:
        super().__init__(shapes)
        self.maps = feature_maps(groups, shapes)

    @cached_property
    def features(self) -> int:
        return 1 + max((int(m.max(initial=-1)) for m in self.maps), default=-1)

    def placeholders(self) -> Placeholders:
        holders: Placeholders = {"coalition": ("rows", (-(-self.features // 8),), "uint8")}
        for i, m in enumerate(self.maps):
            holders[f"byte_{i}"] = ("", (m.size,), "int64")
            holders[f"bit_{i}"] = ("", (m.size,), "uint8")
        return holders

    def constants(self) -> dict[str, Numpy]:
        result: dict[str, Numpy] = {}
        for i, m in enumerate(self.maps):
            result[f"byte_{i}"] = m.ravel() // 8
            result[f"bit_{i}"] = (128 >> (m.ravel() % 8)).astype(np.uint8)
        return result

    def rows(self, steps: Numpy, seeds: UInt64) -> dict[str, Numpy]:
        return {"coalition": np.packbits(self.kept(steps, seeds), axis=1)}

    def kept(self, steps: Numpy, seeds: UInt64) -> Numpy:
        """Which features each row keeps, (R, G) booleans."""
        raise NotImplementedError

    def endpoint(self, which: str) -> dict[str, Any]:
        return {"coalition": 255 if which == "input" else 0}

    def expand(self, ops: Any, x: list[Array], b: list[Array], args: Mapping[str, Array]) -> list[Array]:
        points = []
        for i, (value, base, shape) in enumerate(zip(x, b, self.shapes, strict=True)):
            bits = ops.bits_and(ops.take_columns(args["coalition"], args[f"byte_{i}"]), args[f"bit_{i}"])
            points.append(ops.where(ops.reshape_rows(ops.nonzero(bits), shape), value, base))
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

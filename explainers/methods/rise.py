"""RISE: the mean of random smooth masks, weighted by the model's output."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from .. import random_numbers
from ..errors import InputError
from ..ops import Ops
from .base import Array, Numpy, Shapes, at_least
from .removal import Design, Placeholders, Removal, Sums, Units

__all__ = ["Rise"]


@dataclass(frozen=True)
class Rise(Removal):
    """E[s(x⊙M + b⊙(1−M))·M]/p over random masks M (Petsiuk, Das and Saenko 2018, eq. 6).

    A mask is a grid of entries that are 1 with probability p and 0 otherwise, shifted by a random fraction of
    a cell and interpolated linearly to the size of the sample.

    Parameters
    ----------
    samples: masks for each sample, drawn by itself.
    grid: cells along each masked axis, at most its size.
    probability: the probability p of a 1 in the grid.
    axes: the axes of a sample that are masked, one to three, such as (0, 1) for (rows, columns, channels);
        others share the mask. ``None``: all axes, or the two longer ones of three; of equal ones the first is
        taken for channels.
    """

    samples: int = 1000
    grid: int = 7
    probability: float = 0.5
    axes: tuple[int, ...] | None = None

    name: ClassVar[str] = "rise"
    takes_lengths: ClassVar[bool] = False
    effort: ClassVar[tuple[str, ...]] = ("samples",)
    baseline: ClassVar[str] = "point"  # the kernel keeps the sums, where rows of References would count as masks
    sampled: ClassVar[bool] = True
    only_differences: ClassVar[bool] = True

    def __post_init__(self) -> None:
        at_least("samples", self.samples, 1)
        at_least("grid", self.grid, 1)
        if not 0 < self.probability < 1:
            raise InputError(f"probability must be between 0 and 1; got {self.probability!r}")
        if self.axes is not None:
            object.__setattr__(self, "axes", tuple(self.axes))

    @property
    def takes_integers(self) -> bool:
        return False  # masks are interpolated: an entry may be kept in part

    def design(self, shapes: Shapes) -> Design:
        return _Masks(shapes, self)


class _Masks(Design):
    all_outputs = False

    def __init__(self, shapes: Shapes, method: Rise) -> None:
        super().__init__(shapes)
        self.method = method
        self.units = method.samples
        self.axes = [self._masked(shape) for shape in self.shapes]
        self.mask_shapes = [
            tuple(size if axis in axes else 1 for axis, size in enumerate(shape))
            for shape, axes in zip(self.shapes, self.axes, strict=True)
        ]

    def _masked(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        chosen = self.method.axes
        if chosen is None:
            if not 1 <= len(shape) <= 3:
                raise InputError(f"which axes of a sample of shape {shape} are masked? Give Rise(axes=…), one to three")
            channels = int(np.argmin(shape)) if len(shape) == 3 else None
            return tuple(axis for axis in range(len(shape)) if axis != channels)
        if not all(isinstance(axis, (int, np.integer)) and -len(shape) <= axis < len(shape) for axis in chosen):
            raise InputError(f"axes {chosen} do not all exist in a sample of shape {shape}")
        axes = tuple(sorted({axis % len(shape) for axis in chosen}))
        if not 1 <= len(axes) <= 3:
            raise InputError(f"axes must name one to three axes of a sample; got {chosen}")
        return axes

    def placeholders(self) -> Placeholders:
        holders: Placeholders = {"key": ("rows", (2,), "int64"), "drawn": ("rows", (), "float")}
        for i, (shape, axes) in enumerate(zip(self.shapes, self.axes, strict=True)):
            holders[f"shift_{i}"] = ("rows", (len(axes),), "float")
            for axis in axes:
                holders[f"place_{i}_{axis}"] = ("", (shape[axis],), "float")
        return holders

    def _cells(self, i: int, axis: int) -> tuple[int, float]:
        """How many cells an axis has, and the size of one in elements."""
        size = self.shapes[i][axis]
        count = min(self.method.grid, size)
        return count, size / count

    def constants(self) -> dict[str, Numpy]:
        return {
            f"place_{i}_{axis}": (np.arange(self.shapes[i][axis]) + 0.5) / self._cells(i, axis)[1]
            for i, axes in enumerate(self.axes)
            for axis in axes
        }

    def rows(self, units: Units, row: Numpy) -> dict[str, Numpy]:
        steps, seeds = units.number[row], units.drawn[row]
        result = {"key": random_numbers.halves(random_numbers.draw_keys(seeds, steps)), "drawn": np.ones(len(steps))}
        stream = 1
        for i, axes in enumerate(self.axes):
            shifts = [random_numbers.unit(random_numbers.draw_keys(seeds, steps, stream + k)) for k in range(len(axes))]
            result[f"shift_{i}"] = np.stack(shifts, axis=1)
            stream += len(axes)
        return result

    def endpoint(self, which: str) -> dict[str, Any]:
        return {"key": 0, "drawn": 0.0, **{f"shift_{i}": 0.0 for i in range(len(self.shapes))}}

    def expand(self, ops: Ops, x: list[Array], b: list[Array], args: Mapping[str, Array]) -> list[Array]:
        kept = self._masks(ops, x, args)
        points = []
        for value, base, mask in zip(x, b, kept, strict=True):
            whole = mask + ops.scale_rows(ops.ones_like(mask) - mask, 1 - args["drawn"])
            whole = ops.cast_like(whole, value)
            points.append(value * whole + base * (1 - whole))
        return points

    def _masks(self, ops: Ops, x: list[Array], args: Mapping[str, Array]) -> list[Array]:
        """The masks (R, …) of each input, broadcastable to its samples."""
        masks = []
        first = 0
        for i, (shape, axes) in enumerate(zip(self.mask_shapes, self.axes, strict=True)):
            nodes = [self._cells(i, axis)[0] + 2 for axis in axes]
            size = int(np.prod(nodes))
            u = random_numbers.uniform(ops, args["key"], tuple(nodes), ops.wide(x[i]), first)
            first += size
            mask = ops.cast(u < self.method.probability, ops.wide(x[i]))
            for k, axis in enumerate(axes):
                mask = self._interpolated(ops, mask, k + 1, args[f"place_{i}_{axis}"], args[f"shift_{i}"][:, k : k + 1])
            masks.append(ops.reshape_rows(mask, shape))
        return masks

    def _interpolated(self, ops: Ops, mask: Array, axis: int, place: Array, shift: Array) -> Array:
        """The grid, interpolated along ``axis`` at the elements' places."""
        nodes = int(mask.shape[axis])
        size = int(place.shape[0])
        at = ops.reshape_rows(place + shift, (size, 1))
        node = ops.cast(ops.arange(nodes, place), ops.wide(place))
        hat = ops.maximum(1 - ops.absolute(at - node), ops.zeros_like(at - node))  # (R, elements, nodes)
        last = ops.move_axis(mask, axis, len(mask.shape) - 1)
        others = tuple(int(n) for n in last.shape[1:-1])
        flat = ops.reshape_rows(last, (int(np.prod(others)), nodes))
        spread = ops.matmul(flat, ops.move_axis(ops.cast_like(hat, flat), 1, 2))
        return ops.move_axis(ops.reshape_rows(spread, (*others, size)), len(others) + 1, axis)

    def contribute(self, ops: Ops, s: Array, x: list[Array], args: Mapping[str, Array]) -> list[Array]:
        masks = [ops.cast(mask, "float64") for mask in self._masks(ops, x, args)]
        factor = s * ops.cast(args["drawn"], "float64") / self.method.probability
        parts = [ops.scale_rows(mask, factor) for mask in masks]
        return [term for part in parts for term in (part, part * part)]

    def start(self, count: int, outputs: tuple[int, ...]) -> list[Numpy]:
        return [np.zeros((count, *shape)) for shape in self.mask_shapes for _ in range(2)]

    def add(self, sums: Sums, units: Units, values: Numpy) -> None:
        """Nothing to do: the kernel computes the sums."""

    def finish(self, sums: Sums, units: Numpy, inputs: Sequence[Numpy]) -> tuple[list[Numpy], list[Numpy] | None]:
        results, errors = [], []
        for i, shape in enumerate(self.shapes):
            count = units.reshape(-1, *[1] * len(shape))
            mean = sums.sums[2 * i] / count
            variance = np.maximum(sums.sums[2 * i + 1] / count - mean * mean, 0.0)
            error = np.sqrt(variance / np.where(count > 1, count - 1, np.nan))  # not defined for a single mask
            results.append(np.array(np.broadcast_to(mean, (len(mean), *shape))))
            errors.append(np.array(np.broadcast_to(error, (len(mean), *shape))))
        return results, errors

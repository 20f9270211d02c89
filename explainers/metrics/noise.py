"""What metrics of robustness ask for: s, and explanations, at samples with noise."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from .. import random_numbers
from ..spec import Numpy
from .base import BLOCK, Demand, Work
from .copies import shifted
from .removal import Drawn, Endpoints, Ends, falls

NOISE = 0x401  # the streams of random numbers
NEAR = 0x402
OTHER = 0x403
BLUR = 0x404


@dataclass(frozen=True)
class Noisy(Demand):
    """Each sample with normal noise of standard deviation ``scale``, (n, draws)."""

    scale: float
    draws: int

    of_attribution: ClassVar[bool] = False

    def run(self, work: Work, method: str) -> Drawn:
        ends: Ends = work.get(Endpoints())
        sample, draw = (part.ravel() for part in np.indices((len(work), self.draws)))
        keys = work.keys(draw, sample, NOISE)
        sums = {name: np.zeros(len(sample)) for name in work.own}
        backend = work.states.backend

        def points(row: Numpy, x: list[Any], b: list[Any]) -> list[Any]:
            noise = _draws(work, keys[row], normal=True)
            moved = [array - self.scale * part for array, part in zip(x, noise, strict=True)]
            on_host = [self.scale * backend.numpy(part) for part in noise]
            for name, total in sums.items():
                for part, values in zip(on_host, work.attributions[name], strict=True):
                    flat = (values[sample[row]] * part).reshape(len(row), -1)
                    total[row] += flat.sum(axis=1, dtype=np.float64)
            return moved

        return Drawn.of(work, falls(work, ends.x, work.values(sample, points)), sums)


def _draws(work: Work, keys: Numpy, normal: bool) -> list[Any]:
    """Standard normal numbers, or uniform ones in (−1, 1), for each element of each row, on the device."""
    states = work.states
    ops, packages = states.ops, states.packages
    halves = packages.to_device(random_numbers.halves(keys), "int64")
    found, first = [], 0
    for shape, place in zip(states.shapes, states.places, strict=True):
        dtype = packages.traced.signature.inputs[place].dtype
        drawn = random_numbers.uniform(ops, halves, shape, "float64" if dtype == "float64" else "float32", first)
        found.append(ops.cast(ops.normal(drawn) if normal else drawn * 2 - 1, dtype))
        first += int(np.prod(shape))
    return found


@dataclass(frozen=True)
class Neighbours(Demand):
    """The samples moved within a box: each element by a uniform number between −radius and radius. (n, D, …)"""

    radius: float
    draws: int

    of_attribution: ClassVar[bool] = False

    def run(self, work: Work, method: str) -> list[Numpy]:
        radii = [np.full(len(work), self.radius)] * len(work.states.places)
        return _scattered(work, radii, self.draws, NEAR, normal=False)


@dataclass(frozen=True)
class Blurred(Demand):
    """The samples with normal noise, of ``noise`` times the range of each input's entries. (n, D, …)"""

    noise: float
    draws: int

    of_attribution: ClassVar[bool] = False

    def run(self, work: Work, method: str) -> list[Numpy]:
        flat = [part.reshape(len(work), -1) for part in work.samples()]
        scales = [self.noise * (part.max(axis=1) - part.min(axis=1)) for part in flat]
        return _scattered(work, scales, self.draws, BLUR, normal=True)


def _scattered(work: Work, scales: list[Numpy], draws: int, stream: int, normal: bool) -> list[Numpy]:
    """``draws`` copies of each sample with random numbers, times the input's scale for each sample, (n, D, …)."""
    sample, draw = (part.ravel() for part in np.indices((len(work), draws)))
    keys = work.keys(draw, sample, stream)
    parts = []
    for start in range(0, len(sample), BLOCK):
        noise = _draws(work, keys[start : start + BLOCK], normal)
        parts.append([work.states.backend.numpy(part) for part in noise])
    found = []
    for x, scale, group in zip(work.samples(), scales, zip(*parts, strict=True), strict=True):
        drawn = np.concatenate(group).astype(np.float64).reshape(len(work), draws, *x.shape[1:])
        found.append(x[:, None] + scale.reshape(-1, *[1] * x.ndim) * drawn)
    return work.typed(found)


@dataclass(frozen=True)
class Reexplained(Demand):
    """A method's attributions of the neighbours, (n, D, …) for each input."""

    radius: float
    draws: int

    def run(self, work: Work, method: str) -> list[Numpy]:
        near: list[Numpy] = work.get(Neighbours(self.radius, self.draws))
        sample = np.repeat(np.arange(len(work)), self.draws)
        flat = [part.reshape(-1, *part.shape[2:]) for part in near]
        found = work.explain(method, flat, sample)
        return [part.reshape(len(work), self.draws, *part.shape[1:]) for part in found]


@dataclass(frozen=True)
class Moved(Demand):
    """A method's attributions of samples and model moved by ``shift``, (n, …) for each input."""

    shift: float

    def run(self, work: Work, method: str) -> list[Numpy]:
        other = shifted(work.compiled[method], self.shift)
        moved = work.typed([part + self.shift for part in work.samples()])
        return work.explain(method, moved, np.arange(len(work)), by=other)


@dataclass(frozen=True)
class Predicted(Demand):
    """f at the samples, (n, …)."""

    of_attribution: ClassVar[bool] = False

    def run(self, work: Work, method: str) -> Numpy:
        return work.outputs(None, np.arange(len(work)))


@dataclass(frozen=True)
class Outputs(Demand):
    """f at the samples, (n, …), and at their neighbours, (n, D, …)."""

    radius: float
    draws: int

    of_attribution: ClassVar[bool] = False

    def run(self, work: Work, method: str) -> tuple[Numpy, Numpy]:
        near: list[Numpy] = work.get(Neighbours(self.radius, self.draws))
        sample = np.repeat(np.arange(len(work)), self.draws)
        moved = work.outputs([part.reshape(-1, *part.shape[2:]) for part in near], sample)
        return work.get(Predicted()), moved.reshape(len(work), self.draws, *moved.shape[1:])


@dataclass(frozen=True)
class OtherTargets(Demand):
    """A method's attributions of another output of each sample, drawn at random, (n, …) for each input."""

    def run(self, work: Work, method: str) -> list[Numpy]:
        sample = np.arange(len(work))
        given = work.states.target.mask(0, len(work), "float64").reshape(len(work), -1).argmax(axis=1)
        shape = work.states.packages.output_shape
        count = int(np.prod(shape))
        drawn = random_numbers.unit(work.keys(sample * 0, sample, OTHER))
        other = (given + 1 + (drawn * (count - 1)).astype(np.int64)) % count
        target = np.stack(np.unravel_index(other, shape), axis=1)
        return work.explain(method, None, sample, target=target[:, 0] if len(shape) == 1 else target)

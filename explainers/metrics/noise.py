"""What metrics of robustness ask for: s, and explanations, at samples with noise."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from .. import random_numbers
from ..spec import Numpy
from .base import BLOCK, Demand, Work
from .removal import Drawn, Endpoints, Ends, falls

NOISE = 0x401  # the streams of random numbers
NEAR = 0x402
OTHER = 0x403


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
        sample, draw = (part.ravel() for part in np.indices((len(work), self.draws)))
        keys = work.keys(draw, sample, NEAR)
        parts = []
        for start in range(0, len(sample), BLOCK):
            noise = _draws(work, keys[start : start + BLOCK], normal=False)
            parts.append([work.states.backend.numpy(part) for part in noise])
        joined = [np.concatenate(group) for group in zip(*parts, strict=True)]
        moved = [
            x[:, None] + self.radius * part.reshape(len(work), self.draws, *part.shape[1:]).astype(np.float64)
            for x, part in zip(work.samples(), joined, strict=True)
        ]
        kinds = [work.states.packages.traced.signature.inputs[place].dtype for place in work.states.places]
        return [part.astype(kind if kind != "bfloat16" else "float32") for part, kind in zip(moved, kinds, strict=True)]


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
class Outputs(Demand):
    """f at the samples, (n, …), and at their neighbours, (n, D, …)."""

    radius: float
    draws: int

    of_attribution: ClassVar[bool] = False

    def run(self, work: Work, method: str) -> tuple[Numpy, Numpy]:
        near: list[Numpy] = work.get(Neighbours(self.radius, self.draws))
        sample = np.repeat(np.arange(len(work)), self.draws)
        moved = work.outputs([part.reshape(-1, *part.shape[2:]) for part in near], sample)
        return work.outputs(None, np.arange(len(work))), moved.reshape(len(work), self.draws, *moved.shape[1:])


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

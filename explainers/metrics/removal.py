"""What metrics of removal ask for: s with features at the baseline, in the order of an attribution or at random."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import numpy as np

from .. import random_numbers
from ..errors import InputError
from ..spec import Numpy
from .base import Demand, Work

SUBSETS = 0x5E7  # the stream of random numbers that draws subsets
FEW = 4096
ROUNDING = 8  # times the distance between numbers of the output's dtype: falls that are no larger are 0


class Ends(NamedTuple):
    """s at the samples and with all features at the baseline, (n,) each."""

    x: Numpy
    b: Numpy


@dataclass(frozen=True)
class Endpoints(Demand):
    of_attribution: ClassVar[bool] = False

    def run(self, work: Work, method: str) -> Ends:
        count = len(work)
        sample = np.repeat(np.arange(count), 2)
        found = work.removed(sample, lambda row: np.repeat((row % 2 == 0)[:, None], work.features.count, axis=1))
        return Ends(found[::2], found[1::2])


# --- in the order of an attribution ------------------------------------------------------------


@dataclass(frozen=True)
class Ranks(Demand):
    """The rank of each feature, (n, G), 0 for the most important; equal features in their order."""

    def run(self, work: Work, method: str) -> Numpy:
        values = work.of_features(method)
        order = np.argsort(-values, axis=1, kind="stable")
        ranks = np.empty(order.shape, np.int32)
        np.put_along_axis(ranks, order, np.arange(order.shape[1], dtype=np.int32)[None], axis=1)
        return ranks


def counts(features: int, steps: int) -> Numpy:
    """How many features are changed at each step, (K+1,): 0 … G in equal parts, symmetrically; K = min(steps, G)."""
    steps = min(steps, features)
    found = np.arange(steps + 1) * features // max(steps, 1)
    half = (steps + 1) // 2
    found[steps + 1 - half :] = features - found[:half][::-1]
    return found


def fractions(work: Work, method: str, steps: int) -> Numpy:
    """The share of features that is changed at each step of a :class:`Curve`, (K+1,)."""
    share = counts(work.features.count, steps) / work.features.count
    mirrored: Numpy = (1 - share)[::-1] if method in work.derived else share
    return mirrored


@dataclass(frozen=True)
class Curve(Demand):
    """s after each step, (n, K+1): of removing the most important features first, or of keeping only them.

    Without features removed it is s(x), without features kept s(b).
    """

    steps: int
    kept: bool = False

    def run(self, work: Work, method: str) -> Numpy:
        if method in work.derived:  # the least important first: what is removed is what the other keeps
            flipped: Numpy = work.get(Curve(self.steps, not self.kept), work.derived[method])[:, ::-1]
            return flipped
        ends: Ends = work.get(Endpoints())
        ranks: Numpy = work.get(Ranks(), method)
        count = counts(work.features.count, self.steps)
        inner = count[1:-1].astype(np.int32)
        result = np.empty((len(work), len(count)))
        result[:, 0], result[:, -1] = (ends.b, ends.x) if self.kept else (ends.x, ends.b)
        if len(inner):
            sample = np.repeat(np.arange(len(work)), len(inner))

            def kept(row: Numpy) -> Numpy:
                first: Numpy = ranks[sample[row]] < inner[row % len(inner)][:, None]
                return first if self.kept else ~first

            result[:, 1:-1] = work.removed(sample, kept).reshape(len(work), -1)
        return result


# --- at random ---------------------------------------------------------------------------------


class Drawn(NamedTuple):
    """For each draw, (n, D): how much s fell, and Σ of each method's attributions over the removed features."""

    falls: Numpy
    sums: dict[str, Numpy]

    @classmethod
    def of(cls, work: Work, falls: Numpy, sums: dict[str, Numpy]) -> Drawn:
        """From the sums, (n · D,), of the methods that are not another one reversed."""
        found = {name: total.reshape(falls.shape) for name, total in sums.items()}
        return cls(falls, found | {name: -found[other] for name, other in work.derived.items()})


@dataclass(frozen=True)
class Subsets(Demand):
    """Random sets of ``size`` features, each removed from its sample.

    gradients: attributions are multiplied by x − b before they are summed.
    """

    size: int
    draws: int
    gradients: bool = False

    of_attribution: ClassVar[bool] = False

    def run(self, work: Work, method: str) -> Drawn:
        ends: Ends = work.get(Endpoints())
        features = work.features.count
        sample, draw = (part.ravel() for part in np.indices((len(work), self.draws)))
        keys = work.keys(draw, sample, SUBSETS + self.size)
        values = {name: self._values(work, name) for name in work.own}
        sums = {name: np.zeros(len(sample)) for name in values}

        def kept(row: Numpy) -> Numpy:
            removed = random_sets(keys[row], features, self.size)
            for name, value in values.items():
                sums[name][row] = np.einsum("rg,rg->r", value[sample[row]], removed)
            return ~removed

        return Drawn.of(work, falls(work, ends.x, work.removed(sample, kept)), sums)

    def _values(self, work: Work, name: str) -> Numpy:
        if not self.gradients:
            return work.of_features(name)
        parts = zip(work.attributions[name], work.changes(), strict=True)
        return work.features.summed([np.asarray(part, np.float64) * change for part, change in parts])


def random_sets(keys: Numpy, features: int, size: int) -> Numpy:
    """Random sets of ``size`` out of ``features``, (R, G) booleans, one for each key."""
    order = random_numbers.priorities(keys, features)
    if size >= features:
        return np.ones(order.shape, bool)
    if features <= FEW:  # numbers of 32 bits are sorted out twice as fast
        order = (order >> random_numbers.PRIORITY_BITS + 19 << 12 | order & FEW - 1).astype(np.uint32)
    limit = np.partition(order, size, axis=1)[:, size]
    found: Numpy = order < limit[:, None]
    return found


@dataclass(frozen=True)
class Singles(Demand):
    """How much s falls with each feature removed by itself, (n, G)."""

    of_attribution: ClassVar[bool] = False

    def run(self, work: Work, method: str) -> Numpy:
        ends: Ends = work.get(Endpoints())
        features = work.features.count
        sample = np.repeat(np.arange(len(work)), features)
        numbers = np.arange(features)
        found = work.removed(sample, lambda row: numbers != (row % features)[:, None])
        return falls(work, ends.x, found)


def falls(work: Work, s: Numpy, found: Numpy) -> Numpy:
    """s − found, (n, …), for found (n·…); 0 where that is no more than rounding."""
    fell = s[:, None] - found.reshape(len(s), -1)
    rounding = ROUNDING * np.finfo(work.states.packages.mask_host_dtype).eps
    return np.where(np.abs(fell) <= rounding * np.abs(s)[:, None], 0.0, fell)


def size_of(given: float, features: int, name: str) -> int:
    """A number of features, from one, or from a share of them."""
    if isinstance(given, float):
        return min(max(round(given * features), 1), features)
    if given > features:
        raise InputError(f"{name} is {given}, and a sample has {features} features")
    return given


def check_size(name: str, given: float) -> None:
    good = isinstance(given, (int, float, np.number)) and not isinstance(given, bool)
    if not good or not (0 < given < 1 if isinstance(given, float) else given >= 1):
        raise InputError(
            f"{name} must be a whole number of features ≥ 1 or a share of them between 0 and 1; got {given!r}"
        )

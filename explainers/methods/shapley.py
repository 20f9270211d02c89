"""Shapley values of features: how much each adds to the output, averaged over the orders of joining.

Shapley 1953, "A Value for n-Person Games"; Castro, Gómez and Tejada 2009, "Polynomial calculation of the
Shapley value based on sampling"; Mitchell et al. 2022, "Sampling Permutations for Shapley Value Estimation"
(antithetic pairs, section 4.2).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from math import comb
from typing import Any, ClassVar

import numpy as np

from .. import random_numbers
from ..errors import InputError
from ..random_numbers import UInt64
from .base import Numpy, Shapes, at_least
from .removal import Coalitions, Design, Grouped, Sums, Units

__all__ = ["ExactShapley", "ShapleySampling"]

MOST_FEATURES = 20  # of exact Shapley values


@dataclass(frozen=True)
class ShapleySampling(Grouped):
    """The change of s when a feature joins, averaged over random orders in which features replace the baseline.

    Σ attribution = s(x) − s(b), for any number of permutations. Castro, Gómez and Tejada 2009, section 3.

    Parameters
    ----------
    permutations: number of random orders, drawn for each sample separately.
    antithetic: take orders in pairs, one the reverse of the other; ``permutations`` is then even. Exact for
        functions of pairs of features.
    groups: as of FeatureAblation. ``None``: each element is a feature.
    tolerance: continue until the largest standard error of a sample is at most this, in the unit of the
        output; ``permutations`` is then the number of the first draw.
    max_evaluations: limit of model evaluations per sample. With ``tolerance``, NotConverged is raised at this
        limit; without, it bounds the number of permutations.
    """

    permutations: int = 25
    antithetic: bool = True
    groups: Any = field(default=None, compare=False)
    tolerance: float | None = None
    max_evaluations: int | None = None

    name: ClassVar[str] = "shapley_sampling"
    effort: ClassVar[tuple[str, ...]] = ("permutations", "antithetic", "tolerance", "max_evaluations")
    complete: ClassVar[bool] = True
    sampled: ClassVar[bool] = True

    def __post_init__(self) -> None:
        at_least("permutations", self.permutations, 1)
        if self.max_evaluations is not None:
            at_least("max_evaluations", self.max_evaluations, 1)
        if self.tolerance is not None and not self.tolerance > 0:
            raise InputError(f"tolerance must be above 0, or None; got {self.tolerance!r}")

    @property
    def error_to(self) -> float | None:
        return self.tolerance

    @property
    def most_evaluations(self) -> int | None:
        return self.max_evaluations

    def design(self, shapes: Shapes) -> Design:
        return _Permutations(shapes, self)


class _Permutations(Coalitions):
    """A unit is an order of the features, or an order and its reverse: the coalitions of the first 1 … G−1 features."""

    def __init__(self, shapes: Shapes, method: ShapleySampling) -> None:
        super().__init__(shapes, method.groups)
        self.orders = 2 if method.antithetic else 1
        self.length = max(self.features - 1, 0)
        self.unit = self.orders * self.length
        self.units = -(-method.permutations // self.orders) if self.unit else 0

    def draw(self, number: Numpy, seeds: UInt64) -> Numpy:
        """The position of each feature in each order, (D, orders, G): a random permutation, and its reverse."""
        keys = random_numbers.priorities(random_numbers.draw_keys(seeds, number), self.features)
        ranks = np.empty((len(keys), self.orders, self.features), np.min_scalar_type(-self.features))
        np.put_along_axis(ranks[:, 0], keys.argsort(axis=1), np.arange(self.features)[None], axis=1)
        ranks[:, 1:] = self.features - 1 - ranks[:, :1]
        return ranks

    def kept(self, units: Units, row: Numpy) -> Numpy:
        order, size = np.divmod(row, self.length)
        ranks = units.drawn.reshape(-1, self.features)
        kept: Numpy = ranks.take(order, axis=0) <= size.astype(ranks.dtype)[:, None]
        return kept

    def start(self, count: int, outputs: tuple[int, ...]) -> list[Numpy]:
        return [np.zeros((count, self.features, *outputs)) for _ in range(2)]

    def add(self, sums: Sums, units: Units, values: Numpy) -> None:
        outputs = values.shape[2:]
        path = np.empty((len(values), self.orders, self.features + 1, *outputs))
        path[:, :, 0], path[:, :, -1] = sums.b[units.sample, None], sums.x[units.sample, None]
        path[:, :, 1:-1] = values.reshape(len(values), self.orders, self.length, *outputs)
        ranks = units.drawn.reshape(*units.drawn.shape, *[1] * len(outputs))
        shares = np.take_along_axis(path[:, :, 1:] - path[:, :, :-1], ranks, axis=2).mean(axis=1)
        units.add(sums.sums[0], shares)
        units.add(sums.sums[1], shares * shares)

    def finish(self, sums: Sums, units: Numpy, inputs: Sequence[Numpy]) -> tuple[list[Numpy], list[Numpy] | None]:
        if not self.unit:  # a single feature gets everything
            whole = (sums.x - sums.b)[:, None] + sums.sums[0]
            return self.groups.spread(whole), self.groups.spread(np.zeros_like(whole))
        count = _column(units, sums.sums[0])
        errors = self._errors(sums.sums[0], sums.sums[1], count)
        return self.groups.spread(sums.sums[0] / count), self.groups.spread(errors)

    def _errors(self, total: Numpy, squares: Numpy, count: Any) -> Numpy:
        """The standard error of the mean over units; NaN where there is but one."""
        mean = total / count
        variance = np.maximum(squares / count - mean * mean, 0.0)
        with np.errstate(divide="ignore", invalid="ignore"):
            errors: Numpy = np.where(count > 1, np.sqrt(variance / (count - 1)), np.nan)
        return errors

    def error(self, sums: Sums, samples: Numpy, units: int) -> Numpy:
        if units < 2:
            return np.full(len(samples), np.inf if self.unit else 0.0)
        errors = self._errors(sums.sums[0][samples], sums.sums[1][samples], units)
        largest: Numpy = errors.reshape(len(samples), -1).max(axis=1, initial=0.0)
        return largest


def _column(numbers: Numpy, like: Numpy) -> Numpy:
    return numbers.reshape(-1, *[1] * (like.ndim - 1))


@dataclass(frozen=True)
class ExactShapley(Grouped):
    """φ_i = Σ_{S∌i} |S|!(G−|S|−1)!/G! · (s(S∪i) − s(S)), over all coalitions S (Shapley 1953, eq. 13).

    2^G evaluations for G features, at most 20. ``groups``: as of FeatureAblation.
    """

    groups: Any = field(default=None, compare=False)

    name: ClassVar[str] = "exact_shapley"
    complete: ClassVar[bool] = True

    def design(self, shapes: Shapes) -> Design:
        return _AllCoalitions(shapes, self.groups)


class _AllCoalitions(Coalitions):
    """Row k keeps the features whose bits are set in k + 1: all coalitions but the empty and the full one."""

    def __init__(self, shapes: Shapes, groups: Any) -> None:
        super().__init__(shapes, groups)
        self.units = max(2**self.features - 2, 0)

    def check_size(self) -> None:
        if self.features > MOST_FEATURES:
            raise InputError(
                f"exact Shapley values of {self.features} features need 2^{self.features} evaluations per sample; at "
                f"most {MOST_FEATURES} features are allowed. Join elements with groups=, or take ShapleySampling."
            )

    def kept(self, units: Units, row: Numpy) -> Numpy:
        return subsets(units.number[row] + 1, self.features)

    def add(self, sums: Sums, units: Units, values: Numpy) -> None:
        present = subsets(units.number + 1, self.features)
        size = present.sum(axis=1)
        ways = np.array([comb(self.features, g) for g in range(self.features + 1)], np.float64)[size]
        weights = np.where(present, (1 / (ways * size))[:, None], (-1 / (ways * (self.features - size)))[:, None])
        for sample, rows in units.by_sample():
            sums.sums[0][sample] += np.tensordot(weights[rows], values[rows, 0], axes=(0, 0))

    def finish(self, sums: Sums, units: Numpy, inputs: Sequence[Numpy]) -> tuple[list[Numpy], list[Numpy] | None]:
        ends = (sums.x - sums.b)[:, None] / max(self.features, 1)
        return self.groups.spread(sums.sums[0] + ends), None


def subsets(numbers: Numpy, features: int) -> Numpy:
    """Which features' bits are set in each number, (R, G) booleans."""
    found: Numpy = (numbers[:, None] >> np.arange(features)) & 1 == 1
    return found

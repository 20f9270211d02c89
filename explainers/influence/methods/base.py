"""The base of methods of influence, and the damping that they share."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from numbers import Real
from typing import ClassVar

import numpy as np

from ...errors import InputError
from ...program.walk import ULP
from ...spec import Numpy
from ..running import Runner, Samples, Start, Vectors

State = dict[str, Numpy]


class InfluenceMethod(ABC):
    """A method of influence. Its ``fit`` finds arrays about the curvature, and ``solve`` applies its inverse.

    ``keeps_samples``: it reads the training samples again when it solves. ``later``: parameters that may change after
    the fit.
    """

    name: ClassVar[str]
    keeps_samples: ClassVar[bool] = False
    later: ClassVar[tuple[str, ...]] = ()

    def identity(self, run: Runner) -> str:
        """What tells the method from others of its name, beyond its parameters."""
        return ""

    @abstractmethod
    def fit(self, run: Runner, train: Samples) -> State:
        """The arrays that the method keeps of the training samples."""

    @abstractmethod
    def solve(self, run: Runner, state: State, vectors: Vectors, train: Samples | None) -> Vectors:
        """(H + λ)⁻¹·v for each vector."""

    def directions(
        self, run: Runner, state: State, tests: Samples, span: tuple[int, int], train: Samples | None
    ) -> Vectors:
        """(H + λ)⁻¹ times the derivatives of the tests of ``span``: a score is their product with a derivative."""
        return self.solve(run, state, run.derivatives(tests, span=span), train)

    def factors(
        self, run: Runner, state: State, tests: Samples, span: tuple[int, int], train: Samples | None
    ) -> Vectors:
        """What the influences on the tests of ``span`` are computed from."""
        return self.directions(run, state, tests, span, train)

    def scores(self, run: Runner, state: State, factors: Vectors, trains: Samples, span: tuple[int, int]) -> Numpy:
        """The influences of the training samples of ``span``, (tests, trains)."""
        return run.products(trains, factors, span)

    def perturbations(
        self, run: Runner, state: State, tests: Samples, trains: Samples, train: Samples | None
    ) -> list[Numpy]:
        """The derivatives of scores towards the training samples' floating inputs, each (tests, trains, …)."""
        return run.perturbations(trains, self.directions(run, state, tests, (0, len(tests)), train))

    def self_influence(self, run: Runner, state: State, trains: Samples, train: Samples | None) -> Numpy:
        """g_jᵀ·(H + λ)⁻¹·g_j of each sample, (N,)."""
        found = []
        size = run.size(4 * run.total)
        for start in range(0, len(trains), size):
            span = start, min(start + size, len(trains))
            own = run.derivatives(trains, span=span)
            solved = self.solve(run, state, own, train)
            found.append(sum((a * b).sum(axis=1) for a, b in zip(own, solved, strict=True)))
        return np.concatenate(found)


def starts(run: Runner, seed: int, draws: int | None) -> list[Start]:
    """The pseudo-gradients that the curvature is made of: of random draws, or exactly, one of each output."""
    if draws is None:
        return [Start(seed, output=output) for output in range(run.outputs)]
    return [Start(seed, draw) for draw in range(draws)]


def check_draws(draws: int | None) -> None:
    if draws is not None and (not isinstance(draws, int) or draws < 1):
        raise InputError(f"draws must be at least 1, or None for every output; got {draws!r}")


def check_damping(damping: float | None, relative: float) -> None:
    for name, value in (("damping", damping), ("relative_damping", relative)):
        given = value is not None or name == "relative_damping"
        if given and not (isinstance(value, Real) and not isinstance(value, bool) and 0 <= float(value) < math.inf):
            raise InputError(f"{name} must be a number ≥ 0; got {value!r}")


def level(given: float | None, relative: float, mean: float) -> float:
    """λ: as given, or a share of the mean eigenvalue."""
    return relative * mean if given is None else float(given)


def reciprocal(values: Numpy, damping: float, least: float | None = None) -> Numpy:
    """1/(d + λ) of eigenvalues; 0 where both are 0 but for rounding, as in a pseudo-inverse. ``least``: that is not."""
    total = values + damping
    if least is None:
        least = abs(total).max(initial=0.0) * np.finfo(float).eps * len(values)
    return np.where(total > least, 1.0 / np.where(total > least, total, 1.0), 0.0)


def noise(dtype: str) -> float:
    """The curvature of a layer that the loss does not depend on, such as a bias before a norm, beside the largest one.

    Its derivatives are rounding errors, which a damping in proportion to them would blow up.
    """
    return (16 * ULP[dtype]) ** 2


def check_positive(method: InfluenceMethod, damping: float | None, relative: float) -> None:
    if (relative if damping is None else damping) == 0:
        raise InputError(f"{method.name!r} divides by the damping, which must be larger than 0")


def inverse(matrix: Numpy) -> Numpy:
    """Of a symmetric positive matrix."""
    values, vectors = np.linalg.eigh(matrix)
    found: Numpy = (vectors * reciprocal(values, 0.0)) @ vectors.T
    return found

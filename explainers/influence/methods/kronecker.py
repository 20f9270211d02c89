"""Curvature of each layer as a product of two factors."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from ...spec import Numpy
from ..running import Runner, Samples, Start, Vectors
from .base import InfluenceMethod, State, check_damping, check_draws, level, noise, reciprocal, starts


@dataclass(frozen=True)
class EKFAC(InfluenceMethod):
    """Eigenvalue-corrected Kronecker-factored curvature (George et al. 2018, eq. 8; Grosse et al. 2023, section 3.2).

    Each layer's curvature has the eigenvectors of K-FAC, and along them the second moments of the derivatives. Weights
    without factors have their whole curvature if they are few, else its diagonal; layers do not interact.

    draws: random signs for each training sample, see :mod:`explainers.losses`; None differentiates every output
    instead, at that many times the cost. damping: λ; None: ``relative_damping`` times the mean eigenvalue of each
    layer.
    """

    draws: int | None = 1
    damping: float | None = None
    relative_damping: float = 0.1
    seed: int = 0
    name: ClassVar[str] = "ekfac"
    later: ClassVar[tuple[str, ...]] = ("damping", "relative_damping")

    def __post_init__(self) -> None:
        check_draws(self.draws)
        check_damping(self.damping, self.relative_damping)

    def fit(self, run: Runner, train: Samples) -> State:
        begins = starts(run, self.seed, self.draws)
        pairs = run.covariances(train, begins)
        bases, state = [], State()
        for place, (left, right) in enumerate(pairs):
            a, q = (left, np.zeros((0, 0))) if left.ndim == 2 else np.linalg.eigh(left)  # of a table's rows: diagonal
            b, r = np.linalg.eigh(right)
            state[f"left_{place}"], state[f"right_{place}"] = q, r
            state[f"values_{place}"] = a.clip(0)[:, :, None] * b.clip(0)[:, None, :]
            bases.append((q, r))
        state = self._corrected(run, train, state, bases, begins)
        largest = max(state[f"values_{place}"].max() for place in range(len(bases)))
        state["least"] = np.array(noise(run.dtype) * largest)  # for a damping in proportion to the curvature
        return state

    def _corrected(
        self, run: Runner, train: Samples, state: State, bases: Sequence[tuple[Numpy, Numpy]], begins: Sequence[Start]
    ) -> State:
        for place, values in enumerate(run.squares(train, bases, begins)):
            state[f"values_{place}"] = values
        return state

    def _inverse(self, state: State, place: int) -> Numpy:
        """1/(d + λ), (G, L, R)."""
        values = state[f"values_{place}"]
        damping = level(self.damping, self.relative_damping, float(values.mean()))
        return reciprocal(values, damping, float(state["least"]) if self.damping is None else None)

    def solve(self, run: Runner, state: State, vectors: Vectors, train: Samples | None) -> Vectors:
        found = []
        for place, (array, size) in enumerate(zip(vectors, run.sizes, strict=True)):
            q, r = state[f"left_{place}"], state[f"right_{place}"]
            whole = array.reshape(len(array), *size)
            turned = (q.swapaxes(-1, -2) @ whole if q.size else whole) @ r
            scaled = (turned * self._inverse(state, place)) @ r.swapaxes(-1, -2)
            found.append((q @ scaled if q.size else scaled).reshape(array.shape))
        return found

    def _bases(self, run: Runner, state: State) -> list[tuple[Numpy, Numpy]]:
        return [(state[f"left_{place}"], state[f"right_{place}"]) for place in range(len(run.blocks))]

    def _inverses(self, run: Runner, state: State) -> list[Numpy]:
        return [self._inverse(state, place) for place in range(len(run.blocks))]

    def factors(
        self, run: Runner, state: State, tests: Samples, span: tuple[int, int], train: Samples | None
    ) -> Vectors:
        """Along the axes of the curvature: nothing is turned back, since training samples are turned there, too."""
        return run.turned(tests, self._bases(run, state), self._inverses(run, state), span)

    def scores(self, run: Runner, state: State, factors: Vectors, trains: Samples, span: tuple[int, int]) -> Numpy:
        return run.turned_products(trains, self._bases(run, state), factors, span)

    def self_influence(self, run: Runner, state: State, trains: Samples, train: Samples | None) -> Numpy:
        return run.norms(trains, self._bases(run, state), self._inverses(run, state))


@dataclass(frozen=True)
class KFAC(EKFAC):
    """Kronecker-factored curvature E[l·lᵀ] ⊗ E[r·rᵀ] of each layer (Martens and Grosse 2015, eq. 1).

    Parameters as for :class:`EKFAC`.
    """

    name: ClassVar[str] = "kfac"

    def _corrected(
        self, run: Runner, train: Samples, state: State, bases: Sequence[tuple[Numpy, Numpy]], begins: Sequence[Start]
    ) -> State:
        return state

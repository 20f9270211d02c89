"""Methods that compare derivatives: as they are, at checkpoints, projected, or with a mean of inverses."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np

from ...errors import InputError, UnsupportedOperation
from ...spec import Numpy
from ..running import Runner, Samples, Vectors
from .base import InfluenceMethod, State, check_damping, check_positive, inverse, level, noise


@dataclass(frozen=True)
class HarmonicMean(InfluenceMethod):
    """The mean of inverses in place of the inverse of the mean, in closed form (DataInf: Kwon et al. 2024, eq. 5).

    damping: λ of each layer; None: ``relative_damping`` times its mean squared derivative.
    """

    damping: float | None = None
    relative_damping: float = 0.1
    name: ClassVar[str] = "harmonic_mean"
    later: ClassVar[tuple[str, ...]] = ("damping",)
    keeps_samples: ClassVar[bool] = True

    def __post_init__(self) -> None:
        check_damping(self.damping, self.relative_damping)
        check_positive(self, self.damping, self.relative_damping)

    def fit(self, run: Runner, train: Samples) -> State:
        lengths = run.lengths(train)
        means = lengths.mean(axis=0) / np.array(run.entries)
        levels = np.array([level(self.damping, self.relative_damping, float(mean)) for mean in means])
        if self.damping is None:
            levels[means <= noise(run.dtype) * means.max()] = np.inf
        return {"damping": levels}

    def solve(self, run: Runner, state: State, vectors: Vectors, train: Samples | None) -> Vectors:
        assert train is not None
        levels = state["damping"]
        pairs = zip(vectors, run.harmonic_sums(train, vectors, levels), levels, strict=True)
        return [(vector - part) / damping for vector, part, damping in pairs]


@dataclass(frozen=True)
class GradientSimilarity(InfluenceMethod):
    """The product of derivatives, H = 1 (Charpiat et al. 2019, eq. 2); ``cosine``: of their directions."""

    cosine: bool = False
    name: ClassVar[str] = "gradient_similarity"
    later: ClassVar[tuple[str, ...]] = ("cosine",)

    def fit(self, run: Runner, train: Samples) -> State:
        return {}

    def solve(self, run: Runner, state: State, vectors: Vectors, train: Samples | None) -> Vectors:
        return vectors

    def directions(
        self, run: Runner, state: State, tests: Samples, span: tuple[int, int], train: Samples | None
    ) -> Vectors:
        if self.cosine:
            raise UnsupportedOperation(
                "the derivative of a cosine towards the training input is not a product with that of the gradient: "
                "leave out cosine=True"
            )
        return super().directions(run, state, tests, span, train)

    def factors(
        self, run: Runner, state: State, tests: Samples, span: tuple[int, int], train: Samples | None
    ) -> Vectors:
        found = run.similarity_factors(tests, span)
        if not self.cosine:
            return found
        length = _nonzero(np.sqrt(run.lengths(tests, span=span).sum(axis=1)))
        scaled, place = list(found), 0
        for by_factors in run.by_factors:  # one of two factors, or the derivative
            scaled[place] = found[place] / length.reshape(-1, *(1,) * (found[place].ndim - 1))
            place += 2 if by_factors else 1
        return scaled

    def scores(self, run: Runner, state: State, factors: Vectors, trains: Samples, span: tuple[int, int]) -> Numpy:
        found = run.similarity(trains, factors, span)
        if not self.cosine:
            return found
        return found / _nonzero(np.sqrt(run.lengths(trains, span=span).sum(axis=1)))

    def self_influence(self, run: Runner, state: State, trains: Samples, train: Samples | None) -> Numpy:
        found: Numpy = run.lengths(trains).sum(axis=1)
        return (found > 0).astype(np.float64) if self.cosine else found


def _nonzero(lengths: Numpy) -> Numpy:
    return np.where(lengths > 0, lengths, 1.0)


@dataclass(frozen=True)
class TracIn(InfluenceMethod):
    """Σ_c η_c·g_t·g_j over checkpoints c with their learning rates η (Pruthi et al. 2020, eq. 4).

    checkpoints: for each all weights of the model: of torch a ``state_dict``, of Keras a list as of ``get_weights()``
    or a mapping from the variables' paths. learning_rates: one for all, or one for each.
    """

    checkpoints: Sequence[Any] = field(default=(), repr=False)
    learning_rates: Any = 1.0
    name: ClassVar[str] = "tracin"

    def __post_init__(self) -> None:
        if not self.checkpoints:
            raise InputError("TracIn needs checkpoints: a list with the model's weights at each")
        rates = np.asarray(self.learning_rates, np.float64)
        if rates.shape not in ((), (len(self.checkpoints),)):
            raise InputError(
                f"learning_rates must be one number, or {len(self.checkpoints)}, one for each checkpoint; got "
                f"{rates.size}"
            )
        if not np.isfinite(rates).all():
            raise InputError(f"learning_rates hold NaN or infinity: {self.learning_rates!r}")

    def identity(self, run: Runner) -> str:
        return " ".join(run.at(state).hash() for state in self.checkpoints)

    def _each(self, run: Runner) -> Iterator[tuple[Runner, float]]:
        """For each checkpoint the programs with its weights, and its learning rate."""
        rates = np.broadcast_to(np.asarray(self.learning_rates, np.float64), (len(self.checkpoints),))
        for state, rate in zip(self.checkpoints, rates, strict=True):
            yield run.at(state), float(rate)

    def fit(self, run: Runner, train: Samples) -> State:
        for state in self.checkpoints:
            run.at(state)  # which checks it
        return {}

    def solve(self, run: Runner, state: State, vectors: Vectors, train: Samples | None) -> Vectors:
        return vectors

    def factors(
        self, run: Runner, state: State, tests: Samples, span: tuple[int, int], train: Samples | None
    ) -> Vectors:
        return [array for own, _ in self._each(run) for array in own.similarity_factors(tests, span)]

    def scores(self, run: Runner, state: State, factors: Vectors, trains: Samples, span: tuple[int, int]) -> Numpy:
        count = len(factors) // len(self.checkpoints)
        parts = [
            rate * own.similarity(trains, factors[place * count : (place + 1) * count], span)
            for place, (own, rate) in enumerate(self._each(run))
        ]
        found: Numpy = np.sum(parts, axis=0)
        return found

    def perturbations(
        self, run: Runner, state: State, tests: Samples, trains: Samples, train: Samples | None
    ) -> list[Numpy]:
        parts = [
            [rate * array for array in own.perturbations(trains, own.derivatives(tests))]
            for own, rate in self._each(run)
        ]
        return [np.sum(arrays, axis=0) for arrays in zip(*parts, strict=True)]

    def self_influence(self, run: Runner, state: State, trains: Samples, train: Samples | None) -> Numpy:
        found: Numpy = np.sum([rate * own.lengths(trains).sum(axis=1) for own, rate in self._each(run)], axis=0)
        return found


@dataclass(frozen=True)
class TRAK(InfluenceMethod):
    """Random projections φ of derivatives, and φ_tᵀ·(ΦᵀΦ/n + λ)⁻¹·φ_j (Park et al. 2023, eq. 13, of one model).

    Projections are of factors (Choe et al. 2024), so that no derivative is formed. dimension: of φ, a square number.
    damping: λ; None: ``relative_damping`` times the mean eigenvalue of ΦᵀΦ/n.
    """

    dimension: int = 1024
    damping: float | None = None
    relative_damping: float = 0.1
    seed: int = 0
    name: ClassVar[str] = "trak"

    def __post_init__(self) -> None:
        check_damping(self.damping, self.relative_damping)
        if self.dimension < 1 or math.isqrt(self.dimension) ** 2 != self.dimension:
            raise InputError(f"dimension must be a square number, such as 1024; got {self.dimension}")

    def fit(self, run: Runner, train: Samples) -> State:
        phi = run.projections(train, self._sides(run))
        matrix = phi.T @ phi / len(train)
        damping = level(self.damping, self.relative_damping, float(np.trace(matrix)) / len(matrix))
        return {"inverse": inverse(matrix + damping * np.eye(len(matrix)))}

    def _sides(self, run: Runner) -> list[tuple[Numpy, Numpy]]:
        """Random signs, for which products of projections have the products of derivatives as expectation."""
        side, random = math.isqrt(self.dimension), np.random.default_rng(self.seed)
        return [
            (
                random.choice([-1.0, 1.0], (g, left, side)) / side**0.5,
                random.choice([-1.0, 1.0], (g, right, side)) / side**0.5,
            )
            for g, left, right in run.sizes
        ]

    def solve(self, run: Runner, state: State, vectors: Vectors, train: Samples | None) -> Vectors:
        return [vectors[0] @ state["inverse"]]

    def directions(
        self, run: Runner, state: State, tests: Samples, span: tuple[int, int], train: Samples | None
    ) -> Vectors:
        """Projected back: ⟨M, Aᵀ·D·B⟩ = ⟨A·M·Bᵀ, D⟩."""
        (phi,) = self.factors(run, state, tests, span, train)
        side = math.isqrt(self.dimension)
        matrices = phi.reshape(len(phi), 1, side, side)
        return [(a @ matrices @ b.swapaxes(-1, -2)).reshape(len(phi), -1) for a, b in self._sides(run)]

    def factors(
        self, run: Runner, state: State, tests: Samples, span: tuple[int, int], train: Samples | None
    ) -> Vectors:
        return self.solve(run, state, [run.projections(tests, self._sides(run), span)], train)

    def scores(self, run: Runner, state: State, factors: Vectors, trains: Samples, span: tuple[int, int]) -> Numpy:
        return factors[0] @ run.projections(trains, self._sides(run), span).T

    def self_influence(self, run: Runner, state: State, trains: Samples, train: Samples | None) -> Numpy:
        phi = run.projections(trains, self._sides(run))
        found: Numpy = np.einsum("nd,nd->n", phi @ state["inverse"], phi)
        return found

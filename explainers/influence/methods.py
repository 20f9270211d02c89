"""Methods of influence, as values: how the inverse of the curvature H is approximated.

The influence of a training sample j on a test sample t is g_tᵀ·(H + λ)⁻¹·g_j, of the derivatives g of their losses
(Koh and Liang 2017, eq. 2, with the other sign): positive if training on j lowers the loss of t. Without j, the loss of
t rises by that, divided by the number of training samples, to first order. H is the generalized Gauss–Newton matrix,
the mean over the training samples.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from numbers import Real
from typing import Any, ClassVar

import numpy as np
import psutil

from ..errors import InputError, UnknownNameError
from ..program.walk import ULP
from ..spec import Numpy
from .running import Runner, Samples, Start, Vectors, draws_of

State = dict[str, Numpy]

__all__ = [
    "EKFAC", "KFAC", "METHODS", "TRAK", "Arnoldi", "ConjugateGradient", "GaussNewton", "GradientSimilarity",
    "HarmonicMean", "InfluenceMethod", "LiSSA", "Nystroem", "TracIn", "resolve",
]  # fmt: skip


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

    def factors(
        self, run: Runner, state: State, tests: Samples, span: tuple[int, int], train: Samples | None
    ) -> Vectors:
        """What the influences on the tests of ``span`` are computed from."""
        return self.solve(run, state, run.derivatives(tests, span=span), train)

    def scores(self, run: Runner, state: State, factors: Vectors, trains: Samples, span: tuple[int, int]) -> Numpy:
        """The influences of the training samples of ``span``, (tests, trains)."""
        return run.products(trains, factors, span)

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


def _check_draws(draws: int | None) -> None:
    if draws is not None and (not isinstance(draws, int) or draws < 1):
        raise InputError(f"draws must be at least 1, or None for every output; got {draws!r}")


def _check_damping(damping: float | None, relative: float) -> None:
    for name, value in (("damping", damping), ("relative_damping", relative)):
        given = value is not None or name == "relative_damping"
        if given and not (isinstance(value, Real) and not isinstance(value, bool) and 0 <= float(value) < math.inf):
            raise InputError(f"{name} must be a number ≥ 0; got {value!r}")


def _damping(given: float | None, relative: float, mean: float) -> float:
    """λ: as given, or a share of the mean eigenvalue."""
    return relative * mean if given is None else float(given)


def _reciprocal(values: Numpy, damping: float, least: float | None = None) -> Numpy:
    """1/(d + λ) of eigenvalues; 0 where both are 0 but for rounding, as in a pseudo-inverse. ``least``: that is not."""
    total = values + damping
    if least is None:
        least = abs(total).max(initial=0.0) * np.finfo(float).eps * len(values)
    return np.where(total > least, 1.0 / np.where(total > least, total, 1.0), 0.0)


def _noise(dtype: str) -> float:
    """The curvature of a layer that the loss does not depend on, such as a bias before a norm, beside the largest one.

    Its derivatives are rounding errors, which a damping in proportion to them would blow up.
    """
    return (16 * ULP[dtype]) ** 2


def _check_positive(method: InfluenceMethod, damping: float | None, relative: float) -> None:
    if (relative if damping is None else damping) == 0:
        raise InputError(f"{method.name!r} divides by the damping, which must be larger than 0")


# --- Kronecker factors -----------------------------------------------------------------------


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
        _check_draws(self.draws)
        _check_damping(self.damping, self.relative_damping)

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
        state["least"] = np.array(_noise(run.dtype) * largest)  # for a damping in proportion to the curvature
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
        damping = _damping(self.damping, self.relative_damping, float(values.mean()))
        return _reciprocal(values, damping, float(state["least"]) if self.damping is None else None)

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


# --- the whole curvature ---------------------------------------------------------------------


def _joined(vectors: Vectors) -> Numpy:
    return np.concatenate(vectors, axis=1)


def _apart(run: Runner, array: Numpy) -> Vectors:
    return np.split(array, np.cumsum(run.entries)[:-1], axis=1)


@dataclass(frozen=True)
class GaussNewton(InfluenceMethod):
    """The exact inverse of the whole generalized Gauss–Newton matrix plus λ, for small problems.

    All pseudo-gradients J, one for each training sample and output, are kept. With fewer of them than weights, the
    inverse is taken in the space of samples: (JᵀJ/n + λ)⁻¹ = (1 − Jᵀ(J·Jᵀ + n·λ)⁻¹J)/λ (Woodbury).

    damping: λ; None: ``relative_damping`` times the mean eigenvalue.
    """

    damping: float | None = None
    relative_damping: float = 0.1
    name: ClassVar[str] = "gauss_newton"

    def __post_init__(self) -> None:
        _check_damping(self.damping, self.relative_damping)

    def fit(self, run: Runner, train: Samples) -> State:
        rows, columns = len(train) * run.outputs, run.total
        needed = 8 * (rows * columns + 2 * min(rows, columns) ** 2)
        free = psutil.virtual_memory().available
        if needed > 0.5 * free:
            raise InputError(
                f"'gauss_newton' keeps {rows:,} × {columns:,} derivatives, {needed / 2**30:,.1f} GiB, and "
                f"{free / 2**30:,.1f} GiB are free: take 'ekfac', or ConjugateGradient(), which keeps none"
            )
        parts = [_joined(run.derivatives(train, start)) for start in starts(run, 0, None)]
        whole = np.concatenate(parts)
        count = len(train)
        damping = _damping(self.damping, self.relative_damping, float((whole**2).sum()) / count / columns)
        if rows < columns and damping > 0:
            return {"rows": whole, "inverse": _inverse(whole @ whole.T + count * damping * np.eye(rows)),
                    "damping": np.array(damping)}  # fmt: skip
        return {"inverse": _inverse(whole.T @ whole / count + damping * np.eye(columns))}

    def solve(self, run: Runner, state: State, vectors: Vectors, train: Samples | None) -> Vectors:
        v = _joined(vectors)
        if "rows" not in state:
            return _apart(run, v @ state["inverse"])
        rows = state["rows"]
        return _apart(run, (v - (v @ rows.T) @ state["inverse"] @ rows) / float(state["damping"]))


def _inverse(matrix: Numpy) -> Numpy:
    """Of a symmetric positive matrix."""
    values, vectors = np.linalg.eigh(matrix)
    found: Numpy = (vectors * _reciprocal(values, 0.0)) @ vectors.T
    return found


@dataclass(frozen=True)
class _Iterative(InfluenceMethod):
    """Methods that multiply by the curvature, which the training samples are read for each time."""

    draws: int | None = None
    damping: float | None = None
    relative_damping: float = 0.1
    seed: int = 0

    def __post_init__(self) -> None:
        _check_draws(self.draws)
        _check_damping(self.damping, self.relative_damping)

    def _level(self, run: Runner, train: Samples) -> float:
        """λ, from the mean eigenvalue of H: its trace over the number of weights."""
        if self.damping is not None:
            return _damping(self.damping, 0.0, 0.0)
        begins = starts(run, self.seed, self.draws)
        trace = sum(float(run.lengths(train, start).sum()) for start in begins) / (len(train) * draws_of(begins))
        return _damping(None, self.relative_damping, trace / run.total)

    def _times(self, run: Runner, train: Samples | None, v: Numpy) -> Numpy:
        """H·v for each vector (K, P)."""
        assert train is not None
        begins = starts(run, self.seed, self.draws)
        size = max(1, int(2**28 // (8 * run.total)))
        parts = [
            _joined(run.curvature(train, _apart(run, v[first : first + size]), begins))
            for first in range(0, len(v), size)
        ]
        return np.concatenate(parts)


@dataclass(frozen=True)
class ConjugateGradient(_Iterative):
    """(H + λ)⁻¹·v by conjugate gradients (Martens 2010), each step of which reads the training samples once.

    preconditioner: an :class:`EKFAC`, with which a tenth of the steps do; None for none. tolerance: of the residual's
    length, relative to v's. steps: at most; not to get there is an error. draws: None differentiates every output,
    which makes H exact.
    """

    preconditioner: EKFAC | None = EKFAC()
    tolerance: float = 1e-4
    steps: int = 200
    name: ClassVar[str] = "conjugate_gradient"
    later: ClassVar[tuple[str, ...]] = ("damping", "tolerance", "steps")
    keeps_samples: ClassVar[bool] = True

    def fit(self, run: Runner, train: Samples) -> State:
        state = {"damping": np.array(self._level(run, train))}
        return state if self.preconditioner is None else {**state, **self.preconditioner.fit(run, train)}

    def _conditioned(self, run: Runner, state: State, v: Numpy) -> Numpy:
        if self.preconditioner is None:
            return v
        own = replace(self.preconditioner, damping=float(state["damping"]))
        return _joined(own.solve(run, state, _apart(run, v), None))

    def solve(self, run: Runner, state: State, vectors: Vectors, train: Samples | None) -> Vectors:
        b = _joined(vectors)
        damping = float(state["damping"])
        x = self._conditioned(run, state, b).copy()
        residual = b - self._times(run, train, x) - damping * x
        z = self._conditioned(run, state, residual)
        direction, product = z.copy(), (residual * z).sum(axis=1)
        length = np.sqrt((b * b).sum(axis=1)).clip(np.finfo(float).tiny)
        for _ in range(self.steps):
            left = np.sqrt((residual * residual).sum(axis=1)) / length
            active = left > self.tolerance
            if not active.any():
                return _apart(run, x)
            d = direction[active]
            image = self._times(run, train, d) + damping * d
            step = product[active] / (d * image).sum(axis=1)
            x[active] += step[:, None] * d
            residual[active] -= step[:, None] * image
            z = self._conditioned(run, state, residual[active])
            following = (residual[active] * z).sum(axis=1)
            direction[active] = z + (following / product[active])[:, None] * d
            product[active] = following
        left = np.sqrt((residual * residual).sum(axis=1)) / length
        if (left > self.tolerance).any():
            raise InputError(
                f"conjugate gradients are at {left.max():.1e} of the vector's length after {self.steps} steps; the "
                f"tolerance is {self.tolerance:.1e}. Give more steps=, more damping=, preconditioner=EKFAC(), or a "
                "model in float64 (dtype='float64'), if rounding is what stops it"
            )
        return _apart(run, x)


@dataclass(frozen=True)
class LiSSA(_Iterative):
    """The series v + (1 − (H + λ)/σ)·… with H of random samples (Agarwal, Bullins and Hazan 2017, section 3).

    depth: terms. samples: of each term. scale: σ, larger than the largest eigenvalue; None: 1.5 times what power
    iterations find. repeats: series that are averaged.
    """

    depth: int = 100
    samples: int = 256
    repeats: int = 1
    scale: float | None = None
    name: ClassVar[str] = "lissa"
    later: ClassVar[tuple[str, ...]] = ("damping", "scale", "depth", "samples", "repeats")
    keeps_samples: ClassVar[bool] = True

    def fit(self, run: Runner, train: Samples) -> State:
        damping = self._level(run, train)
        scale = self.scale
        if scale is None:
            scale = 1.5 * (_largest(lambda v: self._times(run, train, v), run.total, self.seed) + damping)
        return {"damping": np.array(damping), "scale": np.array(scale)}

    def solve(self, run: Runner, state: State, vectors: Vectors, train: Samples | None) -> Vectors:
        assert train is not None
        b, damping, scale = _joined(vectors), float(state["damping"]), float(state["scale"])
        total = np.zeros_like(b)
        size, largest = min(self.samples, len(train)), 10 * np.sqrt((b * b).sum(axis=1)).max()
        for repeat in range(self.repeats):
            random = np.random.default_rng([self.seed, repeat])
            x = b.copy()
            for depth in range(self.depth):
                chosen = random.choice(len(train), size, replace=False)
                part = train if size == len(train) else train.some(chosen.tolist())
                x = b + x - (self._times(run, part, x) + damping * x) / scale
                if not abs(x).max() <= largest * (depth + 2):  # a series that converges is at most as long as its terms
                    raise InputError(
                        f"the series grows without bound with scale={scale:.2e}: give a larger one, or more damping="
                    )
            total += x
        return _apart(run, total / (scale * self.repeats))


def _largest(times: Any, size: int, seed: int, steps: int = 12) -> float:
    """The largest eigenvalue, by power iterations."""
    v = np.random.default_rng(seed).standard_normal((1, size))
    value = 0.0
    for _ in range(steps):
        v /= np.sqrt((v * v).sum())
        image = times(v)
        value = float((v * image).sum())
        v = image
    return value


@dataclass(frozen=True)
class Nystroem(_Iterative):
    """A low-rank approximation from products with random vectors (Frangella, Tropp and Udell 2023, eq. 2.3).

    rank: of the approximation, and how many vectors are multiplied by H, once. The rest of the space has the
    eigenvalue λ.
    """

    rank: int = 64
    name: ClassVar[str] = "nystroem"
    later: ClassVar[tuple[str, ...]] = ("damping",)

    def __post_init__(self) -> None:
        super().__post_init__()
        _check_positive(self, self.damping, self.relative_damping)

    def fit(self, run: Runner, train: Samples) -> State:
        rank = min(self.rank, run.total)
        random = np.random.default_rng(self.seed)
        q, _ = np.linalg.qr(random.standard_normal((run.total, rank)))
        image = self._times(run, train, q.T).T
        inner = q.T @ image
        values, turns = np.linalg.eigh((inner + inner.T) / 2)
        kept = values > values.max() * ULP[run.dtype] * rank  # the others are rounding errors of the products
        u, s, _ = np.linalg.svd(image @ turns[:, kept] / np.sqrt(values[kept]), full_matrices=False)
        return {"vectors": u, "values": s**2, "damping": np.array(self._level(run, train))}

    def solve(self, run: Runner, state: State, vectors: Vectors, train: Samples | None) -> Vectors:
        v, u, damping = _joined(vectors), state["vectors"], float(state["damping"])
        inside = v @ u
        return _apart(run, (inside / (state["values"] + damping) - inside / damping) @ u.T + v / damping)


@dataclass(frozen=True)
class Arnoldi(_Iterative):
    """The inverse within the eigenvectors of the largest eigenvalues (Schioppa et al. 2022, section 3.2).

    They are found by Lanczos iterations with full orthogonalization. rank: how many are kept. steps: products with H.
    """

    rank: int = 64
    steps: int = 128
    name: ClassVar[str] = "arnoldi"
    later: ClassVar[tuple[str, ...]] = ("damping",)

    def fit(self, run: Runner, train: Samples) -> State:
        steps = min(self.steps, run.total)
        v = np.random.default_rng(self.seed).standard_normal(run.total)
        basis = np.zeros((steps, run.total))
        images = np.zeros((steps, run.total))
        count = 0
        scale = 0.0
        for step in range(steps):
            length = float(np.linalg.norm(v))
            if step and length <= 1e-10 * scale:
                break
            basis[step] = v / length
            count = step + 1
            images[step] = self._times(run, train, basis[step : step + 1])[0]
            scale = max(scale, float(np.linalg.norm(images[step])))
            v = images[step].copy()
            for _ in range(2):
                v -= basis[:count].T @ (basis[:count] @ v)
        inner = basis[:count] @ images[:count].T
        values, turns = np.linalg.eigh((inner + inner.T) / 2)
        kept = np.argsort(values)[::-1][: self.rank]
        return {
            "vectors": basis[:count].T @ turns[:, kept], "values": values[kept].clip(0),
            "damping": np.array(self._level(run, train)),
        }  # fmt: skip

    def solve(self, run: Runner, state: State, vectors: Vectors, train: Samples | None) -> Vectors:
        v, u = _joined(vectors), state["vectors"]
        return _apart(run, (v @ u * _reciprocal(state["values"], float(state["damping"]))) @ u.T)


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
        _check_damping(self.damping, self.relative_damping)
        _check_positive(self, self.damping, self.relative_damping)

    def fit(self, run: Runner, train: Samples) -> State:
        lengths = run.lengths(train)
        means = lengths.mean(axis=0) / np.array(run.entries)
        levels = np.array([_damping(self.damping, self.relative_damping, float(mean)) for mean in means])
        if self.damping is None:
            levels[means <= _noise(run.dtype) * means.max()] = np.inf
        return {"damping": levels}

    def solve(self, run: Runner, state: State, vectors: Vectors, train: Samples | None) -> Vectors:
        assert train is not None
        levels = state["damping"]
        pairs = zip(vectors, run.harmonic_sums(train, vectors, levels), levels, strict=True)
        return [(vector - part) / level for vector, part, level in pairs]


# --- without curvature -----------------------------------------------------------------------


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
        _check_damping(self.damping, self.relative_damping)
        if self.dimension < 1 or math.isqrt(self.dimension) ** 2 != self.dimension:
            raise InputError(f"dimension must be a square number, such as 1024; got {self.dimension}")

    def fit(self, run: Runner, train: Samples) -> State:
        phi = run.projections(train, self._sides(run))
        matrix = phi.T @ phi / len(train)
        damping = _damping(self.damping, self.relative_damping, float(np.trace(matrix)) / len(matrix))
        return {"inverse": _inverse(matrix + damping * np.eye(len(matrix)))}

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


#: The methods by name.
METHODS: dict[str, type[InfluenceMethod]] = {
    kind.name: kind
    for kind in (
        EKFAC, KFAC, GaussNewton, ConjugateGradient, Nystroem, Arnoldi, LiSSA, HarmonicMean, GradientSimilarity, TracIn,
        TRAK,
    )
}  # fmt: skip


def resolve(method: Any) -> InfluenceMethod:
    """The method by name or as a value.

    Raises
    ------
    UnknownNameError, InputError
    """
    if isinstance(method, InfluenceMethod):
        return method
    if isinstance(method, type) and issubclass(method, InfluenceMethod):
        return method()
    if isinstance(method, str):
        if method not in METHODS:
            raise UnknownNameError.among("method", method, METHODS)
        return METHODS[method]()
    raise InputError(f"method is a {type(method).__name__}; give one of {', '.join(METHODS)}, or a value of them")

"""The curvature of all weights together: its inverse, products with it, and what is known from these."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np
import psutil

from ...errors import InputError
from ...program.walk import ULP
from ...spec import Numpy
from ..running import Runner, Samples, Vectors, draws_of
from .base import InfluenceMethod, State, check_damping, check_draws, check_positive, inverse, level, reciprocal, starts
from .kronecker import EKFAC


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
        check_damping(self.damping, self.relative_damping)

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
        damping = level(self.damping, self.relative_damping, float((whole**2).sum()) / count / columns)
        if rows < columns and damping > 0:
            return {"rows": whole, "inverse": inverse(whole @ whole.T + count * damping * np.eye(rows)),
                    "damping": np.array(damping)}  # fmt: skip
        return {"inverse": inverse(whole.T @ whole / count + damping * np.eye(columns))}

    def solve(self, run: Runner, state: State, vectors: Vectors, train: Samples | None) -> Vectors:
        v = _joined(vectors)
        if "rows" not in state:
            return _apart(run, v @ state["inverse"])
        rows = state["rows"]
        return _apart(run, (v - (v @ rows.T) @ state["inverse"] @ rows) / float(state["damping"]))


@dataclass(frozen=True)
class _Iterative(InfluenceMethod):
    """Methods that multiply by the curvature, which the training samples are read for each time."""

    draws: int | None = None
    damping: float | None = None
    relative_damping: float = 0.1
    seed: int = 0

    def __post_init__(self) -> None:
        check_draws(self.draws)
        check_damping(self.damping, self.relative_damping)

    def _level(self, run: Runner, train: Samples) -> float:
        """λ, from the mean eigenvalue of H: its trace over the number of weights."""
        if self.damping is not None:
            return level(self.damping, 0.0, 0.0)
        begins = starts(run, self.seed, self.draws)
        trace = sum(float(run.lengths(train, start).sum()) for start in begins) / (len(train) * draws_of(begins))
        return level(None, self.relative_damping, trace / run.total)

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

    preconditioner: EKFAC | None = EKFAC()  # noqa: RUF009 - a frozen value
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
        check_positive(self, self.damping, self.relative_damping)

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
        return _apart(run, (v @ u * reciprocal(state["values"], float(state["damping"]))) @ u.T)

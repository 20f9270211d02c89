"""Weighted linear models of the output on coalitions of features: KernelSHAP and LIME."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from itertools import combinations, islice
from math import comb
from typing import Any, ClassVar

import numpy as np

from .. import random_numbers
from ..errors import InputError
from ..random_numbers import UInt64
from .base import Numpy, Shapes, at_least
from .groups import Groups, packed
from .removal import Coalitions, Design, Grouped, Sums, Units

__all__ = ["KernelShap", "Lime"]

MOST_CONDITION = 1e10  # of a matrix that is inverted as it is
LARGEST_KNOWN = 2**24  # bytes of the fits that a design keeps


class _Regression(Coalitions):
    """All rows of a sample are one unit; its coefficients come from one least-squares fit."""

    units = 1

    def __init__(self, shapes: Shapes, groups: Any) -> None:
        super().__init__(shapes, groups)
        self.packed = lru_cache(maxsize=64)(lambda seed: packed(self._present(seed)))

    @cached_property
    def _known(self) -> Callable[[bytes], Any]:
        """What :meth:`prepared` returns for coalitions, by their bits: calls with the same seed have the same."""

        def found(bits: bytes) -> Any:
            rows = np.frombuffer(bits, np.uint8).reshape(self.unit, -1)
            return self.prepared(np.unpackbits(rows, axis=1, count=self.features))

        each = 3 * 8 * self.rows_of_fit * (self.features + 1)  # bytes
        return lru_cache(maxsize=min(LARGEST_KNOWN // max(each, 1), 64))(found)

    @property
    def rows_of_fit(self) -> int:
        """The rows of the design matrix."""
        return self.unit

    def _present(self, seed: int) -> Numpy:
        """The coalitions of a sample with this seed, (S, G) booleans."""
        raise NotImplementedError

    def draw(self, number: Numpy, seeds: UInt64) -> Numpy:
        """The coalitions, (D, S, bytes), as bits."""
        return np.stack([self.packed(seed) for seed in seeds.tolist()])

    def rows(self, units: Units, row: Numpy) -> dict[str, Numpy]:
        if isinstance(self.groups, Groups) and not self.varies:
            return {"coalition": self._bits(units, row)}
        return super().rows(units, row)

    def kept(self, units: Units, row: Numpy) -> Numpy:
        return np.unpackbits(self._bits(units, row), axis=1, count=self.features).view(bool)

    def _bits(self, units: Units, row: Numpy) -> Numpy:
        bits: Numpy = units.drawn.reshape(-1, units.drawn.shape[-1]).take(row, axis=0)
        return bits

    def start(self, count: int, outputs: tuple[int, ...]) -> list[Numpy]:
        return [np.zeros((count, self.features, *outputs)) for _ in range(2)]

    def add(self, sums: Sums, units: Units, values: Numpy) -> None:
        outputs = values.shape[2:]
        for i, sample in enumerate(units.sample.tolist()):
            flat = values[i].reshape(self.unit, -1)
            ends = (sums.x[sample].reshape(1, -1), sums.b[sample].reshape(1, -1))
            coefficients, errors = self.fit(self._known(units.drawn[i].tobytes()), flat, *ends)
            sums.sums[0][sample] = coefficients.reshape(self.features, *outputs)
            sums.sums[1][sample] = errors.reshape(self.features, *outputs)

    def prepared(self, present: Numpy) -> Any:
        """The part of the fit that depends on the coalitions alone, for :meth:`fit`."""
        raise NotImplementedError

    def fit(self, known: Any, values: Numpy, x: Numpy, b: Numpy) -> tuple[Numpy, Numpy]:
        """Coefficients and standard errors, (G, C), from values (S, C) of coalitions, (1, C) of x and b.

        ``known``: from :meth:`prepared`.
        """
        raise NotImplementedError

    def finish(self, sums: Sums, units: Numpy, inputs: Sequence[Numpy]) -> tuple[list[Numpy], list[Numpy] | None]:
        return self.groups.spread(sums.sums[0]), self.groups.spread(sums.sums[1])


class LeastSquares:
    """argmin Σ w·(y − a·β)² + ridge·β², and how much β would vary if the rows were drawn again, for any y.

    The first ``fixed`` rows of a (S, P) are not drawn. ``paired``: each row is a pair (a, y₁), (−a, y₂) as one,
    (a, (y₁ − y₂)/2), which has the same β; a member has half its weight and leverage. ``combined`` (Q, P): return
    ``combined``·β instead. By the delta method: β varies as the sum of a⁺·w·(y − a·β) over independent draws, residuals
    corrected for leverage (MacKinnon and White 1985, HC2).
    """

    def __init__(
        self, a: Numpy, weights: Numpy, ridge: Numpy | float = 0.0, *,
        fixed: int = 0, paired: bool = False, combined: Numpy | None = None,
    ) -> None:  # fmt: skip
        self.weighted = a * weights[:, None]
        gram = self.weighted.T @ a
        gram.flat[:: len(gram) + 1] += ridge  # the diagonal
        self.inverse = _inverse(gram)
        self.fixed, self.combined, self.drawn = fixed, combined, a[fixed:]
        pull = self.drawn @ self.inverse
        leverage = np.einsum("sp,sp->s", pull, self.weighted[fixed:]) / (2 if paired else 1)
        self.scale = (weights[fixed:] / np.sqrt(np.maximum(1 - leverage, 1e-3)))[:, None]
        self.pull = pull if combined is None else pull @ combined.T

    def fit(self, y: Numpy) -> tuple[Numpy, Numpy]:
        """β (P, C) and its standard errors, for y (S, C); NaN where a single row is drawn, 0 where none is."""
        beta = self.inverse @ (self.weighted.T @ y)
        draws = len(self.drawn)
        combined = beta if self.combined is None else self.combined @ beta
        if draws < 2:
            return combined, np.full_like(combined, np.nan if draws else 0.0)
        push = (y[self.fixed :] - self.drawn @ beta) * self.scale
        variance = (self.pull * self.pull).T @ (push * push) - (self.pull.T @ push) ** 2 / draws
        return combined, np.sqrt(np.maximum(variance, 0.0) * draws / (draws - 1))


def _inverse(gram: Numpy) -> Numpy:
    """The inverse of a symmetric matrix, or the pseudo-inverse if it is nearly singular, at five times the cost."""
    try:
        inverse: Numpy = np.linalg.inv(gram)
        if abs(gram).sum(axis=0).max(initial=0.0) * abs(inverse).sum(axis=0).max(initial=0.0) < MOST_CONDITION:
            return inverse
    except np.linalg.LinAlgError:
        pass
    return np.linalg.pinv(gram, hermitian=True)


# --- KernelSHAP ------------------------------------------------------------------------------


@dataclass(frozen=True)
class KernelShap(Grouped):
    """Shapley values by weighted least squares over coalitions, with Σ attribution = s(x) − s(b) kept.

    min_φ Σ_S π(S)·(s(S) − s(b) − Σ_{i∈S} φ_i)², π(S) = (G−1)/(C(G,|S|)·|S|·(G−|S|)) (Lundberg and Lee 2017,
    theorem 2). Sizes of coalitions are enumerated from both ends as far as ``samples`` allows; the others
    are drawn by weight.

    Parameters
    ----------
    samples: coalitions for each sample, without the empty and the full one. From 2^G − 2 on, all are evaluated
        and the values are exact.
    paired: draw each coalition with its complement (Covert and Lee 2021, section 4.1).
    groups: as of FeatureAblation.
    """

    samples: int = 2048
    paired: bool = True
    groups: Any = field(default=None, compare=False)

    name: ClassVar[str] = "kernel_shap"
    effort: ClassVar[tuple[str, ...]] = ("samples", "paired")
    complete: ClassVar[bool] = True
    sampled: ClassVar[bool] = True

    def __post_init__(self) -> None:
        at_least("samples", self.samples, 2)

    def design(self, shapes: Shapes) -> Design:
        return _Kernel(shapes, self)


class _Kernel(_Regression):
    def __init__(self, shapes: Shapes, method: KernelShap) -> None:
        super().__init__(shapes, method.groups)
        self.samples, self.paired = method.samples, method.paired
        g = self.features
        budget = min(method.samples, max(2**g - 2, 0) if g < 60 else method.samples)
        budget -= budget % 2
        kernel = np.array([1 / (s * (g - s)) for s in range(1, g)])  # total weight of all coalitions of one size
        kernel = kernel / kernel.sum() if g > 1 else kernel
        whole: list[Numpy] = []
        weights: list[Numpy] = []
        left, rest = budget, kernel.copy()
        for size in range(1, g // 2 + 1):
            sizes = {size, g - size}
            number = sum(comb(g, s) for s in sizes)
            share = sum(rest[s - 1] for s in sizes) / rest.sum() if rest.sum() > 0 else 0.0
            if number > left * share * (1 + 1e-9):
                break
            members = np.zeros((number // 2, g), bool)  # one of each complementary pair
            for row, chosen in enumerate(islice(combinations(range(g), size), number // 2)):
                members[row, list(chosen)] = True
            whole.append(members)
            weights.append(np.full(len(members), kernel[size - 1] / comb(g, size)))
            rest[[s - 1 for s in sizes]] = 0.0
            left -= number
        self.whole = np.concatenate([np.zeros((0, g), bool), *whole])
        self.drawn = left if rest.sum() > 1e-12 else 0
        self.sizes = rest / rest.sum() if self.drawn else rest
        drawn = np.full(self.drawn // 2 if self.paired else self.drawn, rest.sum() / max(self.drawn, 1))
        self.weights = np.concatenate([*weights, *([] if self.paired else weights), drawn])
        self.unit = 2 * len(self.whole) + self.drawn
        self.units = 1 if self.unit else 0
        self.others = np.vstack([np.eye(max(g - 1, 0)), -np.ones(max(g - 1, 0))])  # from which all φ are computed

    def check_size(self) -> None:
        g = self.features
        if g > 1 and not len(self.whole) and self.drawn < g:
            raise InputError(f"KernelShap(samples={self.samples}) is too few for {g} features: give {2 * g} or more")

    def _present(self, seed: int) -> Numpy:
        """The enumerated sizes come first. ``paired``: the second half are the complements of the first."""
        g, draws = self.features, self.drawn // 2 if self.paired else self.drawn
        number = np.arange(draws)
        seeds = np.full(draws, seed, np.uint64)
        size = 1 + np.searchsorted(
            np.cumsum(self.sizes), random_numbers.unit(random_numbers.draw_keys(seeds, number, 1))
        )
        keys = random_numbers.priorities(random_numbers.draw_keys(seeds, number), g)
        bound = np.take_along_axis(np.sort(keys, axis=1), np.minimum(size, g - 1)[:, None] - 1, axis=1)
        chosen = keys <= bound
        if not self.paired:
            return np.concatenate([self.whole, ~self.whole, chosen])
        half = np.concatenate([self.whole, chosen])
        return np.concatenate([half, ~half])

    @property
    def rows_of_fit(self) -> int:
        return self.unit // 2 if self.paired else self.unit

    def prepared(self, present: Numpy) -> tuple[Numpy, LeastSquares]:
        z = present[: self.rows_of_fit].astype(np.float64)
        least = LeastSquares(
            z[:, :-1] - z[:, -1:], self.weights * (2 if self.paired else 1),
            fixed=len(self.whole) * (1 if self.paired else 2), paired=self.paired, combined=self.others,
        )  # fmt: skip
        return z[:, -1:].copy(), least

    def fit(self, known: tuple[Numpy, LeastSquares], values: Numpy, x: Numpy, b: Numpy) -> tuple[Numpy, Numpy]:
        last, least = known
        half = len(last)
        y = (values[:half] - values[half:] + (x - b)) / 2 if self.paired else values - b
        beta, errors = least.fit(y - last * (x - b))
        beta[-1] += (x - b)[0]
        return beta, errors

    def finish(self, sums: Sums, units: Numpy, inputs: Sequence[Numpy]) -> tuple[list[Numpy], list[Numpy] | None]:
        if self.features == 1:
            whole = (sums.x - sums.b)[:, None]
            return self.groups.spread(whole), self.groups.spread(np.zeros_like(whole))
        return super().finish(sums, units, inputs)


# --- LIME ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Lime(Grouped):
    """Coefficients of a weighted ridge regression of s on which features are kept (Ribeiro et al. 2016, eq. 2).

    Each feature is kept with probability ½. A coalition z weighs π(z) = exp(−D(z)²/σ²), where D is the cosine
    distance of z to all features kept, 1 − √(|z|/G).

    Parameters
    ----------
    samples: coalitions for each sample.
    kernel_width: σ.
    ridge: the penalty of squared coefficients; the intercept has none.
    groups: as of FeatureAblation.
    """

    samples: int = 1000
    kernel_width: float = 0.25
    ridge: float = 1.0
    groups: Any = field(default=None, compare=False)

    name: ClassVar[str] = "lime"
    effort: ClassVar[tuple[str, ...]] = ("samples",)
    sampled: ClassVar[bool] = True

    def __post_init__(self) -> None:
        at_least("samples", self.samples, 2)
        if not (self.kernel_width > 0 and np.isfinite(self.kernel_width)):
            raise InputError(f"kernel_width must be a number above 0; got {self.kernel_width!r}")
        if not (self.ridge >= 0 and np.isfinite(self.ridge)):
            raise InputError(f"ridge must be a number ≥ 0; got {self.ridge!r}")

    def design(self, shapes: Shapes) -> Design:
        return _Local(shapes, self)


class _Local(_Regression):
    def __init__(self, shapes: Shapes, method: Lime) -> None:
        super().__init__(shapes, method.groups)
        self.method = method
        self.unit = method.samples

    def _present(self, seed: int) -> Numpy:
        number = np.arange(self.unit)
        keys = random_numbers.priorities(
            random_numbers.draw_keys(np.full(self.unit, seed, np.uint64), number), self.features
        )
        kept: Numpy = (keys >> random_numbers.PRIORITY_BITS) & 1 == 1
        return kept

    def prepared(self, present: Numpy) -> LeastSquares:
        z = np.concatenate([np.ones((1, self.features)), np.zeros((1, self.features)), present])
        distance = 1 - np.sqrt(z.mean(axis=1))
        weights = np.exp(-((distance / self.method.kernel_width) ** 2))
        ridge = np.append(np.full(self.features, self.method.ridge), 0.0)
        return LeastSquares(np.column_stack([z, np.ones(len(z))]), weights, ridge, fixed=2)

    def fit(self, known: LeastSquares, values: Numpy, x: Numpy, b: Numpy) -> tuple[Numpy, Numpy]:
        beta, errors = known.fit(np.concatenate([x, b, values]))
        return beta[:-1], errors[:-1]

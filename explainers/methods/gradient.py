"""The gradient family: derivatives at the input, along a path, or around the input."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import ClassVar

import numpy as np
import numpy.typing as npt

from .. import random_numbers
from ..errors import InputError
from ..ops import Ops
from ..random_numbers import UInt64
from ..rules import DECONVNET, GUIDED_BACKPROP, ZERO, RuleSet
from .base import Array, Method, Numpy, Shapes, at_least, mean_and_error, one_of
from .multipliers import Multiplied

__all__ = [
    "Deconvnet", "Gradient", "GradientShap", "GuidedBackprop", "InputXGradient", "IntegratedGradients", "Saliency",
    "SmoothGrad", "Zero",
]  # fmt: skip


@dataclass(frozen=True)
class Gradient(Method):
    """∂s/∂x: the derivative of the explained scalar (Simonyan et al. 2014, eq. 3, with its sign)."""

    name: ClassVar[str] = "gradient"


@dataclass(frozen=True)
class Saliency(Method):
    """|∂s/∂x| (Simonyan, Vedaldi and Zisserman 2014, section 3.1)."""

    name: ClassVar[str] = "saliency"

    def contribute(
        self, ops: Ops, message: list[Array], x: list[Array], b: list[Array], args: Mapping[str, Array]
    ) -> list[Array]:
        return [abs(m) for m in message]


@dataclass(frozen=True)
class InputXGradient(Method):
    """x·∂s/∂x (Shrikumar et al. 2016, section 3.2)."""

    name: ClassVar[str] = "input_x_gradient"

    def contribute(
        self, ops: Ops, message: list[Array], x: list[Array], b: list[Array], args: Mapping[str, Array]
    ) -> list[Array]:
        return [m * value for m, value in zip(message, x, strict=True)]


@dataclass(frozen=True)
class GuidedBackprop(Method):
    """The derivative with ReLU passing m·[x>0]·[m>0] (Springenberg et al. 2015, section 3)."""

    name: ClassVar[str] = "guided_backprop"
    rules: ClassVar[RuleSet | None] = GUIDED_BACKPROP


@dataclass(frozen=True)
class Deconvnet(Method):
    """The derivative with ReLU passing m·[m>0] (Zeiler and Fergus 2014, section 2.1)."""

    name: ClassVar[str] = "deconvnet"
    rules: ClassVar[RuleSet | None] = DECONVNET


@dataclass(frozen=True)
class Zero(Method):
    """The derivative with that of every activation set to 0: a control that shows that rules take effect."""

    name: ClassVar[str] = "zero"
    rules: ClassVar[RuleSet | None] = ZERO


QUADRATURES = ("gauss_legendre", "midpoint", "trapezoid", "right", "left")


@lru_cache(maxsize=1024)
def quadrature_rule(quadrature: str, steps: int) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Nodes α and weights w on [0, 1], each of shape (steps,); Σw = 1."""
    k = np.arange(steps)
    if quadrature == "gauss_legendre":
        return _gauss_legendre(steps)
    if quadrature == "trapezoid":
        weights = np.full(steps, 1.0 / (steps - 1))
        weights[[0, -1]] /= 2
        return k / (steps - 1), weights
    offset = {"midpoint": 0.5, "right": 1.0, "left": 0.0}[quadrature]
    return (k + offset) / steps, np.full(steps, 1.0 / steps)


def _gauss_legendre(steps: int) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """On [0, 1], in O(steps²): Newton's method on the Legendre polynomial (Press et al. 2007, section 4.6.1)."""
    x = np.cos(np.pi * (np.arange(steps, 0, -1) - 0.25) / (steps + 0.5))
    for _ in range(4):  # three iterations are enough for double precision
        before, value = np.ones(steps), x
        for k in range(2, steps + 1):
            before, value = value, ((2 * k - 1) * x * value - (k - 1) * before) / k
        slope = steps * (x * value - before) / (x * x - 1)
        x = x - value / slope
    weights = 2 / ((1 - x * x) * slope * slope)
    return (x + 1) / 2, weights / weights.sum()


class Quadrature(Method, data=False):
    """A method that evaluates ``steps`` points between the baseline and the values that it moves.

    A subclass declares the fields ``steps`` and ``quadrature``.
    """

    steps: int
    quadrature: str
    baseline: ClassVar[str] = "point"
    single: ClassVar[bool] = False

    def __post_init__(self) -> None:
        one_of("quadrature", self.quadrature, QUADRATURES)
        at_least("steps", self.steps, 2 if self.quadrature == "trapezoid" else 1)

    def count(self, shapes: Shapes) -> int:
        return self.steps

    def placeholders(self, shapes: Shapes) -> dict[str, tuple[str, tuple[int, ...], str]]:
        return {"alpha": ("rows", (), "float"), "weight": ("rows", (), "float")}

    def rows(self, steps: Numpy, seeds: UInt64) -> dict[str, Numpy]:
        nodes, weights = quadrature_rule(self.quadrature, self.steps)
        return {"alpha": nodes[steps], "weight": weights[steps]}

    def endpoint(self, which: str) -> dict[str, float | int]:
        return {"alpha": 1.0 if which == "input" else 0.0, "weight": 0.0}

    def expand(self, ops: Ops, x: list[Array], b: list[Array], args: Mapping[str, Array]) -> list[Array]:
        return between(ops, x, b, args["alpha"])


@dataclass(frozen=True)
class IntegratedGradients(Quadrature, Multiplied):
    """(x−b)·Σ_k w_k ∇s(b+α_k(x−b)) (Sundararajan, Taly and Yan 2017, eq. 1 and section 5).

    Parameters
    ----------
    steps: number of gradient evaluations S per sample.
    quadrature: nodes and weights. ``"gauss_legendre"`` (default), ``"midpoint"``, ``"trapezoid"``,
        ``"right"`` (α=k/S, k=1…S), ``"left"``.
    tolerance: repeat with twice the steps until |Σa−Δs| ≤ tolerance·max(|Δs|, rounding of s), for
        each sample by itself; ``None`` takes ``steps`` as they are.
    max_steps: number of steps at which ``tolerance`` gives up, with NotConverged.
    multiply: False returns the mean gradient on the path, without the factor x−b.
    hypothetical: for one-hot sequences, what each letter would have contributed at each position:
        Σ g·(e−b) over the letters there, for the mean gradient g and every letter e.
    alphabet_axis: which axis of a sample are the letters: 0 or −1; ``None``: the shorter one.
    """

    steps: int = 50
    quadrature: str = "gauss_legendre"
    tolerance: float | None = None
    max_steps: int = 4096
    multiply: bool = True
    hypothetical: bool = False
    alphabet_axis: int | None = None

    later: ClassVar[frozenset[str]] = frozenset({"multiply", "hypothetical", "alphabet_axis"})

    name: ClassVar[str] = "integrated_gradients"
    effort: ClassVar[tuple[str, ...]] = ("steps", "quadrature", "tolerance", "max_steps")
    on_line: ClassVar[bool] = True
    complete: ClassVar[bool] = True

    def __post_init__(self) -> None:
        Quadrature.__post_init__(self)
        Multiplied.__post_init__(self)
        at_least("max_steps", self.max_steps, self.steps)
        if self.tolerance is not None and not self.tolerance > 0:
            raise InputError(f"tolerance must be above 0, or None; got {self.tolerance!r}")
        if self.tolerance is not None and (self.hypothetical or not self.multiply):
            raise InputError("tolerance= checks the sum of attributions: leave it out, and give steps=")

    @property
    def refines_to(self) -> float | None:
        return self.tolerance

    def refined(self) -> Method | None:
        more = self.steps * 2
        return replace(self, steps=more) if more <= self.max_steps else None

    def contribute(
        self, ops: Ops, message: list[Array], x: list[Array], b: list[Array], args: Mapping[str, Array]
    ) -> list[Array]:
        triples = zip(message, x, b, strict=True)
        return [ops.scale_rows(self.contribution(ops, m, value, base), args["weight"]) for m, value, base in triples]


def between(ops: Ops, x: list[Array], b: list[Array], alpha: Array) -> list[Array]:
    """b + α(x−b)."""
    return [ops.cast_like(base + ops.scale_rows(v - base, alpha), v) for v, base in zip(x, b, strict=True)]


@dataclass(frozen=True)
class SmoothGrad(Method):
    """Statistics of the gradient at x+ε, ε ~ N(0, (noise·(max x − min x))²) (Smilkov et al. 2017, section 3).

    Parameters
    ----------
    samples: number of noisy copies of each sample.
    noise: standard deviation as a fraction of the sample's own range.
    kind: ``"mean"`` of ∇s; ``"squared"``, mean of (∇s)² (Hooker et al. 2019); ``"variance"`` of ∇s
        (Adebayo et al. 2018).
    """

    samples: int = 50
    noise: float = 0.15
    kind: str = "mean"

    name: ClassVar[str] = "smoothgrad"
    effort: ClassVar[tuple[str, ...]] = ("samples",)
    single: ClassVar[bool] = False
    sampled: ClassVar[bool] = True
    accumulators: ClassVar[int] = 2

    def __post_init__(self) -> None:
        at_least("samples", self.samples, 2 if self.kind == "variance" else 1)
        one_of("kind", self.kind, ("mean", "squared", "variance"))
        if not (np.isfinite(self.noise) and self.noise >= 0):
            raise InputError(f"noise must be a number ≥ 0; got {self.noise!r}")

    def count(self, shapes: Shapes) -> int:
        return self.samples

    def placeholders(self, shapes: Shapes) -> dict[str, tuple[str, tuple[int, ...], str]]:
        return {"scale": ("rows", (), "float"), "key": ("rows", (2,), "int64")}

    def rows(self, steps: Numpy, seeds: UInt64) -> dict[str, Numpy]:
        return {
            "scale": np.full(len(steps), float(self.noise)),
            "key": random_numbers.halves(random_numbers.draw_keys(seeds, steps)),
        }

    def endpoint(self, which: str) -> dict[str, float | int]:
        return {"scale": 0.0, "key": 0}

    def expand(self, ops: Ops, x: list[Array], b: list[Array], args: Mapping[str, Array]) -> list[Array]:
        points = []
        first = 0
        for value in x:
            shape = ops.sample_shape(value)
            spread = ops.row_max(value) - ops.row_min(value)
            noise = ops.normal(random_numbers.uniform(ops, args["key"], shape, ops.wide(value), first))
            first += math.prod(shape)
            points.append(ops.cast_like(value + ops.scale_rows(noise, spread * args["scale"]), value))
        return points

    def contribute(
        self, ops: Ops, message: list[Array], x: list[Array], b: list[Array], args: Mapping[str, Array]
    ) -> list[Array]:
        wide = [ops.cast(m, "float64") for m in message]
        terms = [m * m for m in wide] if self.kind == "squared" else wide
        return [part for term in terms for part in (term, term * term)]

    def finish(self, sums: list[Numpy], count: int) -> tuple[Numpy, Numpy | None]:
        mean, error = mean_and_error(sums[0], sums[1], count)
        if self.kind == "variance":
            return np.maximum(sums[1] / count - mean * mean, 0.0), None
        return mean, error


@dataclass(frozen=True)
class GradientShap(Multiplied):
    """Mean of (x−r)·∇s(r+α(x−r)) over references r and α ~ U(0,1).

    Expected gradients (Erion et al. 2021, eq. 3); an unbiased estimate of the path integral from
    the references. ``samples``: draws per sample. Give ``baseline=References(array)``. ``multiply``,
    ``hypothetical`` and ``alphabet_axis``: as for :class:`IntegratedGradients`.
    """

    samples: int = 50
    multiply: bool = True
    hypothetical: bool = False
    alphabet_axis: int | None = None

    later: ClassVar[frozenset[str]] = frozenset({"multiply", "hypothetical", "alphabet_axis"})

    name: ClassVar[str] = "gradient_shap"
    effort: ClassVar[tuple[str, ...]] = ("samples",)
    baseline: ClassVar[str] = "references"
    single: ClassVar[bool] = False
    complete: ClassVar[bool] = False
    sampled: ClassVar[bool] = True
    accumulators: ClassVar[int] = 2

    def __post_init__(self) -> None:
        at_least("samples", self.samples, 1)
        super().__post_init__()

    def count(self, shapes: Shapes) -> int:
        return self.samples

    def placeholders(self, shapes: Shapes) -> dict[str, tuple[str, tuple[int, ...], str]]:
        return {"alpha": ("rows", (), "float")}

    def rows(self, steps: Numpy, seeds: UInt64) -> dict[str, Numpy]:
        return {"alpha": random_numbers.unit(random_numbers.draw_keys(seeds, steps, 0))}

    def references(self, steps: Numpy, seeds: UInt64, count: int) -> Numpy:
        return (random_numbers.unit(random_numbers.draw_keys(seeds, steps, 1)) * count).astype(np.int64)

    def endpoint(self, which: str) -> dict[str, float | int]:
        return {"alpha": 1.0 if which == "input" else 0.0}

    def expand(self, ops: Ops, x: list[Array], b: list[Array], args: Mapping[str, Array]) -> list[Array]:
        return between(ops, x, b, args["alpha"])

    def contribute(
        self, ops: Ops, message: list[Array], x: list[Array], b: list[Array], args: Mapping[str, Array]
    ) -> list[Array]:
        triples = zip(message, x, b, strict=True)
        terms = [ops.cast(self.contribution(ops, m, value, base), "float64") for m, value, base in triples]
        return [part for term in terms for part in (term, term * term)]

    def finish(self, sums: list[Numpy], count: int) -> tuple[Numpy, Numpy | None]:
        return mean_and_error(sums[0], sums[1], count)

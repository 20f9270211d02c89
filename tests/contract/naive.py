"""Every method again, slowly: one row at a time, in plain loops, from SEMANTICS.md.

A ``Reference`` (see reference_torch.py, reference_tensorflow.py) evaluates and differentiates the
model by the framework's own means; everything here is plain Python over it. Nothing is imported
from the library.
"""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np
from scipy.special import erfinv

Arrays = list[np.ndarray]
GOLDEN = 0x9E3779B97F4A7C15
MASK32, MASK64 = 2**32 - 1, 2**64 - 1


class Reference(Protocol):
    def points(self, inputs: Arrays) -> Arrays:
        """The attributed values for these inputs: floating inputs, or a layer's output."""

    def output(self, points: Arrays, inputs: Arrays) -> np.ndarray:
        """f, with the attributed values in the place of what the inputs give."""

    def gradient(self, points: Arrays, inputs: Arrays, mask: np.ndarray, rule: str) -> Arrays:
        """∂Σ(mask·f)/∂points; ``rule``: ``gradient``, ``guided_backprop`` or ``deconvnet``."""


# --- random numbers by counter, one at a time ------------------------------------------------


def mix64(z: int) -> int:
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & MASK64
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & MASK64
    return z ^ (z >> 31)


def sample_seed(seed: Any, sample: int) -> int:
    """An int seeds (seed, sample); a list gives each sample its own, drawing as it does alone."""
    if isinstance(seed, (list, tuple)):
        return mix64(mix64((seed[sample] + GOLDEN) & MASK64))
    return mix64((mix64((seed + GOLDEN) & MASK64) + sample) & MASK64)


def draw_key(seed: int, draw: int, stream: int = 0) -> int:
    return mix64((mix64((seed + (draw + 1) * GOLDEN) & MASK64) + stream) & MASK64)


def unit(key: int) -> float:
    return ((key >> 12) + 0.5) * 2.0**-52


def mix32(h: int) -> int:
    h = ((h ^ (h >> 16)) * 0x21F0AAAD) & MASK32
    h = ((h ^ (h >> 15)) * 0x735A2D97) & MASK32
    return h ^ (h >> 15)


def uniform(key: int, element: int) -> float:
    """The number of one element under one key: 23 bits, in (0, 1)."""
    h = mix32(((element * 0x9E3779B1) + (key >> 32)) & MASK32)
    h = mix32((h + (key & MASK32)) & MASK32)
    return ((h >> 9) + 0.5) * 2.0**-23


def normals(key: int, shape: tuple[int, ...], first: int) -> np.ndarray:
    count = int(np.prod(shape))
    numbers = np.array([uniform(key, first + element) for element in range(count)])
    return (np.sqrt(2) * erfinv(2 * numbers - 1)).reshape(shape)


# --- targets ---------------------------------------------------------------------------------


def mask_of(target: Any, outputs: np.ndarray) -> np.ndarray:
    """The weights w of s = Σ w·f for every sample."""
    mask = np.zeros_like(outputs, np.float64)
    for sample, row in enumerate(outputs):
        if target is None:
            mask[sample] = 1
        elif isinstance(target, str):
            mask[sample].flat[int(np.argmax(row))] = 1
        elif isinstance(target, (int, tuple)):
            mask[sample][target] = 1
        elif isinstance(target, list):
            mask[sample][target[sample]] = 1
        else:
            mask[sample] = target if target.shape == row.shape else target[sample]
    return mask


# --- methods ---------------------------------------------------------------------------------


def quadrature(kind: str, steps: int) -> list[tuple[float, float]]:
    """(α, weight) pairs on [0, 1]."""
    if kind == "gauss_legendre":
        roots, weights = np.polynomial.legendre.leggauss(steps)
        return [((r + 1) / 2, w / 2) for r, w in zip(roots, weights, strict=True)]
    if kind == "trapezoid":
        ends = (0, steps - 1)
        return [(k / (steps - 1), (0.5 if k in ends else 1.0) / (steps - 1)) for k in range(steps)]
    shift = {"left": 0.0, "midpoint": 0.5, "right": 1.0}[kind]
    return [((k + shift) / steps, 1 / steps) for k in range(steps)]


class Naive:
    """One sample of one case: attributed values x, their baselines b, and the mask of the target."""

    def __init__(self, reference: Reference, inputs: Arrays, x: Arrays, b: Arrays, mask: np.ndarray) -> None:
        self.reference, self.inputs, self.x, self.b, self.mask = reference, inputs, x, b, mask

    def slope(self, points: Arrays, rule: str = "gradient") -> Arrays:
        points = [p.astype(x.dtype) for p, x in zip(points, self.x, strict=True)]
        wide = self.reference.gradient(points, self.inputs, self.mask, rule)
        return [part.astype(np.float64) for part in wide]

    def value(self, points: Arrays) -> float:
        points = [p.astype(x.dtype) for p, x in zip(points, self.x, strict=True)]
        return float((self.reference.output(points, self.inputs).astype(np.float64) * self.mask).sum())

    def gradient(self) -> Arrays:
        return self.slope(self.x)

    def saliency(self) -> Arrays:
        return [abs(g) for g in self.slope(self.x)]

    def input_x_gradient(self) -> Arrays:
        return [x * g for x, g in zip(self.x, self.slope(self.x), strict=True)]

    def guided_backprop(self) -> Arrays:
        return self.slope(self.x, "guided_backprop")

    def deconvnet(self) -> Arrays:
        return self.slope(self.x, "deconvnet")

    def integrated_gradients(self, steps: int, kind: str) -> Arrays:
        total = [np.zeros(x.shape) for x in self.x]
        for alpha, weight in quadrature(kind, steps):
            points = [b + alpha * (x - b) for x, b in zip(self.x, self.b, strict=True)]
            for i, g in enumerate(self.slope(points)):
                total[i] += weight * g
        return [(x - b) * t for x, b, t in zip(self.x, self.b, total, strict=True)]

    def smoothgrad(self, samples: int, noise: float, kind: str, seed: int) -> Arrays:
        draws: list[Arrays] = []
        for draw in range(samples):
            points, first = [], 0
            for x in self.x:
                spread = noise * (x.max() - x.min())
                points.append(x + spread * normals(draw_key(seed, draw), x.shape, first))
                first += x.size
            draws.append(self.slope(points))
        columns = [np.stack(parts) for parts in zip(*draws, strict=True)]
        if kind == "squared":
            return [(c**2).mean(0) for c in columns]
        return [c.var(0) if kind == "variance" else c.mean(0) for c in columns]

    def gradient_shap(self, samples: int, references: Arrays, seed: int) -> Arrays:
        total = [np.zeros(x.shape) for x in self.x]
        count = len(references[0])
        for draw in range(samples):
            alpha = unit(draw_key(seed, draw, 0))
            chosen = int(unit(draw_key(seed, draw, 1)) * count)
            r = [table[chosen][None] for table in references]
            points = [base + alpha * (x - base) for x, base in zip(self.x, r, strict=True)]
            for i, g in enumerate(self.slope(points)):
                total[i] += (self.x[i] - r[i]) * g / samples
        return total

    def feature_ablation(self, groups: Arrays | None) -> Arrays:
        maps = groups or numbered(self.x)
        whole = self.value(self.x)
        result = [np.zeros(x.shape) for x in self.x]
        for feature in sorted({int(i) for m in maps for i in m.ravel()}):
            points = [x.copy() for x in self.x]
            for place, m in enumerate(maps):
                points[place][:, m == feature] = self.b[place][:, m == feature]
            effect = whole - self.value(points)
            for place, m in enumerate(maps):
                result[place][:, m == feature] = effect
        return result


def numbered(x: Arrays) -> Arrays:
    """Every element its own feature."""
    maps, first = [], 0
    for array in x:
        size = array[0].size
        maps.append(np.arange(first, first + size).reshape(array.shape[1:]))
        first += size
    return maps


def one_row(arrays: Arrays, sample: int) -> Arrays:
    return [array[sample : sample + 1] for array in arrays]

"""The forward-only methods again: one sample, one row, one feature at a time.

``value(points)`` is s of one sample; ``x`` and ``b`` are its attributed inputs and their baselines, each with
a batch axis of 1.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from math import factorial, gcd
from typing import Any

import numpy as np

from explainers import methods

from .naive import GOLDEN, MASK64, Arrays, draw_key, mix64, unit

Value = Callable[[Arrays], float]


def kept(x: Arrays, b: Arrays, maps: Arrays, features: Any) -> Arrays:
    """x where an element's feature is among ``features``, else b."""
    return [np.where(np.isin(m, list(features))[None], v, base) for v, base, m in zip(x, b, maps, strict=True)]


def count(maps: Arrays) -> int:
    return 1 + max(int(m.max()) for m in maps)


def spread(effects: np.ndarray, maps: Arrays) -> Arrays:
    return [effects[m][None] for m in maps]


# --- occlusion -------------------------------------------------------------------------------


def windows(shape: tuple[int, ...], window: int, stride: int) -> Iterator[tuple[slice, ...]]:
    """Where each window lies: along an axis from 0 in steps until one reaches the end."""
    axes = []
    for size in shape:
        width, step = min(window, size), min(stride, window, size)
        starts = [0]
        while starts[-1] + width < size:
            starts.append(starts[-1] + step)
        axes.append([slice(start, min(start + width, size)) for start in starts])
    return itertools.product(*axes)


def occlusion(value: Value, x: Arrays, b: Arrays, window: int, stride: int, aggregate: str) -> Arrays:
    whole, results = value(x), []
    for i, array in enumerate(x):
        total, covering = np.zeros(array.shape), np.zeros(array.shape)
        for where in windows(array.shape[1:], window, stride):
            points = [v.copy() for v in x]
            points[i][(0, *where)] = b[i][(0, *where)]
            total[(0, *where)] += whole - value(points)
            covering[(0, *where)] += 1
        if aggregate != "sum":
            total /= covering
        if aggregate == "mean_per_element":
            total /= np.prod([min(window, size) for size in array.shape[1:]])
        results.append(total)
    return results


# --- feature permutation -----------------------------------------------------------------------


def feature_permutation(value: Value, x: Arrays, sets: Arrays, maps: Arrays, repeats: int, seed: int) -> Arrays:
    """``sets``: the background, a row for each other sample."""
    whole, background = value(x), len(sets[0])
    coprime = [step for step in range(1, background + 1) if gcd(step, background) == 1]
    effects = np.zeros(count(maps))
    for feature in range(count(maps)):
        first = int(unit(draw_key(seed, feature)) * background)
        step = coprime[int(unit(draw_key(seed, feature, 1)) * len(coprime))]
        others = [i for i in range(count(maps)) if i != feature]
        for repeat in range(repeats):
            other = [array[(first + repeat * step) % background][None] for array in sets]
            effects[feature] += (whole - value(kept(x, other, maps, others))) / repeats
    return spread(effects, maps)


# --- Shapley values --------------------------------------------------------------------------


def order(seed: int, draw: int, features: int) -> list[int]:
    """The features in the order in which they join."""
    key = draw_key(seed, draw)

    def priority(item: int) -> tuple[int, int]:
        return mix64((key + (item + 1) * GOLDEN) & MASK64) >> 25, item

    return sorted(range(features), key=priority)


def shapley_sampling(
    value: Value, x: Arrays, b: Arrays, maps: Arrays, permutations: int, antithetic: bool, seed: int
) -> tuple[Arrays, Arrays]:
    """Attributions and standard errors."""
    features = count(maps)
    draws = []
    for draw in range(-(-permutations // (2 if antithetic else 1))):
        one = order(seed, draw, features)
        orders = [one, one[::-1]] if antithetic else [one]
        shares = np.zeros(features)
        for joining in orders:
            for place, feature in enumerate(joining):
                after = value(kept(x, b, maps, joining[: place + 1]))
                shares[feature] += (after - value(kept(x, b, maps, joining[:place]))) / len(orders)
        draws.append(shares)
    found = np.array(draws)
    error = found.std(axis=0, ddof=1) / len(found) ** 0.5 if len(found) > 1 else np.full(features, np.nan)
    return spread(found.mean(axis=0), maps), spread(error, maps)


def exact_shapley(value: Value, x: Arrays, b: Arrays, maps: Arrays) -> Arrays:
    features = count(maps)
    result = np.zeros(features)
    for feature in range(features):
        others = [other for other in range(features) if other != feature]
        for size in range(features):
            weight = factorial(size) * factorial(features - size - 1) / factorial(features)
            for coalition in itertools.combinations(others, size):
                joined = value(kept(x, b, maps, (*coalition, feature)))
                result[feature] += weight * (joined - value(kept(x, b, maps, coalition)))
    return spread(result, maps)


# --- linear surrogates -----------------------------------------------------------------------


def kernel_shap(value: Value, x: Arrays, b: Arrays, maps: Arrays) -> Arrays:
    """Over all coalitions, the constraint kept by weights that are next to infinite."""
    features = count(maps)
    rows, values, weights = [], [], []
    for bits in itertools.product([0, 1], repeat=features):
        size = sum(bits)
        rows.append(bits)
        values.append(value(kept(x, b, maps, np.flatnonzero(bits))) - value(b))
        ways = factorial(features) / factorial(size) / factorial(features - size)
        weights.append((features - 1) / (ways * size * (features - size)) if 0 < size < features else 1e9)
    root = np.sqrt(np.array(weights))
    solved = np.linalg.lstsq(np.array(rows, float) * root[:, None], np.array(values) * root, rcond=None)[0]
    return spread(solved, maps)


def lime(
    value: Value, x: Arrays, b: Arrays, maps: Arrays, samples: int, width: float, ridge: float, seed: int
) -> Arrays:
    features = count(maps)
    rows = [list(range(features)), []]
    for draw in range(samples):
        key = draw_key(seed, draw)
        bits = [mix64((key + (item + 1) * GOLDEN) & MASK64) >> 25 & 1 for item in range(features)]
        rows.append([item for item in range(features) if bits[item]])
    a = np.array([[*(float(item in row) for item in range(features)), 1.0] for row in rows])
    y = np.array([value(kept(x, b, maps, row)) for row in rows])
    weights = np.array([np.exp(-((1 - (len(row) / features) ** 0.5) ** 2) / width**2) for row in rows])
    penalty = ridge * np.diag([*[1.0] * features, 0.0])
    solved = np.linalg.solve(a.T @ (weights[:, None] * a) + penalty, a.T @ (weights * y))
    return spread(solved[:-1], maps)


# --- masks and substitutions -----------------------------------------------------------------


def rise(
    value: Value, x: np.ndarray, b: np.ndarray, samples: int, grid: int, p: float, seed: int, uniforms: Any
) -> np.ndarray:
    """One input (1, rows, columns), both masked. ``uniforms(key, shape)``: the grid's uniform numbers."""
    total = np.zeros(x.shape)
    cells = [min(grid, size) for size in x.shape[1:]]
    for draw in range(samples):
        key = draw_key(seed, draw)
        bits = (uniforms(key, tuple(c + 2 for c in cells)) < p).astype(float)
        mask = np.zeros(x.shape[1:])
        places = []
        for axis, size in enumerate(x.shape[1:]):
            shift = unit(draw_key(seed, draw, 1 + axis))
            places.append([(element + 0.5) * cells[axis] / size + shift for element in range(size)])
        for i, row in enumerate(places[0]):
            for j, column in enumerate(places[1]):
                r, c = int(row), int(column)
                for dr in (0, 1):
                    for dc in (0, 1):
                        share = (1 - abs(row - r - dr)) * (1 - abs(column - c - dc))
                        mask[i, j] += share * bits[r + dr, c + dc]
        total += value([x * mask + b * (1 - mask)]) * mask / p / samples
    return total


def ism(value: Value, x: np.ndarray) -> np.ndarray:
    """One input (1, letters, positions)."""
    result = np.zeros(x.shape)
    for letter, position in itertools.product(*map(range, x.shape[1:])):
        changed = x.copy()
        changed[0, :, position] = np.eye(x.shape[1])[letter]
        result[0, letter, position] = value([changed]) - value([x])
    return result


# --- which method each is the twin of ----------------------------------------------------------

# a method with these groups; and its twin, of (value, x, b, maps, seed)
TWINS: dict[str, tuple[Callable[[np.ndarray], methods.Method], Callable[..., Arrays]]] = {
    "exact_shapley": (methods.ExactShapley, lambda *a: exact_shapley(*a[:4])),
    "kernel_shap": (lambda groups: methods.KernelShap(groups=groups), lambda *a: exact_shapley(*a[:4])),
    "shapley_sampling": (
        lambda groups: methods.ShapleySampling(5, groups=groups),
        lambda *a: shapley_sampling(*a[:4], 5, True, a[4])[0],
    ),
    "shapley_sampling-plain": (
        lambda groups: methods.ShapleySampling(5, antithetic=False, groups=groups),
        lambda *a: shapley_sampling(*a[:4], 5, False, a[4])[0],
    ),
    "lime": (
        lambda groups: methods.Lime(40, kernel_width=0.5, ridge=0.3, groups=groups),
        lambda *a: lime(*a[:4], 40, 0.5, 0.3, a[4]),
    ),
}

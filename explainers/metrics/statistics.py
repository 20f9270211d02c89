"""Intervals and tests for scores of samples. NaN scores are left out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import product
from statistics import NormalDist
from typing import NamedTuple

import numpy as np

from ..spec import Numpy

RESAMPLES = 2000
FLIPS = 10_000  # random signs in a test
EXACT = 13  # samples up to which every choice of signs is tried
BLOCK = 2**22  # numbers of a block of resamples


class Interval(NamedTuple):
    """A mean with the ends of its confidence interval; NaN where it cannot be given."""

    mean: float
    low: float
    high: float


def interval(scores: Numpy, generator: np.random.Generator, level: float = 0.95) -> Interval:
    """The mean of scores (N,) with its bootstrap-t interval; of scores that are all 0 or 1, with Wilson's interval.

    Efron and Tibshirani 1993, "An Introduction to the Bootstrap", section 12.5: the quantiles of (m* − m)/e*, with the
    mean m* of N scores drawn with replacement and its standard error e*, take the place of those of Student's t. Where
    many scores are equal, resamples may have no spread; e of all scores is taken for e* there. Equal scores other than
    0 and 1 have an interval of length 0. Wilson 1927, "Probable inference, the law of succession, and statistical
    inference".
    """
    known = scores[np.isfinite(scores)]
    count = len(known)
    if not count:
        return Interval(np.nan, np.nan, np.nan)
    mean = float(known.mean())
    if count == 1:
        return Interval(mean, np.nan, np.nan)
    if np.isin(known, (0.0, 1.0)).all():
        return _wilson(mean, count, level)
    error = known.std(ddof=1) / np.sqrt(count)
    if error <= np.finfo(np.float64).eps * abs(mean):
        return Interval(mean, mean, mean)
    ratios = []
    for index in _draws(count, RESAMPLES, generator):
        drawn = known[index]
        spread = drawn.std(axis=1, ddof=1) / np.sqrt(count)
        ratios.append((drawn.mean(axis=1) - mean) / np.where(spread > 1e-9 * error, spread, error))
    low, high = np.quantile(np.concatenate(ratios), [(1 - level) / 2, (1 + level) / 2])
    return Interval(mean, mean - float(high) * error, mean - float(low) * error)


def _wilson(share: float, count: int, level: float) -> Interval:
    z = NormalDist().inv_cdf((1 + level) / 2)
    middle = (share + z**2 / (2 * count)) / (1 + z**2 / count)
    half = z / (1 + z**2 / count) * np.sqrt(share * (1 - share) / count + z**2 / (4 * count**2))
    return Interval(share, max(0.0, middle - float(half)), min(1.0, middle + float(half)))


def best(scores: Mapping[str, Numpy], higher: bool, generator: np.random.Generator) -> dict[str, float]:
    """For each of several methods, the share of resamples of the samples in which its mean is the best.

    scores: (N,) each, of the same samples; only samples that all methods have a score for count. Methods that are best
    together share the resample.
    """
    table = np.stack(list(scores.values()))
    table = table[:, np.isfinite(table).all(axis=0)]
    if not table.shape[1]:
        return dict.fromkeys(scores, np.nan)
    table = table if higher else -table
    wins = np.zeros(len(table))
    for index in _draws(table.shape[1], RESAMPLES, generator):
        means = table[:, index].mean(axis=2)
        first = means >= means.max(axis=0) - 1e-12 * np.abs(table).max()
        wins += (first / first.sum(axis=0)).sum(axis=1)
    return dict(zip(scores, (wins / RESAMPLES).tolist(), strict=True))


def _draws(count: int, draws: int, generator: np.random.Generator) -> Sequence[Numpy]:
    """Positions (d, count) drawn with replacement, in blocks, ``draws`` in all."""
    size = max(1, BLOCK // max(count, 1))
    sizes = [min(size, draws - start) for start in range(0, draws, size)]
    return [generator.integers(0, count, (n, count)) for n in sizes]


def sign_flip(first: Numpy, second: Numpy, generator: np.random.Generator) -> float:
    """The two-sided p-value of the mean difference of paired scores, under random signs of the differences.

    Fisher's randomization test: every choice of signs for up to 13 samples, else 10,000 random ones, with the observed
    one counted among them (Phipson and Smyth 2010). NaN where fewer than two pairs are known.
    """
    difference = (first - second)[np.isfinite(first) & np.isfinite(second)]
    count = len(difference)
    if count < 2:
        return float("nan")
    scale = np.abs(difference).max()
    if scale == 0:
        return 1.0
    difference = difference / scale
    seen = abs(difference.sum()) * (1 - 1e-12)
    if count <= EXACT:
        signs = np.array(list(product((1, -1), repeat=count)))
        return float((np.abs(signs @ difference) >= seen).mean())
    larger = 0
    size = max(1, BLOCK // count)
    for start in range(0, FLIPS, size):
        signs = generator.integers(0, 2, (min(size, FLIPS - start), count)) * 2 - 1
        larger += int((np.abs(signs @ difference) >= seen).sum())
    return (larger + 1) / (FLIPS + 1)


def holm(values: Sequence[float]) -> list[float]:
    """p-values of a family of tests, adjusted so that any false alarm among them is as rare as the level.

    Holm 1979, "A simple sequentially rejective multiple test procedure". NaN stays NaN, and counts for nothing.
    """
    given = np.asarray(values, float)
    result = np.full(len(given), np.nan)
    known = np.flatnonzero(np.isfinite(given))
    order = known[np.argsort(given[known], kind="stable")]
    steps = given[order] * np.arange(len(order), 0, -1)
    result[order] = np.minimum(np.maximum.accumulate(steps) if len(steps) else steps, 1.0)
    return [float(p) for p in result]


def pearson(a: Numpy, b: Numpy) -> Numpy:
    """The correlation of each row of ``a`` with that of ``b``, (N,); NaN where one of them is constant."""
    a, b = _centred(a), _centred(b)
    found: Numpy = np.where(_flat(a) | _flat(b), np.nan, (_unit(a) * _unit(b)).sum(axis=1).clip(-1, 1))
    return found


def spearman(a: Numpy, b: Numpy) -> Numpy:
    """The rank correlation of each row, (N,), with mean ranks for ties; NaN where one of them is constant."""
    return pearson(ranks(a), ranks(b))


def ranks(array: Numpy) -> Numpy:
    """The rank of each entry in its row, (N, K), from 0; equal entries share the mean of their ranks."""
    order = array.argsort(axis=1, kind="stable")
    ascending = np.take_along_axis(array, order, axis=1)
    new = np.ones(array.shape, bool)
    new[:, 1:] = ascending[:, 1:] != ascending[:, :-1]
    place = np.arange(array.shape[1])
    first = np.maximum.accumulate(np.where(new, place, 0), axis=1)
    last_of_new = np.where(np.roll(new, -1, axis=1), place, array.shape[1])
    last_of_new[:, -1:] = array.shape[1] - 1
    last = np.minimum.accumulate(last_of_new[:, ::-1], axis=1)[:, ::-1]
    result = np.empty(array.shape)
    np.put_along_axis(result, order, (first + last) / 2, axis=1)
    return result


def _centred(array: Numpy) -> Numpy:
    """Rows divided by their largest entry, minus their mean."""
    largest = np.abs(array).max(axis=1, keepdims=True, initial=0.0)
    scaled = array / np.where(largest > 0, largest, 1.0)
    centred: Numpy = scaled - scaled.mean(axis=1, keepdims=True)
    return centred


def _flat(centred: Numpy) -> Numpy:
    flat: Numpy = np.abs(centred).max(axis=1, initial=0.0) <= 1e-12
    return flat


def _unit(centred: Numpy) -> Numpy:
    length = np.sqrt((centred**2).sum(axis=1, keepdims=True))
    unit: Numpy = centred / np.where(length > 0, length, 1.0)
    return unit

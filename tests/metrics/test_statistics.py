"""Intervals, tests and correlations of scores."""

from __future__ import annotations

from itertools import product
from typing import Any

import numpy as np
import pytest
from scipy import stats
from sklearn.metrics import roc_auc_score

from explainers.metrics import statistics


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


@pytest.mark.parametrize("kind", ["standard_normal", "standard_exponential", "random"])
@pytest.mark.parametrize("count", [12, 40])
def test_intervals_cover_the_mean(kind: str, count: int) -> None:
    mean = {"standard_normal": 0.0, "standard_exponential": 1.0, "random": 0.5}[kind]
    covered = 0
    for seed in range(500):
        scores = getattr(rng(seed), kind)(count)
        found = statistics.interval(scores, rng(seed + 10_000))
        covered += found.low <= mean <= found.high
    assert 0.92 <= covered / 500 <= 0.985


@pytest.mark.parametrize("share", [0.5, 0.9])
@pytest.mark.parametrize("count", [20, 60])
def test_intervals_cover_shares(share: float, count: int) -> None:
    covered = 0
    for seed in range(500):
        found = statistics.interval((rng(seed).random(count) < share).astype(float), rng(seed))
        covered += found.low <= share <= found.high
    assert 0.92 <= covered / 500 <= 0.985


def test_intervals_of_shares_agree_with_scipy() -> None:
    for hits, count in ((0, 8), (1, 20), (19, 20), (20, 20)):
        found = statistics.interval(np.arange(count) < hits, rng())
        wanted = stats.binomtest(hits, count).proportion_ci(method="wilson")
        np.testing.assert_allclose(found, (hits / count, wanted.low, wanted.high), atol=1e-12)


@pytest.mark.parametrize("count", [15, 40])
def test_intervals_cover_the_mean_of_scores_that_are_often_equal(count: int) -> None:
    covered = 0
    for seed in range(500):
        scores = rng(seed).choice([0.2, 0.4, 1.0], count, p=[0.2, 0.3, 0.5])
        found = statistics.interval(scores, rng(seed))
        covered += found.low <= 0.66 <= found.high
    assert 0.92 <= covered / 500 <= 0.985


def test_intervals_of_few_or_equal_scores() -> None:
    assert statistics.interval(np.full(5, 0.3), rng()) == (0.3, 0.3, 0.3)
    one = statistics.interval(np.array([2.0]), rng())
    assert one.mean == 2.0
    assert np.isnan(one.low)
    assert np.isnan(one.high)
    assert np.isnan(statistics.interval(np.array([np.nan, np.nan]), rng()).mean)
    known = np.array([1.0, np.nan, 3.0, 2.0, np.nan])
    assert statistics.interval(known, rng()) == statistics.interval(known[[0, 2, 3]], rng())
    two = statistics.interval(np.array([0.0, 1.0]), rng())
    assert two.low <= 0.5 <= two.high


def test_an_interval_does_not_depend_on_units() -> None:
    scores = rng(3).standard_exponential(20)
    one, other = (statistics.interval(scores * unit, rng()) for unit in (1.0, 1e-9))
    np.testing.assert_allclose(np.array(one) * 1e-9, other, rtol=1e-9)


def test_equal_methods_are_told_apart_as_rarely_as_the_level_says() -> None:
    for count in (8, 25):
        alarms = sum(
            statistics.sign_flip(*rng(seed).standard_exponential((2, count)), rng(seed + 1)) < 0.05
            for seed in range(500)
        )
        assert alarms / 500 <= 0.06


def test_sign_flips_of_few_samples_are_counted_exactly() -> None:
    a, b = rng(1).standard_normal((2, 6))
    difference = a - b
    sums = [abs(sum(s * d for s, d in zip(signs, difference, strict=True))) for signs in product((1, -1), repeat=6)]
    wanted = np.mean([total >= abs(difference.sum()) - 1e-12 for total in sums])
    assert statistics.sign_flip(a, b, rng()) == pytest.approx(wanted)


def test_sign_flips_of_many_samples_agree_with_scipy() -> None:
    a, b = rng(5).standard_normal((2, 40)) + np.array([[0.3], [0.0]])
    wanted = stats.permutation_test((a, b), lambda x, y: np.mean(x - y), permutation_type="samples", n_resamples=9999)
    assert statistics.sign_flip(a, b, rng()) == pytest.approx(wanted.pvalue, abs=0.03)


def test_sign_flips_of_equal_scores_and_of_too_few() -> None:
    assert statistics.sign_flip(np.ones(5), np.ones(5), rng()) == 1.0
    assert np.isnan(statistics.sign_flip(np.array([1.0, np.nan]), np.array([0.0, 2.0]), rng()))


def test_holm_against_its_definition() -> None:
    found = statistics.holm([0.01, 0.04, np.nan, 0.03, 0.005])
    np.testing.assert_allclose(found, [0.03, 0.06, np.nan, 0.06, 0.02])
    assert statistics.holm([]) == []
    assert statistics.holm([0.9, 0.8]) == [1.0, 1.0]


def test_the_best_method_wins_and_equal_ones_share() -> None:
    scores = {"good": rng(1).standard_normal(50) + 3, "bad": rng(2).standard_normal(50)}
    assert statistics.best(scores, True, rng())["good"] == 1.0
    assert statistics.best(scores, False, rng())["good"] == 0.0
    same = {"a": scores["bad"], "b": scores["bad"]}
    assert statistics.best(same, True, rng()) == {"a": 0.5, "b": 0.5}


@pytest.mark.parametrize("shift", [0.0, 1e6])
def test_correlations_against_scipy(shift: float) -> None:
    a, b = rng(4).integers(0, 6, (2, 7, 20)).astype(float)
    a = a + shift
    pearson, spearman = statistics.pearson(a, b), statistics.spearman(a, b)
    for i in range(7):
        assert pearson[i] == pytest.approx(stats.pearsonr(a[i], b[i])[0], abs=1e-9)
        assert spearman[i] == pytest.approx(stats.spearmanr(a[i], b[i])[0], abs=1e-9)


def test_correlations_of_constants_are_undefined_and_of_any_scale_exact() -> None:
    a = np.array([[1.0, 2, 3], [5, 5, 5], [0, 0, 0], [1e-300, 2e-300, 3e-300], [1e300, 2e300, 3e300]])
    found = statistics.pearson(a, np.tile([1.0, 2, 3], (5, 1)))
    np.testing.assert_allclose(found, [1, np.nan, np.nan, 1, 1])


def test_ranks_share_ties() -> None:
    array = rng(6).integers(0, 4, (5, 9)).astype(float)
    np.testing.assert_array_equal(statistics.ranks(array), [stats.rankdata(row) - 1 for row in array])
    assert statistics.ranks(np.array([[3.0]])).tolist() == [[0.0]]


def test_areas_under_roc_curves_agree_with_scikit_learn() -> None:
    from explainers.metrics.localization import LocalizationAUC

    values, inside = rng(8).integers(0, 5, (4, 15)).astype(float), rng(9).random((4, 15)) < 0.4
    found = LocalizationAUC().score(_Masked(values, inside), "a")  # type: ignore[arg-type]
    wanted = [roc_auc_score(mask, row) for mask, row in zip(inside, values, strict=True)]
    np.testing.assert_allclose(found, wanted)


class _Masked:
    def __init__(self, values: Any, inside: Any) -> None:
        self.values, self.masks = values, [inside]
        self.features = self

    def of_features(self, method: str) -> Any:
        return self.values

    def summed(self, parts: Any) -> Any:
        return parts[0]

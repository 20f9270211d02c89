"""The weighted least squares of surrogate methods, and its standard error, against sums written row by row."""

from __future__ import annotations

import numpy as np
import pytest

from explainers.methods.surrogate import LeastSquares

Rng = np.random.default_rng


def naive(
    rows: list[list[tuple[np.ndarray, np.ndarray, float]]], ridge: float, fixed: int
) -> tuple[np.ndarray, np.ndarray]:
    """β and its error from draws of one or two members (a, y, weight): a sandwich, clustered by draw."""
    members = [member for draw in rows for member in draw]
    features = len(members[0][0])
    gram = sum(w * np.outer(a, a) for a, _, w in members) + ridge * np.eye(features)
    beta = np.linalg.solve(gram, sum(w * np.outer(a, y) for a, y, w in members))
    scores = []
    for draw in rows[fixed:]:
        score = 0.0
        for a, y, w in draw:
            leverage = w * a @ np.linalg.solve(gram, a)
            score = score + np.outer(np.linalg.solve(gram, a), w * (y - a @ beta) / np.sqrt(1 - leverage))
        scores.append(score)
    spread = np.array(scores) - np.mean(scores, 0)
    return beta, np.sqrt((spread**2).sum(0) * len(scores) / (len(scores) - 1))


@pytest.mark.parametrize("fixed", [0, 3])
@pytest.mark.parametrize("ridge", [0.0, 0.5])
@pytest.mark.parametrize("paired", [False, True], ids=["alone", "paired"])
def test_least_squares_and_its_error(paired: bool, ridge: float, fixed: int) -> None:
    rng = Rng(0)
    a, weights = rng.normal(size=(9, 3)), rng.uniform(0.5, 2, 9)  # few rows: leverage counts
    first, second = rng.normal(size=(2, 9, 2))
    if paired:
        draws = [
            [(row, one, w / 2), (-row, two, w / 2)] for row, one, two, w in zip(a, first, second, weights, strict=True)
        ]
        y = (first - second) / 2
    else:
        draws = [[(row, one, w)] for row, one, w in zip(a, first, weights, strict=True)]
        y = first
    wanted, error = naive(draws, ridge, fixed)
    found = LeastSquares(a, weights, ridge, fixed=fixed, paired=paired).fit(y)
    np.testing.assert_allclose(found[0], wanted, rtol=1e-10)
    np.testing.assert_allclose(found[1], error, rtol=1e-10)


def test_combined_features() -> None:
    rng = Rng(1)
    a, y, weights = rng.normal(size=(12, 3)), rng.normal(size=(12, 2)), rng.uniform(0.5, 2, 12)
    turned = np.array([[1.0, 1.0, 0.0], [0.0, 1.0, -1.0], [1.0, 0.0, 2.0]])
    found = LeastSquares(a, weights, combined=turned).fit(y)
    wanted = LeastSquares(a @ np.linalg.inv(turned), weights).fit(y)  # the same plane in other coordinates
    np.testing.assert_allclose(found, wanted, rtol=1e-9)


def test_the_error_is_what_drawing_again_varies_by() -> None:
    """Over 400 draws of the rows: the spread of β, within what 400 draws tell."""
    betas, errors = [], []
    for seed in range(400):
        rng = Rng(seed)
        a = rng.normal(size=(40, 2))
        y = (a @ [1.0, -2.0] + a[:, 0] ** 2)[:, None]  # the plane does not fit
        beta, error = LeastSquares(a, np.ones(40)).fit(y)
        betas.append(beta)
        errors.append(error)
    np.testing.assert_allclose(np.mean(errors, 0), np.std(betas, 0), rtol=0.15)

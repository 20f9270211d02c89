"""What sampled methods add up, and what they make of it, against plain numpy in float64."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from explainers.methods import GradientShap, Rise, SmoothGrad
from explainers.methods.base import mean_and_error
from explainers_numpy import ops

RNG = np.random.default_rng(0)
NEAR_ONE = (1 + 1e-4 * RNG.normal(size=(50, 3))).astype(np.float32)  # in float32 the squares hide how they vary


def added(method: Any, message: np.ndarray, x: np.ndarray, b: np.ndarray) -> list[np.ndarray]:
    parts = method.contribute(ops, [message], [x], [b], {})
    assert [part.dtype for part in parts] == [np.float64, np.float64]
    return [part.sum(0) for part in parts]


def test_the_mean_of_draws_and_its_error() -> None:
    draws = NEAR_ONE.astype(np.float64)
    mean, error = mean_and_error(draws.sum(0), (draws**2).sum(0), len(draws))
    np.testing.assert_allclose(mean, draws.mean(0))
    np.testing.assert_allclose(error, draws.std(0, ddof=1) / np.sqrt(len(draws)), rtol=1e-6)
    assert mean_and_error(draws[0], draws[0] ** 2, 1)[1] is None


@pytest.mark.parametrize("kind", ["mean", "squared", "variance"])
def test_smoothgrad_is_of_float64(kind: str) -> None:
    draws = NEAR_ONE.astype(np.float64)
    found, error = SmoothGrad(kind=kind).finish(added(SmoothGrad(kind=kind), NEAR_ONE, NEAR_ONE, NEAR_ONE), 50)
    terms = draws**2 if kind == "squared" else draws
    wanted = draws.var(0) if kind == "variance" else terms.mean(0)
    np.testing.assert_allclose(found, wanted, rtol=1e-6)
    if kind == "variance":
        assert error is None
    else:
        np.testing.assert_allclose(error, terms.std(0, ddof=1) / np.sqrt(50), rtol=1e-6)


def test_gradient_shap_is_of_float64() -> None:
    x, b = np.full((50, 3), 3, np.float32), np.full((50, 3), 1, np.float32)
    draws = 2 * NEAR_ONE.astype(np.float64)
    found, error = GradientShap().finish(added(GradientShap(), NEAR_ONE, x, b), 50)
    np.testing.assert_allclose(found, draws.mean(0))
    np.testing.assert_allclose(error, draws.std(0, ddof=1) / np.sqrt(50), rtol=1e-6)


def test_rise_weighs_masks_by_how_likely_they_are() -> None:
    method = Rise(samples=4, probability=0.25, grid=2)
    design: Any = method.design([(4, 4)])
    x = RNG.normal(size=(6, 4, 4))
    units = SimpleNamespace(number=np.arange(6), drawn=np.arange(6).astype(np.uint64))
    args = {**design.rows(units, np.arange(6)), **design.constants()}
    (mask,) = design._masks(ops, [x], args)
    assert 0 <= mask.min() < mask.max() <= 1
    s = RNG.normal(size=6)
    part, square = design.contribute(ops, s, [x], args)
    np.testing.assert_allclose(part, mask * s[:, None, None] / 0.25)
    np.testing.assert_allclose(square, part**2)


def test_rise_and_its_error() -> None:
    design: Any = Rise(samples=5, grid=2).design([(4, 4)])
    draws = RNG.normal(size=(3, 5, *design.mask_shapes[0]))
    sums = SimpleNamespace(sums=[draws.sum(1), (draws**2).sum(1)])
    (found,), (error,) = design.finish(sums, np.full(3, 5), [np.zeros((3, 4, 4))])
    shape = (3, 4, 4)
    np.testing.assert_allclose(found, np.broadcast_to(draws.mean(1), shape))
    np.testing.assert_allclose(error, np.broadcast_to(draws.std(1, ddof=1) / np.sqrt(5), shape))

"""ROAD: removed pixels are imputed by a linear system, which is solved here directly."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from explainers import Explainer, evaluate, metrics
from explainers.errors import InputError
from explainers.metrics.imputation import imputed

WEIGHTS = {(-1, -1): 1, (-1, 0): 2, (-1, 1): 1, (0, -1): 2, (0, 1): 2, (1, -1): 1, (1, 0): 2, (1, 1): 1}


def solved(image: np.ndarray, removed: np.ndarray) -> np.ndarray:
    """One channel (H, W), by the dense system."""
    places = np.argwhere(removed)
    number = {tuple(place): i for i, place in enumerate(places.tolist())}
    matrix, right = np.zeros((len(places), len(places))), np.zeros(len(places))
    for i, (y, x) in enumerate(places.tolist()):
        for (dy, dx), weight in WEIGHTS.items():
            if not (0 <= y + dy < image.shape[0] and 0 <= x + dx < image.shape[1]):
                continue
            matrix[i, i] += weight
            if removed[y + dy, x + dx]:
                matrix[i, number[y + dy, x + dx]] -= weight
            else:
                right[i] += weight * image[y + dy, x + dx]
    result = image.copy()
    result[removed] = np.linalg.solve(matrix, right)
    return result


@pytest.mark.parametrize("share", [0.1, 0.5, 0.9, 0.99])
@pytest.mark.parametrize("size", [(9, 9), (5, 12), (1, 20), (2, 2)])
def test_imputed_pixels_solve_the_system(size: tuple[int, int], share: float) -> None:
    rng = np.random.default_rng(0)
    images, removed = rng.standard_normal((4, 2, *size)) + 5, rng.random((4, *size)) < share
    removed[:, 0, 0] = False
    found = imputed(images, removed)
    for i in range(4):
        for channel in range(2):
            np.testing.assert_allclose(found[i, channel], solved(images[i, channel], removed[i]), atol=2e-3)
    kept = np.broadcast_to(~removed[:, None], images.shape)
    np.testing.assert_array_equal(found[kept], images[kept])


def test_a_large_hole_is_filled() -> None:
    y, x = np.mgrid[:40, :40]
    plane = (3.0 + y + 2 * x)[None, None]
    removed = np.zeros((1, 40, 40), bool)
    removed[:, 5:35, 5:35] = True  # a plane is the mean of its neighbours
    np.testing.assert_allclose(imputed(plane, removed), plane, atol=0.02)
    np.testing.assert_allclose(imputed(plane * 0 + 7, removed), 7, rtol=1e-9)


@pytest.mark.parametrize("last", [False, True])
def test_scores_against_a_loop(last: bool) -> None:
    rng = np.random.default_rng(1)
    x, phi = rng.standard_normal((3, 2, 6, 6)), rng.standard_normal((3, 2, 6, 6))
    weights = rng.standard_normal((2, 6, 6))

    def model(images: Any) -> Any:
        images = np.moveaxis(images, 3, 1) if last else images
        return np.tanh(images * weights).sum(axis=(1, 2, 3))

    def order(array: np.ndarray) -> np.ndarray:
        return np.moveaxis(array, -3, -1) if last else array

    groups = order(np.arange(36).reshape(1, 6, 6))
    metric = metrics.ROAD((0.25, 0.5), noise=0.0, channel_axis=2 if last else 0)
    explain = Explainer.compile(model, "feature_ablation", inputs=order(x))
    given = {"attributions": {"a": order(phi)}, "model": explain, "groups": groups}
    found = evaluate({}, order(x), metrics=metric, controls=("reversed",), **given)
    for sign, name in ((1, "a"), (-1, "reversed a")):
        for i in range(3):
            rank = np.argsort(np.argsort(-sign * phi[i].sum(axis=0).ravel())).reshape(6, 6)
            filled = [np.stack([solved(channel, rank < k) for channel in x[i]]) for k in (9, 18)]
            wanted = np.mean([model(order(image)[None])[0] for image in filled])
            assert found.of(metric.label, name)[i] == pytest.approx(wanted, abs=1e-3)
    noisy = evaluate({}, order(x), metrics=metrics.ROAD((0.25, 0.5), 0.2, metric.channel_axis), controls=(), **given)
    again = evaluate(
        {}, order(x), metrics=metrics.ROAD((0.25, 0.5), 0.2, metric.channel_axis), controls=(), batch_size=1, **given
    )
    ((scores,),) = ([*of.values()] for of in noisy.scores.values())
    ((same,),) = ([*of.values()] for of in again.scores.values())
    np.testing.assert_allclose(same, scores, rtol=1e-6)
    assert np.abs(scores - found.of(metric.label, "a")).min() > 1e-3


def test_what_is_no_image_is_refused() -> None:
    def model(x: Any) -> Any:
        return x.reshape(len(x), -1).sum(axis=1)

    for shape, text in (((4, 6), "images"), ((4, 3, 5, 5), "groups= with a number")):
        x = np.random.default_rng(0).standard_normal(shape)
        with pytest.raises(InputError, match=text):
            evaluate(Explainer.compile(model, "feature_ablation", inputs=x), x, metrics="road")
    for make in (lambda: metrics.ROAD(()), lambda: metrics.ROAD((1.5,)), lambda: metrics.ROAD(noise=-1)):
        with pytest.raises(InputError):
            make()

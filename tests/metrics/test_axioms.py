"""Input invariance, consistency, structural similarity and smoothed randomization, against answers that are known."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from explainers import Explainer, evaluate, metrics
from explainers.errors import InputError
from explainers.metrics import evaluating
from explainers.metrics.images import ssim

RNG = np.random.default_rng(5)
W = RNG.standard_normal((6, 3))
X = RNG.standard_normal((40, 6))


def classes(x: Any) -> Any:
    return np.asarray(x) @ W


def invariance(method: str, **arguments: Any) -> Any:
    explain = Explainer.compile(classes, method, inputs=X)
    found = evaluate(explain, X, metrics=metrics.InputInvariance(0.5), target=1, **arguments)
    return found.of("input_invariance(shift=0.5)", method)


def test_ablation_to_a_fixed_number_moves_with_the_samples() -> None:
    wanted = 0.5 * np.linalg.norm(W[:, 1]) / np.linalg.norm(X * W[:, 1], axis=1)
    np.testing.assert_allclose(invariance("feature_ablation"), wanted, rtol=1e-9)


def test_ablation_to_a_number_from_the_samples_is_invariant() -> None:
    found = invariance("feature_ablation", baseline=lambda x: np.asarray(x).min(axis=1, keepdims=True) * np.ones(6))
    np.testing.assert_allclose(found, 0, atol=1e-9)


def test_a_shifted_explainer_is_of_the_shifted_model() -> None:
    explain = Explainer.compile(
        lambda a, b: classes(a) * np.asarray(b), "feature_ablation", inputs=(X, X[:, :1]), wrt=0
    )
    moved = explain.shifted(0.25)
    np.testing.assert_allclose(moved.predict(X + 0.25, X[:, :1]), explain.predict(X, X[:, :1]), atol=1e-12)
    np.testing.assert_array_equal(
        moved(X + 0.25, X[:, :1], target=0, baseline=0.25).round(9), explain(X, X[:, :1], target=0).round(9)
    )


@pytest.mark.parametrize("shift", [0, float("nan"), "far"])
def test_wrong_shifts(shift: Any) -> None:
    with pytest.raises(InputError, match="shift must be"):
        metrics.InputInvariance(shift)


def consistency(attribution: Any, x: Any = X, **arguments: Any) -> Any:
    explain = Explainer.compile(classes, "feature_ablation", inputs=x)
    chosen = metrics.Consistency()
    found = evaluate(
        {}, x, metrics=chosen, target="max", attributions={"a": attribution}, model=explain, controls=(), **arguments
    )
    return found.of(chosen.label, "a")


ATTRIBUTION = np.round(RNG.standard_normal(X.shape) * 2)


def test_consistency_against_all_pairs() -> None:
    found = consistency(ATTRIBUTION)
    predicted = classes(X).argmax(axis=1)
    same = []
    for a in ATTRIBUTION:
        top = sorted(range(6), key=lambda k: (-abs(a[k]), k))[:2]
        same.append({(k, np.sign(a[k])) for k in top})
    for i in range(len(X)):
        others = [j for j in range(len(X)) if j != i and same[j] == same[i]]
        wanted = np.mean([predicted[j] == predicted[i] for j in others]) if others else np.nan
        np.testing.assert_allclose(found[i], wanted)
    assert 0 < np.isnan(found).sum() < len(X)
    assert len(np.unique(found[np.isfinite(found)])) > 2


def test_consistency_does_not_depend_on_chunks_or_order(monkeypatch: pytest.MonkeyPatch) -> None:
    found = consistency(ATTRIBUTION)
    order = RNG.permutation(len(X))
    np.testing.assert_array_equal(consistency(ATTRIBUTION[order], X[order]), found[order])
    monkeypatch.setattr(evaluating, "BYTES", 8 * 6 * 5 * 7)  # seven samples a chunk
    np.testing.assert_array_equal(consistency(ATTRIBUTION), found)
    groups = np.array([[0, 1, 2, 3, 4, 5], [0, 0, 0, 0, 1, 1]])[np.arange(len(X)) % 2]
    assert np.isfinite(consistency(ATTRIBUTION, groups=groups)).any()


def test_consistency_needs_classes() -> None:
    explain = Explainer.compile(lambda x: classes(x)[:, 0], "feature_ablation", inputs=X)
    with pytest.raises(InputError, match="several outputs"):
        evaluate(explain, X, metrics="consistency")


def test_structural_similarity_against_a_loop_over_the_windows() -> None:
    a, b = RNG.standard_normal((2, 3, 9, 12))
    b = 0.6 * a + 0.4 * b
    wanted = np.zeros(3)
    for i in range(3):
        values = []
        for row in range(9 - 6):
            for column in range(12 - 6):
                p, q = (image[i, row : row + 7, column : column + 7].ravel() for image in (a, b))
                (pp, pq), (_, qq) = np.cov(p, q)
                c, d = (0.01 * 4) ** 2, (0.03 * 4) ** 2
                means = p.mean(), q.mean()
                alike = (2 * means[0] * means[1] + c) * (2 * pq + d)
                values.append(alike / ((means[0] ** 2 + means[1] ** 2 + c) * (pp + qq + d)))
        wanted[i] = np.mean(values)
    np.testing.assert_allclose(ssim(a, b, 4.0), wanted, rtol=1e-10)
    np.testing.assert_allclose(ssim(a, a, 4.0), 1.0)

"""Metrics on models whose scores are known exactly."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from explainers import Explainer, References, evaluate, metrics, random_numbers
from explainers.metrics.removal import random_sets

FEATURES = 12
SAMPLES = 5
RNG = np.random.default_rng(3)
W = RNG.standard_normal(FEATURES)
X = RNG.standard_normal((SAMPLES, FEATURES))
ATTRIBUTION = RNG.standard_normal((SAMPLES, FEATURES))
EXACT = X * W  # of the linear model, at baseline 0


def linear(x: Any) -> Any:
    return x @ W + 0.7


def curved(x: Any) -> Any:
    return np.tanh(x @ W) + (x**2).sum(axis=1) * x[:, 0]


def score(model: Any, metric: Any, attribution: Any = ATTRIBUTION, x: Any = X, **arguments: Any) -> Any:
    explain = Explainer.compile(model, "feature_ablation", inputs=x)
    found = evaluate({}, x, metrics=[metric], attributions={"a": attribution}, model=explain, controls=(), **arguments)
    return found.of(next(iter(found.scores)), "a")


# --- curves ------------------------------------------------------------------------------------


@pytest.mark.parametrize("steps", [1, 3, 5, 12, 100])
def test_deletion_and_insertion_of_an_additive_model_add_up(steps: int) -> None:
    total = score(linear, metrics.Deletion(steps)) + score(linear, metrics.Insertion(steps))
    np.testing.assert_allclose(total, linear(X) + 0.7, rtol=1e-12)


def test_the_exact_attribution_minimises_deletion_and_maximises_insertion() -> None:
    best = score(linear, "deletion", EXACT)
    top = score(linear, "insertion", EXACT)
    for seed in range(20):
        other = np.random.default_rng(seed).standard_normal(X.shape)
        assert (score(linear, "deletion", other) >= best - 1e-12).all()
        assert (score(linear, "insertion", other) <= top + 1e-12).all()


@pytest.mark.parametrize("steps", [1, 3, 4, 12])
@pytest.mark.parametrize("model", [linear, curved])
def test_least_first_deletion_backwards_is_insertion(model: Any, steps: int) -> None:
    explain = Explainer.compile(model, "feature_ablation", inputs=X)
    wanted = [metrics.Deletion(steps, order="least"), metrics.Insertion(steps)]
    found = evaluate({}, X, metrics=wanted, attributions={"a": ATTRIBUTION}, model=explain, controls=())
    curves = [found.curves[metric.label]["a"].mean for metric in wanted]
    np.testing.assert_allclose(curves[0], curves[1][::-1], rtol=1e-12)
    first, second = (found.of(metric.label, "a") for metric in wanted)
    np.testing.assert_allclose(first, second, rtol=1e-12)


def test_deletion_against_a_loop() -> None:
    found = score(curved, metrics.Deletion(FEATURES))
    for i, x in enumerate(X):
        order = np.argsort(-ATTRIBUTION[i], kind="stable")
        values = []
        for k in range(FEATURES + 1):
            point = x.copy()
            point[order[:k]] = 0
            values.append(curved(point[None])[0])
        wanted = np.trapezoid(values, dx=1 / FEATURES)
        assert found[i] == pytest.approx(wanted, rel=1e-12)


def test_random_orders_have_the_mean_and_variance_of_sampling_without_replacement() -> None:
    draws = 4000
    x = np.repeat(X[:1], draws, axis=0)
    order = np.random.default_rng(0).standard_normal(x.shape)
    areas = score(linear, metrics.Deletion(2), order, x)
    half = EXACT[0].sum() / 2
    left = 0.7 + half  # the mean of s with half of the features removed
    mean = (linear(X[:1])[0] + 2 * left + 0.7) / 4
    variance = FEATURES * EXACT[0].var(ddof=1) / 4 / 4  # of the middle of the curve, which counts ½
    assert areas.mean() == pytest.approx(mean, abs=4 * np.sqrt(variance / draws))
    assert areas.var() == pytest.approx(variance, rel=0.1)


def test_abpc_is_insertion_minus_deletion_and_changes_its_sign_with_the_attribution() -> None:
    found = score(curved, "abpc")
    np.testing.assert_allclose(found, score(curved, "insertion") - score(curved, "deletion"), rtol=1e-12)
    np.testing.assert_allclose(found, -score(curved, "abpc", -ATTRIBUTION), rtol=1e-9)


def test_the_reversed_control_is_the_attribution_with_its_sign_reversed() -> None:
    explain = Explainer.compile(curved, "feature_ablation", inputs=X)
    several = ["deletion", "insertion", metrics.Deletion(5, relative=True), "irof", "sensitivity_n", "infidelity"]
    arguments = {"attributions": {"a": ATTRIBUTION}, "model": explain}
    found = evaluate({}, X, metrics=several, controls=("reversed",), **arguments)
    for metric in several:
        label = metrics.resolve(metric).label
        np.testing.assert_allclose(found.of(label, "reversed a"), score(curved, metric, -ATTRIBUTION), rtol=1e-9)


@pytest.mark.parametrize(
    "metric", [metrics.Deletion(4), metrics.Insertion(4), metrics.Deletion(4, order="least")], ids=str
)
def test_curves_of_the_reversed_control(metric: Any) -> None:
    arguments = {"metrics": metric, "model": Explainer.compile(curved, "feature_ablation", inputs=X)}
    both = evaluate({}, X, attributions={"a": ATTRIBUTION}, controls=("reversed",), **arguments)
    alone = evaluate({}, X, attributions={"a": -ATTRIBUTION}, controls=(), **arguments)
    found, wanted = both.curves[metric.label]["reversed a"].mean, alone.curves[metric.label]["a"].mean
    np.testing.assert_allclose(found, wanted, rtol=1e-9)


def test_every_order_of_equal_features_has_the_same_area() -> None:
    """Also where half of the features is no whole number, as at the middle of this curve."""
    x = np.ones((SAMPLES, 11))
    explain = Explainer.compile(lambda x: x.sum(axis=1), "feature_ablation", inputs=x)
    given = {"a": ATTRIBUTION[:, :11]}
    found = evaluate({}, x, metrics=metrics.Deletion(4), attributions=given, model=explain, controls=("reversed",))
    for name in ("a", "reversed a"):
        np.testing.assert_allclose(found.of("deletion(steps=4)", name), 11 / 2)


def test_the_reversed_control_costs_nothing_beside_both_curves() -> None:
    explain = Explainer.compile(curved, "feature_ablation", inputs=X)
    both = ["deletion", "insertion", "abpc", "sensitivity_n"]
    arguments = {"metrics": both, "attributions": {"a": ATTRIBUTION}, "model": explain}
    found, alone = (evaluate({}, X, controls=controls, **arguments) for controls in (("reversed",), ()))
    assert found.rows == alone.rows


def test_irof_is_the_area_over_the_relative_curve_of_regions() -> None:
    groups = np.arange(FEATURES) // 3
    found = score(curved, "irof", groups=groups)
    for i, x in enumerate(X):
        sums = ATTRIBUTION[i].reshape(4, 3).sum(axis=1)
        values = [curved(x[None])[0]]
        point = x.copy()
        for region in np.argsort(-sums, kind="stable"):
            point[groups == region] = 0
            values.append(curved(point[None])[0])
        assert found[i] == pytest.approx(1 - np.trapezoid(np.array(values) / values[0], dx=1 / 4), rel=1e-12)


def test_groups_that_differ_from_sample_to_sample_are_as_each_sample_by_itself() -> None:
    groups = np.stack([np.arange(FEATURES) // (i % 3 + 1) for i in range(SAMPLES)])
    together = score(curved, "deletion", groups=groups)
    for i in range(SAMPLES):
        alone = score(curved, "deletion", ATTRIBUTION[i : i + 1], X[i : i + 1], groups=groups[i])
        assert together[i] == pytest.approx(alone[0], rel=1e-12)


def test_several_baselines_are_averaged() -> None:
    background = RNG.standard_normal((4, FEATURES))
    together = score(curved, "deletion", baseline=References(background))
    single = [score(curved, "deletion", baseline=row) for row in background]
    np.testing.assert_allclose(together, np.mean(single, axis=0), rtol=1e-12)


# --- sets of features --------------------------------------------------------------------------


@pytest.mark.parametrize("size", [1, 3, 0.5])
def test_sets_correlate_as_the_attributions_do(size: float) -> None:
    metric = metrics.SensitivityN(sizes=(size,), draws=4000)
    found = score(linear, metric)
    wanted = [np.corrcoef(a, e)[0, 1] for a, e in zip(ATTRIBUTION, EXACT, strict=True)]
    np.testing.assert_allclose(found, wanted, atol=0.06)
    np.testing.assert_allclose(score(linear, metric, EXACT), 1, rtol=1e-12)
    np.testing.assert_allclose(score(linear, metric, -EXACT), -1, rtol=1e-12)


@pytest.mark.parametrize(("features", "size"), [(7, 2), (7, 7), (4096, 100), (5000, 100)])
def test_random_sets_have_their_size_and_any_feature_is_as_likely(features: int, size: int) -> None:
    keys = random_numbers.draw_keys(random_numbers.sample_seeds(0, 400), np.arange(400))
    found = random_sets(keys, features, size)
    assert (found.sum(axis=1) == size).all()
    share = found.reshape(400, -1).mean(axis=0)
    half = features // 2
    assert share[:half].mean() == pytest.approx(size / features, rel=0.15)
    assert share[half:].mean() == pytest.approx(size / features, rel=0.15)
    if size < features:
        assert len(np.unique(np.packbits(found, axis=1), axis=0)) > min(20, 400)


def test_a_constant_attribution_has_no_correlation_and_the_reason_is_given() -> None:
    constant = ATTRIBUTION.copy()
    constant[2] = 4.0
    explain = Explainer.compile(linear, "feature_ablation", inputs=X)
    names = ["sensitivity_n", "faithfulness_correlation", "faithfulness_estimate", "monotonicity_correlation"]
    found = evaluate({}, X, metrics=names, attributions={"a": constant}, model=explain, controls=())
    for name in names:
        assert np.isnan(found.of(name, "a")).tolist() == [False, False, True, False, False]
        assert found.reason(name, "a").startswith("1 of 5 samples")


def test_an_output_that_does_not_change_has_no_correlation() -> None:
    def flat(x: Any) -> Any:
        return x[:, 0] * 0 + 1e6

    assert np.isnan(score(flat, "faithfulness_correlation")).all()
    assert np.isnan(score(flat, "completeness")).all()


def test_infidelity_of_contributions_and_of_gradients_of_a_linear_model_is_0() -> None:
    assert score(linear, metrics.Infidelity(), EXACT).max() < 1e-20
    gradient = np.repeat(W[None], SAMPLES, axis=0)
    assert score(linear, metrics.Infidelity(of="gradients"), gradient).max() < 1e-20
    assert score(linear, metrics.Infidelity(noise=0.3), gradient).max() < 1e-20


def test_infidelity_under_noise_is_the_noise_times_the_error() -> None:
    scale = 0.3
    found = score(linear, metrics.Infidelity(noise=scale, draws=20_000))
    np.testing.assert_allclose(found, scale**2 * ((ATTRIBUTION - W) ** 2).sum(axis=1), rtol=0.05)


def test_infidelity_under_noise_of_the_gradient_of_a_quadratic_model() -> None:
    half = RNG.standard_normal((FEATURES, FEATURES))
    hessian = half + half.T

    def quadratic(x: Any) -> Any:
        return ((x @ hessian) * x).sum(axis=1) / 2

    scale = 0.5
    found = score(quadratic, metrics.Infidelity(noise=scale, draws=40_000), X @ hessian)
    wanted = scale**4 / 4 * (np.trace(hessian) ** 2 + 2 * (hessian**2).sum())
    np.testing.assert_allclose(found, wanted, rtol=0.1)


def test_scaled_infidelity_forgives_a_factor() -> None:
    assert score(linear, metrics.Infidelity(scaled=True), 17 * EXACT).max() < 1e-20
    assert score(linear, metrics.Infidelity(), 17 * EXACT).min() > 1


def test_single_features() -> None:
    np.testing.assert_allclose(score(linear, "faithfulness_estimate", EXACT), 1, rtol=1e-12)
    np.testing.assert_allclose(score(linear, "monotonicity_correlation", -3 * EXACT), 1, rtol=1e-12)
    half = np.where(np.arange(FEATURES) < 3, 0, EXACT)
    np.testing.assert_allclose(score(linear, "non_sensitivity", half), 3 / FEATURES)
    assert score(linear, "non_sensitivity", EXACT).tolist() == [0] * SAMPLES


# --- robustness ----------------------------------------------------------------------------------


def explained(metric: Any, model: Any = linear, x: Any = X) -> Any:
    found = evaluate(Explainer.compile(model, "feature_ablation", inputs=x), x, metrics=[metric], controls=())
    return found.of(next(iter(found.scores)), "feature_ablation")


def test_stability_of_gradient_times_input_of_a_linear_model() -> None:
    np.testing.assert_allclose(explained("relative_input_stability"), 1, rtol=1e-9)
    lipschitz = explained(metrics.LocalLipschitz(draws=50))
    assert (lipschitz <= np.abs(W).max() + 1e-9).all()
    assert (lipschitz > np.abs(W).min()).all()


def test_sensitivity_against_a_loop_over_the_neighbours() -> None:
    metric = metrics.Sensitivity(radius=0.1, draws=6)
    largest, mean = explained(metric), explained(metrics.Sensitivity(radius=0.1, draws=6, reduce="mean"))
    assert (largest > mean).all()
    norm = np.linalg.norm(EXACT, axis=1)
    most = 0.1 * np.linalg.norm(W) / norm
    assert (largest <= most).all()
    assert (largest > 0.2 * most).all()


def test_an_explanation_that_does_not_depend_on_the_sample_is_robust() -> None:
    def step(x: Any) -> Any:
        return np.sign(x).sum(axis=1)

    far = np.sign(X)
    for name in ("sensitivity", "local_lipschitz", "relative_input_stability", "relative_output_stability"):
        assert explained(name, step, far).tolist() == [0] * SAMPLES


# --- localization --------------------------------------------------------------------------------

MASK = np.zeros((SAMPLES, FEATURES), bool)
for row in range(SAMPLES):
    MASK[row, row : row + 3] = True
LOCAL = ["pointing_game", metrics.TopK(k=3), "relevance_mass", "relevance_rank", "localization_auc"]


@pytest.mark.parametrize("metric", LOCAL, ids=str)
def test_masks_as_attributions_score_1_and_their_complements_0(metric: Any) -> None:
    assert score(linear, metric, MASK.astype(float), masks=MASK).tolist() == [1] * SAMPLES
    assert score(linear, metric, (~MASK).astype(float), masks=MASK).tolist() == [0] * SAMPLES


def test_ties_count_in_part() -> None:
    tied = np.ones((SAMPLES, FEATURES))
    tied[0, 11] = 2  # not constant in every sample
    for metric in LOCAL:
        found = score(linear, metric, tied, masks=MASK)[1:]
        np.testing.assert_allclose(found, 0.5 if metric == "localization_auc" else 3 / FEATURES)


def test_localization_auc_against_all_pairs() -> None:
    found = score(linear, "localization_auc", ATTRIBUTION, masks=MASK)
    for i in range(SAMPLES):
        inside, outside = ATTRIBUTION[i][MASK[i]], ATTRIBUTION[i][~MASK[i]]
        assert found[i] == pytest.approx((inside[:, None] > outside).mean())


def test_negative_attributions_have_no_mass() -> None:
    attribution = np.tile(np.array([3.0, -5.0, 0.0, 1.0] + [0.0] * (FEATURES - 4)), (SAMPLES, 1))
    mask = np.zeros((SAMPLES, FEATURES), bool)
    mask[:, :2] = True
    np.testing.assert_allclose(score(linear, "relevance_mass", attribution, masks=mask), 0.75)


# --- complexity and axioms -----------------------------------------------------------------------


def test_sparseness_and_entropy() -> None:
    single = np.eye(FEATURES)[:SAMPLES]
    np.testing.assert_allclose(score(linear, "sparseness", single), (FEATURES - 1) / FEATURES)
    np.testing.assert_allclose(score(linear, "entropy", single), 0, atol=1e-12)
    assert score(linear, "effective_complexity", single).tolist() == [1] * SAMPLES
    halves = np.tile(np.array([4.0, 2.0, -2.0, 3.0] + [0.0] * (FEATURES - 4)), (SAMPLES, 1))  # two are at the threshold
    assert score(linear, metrics.EffectiveComplexity(0.5), halves).tolist() == [2] * SAMPLES
    signs = np.sign(ATTRIBUTION)
    np.testing.assert_allclose(score(linear, "sparseness", signs), 0, atol=1e-12)
    np.testing.assert_allclose(score(linear, "entropy", signs), np.log(FEATURES))
    linearly = np.tile(np.arange(1.0, FEATURES + 1), (SAMPLES, 1))
    np.testing.assert_allclose(score(linear, "sparseness", linearly), (FEATURES - 1) / (3 * FEATURES))


def test_scores_without_an_attribution_are_undefined() -> None:
    some = EXACT.copy()
    some[1] = 0
    for name in ("sparseness", "entropy", "effective_complexity", "sensitivity_n"):
        assert np.isnan(score(linear, name, some)).tolist() == [False, True, False, False, False]


def test_completeness_is_the_relative_gap() -> None:
    assert score(linear, "completeness", EXACT).max() < 1e-12
    np.testing.assert_allclose(score(linear, "completeness", 3 * EXACT), 2, rtol=1e-9)

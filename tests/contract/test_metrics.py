"""Metrics on trained networks: the same scores on every backend, from files, for any package and on any engine."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from explainers import Explainer, evaluate, methods, metrics, random_numbers
from explainers.errors import InputError
from explainers.methods.groups import Groups
from explainers.metrics.base import Features
from explainers.metrics.images import ssim
from explainers.metrics.noise import Blurred
from explainers.metrics.randomization import layers_of
from explainers.metrics.statistics import spearman

from . import zoo

LABELS = ("torch-cnn_softmax", "tensorflow-cnn")
SAMPLES = 5
NEAR = [kind for kind in metrics.METRICS.values() if kind.reexplains and hasattr(kind, "radius")]
OF_ARRAYS = [
    metrics.Deletion(9), metrics.Insertion(9), metrics.ABPC(9), metrics.FaithfulnessCorrelation(draws=20),
    metrics.SensitivityN((0.1, 0.5), draws=10), metrics.Infidelity(draws=10), metrics.Infidelity(noise=0.1, draws=10),
    metrics.Infidelity(of="gradients", draws=10), "completeness", "sparseness", "entropy", "effective_complexity",
    "pointing_game", "top_k", "relevance_mass", "relevance_rank", "localization_auc",
]  # fmt: skip
METHODS = {"gradient": methods.Gradient(), "ig": methods.IntegratedGradients(steps=8)}


@functools.cache
def samples(label: str) -> np.ndarray:
    return zoo.data(label).held_out[:SAMPLES].astype(np.float32)


@functools.cache
def masks(label: str) -> np.ndarray:
    x = samples(label)
    return np.abs(x) > np.abs(x).mean()


@functools.cache
def explainers(label: str) -> dict[str, Explainer]:
    network, x = zoo.network(label, "float32", 1), samples(label)
    return dict(zip(METHODS, Explainer.compile(network, list(METHODS.values()), inputs=x), strict=True))


@functools.cache
def found(label: str) -> metrics.Evaluation:
    return evaluate(explainers(label), samples(label), metrics=OF_ARRAYS, target="max", masks=masks(label))


def same(one: metrics.Evaluation, other: metrics.Evaluation, tolerance: float = 1e-5) -> None:
    assert one.scores.keys() == other.scores.keys()
    for label, by_method in one.scores.items():
        for name, array in by_method.items():
            wanted = other.of(label, name)
            scale = np.nanmax(np.abs(wanted), initial=1e-3)
            np.testing.assert_allclose(array, wanted, atol=tolerance * scale, err_msg=f"{label} {name}")


@pytest.mark.parametrize("label", LABELS)
def test_a_callable_of_the_same_network_has_the_same_scores(label: str) -> None:
    x = samples(label)
    target = zoo.outputs(label, x).argmax(axis=1)
    given = {name: explain(x, target=target) for name, explain in explainers(label).items()}
    called = Explainer.compile(lambda batch: zoo.outputs(label, batch), "feature_ablation", inputs=x)
    other = evaluate({}, x, metrics=OF_ARRAYS, target=target, masks=masks(label), attributions=given, model=called)
    # correlations and gaps divide by small changes of the output; rounding of float32 is larger there
    same(found(label), other, 1e-3)


@pytest.mark.parametrize("label", LABELS)
def test_scores_do_not_depend_on_packages(label: str) -> None:
    x = samples(label)
    other = evaluate(
        explainers(label), x, metrics=OF_ARRAYS, target="max", masks=masks(label), batch_size=3
    )  # fmt: skip
    same(other, found(label), 1e-4)


@pytest.mark.parametrize("label", LABELS)
def test_loaded_files_have_the_same_scores(label: str, tmp_path: Path) -> None:
    loaded = {}
    for name, explain in explainers(label).items():
        explain.save(tmp_path / f"{name}.explainer")
        loaded[name] = Explainer.load(tmp_path / f"{name}.explainer")
    other = evaluate(loaded, samples(label), metrics=OF_ARRAYS, target="max", masks=masks(label))
    same(other, found(label), 1e-4)


@pytest.mark.parametrize("label", LABELS)
def test_metrics_that_explain_again(label: str) -> None:
    """Against the neighbours, drawn as the library draws them, explained one by one."""
    x = samples(label)[:3]
    radius = 0.05
    wanted = ["target_randomization", *(kind(radius, 3) for kind in NEAR)]
    one = evaluate(explainers(label), x, metrics=wanted, target="max", controls=())
    target = zoo.outputs(label, x).argmax(axis=1)
    two = evaluate(explainers(label), x, metrics=wanted, target=target, controls=(), batch_size=2)
    same(two, one, 1e-3)
    explain = explainers(label)["ig"]
    rough = []
    for seed in range(3):
        near = x + np.random.default_rng(seed).uniform(-radius, radius, x.shape).astype(x.dtype)
        own, moved = explain(x, target=target), explain(near, target=target)
        norms = [np.linalg.norm(array.reshape(3, -1), axis=1) for array in (moved - own, own)]
        rough.append(norms[0] / norms[1])
    score: Any = one.of(f"sensitivity(radius={radius}, draws=3)", "ig")
    assert (score > 0.4 * np.min(rough, axis=0)).all()
    assert (score < 2.5 * np.max(rough, axis=0)).all()


@pytest.mark.parametrize("label", LABELS)
def test_faithful_methods_beat_chance_on_a_trained_network(label: str) -> None:
    over = found(label).calibrated("abpc(steps=9)", "ig")
    assert over.mean > 0.5
    assert (found(label).of("completeness", "ig") < 0.2).all()


@pytest.mark.parametrize("label", LABELS)
def test_randomized_models_against_a_model_with_permuted_weights(label: str) -> None:
    x, network = samples(label), zoo.network(label, "float32", 1)
    target, before = zoo.outputs(label, x).argmax(axis=1), zoo.outputs(label, x)
    explain = explainers(label)["gradient"]
    found = evaluate(explain, x, metrics=["model_randomization"], target=target, controls=())
    own = explain.detached()
    weights = own.weights()
    layers = layers_of(own.graph)
    assert len(layers) == 4
    similar = []
    for values in layers[::-1]:
        for value in values:
            seed = np.frombuffer(str(value).encode(), np.uint8).tolist()
            mixed = np.random.default_rng(seed).permutation(weights[value].ravel())
            own.set_weights({value: mixed.reshape(weights[value].shape)})
        # the gradient of a model with these weights, by differences of its outputs
        other = own(x, target=target).reshape(SAMPLES, -1)
        step = np.float32(1e-2) * np.sign(other).reshape(x.shape)
        rise = own.predict(x + step)[np.arange(SAMPLES), target] - own.predict(x)[np.arange(SAMPLES), target]
        assert rise.sum() > 0
        similar.append(spearman(explain(x, target=target).reshape(SAMPLES, -1), other))
    np.testing.assert_allclose(found.of("model_randomization", "gradient"), np.mean(similar, axis=0), atol=1e-5)
    np.testing.assert_array_equal(zoo.outputs(label, x), before)
    again = Explainer.compile(network, "gradient", inputs=x)
    np.testing.assert_allclose(again(x, target=target), explain(x, target=target), rtol=1e-6)


@pytest.mark.parametrize("label", LABELS)
def test_guided_backprop_does_not_depend_on_what_is_learnt(label: str) -> None:
    both = Explainer.compile(zoo.network(label, "float32", 1), ["gradient", "guided_backprop"], inputs=samples(label))
    found = evaluate(both, samples(label), metrics="model_randomization", target="max")
    means = {name: found.mean("model_randomization", name).mean for name in found.methods}
    assert means["guided_backprop"] > 0.5 > 0.25 > means["gradient"]


def test_what_has_no_weights_is_not_randomized(tmp_path: Path) -> None:
    x = samples(LABELS[0])
    called = Explainer.compile(lambda batch: zoo.outputs(LABELS[0], batch), "feature_ablation", inputs=x)
    explainers(LABELS[0])["ig"].save(tmp_path / "ig.explainer")
    for explain in (called, Explainer.load(tmp_path / "ig.explainer")):
        with pytest.raises(InputError, match="changes weights"):
            evaluate(explain, x, metrics="model_randomization", target=0)


@pytest.mark.parametrize("label", LABELS)
def test_explainers_of_another_form_are_refused(label: str) -> None:
    x, network = samples(label), zoo.network(label, "float32", 1)
    for options in ({"per_token": True}, {"every_output": True}):
        other = Explainer.compile(network, "gradient", inputs=x, **options)
        with pytest.raises(InputError, match=next(iter(options))):
            evaluate(other, x, metrics="deletion", target=0)


def test_noise_of_bfloat16_is_finite() -> None:
    explain = Explainer.compile(
        zoo.network(LABELS[0], "float32", 1), "gradient", inputs=samples(LABELS[0]), dtype="bfloat16"
    )
    found = evaluate(explain, samples(LABELS[0]), metrics=metrics.Infidelity(noise=0.1, draws=100), target=0)
    assert np.isfinite(found.of("infidelity(noise=0.1)", "gradient")).all()


def test_explainers_on_two_frameworks() -> None:
    """The TensorFlow network as a callable beside itself."""
    label = LABELS[1]
    called = Explainer.compile(lambda batch: zoo.outputs(label, batch), "feature_ablation", inputs=samples(label))
    both = {"ig": explainers(label)["ig"], "ablation": called}
    for model in both.values():
        found = evaluate(both, samples(label), metrics=["deletion", "completeness"], target=0, model=model)
        assert np.isfinite(found.of("deletion", "ablation")).all()


@pytest.mark.parametrize("label", LABELS)
def test_gradients_move_with_the_samples_and_a_fixed_baseline_does_not(label: str) -> None:
    x = samples(label)
    found = evaluate(explainers(label), x, metrics="input_invariance", target="max", controls=())
    assert (found.of("input_invariance", "gradient") < 1e-3).all()
    assert (found.of("input_invariance", "ig") > 0.1).all()
    moving = evaluate(
        explainers(label), x, metrics="input_invariance", target="max", controls=(),
        baseline=lambda batch: np.asarray(batch) - 0.25,
    )  # fmt: skip
    assert (moving.of("input_invariance", "ig") < 1e-2).all()
    np.testing.assert_allclose(explainers(label)["ig"].shifted(0.5).predict(x + 0.5), zoo.outputs(label, x), atol=1e-4)


@pytest.mark.parametrize("label", LABELS)
def test_randomized_explanations_may_be_compared_as_images_and_smoothed(label: str) -> None:
    x, explain = samples(label), explainers(label)["gradient"]
    x = x + np.random.default_rng(7).uniform(0, 0.02, x.shape).astype(x.dtype)  # no two equal places under a pool
    target = zoo.outputs(label, x).argmax(axis=1)
    axis = 1 if label.startswith("torch") else 3
    kinds = [
        metrics.ModelRandomization(absolute=True, similarity="ssim"),
        metrics.ModelRandomization(),
        metrics.ModelRandomization(noise=1e-7, draws=2),
        metrics.ModelRandomization(noise=0.2, draws=4),
    ]
    found = evaluate(explain, x, metrics=kinds, target=target, controls=())
    own, similar = explain.detached(), []
    weights = own.weights()

    def image(by: Explainer) -> np.ndarray:
        summed = np.abs(np.asarray(by(x, target=target))).astype(np.float64).sum(axis=axis)
        return summed / summed.max(axis=(1, 2), keepdims=True)

    for values in layers_of(own.graph)[::-1]:
        for value in values:
            seed = np.frombuffer(str(value).encode(), np.uint8).tolist()
            mixed = np.random.default_rng(seed).permutation(weights[value].ravel())
            own.set_weights({value: mixed.reshape(weights[value].shape)})
        similar.append(ssim(image(explain), image(own), 1.0))
    by_kind = [found.of(kind.label, "gradient") for kind in kinds]
    np.testing.assert_allclose(by_kind[0], np.mean(similar, axis=0), atol=1e-5)
    unsure = zoo.outputs(label, x).max(axis=1) < 0.9999  # else the gradient of a probability is rounding
    assert unsure.sum() > 1
    np.testing.assert_allclose(by_kind[2][unsure], by_kind[1][unsure], atol=0.02)
    assert (np.abs(by_kind[3] - by_kind[1]) > 1e-3).any()
    assert np.abs(by_kind[3] - by_kind[1]).max() < 0.6


def test_samples_are_blurred_by_shares_of_their_own_range() -> None:
    label = LABELS[0]
    x = samples(label) * np.arange(1, SAMPLES + 1, dtype=np.float32).reshape(-1, 1, 1, 1) + 3
    states = explainers(label)["gradient"].states(x, target=0).part(np.arange(SAMPLES))
    features = Features(Groups(None, states.shapes), states.shapes)
    work = metrics.Work(np.arange(SAMPLES), states, features, {}, random_numbers.sample_seeds(0, SAMPLES))
    (moved,) = work.get(Blurred(0.1, 40))
    spread = (moved - x[:, None]).reshape(SAMPLES, -1).std(axis=1)
    flat = x.reshape(SAMPLES, -1)
    np.testing.assert_allclose(spread, 0.1 * (flat.max(axis=1) - flat.min(axis=1)), rtol=0.05)

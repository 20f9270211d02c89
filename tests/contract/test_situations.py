"""What users' situations uncovered in calls: each as a kind, with the right value from elsewhere."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest

from explainers import Explainer, References, methods
from explainers.errors import BaselineError


def additive(weights: np.ndarray) -> Any:
    return lambda a: np.tanh(a @ weights)


@pytest.mark.parametrize(
    "method",
    [methods.KernelShap(samples=20), methods.ShapleySampling(permutations=4), methods.Lime(samples=20)],
    ids=str,
)
@pytest.mark.parametrize("count", [32, 40])
def test_every_field_of_all_outputs_is_joined_alike(method: Any, count: int) -> None:
    generator = np.random.default_rng(0)
    explain, x = Explainer.compile(additive(generator.normal(size=(6, 3))), method), generator.normal(size=(count, 6))
    whole, cut = (explain.explanation(x, target="all", batch_size=size) for size in (4096, 16))
    assert whole.attributions.shape == cut.standard_error.shape == (3, count, 6)
    for name in ("attributions", "standard_error", "outputs", "baseline_outputs", "evaluations"):
        if getattr(whole, name) is not None:
            np.testing.assert_allclose(getattr(cut, name), getattr(whole, name), atol=1e-9, err_msg=name)


def test_a_callables_numbers_do_not_hang_on_earlier_calls() -> None:
    """An epoch time needs float64; Shapley values of a sum are its terms."""

    def model(a: np.ndarray) -> np.ndarray:
        return np.where((a[:, 0] - 1.7e9) % 60 < 30, 1.0, 0.0) + a[:, 1]

    x = np.array([[1.7e9 + 5, 0.5], [1.7e9 + 45, -0.5], [1.7e9 + 75, 0.1]])
    base = np.array([1.7e9 + 50, 0.0])
    right = np.stack([model(np.stack([x[:, 0], 0 * x[:, 1]], 1)) - model(base[None]), x[:, 1]], 1)
    explain = Explainer.compile(model, "exact_shapley", baseline=base)
    explain(x[:1].astype(np.float32))
    np.testing.assert_allclose(explain(x), right, atol=1e-12)
    assert explain(x).dtype == np.float64
    assert explain(x.astype(np.float32)).dtype == np.float32
    np.testing.assert_allclose(explain(x), right, atol=1e-12)
    seen = []
    kinds = Explainer.compile(lambda a: (seen.append(a.dtype), a.sum(1))[1], "exact_shapley")
    for dtype in ("float32", "float64", "float32"):
        seen.clear()
        kinds(np.ones((2, 2), dtype))
        assert set(map(str, seen)) == {dtype}


def brute_force(model: Any, x: np.ndarray, background: np.ndarray) -> np.ndarray:
    count = x.shape[1]
    values = np.zeros_like(x)
    for order in itertools.permutations(range(count)):
        on = np.zeros(count, bool)
        before = np.array([model(np.where(on, row, background)).mean() for row in x])
        for feature in order:
            on[feature] = True
            after = np.array([model(np.where(on, row, background)).mean() for row in x])
            values[:, feature] += after - before
            before = after
    return values / len(list(itertools.permutations(range(count))))


@pytest.mark.parametrize("kind", ["references", "one", "number"])
def test_missing_values_go_through_baselines_where_they_are_allowed(kind: str) -> None:
    def model(a: np.ndarray) -> np.ndarray:
        return np.where(np.isnan(a[:, 0]), 3.0, a[:, 0]) * np.where(np.isnan(a[:, 1]), -1.0, a[:, 1])

    x = np.array([[1.0, 2.0], [np.nan, 1.0]])
    background = {"references": np.array([[np.nan, 0.5], [2.0, np.nan]])}.get(kind, np.full((1, 2), np.nan))
    given = {"references": References(background), "one": background[0], "number": float("nan")}[kind]
    explain = Explainer.compile(model, "exact_shapley", baseline=given)
    np.testing.assert_allclose(explain(x, allow_nonfinite=True), brute_force(model, x, background), atol=1e-12)
    with pytest.raises(BaselineError, match=r"NaN or infinity.*allow_nonfinite=True"):
        explain(x[:1])
    fresh = Explainer.compile(model, "exact_shapley", baseline=given)
    with pytest.raises(BaselineError, match=r"NaN or infinity.*allow_nonfinite=True"):
        fresh(x[:1])


@pytest.mark.parametrize("change", ["fit", "assign", "set_weights"])
@pytest.mark.parametrize("method", ["deeplift", "deeplift_shap"])
def test_tensorflow_notices_that_weights_changed(method: str, change: str) -> None:
    import keras

    keras.utils.set_random_seed(2)
    net = keras.Sequential([keras.Input((4,)), keras.layers.Dense(6, "relu"), keras.layers.Dense(2)])
    net.compile("sgd", "mse")
    x, y = (np.random.default_rng(0).normal(size=(8, n)).astype("float32") for n in (4, 2))
    low = 0 * x[:2]
    options: dict[str, Any] = {"baseline": References(low)} if method == "deeplift_shap" else {}
    explain = Explainer.compile(net, method, **options)
    explain(x, target=0)
    for _ in range(3):
        if change == "fit":
            net.fit(x, y, epochs=2, verbose=0)
        elif change == "assign":
            net.weights[0].assign(1.5 * net.weights[0])
            net.weights[1].assign_add(0.3 * np.ones(6, "float32"))
        else:
            net.set_weights([1.2 * w + 0.1 for w in net.get_weights()])
        right = np.asarray(net(x))[:, 0] - np.asarray(net(low))[:, 0].mean()
        np.testing.assert_allclose(explain(x, target=0).sum(1), right, atol=1e-5)
    traces = explain.stats.traces
    explain(x, target=0)
    assert explain.stats.traces == traces


@pytest.mark.parametrize("method", ["gradient", "deeplift", "lrp"])
def test_shapes_only_are_constants(method: str) -> None:
    """tf.zeros_like and ones_like, from which masked recurrent layers and scans start."""
    import keras
    import tensorflow as tf

    class Start(keras.layers.Layer):
        def call(self, x: Any) -> Any:
            return x + tf.zeros_like(x[:, :1]) + tf.ones_like(x)

    given = keras.Input((4,))
    net = keras.Model(given, keras.layers.Dense(2)(Start()(given)))
    x = np.random.default_rng(0).normal(size=(3, 4)).astype("float32")
    found = Explainer.compile(net, method, inputs=x).explanation(x, target=0)
    kernel = np.asarray(net.layers[-1].kernel)[:, 0]
    if method == "gradient":
        np.testing.assert_allclose(found.attributions, np.broadcast_to(kernel, x.shape), rtol=1e-6)
    elif method == "deeplift":
        np.testing.assert_allclose(found.attributions, x * kernel, rtol=1e-5)

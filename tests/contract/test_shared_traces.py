"""Several methods compiled together: each explainer computes what it does when it is compiled alone."""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
import pytest

from explainers import Explainer, methods
from explainers.errors import InputError, UnknownNameError, UnsupportedOperation

from . import zoo

# With attention and norms, with a pool and a softmax, with a recurrent layer, and of Keras.
LABELS = ("torch-vit", "torch-cnn_softmax", pytest.param("torch-gru", marks=pytest.mark.slow), "tensorflow-cnn")
TOGETHER: dict[str, Any] = {
    "gradient": methods.Gradient(),
    "deeplift": methods.DeepLift(),
    "occlusion": methods.Occlusion(window=4, stride=4),
    "integrated_gradients": methods.IntegratedGradients(steps=5),
    "lrp": methods.LRP(),
    "shapley_sampling": methods.ShapleySampling(permutations=1),
}
ORDERS = (list(TOGETHER), list(TOGETHER)[::-1])  # which graph is traced first


def linear(x: np.ndarray) -> np.ndarray:
    return x @ np.arange(6.0).reshape(3, 2)


@functools.cache
def alone(label: str, name: str) -> tuple[Explainer, np.ndarray]:
    """An explainer that was compiled by itself, and its attributions."""
    x = zoo.data(label).held_out[:3]
    explain = Explainer.compile(zoo.network(label, "float32", 1), TOGETHER[name], inputs=x)
    return explain, np.asarray(explain(x, target=1, seed=3))


@pytest.mark.parametrize("label", LABELS)
@pytest.mark.parametrize("order", ORDERS, ids=("plain first", "elementary first"))
def test_the_same_bits_as_compiled_alone(label: str, order: list[str]) -> None:
    x = zoo.data(label).held_out[:3]
    together = Explainer.compile(zoo.network(label, "float32", 1), [TOGETHER[name] for name in order], inputs=x)
    models_traced = sum(explain.stats.model_traces for explain in together)
    assert models_traced == 2  # one as the model has it, one taken apart
    for name, explain in zip(order, together, strict=True):
        other, want = alone(label, name)
        got = np.asarray(explain(x, target=1, seed=3))
        np.testing.assert_array_equal(got, want, err_msg=name)
        assert abs(got).max() > 0
        assert explain.stats.traces == other.stats.traces
        assert [str(node) for node in explain.graph] == [str(node) for node in other.graph]


def test_order_and_number_of_traces() -> None:
    label = "torch-cnn_softmax"
    x = zoo.data(label).held_out[:3]
    names = ["gradient", "deeplift", "occlusion", "gradient"]
    explainers = Explainer.compile(zoo.network(label, "float32", 1), tuple(TOGETHER[n] for n in names), inputs=x)
    assert isinstance(explainers, list)
    assert [e.method for e in explainers] == [TOGETHER[name] for name in names]
    assert [e.stats.model_traces for e in explainers] == [1, 1, 0, 0]
    assert explainers[0] is not explainers[3]
    assert alone(label, "gradient")[0].stats.model_traces == 1


def test_a_callable_is_called_for_its_outputs_once() -> None:
    calls: list[int] = []

    def model(x: np.ndarray) -> np.ndarray:
        calls.append(len(x))
        return linear(x)

    x = np.random.default_rng(0).normal(size=(4, 3))
    ablate, sample = Explainer.compile(model, ("feature_ablation", "exact_shapley"), inputs=x)
    assert len(calls) == 1
    want = x * np.arange(6.0).reshape(3, 2)[:, 1]
    np.testing.assert_allclose(ablate(x, target=1), want, atol=1e-12)
    np.testing.assert_allclose(sample(x, target=1), want, atol=1e-12)


def test_without_inputs_each_is_traced_at_its_first_call() -> None:
    x = np.random.default_rng(0).normal(size=(4, 3))
    explainers = Explainer.compile(linear, ["feature_ablation", "exact_shapley"])
    assert not any(explain.traced for explain in explainers)
    np.testing.assert_allclose(explainers[0](x, target=1), explainers[1](x, target=1), atol=1e-12)
    assert [explain.stats.model_traces for explain in explainers] == [1, 1]


def test_a_list_of_one_is_a_list() -> None:
    (explain,) = Explainer.compile(linear, ["feature_ablation"], inputs=np.zeros((1, 3)))
    assert explain.method == methods.FeatureAblation()


@pytest.mark.parametrize(
    ("given", "kind", "words"),
    [
        ([], InputError, "list of methods is empty"),
        ({"gradient"}, InputError, "method is a set"),
        ((name for name in ["gradient"]), InputError, "method is a generator"),
        (["feature_ablation", "no_such"], UnknownNameError, "method 1 of 0 … 1: unknown method 'no_such'"),
        (["feature_ablation", 3], UnknownNameError, "method 1 of 0 … 1: unknown method 3"),
        (["feature_ablation", "gradient"], UnsupportedOperation, "method 1 of 0 … 1, 'gradient': .*derivative"),
        (
            ["feature_ablation", methods.ExactShapley(groups=np.zeros((2, 2), int))],
            InputError,
            "method 1 of 0 … 1, 'exact_shapley': ",
        ),
    ],
)
def test_bad_lists(given: Any, kind: type[Exception], words: str) -> None:
    with pytest.raises(kind, match=words):
        Explainer.compile(linear, given, inputs=np.zeros((1, 3)))


def test_a_method_without_a_list_is_not_numbered() -> None:
    with pytest.raises(UnknownNameError, match=r"^unknown method 'no_such'"):
        Explainer.compile(linear, "no_such")

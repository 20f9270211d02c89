"""A stop-gradient in a model: nothing passes it, or the rules refuse; what is stopped for rounding's sake passes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from explainers import Explainer, methods
from explainers.errors import InputError, UnsupportedOperation

X = np.random.default_rng(0).normal(size=(3, 4)).astype(np.float32)


def build(backend: str, formula: Callable[[Any, Any, Any], Any]) -> Any:
    """The model f(x, stop, tanh) of one sum a sample."""
    if backend == "torch":
        import torch

        class Net(torch.nn.Module):
            def forward(self, x: Any) -> Any:
                return formula(x, lambda h: h.detach(), torch).sum(1, keepdim=True)

        return Net().eval()
    import tensorflow as tf

    @tf.function(input_signature=[tf.TensorSpec((None, 4), tf.float32, "x")])
    def model(x: Any) -> Any:
        return tf.reduce_sum(formula(x, tf.stop_gradient, tf), 1, keepdims=True)

    return model


SIGMOID = 1 / (1 + np.exp(-X))
FORMULAS = {  # formula, its gradient, input × gradient where the stopped part is a constant
    "beside": (lambda x, stop, f: f.tanh(stop(x)) + x, np.ones_like(X)),
    "gate": (lambda x, stop, f: x * f.sigmoid(stop(x)), SIGMOID),
    "behind": (lambda x, stop, f: stop(f.tanh(2 * x)) * 3 + f.sigmoid(x), SIGMOID * (1 - SIGMOID)),
    "straight through": (lambda x, stop, f: x + stop(f.sign(x) - x), np.ones_like(X)),
}
BOTH = pytest.mark.parametrize("backend", ["torch", "tensorflow"])


@BOTH
@pytest.mark.parametrize("name", FORMULAS)
def test_nothing_passes_a_stop(backend: str, name: str) -> None:
    formula, gradient = FORMULAS[name]
    model = build(backend, formula)
    np.testing.assert_allclose(Explainer.compile(model, "gradient", inputs=X)(X), gradient, rtol=1e-5)
    if name != "behind":  # of a sigmoid, LRP and ε-LRP are no gradients
        for method in ("lrp", methods.ELRP()):
            np.testing.assert_allclose(
                Explainer.compile(model, method, inputs=X)(X), X * gradient, rtol=2e-3, atol=1e-5
            )


@BOTH
@pytest.mark.parametrize("name", FORMULAS)
@pytest.mark.parametrize("rule", ["rescale", "revealcancel"])
def test_rules_that_compare_two_points_refuse(backend: str, name: str, rule: str) -> None:
    """What is stopped differs between a sample and its reference: without it nothing adds up."""
    with pytest.raises(UnsupportedOperation, match=r"its operand \S+ depends on the input through .* stop-gradient"):
        Explainer.compile(build(backend, FORMULAS[name][0]), methods.DeepLift(rule=rule), inputs=X)


def by_hand(x: Any, stop: Callable[[Any], Any], f: Any) -> Any:
    """Softmax as it is written to stay finite, times weights."""
    top = f.amax(x, 1, keepdim=True) if hasattr(f, "amax") else f.reduce_max(x, 1, keepdims=True)
    e = f.exp(x - stop(top))
    whole = e.sum(1, keepdim=True) if hasattr(f, "amax") else f.reduce_sum(e, 1, keepdims=True)
    weights = np.arange(4, dtype=np.float32)
    return e / whole * (f.tensor(weights) if hasattr(f, "amax") else f.constant(weights))


@BOTH
@pytest.mark.parametrize("rule", ["rescale", "revealcancel"])
@pytest.mark.parametrize("scale", [1.0, 20.0])
def test_a_stopped_maximum_passes(backend: str, rule: str, scale: float) -> None:
    """It is subtracted for rounding's sake; stopped or not, it is one function."""
    model = build(backend, by_hand)
    found = Explainer.compile(model, methods.DeepLift(rule=rule), inputs=X).explanation(scale * X)
    unstopped = build(backend, lambda x, stop, f: by_hand(x, lambda h: h, f))
    plain = Explainer.compile(unstopped, methods.DeepLift(rule=rule), inputs=X)
    assert found.largest_gap < 1e-5
    np.testing.assert_allclose(found.attributions, plain(scale * X), rtol=1e-5, atol=1e-6)


def test_moments_on_tensorflow() -> None:
    """Keras' norms stop the mean in their variance."""
    tf = pytest.importorskip("tensorflow")

    def normed(x: Any, stop: Any, f: Any) -> Any:
        mean, variance = tf.nn.moments(x, [1], keepdims=True)
        return (x - mean) * tf.math.rsqrt(variance + 0.1) * tf.constant([1.0, -2, 3, 0.5])

    found = Explainer.compile(build("tensorflow", normed), "deeplift", inputs=X).explanation(X)
    assert found.largest_gap < 1e-5


@BOTH
@pytest.mark.parametrize("method", ["gradient", "deeplift", "lrp"])
def test_all_stopped_is_an_error(backend: str, method: str) -> None:
    model = build(backend, lambda x, stop, f: f.tanh(stop(x)))
    with pytest.raises(InputError, match="no derivative leads from the inputs to the output"):
        Explainer.compile(model, method, inputs=X)

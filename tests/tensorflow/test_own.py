"""Derivatives of the model's own, tf.custom_gradient and registered ones, against GradientTape."""

from __future__ import annotations

import functools
import gc
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers

from explainers import Explainer, methods
from explainers.errors import UnsupportedOperation

X = np.random.default_rng(0).normal(size=(3, 4)).astype("float32")


@tf.custom_gradient
def reverse(x: Any) -> Any:
    return tf.identity(x), lambda g: -0.5 * g


@tf.custom_gradient
def straight_through_sign(x: Any) -> Any:
    near = tf.cast(abs(x) < 1, x.dtype)  # only the derivative uses it
    return tf.sign(x), lambda g: g * near


@tf.custom_gradient
def clipped(x: Any) -> Any:
    return tf.identity(x), lambda g: tf.clip_by_value(g, -0.1, 0.1)


@tf.custom_gradient
def scaled(x: Any, y: Any) -> Any:
    def gradient(g: Any, k: Any) -> Any:
        return 0.5 * g * y + k, 0.25 * g * x - k

    return (x * y, x + y), gradient


@tf.custom_gradient
def log1pexp(x: Any) -> Any:
    e = tf.exp(x)
    return tf.math.log(1 + e), lambda g: g * (1 - 1 / (1 + e))


@tf.function
def looped(x: Any) -> Any:
    for _ in tf.range(2):
        x = straight_through_sign(x) * x
    return x


@tf.RegisterGradient("ExplainersTestRelu")
def _half_where_large(op: Any, g: Any) -> Any:
    return 0.5 * tf.where(op.inputs[0] > 0, g, 0.0) * tf.cast(op.outputs[0] > 0.3, g.dtype)


def overridden(x: Any) -> Any:
    with tf.compat.v1.get_default_graph().gradient_override_map({"Relu": "ExplainersTestRelu"}):
        return tf.nn.relu(x)


def two(x: Any) -> Any:
    return sum(scaled(x, tf.tanh(x)))


def in_a_row(x: Any) -> Any:
    return reverse(straight_through_sign(x)) * reverse(x)


OWN: dict[str, Callable[[Any], Any]] = {
    "reverse": reverse, "straight_through_sign": straight_through_sign, "clipped": clipped, "scaled": two,
    "log1pexp": log1pexp, "in_a_row": in_a_row, "looped": looped, "overridden": overridden,
    "grad_pass_through": tf.grad_pass_through(tf.round),
}  # fmt: skip


class Own(layers.Layer):
    def __init__(self, function: Callable[[Any], Any]) -> None:
        super().__init__()
        self.function = function

    def call(self, x: Any) -> Any:
        return self.function(x)


class WithVariable(layers.Layer):
    """Its derivative counts the layer's variable twice, and wants one for the variable."""

    def build(self, shape: Any) -> None:
        self.scale = self.add_weight(shape=(shape[-1],), initializer="random_normal")

    def call(self, x: Any) -> Any:
        scale = self.scale.value

        @tf.custom_gradient
        def times(x: Any) -> Any:
            def gradient(g: Any, variables: Any = None) -> Any:
                passed = 2 * g * scale
                return (passed, [tf.zeros_like(v) for v in variables]) if variables else passed

            return x * scale, gradient

        return times(x)


def between(layer: Any) -> Any:
    keras.utils.set_random_seed(0)
    return keras.Sequential([keras.Input((4,)), layers.Dense(5), layer, layers.Dense(3, activation="tanh")])


@functools.cache
def model_of(name: str) -> Any:
    if name == "variable":
        return between(WithVariable())
    if name == "int8":
        keras.utils.set_random_seed(0)
        model = keras.Sequential([keras.Input((4,)), layers.Dense(6, activation="relu"), layers.Dense(3)])
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Keras' own
            for layer in model.layers:
                layer.quantize("int8")
        return model
    return between(Own({**OWN, **EXACT}[name]))


def tape(model: Any, x: Any) -> Any:
    given, traced = tf.constant(x), tf.function(model)  # a registered gradient takes hold of a graph's operations
    with tf.GradientTape() as taped:
        taped.watch(given)
        out = tf.reduce_sum(traced(given)[:, 1])
    return taped.gradient(out, given).numpy()


EXACT: dict[str, Callable[[Any], Any]] = {"silu": tf.nn.silu, "recompute_grad": tf.recompute_grad(tf.tanh)}
NAMES = [*OWN, "variable", "int8"]


@pytest.mark.parametrize("name", [*NAMES, *EXACT])
def test_the_derivative_is_the_models_own(name: str) -> None:
    model = model_of(name)
    explain = Explainer.compile(model, "gradient")
    want = tape(model, X)
    np.testing.assert_allclose(explain(X, target=1), want, rtol=1e-5, atol=1e-6 * abs(want).max())
    np.testing.assert_allclose(explain(X[:1], target=1), want[:1], rtol=1e-5, atol=1e-6 * abs(want).max())
    np.testing.assert_allclose(explain.predict(X), model(X), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("engine", ["xla", "eager"])
@pytest.mark.parametrize("name", ["straight_through_sign", "looped", "int8"])
def test_on_every_engine(name: str, engine: str) -> None:
    want = tape(model_of(name), X)
    got = Explainer.compile(model_of(name), "gradient", engine=engine)(X, target=1)
    np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-6 * abs(want).max())


@pytest.mark.filterwarnings("ignore::explainers.errors.IncompleteWarning")
@pytest.mark.parametrize("name", ["straight_through_sign", "scaled", "int8"])
def test_the_gradient_family_uses_it(name: str) -> None:
    model = model_of(name)
    gradient = tape(model, X)
    for method, want in (("saliency", abs(gradient)), ("input_x_gradient", X * gradient)):
        np.testing.assert_allclose(Explainer.compile(model, method)(X, target=1), want, rtol=1e-4, atol=1e-6)
    points = [tape(model, X * alpha) for alpha in (0.25, 0.75)]
    explain = Explainer.compile(model, methods.IntegratedGradients(steps=2, quadrature="midpoint"))
    got = explain(X, target=1)
    np.testing.assert_allclose(got, X * sum(points) / 2, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("method", ["deeplift", "lrp", "guided_backprop", "deconvnet", "zero"])
def test_rules_refuse_it_by_name(method: str) -> None:
    for name in ("reverse", "straight_through_sign", "log1pexp", "clipped"):
        with pytest.raises(UnsupportedOperation, match=f"'custom_gradient:{name}'"):
            Explainer.compile(model_of(name), method)
    with pytest.raises(UnsupportedOperation, match=r"'custom_gradient:Dense\._int8_call"):
        Explainer.compile(model_of("int8"), method)
    with pytest.raises(UnsupportedOperation, match="'Relu:ExplainersTestRelu'"):
        Explainer.compile(model_of("overridden"), method)


@pytest.mark.parametrize("name", EXACT)
def test_derivatives_of_the_computation_itself_are_no_such_case(name: str) -> None:
    explain = Explainer.compile(model_of(name), "deeplift")
    change = model_of(name)(X)[:, 1] - model_of(name)(0 * X)[:, 1]
    np.testing.assert_allclose(explain(X, target=1).sum(1), change, rtol=1e-4, atol=1e-6)


def test_a_swish_with_another_derivative_is_the_models_own() -> None:
    @tf.custom_gradient
    def swish(x: Any, b: Any) -> Any:
        return x * tf.sigmoid(b * x), lambda g: (g, None)

    model = between(Own(lambda x: swish(x, tf.constant(1.0))))
    np.testing.assert_allclose(Explainer.compile(model, "gradient")(X, target=1), tape(model, X), rtol=1e-5)
    with pytest.raises(UnsupportedOperation, match="swish"):
        Explainer.compile(model, "deeplift")


@pytest.mark.parametrize("name", ["straight_through_sign", "int8", "overridden"])
def test_a_saved_explainer_has_it(name: str, tmp_path: Path) -> None:
    Explainer.compile(model_of(name), "gradient").save(tmp_path / "a.explainer")
    got = Explainer.load(tmp_path / "a.explainer")(X, target=1)
    np.testing.assert_allclose(got, tape(model_of(name), X), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", ["reverse", "straight_through_sign", "looped", "int8"])
def test_a_saved_model_has_it(name: str, tmp_path: Path) -> None:
    tf.saved_model.save(model_of(name), tmp_path / "model")
    got = Explainer.compile(tmp_path / "model", "gradient")(X, target=1)
    np.testing.assert_allclose(got, tape(model_of(name), X), rtol=1e-5, atol=1e-6)
    with pytest.raises(UnsupportedOperation, match="custom_gradient"):
        Explainer.compile(tmp_path / "model", "deeplift")


def test_silu_of_a_saved_model_is_still_silu(tmp_path: Path) -> None:
    tf.saved_model.save(model_of("silu"), tmp_path / "model")
    for method in ("gradient", "deeplift", "guided_backprop"):
        want = Explainer.compile(model_of("silu"), method)(X, target=1)
        got = Explainer.compile(tmp_path / "model", method)(X, target=1)
        np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("method", ["gradient", "integrated_gradients", "deeplift", "guided_backprop"])
def test_a_derivative_that_was_not_saved_is_an_error(method: str, tmp_path: Path) -> None:
    """The number in the file names functions of this process, which belong to other operations."""
    options = tf.saved_model.SaveOptions(experimental_custom_gradients=False)
    tf.saved_model.save(model_of("reverse"), tmp_path / "model", options=options)
    with pytest.raises(UnsupportedOperation, match=r"'custom_gradient' .*IdentityN.*was not saved with the model"):
        Explainer.compile(tmp_path / "model", method)


def test_forward_only_methods_need_no_derivative(tmp_path: Path) -> None:
    options = tf.saved_model.SaveOptions(experimental_custom_gradients=False)
    tf.saved_model.save(model_of("reverse"), tmp_path / "model", options=options)
    got = Explainer.compile(tmp_path / "model", "feature_ablation")(X, target=1)
    np.testing.assert_allclose(got, Explainer.compile(model_of("reverse"), "feature_ablation")(X, target=1), rtol=1e-5)


def test_a_derivative_that_raises_is_named() -> None:
    @tf.custom_gradient
    def broken(x: Any) -> Any:
        def gradient(g: Any) -> Any:
            raise RuntimeError("no way back")

        return 2 * x, gradient

    model = between(Own(broken))
    with pytest.raises(UnsupportedOperation, match=r"broken'.*no way back"):
        Explainer.compile(model, "gradient")
    Explainer.compile(model, "feature_ablation")(X, target=1)


def test_what_the_function_took_from_around_it_has_no_derivative() -> None:
    """As the framework counts it: only the arguments have."""

    def around(x: Any) -> Any:
        y = tf.tanh(x)

        @tf.custom_gradient
        def times(z: Any) -> Any:
            return z * y, lambda g: g * y

        return times(2 * x) + y

    model = between(Own(around))
    np.testing.assert_allclose(Explainer.compile(model, "gradient")(X, target=1), tape(model, X), rtol=1e-5, atol=1e-6)


def test_nothing_of_the_trace_is_kept() -> None:
    def graphs() -> int:
        gc.collect()
        return len(
            [each for each in gc.get_objects() if issubclass(type(each), tf.Graph) and "Owned" in type(each).__name__]
        )

    model = model_of("straight_through_sign")
    Explainer.compile(model, "gradient")  # whatever is kept for good is kept now
    before = graphs()
    explain = Explainer.compile(model, "gradient")
    assert graphs() <= before
    assert explain.stats.traces == 1

"""Norms as TensorFlow writes them are read as other frameworks write them, with the same outputs."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

tf = pytest.importorskip("tensorflow")

from explainers import Explainer, methods  # noqa: E402

X, R = np.random.default_rng(0).normal(size=(2, 3, 4, 5))


def centred(x: Any) -> tuple[Any, Any]:
    mean = tf.reduce_mean(x, -1, keepdims=True)
    return mean, tf.math.rsqrt(tf.reduce_mean(tf.math.squared_difference(x, mean), -1, keepdims=True) + 0.1)


WRITTEN: dict[str, Any] = {
    "product": lambda x, m, s: (x - m) * s + 0.5,
    "keras": lambda x, m, s: x * s + (-m * s + 0.5),
    "batch_normalization": lambda x, m, s: x * s + (0.5 - m * s),
    "reversed": lambda x, m, s: (0.5 + s * -m) + s * x,
    "no constant": lambda x, m, s: x * s + s * -m,
}


def explained(name: str, rule: str) -> tuple[np.ndarray, np.ndarray, set[str]]:
    function = tf.function(lambda x: tf.reduce_sum(tf.nn.relu(WRITTEN[name](x, *centred(x))), -1))
    explain = Explainer.compile(function, methods.DeepLift(rule=rule), inputs=X)
    found = explain.explanation(X, target=1, baseline=R)
    assert found.largest_gap < 1e-9
    ops = {node.op for node in explain.graph if node.role.value == "product"}
    return found.attributions, found.outputs, ops


@pytest.mark.parametrize("name", [name for name in WRITTEN if name != "no constant"])
@pytest.mark.parametrize("rule", ["rescale", "revealcancel"])
def test_every_form_is_one(name: str, rule: str) -> None:
    got, outputs, ops = explained(name, rule)
    assert ops == {"Mul"}  # the squared difference is taken apart
    want, again, _ = explained("product", rule)
    np.testing.assert_allclose(got, want, atol=1e-12)
    np.testing.assert_allclose(outputs, again, atol=1e-12)


@pytest.mark.parametrize("name", WRITTEN)
def test_one_product_is_left(name: str) -> None:
    function = tf.function(lambda x: WRITTEN[name](x, *centred(x)))
    explain = Explainer.compile(function, "deeplift", inputs=X)
    assert [node.op for node in explain.graph if node.role.value == "product"] == ["Mul"]


def test_what_something_else_uses_stays() -> None:
    def shared(x: Any) -> Any:
        m, s = centred(x)
        first = x * s
        return first + (-m * s + 0.5) + tf.nn.relu(first)

    explain = Explainer.compile(tf.function(shared), "deeplift", inputs=X)
    assert sum(node.op == "Mul" and node.role.value == "product" for node in explain.graph) == 2
    assert explain.explanation(X, target=(1, 2), baseline=R).largest_gap < 1e-9


@pytest.mark.parametrize("count", [2, 3, 4, 5])
@pytest.mark.parametrize("rule", ["rescale", "revealcancel"])
def test_several_products_of_one_factor(rule: str, count: int) -> None:
    weights = np.random.default_rng(3).normal(size=(count + 1, 5, 5))

    def gated(x: Any) -> Any:
        gate, *parts = (tf.linalg.matvec(w, x) for w in weights)
        total = parts[0] * gate
        for part in parts[1:]:
            total = total + part * gate
        return tf.reduce_sum(total, 2)

    explain = Explainer.compile(tf.function(gated), methods.DeepLift(rule=rule), inputs=X)
    found = explain.explanation(X, target=1, baseline=R)
    gate, *parts = np.einsum("koi,nti->knto", weights, X)
    np.testing.assert_allclose(found.outputs, sum(part * gate for part in parts).sum(2))
    assert found.largest_gap < 1e-9

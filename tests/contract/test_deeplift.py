"""DeepLIFT on every architecture of the suite, and its options, references and refreshes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from explainers import Explainer, References, errors, methods

from .subjects import CASE_NAMES, DEEPLIFT, Subject, assert_close, subject

GAP = {"float64": 1e-9, "float32": 1e-4}
RULES = ["rescale", "revealcancel"]
LARGE = {"bert", "vit", "lstm", "mixture"}
BACKENDS = ["torch", "tensorflow"]
SMALL = ["torch-mlp", "tensorflow-sequential"]
TINY = {"mlp", "cnn", "sequential", "attention"}


def quick(backend: str, name: str, rule: str, dtype: str) -> bool:
    if name in LARGE and backend == "torch":
        return name == "mixture" and (rule, dtype) == ("rescale", "float64")
    if backend == "torch" and rule == "revealcancel":
        return dtype == "float64" and name in ("mlp", "cnn", "residual")
    return dtype == "float64" or (rule == "rescale" and name in TINY)


def slow_unless(fast: bool) -> list:
    return [] if fast else [pytest.mark.slow]


GRID = [
    pytest.param(
        f"{backend}-{name}", rule, dtype, id=f"{backend}-{name}-{rule}-{dtype}",
        marks=slow_unless(quick(backend, name, rule, dtype)),
    )
    for backend in BACKENDS
    for name in CASE_NAMES[backend]
    for rule in RULES
    for dtype in ("float64", "float32")
]  # fmt: skip


def draw(found: Subject, count: int = 3) -> tuple[list, list, Any]:
    """Inputs, attributed values, targets."""
    arrays = found.case.draw(count, found.dtype, seed=1)
    x = found.reference.points(arrays)
    return arrays, x, found.target(found.reference.output(x, arrays))


def whole(parts: list) -> Any:
    return parts[0] if len(parts) == 1 else tuple(parts)


# --- complete --------------------------------------------------------------------------------


@pytest.mark.parametrize(("label", "rule", "dtype"), GRID)
def test_complete_on_every_architecture(label: str, rule: str, dtype: str) -> None:
    found = subject(label, dtype)
    case = found.case
    arrays, x, target = draw(found)
    method = methods.DeepLift(rule=rule)
    explain = Explainer.compile(found.model, method, inputs=case.given(arrays), **case.options())
    baseline = [np.random.default_rng(1).normal(size=a.shape).astype(dtype) for a in x]
    given = case.named(arrays) if case.by_name else arrays
    options = {"target": target, "baseline": whole(baseline)}
    result = explain.explanation(**given, **options) if case.by_name else explain.explanation(*given, **options)
    assert result.largest_gap <= GAP[dtype]
    high, low = found.reference.output(x, arrays), found.reference.output(baseline, arrays)
    change = ((high - low) * result.target).reshape(3, -1).sum(1)
    parts = result.attributions
    parts = list(parts.values()) if isinstance(parts, dict) else list(parts) if isinstance(parts, tuple) else [parts]
    total = sum(np.asarray(part, np.float64).reshape(3, -1).sum(1) for part in parts)
    assert (abs(total - change) <= 10 * GAP[dtype] * np.maximum(abs(change), 1e-2)).all()
    assert abs(change).max() > 1e-3


REFERENCES = [
    pytest.param(label, rule, id=f"{label}-{rule}", marks=slow_unless(label in SMALL or rule == "rescale"))
    for label in (*SMALL, "torch-cnn", "torch-tokens", "tensorflow-attention", "tensorflow-tokens")
    for rule in RULES
]


@pytest.mark.parametrize(("label", "rule"), REFERENCES)
def test_the_mean_over_references_is_the_mean(label: str, rule: str) -> None:
    """deeplift_shap is the mean of deeplift at each reference, however pairs are cut into packages."""
    found = subject(label, "float64")
    arrays, x, target = draw(found)
    table = [np.random.default_rng(2).normal(size=(4, *a.shape[1:])) for a in x]
    inputs = found.case.given(arrays)
    one = Explainer.compile(found.model, methods.DeepLift(rule=rule), inputs=inputs, **found.case.options())
    each = [found.case.explain(one, arrays, target=target, baseline=whole([t[i] for t in table])) for i in range(4)]
    want = [np.mean(parts, 0) for parts in zip(*each, strict=True)]
    options = {**found.case.options(), "batch_size": 5}
    explain = Explainer.compile(found.model, methods.DeepLiftShap(rule=rule), inputs=inputs, **options)
    for size in (5, 2, 64):
        got = found.case.explain(explain, arrays, target=target, baseline=References(whole(table)), batch_size=size)
        assert_close(got, want, 1e-10)


# --- known answers ---------------------------------------------------------------------------


def additive(backend: str) -> Any:
    """f(x) = Σ w·tanh(x) + x²: each input on its own."""
    w = np.array([1.5, -2.0, 0.5])
    if backend == "torch":
        import torch

        class Net(torch.nn.Module):
            def forward(self, x: torch.Tensor) -> torch.Tensor:
                return (torch.tanh(x) * torch.tensor(w) + x * x).sum(1)

        return Net()
    import tensorflow as tf

    return tf.function(
        lambda x: tf.reduce_sum(tf.tanh(x) * w + x * x, 1), input_signature=[tf.TensorSpec((None, 3), tf.float64)]
    )


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("name", ["deeplift", *DEEPLIFT])
def test_additive_functions_have_one_explanation(backend: str, name: str) -> None:
    """Integrated gradients = DeepLIFT = each input's own change."""
    x, b = np.random.default_rng(0).normal(size=(2, 4, 3))
    x[0, 0] = b[0, 0]
    model, w = additive(backend), np.array([1.5, -2.0, 0.5])
    want = w * (np.tanh(x) - np.tanh(b)) + x * x - b * b
    method = DEEPLIFT.get(name, name)
    if name == "deeplift_shap":
        explain = Explainer.compile(model, method, backend=backend)
        got = np.concatenate([explain(x[i : i + 1], baseline=References(b[i : i + 1])) for i in range(4)])
    else:
        got = Explainer.compile(model, method, backend=backend)(x, baseline=b)
    np.testing.assert_allclose(got, want, atol=1e-12)
    path = Explainer.compile(model, methods.IntegratedGradients(steps=60), backend=backend)(x, baseline=b)
    np.testing.assert_allclose(path, want, atol=1e-8)


@pytest.mark.parametrize("backend", BACKENDS)
def test_revealcancel_sees_what_cancels(backend: str) -> None:
    """ReLU(ReLU(x₁−1) − ReLU(x₂)) at (3, 1): h = 2 − 1, Δ⁺ = 2, Δ⁻ = −1, so ½[f(2) + f(1) − f(−1)] = 1.5 and −0.5."""
    from .test_known_answers import NETS, X

    got = Explainer.compile(NETS[backend](), methods.DeepLift(rule="revealcancel"), backend=backend)(X)
    np.testing.assert_allclose(got, [[1.5, -0.5]], atol=1e-12)


def of_two(backend: str, name: str) -> Any:
    """f(x, y) of the two entries of a row."""
    if backend == "torch":
        import torch

        class Net(torch.nn.Module):
            def forward(self, x: torch.Tensor) -> torch.Tensor:
                return getattr(torch, name)(x[:, 0], x[:, 1])

        return Net()
    import tensorflow as tf

    function = {"pow": tf.pow, "atan2": tf.atan2, "xlogy": tf.math.xlogy, "div": tf.divide}[name]
    return tf.function(lambda x: function(x[:, 0], x[:, 1]), input_signature=[tf.TensorSpec((None, 2), tf.float64)])


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize(
    ("name", "f"), [("pow", np.power), ("atan2", np.arctan2), ("xlogy", lambda x, y: x * np.log(y))]
)
def test_functions_of_two_are_shared_like_a_game_of_two(backend: str, name: str, f: Callable[..., Any]) -> None:
    """½[f(x,y) − f(r,y) + f(x,s) − f(r,s)] to the first: 4 of 2³ − 1¹ = 7 for a power at (2, 3)."""
    points, references = np.array([[2.0, 3], [1, 0.5], [1.5, 2]]), np.array([[1.0, 1], [0.7, 2], [1.5, 3]])
    (x, y), (r, s) = points.T, references.T
    want = np.stack([f(x, y) - f(r, y) + f(x, s) - f(r, s), f(x, y) - f(x, s) + f(r, y) - f(r, s)], 1) / 2
    if name == "pow":
        np.testing.assert_allclose(want[0], [4, 3])
    for rule in RULES:
        explain = Explainer.compile(of_two(backend, name), methods.DeepLift(rule=rule), backend=backend)
        np.testing.assert_allclose(explain(points, baseline=references), want, atol=1e-12)
    explain = Explainer.compile(of_two(backend, name), "deeplift_shap", backend=backend)
    each = [explain(points, baseline=References(references[i : i + 1])) for i in range(3)]
    np.testing.assert_allclose(explain(points, baseline=References(references)), np.mean(each, 0), atol=1e-12)
    np.testing.assert_allclose([each[i][i] for i in range(3)], want, atol=1e-12)


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_quotient_whose_divisor_changes_its_sign(backend: str) -> None:
    """All to the divisor: with y and s of two signs, x's shares m/y and m/s cancel. Of one sign, means of |y| count."""
    points, references = np.array([[2.0, 3], [1, -0.5], [1.5, 2]]), np.array([[1.0, -1], [0.7, 2], [1.0, 4]])
    (x, y), (r, s) = points.T, references.T
    change, one_sign = x / y - r / s, y * s > 0
    to_x = np.where(one_sign, 2 * (x - r) / (y + s), 0)
    for rule in RULES:
        explain = Explainer.compile(of_two(backend, "div"), methods.DeepLift(rule=rule), backend=backend)
        found = explain(points, baseline=references)
        np.testing.assert_allclose(found, np.stack([to_x, change - to_x], 1), atol=1e-12)


# --- a reference equal to the input ----------------------------------------------------------


EQUAL = [
    pytest.param(
        label, rule, dtype, id=f"{label}-{rule}-{dtype}",
        marks=slow_unless(label in SMALL or (dtype == "float32" and rule == "rescale" and "mixture" not in label)),
    )
    for label in (*SMALL, "torch-cnn", "torch-mixture", "tensorflow-cnn", "tensorflow-attention")
    for rule in RULES
    for dtype in ("float64", "float32")
]  # fmt: skip


@pytest.mark.parametrize(("label", "rule", "dtype"), EQUAL)
def test_a_reference_equal_to_the_input_gives_zeros(label: str, rule: str, dtype: str) -> None:
    found = subject(label, dtype)
    (x,), _, target = draw(found)
    explain = Explainer.compile(found.model, methods.DeepLift(rule=rule), inputs=x)
    assert (explain(x, target=target, baseline=x) == 0).all()
    some = x.copy()
    some[1, ..., :1] += 1  # equal in most entries only
    result = explain.explanation(some, target=target, baseline=x)
    assert (result.attributions[[0, 2]] == 0).all()
    assert (result.attributions[1, ..., 1:] == 0).all()
    assert abs(result.attributions[1]).max() > 0
    assert result.largest_gap <= GAP[dtype]


@pytest.mark.parametrize("label", SMALL)
def test_references_of_a_wrong_shape(label: str) -> None:
    found = subject(label, "float32")
    (x,), _, _ = draw(found)
    explain = Explainer.compile(found.model, "deeplift", inputs=x)
    for bad in (np.zeros(4), np.zeros((2, 5)), np.zeros((3, 4))):
        with pytest.raises(errors.BaselineError, match=r"baseline of shape .* one sample \(5,\)"):
            explain(x, target=1, baseline=bad)
    many = Explainer.compile(found.model, "deeplift_shap", inputs=x)
    with pytest.raises(errors.BaselineError, match=r"References of shape \(3, 4\) .* expected \('B', 5\)"):
        many(x, target=1, baseline=References(np.zeros((3, 4))))
    assert many(x, target=1, baseline=References(x)).shape == x.shape


# --- options ---------------------------------------------------------------------------------


def classifier(backend: str, last: str) -> tuple[Any, Any]:
    """A small net with and without its last activation, sharing weights."""
    if backend == "torch":
        import torch
        from torch import nn

        torch.manual_seed(4)
        logits = nn.Sequential(nn.Linear(5, 7), nn.ReLU(), nn.Linear(7, 3)).double()
        return nn.Sequential(logits, nn.Softmax(-1) if last == "softmax" else nn.Sigmoid()), logits
    import keras

    keras.utils.set_random_seed(4)
    given = keras.Input((5,), dtype="float64")
    hidden = keras.layers.Dense(7, "relu", dtype="float64")(given)
    logits = keras.layers.Dense(3, dtype="float64")(hidden)
    return keras.Model(given, keras.layers.Activation(last, dtype="float64")(logits)), keras.Model(given, logits)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("last", ["softmax", "sigmoid"])
@pytest.mark.parametrize("kind", [methods.DeepLift, methods.DeepLiftShap])
def test_logits_cuts_the_last_activation_off(backend: str, last: str, kind: Callable[..., Any]) -> None:
    model, logits = classifier(backend, last)
    x, b = np.random.default_rng(0).normal(size=(2, 4, 5))
    baseline: Any = References(b) if kind is methods.DeepLiftShap else b
    got = Explainer.compile(model, kind(logits=True), inputs=x)(x, target=2, baseline=baseline)
    want = Explainer.compile(logits, kind(), inputs=x)(x, target=2, baseline=baseline)
    assert_close([got], [want], 1e-12)
    uncut = Explainer.compile(model, kind(), inputs=x)(x, target=2, baseline=baseline)
    assert abs(uncut - want).max() > 1e-2 * abs(want).max()


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("rule", RULES)
def test_mean_normalized_subtracts_the_mean_over_classes(backend: str, rule: str) -> None:
    _, model = classifier(backend, "softmax")
    x, b = np.random.default_rng(0).normal(size=(2, 4, 5))
    plain = Explainer.compile(model, methods.DeepLift(rule=rule), inputs=x)
    explain = Explainer.compile(model, methods.DeepLift(rule=rule, mean_normalized=True), inputs=x)
    each = [plain(x, target=t, baseline=b) for t in range(3)]
    result = explain.explanation(x, target=1, baseline=b)
    assert_close([result.attributions], [each[1] - np.mean(each, 0)], 1e-12)
    mask = np.array([-1, 2, -1]) / 3
    assert_close([result.attributions], [plain(x, target=mask, baseline=b)], 1e-12)
    assert result.largest_gap < 1e-9


def sorting() -> Any:
    import tensorflow as tf

    w = np.random.default_rng(1).normal(size=(3, 2))

    @tf.function(input_signature=[tf.TensorSpec((None, 4), tf.float64)])
    def net(x: Any) -> Any:
        return tf.math.top_k(x * x, 3).values @ w

    return net


def test_an_operation_of_tensorflow_without_a_rule() -> None:
    """It is named, coverage prints; the opt-out is recorded. torch: test_coverage.py."""
    x = np.random.default_rng(3).normal(size=(3, 4))
    with pytest.raises(errors.UnsupportedOperation, match=r"deeplift_rescale.*TopKV2") as caught:
        Explainer.compile(sorting(), "deeplift", inputs=x)
    assert [row.op for row in caught.value.coverage.unsupported] == ["TopKV2"]
    assert "unsupported" in str(caught.value.coverage)
    explain = Explainer.compile(sorting(), methods.DeepLift(unsupported="gradient"), inputs=x)
    found = explain.explanation(x, target=1, baseline=np.roll(x, 1, axis=1))
    assert [row.op for row in found.approximations] == ["TopKV2"]
    assert abs(found.completeness_gap).max() > 1e-3
    assert "approximate" in str(explain.coverage)


# --- cached references -----------------------------------------------------------------------


def changed(backend: str, model: Any) -> None:
    """Other weights, in place."""
    generator = np.random.default_rng(9)
    if backend == "torch":
        import torch

        with torch.no_grad():
            for weight in model.parameters():
                weight += torch.tensor(generator.normal(size=tuple(weight.shape)) * 0.3)
    else:
        for weight in model.trainable_weights:
            weight.assign_add(generator.normal(size=tuple(weight.shape)) * 0.3)


REFRESHED = [
    pytest.param(
        label, name, fixed, id=f"{label}-{name}-{fixed}",
        marks=slow_unless(fixed == "at compile" and (label in SMALL or name in ("deeplift-rescale", "deeplift_shap"))),
    )
    for label in (*SMALL, "torch-residual", "tensorflow-functional")
    for name in DEEPLIFT
    for fixed in ("at compile", "at the call")
]  # fmt: skip


@pytest.mark.parametrize(("label", "name", "fixed"), REFRESHED)
def test_refresh_is_a_fresh_compile(label: str, name: str, fixed: str) -> None:
    found = subject(label, "float64")
    backend, build = found.case.backend, found.case.build
    model = build("float64")
    (x,), _, target = draw(found)
    table = np.random.default_rng(5).normal(size=(3, *x.shape[1:]))
    baseline: Any = References(table) if name == "deeplift_shap" else table[0]
    at, later = ({"baseline": baseline}, {}) if fixed == "at compile" else ({}, {"baseline": baseline})
    explain = Explainer.compile(model, DEEPLIFT[name], inputs=x, **at)
    before = explain(x, target=target, **later)
    assert_close([explain(x, target=target, **later)], [before], 1e-14)
    traces = explain.stats.traces
    changed(backend, model)
    if backend == "torch":  # tells by itself that its weights were written to
        unasked = explain(x, target=target, **later)
    explain.refresh()
    after = explain(x, target=target, **later)
    want = Explainer.compile(model, DEEPLIFT[name], inputs=x, **at)(x, target=target, **later)
    assert_close([after], [want], 1e-12)
    assert abs(after - before).max() > 1e-2 * abs(before).max()
    assert explain.stats.traces == traces
    if backend == "torch":
        assert_close([unasked], [want], 1e-12)


@pytest.mark.parametrize("label", SMALL)
def test_a_new_reference_is_taken_without_a_trace(label: str) -> None:
    """Also one that is written over where it lies."""
    found = subject(label, "float64")
    (x,), _, target = draw(found)
    r = np.random.default_rng(6).normal(size=5)
    explain = Explainer.compile(found.model, "deeplift", inputs=x)
    traces = explain.stats.traces
    first = explain(x, target=target, baseline=r)
    r[:] = np.random.default_rng(7).normal(size=5)
    second = explain(x, target=target, baseline=r)
    assert abs(second - first).max() > 1e-3
    assert_close([second], [Explainer.compile(found.model, "deeplift", inputs=x, baseline=r)(x, target=target)], 1e-12)
    assert explain.stats.traces == traces

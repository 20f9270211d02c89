"""TensorFlow models that cannot be traced, and models of words: methods that need only outputs call them."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers

from explainers import Explainer, References, TensorSpec, methods
from explainers.errors import BaselineError, InputError, TargetError, TraceError, UnsupportedOperation

from ..contract.state import fingerprint


def trained() -> Any:
    keras.utils.set_random_seed(0)
    model = keras.Sequential([layers.Input((4,)), layers.Dense(8, "relu"), layers.Dropout(0.3), layers.Dense(3)])
    x = np.random.default_rng(0).normal(size=(200, 4)).astype("float32")
    labels = np.stack([x[:, 0] * x[:, 1], x[:, 2], x[:, 3]], 1).argmax(1)
    model.compile("adam", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    model.optimizer.learning_rate = 0.03
    model.fit(x, labels, epochs=15, verbose=0)
    return model


NET = trained()
X = np.random.default_rng(3).normal(size=(4, 4)).astype("float32")
TARGET = [1, 0, 2, 1]


class Python(tf.Module):
    """Runs Python code."""

    def __call__(self, x: Any) -> Any:
        return tf.py_function(lambda given: NET(given), [x], tf.float32)


def halved(x: Any) -> Any:
    """A loop that depends on the values, different for each sample, and an output without floats."""
    rows = []
    for row in NET(x):
        while float(tf.reduce_max(tf.abs(row))) > 1.0:
            row = row / 2
        rows.append(row)
    found = tf.stack(rows)
    return {"scores": found, "labels": tf.argmax(found, 1)}


@tf.function
def mapped(x: Any) -> Any:
    found = tf.map_fn(lambda row: row * 1.0, NET(x))
    while tf.reduce_any(tf.abs(found) > 1e6):
        found = found / 2
    return found


def numpy_inside(x: Any) -> Any:
    return np.tanh(NET(x).numpy())


MODELS: dict[str, tuple[Any, dict[str, Any]]] = {
    "py_function": (Python(), {}),
    "loop over values": (halved, {"backend": "tensorflow", "output": "scores"}),
    "map_fn": (mapped, {}),
    "numpy inside": (numpy_inside, {"backend": "tensorflow"}),
}


def value(name: str, x: np.ndarray) -> np.ndarray:
    model, options = MODELS[name]
    result = model(tf.constant(x))
    return np.asarray(result[options["output"]] if "output" in options else result)


def shapley(output: Callable[[np.ndarray], np.ndarray], x: np.ndarray, b: np.ndarray) -> np.ndarray:
    """By all subsets of one sample's elements; ``output``: of a batch, one number each."""
    count = x.size
    result = np.zeros(count)
    for i in range(count):
        others = [j for j in range(count) if j != i]
        for size in range(count):
            share = math.factorial(size) * math.factorial(count - size - 1) / math.factorial(count)
            for subset in itertools.combinations(others, size):
                kept = np.isin(np.arange(count), subset)
                points = np.stack([np.where(kept | (np.arange(count) == i), x, b), np.where(kept, x, b)])
                gain, lost = output(points)
                result[i] += share * (gain - lost)
    return result


@pytest.mark.parametrize("name", MODELS)
def test_equals_the_naive_form(name: str) -> None:
    model, options = MODELS[name]
    explain = Explainer.compile(model, "exact_shapley", engine="eager", **options)
    want = [shapley(lambda p, t=t: value(name, p)[:, t], x, 0 * x) for x, t in zip(X, TARGET, strict=True)]
    assert np.abs(want).max() > 0.1
    got = explain(tf.constant(X), target=TARGET)
    np.testing.assert_allclose(got, want, atol=1e-5)
    assert isinstance(got, tf.Tensor)
    assert explain(X, target=TARGET).dtype == np.float32
    np.testing.assert_allclose(explain(X[1:2], target=0), got[1:2], atol=1e-6)
    np.testing.assert_allclose(explain(X, target=TARGET, batch_size=3), got, atol=1e-6)
    np.testing.assert_allclose(explain.predict(X), value(name, X), atol=1e-6)
    with ThreadPoolExecutor(4) as pool:
        assert all(np.array_equal(each, got) for each in pool.map(lambda _: explain(X, target=TARGET), range(8)))
    assert explain.stats.traces <= 2


@pytest.mark.parametrize("name", MODELS)
def test_the_error_leads_to_the_engine(name: str) -> None:
    model, options = MODELS[name]
    with pytest.raises(TraceError, match=r"(.|\n)*'occlusion' needs only outputs: engine='eager' calls the model"):
        Explainer.compile(model, "occlusion", **options)(X, target=1)
    with pytest.raises(TraceError, match=r"(.|\n)*'gradient' needs the trace.*engine='eager'.*'occlusion'"):
        Explainer.compile(model, "gradient", **options)(X, target=1)


def test_random_models() -> None:
    def noisy(x: Any) -> Any:
        return NET(x) + tf.random.normal((3,))

    with pytest.raises(InputError, match="different outputs for the same samples: it draws random numbers"):
        Explainer.compile(noisy, "occlusion", backend="tensorflow", engine="eager")(X, target=1)
    with pytest.raises(TraceError, match="draws random numbers in inference") as told:
        Explainer.compile(noisy, "occlusion", backend="tensorflow")(X, target=1)
    assert "engine='eager'" not in str(told.value)


def test_the_model_is_untouched() -> None:
    """Its layers would collect losses at each call."""
    keras.utils.set_random_seed(1)
    model = keras.Sequential(
        [layers.Input((4,)), layers.Dense(3, activity_regularizer="l2"), layers.BatchNormalization()]
    )
    before, losses = fingerprint("tensorflow", model), list(model._flatten_layers())[1]._losses[:]
    explain = Explainer.compile(model, "occlusion", engine="eager")
    explain(X, target=1)
    with pytest.raises(TargetError):
        explain(X, target=9)
    assert fingerprint("tensorflow", model) == before
    assert list(model._flatten_layers())[1]._losses == losses
    model.layers[0].kernel.assign(2 * model.layers[0].kernel)  # weights are read at each call
    np.testing.assert_allclose(explain.predict(X), model(X), rtol=1e-6)


def test_sizes_that_vary() -> None:
    def longest(x: Any) -> Any:
        return tf.stack([tf.reduce_sum(row[: int(tf.argmax(row)) + 1], keepdims=True) for row in x])

    inputs = TensorSpec((None, None), name="x")
    explain = Explainer.compile(longest, "exact_shapley", backend="tensorflow", engine="eager", inputs=inputs)
    for size in (2, 4):
        want = [shapley(lambda p: longest(tf.constant(p))[:, 0].numpy(), x, 0 * x) for x in X[:, :size]]
        np.testing.assert_allclose(explain(X[:, :size]), want, atol=1e-6)


# --- words -----------------------------------------------------------------------------------

WORDS = np.array([["a", "b", "q"], ["b", "b", "a"], ["c", "", "a"]])


def sentence() -> Any:
    keras.utils.set_random_seed(0)
    given = layers.Input((3,), dtype="string", name="words")
    ids = layers.StringLookup(vocabulary=["a", "b", "c"])(given)
    mixed = layers.Dense(4, "tanh")(layers.Flatten()(layers.Embedding(5, 3)(ids)))
    return keras.Model(given, layers.Dense(2, "tanh")(mixed))


@pytest.mark.parametrize("engine", ["graph", "eager"])
@pytest.mark.parametrize("baseline", ["", "c", np.array(["a", "c", ""])], ids=["empty", "word", "words"])
def test_words_are_attributed(engine: str, baseline: Any) -> None:
    model = sentence()
    explain = Explainer.compile(model, "exact_shapley", engine=engine, baseline=baseline)
    base = np.broadcast_to(np.asarray(baseline, object), (3,))
    want = [
        shapley(lambda p: model(tf.constant(p.astype(str)))[:, 1].numpy(), words.astype(object), base)
        for words in WORDS
    ]
    assert np.abs(want).max() > 1e-3
    for given in (WORDS, tf.constant(WORDS), WORDS.tolist()):
        got = explain(given, target=1)
        np.testing.assert_allclose(got, want, atol=1e-6)
    assert explain(WORDS, target=1).dtype == np.float32
    own = References(np.broadcast_to(base, (3, 1, 3)), per_sample=True)
    each = explain(WORDS, target=1, baseline=own)
    np.testing.assert_allclose(each, want, atol=1e-6)
    np.testing.assert_allclose(explain(WORDS, target=1, baseline=tf.constant(base.astype(str))), want, atol=1e-6)


@pytest.mark.parametrize("engine", ["graph", "eager"])
def test_words_and_numbers_together(engine: str) -> None:
    keras.utils.set_random_seed(0)
    words, number = layers.Input((1,), dtype="string", name="kind"), layers.Input((2,), name="number")
    looked = layers.StringLookup(vocabulary=["a", "b"], output_mode="one_hot")(words)
    model = keras.Model([words, number], layers.Dense(2, "tanh")(layers.Concatenate()([looked, number])))
    method = methods.ShapleySampling(permutations=6)  # all orders of three features, antithetic: exact
    explain = Explainer.compile(model, "exact_shapley", engine=engine, wrt=["kind", "number"])
    given = {"kind": np.array([["b"], ["a"]]), "number": X[:2, :2]}
    found = explain(given, target=0, baseline={"kind": "", "number": 0.0})
    change = model([tf.constant(given["kind"]), tf.constant(given["number"])])[:, 0]
    change = change - model([tf.constant([[""], [""]]), tf.zeros((2, 2))])[:, 0]
    np.testing.assert_allclose(found["kind"].sum(1) + found["number"].sum(1), change, atol=1e-6)
    assert abs(found["kind"]).min() > 1e-3
    sampled = Explainer.compile(model, method, engine=engine, wrt=["kind", "number"])
    again = sampled(given, target=0, baseline={"kind": "", "number": 0.0})
    np.testing.assert_allclose(again["kind"].sum(1) + again["number"].sum(1), change, atol=1e-6)


def test_words_come_back_from_a_file(tmp_path: Any) -> None:
    explain = Explainer.compile(sentence(), "exact_shapley", baseline="c")
    explain.save(tmp_path / "words.explainer")
    loaded = Explainer.load(tmp_path / "words.explainer")
    np.testing.assert_array_equal(loaded(WORDS, target=1), explain(WORDS, target=1))


def test_what_words_cannot_be() -> None:
    explain = Explainer.compile(sentence(), "occlusion")
    for wrong in (None, 0, np.zeros(3)):
        with pytest.raises(BaselineError, match=r"the baseline of words: string\[batch, 3\] must be words"):
            explain(WORDS, target=1, baseline=wrong)
    with pytest.raises(BaselineError, match=r"baseline of shape \(2,\) for words"):
        explain(WORDS, target=1, baseline=np.array(["a", "b"]))
    with pytest.raises(BaselineError, match=r"dtype object; numbers are needed"):
        Explainer.compile(NET, "occlusion")(X, target=1, baseline="a")
    with pytest.raises(InputError, match="not floating-point, which 'gradient' needs"):
        Explainer.compile(sentence(), "gradient", wrt="words")
    with pytest.raises(UnsupportedOperation, match="'xla' takes no words"):
        Explainer.compile(sentence(), "occlusion", engine="xla", baseline="")(WORDS, target=1)

"""Models that look words and categories up: explained towards their numbers, against GradientTape and all subsets."""

from __future__ import annotations

import functools
import gc
import itertools
import math
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers

from explainers import Explainer, References
from explainers.errors import ArtifactError, InputError, TraceError, UnsupportedOperation

X = np.random.default_rng(0).normal(size=(2, 4)).astype("float32")
WORDS = np.array([["berry"], ["other"]])
NUMBERS = np.array([[20], [7]])
KINDS: dict[str, tuple[str, Any, Any]] = {
    "StringLookup": (
        "string",
        lambda: layers.StringLookup(vocabulary=["apple", "berry"], output_mode="one_hot"),
        WORDS,
    ),
    "IntegerLookup": ("int64", lambda: layers.IntegerLookup(vocabulary=[10, 20], output_mode="one_hot"), NUMBERS),
    "Hashing": ("string", lambda: layers.Hashing(5, output_mode="one_hot"), WORDS),
}


@functools.cache
def model_of(name: str) -> Any:
    keras.utils.set_random_seed(0)
    kind, lookup, _ = KINDS[name]
    category, number = layers.Input((1,), dtype=kind, name="category"), layers.Input((4,), name="number")
    joined = layers.Concatenate()([lookup()(category), layers.Dense(3, "relu")(number)])
    return keras.Model([category, number], layers.Dense(2, "tanh")(joined))


@functools.cache
def sentence() -> Any:
    keras.utils.set_random_seed(0)
    given = layers.Input((3,), dtype="string", name="words")
    embedded = layers.Embedding(4, 3, name="embedding")(layers.StringLookup(vocabulary=["a", "b"])(given))
    return keras.Model(given, layers.Dense(2, "tanh")(layers.Flatten()(embedded)))


def value(model: Any, category: Any, number: Any) -> Any:
    return model([tf.constant(category), tf.constant(number)])[:, 1]


def tape(model: Any, category: Any, number: Any) -> Any:
    given = tf.constant(number)
    with tf.GradientTape() as taped:
        taped.watch(given)
        out = tf.reduce_sum(value(model, category, given))
    return taped.gradient(out, given).numpy()


def shapley(model: Any, category: Any, number: Any) -> Any:
    """By all subsets, from a zero baseline."""
    count = number.shape[1]
    result = np.zeros_like(number)
    for i in range(count):
        others = [j for j in range(count) if j != i]
        for size in range(count):
            share = math.factorial(size) * math.factorial(count - size - 1) / math.factorial(count)
            for subset in itertools.combinations(others, size):
                kept = np.isin(np.arange(count), subset)
                with_it = kept | (np.arange(count) == i)
                gain = value(model, category, number * with_it) - value(model, category, number * kept)
                result[:, i] += share * gain.numpy()
    return result


@pytest.mark.parametrize("engine", ["graph", "eager"])
@pytest.mark.parametrize("name", KINDS)
def test_gradient_of_the_numbers(name: str, engine: str) -> None:
    model, given = model_of(name), KINDS[name][2]
    explain = Explainer.compile(model, "gradient", wrt="number", engine=engine)
    want = tape(model, given, X)
    np.testing.assert_allclose(explain(given, X, target=1), want, rtol=1e-5, atol=1e-7)
    np.testing.assert_allclose(explain(tf.constant(given), tf.constant(X), target=1), want, rtol=1e-5, atol=1e-7)
    np.testing.assert_allclose(explain(given.tolist(), X, target=1), want, rtol=1e-5, atol=1e-7)
    np.testing.assert_allclose(explain(given[1:], X[1:], target=1), want[1:], rtol=1e-5, atol=1e-7)
    np.testing.assert_allclose(explain.predict(given, X), model([tf.constant(given), tf.constant(X)]), rtol=1e-5)


@pytest.mark.parametrize("name", KINDS)
def test_shapley_values_of_the_numbers(name: str) -> None:
    model, given = model_of(name), KINDS[name][2]
    got = Explainer.compile(model, "kernel_shap", wrt="number")(given, X, target=1)
    np.testing.assert_allclose(got, shapley(model, given, X), rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("method", ["integrated_gradients", "deeplift", "deeplift_shap"])
@pytest.mark.parametrize("name", ["StringLookup", "IntegerLookup"])
def test_complete_for_the_words_at_hand(name: str, method: str) -> None:
    """Each sample against its own words; the same twice, then the other way round: references are not mixed up."""
    model, given = model_of(name), KINDS[name][2]
    explain = Explainer.compile(model, method, wrt="number")
    extra = {"baseline": References(np.zeros((2, 4), "float32"))} if method == "deeplift_shap" else {}
    for category in (given, given, given[::-1], given[[0, 0]], given[[1, 1]]):
        change = value(model, category, X) - value(model, category, 0 * X)
        got = explain(category, X, target=1, **extra).sum(1)
        np.testing.assert_allclose(got, change, rtol=1e-4, atol=1e-5)


def test_a_layer_behind_the_words() -> None:
    model, words = sentence(), np.array([["a", "b", "q"], ["b", "b", "a"]])
    ids = tf.constant([[1, 2, 0], [2, 2, 1]])
    embedding, head = model.get_layer("embedding"), model.layers[-1]
    with tf.GradientTape() as taped:
        embedded = embedding(ids)
        taped.watch(embedded)
        out = tf.reduce_sum(head(tf.reshape(embedded, (2, 9)))[:, 1])
    got = Explainer.compile(model, "gradient", wrt="embedding")(words, target=1)
    np.testing.assert_allclose(got, taped.gradient(out, embedded), rtol=1e-5)
    np.testing.assert_allclose(Explainer.compile(model, "gradient", wrt="embedding")(words.tolist(), target=1), got)


@pytest.mark.parametrize("name", KINDS)
def test_files_hold_the_table(name: str, tmp_path: Path) -> None:
    model, given = model_of(name), KINDS[name][2]
    Explainer.compile(model, "gradient", wrt="number").save(tmp_path / "a.explainer")
    loaded = Explainer.load(tmp_path / "a.explainer")
    np.testing.assert_allclose(loaded(given, X, target=1), tape(model, given, X), rtol=1e-5, atol=1e-7)
    loaded.save(tmp_path / "b.explainer")
    again = Explainer.load(tmp_path / "b.explainer").warmup(2)
    np.testing.assert_allclose(again(given, X, target=1), tape(model, given, X), rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("name", ["StringLookup", "IntegerLookup"])
def test_a_saved_model_holds_the_table(name: str, tmp_path: Path) -> None:
    model, given = model_of(name), KINDS[name][2]
    model.export(tmp_path / "model", verbose=False)
    explain = Explainer.compile(tmp_path / "model", "gradient", wrt="number")
    want = tape(model, given, X)
    np.testing.assert_allclose(explain(category=given, number=X, target=1)["number"], want, rtol=1e-5, atol=1e-7)
    explain.save(tmp_path / "a.explainer")
    loaded = Explainer.load(tmp_path / "a.explainer")
    np.testing.assert_allclose(loaded(category=given, number=X, target=1)["number"], want, rtol=1e-5, atol=1e-7)


class Prices(tf.Module):
    """Numbers by word."""

    def __init__(self) -> None:
        super().__init__()
        entries = tf.lookup.KeyValueTensorInitializer(["apple", "berry"], [2.0, 3.0])
        self.table = tf.lookup.StaticHashTable(entries, -1.0)

    @tf.function(input_signature=[tf.TensorSpec((None, 1), tf.string, "words"), tf.TensorSpec((None, 4), name="x")])
    def __call__(self, words: Any, x: Any) -> Any:
        return self.table.lookup(words) * x**2


def test_a_table_of_numbers_outlives_its_model(tmp_path: Path) -> None:
    explain = Explainer.compile(Prices(), "gradient")
    gc.collect()
    want = np.array([[3.0], [-1.0]]) * 2 * X * [0, 1, 0, 0]
    np.testing.assert_allclose(explain(WORDS, X, target=1), want, rtol=1e-6)
    explain.save(tmp_path / "a.explainer")
    np.testing.assert_allclose(Explainer.load(tmp_path / "a.explainer")(WORDS, X, target=1), want, rtol=1e-6)


def test_a_table_that_is_no_part_of_the_model(tmp_path: Path) -> None:
    prices = Prices()

    @tf.function(input_signature=[tf.TensorSpec((None, 1), tf.string), tf.TensorSpec((None, 4))])
    def function(words: Any, x: Any) -> Any:
        return prices.table.lookup(words) * x

    explain = Explainer.compile(function, "gradient")
    np.testing.assert_allclose(explain(WORDS, X, target=1)[:, 1], [3, -1])
    with pytest.raises(ArtifactError, match="table that is no part of it"):
        explain.save(tmp_path / "a.explainer")


def test_a_table_that_changes_is_followed() -> None:
    class Changing(tf.Module):
        def __init__(self) -> None:
            super().__init__()
            self.table = tf.lookup.experimental.MutableHashTable(tf.string, tf.float32, -1.0)

        @tf.function(input_signature=[tf.TensorSpec((None, 1), tf.string), tf.TensorSpec((None, 4))])
        def __call__(self, words: Any, x: Any) -> Any:
            return tf.tanh(self.table.lookup(words) * (x + 1))

    model = Changing()
    explain = Explainer.compile(model, "deeplift")
    for price in (0.5, 0.8):
        model.table.insert(["berry"], [price])
        got = explain(WORDS[[0, 0]], X, target=1).sum(1)  # the reference of one word for all is kept
        np.testing.assert_allclose(got, np.tanh(price * (X + 1))[:, 1] - np.tanh(price), rtol=1e-4, atol=1e-6)


def test_a_model_that_writes_to_its_table_is_refused() -> None:
    class Counting(tf.Module):
        def __init__(self) -> None:
            super().__init__()
            self.table = tf.lookup.experimental.MutableHashTable(tf.string, tf.float32, -1.0)

        @tf.function(input_signature=[tf.TensorSpec((None, 1), tf.string), tf.TensorSpec((None, 4))])
        def __call__(self, words: Any, x: Any) -> Any:
            found = self.table.lookup(words)
            self.table.insert(words, found + 1)
            return found * x

    with pytest.raises(TraceError, match=r"LookupTableInsert.*in inference"):
        Explainer.compile(Counting(), "gradient")


def test_samples_that_see_one_another_are_found_beside_words() -> None:
    prices = Prices()

    @tf.function(input_signature=[tf.TensorSpec((None, 1), tf.string), tf.TensorSpec((None, 4))])
    def centred(words: Any, x: Any) -> Any:
        return prices.table.lookup(words) * (x - tf.reduce_mean(x, 0))

    with pytest.raises(InputError, match="see one another"):
        Explainer.compile(centred, "gradient")


def test_words_cannot_be_served() -> None:
    serve = pytest.importorskip("explainers.serve")
    with pytest.raises(InputError, match=r"category: string.*cannot be served"):
        serve.app({"words": Explainer.compile(model_of("StringLookup"), "gradient", wrt="number")})


def test_what_cannot_be_is_said() -> None:
    model = model_of("StringLookup")
    with pytest.raises(UnsupportedOperation, match=r"xla.*words.*'category'.*engine='graph'"):
        Explainer.compile(model, "gradient", wrt="number", engine="xla")(WORDS, X, target=1)
    with pytest.raises(UnsupportedOperation, match=r"xla.*LookupTableFindV2.*engine='graph'"):
        Explainer.compile(model_of("IntegerLookup"), "gradient", wrt="number", engine="xla")(NUMBERS, X, target=1)
    with pytest.raises(InputError, match=r"category: string\[batch, 1\] is not floating-point"):
        Explainer.compile(model, "gradient", wrt="category")
    explain = Explainer.compile(model, "gradient", wrt="number")
    for wrong in (X[:, :1], NUMBERS, np.array([["apple"], [None]], object)):
        with pytest.raises(InputError, match=r"'category' has dtype .*, the model takes string"):
            explain(wrong, X, target=1)
    with pytest.raises(InputError, match=r"'number' has dtype str.*, the model takes float32"):
        explain(WORDS, WORDS, target=1)
    with pytest.raises(InputError, match=r"'category' has shape \(2, 2\)"):
        explain(np.tile(WORDS, 2), X, target=1)

"""What TensorFlow raises while a kernel is compiled or run comes as an error of ours, by operation and reason."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers

from explainers import Explainer
from explainers.errors import InputError, UnsupportedOperation
from explainers_tensorflow import BACKEND
from explainers_tensorflow.kernel import run_error

X = np.random.default_rng(0).normal(size=(2, 4, 4, 1)).astype("float32")


def bicubic(x: Any) -> Any:
    return tf.image.resize(x, (8, 8), "bicubic")


def bessel(x: Any) -> Any:
    return tf.math.bessel_i0(x)


def text_size(x: Any) -> Any:
    return x * tf.cast(tf.size(tf.strings.as_string(x)[:1]), x.dtype)


LACKED: dict[str, Callable[[Any], Any]] = {"ResizeBicubic": bicubic, "BesselI0": bessel, "AsString": text_size}


class Function(layers.Layer):
    def __init__(self, function: Callable[[Any], Any]) -> None:
        super().__init__()
        self.function = function

    def call(self, x: Any) -> Any:
        return self.function(x)


def model_of(name: str) -> Any:
    keras.utils.set_random_seed(0)
    given = keras.Input((4, 4, 1))
    return keras.Model(given, layers.Dense(2)(layers.Flatten()(Function(LACKED[name])(given))))


@pytest.mark.parametrize("name", LACKED)
def test_what_xla_lacks_is_named(name: str, tmp_path: Path) -> None:
    explain = Explainer.compile(model_of(name), "gradient", engine="xla")
    expected = rf"engine 'xla' cannot .*'{name}' \(node '.*engine='graph'.*No registered '{name}'"
    for call in (lambda: explain(X, target=0), lambda: explain.predict(X)):
        with pytest.raises(UnsupportedOperation, match=expected) as caught:
            call()
        assert isinstance(caught.value.__cause__, tf.errors.OpError)
    explain.save(tmp_path / "a.explainer")
    with pytest.raises(UnsupportedOperation, match=f"engine 'xla'.*'{name}'"):
        Explainer.load(tmp_path / "a.explainer")(X, target=0)
    ablation = Explainer.compile(model_of(name), "feature_ablation", engine="xla")
    with pytest.raises(UnsupportedOperation, match=f"engine 'xla'.*'{name}'"):
        ablation(X, target=0)
    assert np.isfinite(Explainer.compile(model_of(name), "gradient")(X, target=0)).all()


@pytest.mark.parametrize("engine", ["graph", "eager"])
def test_an_input_that_the_model_cannot_take_is_named(engine: str) -> None:
    model = keras.Sequential([keras.Input((3,), dtype="int32"), layers.Embedding(5, 4, name="words"),
                              layers.Flatten(), layers.Dense(2)])  # fmt: skip
    explain = Explainer.compile(model, "gradient", wrt="words", engine=engine)
    with pytest.raises(InputError, match=r"operation 'GatherV2'.*on these inputs.*99 is not in \[0, 5\)"):
        explain(np.full((2, 3), 99, "int32"), target=0)
    assert explain(np.full((2, 3), 4, "int32"), target=0).shape == (2, 3, 4)


@pytest.mark.parametrize("engine", ["graph", "xla", "eager"])
def test_failures_of_the_device_stay_what_they_are(engine: str) -> None:
    for error in (
        tf.errors.ResourceExhaustedError(None, None, "OOM when allocating tensor with shape[9,9]"),
        tf.errors.InternalError(None, None, "RESOURCE_EXHAUSTED: Out of memory while trying to allocate 9 bytes"),
    ):
        assert run_error(error, engine, None) is None
    assert BACKEND.is_out_of_memory(tf.errors.ResourceExhaustedError(None, None, "OOM"))


def test_out_of_memory_still_halves_the_package(monkeypatch: pytest.MonkeyPatch) -> None:
    explain = Explainer.compile(model_of("BesselI0"), "gradient")
    from explainers_tensorflow.kernel import TensorFlowKernel

    run = TensorFlowKernel._run

    def full(self: Any, arguments: Any) -> Any:
        if arguments[0].shape[0] > 1:
            raise tf.errors.ResourceExhaustedError(None, None, "OOM when allocating tensor")
        return run(self, arguments)

    want = explain(X, target=0)
    monkeypatch.setattr(TensorFlowKernel, "_run", full)
    np.testing.assert_array_equal(explain(X, target=0, batch_size=2), want)
    assert explain.stats.out_of_memory

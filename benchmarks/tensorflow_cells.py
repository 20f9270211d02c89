"""The timed candidates on TensorFlow: the explainer, a hand-written ``tf.function``, an eager tape, a forward pass."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from keras import layers

from explainers import Explainer, methods

from .report import STEPS, Line
from .timing import rounds

MODELS = ("mlp", "cnn")
LARGE_BATCH: dict[str, int] = {}


def versions() -> str:
    kernels = "off" if os.environ.get("TF_ENABLE_ONEDNN_OPTS") == "0" else "as by default"
    return f"tensorflow {tf.__version__}, oneDNN {kernels}, keras {keras.__version__}"


def model(name: str) -> Any:
    keras.utils.set_random_seed(0)
    if name == "mlp":
        return keras.Sequential(
            [keras.Input((784,)), layers.Dense(1024, "relu"), layers.Dense(1024, "relu"), layers.Dense(10)]
        )
    return keras.Sequential([
        keras.Input((28, 28, 1)), layers.Conv2D(6, 5, padding="same", activation="relu"), layers.MaxPooling2D(),
        layers.Conv2D(16, 5, activation="relu"), layers.MaxPooling2D(), layers.Flatten(),
        layers.Dense(120, "relu"), layers.Dense(84, "relu"), layers.Dense(10),
    ])  # fmt: skip


def cell(name: str, method: str, batch: int, seconds: float) -> Line:
    """One line of the table."""
    net = model(name)
    x = np.random.default_rng(0).standard_normal((batch, *net.input_shape[1:])).astype("float32")
    value = methods.Saliency() if method == "saliency" else methods.IntegratedGradients(STEPS)
    explain = Explainer.compile(net, value)
    rows = batch if method == "saliency" else batch * STEPS
    package = min(rows, explain.stats.batch_size)
    repeated = np.repeat(x, rows // batch, 0)
    parts = [tf.constant(repeated[start : start + package]) for start in range(0, rows, package)]
    tensor = tf.constant(x)

    def over(run: Callable[[Any], Any]) -> Callable[[], list[Any]]:
        return lambda: [run(part) for part in parts]

    absolute = method == "saliency"
    spec = [tf.TensorSpec((None, *x.shape[1:]), tf.float32)]
    candidates: dict[str, Callable[[], object]] = {
        "forward": over(tf.function(lambda z: net(z, training=False), input_signature=spec)),
        "explain": lambda: explain(tensor, target=1),
        "hand": over(tf.function(by_hand(net, absolute), input_signature=spec)),
        "eager tape": over(by_tape(net, absolute)),
    }
    if absolute:
        expected = over(by_tape(net, True))()[0].numpy()
        np.testing.assert_allclose(explain(tensor, target=1).numpy(), expected, rtol=1e-3, atol=1e-3 * expected.max())
    title = {"mlp": "Keras MLP 784-1024-1024-10", "cnn": "Keras LeNet 28×28"}[name]
    return Line("tensorflow", name, title, method, batch, package, rounds(candidates, seconds))


def by_hand(net: Any, absolute: bool) -> Callable[[Any], Any]:
    def run(z: Any) -> Any:
        (grad,) = tf.gradients(net(z, training=False)[:, 1], z)
        return abs(grad) if absolute else grad

    return run


def by_tape(net: Any, absolute: bool) -> Callable[[Any], Any]:
    def run(z: Any) -> Any:
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch(z)
            score = net(z, training=False)[:, 1]
        grad = tape.gradient(score, z)
        return abs(grad) if absolute else grad

    return run


def overhead(seconds: float) -> list[tuple[str, float]]:
    """Microseconds of Python in a warm call: the time of explain(x) minus that of its compiled function."""
    net = keras.Sequential([keras.Input((784,)), layers.Dense(8, "relu"), layers.Dense(10)])
    explain = Explainer.compile(net, "saliency")
    x = tf.random.normal((1, 784))
    array = x.numpy()
    arguments = (x, tf.one_hot([1], 10), tf.constant(0.0))
    native = explain.native
    times = rounds(
        {
            "numpy": lambda: explain(array, target=1),
            "TensorFlow": lambda: explain(x, target=1),
            "native": lambda: native(*arguments),
        },
        seconds, least_rounds=500,
    )  # fmt: skip
    bare = float(np.median(times["native"]))
    return [
        (f"saliency of one {kind} sample", (float(np.median(times[kind])) - bare) * 1e6)
        for kind in ("numpy", "TensorFlow")
    ]

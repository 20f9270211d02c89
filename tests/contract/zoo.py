"""The zoo: small networks trained in the test session on data that ships. Random weights hide what trained ones show.

A label is ``backend-name``. Everything is seeded and made once per session. Inputs are float32; a float64
twin has the same weights. ``scale`` multiplies the last dense layer: logits as of an overconfident network.
"""

from __future__ import annotations

import functools
import importlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

HELD_OUT = 32
LABELS = (
    "tensorflow-cnn",  # first: the ordinary Keras classifier, trained to convergence
    "tensorflow-dense",
    "tensorflow-attention",
    "torch-cnn_log_softmax",
    "torch-cnn_softmax",
    "torch-vit",
    "torch-gru",
    "torch-lstm",
    "torch-decoder",
    "torch-residual",
    "torch-instance_norm",
    "torch-normalised",
)
SMOOTH = ("tensorflow-attention", "torch-vit", "torch-gru", "torch-lstm", "torch-decoder", "torch-normalised")
BASELINES = ("zero", "mean", "sample")


@dataclass(frozen=True)
class Data:
    """Training data and 32 held-out samples: x (B, …) float32, labels (B,)."""

    x: np.ndarray
    labels: np.ndarray
    held_out: np.ndarray
    held_out_labels: np.ndarray


@dataclass(frozen=True)
class Member:
    """``build(dtype)`` → an untrained model; ``train(model, data)`` trains it in place; ``data``: a key of ``DATA``."""

    name: str
    backend: str
    data: str
    build: Callable[[str], Any]
    train: Callable[[Any, Data], None]

    @property
    def shape(self) -> tuple[int, ...]:
        return samples(self.data).x.shape[1:]


def split(x: np.ndarray, labels: np.ndarray) -> Data:
    order = np.random.default_rng(3).permutation(len(x))
    x, labels = x[order].astype(np.float32), labels[order].astype(np.int64)
    return Data(x[HELD_OUT:], labels[HELD_OUT:], x[:HELD_OUT], labels[:HELD_OUT])


def digits(*shape: int) -> Callable[[], Data]:
    """8×8 images in [0, 1], as ``shape``."""

    def load() -> Data:
        from sklearn.datasets import load_digits

        found = load_digits()
        return split(found.data.reshape(-1, *shape) / 16, found.target)

    return load


def cancer() -> Data:
    """30 measurements, standardised."""
    from sklearn.datasets import load_breast_cancer

    found = load_breast_cancer()
    return split((found.data - found.data.mean(0)) / found.data.std(0), found.target)


def dna(lines: int = 20, length: int = 60, window: int = 10) -> Data:
    """One-hot windows (10, 4) of generated letters and the next letter, which the last and third last decide."""
    generator = np.random.default_rng(8)
    follows = generator.integers(0, 4, (4, 4))
    x, labels = [], []
    for _ in range(lines):
        line = list(generator.integers(0, 4, 3))
        for _ in range(length):
            chance = generator.random() < 0.05
            line.append(int(generator.integers(4)) if chance else int(follows[line[-1], line[-3]]))
        for start in range(len(line) - window):
            x.append(np.eye(4)[line[start : start + window]])
            labels.append(line[start + window])
    return split(np.array(x), np.array(labels))


DATA: dict[str, Callable[[], Data]] = {
    "images": digits(1, 8, 8),
    "images_last": digits(8, 8, 1),
    "rows": digits(8, 8),
    "cancer": cancer,
    "dna": dna,
}


@functools.cache
def samples(name: str) -> Data:
    return DATA[name]()


def framework(label: str) -> Any:
    return importlib.import_module(
        {"torch": ".zoo_torch", "tensorflow": ".zoo_keras"}[label.split("-")[0]], __package__
    )


@functools.cache
def member(label: str) -> Member:
    name = label.partition("-")[2]
    return next(found for found in framework(label).MEMBERS if found.name == name)


def data(label: str) -> Data:
    return samples(member(label).data)


@functools.cache
def trained(label: str) -> Any:
    """The weights after training, of the framework's own kind."""
    found = member(label)
    model = found.build("float32")
    found.train(model, data(label))
    return framework(label).weights(model)


@functools.cache
def network(label: str, dtype: str = "float32", scale: float = 1) -> Any:
    """The trained model, ready to explain."""
    model = member(label).build(dtype)
    framework(label).load(model, trained(label), scale)
    return model


def outputs(label: str, x: np.ndarray, dtype: str = "float32", scale: float = 1) -> np.ndarray:
    """What the model itself says of x: (B, classes), in float64 for exact differences."""
    return framework(label).outputs(network(label, dtype, scale), x.astype(dtype)).astype(np.float64)


def baseline(label: str, name: str) -> np.ndarray:
    """``zero`` or ``mean`` of the training data (one sample), ``sample``: another for each; ``references``: four."""
    found = data(label)
    if name == "references":
        return found.x[:4]
    if name == "sample":
        return np.roll(found.held_out, 1, axis=0)
    return np.zeros_like(found.x[0]) if name == "zero" else found.x.mean(0)


def targets(label: str, name: str, scale: float = 1) -> np.ndarray:
    """The ``predicted`` class of each held-out sample, or a ``wrong`` one."""
    found = outputs(label, data(label).held_out, scale=scale)
    return (found.argmax(1) + (name == "wrong")) % found.shape[1]

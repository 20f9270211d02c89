"""Plain callables from arrays to an array."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from .cases import Case, Input


class NumpyMLP:
    """A ReLU layer and a linear one, in numpy; counts the rows it evaluates."""

    def __init__(self, dtype: str) -> None:
        generator = np.random.default_rng(2)
        self.first = generator.normal(size=(5, 7)).astype(dtype)
        self.second = generator.normal(size=(7, 3)).astype(dtype)

    def __call__(self, x: np.ndarray) -> np.ndarray:
        return np.maximum(x @ self.first, 0) @ self.second


def two_inputs(dtype: str) -> Callable[..., Any]:
    def model(left: np.ndarray, right: np.ndarray) -> np.ndarray:
        return np.stack([left.sum(1) * right.sum(1), left[:, 0] - right[:, 1]], axis=1)

    return model


def spatial(dtype: str) -> Callable[..., Any]:
    def model(x: np.ndarray) -> np.ndarray:
        return np.tanh(x).cumsum(1)

    return model


class NumpyReference:
    def __init__(self, case: Case, model: Any) -> None:
        self.case, self.model = case, model

    def points(self, inputs: list[np.ndarray]) -> list[np.ndarray]:
        return inputs

    def output(self, points: list[np.ndarray], inputs: list[np.ndarray]) -> np.ndarray:
        return self.model(*points)


CASES = [
    Case("mlp", "numpy", NumpyMLP, (Input((5,)),)),
    Case("two_inputs", "numpy", two_inputs, (Input((4,)), Input((3,)))),
    Case("spatial", "numpy", spatial, (Input((2, 3)),)),
]

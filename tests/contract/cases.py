"""What a contract test runs over: a model, its inputs, and how a naive reference sees it."""

from __future__ import annotations

import zlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np


@dataclass(frozen=True)
class Input:
    """One input: the shape of a sample, and ``float``, ``ids`` (integers below ``high``) or ``mask`` (0 and 1)."""

    shape: tuple[int, ...]
    kind: str = "float"
    high: int = 0
    name: str = ""

    def draw(self, generator: np.random.Generator, count: int, dtype: str) -> np.ndarray:
        shape = (count, *self.shape)
        if self.kind == "float":
            return generator.normal(size=shape).astype(dtype)
        if self.kind == "ids":
            return generator.integers(0, self.high, shape)
        mask = generator.integers(0, 2, shape)
        mask[:, 0] = 1  # a mask without a single one leaves attention nothing
        return mask


def itself(result: Any) -> Any:
    return result


@dataclass(frozen=True)
class Case:
    """One architecture on one backend.

    ``build(dtype)`` → model. ``layer``: for ``wrt`` a layer, what the reference needs to replace its
    output: for torch ``model → module``; for TensorFlow ``model → (head, tail)`` with ``head(*inputs)``
    the layer's output and ``tail(output, *inputs)`` the model's. ``pick``: what of the model's result
    is explained. ``by_name``: inputs are passed by keyword.
    """

    name: str
    backend: str
    build: Callable[[str], Any]
    inputs: tuple[Input, ...]
    wrt: Any = None
    output: Any = None
    layer: Callable[[Any], Any] | None = None
    pick: Callable[[Any], Any] = itself
    by_name: bool = False
    packed: bool = False  # the model takes one list or dict of its inputs

    def __str__(self) -> str:
        return f"{self.backend}-{self.name}"

    def draw(self, count: int, dtype: str, seed: int = 0) -> list[np.ndarray]:
        generator = np.random.default_rng([seed, zlib.crc32(self.name.encode())])
        return [given.draw(generator, count, dtype) for given in self.inputs]

    @property
    def floating(self) -> list[int]:
        """Places of the inputs that are attributed where no layer is."""
        return [place for place, given in enumerate(self.inputs) if given.kind == "float"]

    def named(self, arrays: list[Any]) -> dict[str, Any]:
        return {given.name: array for given, array in zip(self.inputs, arrays, strict=True)}

    def given(self, arrays: list[Any]) -> Any:
        """As ``inputs=`` of ``compile`` takes them."""
        return self.named(arrays) if self.by_name else tuple(arrays)

    def explain(self, explain: Any, arrays: list[Any], **options: Any) -> list[np.ndarray]:
        """Call the explainer; its results as a list of numpy arrays."""
        result = explain(**self.named(arrays), **options) if self.by_name else explain(*arrays, **options)
        parts = list(result.values()) if isinstance(result, dict) else result
        parts = parts if isinstance(parts, (tuple, list)) else [parts]
        return [np.asarray(part) for part in parts]

    def options(self) -> dict[str, Any]:
        return {"wrt": self.wrt, "output": self.output}

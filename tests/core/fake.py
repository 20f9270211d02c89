"""A backend in numpy with one operation and its derivative: what the work engine is tested on.

The model is f(x)ₖ = Σᵢ Aₖᵢ·xᵢ³. Its static engine takes nothing but arrays of exactly the compiled
size, and memory may be made to run out above a number of rows.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from explainers.backend import BackendDefaults, Traced
from explainers.graph import Graph, Node, Output, Role, Value
from explainers.spec import Signature, TensorSpec
from explainers_numpy import ops as numpy_ops

WEIGHTS = np.array([[1.0, 2.0, -1.0, 0.5], [0.3, -1.0, 1.0, 2.0]])


def model(x: np.ndarray) -> np.ndarray:
    return x**3 @ WEIGHTS.T


def slope(x: np.ndarray, mask: np.ndarray) -> np.ndarray:
    return 3 * x**2 * (mask @ WEIGHTS)


class Ops:
    """numpy's array namespace, with the model as its only operation."""

    @staticmethod
    def evaluate(node: Node, arrays: Sequence[Any]) -> tuple[Any, ...]:
        return (model(arrays[0]),)

    @staticmethod
    def vjp(node: Node, arrays: Sequence[Any], places: Sequence[int]) -> tuple[Any, Any]:
        return Ops.evaluate(node, arrays), lambda messages: [slope(arrays[0], messages[0])]


for _name in dir(numpy_ops):
    if not _name.startswith("_") and not hasattr(Ops, _name):
        setattr(Ops, _name, staticmethod(getattr(numpy_ops, _name)))


class OutOfMemory(Exception):
    pass


class FakeKernel:
    def __init__(self, backend: FakeBackend, program: Any, rows: int | None) -> None:
        self.backend, self.program, self.rows, self.native = backend, program, rows, self

    def __call__(self, *arguments: Any) -> tuple[Any, ...]:
        for holder, argument in zip(self.program.placeholders, arguments, strict=True):
            assert argument.shape[bool(holder.axis) :] == tuple(holder.shape), holder
            if self.rows is not None and holder.axis:
                assert len(argument) == self.rows, f"{holder}: {len(argument)} for {self.rows}"
        rows = max(len(a) for a, p in zip(arguments, self.program.placeholders, strict=True) if p.axis)
        if rows > self.backend.memory:
            raise OutOfMemory
        self.backend.packages.append(rows)
        return self.program(Ops, {}, *arguments)

    def bind(self, weights: Mapping[Value, Any]) -> None:
        pass


class FakeBackend(BackendDefaults):
    name = "fake"
    engines: Mapping[str, bool] = {"dynamic": False, "static": True}
    default_engine = "dynamic"
    files = True

    def __init__(self, memory: int = 10**9) -> None:
        self.memory = memory
        self.packages: list[int] = []

    def accepts(self, model: Any) -> bool:
        return model == "fake"

    def owns(self, array: Any) -> bool:
        return isinstance(array, np.ndarray)

    def signature(self, model: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Signature:
        return Signature((TensorSpec((None, 4), "float64", "x"),), 1)

    def trace(self, model: Any, signature: Signature, **options: Any) -> Traced:
        x, y = Output((None, 4), "float64"), Output((None, 2), "float64")
        nodes = (
            Node("x", "input", Role.INPUT, outputs=(x,)),
            Node("y", "cubes", Role.OPAQUE, (Value("x"),), (y,)),
        )
        return Traced(Graph(nodes, (Value("x"),), (("0", Value("y")),)), signature, {})

    def refresh(self, model: Any, traced: Traced) -> dict[Value, Any]:
        return {}

    def compile(self, program: Any, traced: Traced, *, engine: str, rows: int | None) -> FakeKernel:
        return FakeKernel(self, program, rows)

    def stage(self, array: Any, dtype: str, device: Any) -> Any:
        return np.asarray(array, dtype)

    def concat(self, arrays: Any) -> Any:
        return np.concatenate(arrays)

    def pad(self, array: Any, count: int) -> Any:
        return np.concatenate([array, np.repeat(array[:1], count - len(array), axis=0)])

    def expand(self, array: Any, count: int) -> Any:
        return np.repeat(array, count, axis=0)

    def numpy(self, array: Any) -> Any:
        return array

    def like(self, array: Any, given: Any) -> Any:
        return array.astype(given.dtype)

    ops = Ops()

    def view(self, array: Any) -> Any:
        return array

    def finite(self, array: Any) -> bool:
        return bool(np.isfinite(array).all())

    def free_bytes(self, device: Any) -> int:
        return 2**30

    def cache_bytes(self, device: Any) -> int | None:
        return None

    def is_out_of_memory(self, error: BaseException) -> bool:
        return isinstance(error, OutOfMemory)

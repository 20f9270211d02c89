"""The backend object for plain callables."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from explainers.backend import CODE, BackendDefaults, Kernel, Runnable, Size, TokenModel, Traced
from explainers.errors import ArtifactError
from explainers.graph import Value
from explainers.ops import Ops
from explainers.spec import Numpy, Signature, all_finite

from . import kernel, ops, trace

LARGEST_POINTS = 2**28  # bytes of perturbed samples per package


class NumpyBackend(BackendDefaults):
    name = "numpy"
    engines: Mapping[str, bool] = {"eager": False}
    default_engine = "eager"
    forward_only = True
    has_threads = False
    calls = True
    takes_lengths = True
    largest_package = 4096  # calling a callable costs more than one more row

    def accepts(self, model: Any) -> bool:
        return callable(model)

    def owns(self, array: Any) -> bool:
        return isinstance(array, np.ndarray)

    def signature(self, model: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Signature | None:
        return trace.signature(model, args, kwargs)

    def trace(
        self, model: Any, signature: Signature, *, device: Any, dtype: str | None, examples: Sequence[Any] = (),
        elementary: bool = False, kept: dict[Any, Any] | None = None,
    ) -> Traced:  # fmt: skip
        return trace.trace(model, signature, examples)

    def token_model(self, model: Any, *, derivative: bool) -> TokenModel:
        from . import language

        return language.token_model(model)

    def refresh(self, model: Any, traced: Traced) -> dict[Value, Any]:
        return {}

    def compile(self, program: Runnable, traced: Traced, *, engine: str, rows: Size) -> Kernel:
        return kernel.compile(program, traced)

    def save(
        self, parts: Mapping[str, tuple[Runnable, Kernel | None]], traced: Traced, *, engine: str, form: str = CODE
    ) -> dict[str, bytes]:
        raise ArtifactError(
            "the model is a plain callable, which has no file form: only its own Python source can run it. Give the "
            "torch or TensorFlow model to save its explanation, or compile the callable anew where it is needed."
        )

    def stage(self, array: Any, dtype: str, device: Any) -> Any:
        return np.ascontiguousarray(array, dtype)

    def concat(self, arrays: Sequence[Any]) -> Any:
        return np.concatenate(arrays)

    def pad(self, array: Any, count: int) -> Any:
        return array

    def expand(self, array: Any, count: int) -> Any:
        return np.broadcast_to(array, (count, *array.shape[1:]))

    def numpy(self, array: Any) -> Numpy:
        return np.asarray(array)

    def like(self, array: Any, given: Any) -> Any:
        return np.asarray(array)

    @property
    def ops(self) -> Ops:
        return ops

    def view(self, array: Any) -> Numpy | None:
        return np.asarray(array)

    def finite(self, array: Any) -> bool:
        return all_finite(array)

    def cache_bytes(self, device: Any) -> int | None:
        return LARGEST_POINTS


BACKEND = NumpyBackend()

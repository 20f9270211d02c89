"""Programs as compiled TensorFlow functions.

The program runs once inside one ``tf.function`` whose leading axes are unknown sizes; XLA compiles it
for those that come. It reads the model's variables at every call, so nothing has to be bound again.
"""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Iterator, Mapping
from typing import Any

import tensorflow as tf

from explainers.backend import Program, Size, Traced
from explainers.errors import ExplainersError
from explainers.graph import Value

from . import ops
from .trace import _TRACING, node_names, trace_error


class TensorFlowKernel:
    """A compiled program. ``graph``: its ``tf.Graph``; None when it runs eagerly."""

    def __init__(self, native: Any, graph: Any, weights: Mapping[Value, Any]) -> None:
        self.native = native
        self.graph = graph
        self.weights = weights  # keeps the variables alive for as long as the kernel
        self.captured = [] if graph is None else list(native.captured_inputs)
        # The public call binds names, checks specs and looks for tapes first: 110 µs that packages do not need.
        # What it calls then is private to TensorFlow: without it, or where it fails, the public call does.
        self._direct = getattr(getattr(native, "_inference_function", None), "call_preflattened", None)
        self._tried = False

    def __call__(self, *arguments: tf.Tensor) -> tuple[tf.Tensor, ...]:
        if self._direct is None:
            return tuple(self.native(*arguments))
        if self._tried:
            return tuple(self._direct([*arguments, *self.captured]))
        return self._try(arguments)

    def _try(self, arguments: tuple[tf.Tensor, ...]) -> tuple[tf.Tensor, ...]:
        """The first call."""
        try:
            results = tuple(self._direct([*arguments, *self.captured]))
            self._tried = len(results) == len(self.native.outputs)
        except (AttributeError, TypeError, ValueError, AssertionError):
            self._tried = False
        if not self._tried:
            self._direct = None
            results = tuple(self.native(*arguments))
        return results

    def bind(self, weights: Mapping[Value, Any]) -> None:
        """Nothing to compile again: the kernel reads the variables themselves."""


class _Weights(Mapping[Value, Any]):
    """The variables, each read when it is first asked for."""

    def __init__(self, variables: Mapping[Value, Any]) -> None:
        self.variables = variables
        self.read: dict[Value, Any] = {}

    def __getitem__(self, value: Value) -> Any:
        if value not in self.read:
            self.read[value] = tf.convert_to_tensor(self.variables[value])
        return self.read[value]

    def __iter__(self) -> Iterator[Value]:
        return iter(self.variables)

    def __len__(self) -> int:
        return len(self.variables)


def compile(program: Program, traced: Traced, engine: str, rows: Size) -> TensorFlowKernel:
    """Trace ``program`` for ``engine``, for any ``rows``: so XLA makes the same of it as of a loaded file's."""

    def run(*arguments: Any) -> tuple[Any, ...]:
        with tf.device(traced.device) if traced.device else contextlib.nullcontext():
            return program(ops, _Weights(traced.weights), *arguments)

    if engine == "eager":
        return TensorFlowKernel(run, None, traced.weights)
    specs = []
    for holder, name in zip(program.placeholders, node_names(p.name for p in program.placeholders), strict=True):
        lead = (None,) if holder.axis else ()
        specs.append(tf.TensorSpec((*lead, *holder.shape), holder.dtype, name))
    function = tf.function(run, input_signature=specs, autograph=False, jit_compile=engine == "xla")
    with _TRACING, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            native = function.get_concrete_function()
        except ExplainersError:
            raise
        except Exception as error:
            raise trace_error(error) from error
    return TensorFlowKernel(native, native.graph, traced.weights)

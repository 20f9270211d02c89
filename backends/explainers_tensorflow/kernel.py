"""Programs as compiled TensorFlow functions.

The program runs once inside one ``tf.function`` whose leading axes have unknown sizes; XLA compiles it
for each size that occurs. It reads the model's variables at every call, so nothing has to be rebound.
"""

from __future__ import annotations

import contextlib
import re
import warnings
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import tensorflow as tf

from explainers.backend import Runnable, Size, Traced
from explainers.errors import ExplainersError, InputError, UnsupportedOperation
from explainers.graph import Value

from . import ops
from .trace import _TRACING, node_names, trace_error


class TensorFlowKernel:
    """A compiled program. ``graph``: its ``tf.Graph``; None when it runs eagerly."""

    def __init__(self, native: Any, graph: Any, weights: Mapping[Value, Any], engine: str = "graph") -> None:
        self.native = native
        self.engine = engine
        self.graph = graph
        self.weights = weights  # keeps the variables alive as long as the kernel
        self.captured = [] if graph is None else list(native.captured_inputs)
        # The public call first binds names, checks specs and looks for tapes: 110 µs that packages can do without.
        # The function that it calls next is private to TensorFlow: if it is missing or fails, the public call is used.
        self._direct = getattr(getattr(native, "_inference_function", None), "call_preflattened", None)
        self._tried = False

    def __call__(self, *arguments: tf.Tensor) -> tuple[tf.Tensor, ...]:
        try:
            return self._run(arguments)
        except tf.errors.OpError as error:
            told = run_error(error, self.engine, self.graph)
            if told is None:
                raise
            raise told from error

    def _run(self, arguments: tuple[tf.Tensor, ...]) -> tuple[tf.Tensor, ...]:
        if self._direct is None:
            return tuple(self.native(*arguments))
        if self._tried:
            return tuple(self._direct([*arguments, *self.captured]))
        return self._try(arguments)

    def _try(self, arguments: tuple[tf.Tensor, ...]) -> tuple[tf.Tensor, ...]:
        """The first call: try the private function, else fall back to the public call."""
        assert self._direct is not None
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
        """Does nothing: the kernel reads the variables themselves."""


_BY_INPUT = (
    tf.errors.InvalidArgumentError, tf.errors.OutOfRangeError, tf.errors.FailedPreconditionError,
    tf.errors.NotFoundError,
)  # fmt: skip


def run_error(error: tf.errors.OpError, engine: str, graph: Any) -> ExplainersError | None:
    """The error for an exception of a running kernel, with operation and reason; None if the device failed."""
    text = str(error)
    if isinstance(error, tf.errors.ResourceExhaustedError) or re.search("RESOURCE_EXHAUSTED|out of memory", text, re.I):
        return None
    what, reason = _named(text, graph), _reason(text)
    if engine == "xla":
        return UnsupportedOperation(
            f"engine 'xla' cannot compile or run {what}: use engine='graph'. (TensorFlow: {reason})"
        )
    if isinstance(error, tf.errors.UnimplementedError):
        return UnsupportedOperation(
            f"TensorFlow cannot run {what} on this device: use another device, or another layout. ({reason})"
        )
    if isinstance(error, _BY_INPUT):
        return InputError(
            f"{what} cannot be run on these inputs: check that the model itself can. (TensorFlow: {reason})"
        )
    return None


_NO_REASON = ("Graph execution error", "Detected at node", "File ", "<stack traces", "The op is created at")


def _reason(text: str) -> str:
    """The line of TensorFlow's message that states the problem."""
    text = re.sub(r"\[_XlaMustCompile[^\]]*\]", "", text)
    text = re.sub(r"\{\{function_node [^}]*\}\}|\[\[.*?\]\]|\[Op:\w+\]", "", text)
    text = re.sub(r"\{\{node ([^}]*)\}\}", r"\1", text)
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return next((line for line in lines if not line.startswith(_NO_REASON)), "")[:400].strip()


def _named(text: str, graph: Any) -> str:
    """The operation that a TensorFlow error refers to."""
    node = re.search(r"\{\{node ([^}]+)\}\}", text)
    eager = re.search(r"__wrapped__(\w+?)_device|\[Op:([A-Z]\w+)\]", text)
    kind = re.search(r"No registered '(\w+)' OpKernel", text)
    if node is None:
        return f"operation {eager[1] or eager[2]!r}" if eager else "an operation of the model"
    with contextlib.suppress(KeyError, AttributeError, ValueError):
        return f"operation {graph.get_operation_by_name(node[1]).type!r} (node {node[1]!r})"
    return f"operation {kind[1]!r} (node {node[1]!r})" if kind else f"node {node[1]!r}"


class _Weights(Mapping[Value, Any]):
    """The variables' values, each read at first access."""

    def __init__(self, variables: Mapping[Value, Any]) -> None:
        self.variables = variables
        self.read: dict[Value, Any] = {}

    def __getitem__(self, value: Value) -> Any:
        if value not in self.read:
            self.read[value] = ops.read(self.variables[value])
        return self.read[value]

    def __iter__(self) -> Iterator[Value]:
        return iter(self.variables)

    def __len__(self) -> int:
        return len(self.variables)


def specs(placeholders: Sequence[Any]) -> list[tf.TensorSpec]:
    """The arguments of a program, of any size in their leading axes."""
    names = node_names(holder.name for holder in placeholders)
    return [
        tf.TensorSpec(((None,) if holder.axis else ()) + tuple(holder.shape), holder.dtype, name)
        for holder, name in zip(placeholders, names, strict=True)
    ]


def compile(program: Runnable, traced: Traced, engine: str, rows: Size) -> TensorFlowKernel:
    """Trace ``program`` for ``engine``, for any ``rows``, so that XLA compiles the same program as from a file."""

    def run(*arguments: Any) -> tuple[Any, ...]:
        with tf.device(traced.device) if traced.device else contextlib.nullcontext():
            return program(ops, _Weights(traced.weights), *arguments)

    if engine == "eager":
        return TensorFlowKernel(run, None, traced.weights, engine)
    words = [holder.name.removeprefix("input_") for holder in program.placeholders if holder.dtype == "string"]
    if words and engine == "xla":
        raise UnsupportedOperation(
            f"engine 'xla' takes no words, and input {words[0]!r} holds them: use engine='graph', or look them up "
            "before the model"
        )
    signature = specs(program.placeholders)
    function = tf.function(run, input_signature=signature, autograph=False, jit_compile=engine == "xla")
    with _TRACING, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            native = function.get_concrete_function()
        except ExplainersError:
            raise
        except Exception as error:
            raise trace_error(error) from error
    return TensorFlowKernel(native, native.graph, traced.weights, engine)

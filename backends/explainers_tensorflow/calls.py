"""Models that are called as they are, not traced: Python code, loops that depend on values, any operation.

Methods that only need outputs call the model eagerly, in inference mode. Programs run uncompiled around it.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from explainers.backend import Traced
from explainers.graph import Output, called
from explainers.spec import Signature, TensorSpec

from . import models, trace


class Call:
    """The model as an operation of the graph, which takes tensors in the signature's order.

    One call runs at a time: models may keep values on themselves between the steps of a call.
    """

    def __init__(self, model: Any, sig: Signature, device: str | None) -> None:
        self.model, self.sig, self.device = model, sig, device
        self.function = models.caller(model, sig)
        self.kinds: list[tuple[str, Output]] = []
        self.lock = threading.RLock()

    def make(self, name: str, arrays: Sequence[Any]) -> Called:
        """Call the model. ``name``: of the node; there is no graph to name an operation in."""
        found = self.returned(arrays)
        shapes = [tuple(tensor.shape) for _, tensor in found]
        count, sizes = int(arrays[0].shape[0]), self.sig.sizes(arrays)
        called.check(self.kinds, [key for key, _ in found], shapes, count, sizes)
        return Called([tensor for _, tensor in found])

    def returned(self, arrays: Sequence[Any]) -> list[tuple[str, Any]]:
        """The tensors that the model returns for these inputs, each with its key."""
        with (
            self.lock,
            tf.device(self.device) if self.device else contextlib.nullcontext(),
            trace.as_it_was(self.model),
        ):
            return models.output_tensors(self.function(*arrays))


class Called:
    """What a call returned, with the part of ``tf.Operation`` that the graph's evaluation reads."""

    def __init__(self, outputs: list[Any]) -> None:
        self.outputs = outputs


def run(model: Any, sig: Signature, device: Any, dtype: str | None, examples: Sequence[Any]) -> Traced:
    """The model as a graph of one node; it is called a few times to see what it returns."""
    place = trace.device_name(device)
    trace.check_dtype(model, sig, dtype)
    call = Call(model, sig, place)

    def attempt(sizes: Signature, count: int) -> list[tuple[str, Output]]:
        arrays = [_probe(spec, example, count) for spec, example in zip(sizes.inputs, given, strict=True)]
        return [(key, Output(tuple(t.shape), t.dtype.name)) for key, t in call.returned(arrays)]

    given = list(examples) or [None] * len(sig.inputs)
    call.kinds = called.outputs(attempt, sig)
    function = getattr(model, "python_function", model)
    name = str(getattr(function, "__qualname__", None) or getattr(model, "name", None) or type(model).__name__)
    source = called.source(function)
    graph = called.graph(name, "" if trace.foreign(source) else source, sig, call.kinds, call)
    return Traced(graph, sig, {}, device=place, memory=model)


def _probe(spec: TensorSpec, example: Any, count: int) -> Any:
    """``count`` samples to try: the example's first one, or zeros or empty words."""
    if example is None or isinstance(example, (TensorSpec, tf.TensorSpec)) or not len(example):
        return tf.convert_to_tensor(spec.blank(count), spec.dtype)
    first = example[:1]
    if not isinstance(first, tf.Tensor):
        first = tf.convert_to_tensor(np.asarray(first, spec.host_dtype))
    first = first if first.dtype.name == spec.dtype else tf.cast(first, spec.dtype)
    return tf.repeat(first, count, axis=0)

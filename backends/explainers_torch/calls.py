"""Models that are called as they are, not traced: TorchScript, quantized modules, control flow on values, numpy inside.

Methods that only need outputs call a twin of the model, in evaluation mode and over the same tensors, with tensors on
the model's device. Programs run uncompiled around it.
"""

from __future__ import annotations

import dataclasses
import threading
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch.utils import _pytree as pytree

from explainers.backend import Runnable, Traced
from explainers.errors import TraceError
from explainers.graph import Output, Value, called
from explainers.spec import Signature, TensorSpec

from . import axes, ops, trace
from .functions import FunctionModule
from .operands import Operand
from .twin import Attributes, buffers_restored, own_buffers

Returned = list[tuple[str, torch.Tensor]]


class Call:
    """The model as a function of tensors in the signature's order, which returns a tuple of tensors.

    One call runs at a time: models may keep values on themselves between the steps of a call.
    """

    def __init__(self, model: Any, sig: Signature, device: torch.device, dtype: str | None) -> None:
        self.sig, self.device, self.dtype = sig, device, dtype
        self.kinds: list[tuple[str, Output]] = []
        self.written: set[str] = set()  # buffers that the model writes to: the user's own stay as they are
        self.lock = threading.RLock()
        self.renew(model)

    def renew(self, model: Any) -> None:
        """Take the model's current modules and tensors, in a twin of its own."""
        moved = self.device if self.device != trace.home(model) else None
        twin = trace.inference_copy(model, self.dtype, moved, traced=False)
        own_buffers(twin, self.written)
        with self.lock:
            self.model, self.attributes = twin, Attributes(twin)

    def __call__(self, *arrays: torch.Tensor) -> tuple[torch.Tensor, ...]:
        found = self.returned(self.sig, arrays)
        shapes = [tuple(tensor.shape) for _, tensor in found]
        called.check(self.kinds, [key for key, _ in found], shapes, len(arrays[0]), self.sig.sizes(arrays))
        return tuple(tensor.to(self.device) for _, tensor in found)

    def returned(self, sig: Signature, arrays: Sequence[torch.Tensor]) -> Returned:
        """What the model returns for these inputs: copies of them, since a model may write into its inputs."""
        args, kwargs = sig.call([array.clone() for array in arrays])
        with self.lock, torch.no_grad():
            try:
                return tensors(self.model(*args, **kwargs))
            finally:
                self.attributes.restore()


def tensors(result: Any) -> Returned:
    """The tensors that a model returned, with the keys that a traced model has: ``"0"``, ``"logits"``, ``"a.0"``."""
    if dataclasses.is_dataclass(result) and not isinstance(result, Mapping):
        result = {field.name: getattr(result, field.name) for field in dataclasses.fields(result)}
    found = []
    for path, leaf in pytree.tree_flatten_with_path(result)[0]:
        if isinstance(leaf, np.ndarray) and leaf.dtype.kind in "fiub":
            leaf = torch.as_tensor(leaf)
        if isinstance(leaf, torch.Tensor):
            plain = leaf.dequantize() if leaf.is_quantized else leaf.to_dense() if leaf.is_sparse else leaf
            found.append((".".join(map(trace.key, path)) or "0", plain.detach()))
    return found


def run(model: Any, sig: Signature, device: Any, dtype: str | None, examples: Sequence[Any]) -> Traced:
    """The model as a graph of one node; it is called a few times to see what it returns."""
    if dtype is not None:
        sig = replace(sig, inputs=tuple(replace(s, dtype=dtype) if s.floating else s for s in sig.inputs))
    sig = axes.with_examples(sig)
    place = _place(model, device, examples)
    call = Call(model, sig, place, dtype)
    try:
        call.kinds = _outputs(call, sig, examples)
    except TraceError:
        narrow = None if dtype is not None or trace.floating_dtypes(model) else _narrow(sig)
        if narrow is None:
            raise
        call.kinds = _outputs(call, narrow, examples)
        call.sig = sig = narrow
    leaves, template = pytree.tree_flatten(([Operand(index) for index in range(len(sig.inputs))], {}))
    inner = next(iter(_written(model)), model)
    graph = called.graph(_name(inner), _source(inner), sig, call.kinds, (call, template, leaves))
    return Traced(graph, sig, {}, device=place, memory=call)


def _written(model: Any) -> list[Any]:
    """The user's function, where the model is one."""
    return [model.written] if isinstance(model, FunctionModule) else []


def _source(model: Any) -> str:
    found = called.source(model)
    return "" if found.startswith(trace.NOT_USERS) else found


def _name(model: Any) -> str:
    return str(getattr(model, "__qualname__", None) or getattr(model, "original_name", None) or type(model).__name__)


def _place(model: Any, device: Any, examples: Sequence[Any]) -> torch.device:
    """The device to run on: as given, or that of the model's tensors, or that of the examples."""
    if device is not None:
        place = torch.device(device)
    else:
        here = [example.device for example in examples if isinstance(example, torch.Tensor)]
        place = trace.home(model, here[0] if here else None)
    if place.type == "cuda" and place.index is None:
        place = torch.device("cuda", torch.cuda.current_device())
    return place


def _narrow(sig: Signature) -> Signature | None:
    """The signature in float32, which quantized models need and do not declare; None if it is the same."""
    specs = tuple(replace(spec, dtype="float32") if spec.dtype == "float64" else spec for spec in sig.inputs)
    return None if specs == sig.inputs else replace(sig, inputs=specs)


def _outputs(call: Call, sig: Signature, examples: Sequence[Any]) -> list[tuple[str, Output]]:
    def attempt(sizes: Signature, count: int) -> list[tuple[str, Output]]:
        arrays = [_probe(spec, example, count, call.device) for spec, example in zip(sizes.inputs, given, strict=True)]
        found = call.returned(sizes, arrays)
        return [(key, Output(tuple(tensor.shape), trace.dtype_name(tensor.dtype))) for key, tensor in found]

    given = list(examples) or [None] * len(sig.inputs)
    with buffers_restored(call.model) as call.written:
        kinds = called.outputs(attempt, sig)
    call.attributes = Attributes(call.model)
    return kinds


def _probe(spec: TensorSpec, example: Any, count: int, device: torch.device) -> torch.Tensor:
    """``count`` samples to try: the example's first one, or zeros."""
    kind = getattr(torch, spec.dtype)
    if example is None or isinstance(example, TensorSpec) or not len(example):
        return torch.zeros((count, *spec.sample_shape), dtype=kind, device=device)
    first = example[:1] if isinstance(example, torch.Tensor) else torch.from_numpy(np.array(np.asarray(example)[:1]))
    return first.detach().to(device=device, dtype=kind).expand(count, *first.shape[1:])


class CallKernel:
    """A program that runs as it is, around the calls of the model."""

    def __init__(self, program: Runnable) -> None:
        self.native = self._run
        self.program = program

    def _run(self, *arguments: torch.Tensor) -> tuple[torch.Tensor, ...]:
        with torch.no_grad():
            return self.program(ops, {}, *arguments)

    def __call__(self, *arguments: torch.Tensor) -> tuple[torch.Tensor, ...]:
        return self._run(*arguments)

    def bind(self, weights: Mapping[Value, Any]) -> None:
        """Does nothing: the model keeps its own weights."""

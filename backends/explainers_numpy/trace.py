"""A callable as a graph of one node."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from explainers.backend import Traced, owner
from explainers.errors import InputError, TraceError
from explainers.graph import Graph, Node, Output, Role, Value
from explainers.spec import Numpy, Signature, TensorSpec


def signature(model: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Signature | None:
    if not args and not kwargs:
        return None
    specs = [_spec(value, f"input_{i}" if len(args) > 1 else "input") for i, value in enumerate(args)]
    specs += [_spec(value, name) for name, value in kwargs.items()]
    return Signature(tuple(specs), len(args))


def _spec(value: Any, name: str) -> TensorSpec:
    if isinstance(value, TensorSpec):
        return TensorSpec(value.shape, value.dtype, value.name or name)
    array = np.asarray(value)
    if array.dtype.kind not in "fiub" or not array.ndim:
        raise InputError(f"input {name!r} ({type(value).__name__}) is not an array of numbers with a batch axis")
    return TensorSpec((None, *array.shape[1:]), str(array.dtype), name)


def trace(model: Any, sig: Signature, examples: Sequence[Any]) -> Traced:
    """One node; its output is known by calling the model on one sample."""
    call = _caller(model, sig)
    if examples and not isinstance(examples[0], TensorSpec):
        probe = [np.array(np.asarray(e)[:1], s.dtype) for e, s in zip(examples, sig.inputs, strict=True)]
    else:
        probe = [np.zeros((1, *s.sample_shape), s.dtype) for s in sig.inputs]
    if not len(probe[0]):
        probe = [np.zeros((1, *s.sample_shape), s.dtype) for s in sig.inputs]
    out = call(*probe)
    heads = [Node(s.name, "input", Role.INPUT, outputs=(Output(s.shape, s.dtype),)) for s in sig.inputs]
    inputs = tuple(node.values[0] for node in heads)
    name = getattr(model, "__qualname__", type(model).__qualname__)
    kind = Output((None, *out.shape[1:]), str(out.dtype))
    body = Node("model", name, Role.OPAQUE, inputs, (kind,), source=_source(model), payload=call)
    return Traced(Graph((*heads, body), inputs, (("0", Value("model")),)), sig, {})


def _source(model: Any) -> str:
    model = inspect.unwrap(model)
    try:
        return f"{inspect.getsourcefile(model)}:{inspect.getsourcelines(model)[1]}"
    except (TypeError, OSError):
        return ""


def _caller(model: Callable[..., Any], sig: Signature) -> Callable[..., Numpy]:
    """The model on arrays in the signature's order, its result checked and as floating numpy."""
    names = sig.names[sig.positional :]

    def call(*arrays: Numpy) -> Numpy:
        rows = len(arrays[0])
        result = model(*arrays[: sig.positional], **dict(zip(names, arrays[sig.positional :], strict=True)))
        home = owner(result)
        array = home.numpy(result) if home else np.asarray(result)
        if array.dtype.kind not in "fiub":
            raise TraceError(f"the model returned {type(result).__name__} of dtype {array.dtype}; numbers are needed")
        if not array.ndim or len(array) != rows:
            raise TraceError(
                f"the model returned shape {array.shape} for {rows} samples; it must return one row for each sample"
            )
        return array if array.dtype.kind == "f" else array.astype(np.float64)

    return call

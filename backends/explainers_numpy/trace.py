"""A callable as a graph of one node."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np

from explainers.backend import Traced, owner
from explainers.errors import ExplainersError, InputError, TraceError
from explainers.graph import Graph, Node, Output, Role, Value
from explainers.lengths import Length, sized
from explainers.spec import Numpy, Signature, TensorSpec

Caller = Callable[..., Numpy]


def signature(model: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Signature | None:
    if not args and not kwargs:
        return None
    names = [f"input_{i}" for i in range(len(args))] if len(args) > 1 else ["input"] * len(args)
    return Signature.of(args, kwargs, names, _spec)


def _spec(value: Any, name: str) -> TensorSpec:
    if isinstance(value, TensorSpec):
        return TensorSpec(value.shape, value.dtype, value.name or name)
    array = np.asarray(value)
    if array.dtype.kind == "f" and array.dtype.itemsize > 8:
        raise InputError(f"input {name!r} has dtype {array.dtype}: convert it with .astype('float64')")
    if array.dtype.kind not in "fiub" or not array.ndim:
        raise InputError(f"input {name!r} ({type(value).__name__}) is not an array of numbers with a batch axis")
    return TensorSpec((None, *array.shape[1:]), str(array.dtype), name)


def trace(model: Any, sig: Signature, examples: Sequence[Any]) -> Traced:
    """A graph of one node; its output shape is found by calling the model on one sample."""
    probe = [np.zeros((1, *s.sample_shape), s.dtype) for s in sig.inputs]
    if examples and not isinstance(examples[0], TensorSpec) and len(examples[0]):
        probe = [np.array(np.asarray(e)[:1], s.dtype) for e, s in zip(examples, sig.inputs, strict=True)]
    call, out = _traced_call(model, sig, examples, probe)
    lengths = _lengths(call, sig, out) if sig.lengths else {}
    if sig.lengths:
        call = _checked(call, sig, (None, *(lengths.get(axis, size) for axis, size in enumerate(out.shape[1:], 1))))
    heads = [Node(s.name, "input", Role.INPUT, outputs=(Output((None, *s.sample_shape), s.dtype),)) for s in sig.inputs]
    inputs = tuple(node.values[0] for node in heads)
    name = getattr(model, "__qualname__", type(model).__qualname__)
    kind = Output((None, *(lengths.get(axis, size) for axis, size in enumerate(out.shape[1:], 1))), str(out.dtype))
    body = Node("model", name, Role.OPAQUE, inputs, (kind,), source=_source(model), payload=call)
    return Traced(Graph((*heads, body), inputs, (("0", Value("model")),)), sig, {})


def _lengths(call: Caller, sig: Signature, out: Numpy) -> dict[int, Length]:
    """The axes of the output that vary with those of the inputs, found by calling with one more place along each."""
    found: dict[int, Length] = {}
    for name, length in sig.lengths.items():
        longer = sig.at({name: length + 1})
        larger = call(*(spec.blank(1) for spec in longer.inputs))
        for axis, (before, after) in enumerate(zip(out.shape, larger.shape, strict=True)):
            if before != after:
                same = before == int(length) and after == length + 1
                found[axis] = Length(name if same else f"depending on {name}", before, axis=name)
    return found


def _checked(call: Caller, sig: Signature, kind: tuple[int | None, ...]) -> Caller:
    """The model, checked to return samples of the shape ``kind`` for every size of the axes that vary."""

    def checked(*arrays: Numpy) -> Numpy:
        result = call(*arrays)
        wanted = sized([size for size in kind[1:] if size is not None], sig.sizes(arrays))
        if result.shape[1:] != wanted:
            raise TraceError(
                f"the model returned samples of shape {result.shape[1:]} for inputs of shape "
                f"{', '.join(str(array.shape[1:]) for array in arrays)}, where {wanted} was expected from its first "
                "calls: a size of the output that is computed from one that varies is not supported"
            )
        return result

    return checked


def _source(model: Any) -> str:
    model = inspect.unwrap(model)
    try:
        return f"{inspect.getsourcefile(model)}:{inspect.getsourcelines(model)[1]}"
    except (TypeError, OSError):
        return ""


def _traced_call(model: Any, sig: Signature, examples: Sequence[Any], probe: Sequence[Numpy]) -> tuple[Caller, Numpy]:
    """The model as a function of numpy arrays, and its output for ``probe``.

    It is called with the caller's kind of arrays, such as torch tensors for a function of tensors, or with numpy
    arrays if it does not accept those.
    """
    homes = [owner(example) for example in examples]
    calls = [_caller(model, sig, [None] * len(probe))]
    if any(homes):
        pairs = zip(homes, examples, strict=True)
        likes = [partial(home.like, given=example[:1]) if home else None for home, example in pairs]
        calls.insert(0, _caller(model, sig, likes))
    failed: list[Exception] = []
    for call in calls:
        try:
            return call, call(*probe)
        except Exception as error:
            failed.append(error)
    raise _call_error(
        failed[0], probe, "arrays of their kind or numpy's" if any(homes) else "numpy arrays"
    ) from failed[0]


def _call_error(error: Exception, probe: Sequence[Numpy], kind: str) -> Exception:
    if isinstance(error, ExplainersError):
        return error
    shapes = ", ".join(str(array.shape) for array in probe)
    hint = " One sample needs a batch axis: x[None]." if any(array.ndim < 2 for array in probe) else ""
    if isinstance(error, TypeError) and "Tensor" in str(error):
        hint += " If it is a function of tensors, say so with backend='torch' or backend='tensorflow'."
    return TraceError(
        f"the model raised {type(error).__name__} for one sample ({kind} of shape {shapes}): {error}.{hint}"
    )


def _caller(model: Callable[..., Any], sig: Signature, likes: Sequence[Callable[[Numpy], Any] | None]) -> Caller:
    """The model as a function of arrays in the signature's order; its result is checked, as floating-point numpy."""

    def call(*arrays: Numpy) -> Numpy:
        rows = len(arrays[0])
        args, kwargs = sig.call([like(a) if like else a for like, a in zip(likes, arrays, strict=True)])
        return _rows(model(*args, **kwargs), rows)

    return call


def _rows(result: Any, rows: int) -> Numpy:
    """The model's checked result for ``rows`` samples, as floating-point numpy."""
    home = owner(result)
    several = isinstance(result, (tuple, list)) and any(np.ndim(part) > 1 or part is None for part in result)
    array = home.numpy(result) if home else None if several else _numbers(result)
    if array is None:
        parts = ", ".join(f"{type(part).__name__}{list(np.shape(part))}" for part in result)
        raise TraceError(
            f"the model returned a {type(result).__name__} of {len(result)} ({parts}); give a function that returns "
            "one array, such as lambda x: model(x)[0]"
        )
    if array.dtype.kind not in "fiub":
        raise TraceError(f"the model returned {type(result).__name__} of dtype {array.dtype}; numbers are needed")
    if not array.ndim or len(array) != rows:
        hint = (
            " squeeze() drops the batch axis of a single sample: name the axis." if rows == 1 and not array.ndim else ""
        )
        raise TraceError(
            f"the model returned shape {array.shape} for {rows} samples; it must return one row for each sample.{hint}"
        )
    return array.astype(np.float64) if array.dtype.kind != "f" or array.dtype.itemsize > 8 else array


def _numbers(result: Any) -> Numpy:
    try:
        return np.asarray(result)
    except ValueError as error:
        raise TraceError(f"the model returned a {type(result).__name__} that is not an array: {error}") from error

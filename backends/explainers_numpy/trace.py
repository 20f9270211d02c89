"""A callable as a graph of one node."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np

from explainers.backend import Traced, owner
from explainers.errors import ExplainersError, InputError, TraceError
from explainers.graph import Output, called
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
    shape: list[int | None] = [None, *out.shape[1:]]
    for name, length in sig.lengths.items():
        longer = call(*(spec.blank(1) for spec in sig.at({name: length + 1}).inputs))
        for axis, size in called.varied(out.shape, longer.shape, length).items():
            shape[axis] = size
    kinds = [("0", Output(tuple(shape), str(out.dtype)))]
    name = getattr(model, "__qualname__", type(model).__qualname__)
    payload = _checked(call, sig, kinds) if sig.lengths else call
    return Traced(called.graph(name, called.source(model), sig, kinds, payload), sig, {})


def _checked(call: Caller, sig: Signature, kinds: called.Tried) -> Caller:
    """The model, checked to return samples of the same kind for every size of the axes that vary."""

    def checked(*arrays: Numpy) -> Numpy:
        result = call(*arrays)
        called.check(kinds, ["0"], [result.shape], len(arrays[0]), sig.sizes(arrays))
        return result

    return checked


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

"""A model that is called as it is, as a graph of one node: for methods that only need its outputs."""

from __future__ import annotations

import inspect
import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from ..errors import ExplainersError, TraceError
from ..lengths import Length, sized
from ..spec import Signature
from .nodes import Graph, Node, Output, Value
from .roles import Function, Role

Tried = Sequence[tuple[str, Output]]  # key, shape and dtype of each tensor that a model returned
Shape = Sequence[int | None]
FEW, MORE = 1, 3  # samples in the two calls that show which axes of the outputs hold the batch


def outputs(attempt: Callable[[Signature, int], Tried], sig: Signature) -> list[tuple[str, Output]]:
    """The model's outputs with their keys, ``None`` for the batch, and a Length for axes that vary with an input's.

    ``attempt(sig, count)`` calls the model with ``count`` samples of these sizes.

    Raises
    ------
    TraceError: the model fails for one sample, or for several, or returns other tensors for them.
    """
    few = _attempted(attempt, sig, FEW, "one sample")
    more = _attempted(attempt, sig, MORE, f"{MORE} samples, though not for one")
    _check_alike(few, more)
    shapes = [list(out.shape) for _, out in few]
    plain = [True] * len(few)
    for place, ((_, small), (_, large)) in enumerate(zip(few, more, strict=True)):
        for axis, (before, after) in enumerate(zip(small.shape, large.shape, strict=True)):
            if before != after:
                shapes[place][axis] = None
                plain[place] = plain[place] and (before, after) == (FEW, MORE)
    for name, length in sig.lengths.items():
        longer = _attempted(attempt, sig.at({name: length + 1}), FEW, f"one more place along {name!r}")
        for shape, (_, small), (_, large) in zip(shapes, few, longer, strict=True):
            for axis, size in varied(small.shape, large.shape, length).items():
                shape[axis] = size
    found = zip(few, shapes, plain, strict=True)
    return [(key, Output(tuple(shape), out.dtype, one_by_one)) for (key, out), shape, one_by_one in found]


def varied(shape: Shape, longer: Shape, length: Length) -> dict[int, Length]:
    """The axes of ``shape`` that differ in ``longer``, which the model returned for one more place along ``length``."""
    found = {}
    for axis, (before, after) in enumerate(zip(shape, longer, strict=True)):
        if before != after:
            same = before == int(length) and after == length + 1
            name = length.name if same else f"depending on {length.name}"
            found[axis] = Length(name, int(before or 0), axis=length.name)
    return found


def _attempted(attempt: Callable[[Signature, int], Tried], sig: Signature, count: int, what: str) -> Tried:
    try:
        return attempt(sig, count)
    except ExplainersError:
        raise
    except Exception as error:  # of any kind that a model raises
        shapes = ", ".join(str((count, *spec.sample_shape)) for spec in sig.inputs)
        first = next(iter(str(error).strip().splitlines()), "")
        hint = " One sample needs a batch axis: x[None]." if any(not s.sample_shape for s in sig.inputs) else ""
        if count == MORE:
            hint = " The model must take any number of samples: look for a number in place of the batch size."
        raise TraceError(
            f"the model raised {type(error).__name__} for {what} (inputs of shape {shapes}): {first[:300]}.{hint}"
        ) from error


def _check_alike(few: Tried, more: Tried) -> None:
    """Refuse a model that returns tensors of other keys or with other numbers of axes for more samples."""
    if not few:
        raise TraceError("the model returns no tensor")
    for (key, small), (other, large) in zip(few, more, strict=False):
        if key != other or len(small.shape) != len(large.shape):
            hint = " squeeze() drops the batch axis of a single sample: name the axis." if key == other else ""
            raise TraceError(
                f"the model returned {key!r} of shape {small.shape} for one sample, and {other!r} of shape "
                f"{large.shape} for {MORE}; it must return one row for each sample.{hint}"
            )
    if len(few) != len(more):
        raise TraceError(f"the model returned {len(few)} tensors for one sample, and {len(more)} for {MORE}")


def check(
    kinds: Tried, keys: Sequence[str], shapes: Sequence[tuple[int, ...]], count: int, sizes: Mapping[str, int]
) -> None:
    """Check what a call with ``count`` samples returned against the outputs that :func:`outputs` found.

    ``sizes``: of the call's axes that vary.

    Raises
    ------
    TraceError: it returned other tensors, or not one row for each sample.
    """
    if list(keys) != [key for key, _ in kinds]:
        known = ", ".join(key for key, _ in kinds)
        raise TraceError(f"the model returned {', '.join(keys) or 'no tensor'} in this call, and {known} before")
    for (key, kind), shape in zip(kinds, shapes, strict=True):
        if kind.batch_axis != 0 or not kind.floating:
            continue  # it cannot be explained
        wanted = (count, *sized([size for size in kind.shape[1:] if size is not None], sizes))
        computed = any(isinstance(size, Length) and not size.plain for size in kind.shape)  # cannot be explained
        if len(shape) != len(wanted) or shape[0] != count or (shape != wanted and not computed):
            hint = "; a size that is computed from one that varies is not supported" if sizes else ""
            raise TraceError(
                f"the model returned {key!r} of shape {shape} for {count} samples, which is no {kind}; each sample "
                f"needs one row of the same sizes in every call{hint}"
            )


def graph(name: str, source: str, sig: Signature, kinds: Tried, payload: Any) -> Graph:
    """A graph of one node, which is the model. ``payload``: how the backend calls it, with all inputs in order."""
    heads = [Node(s.name, "input", Role.INPUT, outputs=(Output((None, *s.sample_shape), s.dtype),)) for s in sig.inputs]
    inputs = tuple(node.values[0] for node in heads)
    label = "model"
    while label in sig.names:
        label += "_"
    body = Node(
        label, name, Role.OPAQUE, inputs, tuple(kind for _, kind in kinds), function=Function.CALL, source=source,
        payload=payload,
    )  # fmt: skip
    results = tuple((key, Value(label, place)) for place, (key, _) in enumerate(kinds))
    return Graph((*heads, body), inputs, results)


def source(model: Any) -> str:
    """``file:line`` where a function, or the class of an object, is written; "" where that is unknown."""
    for written in (inspect.unwrap(model) if callable(model) else model, type(model)):
        try:
            file, line = inspect.getsourcefile(written), inspect.getsourcelines(written)[1]
        except (TypeError, OSError):
            continue
        return f"{os.fspath(file)}:{line}" if file else ""
    return ""

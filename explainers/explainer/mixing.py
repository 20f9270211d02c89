"""Finds models whose samples influence one another: attributions would depend on what else is in the batch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from ..backend import Backend, Traced
from ..errors import InputError
from ..graph import Function, Graph, Node, Output, Value
from ..program import evaluate
from ..spec import STRING

ROWS = 3  # the second one changes; the others must not
LOUDER = 1e3  # factor by which the second sample's other cotangent is larger
TOLERANCE = 1e-3  # of the largest entry: far above rounding, far below what a batch mean does


def check(graph: Graph, traced: Traced, backend: Backend, derivative: bool = True) -> None:
    """Run the model twice on three small samples that differ in the second one; the others must not change.

    A model that cannot run on such samples (it may need other numbers) is not checked. ``derivative``: whether to
    check derivatives defined by the model, too.

    Raises
    ------
    InputError: the first or third sample's output or derivative changed; names the first operation that mixes.
    """
    if derivative:
        _check_derivatives(graph, traced, backend)
    if not _moved(graph, traced, backend, [graph.outputs[0][1]]):
        return
    needed = graph.needed(value for _, value in graph.outputs)
    values = [value for node in graph if node.name in needed for value in node.values]
    sampled = [value for value in values if graph.output(value).floating and graph.output(value).batch_axis is not None]
    raise _mixed(graph.by_name[_moved(graph, traced, backend, sampled)[0].node])


def check_called(graph: Graph, traced: Traced, backend: Backend, batch_size: int | None) -> bool:
    """:func:`check` for a model that is called as it is; whether its samples affect each other.

    Raises
    ------
    InputError: they do, and ``batch_size`` is not 1; or its outputs differ from call to call.
    """
    if backend.forward_only:
        return False  # a callable may be expensive, or count its calls
    targets = [graph.outputs[0][1]]
    if _moved(graph, traced, backend, targets, same=True):
        raise InputError(
            f"the model, {_place(graph.by_name[targets[0].node])}, gives different outputs for the same samples: it "
            "draws random numbers, or keeps something from call to call. An explanation must be repeatable: switch "
            "that off in evaluation mode."
        )
    mixes = bool(_moved(graph, traced, backend, targets))
    if mixes and batch_size != 1:
        raise InputError(
            "the samples of a batch see one another in this model, so that attributions would depend on which samples "
            "share a package. Take the statistic from the training data (as BatchNorm does with running statistics, "
            "and static quantization with observed ranges, unlike dynamic quantization), or compile with "
            "batch_size=1: then the model is called with one row at a time."
        )
    return mixes


def _place(node: Node) -> str:
    where = f" at {node.source}" if node.source else f" in module {node.scope!r}" if node.scope else ""
    return f"{node.op!r} (node {node.name!r}){where}"


def _mixed(node: Node) -> InputError:
    return InputError(
        "the samples of a batch see one another in this model, so that attributions would depend on which samples "
        f"share a package. The first operation that mixes them is {_place(node)}. Take the "
        "statistic from the training data (as BatchNorm does with running statistics), or give interacting=True: then "
        "each call is one batch, for methods of one evaluation a sample."
    )


def _moved(graph: Graph, traced: Traced, backend: Backend, targets: Sequence[Value], same: bool = False) -> list[Value]:
    """The values whose first or third sample changes when the second sample does, or with the ``same`` samples."""
    try:
        weights = {value: backend.read(weight) for value, weight in traced.weights.items()}
        first, second = (
            evaluate(backend.ops, graph, weights, _samples(graph, traced, backend, other), targets)[0]
            for other in (False, not same)
        )
    except Exception:
        return []
    found = []
    with np.errstate(all="ignore"):
        for value in targets:
            axis = graph.output(value).batch_axis or 0
            before, after = (
                np.delete(np.moveaxis(np.asarray(backend.numpy(values[value])), axis, 0), 1, 0)
                for values in (first, second)
            )
            if (abs(before - after) > TOLERANCE * np.nanmax(abs(before), initial=0)).any():
                found.append(value)
    return found


def _check_derivatives(graph: Graph, traced: Traced, backend: Backend) -> None:
    """Check each derivative defined by the model, such as a clipped norm, separately, with two cotangents."""
    own = [
        node for node in graph if node.function is Function.OWN_DERIVATIVE and node.outputs[0].batch_axis is not None
    ]
    if not own:
        return
    try:
        weights = {value: backend.read(weight) for value, weight in traced.weights.items()}
        samples, operands = _samples(graph, traced, backend, False), [value for node in own for value in node.inputs]
        values, _ = evaluate(backend.ops, graph, weights, samples, operands)
        mixing = [node for node in own if _passes_on(node, [values[value] for value in node.inputs], graph, backend)]
    except Exception:
        return
    if mixing:
        raise InputError(
            "the samples of a batch see one another in a derivative of this model, so that attributions would depend "
            f"on which samples share a package. It is that of {_place(mixing[0])}. Compute it for each sample by "
            "itself (a norm over all axes but the first), or give interacting=True: then each call is one batch, for "
            "methods of one evaluation a sample."
        )


def _passes_on(node: Node, operands: list[Any], graph: Graph, backend: Backend) -> bool:
    """Whether the first or third sample's derivative changes when only the second one's cotangent does."""
    places = [
        place for place, value in enumerate(node.inputs)
        if graph.output(value).floating and graph.output(value).batch_axis is not None
    ]  # fmt: skip
    generator = np.random.default_rng(0)
    outputs, pullback = backend.ops.vjp(node, operands, places)
    first: list[Any] = []
    second: list[Any] = []
    for array, kind in zip(outputs, node.outputs, strict=True):
        known = kind.floating and kind.batch_axis is not None
        cotangent = generator.normal(size=tuple(array.shape)) if known else None
        for messages, factor in ((first, 1), (second, LOUDER)):
            messages.append(None if cotangent is None else _staged(cotangent, kind, factor, backend, array))
    for place, before, after in zip(places, pullback(first), pullback(second), strict=True):
        if before is not None and after is not None:
            axis = graph.output(node.inputs[place]).batch_axis or 0
            kept, moved = (np.delete(np.asarray(backend.numpy(part)), 1, axis) for part in (before, after))
            if (abs(kept - moved) > TOLERANCE * np.nanmax(abs(kept), initial=0)).any():
                return True
    return False


def _staged(cotangent: Any, kind: Output, factor: float, backend: Backend, like: Any) -> Any:
    scale = np.ones(ROWS)
    scale[1] = factor
    shape = [ROWS if axis == kind.batch_axis else 1 for axis in range(cotangent.ndim)]
    return backend.like((cotangent * scale.reshape(shape)).astype("float32"), like)


def _samples(graph: Graph, traced: Traced, backend: Backend, other: bool) -> list[Any]:
    """Three samples for each input; ``other``: with a different second sample.

    Integers are 0, words are empty, masks are all True.
    """
    generator, arrays = np.random.default_rng(0), []
    for kind in map(graph.output, graph.inputs):
        shape = tuple(size or 1 for size in kind.shape[1:])
        if kind.dtype == STRING:
            arrays.append(backend.stage(np.full((ROWS, *shape), "", object), STRING, traced.device))
            continue
        array = np.ones((ROWS, *shape), "bool" if kind.dtype == "bool" else "int64") * (kind.dtype == "bool")
        if kind.floating:
            array = generator.normal(size=(ROWS, *shape)) + 0.1
            replaced = 3 * generator.normal(size=shape) - 1
            array[1] = replaced if other else array[1]
        host = "float32" if kind.dtype == "bfloat16" else kind.dtype
        arrays.append(backend.stage(array.astype(host), kind.dtype, traced.device))
    return arrays

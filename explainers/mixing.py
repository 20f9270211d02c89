"""Whether the samples of a batch see one another: attributions would then depend on who shares a package."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from . import regions
from .backend import Backend, Traced
from .errors import InputError
from .graph import Graph, Node, Value
from .spec import Numpy

ROWS = 3  # the second one changes; the others must not
TOLERANCE = 1e-3  # of the largest entry: far above rounding, far below what a batch mean does


def check(graph: Graph, traced: Traced, backend: Backend) -> None:
    """Run the model on three small samples twice, with another second one, as plain operations.

    What cannot be run on such samples (it may want other numbers) is not judged.

    Raises
    ------
    InputError: the first or third sample's output moved; with the first operation that mixes.
    """
    if backend.forward_only:
        return  # a callable may be dear, and count its calls
    with np.errstate(all="ignore"):
        try:
            first, second = (_values(graph, traced, backend, other) for other in (False, True))
        except Exception:
            return
    if not _moves(graph, graph.outputs[0][1], first, second):
        return
    needed = graph.needed(value for _, value in graph.outputs)
    for node in graph:
        if node.name in needed and any(_moves(graph, value, first, second) for value in node.values):
            raise _mixed(node)


def _mixed(node: Node) -> InputError:
    where = f" at {node.source}" if node.source else f" in module {node.scope!r}" if node.scope else ""
    return InputError(
        "the samples of a batch see one another in this model, so that attributions would depend on which samples "
        f"share a package. The first operation that mixes them is {node.op!r} (node {node.name!r}){where}. Take the "
        "statistic from the training data (as BatchNorm does with running statistics), or give interacting=True: then "
        "each call is one batch, for methods of one evaluation a sample."
    )


def _values(graph: Graph, traced: Traced, backend: Backend, other: bool) -> dict[Value, Numpy]:
    """Every value that has samples, as numpy."""
    generator = np.random.default_rng(0)
    known: dict[Value, Any] = {}
    for value in graph.inputs:
        kind = graph.output(value)
        shape = (ROWS, *(size or 1 for size in kind.shape[1:]))
        if kind.floating:
            array = generator.normal(size=shape) + 0.1
            if other:
                array[1] = 3 * generator.normal(size=shape[1:]) - 1
            else:
                generator.normal(size=shape[1:])
            array = array.astype("float32" if kind.dtype == "bfloat16" else kind.dtype)
        else:
            array = np.zeros(shape, kind.dtype) if kind.dtype != "bool" else np.ones(shape, bool)
        known[value] = backend.stage(array, kind.dtype, traced.device)
    weights: Mapping[Value, Any] = traced.weights
    found: dict[Value, Numpy] = {}
    needed = graph.needed(value for _, value in graph.outputs)
    for node in graph:
        if node.name not in needed:
            continue
        if node.values and node.values[0] in weights:
            known[node.values[0]] = backend.read(weights[node.values[0]])
        elif node.values and node.values[0] not in known:
            results = regions.evaluate(backend.ops, node, [known[value] for value in node.inputs])
            known.update(zip(node.values, results, strict=False))
        for value in node.values:
            if graph.output(value).floating and graph.output(value).batch_axis is not None:
                found[value] = np.asarray(backend.numpy(known[value]))
    return found


def _moves(graph: Graph, value: Value, first: Mapping[Value, Numpy], second: Mapping[Value, Numpy]) -> bool:
    """Whether the first or the third sample of ``value`` differs."""
    if value not in first:
        return False
    axis = graph.output(value).batch_axis
    assert axis is not None
    before, after = (np.delete(np.moveaxis(found[value], axis, 0), 1, 0) for found in (first, second))
    if before.shape != after.shape or not before.size:
        return before.shape != after.shape
    scale = np.nanmax(abs(before), initial=0)
    return bool((abs(before - after) > TOLERANCE * scale).any())

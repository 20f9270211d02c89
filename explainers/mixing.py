"""Whether the samples of a batch see one another: attributions would then depend on who shares a package."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from .backend import Backend, Traced
from .errors import InputError
from .graph import Graph, Node, Value
from .program import evaluate
from .spec import STRING

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
    if not _moved(graph, traced, backend, [graph.outputs[0][1]]):
        return
    needed = graph.needed(value for _, value in graph.outputs)
    values = [value for node in graph if node.name in needed for value in node.values]
    sampled = [value for value in values if graph.output(value).floating and graph.output(value).batch_axis is not None]
    raise _mixed(graph.by_name[_moved(graph, traced, backend, sampled)[0].node])


def _mixed(node: Node) -> InputError:
    where = f" at {node.source}" if node.source else f" in module {node.scope!r}" if node.scope else ""
    return InputError(
        "the samples of a batch see one another in this model, so that attributions would depend on which samples "
        f"share a package. The first operation that mixes them is {node.op!r} (node {node.name!r}){where}. Take the "
        "statistic from the training data (as BatchNorm does with running statistics), or give interacting=True: then "
        "each call is one batch, for methods of one evaluation a sample."
    )


def _moved(graph: Graph, traced: Traced, backend: Backend, targets: Sequence[Value]) -> list[Value]:
    """Those whose first or third sample differs when the second one does."""
    try:
        weights = {value: backend.read(weight) for value, weight in traced.weights.items()}
        first, second = (
            evaluate(backend.ops, graph, weights, _samples(graph, traced, backend, other), targets)[0]
            for other in (False, True)
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


def _samples(graph: Graph, traced: Traced, backend: Backend, other: bool) -> list[Any]:
    """Three samples for each input; with ``other``, another second one.

    Integers are 0, words empty, masks let all through.
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

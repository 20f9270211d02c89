"""What an explainer computes on its way: the activation of every node, and the message that comes back to it."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from ..errors import ExplainersError, InputError
from ..explainer.api import Explainer
from ..graph import Graph, Role, Value
from ..ops import Ops
from ..program import Forward, Placeholder, Program
from ..program.against_reference import Contrast
from ..run import Packages
from ..run.call import Staged
from ..run.contrasted import aligned
from ..spec import Array, Numpy


@dataclass(frozen=True)
class Recording:
    """values: of ``graph``, in topological order. activations, messages: (N, …), None where no message comes by.

    layers: the value that leaves a layer, for each that has one only.
    """

    graph: Graph
    values: tuple[Value, ...]
    activations: tuple[Numpy, ...]
    messages: tuple[Numpy | None, ...]
    layers: Mapping[str, Value]


@dataclass(frozen=True)
class Messages(Program):
    """The messages at the values ``at`` when the walk starts at the samples themselves: (N, …) each."""

    at: tuple[Value, ...] = ()

    @property
    def single(self) -> bool:
        return True

    @cached_property
    def placeholders(self) -> tuple[Placeholder, ...]:
        return tuple(self._placeholders_without_baseline())

    def __call__(self, ops: Ops, weights: Mapping[Value, Array], *arguments: Array) -> tuple[Array, ...]:
        args = dict(zip((p.name for p in self.placeholders), arguments, strict=True))
        values, pullbacks = self.forward(ops, weights, [args[f"input_{value.node}"] for value in self.graph.inputs])
        y = values[self.output]
        mask = args["mask"] + ops.one_hot_max(y) * args["choose"]
        found = self.messages(ops, values, pullbacks, self.method.start(ops, mask, y))
        return tuple(_leading(ops, self.graph, value, found.get(value, values.get(value)), value in found)
                     for value in self.at)  # fmt: skip


@dataclass(frozen=True)
class Multipliers(Contrast):
    """The multipliers at the values ``at``: (N, …) each."""

    at: tuple[Value, ...] = ()

    def __call__(self, ops: Ops, weights: Mapping[Value, Array], *arguments: Array) -> tuple[Array, ...]:
        _, run, messages = self.walked_back(ops, weights, arguments)
        found = {value: run.multiplier(messages[value], value) for value in self.at if value in messages}
        return tuple(_leading(ops, self.graph, value, found.get(value, run.values.get(value)), value in found)
                     for value in self.at)  # fmt: skip


def _leading(ops: Ops, graph: Graph, value: Value, array: Array, known: bool) -> Array:
    """Samples first; zeros where no message came by."""
    axis = graph.output(value).batch_axis
    array = array if known else ops.zeros_like(array)
    return ops.move_axis(array, axis, 0) if axis else array


def recorded(explain: Explainer, inputs: Any, **arguments: Any) -> Recording:
    """Run the model once, and the walk of the method's rules once, at the samples.

    Methods of many rows (paths, draws) record the walk at the samples themselves; of several references, at the
    first. Forward-only methods have no messages.

    Raises
    ------
    InputError: an explainer from a file.
    """
    request = explain.request(inputs, **arguments)
    packages, call = request.packages, request.call
    if request.plan.loaded:
        raise InputError(
            "it was loaded from a file, which holds compiled programs and no graph to walk. Compile it from the model."
        )
    if call.baseline is not None and call.baseline.distribution:
        own = call.baseline.own
        tables = tuple(table[:, 0] if own else table[:1] for table in call.baseline.tables)
        call.baseline = dataclasses.replace(
            call.baseline, tables=tables, per_sample=own, distribution=False, fixed=False, own=False
        )
    staged = packages.stage_call(call, 0, len(call))
    graph = packages.predictor.graph
    values = _values(graph)
    layers = {}
    for path in graph.scopes():
        try:
            leaving = graph.layer(path)
        except ExplainersError:  # several calls, or no value that has samples: nothing to compare by
            continue
        if len(leaving) == 1:
            layers[path] = leaving[0]
    count = len(call)
    offset = len(staged.inputs) - len(graph.inputs)  # of what a layer's explainer has computed beforehand
    activations = _activations(packages, graph, values, staged.inputs[offset:], count)
    messages = _messages(packages, values, staged)
    return Recording(graph, values, activations, tuple(messages.get(value) for value in values), layers)


def _values(graph: Graph) -> tuple[Value, ...]:
    """Floating values that have samples and depend on the inputs."""
    moved = graph.moved(graph.inputs)
    return tuple(
        value for node in graph for value, out in zip(node.values, node.outputs, strict=True)
        if value in moved and out.floating and out.batch_axis is not None
    )  # fmt: skip


def _activations(
    packages: Packages, graph: Graph, values: tuple[Value, ...], inputs: list[Array], count: int
) -> tuple[Numpy, ...]:
    program = Forward(graph.restrict((str(i), value) for i, value in enumerate(values)))
    given = dict(zip(graph.inputs, inputs, strict=True))
    return _run(packages, program, [given[value] for value in program.inputs], count)


def _messages(packages: Packages, values: tuple[Value, ...], staged: Staged) -> dict[Value, Numpy]:
    program = packages.program
    if program.rules is None:
        return {}
    reached = program.graph.active(program.wrt)
    at = tuple(v for v in values if v in reached and (v.node in program.path or v in program.wrt))
    at = tuple(v for v in at if program.graph.by_name[v.node].role is not Role.INPUT or v in program.wrt)
    fields = (program.graph, program.method, program.wrt)
    arguments = [*staged.inputs, staged.mask, staged.choose]
    if not isinstance(program, Contrast):
        found = _run(packages, Messages(*fields, at), arguments, staged.count)
        return dict(zip(at, found, strict=True))
    assert packages.references is not None
    piece = aligned(packages, staged, packages.references)
    activations = [packages.backend.pad(a, staged.count) if piece.shared else a for a in piece.activations]
    found = _run(packages, Multipliers(*fields, at=at), [*arguments, *activations], staged.count)
    return dict(zip(at, found, strict=True))


def _run(packages: Packages, program: Any, arguments: list[Array], count: int) -> tuple[Numpy, ...]:
    """Compile by the explainer's own engine, run on ``count`` samples."""
    backend, size = packages.backend, packages.bucket(count)
    kernel = backend.compile(program, packages.traced, engine=packages.engine, rows=size)
    if size is not None:
        arguments = [backend.pad(a, size) if a.shape else a for a in arguments]
    return tuple(np.array(backend.numpy(array)[:count]) for array in kernel(*arguments))

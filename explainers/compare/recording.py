"""Recordings of an explainer's intermediate values: the activation of every node, and the message it receives."""

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
    """values: the values of ``graph``, in topological order. activations, messages: (N, …); None without a message.

    layers: the output value of each layer that has exactly one.
    """

    graph: Graph
    values: tuple[Value, ...]
    activations: tuple[Numpy, ...]
    messages: tuple[Numpy | None, ...]
    layers: Mapping[str, Value]


@dataclass(frozen=True)
class Messages(Program):
    """The messages at the values ``at`` of a backward pass at the samples themselves, (N, …) each."""

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
        messages = self.messages(ops, values, pullbacks, self.method.start(ops, mask, y))
        return tuple(_leading(ops, self.graph, value, messages.get(value, values.get(value)), value in messages)
                     for value in self.at)  # fmt: skip


@dataclass(frozen=True)
class Multipliers(Contrast):
    """The multipliers at the values ``at``, (N, …) each."""

    at: tuple[Value, ...] = ()

    def __call__(self, ops: Ops, weights: Mapping[Value, Array], *arguments: Array) -> tuple[Array, ...]:
        _, run, messages = self.walked_back(ops, weights, arguments)
        multipliers = {value: run.multiplier(messages[value], value) for value in self.at if value in messages}
        return tuple(
            _leading(ops, self.graph, value, multipliers.get(value, run.values.get(value)), value in multipliers)
            for value in self.at
        )


def _leading(ops: Ops, graph: Graph, value: Value, array: Array, present: bool) -> Array:
    """The array with the samples' axis first; zeros where no message arrived."""
    axis = graph.output(value).batch_axis
    array = array if present else ops.zeros_like(array)
    return ops.move_axis(array, axis, 0) if axis else array


def run_and_record(explain: Explainer, inputs: Any, **arguments: Any) -> Recording:
    """Run the model once and the method's backward pass once, at the samples.

    Methods that evaluate many rows (paths, draws) record the backward pass at the samples themselves; with several
    references, the first is used. Forward-only methods have no messages.

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
        per_sample = call.baseline.own
        tables = tuple(table[:, 0] if per_sample else table[:1] for table in call.baseline.tables)
        call.baseline = dataclasses.replace(
            call.baseline, tables=tables, per_sample=per_sample, distribution=False, fixed=False, own=False
        )
    staged = packages.stage_call(call, 0, len(call))
    graph = packages.predictor.graph
    values = _values(graph)
    layers = {}
    for path in graph.scopes():
        try:
            leaving = graph.layer(path)
        except ExplainersError:  # the layer is called several times, or no output has samples: it cannot be compared
            continue
        if len(leaving) == 1:
            layers[path] = leaving[0]
    count = len(call)
    offset = len(staged.inputs) - len(graph.inputs)  # values that a layer's explainer computes before its program
    activations = _activations(packages, graph, values, staged.inputs[offset:], count)
    messages = _messages(packages, values, staged)
    return Recording(graph, values, activations, tuple(messages.get(value) for value in values), layers)


def _values(graph: Graph) -> tuple[Value, ...]:
    """The floating-point values that have a samples' axis and depend on the inputs."""
    moved = graph.moved(graph.inputs)
    return tuple(
        value for node in graph for value, out in zip(node.values, node.outputs, strict=True)
        if value in moved and out.floating and out.batch_axis is not None
    )  # fmt: skip


def _activations(
    packages: Packages, graph: Graph, values: tuple[Value, ...], inputs: list[Array], count: int
) -> tuple[Numpy, ...]:
    program = Forward(graph.restrict((str(i), value) for i, value in enumerate(values)))
    input_arrays = dict(zip(graph.inputs, inputs, strict=True))
    return _run(packages, program, [input_arrays[value] for value in program.inputs], count)


def _messages(packages: Packages, values: tuple[Value, ...], staged: Staged) -> dict[Value, Numpy]:
    program = packages.program
    if program.rules is None:
        return {}
    active_values = program.graph.active(program.wrt)
    at = tuple(v for v in values if v in active_values and (v.node in program.path or v in program.wrt))
    at = tuple(v for v in at if program.graph.by_name[v.node].role is not Role.INPUT or v in program.wrt)
    fields = (program.graph, program.method, program.wrt)
    arguments = [*staged.inputs, staged.mask, staged.choose]
    if not isinstance(program, Contrast):
        messages = _run(packages, Messages(*fields, at), arguments, staged.count)
        return dict(zip(at, messages, strict=True))
    assert packages.references is not None
    piece = aligned(packages, staged, packages.references)
    activations = [packages.backend.pad(a, staged.count) if piece.shared else a for a in piece.activations]
    messages = _run(packages, Multipliers(*fields, at=at), [*arguments, *activations], staged.count)
    return dict(zip(at, messages, strict=True))


def _run(packages: Packages, program: Any, arguments: list[Array], count: int) -> tuple[Numpy, ...]:
    """Compile the program with the explainer's own engine, and run it on ``count`` samples."""
    backend, size = packages.backend, packages.bucket(count)
    kernel = backend.compile(program, packages.traced, engine=packages.engine, rows=size)
    if size is not None:
        arguments = [backend.pad(a, size) if a.shape else a for a in arguments]
    return tuple(np.array(backend.numpy(array)[:count]) for array in kernel(*arguments))

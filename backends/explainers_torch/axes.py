"""Axes of an exported program that vary: examples to trace with, symbols, and the sizes that the trace holds for."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from torch.export import Dim, ExportedProgram
from torch.export.graph_signature import InputKind

from explainers import conditions
from explainers.errors import InputError, TraceError
from explainers.graph import Function, Graph
from explainers.lengths import EXAMPLES, Length, named
from explainers.spec import Signature, TensorSpec

from .lower import Lowered


def dynamic(spec: TensorSpec) -> dict[int, Any]:
    """The axes that vary, for torch.export, which finds out what sizes the model takes."""
    return {axis: Dim.DYNAMIC for axis, size in enumerate(spec.shape) if isinstance(size, Length)}


def with_examples(sig: Signature) -> Signature:
    """The signature with an example of its own for each axis that varies."""
    examples = dict(zip(sig.lengths, EXAMPLES, strict=False))
    if len(examples) < len(sig.lengths):
        raise InputError(f"({sig}) has {len(sig.lengths)} axes that vary; {len(EXAMPLES)} are possible")

    def shape(spec: TensorSpec) -> tuple[Any, ...]:
        return tuple(Length(s.name, examples[s.name]) if isinstance(s, Length) else s for s in spec.shape)

    return replace(sig, inputs=tuple(replace(spec, shape=shape(spec)) for spec in sig.inputs))


class Axes:
    """The symbols of an exported program: the batch and the axes that vary."""

    def __init__(self, program: ExportedProgram | Lowered, sig: Signature) -> None:
        self.lengths: dict[Any, Length] = {}  # by symbol
        self.examples: dict[Any, int] = {}
        self.batch: set[Any] = set()
        user = [s.arg.name for s in program.graph_signature.input_specs if s.kind is InputKind.USER_INPUT]
        values = {fx.name: fx.meta["val"] for fx in program.graph.nodes if fx.op == "placeholder"}
        tensors = [values[name] for name in user if isinstance(values.get(name), torch.Tensor)]
        self.guards: list[Any] = []
        for value, spec in zip(tensors, sig.inputs, strict=False):
            mode = getattr(value, "fake_mode", None)
            if mode is not None and mode.shape_env is not None and not self.guards:
                env = mode.shape_env
                self.guards = [guard.expr.xreplace(env.replacements) for guard in env.guards]
            for given, size in zip(value.shape, spec.shape, strict=True):
                if isinstance(size, Length) and not isinstance(given, int):
                    self._add(given.node.expr, size, program.range_constraints)
                elif not isinstance(given, int):
                    self.batch |= given.node.expr.free_symbols

    def _add(self, symbol: Any, size: Length, ranges: Mapping[Any, Any]) -> None:
        known = self.lengths.get(symbol)
        if known is not None and known.name != size.name:
            raise InputError(
                f"the model needs the same size for the axes {known.name!r} and {size.name!r}: give them one name"
            )
        allowed = ranges.get(symbol)
        low = int(allowed.lower) if allowed is not None and allowed.lower > 2 else 1
        high = int(allowed.upper) if allowed is not None and allowed.upper < 2**31 - 1 else math.inf
        self.lengths[symbol] = Length(size.name, int(size), low=low, high=high)
        self.examples[symbol] = int(size)

    def conditions(self, sig: Signature) -> tuple[str, ...]:
        """What the traced branches ask of the sizes that vary.

        Raises
        ------
        TraceError: a condition that cannot be written down.
        """
        if not self.lengths:
            return ()
        places = {name: place for place, name in enumerate(sig.lengths)}
        names = {symbol: f"size_{places[length.name]}" for symbol, length in self.lengths.items()}
        names.update(dict.fromkeys(self.batch, "batch"))
        found: dict[str, None] = {}
        for guard in self.guards:
            if guard.free_symbols & self.lengths.keys():
                text = str(guard.subs(names))
                if not guard.free_symbols <= names.keys() or not conditions.known(text):
                    raise TraceError(
                        f"the model takes a branch that depends on a size that varies in a way that cannot be checked "
                        f"at a call ({text}). Give the size, and compile an explainer for each size that you need."
                    )
                found[text] = None
        return tuple(found)

    def size(self, given: Any) -> int | None:
        """The size of an axis; None for the batch and for a size that is computed from it."""
        if isinstance(given, int):
            return given
        symbols = given.node.expr.free_symbols
        if symbols & self.batch or not symbols <= self.lengths.keys():
            return None
        if given.node.expr.is_Symbol:
            return self.lengths[given.node.expr]
        names = {symbol: length.name for symbol, length in self.lengths.items()}
        first = max(symbols, key=lambda symbol: self.examples[symbol])
        text = str(given.node.expr.subs(names))
        size = int(given.node.expr.subs(self.examples))
        return Length(text, size, axis=self.lengths[first].name, example=self.examples[first])


def with_bounds(sig: Signature, axes: Axes, graph: Graph) -> Signature:
    """The signature with the sizes that the trace holds for."""
    known = {length.name: length for length in axes.lengths.values()}
    if not known:
        return sig
    highest = _positions(graph)

    def bounded(size: Length) -> Length:
        high = min(size.high, highest.get(size.name, math.inf))
        return Length(size.name, int(size), low=size.low, high=high)

    def shape(spec: TensorSpec) -> tuple[Any, ...]:
        return tuple(bounded(known[s.name]) if isinstance(s, Length) else s for s in spec.shape)

    specs = tuple(replace(spec, shape=shape(spec)) for spec in sig.inputs)
    return replace(sig, inputs=specs, conditions=axes.conditions(sig))


def _positions(graph: Graph) -> dict[str, int]:
    """For each axis that varies, the rows of the smallest table that positions along it, 0, 1, 2 …, index."""
    moved, found = graph.moved(graph.inputs), dict[str, int]()
    for node in graph:
        if node.function is Function.EMBEDDING and not moved & set(node.inputs[1:]):
            rows = graph.output(node.inputs[0]).shape[0] or 0
            for name in named(node.outputs[0].shape) if rows else ():
                found[name] = min(found.get(name, int(rows)), int(rows))
    return found

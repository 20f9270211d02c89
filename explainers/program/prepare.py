"""Prepares a traced graph for a method: applies all rewrites, in order, and builds the programs."""

from __future__ import annotations

from dataclasses import dataclass

from ..graph import Graph, Value, rewrite_pools, rewrite_regions
from ..methods.base import Method
from .against_reference import Contrast
from .every_output import every_output
from .first_layer import reusing
from .guided import guided
from .incremental import incremental
from .walk import Forward, Program


@dataclass(frozen=True)
class Prepared:
    """The programs of a method. ``prefix``: from the inputs to the layer where rows start, if they start at one.

    ``prefix_places``: the positions of its inputs among the model's. ``predictor``: the model itself.
    """

    program: Program
    predictor: Forward
    prefix: Forward | None = None
    prefix_places: tuple[int, ...] = ()


def prepare(
    graph: Graph, method: Method, wrt: tuple[Value, ...], each: bool = False,
    *, changes: bool = True, reuse: bool | None = False, batch_size: int | None = None,
) -> Prepared:  # fmt: skip
    """Cut the graph at the layer where rows start, if any, rewrite it for the rules, and check that rules cover it.

    ``each``: with derivatives of every output, not of one. ``changes``: compute only what a row can change, where that
    takes less work. ``reuse``: whether the first layer may be computed once for each sample; None: if that pays, for
    packages of ``batch_size`` rows.

    Raises
    ------
    UnsupportedOperation: the rules have no entry for an operation between ``wrt`` and the output.
    """
    predictor, prefix = Forward(graph), None
    places: tuple[int, ...] = ()
    rules = method.rule_set
    moves = not (method.single or method.moves_inputs) or (rules is not None and rules.contrast)
    if moves and not set(wrt) <= set(graph.inputs):  # rows start at a layer: compute it once
        prefix = Forward(graph.restrict((str(i), value) for i, value in enumerate(wrt)))
        places = tuple(graph.inputs.index(value) for value in prefix.inputs)
        graph = graph.cut(wrt)
        wrt = graph.inputs[: len(wrt)]
    if each:
        program: Program = every_output(rewrite_regions.join(_rewritten(graph, method, wrt), wrt), method, wrt)
    else:
        program = _program(_rewritten(graph, method, wrt), method, wrt)
        program = incremental(program, batch_size) if changes else program
        program = reusing(program, batch_size, reuse)
    program.check_rules()
    return Prepared(program, predictor, prefix, places)


def _rewritten(graph: Graph, method: Method, wrt: tuple[Value, ...]) -> Graph:
    rules = method.rule_set
    if rules is None or rules.reorders:
        graph = rewrite_pools.relu_behind_pools(graph, wrt)
    if rules is None:
        return graph
    if rules.contrast:
        graph = rewrite_regions.pass_stopped_maxima(graph)
    if rules.elementary:
        graph = rewrite_regions.mark_behind(rewrite_regions.join(graph, wrt))
    return rules.prepare(graph, wrt)


def _program(graph: Graph, method: Method, wrt: tuple[Value, ...]) -> Program:
    """The kind of program that the method needs: plain, with a reference, or multiplied by a map."""
    rules = method.rule_set
    if method.cam is not None:
        return guided(graph, method, wrt, method.cam)
    if rules is None or not rules.contrast:
        return Program(graph, method, wrt)
    program = Contrast(graph, method, wrt)
    return Contrast(graph, method, wrt, grid=True) if method.baseline == "references" and program.shared else program

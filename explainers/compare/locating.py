"""Where two candidates part: the first node whose activation differs, or whose rule passes another message."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from difflib import SequenceMatcher
from typing import Any

import numpy as np

from ..errors import InputError
from ..spec import Numpy
from . import processes
from .candidates import Candidate, Given, Question
from .measuring import Ours, compiled, opened
from .recording import Recording, recorded

Side = tuple[str, Given]


@dataclass(frozen=True)
class Place:
    """A value of a graph: the node that makes it, and, by layers, the layer that it leaves.

    shape: of one sample. users: the nodes that take it, each as (name, op, scope).
    """

    node: str
    op: str
    scope: str
    shape: tuple[int, ...]
    users: tuple[tuple[str, str, str], ...] = ()


@dataclass(frozen=True)
class Record:
    """What a candidate computes, in topological order: (samples, …) each, None where there is none.

    inputs: the places of the model's inputs. layers: the place of the only value that leaves each layer.
    """

    framework: str
    places: tuple[Place, ...]
    activations: tuple[Numpy, ...]
    messages: tuple[Numpy | None, ...]
    inputs: tuple[int, ...]
    layers: Mapping[str, int]


@dataclass(frozen=True)
class Parting:
    """Where two candidates part.

    kind: ``"activations"`` (the node computes something else), ``"structure"`` (the graphs have different
    operations there), ``"messages"`` (activations agree, and the node passes another message back), or ``""``
    (nothing parts: what differs is how many rows are evaluated, where, or how they are summed). node, op: of the
    left candidate. layer: the path of the layer that it belongs to. other: the right candidate's operation there.
    difference: largest, relative to the largest entry. compared: values that were compared.
    """

    left: str
    right: str
    kind: str
    node: str = ""
    op: str = ""
    layer: str = ""
    other: str = ""
    difference: float = 0.0
    compared: int = 0
    by: str = "nodes"

    def __str__(self) -> str:
        pair = f"{self.left!r} and {self.right!r}"
        if not self.kind:
            return (
                f"{pair} agree at all of the {self.compared} {self.by} that both have: they differ in the rows that "
                "are evaluated, or in how these are summed"
            )
        where = f"layer {self.layer!r}" if self.layer else f"node {self.node!r}"
        what = {
            "activations": f"activations part at {where}: {self.op} ({self.node})",
            "structure": f"graphs part at {where}: {self.op or 'nothing'} against {self.other or 'nothing'}",
            "messages": f"activations agree, messages part on the way back through {where}: {self.op} ({self.node})",
        }[self.kind]
        return f"{pair}: {what}; relative difference {self.difference:.3g}"


def record(candidate: Given, question: Question) -> Record:
    """Compile the candidate where it is none yet, and run it once for its activations and messages."""
    runner = compiled(candidate, opened(candidate), question)
    if not isinstance(runner, Ours):
        raise InputError(f"{runner.method} is a peer, which has no graph of this library to walk")
    found = recorded(runner.explain, question.inputs, **runner.arguments(question))
    return _record(runner.backend, found)


def _record(framework: str, found: Recording) -> Record:
    graph = found.graph
    users: dict[Any, list[tuple[str, str, str]]] = {}
    for node in graph:
        for value in node.inputs:
            users.setdefault(value, []).append((node.name, node.op, node.scope))
    places = []
    for value in found.values:
        node = graph.by_name[value.node]
        size = tuple(size or 0 for size in graph.output(value).shape[1:])
        places.append(Place(node.name, node.op, node.scope, size, tuple(users.get(value, ()))))
    order = {value: i for i, value in enumerate(found.values)}
    layers = {path: order[value] for path, value in found.layers.items() if value in order}
    inputs = tuple(order[value] for value in graph.inputs if value in order)
    return Record(framework, tuple(places), found.activations, found.messages, inputs, layers)


def locate(sides: Sequence[Side], question: Question, tolerance: float, timeout: float) -> Parting:
    """The first place at which two candidates part."""
    left, right = (_of(name, candidate, question, timeout) for name, candidate in sides)
    names = sides[0][0], sides[1][0]
    if left.framework == right.framework:
        return _by_nodes(names, left, right, tolerance)
    return _by_layers(names, left, right, tolerance)


def _of(name: str, candidate: Given, question: Question, timeout: float) -> Record:
    if isinstance(candidate, Candidate) and candidate.elsewhere:
        (answer,) = processes.ask("record", [candidate], question, timeout)
        return Record(**{**answer, "places": tuple(Place(**place) for place in answer["places"])})
    try:
        return record(candidate, question)
    except InputError as error:
        raise InputError(f"candidate {name!r}: {error}") from error


# --- one framework: node by node -------------------------------------------------------------


def _by_nodes(names: tuple[str, str], left: Record, right: Record, tolerance: float) -> Parting:
    matched = _matched(left.places, right.places)
    differences = [_difference(left.activations[i], right.activations[j]) for i, j in matched]
    first = next((k for k, d in enumerate(differences) if d > tolerance), None)
    if first is not None:
        i, j = matched[first]
        before = matched[first - 1] if first else (-1, -1)
        return _activation(names, left, right, before, (i, j), differences[first], len(matched))
    return _message(names, left, right, matched, tolerance, "nodes")


def _matched(left: Sequence[Place], right: Sequence[Place]) -> list[tuple[int, int]]:
    """Pairs of the same operation in the same layer, or, where layers go by other names, in the same order."""
    best: list[tuple[int, int]] = []
    for scopes in (True, False):
        a, b = ([(p.op, p.scope if scopes else "", p.shape) for p in side] for side in (left, right))
        blocks = SequenceMatcher(None, a, b, autojunk=False).get_matching_blocks()
        found = [(b.a + k, b.b + k) for b in blocks for k in range(b.size)]
        best = max(best, found, key=len)
        if 2 * len(best) >= min(len(left), len(right)):
            break
    return best


def _activation(
    names: tuple[str, str], left: Record, right: Record, before: tuple[int, int], at: tuple[int, int],
    difference: float, compared: int,
) -> Parting:  # fmt: skip
    """The node at ``at``, or those between the last that agree and it, which only one of the graphs has."""
    between = [side.places[b + 1 : a] for side, b, a in zip((left, right), before, at, strict=True)]
    if not any(between):
        place = left.places[at[0]]
        return Parting(*names, "activations", place.node, place.op, place.scope, "", difference, compared)
    ops = ["+".join(place.op for place in some) for some in between]
    place = (between[0] or between[1])[0]
    return Parting(
        *names, "structure", place.node if between[0] else "", ops[0], place.scope, ops[1], difference, compared
    )


# --- two frameworks: layer by layer ----------------------------------------------------------


def _by_layers(names: tuple[str, str], left: Record, right: Record, tolerance: float) -> Parting:
    matched, paths = [], []
    for path, i in sorted(left.layers.items(), key=lambda item: item[1]):
        j = right.layers.get(path)
        if j is not None and left.places[i].shape == right.places[j].shape:
            matched.append((i, j))
            paths.append(path)
    if not matched:
        raise InputError(
            f"{names[0]!r} and {names[1]!r} have no layer in common by name and shape, so nothing tells which values "
            f"correspond: {sorted(left.layers)[:8]} and {sorted(right.layers)[:8]}"
        )
    for path, (i, j) in zip(paths, matched, strict=True):
        difference = _difference(left.activations[i], right.activations[j])
        if difference > tolerance:
            place = left.places[i]
            other, count = right.places[j].op, len(matched)
            return Parting(*names, "activations", place.node, place.op, path, other, difference, count, "layers")
    heads = zip(left.inputs, right.inputs, strict=False)
    return _message(names, left, right, [*heads, *matched], tolerance, "layers")


def _message(
    names: tuple[str, str], left: Record, right: Record, matched: Sequence[tuple[int, int]], tolerance: float, by: str
) -> Parting:
    """From the output back: the first message that differs came through one of its value's users."""
    for i, j in reversed(matched):
        a, b = left.messages[i], right.messages[j]
        difference = 0.0 if a is None or b is None else _difference(a, b)
        if difference > tolerance:
            place = left.places[i]
            node, op, scope = place.users[-1] if place.users else (place.node, place.op, place.scope)
            return Parting(*names, "messages", node, op, scope, "", difference, len(matched), by)
    return Parting(*names, "", compared=len(matched), by=by)


def _difference(a: Numpy, b: Numpy) -> float:
    """Largest, relative to the largest entry of both."""
    if a.shape != b.shape:
        return 0.0
    scale = max(np.abs(a).max(initial=0.0), np.abs(b).max(initial=0.0))
    return float(np.abs(a.astype(np.float64) - b).max(initial=0.0) / scale) if scale else 0.0

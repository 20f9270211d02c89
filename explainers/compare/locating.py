"""Where two candidates diverge: the first node with another activation, or whose rule passes another message."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from difflib import SequenceMatcher
from typing import Any

import numpy as np

from ..errors import InputError
from ..spec import Numpy
from . import processes
from .candidates import AnyCandidate, Candidate, Question
from .measuring import ExplainerRunner, compile_candidate, open_model
from .recording import Recording, run_and_record

Side = tuple[str, AnyCandidate]


@dataclass(frozen=True)
class Place:
    """A value of a graph: the node that computes it, and the scope (layer) of that node.

    shape: shape of one sample. users: the nodes that use the value, each as (name, op, scope).
    """

    node: str
    op: str
    scope: str
    shape: tuple[int, ...]
    users: tuple[tuple[str, str, str], ...] = ()


@dataclass(frozen=True)
class Record:
    """A candidate's activations and messages in topological order, (samples, …) each; None where there is no message.

    inputs: indices into ``places`` of the model's inputs. layers: by layer path, the index of its only output.
    """

    framework: str
    places: tuple[Place, ...]
    activations: tuple[Numpy, ...]
    messages: tuple[Numpy | None, ...]
    inputs: tuple[int, ...]
    layers: Mapping[str, int]


@dataclass(frozen=True)
class Parting:
    """The first place at which two candidates diverge.

    kind: ``"activations"`` (the node's output differs), ``"structure"`` (the graphs have different operations
    there), ``"messages"`` (all activations agree, but the node passes another message back), or ``""`` (no
    divergence: the candidates evaluate different rows, or sum them differently). node, op: in the left candidate's
    graph. layer: the path of the layer that the node belongs to. other: the right candidate's operation there.
    difference: largest difference relative to the largest entry. compared: number of compared values.
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


def record(candidate: AnyCandidate, question: Question) -> Record:
    """Compile the candidate if it is not an Explainer, and run it once to record activations and messages."""
    runner = compile_candidate(candidate, open_model(candidate), question)
    if not isinstance(runner, ExplainerRunner):
        raise InputError(f"{runner.method} is a method of another library, which has no graph to compare")
    recording = run_and_record(runner.explain, question.inputs, **runner.arguments(question))
    return _record(runner.backend, recording)


def _record(framework: str, recording: Recording) -> Record:
    graph = recording.graph
    users: dict[Any, list[tuple[str, str, str]]] = {}
    for node in graph:
        for value in node.inputs:
            users.setdefault(value, []).append((node.name, node.op, node.scope))
    places = []
    for value in recording.values:
        node = graph.by_name[value.node]
        size = tuple(size or 0 for size in graph.output(value).shape[1:])
        places.append(Place(node.name, node.op, node.scope, size, tuple(users.get(value, ()))))
    order = {value: i for i, value in enumerate(recording.values)}
    layers = {path: order[value] for path, value in recording.layers.items() if value in order}
    inputs = tuple(order[value] for value in graph.inputs if value in order)
    return Record(framework, tuple(places), recording.activations, recording.messages, inputs, layers)


def locate(sides: Sequence[Side], question: Question, tolerance: float, timeout: float) -> Parting:
    """The first place at which the two candidates diverge."""
    left, right = (_of(name, candidate, question, timeout) for name, candidate in sides)
    names = sides[0][0], sides[1][0]
    if left.framework == right.framework:
        return _by_nodes(names, left, right, tolerance)
    return _by_layers(names, left, right, tolerance)


def _of(name: str, candidate: AnyCandidate, question: Question, timeout: float) -> Record:
    if isinstance(candidate, Candidate) and candidate.in_other_process:
        (answer,) = processes.ask("record", [candidate], question, timeout)
        return Record(**{**answer, "places": tuple(Place(**place) for place in answer["places"])})
    try:
        return record(candidate, question)
    except InputError as error:
        raise InputError(f"candidate {name!r}: {error}") from error


# --- one framework: node by node -------------------------------------------------------------


def _by_nodes(names: tuple[str, str], left: Record, right: Record, tolerance: float) -> Parting:
    matched_pairs = _matched(left.places, right.places)
    differences = [_difference(left.activations[i], right.activations[j]) for i, j in matched_pairs]
    first_difference = next((k for k, d in enumerate(differences) if d > tolerance), None)
    if first_difference is not None:
        i, j = matched_pairs[first_difference]
        before = matched_pairs[first_difference - 1] if first_difference else (-1, -1)
        return _activation(names, left, right, before, (i, j), differences[first_difference], len(matched_pairs))
    return _message(names, left, right, matched_pairs, tolerance, "nodes")


def _matched(left: Sequence[Place], right: Sequence[Place]) -> list[tuple[int, int]]:
    """Index pairs of the same operation in the same layer; where the layers' names differ, in the same order."""
    best_pairs: list[tuple[int, int]] = []
    for scopes in (True, False):
        a, b = ([(p.op, p.scope if scopes else "", p.shape) for p in side] for side in (left, right))
        blocks = SequenceMatcher(None, a, b, autojunk=False).get_matching_blocks()
        matched_pairs = [(b.a + k, b.b + k) for b in blocks for k in range(b.size)]
        best_pairs = max(best_pairs, matched_pairs, key=len)
        if 2 * len(best_pairs) >= min(len(left), len(right)):
            break
    return best_pairs


def _activation(
    names: tuple[str, str], left: Record, right: Record, before: tuple[int, int], at: tuple[int, int],
    difference: float, compared: int,
) -> Parting:  # fmt: skip
    """The divergence at the pair ``at``, or at unmatched nodes since the pair ``before``, the last one that agrees."""
    between = [side.places[b + 1 : a] for side, b, a in zip((left, right), before, at, strict=True)]
    if not any(between):
        place = left.places[at[0]]
        return Parting(*names, "activations", place.node, place.op, place.scope, "", difference, compared)
    ops = ["+".join(place.op for place in places) for places in between]
    place = (between[0] or between[1])[0]
    return Parting(
        *names, "structure", place.node if between[0] else "", ops[0], place.scope, ops[1], difference, compared
    )


# --- two frameworks: layer by layer ----------------------------------------------------------


def _by_layers(names: tuple[str, str], left: Record, right: Record, tolerance: float) -> Parting:
    matched_pairs, paths = [], []
    for path, i in sorted(left.layers.items(), key=lambda item: item[1]):
        j = right.layers.get(path)
        if j is not None and left.places[i].shape == right.places[j].shape:
            matched_pairs.append((i, j))
            paths.append(path)
    if not matched_pairs:
        raise InputError(
            f"{names[0]!r} and {names[1]!r} have no layer in common by name and shape, so nothing tells which values "
            f"correspond: {sorted(left.layers)[:8]} and {sorted(right.layers)[:8]}"
        )
    for path, (i, j) in zip(paths, matched_pairs, strict=True):
        difference = _difference(left.activations[i], right.activations[j])
        if difference > tolerance:
            place = left.places[i]
            other, count = right.places[j].op, len(matched_pairs)
            return Parting(*names, "activations", place.node, place.op, path, other, difference, count, "layers")
    input_pairs = zip(left.inputs, right.inputs, strict=False)
    return _message(names, left, right, [*input_pairs, *matched_pairs], tolerance, "layers")


def _message(
    names: tuple[str, str], left: Record, right: Record, matched_pairs: Sequence[tuple[int, int]],
    tolerance: float, by: str,
) -> Parting:  # fmt: skip
    """The first message that differs, searched from the output back; it came through a user of its value."""
    for i, j in reversed(matched_pairs):
        a, b = left.messages[i], right.messages[j]
        difference = 0.0 if a is None or b is None else _difference(a, b)
        if difference > tolerance:
            place = left.places[i]
            node, op, scope = place.users[-1] if place.users else (place.node, place.op, place.scope)
            return Parting(*names, "messages", node, op, scope, "", difference, len(matched_pairs), by)
    return Parting(*names, "", compared=len(matched_pairs), by=by)


def _difference(a: Numpy, b: Numpy) -> float:
    """The largest difference, relative to the largest entry of both arrays."""
    if a.shape != b.shape:
        return 0.0
    scale = max(np.abs(a).max(initial=0.0), np.abs(b).max(initial=0.0))
    return float(np.abs(a.astype(np.float64) - b).max(initial=0.0) / scale) if scale else 0.0

"""Runs of several ranges of a call's samples whose pieces share packages.

Samples with different numbers of features have different designs, so that each range of equal samples is a run of its
own. Their pieces are joined, as a scheduler joins those of several calls.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from .base import Steps
from .call import Call, Chunk, Piece

if TYPE_CHECKING:
    from .packages import Packages


@dataclass
class _Open:
    """A range that has begun. ``piece``: what it waits for. ``number``: its place among the ranges."""

    number: int
    steps: Steps[list[Chunk]]
    piece: Piece


def run(packages: Packages, call: Call) -> list[Chunk]:
    """Results chunk by chunk, in order, of a call with groups."""
    waiting = deque(enumerate(packages.steps(call, start, stop) for start, stop in _ranges(call)))
    found: dict[int, list[Chunk]] = {}
    running: list[_Open] = []
    while waiting or running:
        size = packages.limit(call.batch_size)
        while waiting and sum(len(each.piece) for each in running) < size:
            number, steps = waiting.popleft()
            running.append(_Open(number, steps, next(steps)))
        chosen, running = _fitting(running, size)
        running = [*_execute(packages, chosen, found), *running]
    return [chunk for number in sorted(found) for chunk in found[number]]


def _ranges(call: Call) -> Iterator[tuple[int, int]]:
    assert call.groups is not None
    start = 0
    while start < call.count:
        stop = call.groups.alike(start, call.count)
        yield start, stop
        start = stop


def _fitting(running: list[_Open], size: int) -> tuple[list[_Open], list[_Open]]:
    """The first of ``running``, with those of the others that fit into a package of ``size`` rows with it; the rest."""
    chosen: list[_Open] = []
    rest: list[_Open] = []
    rows = 0
    for each in running:
        if not chosen or (rows + len(each.piece) <= size and each.piece.key == chosen[0].piece.key):
            chosen.append(each)
            rows += len(each.piece)
        else:
            rest.append(each)
    return chosen, rest


def _execute(packages: Packages, chosen: list[_Open], found: dict[int, list[Chunk]]) -> Iterator[_Open]:
    """Run the pieces as one package; yields the ranges that go on. Those that end leave their chunks in ``found``."""
    error: Exception | None = None
    try:
        results = packages.execute([each.piece for each in chosen])
    except Exception as raised:
        error = raised
    for place, each in enumerate(chosen):
        try:
            each.piece = each.steps.send(results[place]) if error is None else each.steps.throw(error)
        except StopIteration as stop:
            found[each.number] = stop.value
        else:
            yield each

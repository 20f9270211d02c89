"""Joining pieces of several runs into one package, and dividing its results among them."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np

from ..backend import Backend
from ..spec import Array
from .call import Piece, Results, Rows, Staged


def joined(backend: Backend, pieces: Sequence[Piece]) -> Piece:
    """Several pieces joined into one: their samples, and any rows and baselines, concatenated."""
    *inputs, mask = map(backend.concat, zip(*(piece.samples() for piece in pieces), strict=True))
    first = pieces[0]
    count = sum(piece.count for piece in pieces)
    staged = dataclasses.replace(first.staged, count=count, inputs=inputs, mask=mask)
    found = dataclasses.replace(first, staged=staged, first=0, last=count)
    if any(piece.activations is not first.activations for piece in pieces) and first.kind == "aligned":
        expanded = ([backend.expand(a, p.count) if p.shared else a for a in p.activations] for p in pieces)
        found.activations = list(map(backend.concat, zip(*expanded, strict=True)))
    if first.kind == "rows":
        found.rows = _rows(backend, pieces, staged)
    return found


def _rows(backend: Backend, pieces: Sequence[Piece], staged: Staged) -> Rows:
    """The rows of several pieces, with indices into all their baselines, which are stored in ``staged``."""
    samples, baselines, values = [], [], []
    tables: dict[int, list[Array]] = {}  # a shared baseline is included once
    offsets: dict[int, int] = {}
    at = rows_before = 0
    for number, piece in enumerate(pieces):
        given, rows = piece.staged.baseline, piece.rows
        assert rows is not None
        if given is not None:
            each = given.per_sample
            key = -number - 1 if each else id(piece.staged if given.own else given)
            if key not in tables:
                tables[key] = [t[piece.first : piece.last] if each else t for t in piece.staged.tables]
                offsets[key] = rows_before
                rows_before += int(tables[key][0].shape[0])
            baselines.append((rows.sample if each else rows.baseline) + offsets[key])
        samples.append(rows.sample + at)
        values.append(rows.values)
        at += piece.count
    if tables:
        staged.tables = list(map(backend.concat, zip(*tables.values(), strict=True)))
        assert staged.baseline is not None
        staged.baseline = dataclasses.replace(
            staged.baseline, per_sample=False, distribution=True, fixed=False, own=False
        )
    merged = {name: np.concatenate([v[name] for v in values]) for name in values[0]}
    sample = np.concatenate(samples)
    return Rows(sample, np.concatenate(baselines) if baselines else np.zeros_like(sample), merged)


def divided(pieces: Sequence[Piece], results: Results, by_row: int) -> list[Results]:
    """Each piece's part of the results; the first ``by_row`` have an entry per row, the others one per sample."""
    found = []
    row = sample = 0
    for piece in pieces:
        rows, samples = slice(row, row + len(piece)), slice(sample, sample + piece.count)
        found.append(tuple(a[rows if i < by_row else samples] for i, a in enumerate(results)))
        row, sample = rows.stop, samples.stop
    return found

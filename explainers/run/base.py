"""The base of all runs: one chunk of samples on its way through the packages.

A run is a generator of :class:`~.call.Piece`, the rows to execute next. It is sent the results of each piece, and
returns the chunk's results at its end. The same run serves a call, which executes each piece at once, and a
scheduler, which fills one package from the pieces of many calls.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Generator
from typing import TYPE_CHECKING, NamedTuple, TypeVar

import numpy as np

from ..spec import Numpy
from .call import Call, Chunk, Piece, Results, Rows, Staged

if TYPE_CHECKING:
    from .packages import Packages

Found = TypeVar("Found")


class Estimate(NamedTuple):
    """A preliminary result for samples start … stop−1 of a call, before their run has ended.

    One array (n, …) for each attributed value, NaN for samples without an estimate; standard errors
    likewise, or None; evaluations (n,): the number of rows behind the estimate.
    """

    start: int
    stop: int
    attributions: list[Numpy]
    standard_errors: list[Numpy] | None
    evaluations: Numpy


Steps = Generator[Piece, Results, Found]


class Run:
    """The run of samples start … stop−1 of a call, staged on the device."""

    def __init__(self, packages: Packages, call: Call, staged: Staged, start: int, stop: int) -> None:
        self.packages, self.backend = packages, packages.backend
        self.call, self.staged, self.start, self.stop = call, staged, start, stop
        self.row_part = packages.row_part(call)

    def steps(self) -> Steps[Chunk]:
        raise NotImplementedError

    def estimate(self) -> Estimate | None:
        """The estimate so far; None if the method has no preliminary results."""
        return None

    @property
    def size(self) -> int:
        """The most rows of the next piece. A scheduler may change it during the run."""
        return self.packages.limit(self.call.batch_size)

    def piece(self, touched: Numpy, rows: Rows) -> Piece:
        """A piece with rows of the samples ``touched`` (ascending); ``rows.sample``: the index into these for each."""
        staged, first, last = self.staged, int(touched[0]), int(touched[-1]) + 1
        if last - first != len(touched):
            inputs = [self.backend.take(array, touched) for array in staged.inputs]
            tables = staged.tables
            if staged.baseline is not None and staged.baseline.per_sample:
                tables = [self.backend.take(table, touched) for table in tables]
            mask = self.backend.take(staged.mask, touched)
            staged = dataclasses.replace(staged, inputs=inputs, mask=mask, tables=tables)
            first, last = 0, len(touched)
        if staged.baseline is not None and staged.baseline.own:
            baseline = staged.table_rows(touched[rows.sample], rows.baseline)
            rows = Rows(rows.sample, baseline, rows.values)
        return Piece("rows", staged, first, last, rows, part=self.row_part)

    def endpoint_outputs(self, which: str) -> Steps[Numpy]:
        """f at each sample, or at its baseline: (n, …)."""
        values = self.packages.endpoint_rows(which)
        parts = []
        first = 0
        while first < self.staged.count:
            last = min(first + (self.packages.most_single_rows or self.size), first + self.size, self.staged.count)
            rows = np.arange(last - first)
            row_values = {name: np.broadcast_to(value, (last - first, *value.shape)) for name, value in values.items()}
            found = Rows(rows, np.zeros_like(rows), row_values)
            result = yield Piece("rows", self.staged, first, last, found, part=self.row_part)
            parts.append(self.backend.numpy(result[0])[: last - first])
            first = last
        return np.concatenate(parts)

    def report(self, rows: int) -> None:
        """Report that ``rows`` have been evaluated."""
        if self.call.progress:
            self.call.progress(rows)
        if self.call.watch:
            self.call.watch(self)

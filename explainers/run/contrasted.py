"""Runs of methods that compare with references: each sample with one, or with every one of a distribution."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

import numpy as np

from ..backend import on_host
from ..program.against_reference import Contrast
from ..spec import Array, Numpy, largest
from .base import Run, Steps
from .call import Call, Chunk, Ends, Piece, Results, Staged
from .references import ReferenceActivations

if TYPE_CHECKING:
    from .packages import Packages


class ContrastRun(Run):
    """The run of one chunk of samples."""

    def __init__(self, packages: Packages, call: Call, staged: Staged, start: int, stop: int) -> None:
        super().__init__(packages, call, staged, start, stop)
        assert packages.references is not None
        self.references: ReferenceActivations = packages.references
        self.details = call.details

    def steps(self) -> Steps[Chunk]:
        staged = self.staged
        assert staged.baseline is not None
        if not staged.baseline.distribution:
            piece = aligned(self.packages, staged, self.references)
            y, *sums = yield piece
            y_r = piece.activations[0]
        else:
            together = isinstance(self.packages.program, Contrast) and self.packages.program.grid
            y, y_r, sums = yield from (self._against_all() if together else self._pairs())
        chunk = Chunk(self.start, self.stop, sums, [None] * len(sums), ends=Ends(y, y_r))
        if self.details:
            outputs, references = on_host(self.backend, y), on_host(self.backend, y_r)
            chunk.outputs = outputs
            chunk.baseline_outputs = np.broadcast_to(references, (staged.count, *self.packages.output_shape))
            pairs = len(staged.baseline) if staged.baseline.distribution else 1
            chunk.evaluations = np.full(staged.count, pairs)
            chunk.target = largest(outputs) if self.call.target.kind == "max" else None
        self.report(staged.count)
        return chunk

    def _against_all(self) -> Steps[tuple[Array, Numpy, list[Array]]]:
        """Means over the references; also f of each sample, and the mean of f over its references."""
        staged, packages = self.staged, self.packages
        assert staged.baseline is not None
        total, own = len(staged.baseline), staged.baseline.own
        outputs: list[Array] = []
        parts: list[list[Array]] = []
        references = np.zeros((staged.count if own else 1, *packages.output_shape))
        first = 0
        while first < staged.count:
            width = packages.limit(min(total, self.size))
            last = first + 1 if own else min(first + max(1, self.size // width), staged.count)
            sums: list[Array] = []
            for low, high in self._spans(total, width):
                activations = self._activations(first, low, high)
                piece = Piece("grid", staged, first, last, activations=activations, references=high - low)
                y, *found = yield piece
                sums = [a + b for a, b in zip(sums, found, strict=True)] if sums else found
                if own or not first:
                    references[first] += self.backend.numpy(activations[0]).sum(0, dtype=np.float64)
            parts.append([self.backend.numpy(array) / total for array in sums])
            outputs.append(y)
            first = last
        means: list[Array] = [np.concatenate(arrays) for arrays in zip(*parts, strict=True)]
        together = (
            outputs[0] if len(outputs) == 1 else np.concatenate([on_host(self.backend, array) for array in outputs])
        )
        return together, references / total, means

    def _activations(self, sample: int, first: int, last: int) -> list[Array]:
        """The activations of the references first … last−1, which are shared by all samples or belong to ``sample``."""
        baseline = self.staged.baseline
        assert baseline is not None
        if not baseline.own:
            return self.references.shared(baseline, first, last)
        rows = self.staged.table_rows(np.array([sample]), np.arange(first, last))
        return self.references.run([self.backend.take(table, rows) for table in self.staged.tables], [])

    def _spans(self, total: int, width: int) -> list[tuple[int, int]]:
        """The references in spans of ``width``; on a static engine the last ones one by one."""
        whole = total // width * width
        spans = [(low, low + width) for low in range(0, whole, width)]
        if self.packages.static:
            return spans + [(i, i + 1) for i in range(whole, total)]
        return spans + ([(whole, total)] if whole < total else [])

    def _pairs(self) -> Steps[tuple[Array, Numpy, list[Array]]]:
        """Like a grid, for reference activations that depend on the sample: every pair is evaluated in full."""
        staged, packages = self.staged, self.packages
        assert staged.baseline is not None
        total, n = len(staged.baseline), staged.count
        sums: list[Numpy] = [np.zeros((n, *shape), np.float64) for shape in packages.shapes]
        outputs = np.zeros((n, *packages.output_shape), np.float64)
        references = np.zeros((n, *packages.output_shape), np.float64)
        first = 0
        while first < n * total:
            pair = np.arange(first, min(first + self.size, n * total))
            sample, reference = pair // total, pair % total
            rows = staged.table_rows(sample, reference)
            some = dataclasses.replace(
                staged,
                count=len(pair),
                inputs=[self.backend.take(array, sample) for array in staged.inputs],
                mask=self.backend.take(staged.mask, sample),
                tables=[self.backend.take(table, rows) for table in staged.tables],
                baseline=dataclasses.replace(
                    staged.baseline, per_sample=True, distribution=False, fixed=False, own=False
                ),
            )
            piece = aligned(packages, some, self.references)
            y, *results = yield piece
            for array, part in zip(sums, results, strict=True):
                np.add.at(array, sample, self.backend.numpy(part))
            outputs[sample] = self.backend.numpy(y)
            np.add.at(references, sample, self.backend.numpy(piece.activations[0]))
            first += len(pair)
        means = [(array / total).astype(kind) for array, kind in zip(sums, packages.host_dtypes, strict=True)]
        return outputs, references / total, list(means)


def aligned(packages: Packages, staged: Staged, references: ReferenceActivations, part: str = "") -> Piece:
    """A piece of samples that each have a reference, or share one, with its activations."""
    assert staged.baseline is not None
    one = None if staged.baseline.per_sample or staged.baseline.own else references.one_row(staged.inputs)
    if one is not None:
        row = [array[:1] for array in staged.inputs] if one else []
        activations = references.shared(staged.baseline, 0, 1, row, one)
    else:
        count, tables = staged.count, staged.tables
        if staged.baseline.own:  # the first reference of each sample
            first = staged.table_rows(np.arange(count), np.zeros(count, np.int64))
            tables = [packages.backend.take(table, first) for table in tables]
        tables = [packages.backend.expand(t, count) if t.shape[0] != count else t for t in tables]
        activations = references.run(tables, staged.inputs)
    return Piece("aligned", staged, 0, staged.count, activations=activations, part=part)


def audit(packages: Packages, call: Call) -> list[tuple[Any, Numpy]]:
    """The completeness gap of each walked node, for each sample."""
    program = packages.audited
    references = ReferenceActivations(
        program, packages.backend, packages.traced, lambda rows: packages.kernel(rows, "audit reference"),
        packages.bucket,
    )  # fmt: skip
    rows = []
    for sample in range(len(call)):
        piece = aligned(packages, packages.stage_call(call, sample, sample + 1), references, "audit")
        results: Results = packages.execute([piece])[0]
        rows.append(packages.backend.numpy(results[1])[:1])
    gaps = np.concatenate(rows)
    return [(node, gaps[:, i]) for i, node in enumerate(program.walked)]

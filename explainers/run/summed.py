"""Runs of gradient methods: a sample's attribution is that of its single row, or the sum over its rows."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

import numpy as np

from ..backend import on_host
from ..errors import NotConverged
from ..methods.base import Method
from ..program.every_output import EveryOutput
from ..spec import Array, Numpy, largest, row_name
from .base import Estimate, Run, Steps
from .call import Chunk, Ends, Piece, Rows

if TYPE_CHECKING:
    from .packages import Packages


class DerivativeRun(Run):
    """The run of a method of derivatives."""

    def in_order(self, arrays: list[Array]) -> list[Array]:
        """Results (n, M, …) of every output with the outputs' axes first, (…, n, …); others as they are."""
        if not isinstance(self.packages.program, EveryOutput):
            return arrays
        outputs = self.packages.output_shape
        led = [np.moveaxis(on_host(self.backend, array), 1, 0) for array in arrays]
        return [array.reshape(*outputs, *array.shape[1:]) for array in led]


class SingleRun(DerivativeRun):
    """The run of a method with one row per sample."""

    def steps(self) -> Steps[Chunk]:
        y, *results = yield Piece("samples", self.staged, 0, self.staged.count)
        self.report(self.staged.count)
        chunk = Chunk(self.start, self.stop, self.in_order(results), [None] * len(results))
        if self.packages.program.promises:
            chunk.ends = Ends(y, None)
        if self.call.details:
            chunk.outputs = self.backend.numpy(y)
            chunk.target = largest(chunk.outputs) if self.call.target.kind == "max" else None
        return chunk


class SummedRun(DerivativeRun):
    """The run of a method that sums over each sample's rows, with endpoints if the call needs them."""

    _sums: list[Numpy] | None = None  # of the first _summed rows of the chunk
    _summed = 0

    def steps(self) -> Steps[Chunk]:
        packages, call, method = self.packages, self.call, self.packages.method
        adaptive = method.refines_to is not None
        chunk = Chunk(self.start, self.stop, [], [])
        if call.details or adaptive or call.target.kind == "max":
            chunk.outputs = yield from self.endpoint_outputs("input")
        if call.target.kind == "max" and chunk.outputs is not None:
            chunk.target = largest(chunk.outputs)
            mask = packages.mask_to_device(chunk.target.mask(0, self.staged.count, packages.mask_host_dtype))
            self.staged = dataclasses.replace(self.staged, mask=mask)
        if (call.details or adaptive) and method.baseline != "none":
            chunk.baseline_outputs = yield from self._baseline_outputs()
        if adaptive:
            yield from self._until_tolerance(chunk)
            return chunk
        sums = yield from self._sum_rows(method, np.arange(self.staged.count))
        per = method.accumulators
        pairs = [method.finish(sums[i : i + per], packages.count) for i in range(0, len(sums), per)]
        kinds = packages.host_dtypes
        attributions = [a.astype(kind, copy=False) for (a, _), kind in zip(pairs, kinds, strict=True)]
        chunk.attributions = self.in_order(attributions)
        chunk.standard_errors = [None if error is None else self.in_order([error])[0] for _, error in pairs]
        return chunk

    def estimate(self) -> Estimate | None:
        method, sums = self.packages.method, self._sums
        if not method.sampled or sums is None or isinstance(self.packages.program, EveryOutput):
            return None
        count, per = method.count(self.packages.shapes), method.accumulators
        known = np.clip(self._summed - np.arange(self.staged.count) * count, 0, count)
        shapes = self.packages.shapes
        means = [np.full((self.staged.count, *shape), np.nan) for shape in shapes]
        errors = [mean.copy() for mean in means]
        for sample in np.flatnonzero(known):
            for place, (mean, error) in enumerate(zip(means, errors, strict=True)):
                own = [array[sample] for array in sums[place * per : (place + 1) * per]]
                mean[sample], found = method.finish(own, int(known[sample]))
                if found is not None:
                    error[sample] = found
        return Estimate(self.start, self.stop, means, errors, known)

    def _sum_rows(self, method: Method, samples: Numpy) -> Steps[list[Numpy]]:
        """The accumulators of ``samples`` (ascending, of the chunk), each (len(samples), …)."""
        staged = self.staged
        count = method.count(self.packages.shapes)
        sums: list[Numpy] | None = None
        waiting: tuple[int, int, list[Array]] | None = None
        total = len(samples) * count
        alike = not method.sampled and not (staged.baseline and staged.baseline.distribution)
        if alike and not self.packages.static and total <= self.size and len(samples) == staged.count:
            rows = first_rows(self.packages, method, self, total)  # one package, no draws
            result = yield Piece("rows", staged, 0, staged.count, rows)
            self.report(total)
            return [self.backend.numpy(array) for array in result[1:]]
        first = 0
        while first < total:
            row = np.arange(first, min(first + self.size, total))
            local, step = row // count, row % count
            result = yield self._piece(method, samples, local, step)
            if sums is None and len(row) == total:
                sums = [self.backend.numpy(array) for array in result[1:]]
                sums = [array[: len(samples)] for array in sums]
            else:
                if waiting:
                    sums = self._add(sums, waiting, len(samples))
                    self._sums, self._summed = sums, first
                waiting = (int(local[0]), int(local[-1]) + 1, list(result[1:]))
            self.report(len(row))
            first += len(row)
        if waiting:
            sums = self._add(sums, waiting, len(samples))
        assert sums is not None
        return sums

    def _add(self, sums: list[Numpy] | None, part: tuple[int, int, list[Array]], count: int) -> list[Numpy]:
        first, last, arrays = part
        host = [self.backend.numpy(array)[: last - first] for array in arrays]
        if sums is None:
            sums = [np.zeros((count, *array.shape[1:]), array.dtype) for array in host]
        for total, array in zip(sums, host, strict=True):
            total[first:last] += array
        return sums

    def _piece(self, method: Method, samples: Numpy, local: Numpy, step: Numpy) -> Piece:
        """A piece with the rows (samples[local], step); ``local`` is ascending."""
        staged, chosen = self.staged, samples[local]
        seeds = staged.seeds[chosen] if staged.seeds is not None else np.zeros(len(step), np.uint64)
        values = method.rows(step, seeds)
        baseline = np.zeros(len(step), np.int64)
        if staged.baseline is not None and staged.baseline.distribution:
            baseline = method.references(step, seeds, len(staged.baseline))
        return self.piece(samples[local[0] : local[-1] + 1], Rows(local - local[0], baseline, values))

    def _baseline_outputs(self) -> Steps[Numpy]:
        """f(baseline) for each sample, (n, …); for a distribution the mean over its references."""
        staged = self.staged
        if staged.baseline is None or not staged.baseline.distribution:
            return (yield from self.endpoint_outputs("baseline"))
        values = self.packages.endpoint_rows("baseline")
        count, sets = len(staged.baseline), staged.count if staged.baseline.own else 1
        total = np.zeros((sets, *self.packages.output_shape))
        first = 0
        while first < count * sets:
            index = np.arange(first, min(first + self.size, count * sets))
            row_values = {name: np.broadcast_to(value, (len(index), *value.shape)) for name, value in values.items()}
            result = yield Piece("rows", staged, 0, 1, Rows(np.zeros(len(index), np.int64), index, row_values))
            outputs, sample = self.backend.numpy(result[0])[: len(index)].astype(np.float64), index // count
            starts = np.flatnonzero(np.diff(sample, prepend=-1))
            total[sample[starts]] += np.add.reduceat(outputs, starts, axis=0)
            first += len(index)
        return np.broadcast_to(total / count, (staged.count, *self.packages.output_shape))

    def _until_tolerance(self, chunk: Chunk) -> Steps[None]:
        """Refine the method until each sample is complete; finished samples are left out."""
        method: Method = self.packages.method
        tolerance = method.refines_to or 0.0
        assert chunk.outputs is not None
        assert chunk.baseline_outputs is not None
        mask = self.backend.numpy(self.staged.mask)
        axes = tuple(range(1, mask.ndim))
        high = (chunk.outputs * mask).sum(axis=axes, dtype=np.float64)
        low = (chunk.baseline_outputs * mask).sum(axis=axes, dtype=np.float64)
        rounding = 8 * np.finfo(chunk.outputs.dtype).eps * np.maximum(np.maximum(abs(high), abs(low)), 1e-30)
        allowed = np.maximum(tolerance * abs(high - low), rounding)
        shapes = self.packages.shapes
        results = [np.zeros((self.staged.count, *shape), chunk.outputs.dtype) for shape in shapes]
        chunk.evaluations = np.zeros(self.staged.count, np.int64)
        left = np.arange(self.staged.count)
        while True:
            sums = yield from self._sum_rows(method, left)
            chunk.evaluations[left] += method.count(shapes)
            reached = sum(a.reshape(len(left), -1).sum(axis=1, dtype=np.float64) for a in sums)
            gap = abs(reached - (high - low)[left])
            done = gap <= allowed[left]
            for result, array in zip(results, sums, strict=True):
                result[left[done]] = array[done]
            left = left[~done]
            if not len(left):
                break
            finer = method.refined()
            if finer is None:
                worst = int(left[0])
                raise NotConverged(
                    f"{method.name} of {row_name(chunk.start + worst, len(self.call))} is off by {gap[~done][0]:.3g} "
                    f"after {method.count(shapes)} steps; tolerance={tolerance} allows "
                    f"{allowed[worst]:.3g} ({len(left)} samples). Raise max_steps or tolerance."
                )
            method = finer
        chunk.attributions = list(results)
        chunk.standard_errors = [None] * len(results)


def first_rows(packages: Packages, method: Method, run: Run, rows: int) -> Rows:
    """The first rows of samples, for methods without draws, as slices of a cache on the device."""
    staged = run.staged
    per_sample = staged.baseline is not None and staged.baseline.per_sample
    recent = packages.last_rows
    if recent is not None and recent[0] is method and recent[1] == per_sample and len(recent[2].sample) == rows:
        return recent[2]
    count = method.count(packages.shapes)
    key = method, per_sample
    known = packages.known_rows.get(key)
    if known is None or len(known.sample) < rows:
        sample, step = np.divmod(np.arange(run.size // count * count), count)
        known = Rows(sample, np.zeros(len(step), np.int64), method.rows(step, np.zeros(len(step), np.uint64)))
        known.staged = packages.staged_rows(staged, known)
    values = {name: array[:rows] for name, array in known.values.items()}
    on_device = {name: array[:rows] for name, array in known.staged.items()}
    arguments = packages.last_arguments(on_device)
    last = Rows(known.sample[:rows], known.baseline[:rows], values, on_device, arguments)
    packages.known_rows[key], packages.last_rows = known, (method, per_sample, last)
    return last

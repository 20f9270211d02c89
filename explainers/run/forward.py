"""Runs of forward-only methods: rows → packages → values → per-sample sums.

The rows of a chunk's samples follow one another: a sample's endpoints, then its units; with a distribution
of baselines, each row except the sample itself is repeated for every reference. A package takes the next
``batch_size`` rows, across samples. Values are added to the samples' sums immediately: at most one incomplete
unit is buffered.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from ..errors import NotConverged, TargetError
from ..methods.removal import Design, Sums, Units
from ..spec import Numpy, Target, check_finite, largest, row_name
from .base import Estimate, Run, Steps
from .call import Call, Chunk, Staged

if TYPE_CHECKING:
    from .packages import Packages


@dataclass
class _Pattern:
    """A sample's rows for the units first … last−1: the sample itself is −2, its baseline −1, then the units follow."""

    first: int
    last: int
    row: Numpy
    reference: Numpy


@dataclass
class _Rows:
    """The rows of a package, (R,) each."""

    touched: Numpy  # the samples in the package, (U,)
    local: Numpy  # index into these for each row
    reference: Numpy
    mark: list[Numpy]  # the positions of samples and of baselines among the rows
    units: Units | None  # the samples of the other rows
    row: Numpy  # counted from the first unit's first row


class ForwardRun(Run):
    """The run of one chunk of samples."""

    def __init__(self, packages: Packages, call: Call, staged: Staged, start: int, stop: int) -> None:
        super().__init__(packages, call, staged, start, stop)
        self.method = packages.method
        self.design: Design = packages.design_of(call, start, stop)
        baseline = staged.baseline
        self.sets = len(baseline) if baseline and baseline.distribution else 1
        self.references = 1 if self.design.one_reference else self.sets  # of each row
        self.all = call.target.kind == "all"
        if self.all and not self.design.all_outputs:
            raise TargetError(f"target='all' is not possible with method {self.method.name!r}: it sums up one output")
        self.target: Target | None = None
        count, outputs = staged.count, packages.output_shape if self.all else ()
        zeros = np.zeros((count, *outputs))
        self.sums = Sums(zeros, zeros.copy(), self.design.start(count, outputs))
        self.units = np.zeros(count, np.int64)
        self.evaluations = np.zeros(count, np.int64)
        self.outputs = np.zeros((count, *packages.output_shape)) if call.details else None
        self.baseline_outputs = (
            np.zeros((count, *packages.output_shape)) if call.details and self.design.endpoints == 2 else None
        )
        self.open: list[Numpy] = []  # values of an incomplete unit
        self.part = np.zeros(())  # partial sum over the references of a row

    # --- a chunk -------------------------------------------------------------------------------

    def steps(self) -> Steps[Chunk]:
        inputs = self._checked()
        skip = 0
        if self.call.target.kind == "max":
            yield from self._find_max()
            skip = 1
        yield from self._to_tolerance(skip)
        results, errors = self.design.finish(self.sums, self.units, inputs)
        kinds = [self.packages.host_dtype(value) for value in self.packages.program.wrt]
        attributions = [a.astype(kind) for a, kind in zip(results, kinds, strict=True)]
        chunk = Chunk(self.start, self.stop, attributions, list(errors) if errors else [None] * len(results))
        chunk.outputs, chunk.baseline_outputs = map(self._as_outputs, (self.outputs, self.baseline_outputs))
        chunk.target, chunk.evaluations = self.target, self.evaluations
        if self.call.details and self.method.adds_up:
            chunk.totals = self.design.total(results)
        return chunk

    def estimate(self) -> Estimate | None:
        known = self.units > 0
        if not self.method.sampled or self.all or not known.any():
            return None
        results, errors = self.design.finish(self.sums, np.maximum(self.units, 1), [])

        def shown(arrays: Sequence[Numpy]) -> list[Numpy]:
            return [np.where(known.reshape(-1, *[1] * (a.ndim - 1)), a, np.nan) for a in arrays]

        errors = shown(errors) if errors else None
        return Estimate(self.start, self.stop, shown(results), errors, self.evaluations.copy())

    def _as_outputs(self, array: Numpy | None) -> Numpy | None:
        return None if array is None else array.astype(self.packages.mask_host_dtype)

    def _checked(self) -> list[Numpy]:
        """The attributed inputs on the host, checked by designs that look at them."""
        if type(self.design).check is Design.check:
            return []
        inputs = [self.packages.backend.numpy(self.staged.inputs[place]) for place in self.packages.places]
        self.design.check(inputs, self.start, len(self.call))
        return inputs

    def _find_max(self) -> Steps[None]:
        """Find each sample's largest output by evaluating its first row."""
        outputs = yield from self.endpoint_outputs("input")
        self._finite(outputs, 0)
        self.target = largest(outputs)
        mask = self.target.mask(0, self.staged.count, self.packages.mask_host_dtype)
        self.staged = dataclasses.replace(self.staged, mask=self.packages.mask_to_device(mask))
        self.sums.x[:] = (outputs * mask).sum(axis=tuple(range(1, outputs.ndim)))
        self.evaluations += 1
        if self.outputs is not None:
            self.outputs[:] = outputs

    def _to_tolerance(self, skip: int) -> Steps[None]:
        """Evaluate units until each sample's standard error is within the tolerance; finished samples are left out."""
        tolerance, budget = self.method.error_to, self.method.most_evaluations
        left = np.arange(self.staged.count)
        units, done = self.design.units, 0
        while True:
            if budget is not None:
                units = min(units, self._affordable(budget) - done)
            yield from self._stream(left, done, done + units, skip)
            done += units
            self.units[left] = done
            if tolerance is None:
                return
            errors = self.design.error(self.sums, left, done)
            off = errors > tolerance
            if not off.any():
                return
            if units == 0 or (budget is not None and self._affordable(budget) <= done):
                worst = left[off][0]
                name = row_name(self.start + int(worst), len(self.call))
                raise NotConverged(
                    f"the standard error of {name} is {errors[off][0]:.3g} "
                    f"after {self.evaluations[worst]} evaluations; tolerance={tolerance} is asked "
                    f"({int(off.sum())} samples). Raise max_evaluations or tolerance."
                )
            left, units, skip = left[off], done, self.design.endpoints

    def _affordable(self, budget: int) -> int:
        """How many units can be evaluated with ``budget`` evaluations of the model."""
        ends = 1 + (self.design.endpoints - 1) * self.references
        per_unit = max(self.design.unit * self.references, 1)
        found = (budget - ends) // per_unit
        if found < 1 and self.design.unit:
            raise NotConverged(
                f"max_evaluations={budget} is less than the {ends + per_unit} that a sample needs at least"
            )
        return found

    # --- rows ------------------------------------------------------------------------------------

    def _stream(self, samples: Numpy, first: int, last: int, skip: int) -> Steps[None]:
        """Evaluate the units first … last−1 of ``samples``; the endpoints from number ``skip`` on precede unit 0."""
        pattern, most = self._pattern(first, last, skip), self.packages.most_samples(self.call)
        total = len(samples) * len(pattern.row)
        end = 0
        while end < total:
            begin, end = end, min(end + self.size, total)
            if most is not None:
                end = min(end, (begin // len(pattern.row) + most) * len(pattern.row))
            rows = self._rows(samples, pattern, begin, end)
            y, s = yield from self._package(rows)
            self._keep(rows, y, s)
            self.evaluations[rows.touched] += np.bincount(rows.local)
            self.report(end - begin)

    def _pattern(self, first: int, last: int, skip: int) -> _Pattern:
        """The rows of a sample for the units first … last−1."""
        marks = np.arange(skip, self.design.endpoints) - 2 if first == 0 else np.arange(0)
        of_units = (last - first) * self.design.unit
        rows = np.concatenate([marks, np.arange(of_units)])
        whole = np.where(rows == -2, 1, self.references)
        row = np.repeat(rows, whole)
        reference = np.arange(len(row)) - np.repeat(np.cumsum(whole) - whole, whole)
        return _Pattern(first, last, row, reference)

    def _rows(self, samples: Numpy, pattern: _Pattern, begin: int, end: int) -> _Rows:
        """The rows begin … end−1 of ``samples``, sample by sample."""
        local, place = np.divmod(np.arange(begin, end), len(pattern.row))
        touched = samples[local[0] : local[-1] + 1]
        row, of_units = pattern.row[place], (pattern.last - pattern.first) * self.design.unit
        mark = [np.flatnonzero(row == which) for which in (-2, -1)]
        if not of_units:
            return _Rows(touched, local - local[0], pattern.reference[place], mark, None, row)
        row = np.maximum(row, 0) + local * of_units  # endpoints get a value, too, which is overwritten below
        unit = np.arange(row[0] // self.design.unit, row[-1] // self.design.unit + 1)
        row -= unit[0] * self.design.unit
        owner, number = np.divmod(unit, pattern.last - pattern.first)
        sample = samples[owner]
        seeds = self.staged.seeds[sample] if self.staged.seeds is not None else np.zeros(len(sample), np.uint64)
        number += pattern.first
        units = Units(sample, number, self.design.draw(number, seeds))
        reference = pattern.reference[place]
        if self.design.one_reference:
            reference = self.design.references(units, row, self.sets)
        return _Rows(touched, local - local[0], reference, mark, units, row)

    def _package(self, rows: _Rows) -> Steps[tuple[Any, Numpy]]:
        """The outputs (on the device) and values (R, …) of rows."""
        values = self.design.rows(rows.units, rows.row) if rows.units else {}
        for mark, which in zip(rows.mark, ("input", "baseline"), strict=True):
            if len(mark):
                for name, value in self.packages.endpoint_rows(which).items():
                    if name not in values:
                        values[name] = np.empty((len(rows.local), *value.shape), value.dtype)
                    values[name][mark] = value
        y, s, *sums = yield self.piece(rows.touched, rows.local, rows.reference, values)
        host = self.packages.backend.numpy(y if self.all else s)[: len(rows.local)].astype(np.float64, copy=False)
        self._finite(host, int(rows.touched[0]))
        for total, array in zip(self.sums.sums, sums, strict=False):
            total[rows.touched] += self.packages.backend.numpy(array)[: len(rows.touched)]
        return y, host

    def _finite(self, values: Numpy, first: int) -> None:
        if self.call.check:
            name = row_name(self.start + first, len(self.call))
            check_finite(values, f"the model's output for perturbations of {name}")

    # --- values --------------------------------------------------------------------------------

    def _keep(self, rows: _Rows, y: Any, values: Numpy) -> None:
        """Store the outputs and values (R, …) of rows: endpoints at their places, units in the sums."""
        inside = np.ones(len(values), bool)
        ends = ((self.sums.x, self.outputs, 1), (self.sums.b, self.baseline_outputs, self.references))
        for mark, (total, outputs, count) in zip(rows.mark, ends, strict=True):
            if not len(mark):
                continue
            inside[mark] = False
            sample = rows.touched[rows.local[mark]]
            np.add.at(total, sample, values[mark] / count)
            if outputs is not None:
                found = self.packages.backend.numpy(self.packages.backend.take(y, mark))
                np.add.at(outputs, sample, found.astype(np.float64) / count)
        if rows.units is None:
            return
        values = self._over_references(values[inside], rows.reference[inside])
        self.open.append(values)
        complete = sum(map(len, self.open)) // self.design.unit
        if complete:
            joined = np.concatenate(self.open)
            whole, rest = np.split(joined, [complete * self.design.unit])
            units = rows.units.first(complete)
            self.design.add(self.sums, units, whole.reshape(complete, -1, *whole.shape[1:]))
            self.units[units.sample] = units.number + 1  # of several rows of a sample the last is kept
            self.open = [rest] if len(rest) else []

    def _over_references(self, values: Numpy, reference: Numpy) -> Numpy:
        """Means over the references, for rows whose references are complete."""
        if self.references == 1 or not len(values):
            return values
        starts = np.flatnonzero(reference == 0)
        continued = reference[0] != 0
        sums = np.add.reduceat(values, np.r_[0, starts] if continued else starts)
        if continued:
            sums[0] += self.part
        if reference[-1] != self.references - 1:
            self.part, sums = sums[-1], sums[:-1]
        return sums / self.references

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
from .call import Call, Chunk, Rows, Staged

if TYPE_CHECKING:
    from .packages import Packages

LARGEST_KNOWN = 2**22  # bytes of the rows that are kept for the next call


@dataclass
class _Pattern:
    """A sample's rows for the units first … last−1: the sample itself is −2, its baseline −1, then the units follow."""

    first: int
    last: int
    row: Numpy
    reference: Numpy


@dataclass(slots=True)
class _Ends:
    """Rows of a package that are samples themselves, or their baselines.

    mark: their positions among the rows. sample: of each. once: whether all of these differ.
    """

    mark: Numpy
    sample: Numpy
    once: bool

    def add(self, total: Numpy, values: Numpy) -> None:
        """Add ``values``, one of each row, to their samples' rows of ``total``."""
        if self.once:
            total[self.sample] += values
        else:
            np.add.at(total, self.sample, values)


@dataclass(slots=True)
class PackageRows:
    """The rows of a package, and what becomes of their values."""

    rows: Rows  # as the kernel takes them
    touched: Numpy  # the samples in the package, (U,)
    counts: Numpy  # the rows of each of these
    ends: tuple[_Ends, _Ends]
    inside: Numpy  # the positions of the rows of units
    units: Units | None

    @property
    def bytes(self) -> int:
        """About how much memory it takes."""
        return sum(array.nbytes for array in (*self.rows.values.values(), self.rows.sample, self.inside)) * 2


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
        attributions = [a.astype(kind) for a, kind in zip(results, self.packages.host_dtypes, strict=True)]
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
        key = self._key(samples, first, last, skip)
        known = self.packages.last_units
        if key is not None and known is not None and known[0] == key and len(known[1].rows.sample) <= self.size:
            yield from self._package(known[1])
            return
        pattern, most = self._pattern(first, last, skip), self.packages.most_samples(self.call)
        total = len(samples) * len(pattern.row)
        end = 0
        while end < total:
            begin, end = end, min(end + self.size, total)
            if most is not None:
                end = min(end, (begin // len(pattern.row) + most) * len(pattern.row))
            package = self._rows(samples, pattern, begin, end)
            if key is not None and end - begin == total and package.bytes <= LARGEST_KNOWN:
                package.rows = self._with_arguments(package.rows)
                self.packages.last_units = key, package
            yield from self._package(package)

    def _key(self, samples: Numpy, first: int, last: int, skip: int) -> Any:
        """What the rows of these units depend on; None where a later call's are others, or are many in all."""
        if self.packages.most_single_rows is not None:  # which program runs them depends on the package
            return None
        if self.call.groups is not None or len(samples) != self.staged.count or self.packages.static:
            return None
        baseline, seeds = self.staged.baseline, self.staged.seeds
        if baseline is not None and baseline.own:
            return None
        drawn = None if seeds is None else seeds.tobytes()
        return len(samples), first, last, skip, self.sets, drawn, baseline is not None and baseline.per_sample

    def _with_arguments(self, rows: Rows) -> Rows:
        """The rows with the kernel's arguments on the device, for later calls."""
        staged = self.packages.staged_rows(self.staged, rows)
        return dataclasses.replace(rows, staged=staged, arguments=self.packages.last_arguments(staged))

    def _pattern(self, first: int, last: int, skip: int) -> _Pattern:
        """The rows of a sample for the units first … last−1."""
        marks = np.arange(skip, self.design.endpoints) - 2 if first == 0 else np.arange(0)
        of_units = (last - first) * self.design.unit
        rows = np.concatenate([marks, np.arange(of_units)])
        whole = np.where(rows == -2, 1, self.references)
        row = np.repeat(rows, whole)
        reference = np.arange(len(row)) - np.repeat(np.cumsum(whole) - whole, whole)
        return _Pattern(first, last, row, reference)

    def _rows(self, samples: Numpy, pattern: _Pattern, begin: int, end: int) -> PackageRows:
        """The rows begin … end−1 of ``samples``, sample by sample."""
        local, place = np.divmod(np.arange(begin, end), len(pattern.row))
        touched = samples[local[0] : local[-1] + 1]
        row, of_units = pattern.row[place], (pattern.last - pattern.first) * self.design.unit
        local -= local[0]
        reference = pattern.reference[place]
        x, b = (np.flatnonzero(row == which) for which in (-2, -1))
        ends = _Ends(x, touched[local[x]], True), _Ends(b, touched[local[b]], self.references == 1)
        inside, counts = np.flatnonzero(row >= 0), np.bincount(local)
        if not of_units:
            rows = Rows(local, reference, self._values(ends, None, row))
            return PackageRows(rows, touched, counts, ends, inside, None)
        row = np.maximum(row, 0) + (local + begin // len(pattern.row)) * of_units  # ends get a value, too, for now
        unit = np.arange(row[0] // self.design.unit, row[-1] // self.design.unit + 1)
        row -= unit[0] * self.design.unit
        owner, number = np.divmod(unit, pattern.last - pattern.first)
        sample = samples[owner]
        seeds = self.staged.seeds[sample] if self.staged.seeds is not None else np.zeros(len(sample), np.uint64)
        number += pattern.first
        units = Units(sample, number, self.design.draw(number, seeds))
        if self.design.one_reference:
            reference = self.design.references(units, row, self.sets)
        rows = Rows(local, reference, self._values(ends, units, row))
        return PackageRows(rows, touched, counts, ends, inside, units)

    def _values(self, ends: tuple[_Ends, _Ends], units: Units | None, row: Numpy) -> dict[str, Numpy]:
        """The values of the kernel's arguments for rows: of units, and of ends. ``row``: from the first unit's on."""
        values = self.design.rows(units, row) if units else {}
        for end, which in zip(ends, ("input", "baseline"), strict=True):
            if len(end.mark):
                for name, value in self.packages.endpoint_rows(which).items():
                    if name not in values:
                        values[name] = np.empty((len(row), *value.shape), value.dtype)
                    values[name][end.mark] = value
        return values

    def _package(self, package: PackageRows) -> Steps[None]:
        """Evaluate the rows of a package, and keep their values."""
        backend, touched, rows = self.packages.backend, package.touched, package.rows
        count = len(rows.sample)
        y, s, *sums = yield self.piece(touched, rows)
        values = backend.numpy(y if self.all else s)[:count].astype(np.float64, copy=False)
        self._finite(values, int(touched[0]))
        for total, array in zip(self.sums.sums, sums, strict=False):
            total[touched] += backend.numpy(array)[: len(touched)]
        self._keep(package, y, values)
        self.evaluations[touched] += package.counts
        self.report(count)

    def _finite(self, values: Numpy, first: int) -> None:
        if self.call.check:
            name = row_name(self.start + first, len(self.call))
            check_finite(values, f"the model's output for perturbations of {name}")

    # --- values --------------------------------------------------------------------------------

    def _keep(self, package: PackageRows, y: Any, values: Numpy) -> None:
        """Store the outputs and values (R, …) of rows: endpoints at their places, units in the sums."""
        places = ((self.sums.x, self.outputs, 1), (self.sums.b, self.baseline_outputs, self.references))
        for end, (total, outputs, count) in zip(package.ends, places, strict=True):
            if not len(end.mark):
                continue
            end.add(total, values[end.mark] / count)
            if outputs is not None:
                found = self.packages.backend.numpy(self.packages.backend.take(y, end.mark))
                end.add(outputs, found.astype(np.float64) / count)
        if package.units is None:
            return
        values = values[package.inside]
        if self.references > 1 and len(values):
            values = self._over_references(values, package.rows.baseline[package.inside])
        self.open.append(values)
        complete = sum(map(len, self.open)) // self.design.unit
        if complete:
            joined = self.open[0] if len(self.open) == 1 else np.concatenate(self.open)
            whole, rest = joined[: complete * self.design.unit], joined[complete * self.design.unit :]
            units = package.units.first(complete)
            self.design.add(self.sums, units, whole.reshape(complete, -1, *whole.shape[1:]))
            self.units[units.sample] = units.number + 1  # of several rows of a sample the last is kept
            self.open = [rest] if len(rest) else []

    def _over_references(self, values: Numpy, reference: Numpy) -> Numpy:
        """Means over the references, for rows whose references are complete."""
        starts = np.flatnonzero(reference == 0)
        continued = reference[0] != 0
        sums = np.add.reduceat(values, np.r_[0, starts] if continued else starts)
        if continued:
            sums[0] += self.part
        if reference[-1] != self.references - 1:
            self.part, sums = sums[-1], sums[:-1]
        return sums / self.references

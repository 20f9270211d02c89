"""Forward-only methods: rows → packages → values → per-sample sums.

The rows of a chunk's samples stand one after the other: a sample's endpoints, then its units; with a
distribution of baselines each row but the sample itself once for every reference. A package takes the next
``batch_size`` rows, whichever samples they belong to. Values are added to the samples' sums as they come:
what waits is one unit of one sample.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from .call import Call, Chunk, Staged
from .errors import NotConverged, TargetError
from .methods.removal import Design, Removal, Sums
from .run import Estimate, Run, Steps
from .spec import Numpy, Target, check_finite, largest, row_name

if TYPE_CHECKING:
    from .work import Packages


@dataclass
class _Segment:
    """Rows begin … end−1 of each of the samples first … last−1; ``at``: their place in a package."""

    first: int
    last: int
    begin: int
    end: int
    at: int

    @property
    def rows(self) -> int:
        return (self.last - self.first) * (self.end - self.begin)


def segments(first: int, last: int, length: int) -> Iterator[_Segment]:
    """The rows first … last−1 of samples of ``length`` rows, as rectangles: cut samples stand alone."""
    at = 0
    while first < last:
        sample, begin = divmod(first, length)
        if begin or last - first < length:
            end = min(length, begin + last - first)
            found = _Segment(sample, sample + 1, begin, end, at)
        else:
            found = _Segment(sample, sample + (last - first) // length, 0, length, at)
        yield found
        at += found.rows
        first += found.rows


class ForwardRun(Run):
    """One chunk of samples."""

    def __init__(self, packages: Packages, call: Call, staged: Staged, start: int, stop: int) -> None:
        super().__init__(packages, call, staged, start, stop)
        assert packages.program.design is not None
        assert isinstance(packages.method, Removal)
        self.method: Removal = packages.method
        self.design: Design = packages.program.design
        baseline = staged.baseline
        self.references = len(baseline) if baseline and baseline.distribution else 1
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
        self.open: list[Numpy] = []  # values of a unit that is not complete
        self.part = np.zeros(())  # sum over the references of a row that is not complete
        self.summed = 0  # how many of them

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
        if self.call.details and self.method.complete:
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
        """The attributed inputs on the host, for designs that look at them."""
        if type(self.design).check is Design.check:
            return []
        places = [self.packages.program.graph.inputs.index(value) for value in self.packages.program.wrt]
        inputs = [self.packages.backend.numpy(self.staged.inputs[place]) for place in places]
        self.design.check(inputs, self.start, len(self.call))
        return inputs

    def _find_max(self) -> Steps[None]:
        """Each sample's largest output, from the evaluation that is its first row."""
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
        """Units until each sample's standard error is small enough; the finished leave the packages."""
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
        """How many units ``budget`` evaluations are enough for."""
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
        """Evaluate the units first … last−1 of ``samples``, with endpoints from number ``skip`` on before unit 0."""
        steps = self._steps(first, last, skip)
        length = len(steps)
        total = len(samples) * length
        end = 0
        while end < total:
            begin, end = end, min(end + self.size, total)
            local, place = np.divmod(np.arange(begin, end), max(length, 1))
            y, s = yield from self._package(samples, local, steps[place])
            for segment in segments(begin, end, length):
                chosen = samples[segment.first : segment.last]
                rows = slice(segment.at, segment.at + segment.rows)
                inside = steps[segment.begin : segment.end]
                self._ends(chosen, inside, y, rows)
                shape = (len(chosen), len(inside))
                self._add(chosen, inside, s[rows].reshape(*shape, *s.shape[1:]))
            np.add.at(self.evaluations, samples[local], 1)
            self.report(end - begin)

    def _steps(self, first: int, last: int, skip: int) -> Numpy:
        """(row, reference) of each row of a sample; the sample is row −2, its baseline −1, then come the units."""
        ends = np.arange(skip, self.design.endpoints) - 2 if first == 0 else np.arange(0)
        rows = np.r_[ends, np.arange(first * self.design.unit, last * self.design.unit)]
        whole = np.where(rows == -2, 1, self.references)
        row = np.repeat(rows, whole)
        reference = np.arange(len(row)) - np.repeat(np.cumsum(whole) - whole, whole)
        return np.stack([row, reference], axis=1)

    def _package(self, samples: Numpy, local: Numpy, steps: Numpy) -> Steps[tuple[Any, Numpy]]:
        """Outputs (on the device) and values, (R, …), of rows."""
        seeds = self._seeds(samples[local])
        row, reference = steps[:, 0], steps[:, 1]
        values = self.design.rows(np.maximum(row, 0), seeds) if self.design.units else {}
        for mark, which in ((-2, "input"), (-1, "baseline")):
            chosen = row == mark
            if chosen.any() or not values:
                for name, value in self.packages.endpoint_rows(which).items():
                    if name not in values:
                        values[name] = np.empty((len(row), *np.shape(value)), np.asarray(value).dtype)
                    values[name][chosen] = value
        touched = samples[local[0] : local[-1] + 1]
        y, s, *sums = yield self.piece(touched, local - local[0], reference, values)
        host = self.packages.backend.numpy(y if self.all else s)[: len(local)].astype(np.float64, copy=False)
        self._finite(host, int(touched[0]))
        for total, array in zip(self.sums.sums, sums, strict=False):
            total[touched] += self.packages.backend.numpy(array)[: len(touched)]
        return y, host

    def _seeds(self, samples: Numpy) -> Numpy:
        return self.staged.seeds[samples] if self.staged.seeds is not None else np.zeros(len(samples), np.uint64)

    def _finite(self, values: Numpy, first: int) -> None:
        if self.call.check:
            name = row_name(self.start + first, len(self.call))
            check_finite(values, f"the model's output for perturbations of {name}")

    # --- values --------------------------------------------------------------------------------

    def _ends(self, samples: Numpy, steps: Numpy, y: Any, rows: slice) -> None:
        """Keep whole outputs of endpoints."""
        for mark, kept in ((-2, self.outputs), (-1, self.baseline_outputs)):
            found = np.flatnonzero(steps[:, 0] == mark)
            if kept is not None and len(found):
                index = rows.start + np.add.outer(np.arange(len(samples)) * len(steps), found).ravel()
                outputs = self.packages.backend.numpy(self.packages.backend.take(y, index))
                whole = 1 if mark == -2 else self.references
                np.add.at(kept, np.repeat(samples, len(found)), outputs.astype(np.float64) / whole)

    def _add(self, samples: Numpy, steps: Numpy, values: Numpy) -> None:
        """Values (n, rows, …) of ``samples``: endpoints to their places, units to the sums."""
        rows = steps[:, 0]
        for mark, kept in ((-2, self.sums.x), (-1, self.sums.b)):
            found = rows == mark
            if found.any():
                kept[samples] += values[:, found].sum(axis=1) / (1 if mark == -2 else self.references)
        inside = rows >= 0
        if not inside.any():
            return
        values = self._over_references(values[:, inside], int(steps[inside][0, 1]))
        if not values.shape[1]:
            return
        waiting = sum(part.shape[1] for part in self.open)
        complete = (waiting + values.shape[1]) // self.design.unit * self.design.unit - waiting
        if complete > 0:
            whole = np.concatenate([*self.open, values[:, :complete]], axis=1) if self.open else values[:, :complete]
            self.open = []
            first = (int(rows[inside][0]) - waiting) // self.design.unit
            self.design.add(self.sums, samples, first, whole, self._seeds(samples))
            self.units[samples] = first + whole.shape[1] // self.design.unit
            values = values[:, complete:]
        if values.shape[1]:
            self.open.append(values)

    def _over_references(self, values: Numpy, begin: int) -> Numpy:
        """Means over the references, of rows whose references are complete; ``begin``: the first one's number."""
        if self.references == 1:
            return values
        n, k, *outputs = values.shape
        found = []
        head = min((self.references - begin) % self.references, k) if begin else 0
        if head:
            self.part = self.part + values[:, :head].sum(axis=1)
            self.summed += head
            if self.summed == self.references:
                found.append(self.part[:, None] / self.references)
                self.summed = 0
        body = (k - head) // self.references * self.references
        if body:
            found.append(values[:, head : head + body].reshape(n, -1, self.references, *outputs).mean(axis=2))
        tail = k - head - body
        if tail:
            self.part, self.summed = values[:, head + body :].sum(axis=1), tail
        return np.concatenate(found, axis=1) if found else np.zeros((n, 0, *outputs))

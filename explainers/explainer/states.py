"""The model's explained output at changed samples of one call, evaluated in packages."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

from ..backend import Backend
from ..errors import InputError, TargetError
from ..ops import Ops
from ..run import Packages
from ..spec import Array, Baseline, Numpy, Target, all_finite, check_finite, largest, row_name
from .plan import Plan

Points = Callable[[Numpy, list[Array], list[Array]], Sequence[Array]]


@dataclass
class States:
    """Samples with their target and their baseline, and s = Σ w·f at points near them.

    inputs: the model's, (N, …) each, numpy or the backend's own. target: which output, never ``"all"``.
    numbers: the samples' own, in error messages, where they are some of ``total``. rows: evaluated so far.
    """

    backend: Backend
    plan: Plan
    inputs: list[Array]
    target: Target
    baseline: Baseline | None
    batch_size: int
    check: bool = True
    numbers: Numpy | None = None
    total: int = 0
    rows: int = 0

    def __post_init__(self) -> None:
        if any(place is None for place in self.plan.places):
            raise InputError("the attributed values are outputs of a layer, which cannot be changed from outside")
        if self.target.kind == "all":
            raise TargetError("target='all' is not possible here: give one output for each sample")

    @property
    def packages(self) -> Packages:
        return self.plan.packages

    @property
    def count(self) -> int:
        return int(self.inputs[0].shape[0])

    @property
    def ops(self) -> Ops:
        """The array functions for the points, which run as they are called."""
        return self.backend.ops

    @property
    def places(self) -> list[int]:
        """The positions of the attributed inputs among the model's."""
        return [place for place in self.plan.places if place is not None]

    @property
    def shapes(self) -> list[tuple[int, ...]]:
        """Of the attributed inputs' samples."""
        return [tuple(shape) for shape in self.packages.shapes]

    @property
    def references(self) -> int:
        """How many baselines each sample has; s is the mean over them."""
        return len(self.baseline) if self.baseline is not None and self.baseline.distribution else 1

    def part(self, index: Numpy) -> States:
        """Those of the samples ``index``, on the device. Whether they are finite is for :meth:`outputs` to say."""
        parts = [a[index] if isinstance(a, np.ndarray) else self.backend.take(a, index) for a in self.inputs]
        inputs = self.packages.staged_inputs(parts, 0, len(index), check=False)
        target, baseline = self.target, self.baseline
        if target.data is not None and len(target.data) > 1:
            target = replace(target, data=target.data[index])
        if baseline is not None and (baseline.per_sample or baseline.own):
            baseline = replace(baseline, tables=tuple(table[index] for table in baseline.tables), fixed=False)
        return replace(
            self, inputs=inputs, target=target, baseline=baseline, numbers=index, total=self.count, rows=0
        )  # fmt: skip

    def outputs(self) -> Numpy:
        """f at every sample, (N, …)."""
        return self.outputs_at(self.inputs)

    def outputs_at(self, inputs: Sequence[Array]) -> Numpy:
        """f, (R, …), at other samples of the model's inputs."""
        count = int(inputs[0].shape[0])
        parts = self.packages.predict(list(inputs), count, self.batch_size, self.check)
        self.rows += count
        return np.concatenate([self.backend.numpy(part) for part in parts]).astype(np.float64, copy=False)

    def resolved(self, outputs: Numpy) -> States:
        """With ``target="max"`` as the index of the largest output."""
        return replace(self, target=largest(outputs)) if self.target.kind == "max" else self

    def values(self, sample: Numpy, points: Points) -> Numpy:
        """s of rows, (R,): the mean over the baselines.

        sample: each row's sample, (R,), in ascending order. ``points(rows, x, b)``: the attributed inputs of these
        rows, (r, …) each, from those of their samples and their baselines.
        """
        count = self.references
        total = np.zeros(len(sample) * count)
        size = self.packages.limit(self.batch_size)
        for start in range(0, len(total), size):
            row, reference = np.divmod(np.arange(start, min(start + size, len(total))), count)
            total[start : start + len(row)] = self._package(row, sample[row], reference, points)
        means: Numpy = total.reshape(-1, count).mean(axis=1)
        return means

    def _package(self, row: Numpy, sample: Numpy, reference: Numpy, points: Points) -> Numpy:
        """s of the rows of one package."""
        backend, packages = self.backend, self.packages
        arguments = [backend.take(array, sample) for array in self.inputs]
        x = [arguments[place] for place in self.places]
        for place, point in zip(self.places, points(row, x, self._baselines(sample, reference, x)), strict=True):
            arguments[place] = point
        y = packages.outputs(arguments, len(row))
        product = y * self._masks(sample)
        s = self.ops.row_sum(product) if len(self.packages.output_shape) else product
        values = backend.numpy(s).astype(np.float64, copy=False)
        if self.check and not all_finite(values):
            wrong = int(np.argmin(np.isfinite(values)))
            own = int(sample[wrong])
            number = own if self.numbers is None else int(self.numbers[own])
            name = f"the model's output for a perturbation of {row_name(number, self.total or self.count)}"
            check_finite(values[wrong : wrong + 1], name)
        self.rows += len(row)
        return values

    def _masks(self, sample: Numpy) -> Array:
        """The target's weights of each row, on the device."""
        if self._shared_mask is not None:
            return self._shared_mask
        target = self.target if self.target.data is None else replace(self.target, data=self.target.data[sample])
        return self._staged_mask(target, len(sample))

    @cached_property
    def _shared_mask(self) -> Array | None:
        """The weights of all rows, (1, …), if they are the same."""
        data = self.target.data
        return self._staged_mask(self.target, 1) if data is None or len(data) == 1 else None

    def _staged_mask(self, target: Target, count: int) -> Array:
        return self.packages.mask_to_device(target.mask(0, count, self.packages.mask_host_dtype))

    def _baselines(self, sample: Numpy, reference: Numpy, x: list[Array]) -> list[Array]:
        """Each row's baseline, broadcastable to ``x``."""
        baseline = self.baseline
        if baseline is None:
            return x
        if self._shared_baseline is not None:
            return self._shared_baseline
        if baseline.own:
            tables = [table[sample, reference] for table in baseline.tables]
        elif baseline.per_sample:
            tables = [table[sample] for table in baseline.tables]
        else:
            tables = [table[reference] for table in baseline.tables]
        return self._staged_tables(tables)

    @cached_property
    def _shared_baseline(self) -> list[Array] | None:
        """The baseline of all rows, if it is the same."""
        baseline = self.baseline
        if baseline is None or baseline.own or baseline.per_sample or baseline.distribution:
            return None
        return self._staged_tables(baseline.tables)

    def _staged_tables(self, tables: Sequence[Numpy]) -> list[Array]:
        """Baselines on the device, with the dtypes of the inputs."""
        specs = self.packages.traced.signature.inputs
        kinds = [specs[place].dtype for place in self.places]
        return [self.packages.to_device(table, kind) for table, kind in zip(tables, kinds, strict=True)]

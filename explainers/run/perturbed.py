"""Runs of samples that users' generators perturb on the host: workers generate, packages evaluate, users reduce."""

from __future__ import annotations

import contextlib
import traceback
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np

from ..errors import InputError, PerturbationError
from ..methods.perturbation import Perturbation, as_sample
from ..spec import Numpy, row_name
from .base import Steps
from .call import Call, Chunk, Piece, Rows, Staged
from .forward import ForwardRun
from .workers import END, produce

if TYPE_CHECKING:
    from .packages import Packages

READY = 4  # generated packages that may wait for the model


class PerturbedRun(ForwardRun):
    """The run of one chunk of samples."""

    def __init__(self, packages: Packages, call: Call, staged: Staged, start: int, stop: int) -> None:
        super().__init__(packages, call, staged, start, stop)
        self.places = packages.places
        self.x = [packages.backend.numpy(staged.inputs[place]) for place in self.places]
        self.values: list[list[Any]] = [[] for _ in range(staged.count)]
        self.waiting: list[tuple[int, list[Numpy]]] = []

    def steps(self) -> Steps[Chunk]:
        method = self.method
        assert isinstance(method, Perturbation)
        known_x = self.call.target.kind == "max"
        if known_x:
            yield from self._find_max()
            for values, x in zip(self.values, self.sums.x, strict=True):
                values.append(x)

        def tasks() -> Iterator[tuple[int, tuple[Any, Any]]]:
            for i in range(self.staged.count):
                if not known_x:
                    self.waiting.append((i, [array[i] for array in self.x]))
                yield i, (self._sample(i), self._attribution(i))

        made = produce(
            method.generate, tasks(), workers=min(method.workers, self.staged.count), processes=method.processes,
            timeout=method.timeout, ready=READY * self.size, name=self._name,
        )  # fmt: skip
        with contextlib.closing(made):  # also when the model raises
            for sample, item in made:
                if item is not END:
                    self.waiting.append((sample, self._checked_sample(item, sample)))
                else:
                    self.report(1)
                while len(self.waiting) >= self.size:
                    yield from self._evaluate(self.size)
        while self.waiting:
            yield from self._evaluate(self.size)
        return self._chunk()

    def _name(self, sample: int) -> str:
        return row_name(self.start + sample, len(self.call))

    def _sample(self, i: int) -> Any:
        """A copy of a sample for the user's function."""
        parts = [array[i].copy() for array in self.x]
        return parts[0] if len(parts) == 1 else tuple(parts)

    def _attribution(self, i: int) -> Any:
        if self.call.attribution is None:
            return None
        parts = [array[self.start + i] for array in self.call.attribution]
        return parts[0] if len(parts) == 1 else tuple(parts)

    def _checked_sample(self, item: Any, sample: int) -> list[Numpy]:
        arrays = as_sample(item, self.packages.shapes, f"what generate yielded at {self._name(sample)}")
        for array in arrays:
            if self.call.check and not np.isfinite(array).all():
                raise InputError(f"what generate yielded at {self._name(sample)} is not finite")
        return arrays

    def _evaluate(self, size: int) -> Steps[None]:
        """Run the model on the first ``size`` waiting rows."""
        rows, self.waiting = self.waiting[:size], self.waiting[size:]
        samples = np.array([sample for sample, _ in rows])
        backend, packages = self.packages.backend, self.packages
        inputs = [
            packages.stage(np.stack([arrays[self.places.index(place)] for _, arrays in rows]), value)
            if place in self.places
            else backend.take(self.staged.inputs[place], samples)
            for place, value in enumerate(packages.program.graph.inputs)
        ]
        staged = Staged(len(rows), inputs, backend.take(self.staged.mask, samples), self.staged.choose, [], None, None)
        index = np.arange(len(rows))
        y, s, *_ = yield Piece("rows", staged, 0, len(rows), Rows(index, np.zeros_like(index), {}))
        values = backend.numpy(y if self.all else s)[: len(rows)].astype(np.float64, copy=False)
        self._finite(values, int(samples[0]))
        for place, (sample, value) in enumerate(zip(samples, values, strict=True)):
            if self.outputs is not None and not self.values[sample]:
                self.outputs[sample] = backend.numpy(y)[place]
            self.values[sample].append(value)

    def _chunk(self) -> Chunk:
        """Reduce every sample to its attributions."""
        count, outputs = self.staged.count, self.packages.output_shape if self.all else ()
        results = [
            np.zeros((*outputs, count, *shape), array.dtype)
            for shape, array in zip(self.packages.shapes, self.x, strict=True)
        ]
        for i, given in enumerate(self.values):
            values = np.stack(given)
            for output in np.ndindex(*outputs):
                for result, part in zip(results, self._reduced(values[(slice(None), *output)], i), strict=True):
                    result[(*output, i)] = part
        chunk = Chunk(self.start, self.stop, list(results), [None] * len(results))
        chunk.outputs, chunk.target = self._as_outputs(self.outputs), self.target
        chunk.evaluations = np.array([len(values) for values in self.values])
        return chunk

    def _reduced(self, values: Numpy, i: int) -> list[Numpy]:
        method = self.method
        assert isinstance(method, Perturbation)
        try:
            found = method.reduce(values, self._sample(i))
        except Exception as error:
            raise PerturbationError(f"reduce failed at {self._name(i)}:\n{traceback.format_exc()}") from error
        return as_sample(found, self.packages.shapes, f"what reduce returned at {self._name(i)}")

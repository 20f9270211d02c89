"""The activations of references: computed once and cached while the reference and the weights stay the same."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ..backend import Backend, Kernel, Traced
from ..graph import Value
from ..program.against_reference import Contrast
from ..spec import Array, Baseline, TensorSpec

MOST_ROWS = 16  # distinct rows of other inputs whose reference activations are cached
LARGEST_COMPARED = 2**20  # most bytes of other inputs that are compared row by row
LARGEST_CACHE = 2**31  # most bytes of cached activations of one set of references


@dataclass
class ReferenceActivations:
    """Runs a program's reference pass. ``kernel(rows)`` gives its kernel; ``bucket`` pads static shapes.

    Activations of a baseline that is the same object at every call are cached. Where they depend on
    other inputs of the sample (an attention mask), they are recomputed for each package.
    """

    program: Contrast
    backend: Backend
    traced: Traced
    kernel: Callable[[int | None], Kernel]
    bucket: Callable[[int], int | None]
    _kept: dict[Any, tuple[Baseline, Any, list[Array]]] = field(default_factory=dict)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def forget(self) -> None:
        with self._lock:
            self._kept = {}

    def shared(
        self, baseline: Baseline, first: int, last: int, inputs: Sequence[Array] = (), name: bytes = b""
    ) -> list[Array]:
        """Activations of the references first … last−1, the same for every sample.

        ``inputs``: one row of the graph's inputs, if activations depend on those; ``name`` identifies the row
        in the cache.
        """
        state = self.backend.version(self.traced.weights)
        key = (first, last, name)
        found = self._kept.get(key) if baseline.fixed else None
        if found is not None and found[0] is baseline and found[1] == state:
            return found[2]
        tables = [self._staged(table[first:last], i) for i, table in enumerate(baseline.tables)]
        result = self.run(tables, inputs)
        if baseline.fixed and sum(map(self._bytes, result)) * len(baseline) <= LARGEST_CACHE * (last - first):
            with self._lock:
                kept = {k: entry for k, entry in self._kept.items() if entry[0] is baseline and entry[1] == state}
                if name and len(kept) >= MOST_ROWS:
                    kept = {}
                self._kept = {**kept, key: (baseline, state, result)}
        return result

    def one_row(self, inputs: Sequence[Array]) -> bytes | None:
        """A cache key of the other inputs' values, if these are the same for all samples."""
        if self.program.shared:
            return b""
        name = b""
        for value, array in zip(self.program.graph.inputs, inputs, strict=True):
            if value in self.program.others:
                if self._bytes(array) > LARGEST_COMPARED:
                    return None
                host = self.backend.numpy(array)
                if len(host) > 1 and not (host == host[:1]).all():
                    return None
                name += repr(host[:1].tolist()).encode() if host.dtype.kind == "O" else host[:1].tobytes()
        return name

    def run(self, tables: Sequence[Array], inputs: Sequence[Array]) -> list[Array]:
        """One activation for each of the program's ``kept``, for as many rows as the tables have.

        ``inputs``: all of the graph's inputs for the same rows; none if activations depend only on
        their shapes.
        """
        count = int(tables[0].shape[0])
        given = dict(zip(self.program.graph.inputs, inputs, strict=bool(inputs)))
        given.update(zip(self.program.wrt, tables, strict=True))
        arguments = [given[v] if v in given else self._zeros(v, count) for v in self.program.reference.inputs]
        size = self.bucket(count)
        if size is not None:
            arguments = [self.backend.pad(array, size) for array in arguments]
        result = self.kernel(size)(*arguments)
        if size is not None:
            result = tuple(self.backend.first(array, count) for array in result)
        kinds = [self.program.dtype(value) for value in self.program.kept]
        return [self.backend.stage(a, kind, self.traced.device) for a, kind in zip(result, kinds, strict=True)]

    def _zeros(self, value: Value, count: int) -> Array:
        spec = TensorSpec((None, *self.program.sample_shape(value)), self.program.dtype(value))
        return self.backend.stage(spec.blank(count), spec.dtype, self.traced.device)

    def _staged(self, table: Array, index: int) -> Array:
        dtype = self.program.dtype(self.program.wrt[index])
        return self.backend.stage(np.ascontiguousarray(table), dtype, self.traced.device)

    def _bytes(self, array: Array) -> int:
        return int(np.prod(tuple(array.shape))) * 4

"""The activations of references: computed once, kept while the reference and the weights stay."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from .backend import Backend, Kernel, Traced
from .contrast import Contrast
from .spec import Array, Baseline

LARGEST_CACHE = 2**31  # bytes of activations of one set of references


@dataclass
class ReferenceActivations:
    """Runs a program's reference pass. ``kernel(rows)`` gives its kernel; ``bucket`` pads static shapes.

    Activations of a baseline that is the same object at every call are kept. Where they depend on
    other inputs of the sample (an attention mask), they are computed anew for each package.
    """

    program: Contrast
    backend: Backend
    traced: Traced
    kernel: Callable[[int | None], Kernel]
    bucket: Callable[[int], int | None]
    _kept: dict[tuple[int, int], tuple[Baseline, Any, list[Array]]] = field(default_factory=dict)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def forget(self) -> None:
        with self._lock:
            self._kept = {}

    def shared(self, baseline: Baseline, first: int, last: int, fixed: bool) -> list[Array]:
        """Activations of the references first … last−1, which do not depend on the sample."""
        state = self.backend.version(self.traced.weights)
        if fixed:
            found = self._kept.get((first, last))
            if found is not None and found[0] is baseline and found[1] == state:
                return found[2]
        tables = [self._staged(table[first:last], i) for i, table in enumerate(baseline.tables)]
        result = self.run(tables, [])
        if fixed and sum(map(self._bytes, result)) * len(baseline) <= LARGEST_CACHE * (last - first):
            with self._lock:
                kept = {key: entry for key, entry in self._kept.items() if entry[0] is baseline and entry[1] == state}
                self._kept = {**kept, (first, last): (baseline, state, result)}
        return result

    def run(self, tables: Sequence[Array], inputs: Sequence[Array]) -> list[Array]:
        """One activation for each of the program's ``kept``, for as many rows as the tables have.

        ``inputs``: all of the graph's inputs for the same rows, where activations depend on them.
        """
        given = dict(zip(self.program.wrt, tables, strict=True))
        others = dict(zip(self.program.graph.inputs, inputs, strict=False))
        arguments = [given[v] if v in given else others[v] for v in self.program.reference.inputs]
        count = int(tables[0].shape[0])
        size = self.bucket(count)
        if size is not None:
            arguments = [self.backend.pad(array, size) for array in arguments]
        result = self.kernel(size)(*arguments)
        return [array[:count] for array in result] if size is not None else list(result)

    def _staged(self, table: Array, index: int) -> Array:
        dtype = self.program.dtype(self.program.wrt[index])
        return self.backend.stage(np.ascontiguousarray(table), dtype, self.traced.device)

    def _bytes(self, array: Array) -> int:
        return int(np.prod(tuple(array.shape))) * 4

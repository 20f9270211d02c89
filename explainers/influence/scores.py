"""Influences of many training samples on many tests, computed block by block when they are asked for."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator
from contextlib import closing
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import psutil

from ..errors import InputError
from ..spec import Numpy
from ..store import Form, Store
from .running import Samples

if TYPE_CHECKING:
    from .compiled import FittedInfluence

VECTORS = 2**28  # bytes of the vectors of a block of tests
ROWS = 2**26  # bytes of a block of scores
PART, MOST_PARTS, HASHED = 256, 256, 2**30  # samples hashed together; how many such parts of more bytes than the last
NAME = "influence"


class Top(NamedTuple):
    """The training samples of the largest influence on each test, largest first: indices and scores, (tests, k)."""

    indices: Numpy
    scores: Numpy


class Scores:
    """The influences on tests of training samples, (tests, trains): a function that is computed block by block.

    ``shape``, ``chunks``: of the result and of its blocks; the grid is fixed before anything runs, and results are the
    same for any.
    """

    def __init__(
        self, fitted: FittedInfluence, tests: Samples, trains: Samples, chunks: tuple[int, int] | None = None
    ) -> None:
        self.fitted, self.tests, self.trains = fitted, tests, trains
        self.shape = len(tests), len(trains)
        self.chunks = self._default() if chunks is None else self._checked(chunks)

    def _default(self) -> tuple[int, int]:
        rows = min(VECTORS // (8 * self.fitted._run.total), ROWS // (4 * self.shape[1]))
        return max(1, min(int(rows), self.shape[0])), self.shape[1]

    def _checked(self, chunks: Any) -> tuple[int, int]:
        sizes = tuple(chunks) if isinstance(chunks, (tuple, list)) else ()
        if len(sizes) != 2 or not all(isinstance(size, int) and size >= 1 for size in sizes):
            raise InputError(f"chunks must be two numbers ≥ 1, of tests and of training samples; got {chunks!r}")
        return min(sizes[0], self.shape[0]), min(sizes[1], self.shape[1])

    def rows(self, first: int = 0) -> Iterator[tuple[int, Numpy]]:
        """Blocks of tests, (tests of a block, trains), each with the number of its first test."""
        for start in range(first, self.shape[0], self.chunks[0]):
            yield start, np.concatenate([part for _, part in self._row(start)], axis=1)

    def _row(self, start: int) -> Iterator[tuple[int, Numpy]]:
        stop = min(start + self.chunks[0], self.shape[0])
        vectors = self.fitted._vectors(self.tests, (start, stop))
        for begin in range(0, self.shape[1], self.chunks[1]):
            yield begin, self.fitted._scores(vectors, self.trains, (begin, min(begin + self.chunks[1], self.shape[1])))

    def compute(self) -> Numpy:
        """All of them, (tests, trains), float64."""
        what = f"{self.shape[0]:,} × {self.shape[1]:,} scores"
        advice = "write them with .to_zarr(path), or take the largest with .top(k)"
        check_memory(8 * self.shape[0] * self.shape[1], what, advice)
        found = np.empty(self.shape)
        for start, part in self.rows():
            found[start : start + len(part)] = part
        return found

    def top(self, k: int, *, lowest: bool = False) -> Top:
        """The ``k`` training samples of the largest influence on each test; ``lowest``: of the most negative.

        Only a block is in memory at any time.
        """
        if not isinstance(k, int) or isinstance(k, bool) or not 1 <= k <= self.shape[1]:
            raise InputError(f"k must be from 1 to {self.shape[1]}, the number of training samples; got {k!r}")
        sign = -1.0 if lowest else 1.0
        indices, scores = np.empty((self.shape[0], k), np.int64), np.empty((self.shape[0], k))
        for start in range(0, self.shape[0], self.chunks[0]):
            best: Numpy | None = None
            for begin, part in self._row(start):
                places = np.broadcast_to(np.arange(begin, begin + part.shape[1]), part.shape)
                new = np.stack([sign * part, places])
                both = new if best is None else np.concatenate([best, new], axis=2)
                order = np.argsort(-both[0], axis=1, kind="stable")[:, :k]
                best = np.stack([np.take_along_axis(each, order, 1) for each in both])
            assert best is not None
            stop = start + best.shape[1]
            scores[start:stop], indices[start:stop] = sign * best[0], best[1].astype(np.int64)
        return Top(indices, scores)

    def to_zarr(self, path: str | os.PathLike[str], *, restart: bool = False, overwrite: bool = False) -> Path:
        """Write them to a zarr group with one array, ``influence``, (tests, trains), float32.

        Continues where an interrupted run of the same influences stopped: each chunk is written once. The file is in
        its place when it is whole, and not before.

        Raises
        ------
        InputError: another run's part is there (``restart`` discards it), the path exists (``overwrite`` replaces it),
        no space. RunInProgress: another process writes it. BackendMissing: no zarr.
        """
        place = Path(path)
        if place.suffix != ".zarr":
            raise InputError(f"the output must be called ….zarr; got {os.fspath(path)!r}")
        store = Store(place, self._key(), restart, overwrite)
        if store.complete:
            return place
        with closing(store):
            store.check_model(self.fitted._run.probe())
            if not store.arrays:
                store.begin_zarr({NAME: Form(self.shape, np.float32)}, self.chunks[0], self._facts())
            for start, part in self.rows(store.done):
                store.write(start, {NAME: part.astype(np.float32)})
                store.keep()
            store.finish()
        return place

    def _facts(self) -> dict[str, Any]:
        return {
            "method": str(self.fitted.method), "loss": str(self.fitted._run.loss), "explainers": version("explainers"),
            "samples": self.fitted.count, "sign": "positive: training on the sample lowers the loss of the test",
        }  # fmt: skip

    def _key(self) -> str:
        fitted = self.fitted
        some = [self._hash(samples) for samples in (self.tests, self.trains)]
        later = {name: str(getattr(fitted.method, name)) for name in fitted.method.later}
        state = hashlib.sha256()
        for name, array in sorted(fitted.state.items()):
            state.update(name.encode() + np.ascontiguousarray(array).tobytes())
        facts = {
            **self._facts(), **fitted.influence._facts(fitted.method), "later": later, "shape": self.shape,
            "rows": self.chunks[0], "some": some, "state": state.hexdigest(),
        }  # fmt: skip
        return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()

    def _hash(self, samples: Samples) -> str:
        """Of all samples, or of some of each part where they are many."""
        found = hashlib.sha256()
        total, stop = len(samples), min(PART, len(samples))
        size = sum(np.asarray(array).nbytes for array in _arrays(samples, 0, stop)) * total / stop
        step = PART if size <= HASHED else max(PART, total // MOST_PARTS)
        for start in range(0, total, step):
            for array in _arrays(samples, start, min(start + PART, total)):
                found.update(np.ascontiguousarray(np.asarray(array)).tobytes())
        return found.hexdigest()

    def to_dask(self, chunks: tuple[int, int] | None = None) -> Any:
        """A dask array of them, (tests, trains), computed on threads of this process or on the workers of a cluster.

        The model travels as bytes, once, and each worker compiles it once.
        """
        from .spreading import spread

        return spread(self if chunks is None else Scores(self.fitted, self.tests, self.trains, chunks))

    def __repr__(self) -> str:
        return f"Scores({self.shape[0]:,} tests × {self.shape[1]:,} training samples, in blocks of {self.chunks})"


def check_memory(needed: int, what: str, advice: str) -> None:
    free = psutil.virtual_memory().available
    if needed > free:
        raise InputError(f"{what} take {needed / 2**30:,.1f} GiB, and {free / 2**30:,.1f} GiB are free: {advice}")


def _arrays(samples: Samples, start: int, stop: int) -> tuple[Any, ...]:
    inputs, target = samples.read(start, stop)
    return (*inputs, target)

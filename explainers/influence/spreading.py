"""Influences as a dask array: blocks of tests × training samples, on threads or on the workers of a cluster.

The model, its weights and what the method fitted travel as bytes, one entry of the graph, and each process compiles
them once.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from .. import per_process
from ..errors import ArtifactError, BackendMissing
from ..per_process import PerProcess
from ..spec import Numpy
from .running import Samples, Vectors

if TYPE_CHECKING:
    from .compiled import FittedInfluence
    from .scores import Scores

MOST = 4  # influences that a process keeps

_made: PerProcess[FittedInfluence] = PerProcess(MOST)


class Job(NamedTuple):
    """What is the same for all blocks."""

    content: bytes
    checksum: str


def spread(scores: Scores) -> Any:
    """A dask array (tests, trains), float64."""
    try:
        dask, da = import_module("dask"), import_module("dask.array")
        content = import_module("cloudpickle").dumps(_content(scores.fitted))
    except ImportError as error:
        raise BackendMissing("to_dask needs dask: pip install 'explainers[dask]'") from error
    except Exception as error:  # pickle raises what the objects raise
        raise ArtifactError(
            f"the model cannot be sent to other processes, since it cannot be pickled: {error}. Write the scores with "
            ".to_zarr(path) in this one"
        ) from error
    job = dask.delayed(Job(content, per_process.checksum(content)), pure=True, traverse=False)
    vectors, block = dask.delayed(_vectors, pure=True), dask.delayed(_block, pure=True)
    parts = [_parts(samples, size) for samples, size in zip((scores.tests, scores.trains), scores.chunks, strict=True)]
    trains = [dask.delayed(part, pure=True, traverse=False) for part in parts[1]]
    rows = []
    for part in parts[0]:
        found = vectors(job, dask.delayed(part, pure=True, traverse=False))
        rows.append([
            da.from_delayed(block(job, found, train), (len(part), len(own)), np.float64)
            for train, own in zip(trains, parts[1], strict=True)
        ])  # fmt: skip
    return da.block(rows)


class Part:
    """Some consecutive samples. They are read where they are used, if they come from zarr; else they travel."""

    def __init__(self, samples: Samples, start: int, stop: int) -> None:
        self.count = stop - start
        self.source: Any = None
        parts = getattr(samples.source, "parts", {})
        arrays = {name: getattr(part, "array", None) for name, part in parts.items()}
        if arrays and all(hasattr(array, "store") and hasattr(array, "chunks") for array in arrays.values()):
            self.source = arrays, samples.source.kind, start, stop  # type: ignore[attr-defined]
        else:
            inputs, target = samples.read(start, stop)
            self.arrays = tuple(np.asarray(array) for array in (*inputs, target))

    def __len__(self) -> int:
        return self.count

    def read(self) -> Any:
        if self.source is None:
            return self.arrays
        arrays, kind, start, stop = self.source
        found = {name: np.asarray(array[start:stop]) for name, array in arrays.items()}
        return found if kind is dict else tuple(found.values())


def _parts(samples: Samples, size: int) -> list[Part]:
    return [Part(samples, start, min(start + size, len(samples))) for start in range(0, len(samples), size)]


def _content(fitted: FittedInfluence) -> dict[str, Any]:
    influence = fitted.influence
    train = None
    if fitted.method.keeps_samples and fitted.train is not None:
        train = Part(fitted.train, 0, len(fitted.train)).read()
    model, arguments = influence._recipe
    arguments = {**arguments, "method": fitted.method, "wrt": influence._chosen()}
    weights = influence._run.host_weights()
    return {
        "model": model, "arguments": arguments, "weights": weights, "state": fitted.state,
        "count": fitted.count, "train": train,
    }  # fmt: skip


# --- on a worker -------------------------------------------------------------------------------------


def _fitted(job: Job) -> FittedInfluence:
    """The influence of a job, compiled once in a process, with the weights that it had when it was fitted."""
    return _made.get(job.content, job.checksum, _compiled)


def _compiled(content: bytes) -> FittedInfluence:
    from .compiled import FittedInfluence, Influence

    given = import_module("pickle").loads(content)
    per_process.share_cores(given["arguments"]["backend"])
    influence = Influence.compile(given["model"], **given["arguments"])
    influence._run = influence._run.with_weights(given["weights"])
    samples = None if given["train"] is None else influence.samples(given["train"], "training data")
    return FittedInfluence(influence, influence.method, given["state"], samples, given["count"])


def _vectors(job: Job, tests: Part) -> Vectors:
    fitted = _fitted(job)
    samples = fitted.influence.samples(tests.read(), "tests")
    return fitted._vectors(samples, (0, len(samples)))


def _block(job: Job, vectors: Vectors, trains: Part) -> Numpy:
    fitted = _fitted(job)
    samples = fitted.influence.samples(trains.read(), "training samples")
    return fitted._scores(vectors, samples, (0, len(samples)))

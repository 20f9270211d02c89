"""Explanations of dask arrays, on the workers of a cluster or on this machine: lazy, and the same for any chunks.

The explainer travels as the bytes of its file. They are one entry of the graph, so that a worker that is lost takes
nothing with it, and each process loads them once.
"""

from __future__ import annotations

import io
import os
from collections.abc import Mapping, Sequence
from importlib import import_module
from typing import Any, NamedTuple

import numpy as np

from . import per_process
from .errors import BackendMissing, InputError
from .explainer.api import Explainer
from .explainer.explanation import on_host
from .explainer.slices import Whole
from .file import container
from .per_process import PerProcess
from .spec import Numpy, TensorSpec, is_mask, resolve_target

MOST = 8  # explainers that a process keeps
LEAST = 1024  # samples of a block, if nothing else says how many

_loaded: PerProcess[Explainer] = PerProcess(MOST)
loads = 0  # explainers that this process has loaded from bytes


def explain(
    source: Any, explainer: Explainer, *, target: Any = None, baseline: Any = None, seed: int | None = None,
    block: int | None = None, batch_size: int | None = None, allow_nonfinite: bool = False,
) -> Any:  # fmt: skip
    """Attributions of dask arrays, as dask arrays: nothing is computed until they are.

    Sample i draws from (seed, i) and has the i-th target, so that the result is that of one call with all samples,
    whatever the chunks and the workers.

    Parameters
    ----------
    source: a dask array (N, …) or a zarr array; for several inputs a tuple, or a dict by name.
    explainer: traced, and with a file form: of torch or TensorFlow.
    target: as for calling the explainer, or a dask array of one for each sample.
    baseline: as for calling it, of all samples at once: a number, one sample, or References.
    block: samples of a task. Default: the chunks of the first input. A task should run for 0.2 s or more.
    batch_size, allow_nonfinite: as for calling.

    Returns
    -------
    A dask array of the shape of the attributed input; a tuple for several, a dict where inputs were given by name.

    Raises
    ------
    BackendMissing: dask is not installed. InputError: not these inputs. ArtifactError: the explainer has no file form.
    """
    da = _dask()
    file = _saved(explainer)
    arrays = _inputs(da, explainer, source, block)
    rows, total = arrays[0].chunks[0], int(arrays[0].shape[0])
    targets = _targets(da, explainer, target, total, rows)
    whole = Whole(target if targets is None else None, baseline, seed, total, batch_size, allow_nonfinite)
    job = _Job(file, per_process.checksum(file), whole, len(arrays))
    common = {"job": import_module("dask").delayed(job, pure=True, traverse=False)}
    common |= {"concatenate": True, "align_arrays": False}
    by_input = dict(zip(explainer.signature.names, arrays, strict=True))
    kinds = [_kind(spec, by_input.get(spec.name)) for spec in explainer.attributed]
    only = explainer.attributed[0] if len(kinds) == 1 else None
    pairs: list[Any] = [import_module("dask.layers").ArraySliceDep((rows,)), "i"]
    for name, array in by_input.items():
        own = only is not None and name == only.name and array.shape[1:] == only.sample_shape
        name = "out" if own else name  # axes of the result are no loop, so that dask joins making and explaining
        pairs += [array, ("i", *(f"{name}_{axis}" for axis in range(1, array.ndim)))]
    if targets is not None:
        pairs += [targets, ("i", *(f"target_{axis}" for axis in range(1, targets.ndim)))]
    results = {}
    if only is not None:
        sizes = {f"out_{axis}": size for axis, size in enumerate(only.sample_shape, 1)}
        known = {label for labels in pairs[1::2] for label in labels}
        results[only.name] = da.blockwise(
            _only, ("i", *sizes), *pairs, **common, new_axes={k: n for k, n in sizes.items() if k not in known},
            dtype=kinds[0], meta=np.empty((0,) * (1 + len(sizes)), kinds[0]),
        )  # fmt: skip
    else:
        made = da.blockwise(_all, "i", *pairs, **common, dtype=object, meta=np.empty(0, object))
        for place, (spec, kind) in enumerate(zip(explainer.attributed, kinds, strict=True)):
            shape = spec.sample_shape
            results[spec.name] = made.map_blocks(
                _part, place, dtype=kind, chunks=(rows, *((size,) for size in shape)), meta=np.empty((0, *shape), kind),
                new_axis=list(range(1, 1 + len(shape))),
            )  # fmt: skip
    if isinstance(source, Mapping):
        return results
    return next(iter(results.values())) if only is not None else tuple(results.values())


class _Job(NamedTuple):
    """What is the same for all blocks: one entry of the graph. ``inputs``: how many the model takes."""

    file: bytes
    checksum: str
    whole: Whole
    inputs: int


def _inputs(da: Any, explainer: Explainer, source: Any, block: int | None) -> list[Any]:
    """The model's inputs as dask arrays of the same blocks of whole samples."""
    signature = explainer.signature
    if isinstance(source, Mapping):
        given = signature.bind([], dict(source))
    else:
        given = list(source) if isinstance(source, tuple) else [source]
    if len(given) != len(signature.inputs):
        raise InputError(f"the model takes {len(signature.inputs)} inputs, ({signature}); got {len(given)}")
    arrays = [_lazy(da, array, spec.name) for array, spec in zip(given, signature.inputs, strict=True)]
    total = arrays[0].shape[0]
    for array, spec in zip(arrays, signature.inputs, strict=True):
        if np.isnan(array.shape[0]):
            raise InputError(
                f"the number of samples of input {spec.name!r} is not known: call compute_chunk_sizes() first"
            )
        if array.shape[1:] != spec.sample_shape or array.shape[0] != total:
            raise InputError(
                f"input {spec.name!r} has the shape {array.shape}; the model takes {('N', *spec.sample_shape)}, and "
                f"the first input has {total} samples"
            )
    rows = block or arrays[0].chunks[0]
    return [array.rechunk({0: rows, **dict.fromkeys(range(1, array.ndim), -1)}) for array in arrays]


def _kind(spec: TensorSpec, array: Any) -> np.dtype[Any]:
    """The dtype of attributions: that of the input that they are of, if it is floating."""
    floating = array is not None and array.dtype.kind == "f"
    return np.dtype(array.dtype if floating else "float32" if spec.dtype == "bfloat16" else spec.dtype)


def to_zarr(array: Any, path: str | os.PathLike[str], *, overwrite: bool = False, compute: bool = True) -> Any:
    """Write a dask array to a zarr array in chunks of its own blocks, so that no two tasks write to one chunk.

    Blocks of different sizes are made equal first: dask writes what does not fit a store's chunks all the same, and
    two workers that write to one of them lose data. ``compute=False`` returns the task to compute later.

    Raises
    ------
    InputError: the path exists. BackendMissing: dask or zarr are not installed.
    """
    da = _dask()
    if os.path.exists(path) and not overwrite:
        raise InputError(f"{os.fspath(path)!r} exists: choose another name, or give overwrite=True")
    from .store import zarr

    rows = max(array.chunks[0]) if array.chunks[0] else 1
    aligned = array.rechunk({0: rows, **dict.fromkeys(range(1, array.ndim), -1)})
    target = zarr().open_array(
        str(path), mode="w", shape=array.shape, dtype=array.dtype, chunks=(rows, *(max(1, n) for n in array.shape[1:]))
    )
    return da.store(aligned, target, lock=False, compute=compute)


# --- on the client -----------------------------------------------------------------------------------


def _dask() -> Any:
    try:
        return import_module("dask.array")
    except ImportError as error:
        raise BackendMissing("explainers.cluster needs dask: pip install 'explainers[dask]'") from error


def _saved(explainer: Explainer) -> bytes:
    if explainer.per_token or explainer.every_output:
        raise InputError("per_token=True and every_output=True give results of another shape: compile it without")
    buffer = io.BytesIO()
    explainer.save(buffer)
    return buffer.getvalue()


def _lazy(da: Any, array: Any, name: str) -> Any:
    if isinstance(array, da.Array):
        return array
    if hasattr(array, "chunks") and hasattr(array, "store"):  # a zarr array
        return da.from_zarr(array)
    if hasattr(array, "shape") and hasattr(array, "dtype"):
        return da.from_array(array, chunks=(LEAST, *array.shape[1:]))
    raise InputError(f"input {name!r} is a {type(array).__name__}: give a dask array, a zarr array or an array")


def _targets(da: Any, explainer: Explainer, target: Any, total: int, rows: Sequence[int]) -> Any:
    """One target for each sample as a dask array; None if all have the same."""
    shape = explainer.output.sample_shape
    if isinstance(target, da.Array):
        return target.rechunk({0: tuple(rows)})
    if target is None or isinstance(target, (str, int, tuple)) or np.ndim(target) == 0:
        return None
    array = np.asarray(on_host(target) if hasattr(target, "dtype") else target)
    resolve_target(array, shape, total)
    if is_mask(array, shape) and array.shape == shape:
        return None
    return da.from_array(array, chunks=(tuple(rows), *array.shape[1:]))


# --- on a worker -------------------------------------------------------------------------------------


def _only(*arguments: Any, job: _Job) -> Numpy:
    """A block's attributions of the only attributed input."""
    return _explained(*arguments, job=job)[0]


def _all(*arguments: Any, job: _Job) -> Any:
    """A block's attributions, an array of objects of which the first one is a tuple of arrays."""
    parts = _explained(*arguments, job=job)
    found = np.empty(len(parts[0]), object)
    found[:1] = [parts]
    return found


def _part(block: Any, place: int) -> Any:
    return block[0][place]


def _explained(place: tuple[slice], *arrays: Any, job: _Job) -> tuple[Numpy, ...]:
    """Attributions of the samples at ``place`` of all; behind the model's inputs there may be targets."""
    inputs, targets = list(arrays[: job.inputs]), arrays[job.inputs] if len(arrays) > job.inputs else None
    request = job.whole.request(_explainer(job), inputs, place[0], targets)
    results = request.attributions(request.packages.run(request.call))
    return tuple(map(on_host, results if isinstance(results, tuple) else (results,)))


def _explainer(job: _Job) -> Explainer:
    """The explainer of a job, loaded once in a process."""

    def load(file: bytes) -> Explainer:
        global loads
        per_process.share_cores(container.read_manifest(io.BytesIO(file)).backend)
        loads += 1
        return Explainer.load(file)

    return _loaded.get(job.file, job.checksum, load)

"""Explanations of a source of samples, written to disk as they come: each sample once, whatever interrupts it."""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Mapping
from contextlib import closing
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from .. import sources, tables
from ..errors import InputError
from ..spec import Numpy, References
from ..store import Form, Store
from .explanation import Explanation, on_host
from .streaming import Part, Stream

INTERVAL = 1.0  # seconds between two states from which an interrupted run continues
PROBED = 8  # samples whose outputs tell one model from another
NAME = "attributions"


def to_disk(
    stream: Stream, path: str | os.PathLike[str], suffix: str, *, restart: bool, overwrite: bool,
    attributes: Mapping[str, Any] | None,
) -> Path:  # fmt: skip
    """Write the results of a stream to a zarr group or a parquet file; continue where an interrupted run stopped."""
    place = Path(path)
    if place.suffix != suffix:
        raise InputError(f"the output must be called …{suffix}; got {os.fspath(path)!r}")
    if stream.explain.every_output or (isinstance(stream.whole.target, str) and stream.whole.target == "all"):
        raise InputError("results of all outputs have the output's axes before the samples: give one output as target")
    store = Store(place, _key(stream, attributes), restart, overwrite)
    if store.complete:
        return place
    with closing(store):
        store.check_model(_probe(stream))
        stream.first = store.done
        saved = time.monotonic()
        with closing(stream.parts()) as parts:
            for part in parts:
                arrays = _arrays(stream, part)
                if not store.arrays:
                    _begin(store, stream, arrays, attributes)
                store.write(part.start, arrays)
                if time.monotonic() - saved > INTERVAL:
                    store.keep()
                    saved = time.monotonic()
                del part, arrays
        if not store.arrays:
            raise InputError("the source has no samples")
        store.finish(attributes={**_facts(stream), **(attributes or {})})
    return place


def _begin(store: Store, stream: Stream, arrays: Mapping[str, Numpy], attributes: Mapping[str, Any] | None) -> None:
    total = stream.whole.total or 0
    forms = {name: Form((total, *array.shape[1:]), array.dtype) for name, array in arrays.items()}
    store.begin_zarr(forms, stream.size, {**_facts(stream), **(attributes or {})})


def _facts(stream: Stream) -> dict[str, Any]:
    """What the attributes of a store say of its results."""
    explain, whole = stream.explain, stream.whole
    return {
        "method": str(explain.method), "backend": explain.backend, "explainers": version("explainers"),
        "versions": explain._backend.versions(), "seed": _shown(whole.seed) if explain.method.sampled else None,
        "target": stream.label if isinstance(stream.label, str) else _shown(whole.target),
        "baseline": _shown(whole.baseline),
    }  # fmt: skip


def _shown(value: Any) -> Any:
    """Short values as they are; of arrays the shape and a hash."""
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    if isinstance(value, (tuple, list)) and len(value) <= 16 and all(isinstance(v, (int, float)) for v in value):
        return list(value)
    digest = _digest(value)
    return f"array of shape {np.shape(value)}, sha256 {digest}" if isinstance(value, np.ndarray) else f"sha256 {digest}"


def _digest(value: Any) -> str:
    if isinstance(value, Mapping):
        return hashlib.sha256(json.dumps({str(k): _digest(v) for k, v in value.items()}).encode()).hexdigest()
    if isinstance(value, References):
        return _digest({"references": value.array})
    if tables.is_table(value):
        return hashlib.sha256(json.dumps(tables.values(value, "the table").tolist(), default=repr).encode()).hexdigest()
    if callable(value) and not hasattr(value, "shape"):
        return getattr(value, "__qualname__", type(value).__qualname__)
    array = np.ascontiguousarray(on_host(value))
    return hashlib.sha256(str((array.shape, array.dtype)).encode() + array.tobytes()).hexdigest()


def _key(stream: Stream, attributes: Mapping[str, Any] | None) -> str:
    """A hash that changes with anything that changes the results or how they are stored."""
    explain, known = stream.explain, sources.sized(stream.source)
    facts = {
        **_facts(stream), "signature": str(explain.signature), "size": stream.size, "details": stream.whole.details,
        "total": stream.whole.total, "inputs": list(stream.inputs or ()), "more": dict(attributes or {}),
        "attributed": [str(spec) for spec in explain.attributed], "source": type(known or stream.source).__qualname__,
        "label": stream.label if isinstance(stream.label, str) else stream.label is not None,
    }  # fmt: skip
    return hashlib.sha256(json.dumps(facts, sort_keys=True, default=str).encode()).hexdigest()


def _probe(stream: Stream) -> Numpy | None:
    """The model's outputs for the first samples of a source that can be read anywhere: other ones give others."""
    known = sources.sized(stream.source)
    if known is None or stream.explain.method.generates:
        return None
    batch = known.read(0, min(PROBED, len(known)))
    signature = stream.explain.signature
    inputs = sources.picked(batch, signature, stream.inputs, stream.label)[: len(signature.inputs)]
    return np.asarray(on_host(stream.explain.predict(*inputs, allow_nonfinite=True)), np.float64)


def _arrays(stream: Stream, part: Part) -> dict[str, Numpy]:
    """The results of a part as arrays by name, (n, …) each; attributions of one input are called so."""
    result = part.result
    if not isinstance(result, Explanation):
        if isinstance(result, dict):
            return {name: on_host(array) for name, array in result.items()}
        names = [spec.name for spec in stream.explain.attributed]
        arrays = result if isinstance(result, tuple) else (result,)
        return _named(dict(zip(names, map(on_host, arrays), strict=True)), NAME)
    found = _named(result.parts(), NAME)
    more = {
        "outputs": result.outputs, "baseline_outputs": result.baseline_outputs, "target": result.target,
        "completeness_gap": result.completeness_gap,
    }  # fmt: skip
    found |= {name: np.asarray(array) for name, array in more.items() if array is not None}
    errors = _named(result.parts("standard_error"), "")
    return found | {f"standard_error_{name}" if name else "standard_error": array for name, array in errors.items()}


def _named(arrays: dict[str, Numpy], single: str) -> dict[str, Numpy]:
    return {single: next(iter(arrays.values()))} if len(arrays) == 1 else arrays

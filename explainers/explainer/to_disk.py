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

from .. import sources
from ..errors import InputError
from ..spec import Numpy
from ..store import Form, Store, digest
from .estimating import example
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
        try:
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
        except BaseException:
            if store.arrays:
                store.keep()  # also what was done since the last time
            raise
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
    method, baseline = explain.method, explain._options.baseline if whole.baseline is None else whole.baseline
    seed = 0 if whole.seed is None else whole.seed
    return {
        "method": str(method), "backend": explain.backend, "explainers": version("explainers"),
        "versions": explain._backend.versions(), "seed": digest(seed) if method.sampled else None,
        "target": digest(whole.target if stream.label is None else stream.label),
        "baseline": None if method.baseline == "none" else digest(baseline),
    }  # fmt: skip


def _key(stream: Stream, attributes: Mapping[str, Any] | None) -> str:
    """A hash that changes with anything that changes the results or how they are stored."""
    explain, known = stream.explain, sources.sized(stream.source)
    facts = {
        **_facts(stream), "value": digest(explain.method), "signature": str(explain.signature), "size": stream.size,
        "attributed": [str(spec) for spec in explain.attributed], "per_token": explain.per_token,
        "details": stream.whole.details, "total": stream.whole.total, "inputs": digest(stream.inputs),
        "source": type(known or stream.source).__qualname__, "more": digest(attributes),
    }  # fmt: skip
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()


def _probe(stream: Stream) -> Numpy | None:
    """The model's outputs, which tell it from another one: for the first samples of a source that can be read anywhere,
    else for random numbers."""
    explain, known = stream.explain, sources.sized(stream.source)
    signature = explain.signature
    if explain.method.generates:
        return None
    if known is not None:
        batch = known.read(0, min(PROBED, len(known)))
        inputs = sources.picked(batch, signature, stream.inputs, stream.label)[: len(signature.inputs)]
    elif signature.lengths or explain._backend.forward_only or explain._backend.calls:
        return None  # sizes are not known, or the model may take no such numbers
    else:
        inputs = (example(signature, PROBED),)
    return np.asarray(on_host(explain.predict(*inputs, allow_nonfinite=True)), np.float64)


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

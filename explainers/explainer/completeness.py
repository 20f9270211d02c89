"""The guard: warns, or raises, when attributions that should add up to the change of the output do not."""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..backend import on_host
from ..errors import IncompleteError, IncompleteWarning
from ..methods import Method
from ..ops import RowSums
from ..run import Packages
from ..run.call import Call, Chunk
from ..spec import Array, Numpy, check_finite, largest, row_name

TOLERANCE = 1e-3  # of the output's change
LEAST = 1e-10  # of the outputs
FEW = 32  # samples that are compared faster one by one


@dataclass
class Incomplete:
    """Which samples' attributions do not add up, with each one's Σ attribution and expected sum: (N,) each.

    ``count``: how many they are.
    """

    which: Numpy
    totals: Numpy
    changes: Numpy
    count: int


def check(packages: Packages, call: Call, chunks: Sequence[Chunk]) -> Incomplete | None:
    """Compare Σ attribution with s(x) − s(r); None if the method does not guarantee that they are equal.

    A sample is incomplete if they differ by more than 1e-3·|s(x) − s(r)| plus rounding. Outputs that are not finite
    are skipped: the caller allowed them.

    Raises
    ------
    NonFiniteError: an output is not finite, and the call does not allow it.
    """
    if not chunks or chunks[0].ends is None:
        return None
    parts = [_compared(packages, call, chunk) for chunk in chunks]
    if not packages.program.promises:
        return None
    if len(parts) == 1:
        return parts[0]
    which, totals, changes = (
        np.concatenate(arrays) for arrays in zip(*((p.which, p.totals, p.changes) for p in parts), strict=True)
    )
    return Incomplete(which, totals, changes, sum(part.count for part in parts))


def _compared(packages: Packages, call: Call, chunk: Chunk) -> Incomplete:
    assert chunk.ends is not None
    backend, (y, y_r), parts = packages.backend, chunk.ends, summed(packages, call, chunk)
    ops, arrays = _together(packages, [y, *parts] if y_r is None else [y, *parts, y_r])
    y, parts = arrays[0], arrays[1 : 1 + len(parts)]
    change = _weighted(packages, call, chunk, ops, y, None if y_r is None else arrays[-1])
    total: Any = ops.row_sum(parts[0]) if len(parts) == 1 else sum(map(ops.row_sum, parts))
    if ops is not ON_HOST:
        total, change = backend.numpy(total), backend.numpy(change)
    if len(total) <= FEW:
        sums = total.tolist()
        chunk.finite = not packages.method.checks_samples and all(map(math.isfinite, sums))  # then all parts are
        if all(map(_within, sums, change.tolist())):
            return Incomplete(np.zeros(len(sums), bool), total, change, 0)
    gap, allowed = abs(total - change), TOLERANCE * abs(change)
    which = ~(gap <= allowed)
    if which.any():
        if call.check:
            check_finite(change, "the change of the output", chunk.start, len(call))
        which &= np.isfinite(change) & ~(gap <= allowed + _rounding(packages, call, chunk))
    return Incomplete(which, total, change, int(which.sum()))


def _together(packages: Packages, arrays: list[Array]) -> tuple[RowSums, list[Array]]:
    """Arrays where they can be computed with, and the namespace for that: the host if all can be seen from there."""
    backend, near = packages.backend, []
    for array in arrays:
        host = array if isinstance(array, np.ndarray) else backend.view(array)
        if host is None:
            return backend.ops, [
                backend.stage(a, packages.mask_dtype, packages.traced.device) if isinstance(a, np.ndarray) else a
                for a in arrays
            ]
        near.append(host)
    return ON_HOST, near


def summed(packages: Packages, call: Call, chunk: Chunk) -> list[Array]:
    """The entries of a chunk's attributions that add up: all, or only the observed letters of hypothetical ones."""
    method, backend = packages.method, packages.backend
    if not method.checks_samples:
        return chunk.attributions
    x = [on_host(backend, call.inputs[place][chunk.start : chunk.stop]) for place in packages.places]
    return [method.summed(a, on_host(backend, b)) for a, b in zip(x, chunk.attributions, strict=True)]


def _within(total: float, change: float) -> bool:
    return abs(total - change) <= TOLERANCE * abs(change)


def _weighted(packages: Packages, call: Call, chunk: Chunk, ops: RowSums, y: Array, y_r: Array | None) -> Array:
    """Σ w·(y − y_r), (n,)."""
    target, method = call.target, packages.method
    index = target.data if target.kind == "index" and method.weighs_target_only else None
    if index is not None and len(index) == 1:
        place = (slice(None), *index[0].tolist())
        return y[place] if y_r is None else y[place] - y_r[place]
    change = y if y_r is None else y - y_r
    if target.kind == "max" and ops is not ON_HOST:
        mask = packages.backend.ops.one_hot_max(y)
    else:
        mask = _mask(packages, call, chunk, y)
        if ops is not ON_HOST:
            mask = packages.mask_to_device(mask)
    return ops.row_sum(method.weights(ops, mask) * change)


def _mask(packages: Packages, call: Call, chunk: Chunk, y: Numpy) -> Numpy:
    if call.target.kind == "max":
        return largest(y).mask(0, len(y), packages.mask_host_dtype)
    return call.target.mask(chunk.start, chunk.stop, packages.mask_host_dtype)


def _rounding(packages: Packages, call: Call, chunk: Chunk) -> Numpy:
    """The largest difference that rounding can explain, (n,): of the outputs, and of the sum of attributions.

    Attributions that cancel count only up to 1e-3 of the outputs: large ones are no excuse. What is below 1e-10 of
    the outputs says nothing, however little they change.
    """
    assert chunk.ends is not None

    def host(array: Array) -> Numpy:
        return on_host(packages.backend, array).reshape(len(array), -1)

    y, y_r = host(chunk.ends.y), chunk.ends.y_r
    mask = packages.method.weights(ON_HOST, _mask(packages, call, chunk, y.reshape(chunk.ends.y.shape)))
    size = abs(y).max(1) if y_r is None else np.maximum(abs(y).max(1), abs(host(y_r)).max(1))
    scale, unit = ON_HOST.row_sum(abs(mask)) * size, packages.program.rounding
    spread = sum(abs(host(part)).sum(1) for part in summed(packages, call, chunk))
    return np.asarray(max(64 * unit, LEAST) * scale + np.minimum(16 * unit * spread, 1e-3 * scale))


class OnHost:
    """The part of the array namespace that :meth:`.Method.weights` uses, in numpy."""

    @staticmethod
    def row_sum(array: Numpy) -> Numpy:
        total: Numpy = np.add.reduce(array.reshape(len(array), -1), 1)
        return total

    @staticmethod
    def row_mean(array: Numpy) -> Numpy:
        return array.mean(axis=-1, keepdims=True) if array.ndim > 1 else np.zeros_like(array)


ON_HOST: RowSums = OnHost()


def tell(found: Incomplete, call: Call, method: Method, *, strict: bool, stacklevel: int) -> None:
    """Warn once of all samples, or raise IncompleteError."""
    gaps = np.where(found.which, np.nan_to_num(abs(found.totals - found.changes), nan=np.inf), -1.0)
    worst = int(gaps.argmax())
    text = (
        f"the attributions of {found.count} of {len(gaps)} samples do not add up. "
        f"The worst is {row_name(worst, len(call))}: they sum to {found.totals[worst]:.4g} in place of "
        f"{found.changes[worst]:.4g}. "
        + ("explain.audit(…) names the operations that lose the rest; " if method.complete else "")
        + "compiled with dtype='float64' it tells whether that is rounding."
    )
    if strict:
        raise IncompleteError(text)
    warnings.warn(text, IncompleteWarning, stacklevel=stacklevel)

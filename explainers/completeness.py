"""The guard: attributions of a method that is complete by its rules add up, or the caller is told."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from .backend import Backend
from .errors import IncompleteError, IncompleteWarning
from .methods import Method
from .spec import Array, Numpy, largest, row_name
from .work import Packages
from .work.call import Call, Chunk, Ends

TOLERANCE = 1e-3  # of the output's change


@dataclass
class Incomplete:
    """Which samples' attributions do not add up; each one's Σ attribution, and what it should be: (N,) each."""

    which: Numpy
    totals: Numpy
    changes: Numpy

    @property
    def count(self) -> int:
        return int(self.which.sum())


def check(packages: Packages, call: Call, chunks: Sequence[Chunk]) -> Incomplete | None:
    """Compare Σ attribution with s(x) − s(r); None where the method does not promise that they are the same.

    Incomplete is above 1e-3·|s(x) − s(r)| and rounding. An output that is not finite is not judged: it is an error
    of its own, unless the caller let it through.
    """
    if not chunks or chunks[0].ends is None:
        return None
    parts = [_compared(packages, call, chunk) for chunk in chunks]
    found = parts[0] if len(parts) == 1 else [np.concatenate(arrays) for arrays in zip(*parts, strict=True)]
    return Incomplete(*found)


def _compared(packages: Packages, call: Call, chunk: Chunk) -> tuple[Numpy, Numpy, Numpy]:
    """Which samples are incomplete, Σ attribution, change of the output."""
    backend, ends = packages.backend, chunk.ends
    assert ends is not None
    near = all(isinstance(part, np.ndarray) or backend.near(part) for part in chunk.attributions)
    ops = OnHost if near else backend.ops

    def moved(array: Array) -> Array:
        known = isinstance(array, np.ndarray)
        if near:
            return array if known else backend.numpy(array)
        return backend.stage(array, packages.mask_dtype, packages.traced.device) if known else array

    y, mask = moved(ends.y), moved(ends.mask)
    if call.target.kind == "max":
        mask = moved(largest(_host(backend, y)).mask(0, chunk.stop - chunk.start, packages.mask_host_dtype))
    mask = packages.method.weights(ops, mask)
    change = ops.row_sum(mask * (y if ends.y_r is None else y - moved(ends.y_r)))
    total: Any = sum(ops.row_sum(moved(part)) for part in chunk.attributions)
    if not near:
        total, change = backend.numpy(total), backend.numpy(change)
    gap, size = abs(total - change), abs(change)
    which = ~(gap <= TOLERANCE * size)
    if which.any():
        which &= np.isfinite(change) & ~(gap <= TOLERANCE * size + _rounding(packages, ends._replace(mask=mask), chunk))
    return which, total, change


def _host(backend: Backend, array: Array) -> Numpy:
    return array if isinstance(array, np.ndarray) else backend.numpy(array)


def _rounding(packages: Packages, ends: Ends, chunk: Chunk) -> Numpy:
    """How far rounding may part the two, (n,): that of the outputs, and of the attributions which are added.

    Attributions that cancel count only up to 1e-3 of the outputs: large ones are no excuse.
    """
    y, y_r, mask = (None if array is None else _flat(_host(packages.backend, array)) for array in ends)
    assert y is not None and mask is not None  # noqa: PT018
    size = abs(y).max(1) if y_r is None else np.maximum(abs(y).max(1), abs(y_r).max(1))
    scale, unit = abs(mask).sum(1) * size, packages.program.rounding
    spread = sum(_flat(abs(_host(packages.backend, part))).sum(1) for part in chunk.attributions)
    return np.asarray(64 * unit * scale + np.minimum(16 * unit * spread, 1e-3 * scale))


class OnHost:
    """What a method's weights use of the array namespace, in numpy."""

    @staticmethod
    def row_sum(array: Numpy) -> Numpy:
        total: Numpy = np.add.reduce(_flat(array), 1)
        return total

    @staticmethod
    def row_mean(array: Numpy) -> Numpy:
        return array.mean(axis=-1, keepdims=True) if array.ndim > 1 else np.zeros_like(array)


def _flat(array: Numpy) -> Numpy:
    return array.reshape(len(array), -1)


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

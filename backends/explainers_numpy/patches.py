"""Boxes of samples, with windows of each row in them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

Array = Any


def patches(
    base: Array, sample: Array, axes: Sequence[int], starts: Sequence[Array], widths: Sequence[int],
    margins: Sequence[tuple[int, int]], fill: float, window: Array | None, at: Sequence[Array],
) -> Array:  # fmt: skip
    """For each row a box of its sample, with the row's own window in it."""
    reach = [(0, 0)] * base.ndim
    for axis, margin in zip(axes, margins, strict=True):
        reach[axis] = margin
    padded = np.pad(base, reach, constant_values=fill)
    rows = []
    for row, number in enumerate(sample):
        part = padded[number]
        for axis, start, width, (before, _) in zip(axes, starts, widths, margins, strict=True):
            part = np.take(part, np.arange(width) + start[row] + before, axis - 1)
        rows.append(part)
    result = np.stack(rows) if rows else np.zeros((0, *padded.shape[1:]), base.dtype)
    if window is None:
        return result
    for row in range(len(sample)):
        into = [slice(None)] * (base.ndim - 1)
        from_ = list(into)
        for axis, start, width, first in zip(axes, starts, widths, at, strict=True):
            shift, size = int(first[row] - start[row]), window.shape[axis]
            low, high = max(shift, 0), max(min(shift + size, width), 0)
            into[axis - 1], from_[axis - 1] = slice(low, max(low, high)), slice(low - shift, max(low, high) - shift)
        result[row][tuple(into)] = window[row][tuple(from_)]
    return result

"""The guard: attributions of a method that is complete by its rules add up, or the caller is told."""

from __future__ import annotations

import warnings
from collections.abc import Sequence

import numpy as np

from .errors import IncompleteError, IncompleteWarning
from .spec import Numpy, row_name
from .work.call import Call, Chunk

TOLERANCE = 1e-3  # of |s(x) − s(r)|
ROUNDING = 64  # units in the last place of the largest output
EPSILON = {"float64": 2.0**-52, "float32": 2.0**-23, "float16": 2.0**-10, "bfloat16": 2.0**-7}


def incomplete(chunks: Sequence[Chunk], dtype: str) -> Numpy | None:
    """Whether |Σ attribution − (s(x) − s(r))| is above 1e-3·|s(x) − s(r)| and the rounding of the outputs, (N,).

    None where the method does not promise it. ``dtype``: the output's. What is not finite is not judged: it is an
    error of its own, unless the caller let it through.
    """
    if not chunks or chunks[0].sums is None:
        return None
    found = [_incomplete(chunk.sums, ROUNDING * EPSILON[dtype]) for chunk in chunks if chunk.sums is not None]
    return found[0] if len(found) == 1 else np.concatenate(found)


def _incomplete(sums: Numpy, rounding: float) -> Numpy:
    total, change, size = sums.T
    gap = abs(total - change)
    above: Numpy = gap > TOLERANCE * abs(change) + rounding * size
    return above


def tell(which: Numpy, call: Call, chunks: Sequence[Chunk], *, strict: bool, stacklevel: int) -> None:
    """Warn once of the samples ``which``, or raise IncompleteError."""
    sums = np.concatenate([chunk.sums for chunk in chunks if chunk.sums is not None])
    gaps = np.where(which, abs(sums[:, 0] - sums[:, 1]), -1.0)
    worst = int(gaps.argmax())
    text = (
        f"the attributions of {int(which.sum())} of {len(which)} samples do not add up to the change of the output. "
        f"The worst is {row_name(worst, len(call))}: they sum to {sums[worst, 0]:.4g}, the output changes by "
        f"{sums[worst, 1]:.4g}. explain.audit(…) names the operations that lose the difference; float64 "
        "(dtype='float64') tells whether it is rounding."
    )
    if strict:
        raise IncompleteError(text)
    warnings.warn(text, IncompleteWarning, stacklevel=stacklevel)

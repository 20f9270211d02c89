"""The guard: attributions of a method that is complete by its rules add up, or the caller is told."""

from __future__ import annotations

import warnings
from collections.abc import Sequence

import numpy as np

from .errors import IncompleteError, IncompleteWarning
from .methods import Method
from .spec import Numpy, row_name
from .work.call import Call, Chunk

TOLERANCE = 1e-3  # of the output's change


def incomplete(chunks: Sequence[Chunk]) -> Numpy | None:
    """Whether |Σ attribution − change| is above 1e-3·|change| and the rounding of the outputs, (N,).

    None where the method does not promise it. An output that is not finite is not judged: it is an error of its own,
    unless the caller let it through.
    """
    found = [_incomplete(chunk.balance) for chunk in chunks if chunk.balance is not None]
    if not found:
        return None
    return found[0] if len(found) == 1 else np.concatenate(found)


def _incomplete(balance: Numpy) -> Numpy:
    total, change, rounding = balance.T
    within = abs(total - change) <= TOLERANCE * abs(change) + rounding
    above: Numpy = ~within & np.isfinite(change)
    return above


def tell(which: Numpy, call: Call, chunks: Sequence[Chunk], method: Method, *, strict: bool, stacklevel: int) -> None:
    """Warn once of the samples ``which``, or raise IncompleteError."""
    balance = np.concatenate([chunk.balance for chunk in chunks if chunk.balance is not None])
    gaps = np.where(which, np.nan_to_num(abs(balance[:, 0] - balance[:, 1]), nan=np.inf), -1.0)
    worst = int(gaps.argmax())
    text = (
        f"the attributions of {int(which.sum())} of {len(which)} samples do not add up. "
        f"The worst is {row_name(worst, len(call))}: they sum to {balance[worst, 0]:.4g} in place of "
        f"{balance[worst, 1]:.4g}. "
        + ("explain.audit(…) names the operations that lose the rest; " if method.complete else "")
        + "compiled with dtype='float64' it tells whether that is rounding."
    )
    if strict:
        raise IncompleteError(text)
    warnings.warn(text, IncompleteWarning, stacklevel=stacklevel)

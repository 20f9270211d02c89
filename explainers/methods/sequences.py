"""One-hot sequences: which axis of a sample holds the letters, and whether it is one-hot."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from ..errors import InputError


def letters_axis(shape: Sequence[int], given: int | None, what: str) -> int:
    """0 for samples (letters, positions), 1 for (positions, letters); the shorter axis where none is ``given``.

    Raises
    ------
    InputError: a sample is no matrix, or a square one and no axis is given. ``what``: names who asks.
    """
    if len(shape) != 2:
        raise InputError(
            f"{what} takes samples of one-hot sequences, (letters, positions) or (positions, letters); "
            f"got samples of shape {tuple(shape)}"
        )
    if given is None:
        if shape[0] == shape[1]:
            raise InputError(f"which axis of {tuple(shape)} are the letters? Give alphabet_axis=0 or -1")
        given = int(shape[1] < shape[0])
    return given % 2


def check_one_hot(
    array: npt.NDArray[np.generic], axis: int, what: str, first: int = 0, count: int | None = None
) -> None:
    """InputError, naming the first position of samples (N, …) that does not hold one 1 among zeros.

    ``first``: the number of the first sample among ``count``.
    """
    x = np.moveaxis(np.asarray(array, np.float64), axis + 1, 1)
    wrong = (((x != 0) & (x != 1)).any(axis=1)) | (x.sum(axis=1) != 1)
    if wrong.any():
        sample, position = map(int, np.argwhere(wrong)[0])
        raise InputError(
            f"{what} takes one-hot sequences; sample {first + sample} of {count or len(x)} has "
            f"{x[sample, :, position]} at position {position}. The letters are along axis {axis} of a sample of shape "
            f"{array.shape[1:]}."
        )

"""The array namespace that programs are written in, for numpy; the part that forward-only methods use."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from explainers.graph import Node

Array = Any
no_derivative = RuntimeError
where = np.where
zeros_like = np.zeros_like


def evaluate(node: Node, arrays: Sequence[Array]) -> tuple[Array, ...]:
    return (node.payload(*arrays),)


def take(array: Array, index: Array) -> Array:
    return np.take(array, index, axis=0)


def cast(array: Array, dtype: str) -> Array:
    return array.astype(dtype, copy=False)


def rows_equal(row: Array, array: Array) -> Array:
    """(R, …): whether each row's number equals each entry of ``array``, which has no row axis."""
    return row.reshape(-1, *([1] * array.ndim)) == array

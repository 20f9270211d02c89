"""Random numbers by counter: (seed, sample, draw) → value.

A draw depends only on its own coordinates, so results are the same for any batching,
order or number of workers, and the same on every backend. Keys are computed here, on the host;
:func:`uniform` spreads a key over a sample's elements inside the kernel.
"""

from __future__ import annotations

import math
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt

from .errors import InputError
from .ops import Ops

UInt64 = npt.NDArray[np.uint64]

PRIORITY_BITS = 24
_MASK32 = 0xFFFFFFFF
FEW = 4096  # samples whose seeds are kept


def _mix64(z: UInt64) -> UInt64:
    """The finalizer of SplitMix64 (Steele, Lea and Flood 2014, fig. 15)."""
    z = z ^ (z >> np.uint64(30))  # a new array, which the rest changes in place
    z *= np.uint64(0xBF58476D1CE4E5B9)
    z ^= z >> np.uint64(27)
    z *= np.uint64(0x94D049BB133111EB)
    z ^= z >> np.uint64(31)
    return z


def sample_seeds(seed: Any, count: int) -> UInt64:
    """One 64-bit seed per sample, shape (N,).

    An int seeds the whole call: sample i draws from (seed, i). An array of N ints gives each
    sample its own seed: a sample with seed k draws the same numbers as alone with ``seed=k``.
    """
    known = count <= FEW and (seed is None or type(seed) is int)
    return _seeds_of_call(seed or 0, count) if known else _sample_seeds(seed, count)


def seeds_at(seed: int | None, start: int, count: int) -> UInt64:
    """:func:`sample_seeds` of an int, for the samples start … start+count−1, whose draws are those in a whole call."""
    return _mixed(np.full(count, seed or 0), np.arange(start, start + count, dtype=np.uint64))


@lru_cache(maxsize=64)
def _seeds_of_call(seed: int, count: int) -> UInt64:
    seeds = _sample_seeds(seed, count)
    seeds.setflags(write=False)
    return seeds


def _sample_seeds(seed: Any, count: int) -> UInt64:
    seeds = np.asarray(0 if seed is None else seed)
    if np.ma.is_masked(seed):
        raise InputError("seed is a masked array, and the numbers behind the mask would be used")
    if seeds.dtype.kind not in "iu" or seeds.ndim > 1 or (seeds.ndim == 1 and len(seeds) != count):
        raise InputError(f"seed must be an int, or {count} ints, one per sample; got {seed!r}")
    index = np.arange(count, dtype=np.uint64) if seeds.ndim == 0 else np.zeros(count, np.uint64)
    return _mixed(np.broadcast_to(seeds, (count,)), index)


def _mixed(seeds: npt.NDArray[Any], index: UInt64) -> UInt64:
    with np.errstate(over="ignore"):
        return _mix64(_mix64(seeds.astype(np.uint64, casting="unsafe") + np.uint64(0x9E3779B97F4A7C15)) + index)


def draw_keys(seeds: UInt64, draws: npt.NDArray[Any], stream: int = 0) -> UInt64:
    """A 64-bit key for each (sample seed, draw) pair, shape of ``draws``."""
    with np.errstate(over="ignore"):
        step = (draws.astype(np.uint64) + np.uint64(1)) * np.uint64(0x9E3779B97F4A7C15)
        return _mix64(_mix64(seeds + step) + np.uint64(stream))


def unit(keys: UInt64) -> npt.NDArray[np.float64]:
    """A uniform number in (0, 1) for each key."""
    result: npt.NDArray[np.float64] = ((keys >> np.uint64(12)).astype(np.float64) + 0.5) * 2.0**-52
    return result


def priorities(keys: UInt64, count: int) -> npt.NDArray[np.int64]:
    """Distinct random numbers for items 0 … count−1 under each key, (…, count): their order is random.

    The bits above ``PRIORITY_BITS`` are uniform, the lower ones hold the item's number.
    """
    if count > 1 << PRIORITY_BITS:
        raise InputError(f"{count} features are too many to draw orders of; at most {1 << PRIORITY_BITS} are allowed")
    item = np.arange(count, dtype=np.uint64)
    with np.errstate(over="ignore"):
        mixed = _mix64(keys[..., None] + (item + np.uint64(1)) * np.uint64(0x9E3779B97F4A7C15))
    return (((mixed >> np.uint64(PRIORITY_BITS + 1)) << np.uint64(PRIORITY_BITS)) | item).astype(np.int64)


def halves(keys: UInt64) -> npt.NDArray[np.int64]:
    """Each key as two non-negative 32-bit integers, shape (…, 2), for :func:`uniform`."""
    low = keys & np.uint64(_MASK32)
    return np.stack([keys >> np.uint64(32), low], axis=-1).astype(np.int64)


def uniform(ops: Ops, keys: Any, shape: tuple[int, ...], dtype: str, first: int = 0) -> Any:
    """Uniform numbers in (0, 1), one per element of a sample, inside the kernel.

    ``keys``: int64 (R, 2) from :func:`halves`. Returns (R, \\*shape).

    Two rounds of a 32-bit integer hash over (key, element), done in int64 with multipliers below
    2³¹ so that no product overflows; 23 bits reach the result, which float32 holds exactly.
    """
    size = math.prod(shape)
    element = ops.bits_and((ops.arange(size, keys) + first) * 0x9E3779B1, _MASK32)
    h = ops.bits_and(element + keys[:, 0:1], _MASK32)
    h = _mix32(ops, h)
    h = _mix32(ops, ops.bits_and(h + keys[:, 1:2], _MASK32))
    u = (ops.cast(ops.shift_right(h, 9), dtype) + 0.5) * 2.0**-23
    return ops.reshape_rows(u, shape)


def _mix32(ops: Ops, h: Any) -> Any:
    h = ops.bits_xor(h, ops.shift_right(h, 16))
    h = ops.bits_and(h * 0x21F0AAAD, _MASK32)
    h = ops.bits_xor(h, ops.shift_right(h, 15))
    h = ops.bits_and(h * 0x735A2D97, _MASK32)
    return ops.bits_xor(h, ops.shift_right(h, 15))

"""One-hot sequences: which axis holds the letters, and shuffles that keep the counts of pairs of letters.

>>> import numpy as np
>>> from explainers import genomics
>>> x = np.eye(4)[[[0, 1, 1, 2, 0, 3]]]  # (sequences, positions, letters)
>>> genomics.dinucleotide_shuffle(x, count=20, seed=1).shape
(1, 20, 6, 4)
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from .backend import owner
from .errors import InputError
from .random_numbers import UInt64, draw_keys, sample_seeds, unit
from .spec import References
from .stored import Stored

Numpy = npt.NDArray[Any]
BLOCK = 1 << 23  # letters shuffled together in one batch
MOST_LETTERS = 255  # one byte each, with one for unknown letters
ORDER_BITS = np.uint64(0x00FFFFFFFFFFFF00)  # of sort keys: above are a letter's bits, below its successor's


def letters_axis(shape: Sequence[int], given: int | None, what: str) -> int:
    """0 for samples (letters, positions), 1 for (positions, letters); the shorter axis where none is ``given``.

    Raises
    ------
    InputError: a sample is not a matrix, or is square and no axis is given. ``what``: the caller's name for messages.
    """
    if len(shape) != 2:
        raise InputError(
            f"{what} takes samples that are one-hot sequences, (letters, positions) or (positions, letters); "
            f"got samples of shape {tuple(shape)}"
        )
    if given is None:
        if shape[0] == shape[1]:
            raise InputError(f"which axis of {tuple(shape)} holds the letters? Give alphabet_axis=0 or -1")
        given = int(shape[1] < shape[0])
    if given not in (0, 1, -1):
        raise InputError(f"alphabet_axis must be 0, −1 or None; got {given!r}")
    return given % 2


def check_one_hot(array: Numpy, axis: int, what: str, first: int = 0, count: int | None = None) -> None:
    """InputError, naming the first position of samples (N, …) that does not hold one 1 among zeros.

    ``first``: the number of the first sample among ``count``.
    """
    x = np.moveaxis(np.asarray(array, np.float64), axis + 1, 1)
    _check_letters(x, x.sum(axis=1) != 1, axis, what, first, count)


def _check_letters(
    x: Numpy, wrong_positions: Numpy, axis: int, what: str, first: int = 0, count: int | None = None
) -> None:
    """``x``: (N, letters, positions). ``wrong_positions``: those (N, positions) that are wrong besides those of other
    numbers than 0 and 1."""
    wrong_positions = wrong_positions | ((x != 0) & (x != 1)).any(axis=1)
    if wrong_positions.any():
        sample, position = map(int, np.argwhere(wrong_positions)[0])
        shape = x.shape[1:] if axis == 0 else x.shape[:0:-1]
        raise InputError(
            f"{what} takes one-hot sequences; sample {first + sample} of {count or len(x)} has "
            f"{x[sample, :, position]} at position {position}. The letters are along axis {axis} of a sample of shape "
            f"{tuple(shape)}."
        )


def dinucleotide_shuffle(x: Any, count: int = 20, seed: Any = 0, *, alphabet_axis: int | None = None) -> Any:
    """Shuffles of each sequence that keep how often every letter follows every other.

    Each shuffle is drawn uniformly from all sequences with the same counts of pairs and the same first and last
    letter: a random Eulerian walk that uses every pair once, after Altschul and Erickson 1985, "Significance of
    Nucleotide Sequence Alignments", Mol. Biol. Evol. 2(6), 526–538.

    Parameters
    ----------
    x: one-hot sequences (N, letters, positions) or (N, positions, letters), of numpy or a framework. A position of
        zeros (an unknown letter, N) counts as a letter of its own.
    count: shuffles B for each.
    seed: an int, or one for each sequence. Shuffle j of sequence i depends on (seed, i, j) alone.
    alphabet_axis: which axis of a sample are the letters: 0 or −1; ``None``: the shorter one.

    Returns
    -------
    (N, B, \\*sample shape), of the type and dtype of x: as ``References(…, per_sample=True)`` takes it.

    Raises
    ------
    InputError: not one-hot, a count below 1, or seeds that are not one for each.
    """
    if not isinstance(count, (int, np.integer)) or isinstance(count, bool) or count < 1:
        raise InputError(f"count must be a whole number ≥ 1; got {count!r}")
    home = owner(x)
    given = home.numpy(x) if home is not None else np.asarray(x)
    if given.ndim != 3 or given.dtype.kind not in "fiub":
        raise InputError(
            f"dinucleotide_shuffle takes numbers of shape (N, letters, positions) or (N, positions, letters); got "
            f"{given.dtype} of shape {given.shape}"
        )
    axis = letters_axis(given.shape[1:], alphabet_axis, "dinucleotide_shuffle")
    one_hot = np.moveaxis(given, axis + 1, 1)
    if one_hot.shape[1] > MOST_LETTERS:
        raise InputError(f"dinucleotide_shuffle takes at most {MOST_LETTERS} letters; got {one_hot.shape[1]}")
    _check_letters(one_hot, one_hot.sum(axis=1) > 1, axis, "dinucleotide_shuffle")
    known = one_hot.any(axis=1)
    letters = np.where(known, one_hot.argmax(axis=1), one_hot.shape[1]).astype(np.uint8)
    seeds = sample_seeds(seed, len(given))
    step = max(1, BLOCK // max(1, letters.shape[1] * count))
    blocks = [slice(start, start + step) for start in range(0, len(given), step)]
    parts = [_shuffled(letters[block], seeds[block], count, one_hot.shape[1] + 1) for block in blocks]
    shuffled = np.concatenate(parts) if parts else np.zeros((0, letters.shape[1]), np.uint8)
    result = np.empty((len(shuffled), *given.shape[1:]), given.dtype)
    for letter in range(one_hot.shape[1]):
        np.equal(shuffled, letter, out=result[:, letter] if axis == 0 else result[:, :, letter], casting="unsafe")
    result = result.reshape(len(given), count, *given.shape[1:])
    return home.like(result, x) if home is not None else result


@dataclass(frozen=True)
class DinucleotideShuffles(Stored):
    """A baseline that draws :func:`dinucleotide_shuffle` references for each sample at each call.

    ``Explainer.compile(model, "deeplift_shap", baseline=DinucleotideShuffles(20))``. A value: it goes into files.
    Parameters as for the function.
    """

    count: int = 20
    seed: int = 0
    alphabet_axis: int | None = None

    def __call__(self, x: Any) -> References:
        if isinstance(x, tuple):
            raise InputError(
                f"DinucleotideShuffles makes references of one input; {len(x)} are attributed. Give wrt= one, or a "
                "function that returns References of a tuple"
            )
        return References(
            dinucleotide_shuffle(x, self.count, self.seed, alphabet_axis=self.alphabet_axis), per_sample=True
        )


def _shuffled(letters: Numpy, seeds: UInt64, shuffles: int, alphabet: int) -> Numpy:
    """Shuffles of sequences of letters (N, L) by their seeds (N,): (N·shuffles, L).

    The pairs that begin with a letter are used in a random order. The last pairs of all letters must form a tree that
    leads to the final letter: then the walk uses every pair (theorem of van Aardenne-Ehrenfest and de Bruijn). All
    sequences take the walk together, one position at a time.
    """
    count, length = len(letters) * shuffles, letters.shape[1]
    if length < 3:
        return np.repeat(letters, shuffles, axis=0)
    following = _in_random_order(letters, seeds, shuffles)
    sizes = np.stack([(letters[:, :-1] == letter).sum(axis=1) for letter in range(alphabet)], axis=1)
    ends = np.repeat(sizes.cumsum(axis=1), shuffles, axis=0)
    starts = ends - np.repeat(sizes, shuffles, axis=0)
    keys = draw_keys(np.repeat(seeds, shuffles), np.tile(np.arange(shuffles), len(letters)))
    _choose_last(following, starts, ends, np.repeat(letters[:, -1].astype(np.int64), shuffles), keys)
    at = (np.arange(count, dtype=np.int64)[:, None] * (length - 1) + starts).ravel()
    following = following.ravel()
    row = np.arange(count, dtype=np.int64) * alphabet
    walk = np.empty((length, count), np.uint8)
    walk[0] = np.repeat(letters[:, 0], shuffles)
    place, pair = np.empty(count, np.int64), np.empty(count, np.int64)
    for position in range(length - 1):
        np.add(row, walk[position], out=place)
        at.take(place, out=pair, mode="clip")
        following.take(pair, out=walk[position + 1], mode="clip")
        pair += 1
        at[place] = pair
    return np.ascontiguousarray(walk.T)


def _in_random_order(letters: Numpy, seeds: UInt64, shuffles: int) -> Numpy:
    """The successors of each letter in a random order, grouped by letter: (N·shuffles, L−1)."""
    pairs = letters[:, :-1].astype(np.uint64) << np.uint64(56) | letters[:, 1:].astype(np.uint64)
    size = pairs.shape[1]
    ranked = np.empty((len(letters), shuffles, size), np.uint64)
    for drawn, seed in zip(ranked, seeds.tolist(), strict=True):
        drawn[...] = np.random.SFC64(seed).random_raw(shuffles * size).reshape(shuffles, size)
    ranked &= ORDER_BITS
    ranked |= pairs[:, None]
    ranked.sort(axis=-1)
    return ranked.reshape(-1, size).astype(np.uint8)


def _choose_last(following: Numpy, starts: Numpy, ends: Numpy, goals: Numpy, keys: UInt64) -> None:
    """Redraw the last successor of each letter, in place, until following last successors always leads to the goal."""
    alphabet, sizes = ends.shape[1], ends - starts
    left = np.arange(len(following))
    stream = 1
    while True:
        goal = goals[left]
        last = following[left[:, None], np.maximum(ends[left] - 1, 0)].astype(np.int64)
        last[np.arange(len(left)), goal] = goal
        for _ in range(alphabet.bit_length()):
            last = np.take_along_axis(last, last, axis=1)
        left = left[((last != goal[:, None]) & (sizes[left] > 0)).any(axis=1)]
        if not len(left):
            return
        drawn = unit(draw_keys(keys[left, None], np.arange(alphabet)[None], stream))
        chosen = starts[left] + (drawn * sizes[left]).astype(np.int64)
        for letter in range(alphabet):
            some = sizes[left, letter] > 0
            rows, mine, end = left[some], chosen[some, letter], ends[left[some], letter] - 1
            following[rows, mine], following[rows, end] = following[rows, end], following[rows, mine]
        stream += 1

"""Dinucleotide shuffles: the counts they keep, and that each possible sequence is as likely as any other."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from explainers import genomics
from explainers.errors import InputError


def one_hot(letters: Any, alphabet: int = 4) -> np.ndarray:
    return np.eye(alphabet, dtype=np.float32)[np.asarray(letters)]


def pairs(sequence: Any) -> Counter[tuple[int, int]]:
    return Counter(itertools.pairwise(sequence))


def arrangements(first: int, left: Counter[tuple[int, int]]) -> Iterator[tuple[int, ...]]:
    """Every sequence that begins with ``first`` and uses all the pairs."""
    if not +left:
        yield (first,)
    for letter in {b for a, b in +left if a == first}:
        for rest in arrangements(letter, left - Counter([(first, letter)])):
            yield (first, *rest)


@pytest.mark.parametrize("length", [1, 2, 3, 4, 10, 500])
@pytest.mark.parametrize("alphabet", [1, 2, 4, 20, 255])
def test_counts_of_pairs_and_ends_are_kept(length: int, alphabet: int) -> None:
    letters = np.random.default_rng(length).integers(0, alphabet, (5, length))
    found = genomics.dinucleotide_shuffle(one_hot(letters, alphabet), 3, seed=2, alphabet_axis=-1)
    assert found.shape == (5, 3, length, alphabet)
    assert found.dtype == np.float32
    assert (found.sum(-1) == 1).all()
    for sequence, shuffles in zip(letters.tolist(), found.argmax(-1).tolist(), strict=True):
        for shuffle in shuffles:
            assert pairs(shuffle) == pairs(sequence)
            assert (shuffle[0], shuffle[-1]) == (sequence[0], sequence[-1])
    if length == 500 and alphabet > 1:
        assert (found[:, 0] != found[:, 1]).any(axis=(1, 2)).all()


@pytest.mark.parametrize("sequence", [[0, 1, 0, 2, 1, 0, 1, 2, 0, 0, 1], [2, 0, 1, 1, 0, 2, 1, 0, 2]])
def test_every_arrangement_is_as_likely(sequence: list[int]) -> None:
    possible = sorted(set(arrangements(sequence[0], pairs(sequence))))
    draws = 400 * len(possible)
    found = genomics.dinucleotide_shuffle(one_hot([sequence], 3), draws, seed=7, alphabet_axis=-1)
    seen = Counter(map(tuple, found[0].argmax(-1).tolist()))
    assert set(seen) == set(possible)
    chi_square = sum((seen[one] - 400) ** 2 / 400 for one in possible)
    freedom = len(possible) - 1
    assert abs(chi_square - freedom) < 4 * np.sqrt(2 * freedom)


def test_draws_hang_on_the_seed_the_sequence_and_the_shuffle_alone() -> None:
    letters = np.random.default_rng(0).integers(0, 4, (6, 40))
    x = one_hot(letters)
    whole = genomics.dinucleotide_shuffle(x, 5, seed=3)
    assert (genomics.dinucleotide_shuffle(x, 2, seed=3) == whole[:, :2]).all()
    assert (genomics.dinucleotide_shuffle(x[:4], 5, seed=3) == whole[:4]).all()
    assert (genomics.dinucleotide_shuffle(x, 5, seed=4) != whole).any()
    alone = [genomics.dinucleotide_shuffle(x[i : i + 1], 5, seed=[10 + i]) for i in range(6)]
    assert (genomics.dinucleotide_shuffle(x, 5, seed=list(range(10, 16))) == np.concatenate(alone)).all()
    block, genomics.BLOCK = genomics.BLOCK, 300
    try:
        assert (genomics.dinucleotide_shuffle(x, 5, seed=3) == whole).all()
    finally:
        genomics.BLOCK = block


def test_the_axis_of_the_letters() -> None:
    x = one_hot(np.random.default_rng(0).integers(0, 4, (3, 9)))
    last = genomics.dinucleotide_shuffle(x, 4, seed=1)
    first = genomics.dinucleotide_shuffle(x.transpose(0, 2, 1), 4, seed=1)
    assert (first.transpose(0, 1, 3, 2) == last).all()
    square = one_hot(np.random.default_rng(0).integers(0, 4, (3, 4)))
    assert genomics.dinucleotide_shuffle(square, 1, alphabet_axis=0 - 1).shape == (3, 1, 4, 4)


def test_an_unknown_letter_is_a_letter_of_its_own() -> None:
    x = one_hot([[0, 1, 2, 0, 1, 3, 2, 1, 0, 2]])
    x[0, [2, 6]] = 0
    found = genomics.dinucleotide_shuffle(x, 50)
    letters = np.where(found.any(-1), found.argmax(-1), 4)[0].tolist()
    assert all(pairs(one) == pairs([0, 1, 4, 0, 1, 3, 4, 1, 0, 2]) for one in letters)
    assert len(set(map(tuple, letters))) > 1


def test_empty_and_integers() -> None:
    assert genomics.dinucleotide_shuffle(np.zeros((0, 4, 9)), 3).shape == (0, 3, 4, 9)
    assert genomics.dinucleotide_shuffle(one_hot([[0, 1, 2, 1, 0]]).astype(np.int8), 3).dtype == np.int8


@pytest.mark.parametrize(
    ("x", "options", "message"),
    [
        (np.full((2, 4, 9), 0.25), {}, "sample 0 of 2 has .* at position 0"),
        (np.ones((1, 4, 9)), {}, "one-hot"),
        (np.zeros((4, 9)), {}, "of shape"),
        (np.zeros((1, 4, 4)), {}, "which axis"),
        (np.zeros((1, 4, 9)), {"alphabet_axis": 3}, "alphabet_axis must be"),
        (np.zeros((1, 4, 9)), {"count": 0}, "count must be"),
        (np.zeros((1, 4, 9)), {"seed": [1, 2]}, "seed must be"),
        (np.array([["a"]]), {}, "takes numbers"),
        (np.zeros((1, 256, 300)), {}, "at most 255 letters; got 256"),
    ],
)
def test_errors(x: np.ndarray, options: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        genomics.dinucleotide_shuffle(x, **options)

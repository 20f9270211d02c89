"""The library's draws, one at a time in Python integers."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from explainers import random_numbers

from ..contract import naive
from .fake import Ops

SEEDS = st.integers(-(2**63), 2**63 - 1)


@given(SEEDS, st.integers(1, 6))
def test_seeds_of_a_call(seed: int, count: int) -> None:
    want = [naive.sample_seed(seed % 2**64, i) for i in range(count)]
    assert random_numbers.sample_seeds(seed, count).tolist() == want


@given(st.lists(SEEDS, min_size=1, max_size=5))
def test_seeds_of_samples(seeds: list[int]) -> None:
    want = [naive.sample_seed([s % 2**64 for s in seeds], i) for i in range(len(seeds))]
    assert random_numbers.sample_seeds(seeds, len(seeds)).tolist() == want


@given(st.integers(0, 2**64 - 1), st.integers(0, 10**6), st.integers(0, 3))
def test_keys_and_units(seed: int, draw: int, stream: int) -> None:
    (key,) = random_numbers.draw_keys(np.array([seed], np.uint64), np.array([draw]), stream)
    assert int(key) == naive.draw_key(seed, draw, stream)
    assert random_numbers.unit(np.array([key]))[0] == naive.unit(int(key))
    assert random_numbers.halves(np.array([key])).tolist() == [[int(key) >> 32, int(key) % 2**32]]


@given(st.lists(st.integers(0, 2**64 - 1), min_size=1, max_size=3), st.integers(0, 2**31))
def test_uniform_numbers(keys: list[int], first: int) -> None:
    got = random_numbers.uniform(Ops, random_numbers.halves(np.array(keys, np.uint64)), (2, 3), "float64", first)
    want = [[naive.uniform(key, first + element) for element in range(6)] for key in keys]
    assert got.reshape(len(keys), 6).tolist() == want


@pytest.mark.parametrize("extreme", [0, 2**32 - 1, 2**63, 2**64 - 1])
def test_uniform_numbers_stay_inside(extreme: int) -> None:
    halves = random_numbers.halves(np.array([extreme], np.uint64))
    values = random_numbers.uniform(Ops, halves, (100_000,), "float32")
    assert values.min() > 0
    assert values.max() < 1


@pytest.mark.parametrize("stream", [0, 1])
def test_units_are_uniform(stream: int) -> None:
    """Kolmogorov–Smirnov over the draws of one sample, and over the samples of one draw."""
    size = 20_000
    seeds = random_numbers.sample_seeds(7, size)
    over_draws = random_numbers.unit(random_numbers.draw_keys(np.full(size, seeds[0]), np.arange(size), stream))
    over_samples = random_numbers.unit(random_numbers.draw_keys(seeds, np.zeros(size, int), stream))
    for values in (over_draws, over_samples):
        assert distance(values) < 1.95 / np.sqrt(size)  # p = 0.001
    assert abs(np.corrcoef(over_draws[:-1], over_draws[1:])[0, 1]) < 0.03


def distance(values: np.ndarray) -> Any:
    ranks = np.arange(1, len(values) + 1) / len(values)
    return abs(np.sort(values) - ranks).max()


def test_streams_differ() -> None:
    seeds = random_numbers.sample_seeds(1, 1000)
    steps = np.zeros(1000, int)
    first, second = (random_numbers.unit(random_numbers.draw_keys(seeds, steps, stream)) for stream in (0, 1))
    assert abs(np.corrcoef(first, second)[0, 1]) < 0.12

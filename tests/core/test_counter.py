"""Random numbers by random_numbers."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from explainers import random_numbers
from explainers.errors import InputError


class Ops:
    """The few operations that `uniform` needs, on numpy."""

    bits_and = staticmethod(np.bitwise_and)
    bits_xor = staticmethod(np.bitwise_xor)
    shift_right = staticmethod(np.right_shift)

    @staticmethod
    def arange(size: int, like: Any) -> Any:
        return np.arange(size, dtype=np.int64)

    @staticmethod
    def cast(array: Any, dtype: str) -> Any:
        return array.astype(dtype)

    @staticmethod
    def reshape_rows(array: Any, shape: tuple[int, ...]) -> Any:
        return array.reshape(len(array), *shape)


def draws(seed: int, count: int, size: int, dtype: str = "float64") -> Any:
    keys = random_numbers.draw_keys(random_numbers.sample_seeds(seed, count), np.zeros(count, np.int64))
    return random_numbers.uniform(Ops, random_numbers.halves(keys), (size,), dtype)


def test_a_sample_with_its_own_seed_draws_what_it_draws_alone() -> None:
    together = random_numbers.sample_seeds([5, 9, 7], 3)
    assert together[1] == random_numbers.sample_seeds(9, 1)[0]
    assert len(set(random_numbers.sample_seeds(5, 1000).tolist())) == 1000


def test_uniform_is_uniform_and_independent_across_samples() -> None:
    values = draws(3, 50, 4000)
    assert 0 < values.min() < 1e-4
    assert 1 - 1e-4 < values.max() < 1
    counts = np.histogram(values, bins=64, range=(0, 1))[0]
    expected = values.size / 64
    assert ((counts - expected) ** 2 / expected).sum() < 120  # 63 degrees of freedom: p ≈ 2e-5
    correlation = np.corrcoef(values)
    assert abs(correlation - np.eye(50)).max() < 0.09  # 5.5 standard errors
    assert abs(np.corrcoef(values[:, :-1].ravel(), values[:, 1:].ravel())[0, 1]) < 0.01


def test_float32_and_float64_draw_the_same() -> None:
    assert np.array_equal(draws(1, 3, 100, "float32").astype("float64"), draws(1, 3, 100))


def test_the_first_element_can_be_moved() -> None:
    keys = random_numbers.halves(random_numbers.draw_keys(random_numbers.sample_seeds(0, 2), np.zeros(2, np.int64)))
    whole = random_numbers.uniform(Ops, keys, (10,), "float64")
    assert np.array_equal(random_numbers.uniform(Ops, keys, (4,), "float64", 6), whole[:, 6:])


@pytest.mark.parametrize("seed", [1.5, "a", [1, 2], [[1], [2], [3]]])
def test_bad_seeds(seed: Any) -> None:
    with pytest.raises(InputError, match="seed must be an int, or 3 ints"):
        random_numbers.sample_seeds(seed, 3)

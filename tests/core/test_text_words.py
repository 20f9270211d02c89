"""Words from the strings of tokens and from their offsets."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from explainers.errors import InputError
from explainers.text import bucket
from explainers.words import resolve_groups, word_groups


@pytest.mark.parametrize(
    ("tokens", "wanted"),
    [
        (["The", "Ġcat", "Ġs", "at", ".", "Ċ", "Yes"], [0, 1, 2, 2, 2, 3, 3]),
        (["<s>", "▁The", "▁c", "at", "</s>"], [0, 1, 2, 2, 3]),
        (["[CLS]", "the", "un", "##believ", "##able", "cat", "[SEP]"], [0, 1, 2, 2, 2, 3, 4]),
        (["lo", "w</w>", "er", "est</w>"], [0, 0, 1, 1]),
        (["The", " cat", " s", "at"], [0, 1, 2, 2]),
        (["The ", "cat ", "s", "at"], [0, 1, 2, 2]),
        (["<|endoftext|>", "Hi", "Ġyou"], [0, 1, 2]),
        (["the", "cat"], [0, 1]),
        ([], []),
    ],
)
def test_strings(tokens: list[str], wanted: list[int]) -> None:
    assert word_groups(tokens).tolist() == wanted


def test_offsets() -> None:
    text = "The cats sat."
    apart = [(0, 0), (0, 3), (4, 7), (7, 8), (9, 12), (12, 13), (0, 0)]
    assert word_groups(apart).tolist() == [0, 1, 2, 2, 3, 3, 4]
    assert word_groups(apart, text).tolist() == [0, 1, 2, 2, 3, 3, 4]
    with_spaces = [(0, 3), (3, 7), (7, 8), (8, 12), (12, 13)]  # as GPT-2 counts
    assert word_groups(with_spaces, text).tolist() == [0, 1, 1, 2, 2]
    assert word_groups(with_spaces).tolist() == [0, 0, 0, 0, 0]
    with pytest.raises(InputError, match="strings of tokens or their offsets"):
        word_groups([1, 2])  # type: ignore[list-item]


class Tokenizer:
    is_fast = True

    def __call__(self, text: str, return_offsets_mapping: bool = False, add_special_tokens: bool = True) -> Any:
        return {"offset_mapping": [(0, 3), (4, 7), (7, 8)], "input_ids": [5, 6, 7]}

    def convert_ids_to_tokens(self, ids: list[int]) -> list[str]:
        return [{5: "the", 6: "▁cat", 7: "s"}[number] for number in ids]


def test_groups_of_a_prompt() -> None:
    ids = np.array([5, 6, 7])
    for prompt in ("the cats", ids):
        members, names = resolve_groups("words", ids, ["the", " cat", "s"], Tokenizer(), prompt)
        assert members.tolist() == [0, 1, 1]
        assert names == ("the", " cats")
    members, names = resolve_groups([9, 2, 9], ids, ["a", "b", "c"], None, ids)
    assert members.tolist() == [0, 1, 0]
    assert names == ("a c", "b")


def test_lengths() -> None:
    assert [bucket(count, 32) for count in (1, 32, 33, 48, 49, 64, 65, 95, 97, 129)] == [
        32, 32, 48, 48, 64, 64, 96, 96, 128, 192,
    ]  # fmt: skip
    assert all(count <= bucket(count, 8) < 2 * max(count, 8) for count in range(1, 500))

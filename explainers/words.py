"""Words from tokens: which tokens of a text belong together."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import numpy as np

from .errors import InputError
from .spec import Numpy

Groups = str | Sequence[int] | Numpy | None
STARTS = ("Ġ", "▁", "Ċ")  # how byte-level and SentencePiece vocabularies write a space or a line break
SPECIAL = re.compile(r"<[^<>\s]+>|\[[A-Z]+\d*\]")  # <s>, <|endoftext|>, [CLS]


def word_groups(tokens: Sequence[str] | Sequence[tuple[int, int]], text: str | None = None) -> Numpy:
    """Number the words that tokens belong to: (P,) integers, from 0 on, in the order of the text.

    Words are what stands between white space; punctuation belongs to the word that it touches. Special tokens such as
    ``<s>`` or ``[CLS]`` are words of their own.

    Parameters
    ----------
    tokens: strings, as a tokenizer writes them (``Ġword``, ``▁word``, ``##ing``, ``word</w>``) or decoded, with their
        spaces; or the offsets (start, end) of tokens in ``text``. Strings without any such mark are a word each.
    text: for offsets: the text. Without it, tokens are of one word where one starts at the end of the other.

    Raises
    ------
    InputError: tokens are neither strings nor offsets.
    """
    given: list[Any] = list(tokens)
    if all(isinstance(token, str) for token in given):
        starts = _starts_of_strings([str(token) for token in given])
    elif all(isinstance(token, (tuple, list, np.ndarray)) and len(token) == 2 for token in given):
        starts = _starts_of_offsets([(int(token[0]), int(token[1])) for token in given], text)
    else:
        raise InputError("word_groups takes the strings of tokens or their offsets (start, end) in the text")
    return np.maximum(np.cumsum(np.array(starts, np.int64)) - 1, 0)


def _starts_of_strings(tokens: list[str]) -> list[bool]:
    """Whether a word starts at each token."""
    pieces = any(token.startswith("##") for token in tokens)
    ends = any(token.endswith("</w>") for token in tokens)
    spaced = any(token.startswith(STARTS) or token[:1].isspace() or token[-1:].isspace() for token in tokens)
    starts, after = [], True  # after: something before this token ends a word
    for token in tokens:
        special = SPECIAL.fullmatch(token) is not None and token != "</w>"
        if pieces:
            begins = not token.startswith("##")
        elif spaced:
            begins = token.startswith(STARTS) or token[:1].isspace()
        else:
            begins = not ends
        starts.append(special or begins or after)
        after = special or token.endswith("</w>") or (not pieces and token[-1:].isspace() and token.strip() != "")
    return starts


def _starts_of_offsets(offsets: list[tuple[int, int]], text: str | None) -> list[bool]:
    starts, end = [], -1
    for first, last in offsets:
        empty = first == last  # a special token, which is not part of the text
        touches = first == end and not (text is not None and text[first : first + 1].isspace())
        if text is not None and 0 < end <= len(text) and text[end - 1].isspace():
            touches = False
        starts.append(empty or not touches)
        end = -1 if empty else last
    return starts


def resolve_groups(
    groups: Groups, ids: Numpy, names: Sequence[str], tokenizer: Any, prompt: Any
) -> tuple[Numpy, tuple[str, ...]]:
    """The number of each token's feature, (P,), from 0 on, and the features' names."""
    if groups is None:
        return np.arange(len(ids)), tuple(names)
    if isinstance(groups, str):
        if groups != "words":
            raise InputError(f"groups must be 'words' or a number for each token of the prompt; got {groups!r}")
        numbers = _words_of(ids, tokenizer, prompt)
    else:
        numbers = np.asarray(groups)
    if numbers.shape != (len(ids),) or numbers.dtype.kind not in "iu":
        raise InputError(
            f"groups must have a whole number for each of the {len(ids)} tokens of the prompt; got {numbers.dtype} of "
            f"shape {numbers.shape}"
        )
    _, firsts, members = np.unique(numbers, return_index=True, return_inverse=True)
    order = np.argsort(np.argsort(firsts, kind="stable"), kind="stable")  # groups in the order of the text
    members = order[members]
    joint = "" if tokenizer is not None else " "
    parts: list[list[str]] = [[] for _ in firsts]
    for name, member in zip(names, members.tolist(), strict=True):
        parts[member].append(name)
    return members, tuple(joint.join(part) for part in parts)


def _words_of(ids: Numpy, tokenizer: Any, prompt: Any) -> Numpy:
    if tokenizer is None:
        raise InputError("groups='words' needs a tokenizer: compile with tokenizer=, or give a number for each token")
    if isinstance(prompt, str) and getattr(tokenizer, "is_fast", False):
        offsets = tokenizer(prompt, return_offsets_mapping=True)["offset_mapping"]
        return word_groups([tuple(pair) for pair in offsets], prompt)
    convert = getattr(tokenizer, "convert_ids_to_tokens", None)
    tokens = convert(ids.tolist()) if convert is not None else [tokenizer.decode([number]) for number in ids.tolist()]
    return word_groups(tokens)

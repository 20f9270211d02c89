"""Columns without numbers, such as words: each value gets a number, its code, under which kernels move it about.

A code lives as long as an array that holds it, so that calls with ever new words do not fill the memory. Codes of all
calls differ: several threads may call at once, and a package may hold rows of several calls.
"""

from __future__ import annotations

import threading
import weakref
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from .errors import InputError
from .spec import Numpy


class Entry:
    """A value with its key and the number of arrays that hold its code."""

    __slots__ = ("key", "uses", "value")

    def __init__(self, key: Any, value: Any) -> None:
        self.key, self.value, self.uses = key, value, 0


class CodeBook:
    """The codes of one column's values. Equal values of one type have one code; all missing numbers have one."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._code_by_key: dict[Any, int] = {}
        self._entries: dict[int, Entry] = {}
        self._next = 0
        self._unused: deque[Sequence[int]] = deque()  # filled by finalizers, which must not wait for a lock

    def __len__(self) -> int:
        """The number of values that arrays hold now."""
        with self._lock:
            self._drop()
            return len(self._entries)

    def encode(self, values: Sequence[Any]) -> tuple[Numpy, Sequence[int]]:
        """The codes of values, (N,) float64, and each of them once. They are in use until :meth:`release`."""
        keys = [_key(value) for value in values]
        code_by_key: dict[Any, int] = {}
        with self._lock:
            self._drop()
            for key, value in zip(keys, values, strict=True):
                if key not in code_by_key:
                    code_by_key[key] = self._use(key, value)
        return np.array([code_by_key[key] for key in keys], np.float64), tuple(code_by_key.values())

    def decode(self, codes: Numpy) -> list[Any]:
        """The values of codes.

        Raises
        ------
        InputError: a number that is no code, because a method or a function computed it.
        """
        entries = self._entries
        try:
            return [entries[code].value for code in codes.tolist()]  # 3.0 finds the key 3
        except KeyError as error:
            raise InputError(
                f"a column without numbers was changed by arithmetic ({error} is not the code of one of its values); "
                "take a method that removes features as wholes, such as 'shapley_sampling', and give tables"
            ) from None

    def release(self, codes: Sequence[int]) -> None:
        """End a use of codes; may be called by a finalizer at any time."""
        self._unused.append(codes)

    def _use(self, key: Any, value: Any) -> int:
        code = self._code_by_key.get(key)
        if code is None:
            code, self._next = self._next, self._next + 1
            self._code_by_key[key], self._entries[code] = code, Entry(key, value)
        self._entries[code].uses += 1
        return code

    def _drop(self) -> None:
        """Forget the values whose last use has ended."""
        while self._unused:
            for code in self._unused.popleft():
                entry = self._entries[code]
                entry.uses -= 1
                if not entry.uses:
                    del self._entries[code], self._code_by_key[entry.key]


@dataclass(frozen=True, eq=False)
class Words:
    """The columns of a table that hold no numbers: their code books by position, in the model's order of columns."""

    books: Mapping[int, CodeBook]

    @classmethod
    def at(cls, places: Sequence[int]) -> Words | None:
        """Of the columns at ``places``; None if there are none."""
        return cls({place: CodeBook() for place in places}) if places else None


def hold(array: Numpy, uses: Sequence[tuple[CodeBook, Sequence[int]]]) -> Numpy:
    """The array, whose codes are in use until it is deleted. Views keep it; copies do not."""
    for book, codes in uses:
        weakref.finalize(array, book.release, codes).atexit = False
    return array


def _key(value: Any) -> Any:
    """What tells a value from others: 1, 1.0, True and "1" differ, and every NaN is the same."""
    kind = type(value)
    if kind is str:
        return value
    if isinstance(value, float) and value != value:
        return (float, "NaN")
    try:
        hash(value)
    except TypeError:  # a list or a dict: itself, which the entry keeps
        return kind, id(value)
    return kind, value

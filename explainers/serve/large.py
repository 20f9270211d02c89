"""Large JSON bodies: their arrays of numbers are read slice by slice, without a Python list for each list.

orjson keeps other threads waiting while it parses, and a list of a million lists costs a second. A slice costs a
millisecond or two, after which other threads run.
"""

from __future__ import annotations

import math
import uuid
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import orjson

from ..errors import InputError
from ..spec import Numpy

LARGE_BODY = 1 << 18  # bytes; what is smaller is parsed at once
LARGE_ARRAY = 1 << 16  # bytes of an array's text that is read slice by slice
SLICE = 1 << 18  # bytes
MOST_AXES = 32
MOST_LISTS = 1 << 21  # in the arrays of a body
# Of what is parsed at once: the rest of a large body, and what is no array of numbers
MOST_AT_ONCE = {b"[": 1 << 18, b"{": 1 << 18, b'"': 1 << 20, b",": 1 << 22}
SPACE = b" \t\r\n"
IN_NUMBERS = b"0123456789+-.eE"
BLANKS = bytes.maketrans(b"[]", b"  ")


def _table(characters: bytes) -> Numpy:
    table = np.zeros(256, bool)
    table[list(characters)] = True
    return table


IN_ARRAYS, OF_NUMBERS = _table(IN_NUMBERS + b"[]," + SPACE), _table(IN_NUMBERS)


class LargeArray:
    """The text of an array of numbers in a large body, not read yet."""

    def __init__(self, text: memoryview) -> None:
        self.text = text

    def __repr__(self) -> str:
        return "[…]"

    def read(self, what: str, array: Callable[[list[Any], str], Numpy]) -> tuple[list[Numpy], tuple[int, ...]]:
        """The numbers in slices, each as what ``array`` makes of its list, and the shape of them all.

        Raises
        ------
        InputError: the text is no array of numbers with lists of equal lengths.
        """
        shape = _shape(b"".join(part.translate(None, IN_NUMBERS + SPACE) for part in _slices(self.text, what)), what)
        slices = [array(_numbers(part, what), what) for part in _slices(self.text, what)]
        if sum(map(len, slices)) != math.prod(shape):
            raise _irregular(what)
        return slices, shape


def _irregular(what: str) -> InputError:
    return InputError(f"{what}: a number, or lists of numbers of equal lengths, none of them empty, expected")


def _slices(text: memoryview, what: str) -> Iterator[bytes]:
    """The text in parts that end with a comma; the last does not."""
    start = 0
    while start < len(text):
        part = bytes(text[start : start + SLICE])
        if start + SLICE < len(text):
            part = part[: part.rfind(b",") + 1]
            if not part:
                raise _irregular(what)
        start += len(part)
        yield part


def _shape(brackets: bytes, what: str) -> tuple[int, ...]:
    """The shape of an array from its brackets and commas alone, compared with those of a regular array."""
    axes = len(brackets) - len(brackets.lstrip(b"["))
    if axes > MOST_AXES:
        raise InputError(f"{what}: lists in lists, more than {MOST_AXES} deep; numbers expected")
    first, shape = b"", []
    for level in range(axes - 1, -1, -1):
        ends = brackets[level + 1 + len(first) :: len(first) + 1]  # what follows each part of the first list there
        count = ends.find(b"]") + 1
        if not count:
            raise _irregular(what)
        first = b"[" + (first + b",") * (count - 1) + first + b"]"
        shape.append(count)
    if first != brackets:
        raise _irregular(what)
    return tuple(reversed(shape))


def _numbers(part: bytes, what: str) -> list[Any]:
    """The numbers of one slice."""
    dense = np.frombuffer(part.translate(None, SPACE), np.uint8)
    before, after = dense[:-1], dense[1:]
    if ((OF_NUMBERS[before] & (after == ord("["))) | ((before == ord("]")) & OF_NUMBERS[after])).any():
        raise _irregular(what)
    try:
        return orjson.loads(b"[" + part.translate(BLANKS).rstrip(SPACE).removesuffix(b",") + b"]")  # type: ignore[no-any-return]
    except orjson.JSONDecodeError:
        raise _irregular(what) from None


# --- bodies --------------------------------------------------------------------------------------


def parse_large(body: bytes | memoryview) -> Any:
    """The JSON value of a body, with a :class:`LargeArray` for each large array of numbers in an object.

    Raises
    ------
    InputError: lists or values that would take too long to parse. orjson.JSONDecodeError: no JSON.
    """
    view = memoryview(body)
    if _count(view, b"[") > MOST_LISTS:
        raise InputError(f"the body has more than {MOST_LISTS} lists: send fewer instances, or binary tensors (V2)")
    arrays: dict[str, LargeArray] = {}
    mark, rest, start = uuid.uuid4().hex, bytearray(), 0  # nobody can know the mark, and so nobody else can write it
    for begin, end in _array_places(view):
        name = f"{mark} {len(arrays)}"
        arrays[name] = LargeArray(view[begin:end])
        rest += view[start:begin]
        rest += b'"' + name.encode() + b'"'
        start = end
    rest += view[start:]
    for character, most in MOST_AT_ONCE.items():
        if _count(memoryview(rest), character) > most:
            raise InputError(
                f"the body has more than {most} {character.decode()!r} outside its large arrays of numbers, which hold "
                "nothing but numbers: send fewer instances, or binary tensors (V2)"
            )
    value = orjson.loads(rest)
    _restore([value], arrays)
    if arrays:
        raise InputError("the body is not JSON of objects with arrays as fields")  # a mark inside of a string, or a key
    return value


def _count(view: memoryview, character: bytes) -> int:
    data = np.frombuffer(view, np.uint8)
    starts = range(0, len(data), SLICE)
    return sum(int(np.count_nonzero(data[start : start + SLICE] == ord(character))) for start in starts)


def _array_places(view: memoryview) -> Iterator[tuple[int, int]]:
    """Where the text of a large array, as the value of a field, starts and ends."""
    data = np.frombuffer(view, np.uint8)
    for begin, end in _runs(data, LARGE_ARRAY // 2):
        if not begin or data[begin - 1] != ord(":"):
            continue
        text = bytes(view[begin:end])
        begin += len(text) - len(text.lstrip(SPACE))
        text = text.strip(SPACE).removesuffix(b",").rstrip(SPACE)
        if text[:1] == b"[" and text[-1:] == b"]":
            yield begin, begin + len(text)


def _runs(data: Numpy, block: int) -> Iterator[tuple[int, int]]:
    """Where the characters of arrays of numbers start and end that fill at least one whole block."""
    whole = [bool(IN_ARRAYS[data[start : start + block]].all()) for start in range(0, len(data), block)]
    edges = np.flatnonzero(np.diff([False, *whole, False])) * block  # starts and ends, in turn
    for start, stop in edges.reshape(-1, 2).tolist():
        others_before = np.flatnonzero(~IN_ARRAYS[data[max(0, start - block) : start]])
        others_behind = np.flatnonzero(~IN_ARRAYS[data[stop : stop + block]])
        begin = max(0, start - block) + int(others_before[-1]) + 1 if len(others_before) else 0
        yield begin, stop + int(others_behind[0]) if len(others_behind) else len(data)


def _restore(value: Any, arrays: dict[str, LargeArray]) -> None:
    """Put the arrays into the fields of the objects that hold their marks; ``arrays`` loses those that are placed."""
    left = [value]
    while left and arrays:
        value = left.pop()
        if isinstance(value, dict):
            for name, entry in value.items():
                if isinstance(entry, str):
                    value[name] = arrays.pop(entry, entry)
            value = value.values()
        left.extend(entry for entry in value if isinstance(entry, (dict, list)))

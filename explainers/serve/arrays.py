"""Arrays from JSON: numbers only, no ragged lists, and an error that says where."""

from __future__ import annotations

from itertools import chain
from typing import Any

import numpy as np
import orjson

from ..errors import InputError
from ..spec import Numpy, TensorSpec, check_range

NUMBERS = {int, float}
DEEPEST = 32  # axes of an array
SLICE = 1 << 18  # numbers that are written at once: longer would keep other threads from running


def parse(body: bytes | memoryview) -> dict[str, Any]:
    """The JSON object of a body."""
    try:
        found = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise InputError(f"the body is not JSON: {error}") from None
    if not isinstance(found, dict):
        raise InputError(f"the body must be a JSON object; got {_kind(found)}")
    return found


def array_of(value: Any, what: str) -> Numpy:
    """A number or nested lists of numbers as an array; ``what`` it is, for the errors."""
    shape: list[int] = []
    level = [value]
    while level and type(level[0]) is list:
        lengths = set(map(len, level)) if set(map(type, level)) == {list} else set()
        if len(lengths) != 1:
            raise _odd_one(level, shape, what)
        shape.append(lengths.pop())
        if len(shape) > DEEPEST:
            raise InputError(f"{what}: lists in lists, more than {DEEPEST} deep; numbers expected")
        level = list(chain.from_iterable(level))
    kinds = set(map(type, level))
    if not kinds <= NUMBERS:
        raise _odd_one(level, shape, what)
    return _numbers(level, np.float64 if float in kinds else np.int64, what).reshape(shape)


def _numbers(level: list[Any], dtype: Any, what: str) -> Numpy:
    """Of integers from 2^63 on uint64: whoever takes them says whether they fit."""
    try:
        return np.array(level, dtype)
    except OverflowError:
        if dtype is np.int64:
            return _numbers(level, np.uint64, what)
        raise InputError(f"{what}: an integer has more than 64 bits") from None


def batch(value: Any, spec: TensorSpec, what: str) -> Numpy:
    """Lists of numbers as samples of an input, (N, …) of its dtype."""
    array = array_of(value, what)
    if array.shape[1:] != spec.sample_shape or not array.ndim:
        wanted = f"for each instance, {spec.sample_shape}" if array.ndim else f"{('N', *spec.sample_shape)}"
        given = f"{array.shape[1:]}" if array.ndim else "one number"
        raise InputError(f"{what}: shape {given} given, {wanted} expected (input {spec})")
    if array.dtype.kind == "f" and not spec.floating:
        place = np.unravel_index(int(np.argmax(array != np.round(array))), array.shape)
        raise InputError(f"{_at(what, place)}: the input {spec} takes whole numbers; got {array[place]}")
    if not spec.floating:
        check_range(array, spec.dtype, what)
    with np.errstate(over="ignore"):  # infinity is found later
        return array.astype("float32" if spec.dtype == "bfloat16" else spec.dtype)


def _odd_one(level: list[Any], shape: list[int], what: str) -> InputError:
    """What is wrong with the first entry that is not like the one before all others, or not a number."""
    first = level[0]
    for number, entry in enumerate(level):
        wrong = type(entry) is not list if type(first) is list else type(entry) not in NUMBERS
        if wrong or (type(first) is list and len(entry) != len(first)):
            where = _at(what, np.unravel_index(number, shape)) if shape else what
            wanted = f"a list of {len(first)}, as the first is" if type(first) is list else "a number"
            return InputError(f"{where}: {_kind(entry)} given, {wanted}, expected")
    return InputError(f"{what}: numbers or lists of numbers expected")


def _at(what: str, place: Any) -> str:
    return what + "".join(f"[{int(i)}]" for i in place)


def _kind(value: Any) -> str:
    if isinstance(value, list):
        return f"a list of {len(value)}"
    names = {dict: "an object", str: "a string", bool: "true or false", type(None): "null"}
    return names.get(type(value), "a number")


def dump(value: Any) -> bytes:
    """JSON text; arrays as nested lists, NaN as null."""
    return orjson.dumps(value, option=orjson.OPT_SERIALIZE_NUMPY, default=_plain)


def _plain(value: Any) -> Any:
    if isinstance(value, np.ndarray):  # of another memory order, or without axes
        return np.ascontiguousarray(value) if value.ndim else value.item()
    raise TypeError(f"{type(value).__name__} has no JSON form")


def dump_list(array: Numpy) -> list[bytes]:
    """The pieces of an array's JSON text, each short to write."""
    rows = max(1, SLICE // max(1, array[:1].size))
    parts = [dump(array[start : start + rows])[1:-1] for start in range(0, len(array), rows)]
    return [b"[", b",".join(parts), b"]"]

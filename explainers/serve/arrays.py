"""Arrays from JSON: only numbers and no ragged lists; errors name the position."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import chain
from typing import Any

import numpy as np
import orjson

from ..errors import InputError
from ..spec import Numpy, TensorSpec, check_range
from .large import LARGE_BODY, MOST_AXES, LargeArray, parse_large

NUMBERS = {int, float}
LARGEST_WHOLE = 2**53  # beyond it, floating-point numbers do not hold every integer
SLICE = 1 << 18  # how many numbers are encoded at once: more would block other threads for too long


def parse(body: bytes | memoryview) -> dict[str, Any]:
    """The JSON object in a body."""
    try:
        data = orjson.loads(body) if len(body) <= LARGE_BODY else parse_large(body)
    except orjson.JSONDecodeError as error:
        raise InputError(f"the body is not JSON: {error}") from None
    if not isinstance(data, dict):
        raise InputError(f"the body must be a JSON object; got {_kind(data)}")
    return data


def array_of(value: Any, what: str) -> Numpy:
    """A number or nested lists of numbers as an array; ``what`` describes the value in errors."""
    if isinstance(value, LargeArray):
        return _large_array(value, what)
    shape: list[int] = []
    level = [value]
    while level and type(level[0]) is list:
        lengths = set(map(len, level)) if set(map(type, level)) == {list} else set()
        if len(lengths) != 1:
            raise _odd_one(level, shape, what)
        shape.append(lengths.pop())
        if len(shape) > MOST_AXES:
            raise InputError(f"{what}: lists in lists, more than {MOST_AXES} deep; numbers expected")
        level = list(chain.from_iterable(level))
    if not set(map(type, level)) <= NUMBERS:
        raise _odd_one(level, shape, what)
    return _numbers(level, what).reshape(shape)


def _large_array(value: LargeArray, what: str) -> Numpy:
    arrays, shape = value.read(what, _numbers)
    if any(array.dtype.kind == "f" for array in arrays):
        arrays = [as_floats(array, what) for array in arrays]
    return np.concatenate(arrays).reshape(shape)


def _numbers(level: list[Any], what: str) -> Numpy:
    """Numbers as float64 or int64; as uint64 if an integer exceeds int64, and the caller checks the range."""
    if float in set(map(type, level)):
        array = np.array(level, np.float64)
        if np.abs(array).max() >= LARGEST_WHOLE:  # 2^53 may be 2^53 + 1, rounded
            _check_whole((number for number in level if type(number) is int), what)
        return array
    try:
        return np.array(level, np.int64)
    except OverflowError:
        try:
            return np.array(level, np.uint64)
        except OverflowError:
            raise InputError(f"{what}: an integer has more than 64 bits") from None


def as_floats(array: Numpy, what: str) -> Numpy:
    """Numbers as floating-point numbers; InputError for integers that would be rounded."""
    if array.dtype.kind in "iu" and array.size and max(-int(array.min()), int(array.max())) > LARGEST_WHOLE:
        _check_whole(array.ravel().tolist(), what)
    return array.astype(np.float64, copy=False)


def _check_whole(numbers: Iterable[int], what: str) -> None:
    for number in numbers:
        if int(float(number)) != number:
            raise InputError(
                f"{what}: the integer {number} would be rounded: beyond 2^53, floating-point numbers do not hold every "
                f"integer. Send the one that the model is to get, {int(float(number))}"
            )


def batch(value: Any, spec: TensorSpec, what: str) -> Numpy:
    """Nested lists of numbers as samples of an input, (N, …), with its dtype."""
    array = array_of(value, what)
    if not array.ndim or not spec.fits(array.shape[1:]):
        sample_shape = f"({', '.join(map(str, spec.sample_shape))}{',' * (len(spec.sample_shape) == 1)})"
        expected_shape = f"{sample_shape} for each instance" if array.ndim else f"(N, {sample_shape[1:]}"
        given_shape = f"{array.shape[1:]}" if array.ndim else "one number"
        raise InputError(f"{what}: expected {spec.name!r} of shape {expected_shape}; got {given_shape}")
    if array.dtype.kind == "f" and not spec.floating:
        place = np.unravel_index(int(np.argmax(array != np.round(array))), array.shape)
        raise InputError(f"{_at(what, place)}: the input {spec} takes whole numbers; got {array[place]}")
    if spec.floating:
        array = as_floats(array, what)
    else:
        check_range(array, spec.dtype, what)
    with np.errstate(over="ignore"):  # the explainer rejects infinity later
        return array.astype("float32" if spec.dtype == "bfloat16" else spec.dtype)


def _odd_one(level: list[Any], shape: list[int], what: str) -> InputError:
    """An error about the first entry that is not a number, or not a list as long as the first one."""
    first_entry = level[0]
    for number, entry in enumerate(level):
        is_wrong = type(entry) is not list if type(first_entry) is list else type(entry) not in NUMBERS
        if is_wrong or (type(first_entry) is list and len(entry) != len(first_entry)):
            where = _at(what, np.unravel_index(number, shape)) if shape else what
            expected = f"a list of {len(first_entry)} like the first" if type(first_entry) is list else "a number"
            return InputError(f"{where}: expected {expected}; got {_kind(entry)}")
    return InputError(f"{what}: expected numbers or lists of numbers")


def _at(what: str, place: Any) -> str:
    return what + "".join(f"[{int(i)}]" for i in place)


def _kind(value: Any) -> str:
    if isinstance(value, LargeArray):
        return "a long list"
    if isinstance(value, list):
        return f"a list of {len(value)}"
    names = {dict: "an object", str: "a string", bool: "true or false", type(None): "null"}
    return names.get(type(value), "a number")


def dump(value: Any) -> bytes:
    """The value as JSON text; arrays become nested lists, NaN becomes null."""
    return orjson.dumps(value, option=orjson.OPT_SERIALIZE_NUMPY, default=_json_value)


def _json_value(value: Any) -> Any:
    if isinstance(value, np.ndarray):  # not contiguous, or without axes
        return np.ascontiguousarray(value) if value.ndim else value.item()
    raise TypeError(f"{type(value).__name__} has no JSON form")


def dump_list(array: Numpy) -> list[bytes]:
    """An array's JSON text in pieces, each of which is quick to encode."""
    rows = max(1, SLICE // max(1, array[:1].size))
    parts = [dump(array[start : start + rows])[1:-1] for start in range(0, len(array), rows)]
    return [b"[", b",".join(parts), b"]"]

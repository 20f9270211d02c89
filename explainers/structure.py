"""Arguments of a model that are not one array each: flags and None, and lists, tuples and dicts of arrays.

A *form* is the place of an array among the model's inputs, a :class:`Fixed`, or a list, tuple or dict of forms.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from .errors import InputError
from .stored import Stored

_FIXED = (bool, int, float, str, type(None))


@dataclass(frozen=True)
class Fixed(Stored):
    """An argument that is no array, such as a flag or None: the same at every call."""

    value: Any


def form(value: Any, name: str, leaves: list[tuple[str, Any]]) -> Any:
    """The form of an argument. Its arrays are appended to ``leaves``, named ``name``, or ``name.key`` if nested."""
    if isinstance(value, _FIXED):
        return Fixed(value)
    if isinstance(value, dict):
        return {key: form(entry, _inner(name, key), leaves) for key, entry in value.items()}
    if isinstance(value, (list, tuple)) and any(isinstance(v, dict) or getattr(v, "shape", ()) for v in value):
        parts = [form(entry, _inner(name, key), leaves) for key, entry in enumerate(value)]
        return parts if isinstance(value, list) else tuple(parts)
    leaves.append((name, value))
    return len(leaves) - 1


def _inner(name: str, key: Any) -> str:
    return f"{name}.{key}" if name else str(key)


def formed(form: Any, arrays: Sequence[Any]) -> Any:
    """The argument of this form, filled with ``arrays``."""
    if isinstance(form, Fixed):
        return form.value
    if isinstance(form, dict):
        return {key: formed(entry, arrays) for key, entry in form.items()}
    if isinstance(form, (list, tuple)):
        return type(form)(formed(entry, arrays) for entry in form)
    return arrays[form]


def placed(form: Any, given: Any, name: str) -> Iterator[tuple[int, Any]]:
    """The (place, array) pairs of an argument, which must have this form.

    Raises
    ------
    InputError: its form or a fixed value differs from what the model was traced with.
    """
    if isinstance(form, Fixed):
        if type(given) is not type(form.value) or given != form.value:
            raise InputError(
                f"{name}={given!r}, but this explainer was compiled for {name}={form.value!r}, which is fixed "
                "when the model is traced: compile another explainer for other values"
            )
    elif isinstance(form, (dict, list, tuple)):
        keys, given_keys = _keys(form), _keys(given)
        if set(keys) != set(given_keys or ()):
            what = f"{type(given).__name__} of {list(given_keys)}" if given_keys is not None else type(given).__name__
            raise InputError(f"{name} is a {what}; the model was traced with a {type(form).__name__} of {list(keys)}")
        for key in keys:
            yield from placed(form[key], given[key], _inner(name, key))
    else:
        yield form, given


def _keys(value: Any) -> Any:
    if isinstance(value, dict):
        return value.keys()
    return range(len(value)) if isinstance(value, (list, tuple)) else None


def fixed(form: Any) -> bool:
    """Whether the form contains no array."""
    if isinstance(form, (dict, list, tuple)):
        return all(map(fixed, form.values() if isinstance(form, dict) else form))
    return isinstance(form, Fixed)

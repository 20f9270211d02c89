"""Values that an explainer's file may hold: every class derived from :class:`Stored`."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Any, ClassVar


class Stored:
    """Base of frozen dataclasses of numbers, texts, arrays and other stored values, which files hold by their fields.

    ``class Kind(Stored, data=False)`` is never written: a base class, or one whose fields are users' functions.
    later: fields that older files lack; they are written where they differ from their default.
    """

    is_data: ClassVar[bool]
    later: ClassVar[frozenset[str]] = frozenset()
    __dataclass_fields__: ClassVar[dict[str, dataclasses.Field[Any]]]

    def __init_subclass__(cls, *, data: bool = True, **others: Any) -> None:
        super().__init_subclass__(**others)
        cls.is_data = data


def kinds(of: type[Any] = Stored) -> dict[str, type[Any]]:
    """The library's own stored classes by name, in order of definition; users' subclasses are left out."""
    return {kind.__name__: kind for kind in _subclasses(of) if kind.is_data}


def _subclasses(kind: type[Any]) -> Iterator[type[Any]]:
    for subclass in kind.__subclasses__():
        if subclass.__module__.partition(".")[0] == __package__:
            yield subclass
        yield from _subclasses(subclass)

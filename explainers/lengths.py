"""Axes that vary from call to call, such as the length of a text."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence

NAME = "length"  # of an axis that is given as None
EXAMPLES = (11, 13, 17, 19, 23, 29, 31, 37)  # sizes to trace with: no size of a small model, so that none is mistaken


class Length(int):
    """The size of an axis that varies: an example, with which models are traced.

    Equal only to the same axis, whatever size it has. ``name``: what the user calls it, or an expression of the
    ``axis`` that it depends on, such as ``length//2``. ``low``, ``high``: the sizes that the model takes.
    """

    name: str
    axis: str
    example: int
    low: int
    high: float

    def __new__(
        cls, name: str, size: int, axis: str = "", example: int = 0, low: int = 1, high: float = math.inf
    ) -> Length:
        made = super().__new__(cls, size)
        made.name, made.axis, made.example, made.low, made.high = name, axis or name, example or size, low, high
        return made

    @property
    def plain(self) -> bool:
        """Whether it is the axis itself, not a size that is computed from it."""
        return self.name == self.axis

    def at(self, sizes: Mapping[str, int]) -> int:
        """The size for a call; of an expression an estimate, in proportion."""
        if self.axis not in sizes:
            return self
        size = sizes[self.axis]
        return Sized(size if self.plain else max(1, -(-int(self) * size // self.example)))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Length) and self.name == other.name

    def __ne__(self, other: object) -> bool:
        return not self == other

    def __hash__(self) -> int:
        return hash(self.name)

    def __repr__(self) -> str:
        return self.name

    def __str__(self) -> str:
        return self.name

    def __reduce__(self) -> tuple[type[Length], tuple[str, int, str, int, int, float]]:
        return Length, (self.name, int(self), self.axis, self.example, self.low, self.high)


class Sized(int):
    """The size that an axis that varies has in a call."""


def sized(shape: Sequence[int], sizes: Mapping[str, int]) -> tuple[int, ...]:
    """``shape`` with the sizes of a call in place of lengths."""
    return tuple(size.at(sizes) if isinstance(size, Length) else size for size in shape)


def named(shape: Iterable[int | None]) -> dict[str, Length]:
    """The lengths of a shape by the name of their axis."""
    return {size.axis: size for size in shape if isinstance(size, Length)}


def varies(shape: Iterable[int | None]) -> bool:
    """Whether some axis may have another size at another call."""
    return any(isinstance(size, (Length, Sized)) for size in shape)

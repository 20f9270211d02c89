"""How the places of an operation's result depend on the places of its operands, for incremental inference.

Axes are numbered from the batch, 0. A backend attaches one of these facts to each operation that it knows; an operation
without a fact depends on everything.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from ..stored import Stored


class Locality(Stored, data=False):
    """Base of the facts."""


@dataclass(frozen=True)
class EachPlace(Locality):
    """Along some axes each place of the result depends on the same place of the operands only.

    source: for each axis of the result the axis of the operand whose places it keeps, one by one; None where it
    depends on more, or is new. broadcast: all operands follow, aligned at the last axis, with their axes of size 1
    repeated; otherwise only number ``operand`` does, and the others are constants, such as weights.
    """

    source: tuple[int | None, ...]
    broadcast: bool = False
    operand: int = 0


@dataclass(frozen=True)
class Sliding(Locality):
    """Place o of the result depends on the places o·stride − before + j·dilation, 0 ≤ j < kernel, of the first operand.

    One number for each of ``axes``. fill: what is read outside the operand. mixes: the other axes, but for the batch,
    are read whole; otherwise each of their places depends on the same place. Convolutions, pools, padding (a kernel of
    1 with ``before`` > 0), slices (with a stride, and ``before`` < 0).
    """

    axes: tuple[int, ...]
    kernel: tuple[int, ...]
    stride: tuple[int, ...]
    dilation: tuple[int, ...]
    before: tuple[int, ...]
    fill: float = 0.0
    mixes: bool = False


@dataclass(frozen=True)
class Spreading(Locality):
    """A transposed convolution: place i of number ``operand`` adds to the places i·stride − before + j·dilation."""

    later: ClassVar[frozenset[str]] = frozenset({"operand"})
    axes: tuple[int, ...]
    kernel: tuple[int, ...]
    stride: tuple[int, ...]
    dilation: tuple[int, ...]
    before: tuple[int, ...]
    operand: int = 0


@dataclass(frozen=True)
class Repeating(Locality):
    """Place o of the result is place o // times of the operand, along ``axes``: nearest-neighbour upsampling."""

    axes: tuple[int, ...]
    times: tuple[int, ...]


@dataclass(frozen=True)
class Summing(Locality):
    """The sum, or the mean, over ``axes`` of the operand, which the result keeps with size 1 or drops."""

    axes: tuple[int, ...]
    mean: bool
    keeps: bool

"""Attributions that are multipliers times a difference, m·(x − r), and two other results from the multipliers."""

from __future__ import annotations

from collections.abc import Sequence

from ..errors import InputError
from ..genomics import check_one_hot, letters_axis
from ..ops import Ops
from .base import Array, Method, ModelShapes, Numpy


class Multiplied(Method, data=False):
    """A method whose attribution of x from a reference r is m·(x − r), with multipliers m.

    A subclass declares the fields ``multiply`` (False: the result is m itself), ``hypothetical`` (the contribution
    that each letter would have had at each position of a one-hot sequence) and ``alphabet_axis``.
    """

    multiply: bool
    hypothetical: bool
    alphabet_axis: int | None

    def __post_init__(self) -> None:
        if self.hypothetical and not self.multiply:
            raise InputError("hypothetical=True and multiply=False give two different results: choose one of them")
        if self.alphabet_axis not in (None, 0, 1, -1):
            raise InputError(f"alphabet_axis must be 0, −1 or None; got {self.alphabet_axis!r}")

    @property
    def adds_up(self) -> bool:
        return self.complete and self.multiply

    @property
    def checks_samples(self) -> bool:
        return self.hypothetical

    def fitted(self, model: ModelShapes) -> Method:
        if self.hypothetical and model.of_layer:
            raise InputError("hypothetical=True attributes to all letters of an input; wrt= is a layer")
        for shape in model.attributed if self.hypothetical else ():
            letters_axis(shape, self.alphabet_axis, "hypothetical=True")
        return self

    def check(self, inputs: Sequence[Numpy]) -> None:
        for array in inputs:
            check_one_hot(array, letters_axis(array.shape[1:], self.alphabet_axis, self.name), "hypothetical=True")

    def summed(self, x: Numpy, attribution: Numpy) -> Numpy:
        return x * attribution if self.hypothetical else attribution

    def contribution(self, ops: Ops, multiplier: Array, x: Array, r: Array) -> Array:
        """m·(x − r), or m, or for each letter e at each position Σ m·(e − r) over the letters there."""
        if not self.multiply:
            return multiplier
        if not self.hypothetical:
            return multiplier * (x - r)
        axis = letters_axis(ops.sample_shape(multiplier)[-2:], self.alphabet_axis, self.name) - 2
        return multiplier - ops.reduce_sum(multiplier * r, axis)

"""Losses, with the roots of their curvature.

The generalized Gauss–Newton matrix of a loss ℓ(f(x), y) is Jᵀ·H·J, with H = ∂²ℓ/∂f². With a root H = A·Aᵀ and random
signs ε, the expectation of (Jᵀ·A·ε)(Jᵀ·A·ε)ᵀ is that matrix: one reverse walk from A·ε, a **pseudo-gradient**, instead
of one for each output. For these losses it is the Fisher matrix (Martens 2020, section 9), for which others draw labels
from the model's own predictions: signs do so with less variance, since entries of A·ε have a fixed size.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from .errors import InputError, TargetError, UnknownNameError
from .graph import Function, Graph, Role, Value
from .ops import Ops
from .spec import Numpy

Array = Any


class Loss(ABC):
    """A loss of each sample, the sum over its tokens or entries; targets y have a shape of their own.

    ``undoes``: it is a function of the logits: of a model that ends in one of these functions, what goes into it is
    taken.
    """

    name: ClassVar[str]
    undoes: ClassVar[tuple[Function, ...]] = ()

    @abstractmethod
    def target(self, shape: tuple[int, ...], dtype: str) -> tuple[tuple[int, ...], str]:
        """Shape and dtype of a sample's target. ``shape``: of its output."""

    @abstractmethod
    def value(self, ops: Ops, f: Array, y: Array) -> Array:
        """ℓ of each sample, (N,)."""

    @abstractmethod
    def gradient(self, ops: Ops, f: Array, y: Array) -> Array:
        """∂ℓ/∂f, (N, …)."""

    @abstractmethod
    def root(self, ops: Ops, f: Array, y: Array, signs: Array) -> Array:
        """A·ε, (N, …), for ``signs`` ε with the shape of f."""

    def checked(self, target: Any, output: tuple[int, ...], dtype: str, count: int) -> Numpy:
        """The targets of ``count`` samples as an array.

        Raises
        ------
        TargetError
        """
        shape, kind = self.target(output, dtype)
        array = np.asarray(target)
        if array.ndim == 1 and shape == (1,):
            array = array[:, None]
        if array.shape != (count, *shape):
            raise TargetError(
                f"targets have shape {array.shape}; {self.name!r} of outputs {output} needs ({count}, "
                f"{', '.join(map(str, shape))})".replace(", )", ",)")
            )
        if kind == "int64":
            if array.dtype.kind not in "iu":
                raise TargetError(f"{self.name!r} needs classes, as integers; targets are {array.dtype}")
            classes = output[-1]
            wrong = (array >= classes) | ((array < 0) & (array != IGNORED))
            if wrong.any():
                raise TargetError(
                    f"class {array[wrong].flat[0]} is not among the {classes} of the output; 0 … {classes - 1}, or "
                    f"{IGNORED} for a token that does not count"
                )
            return array.astype(np.int64)
        if array.dtype.kind not in "iufb":
            raise TargetError(f"{self.name!r} needs numbers; targets are {array.dtype}")
        numbers = array.astype(np.float64)
        if not np.isfinite(numbers).all():
            raise TargetError("targets hold NaN or infinity")
        self.check_range(numbers)
        return numbers.astype(dtype)

    def check_range(self, numbers: Numpy) -> None:  # noqa: B027 - most take any
        """Refuse targets that the loss does not take."""


IGNORED = -100  # a token's class that does not count, as in torch


@dataclass(frozen=True)
class CrossEntropy(Loss):
    """−log softmax(f)_y, of the logits f (…, C) with classes y (…): one for a sample, or one for each of its tokens.

    Classes are along the last axis of the output, unlike in torch.

    Tokens of class −100 do not count. A = diag(√p) − p·√pᵀ.
    """

    name: ClassVar[str] = "cross_entropy"
    undoes: ClassVar[tuple[Function, ...]] = (Function.SOFTMAX, Function.LOG_SOFTMAX)

    def target(self, shape: tuple[int, ...], dtype: str) -> tuple[tuple[int, ...], str]:
        if not shape or shape[-1] < 2:
            raise InputError(
                f"'cross_entropy' needs logits of two classes or more; an output has shape {shape}. For one logit take "
                "'binary_cross_entropy'"
            )
        return shape[:-1], "int64"

    def value(self, ops: Ops, f: Array, y: Array) -> Array:
        shifted, total = self._shifted(ops, f)
        return ops.row_sum(ops.reduce_sum(self._chosen(ops, f, y) * (ops.log(total) - shifted), -1))

    def gradient(self, ops: Ops, f: Array, y: Array) -> Array:
        one = self._chosen(ops, f, y)
        return self._p(ops, f) * ops.reduce_sum(one, -1) - one

    def root(self, ops: Ops, f: Array, y: Array, signs: Array) -> Array:
        p = self._p(ops, f)
        half = p**0.5 * signs
        counts = ops.reduce_sum(self._chosen(ops, f, y), -1)
        return (half - p * ops.reduce_sum(half, -1)) * counts

    @staticmethod
    def _chosen(ops: Ops, f: Array, y: Array) -> Array:
        return ops.one_hot(y, ops.sample_shape(f)[-1], f)  # 0 for a token that does not count

    @staticmethod
    def _shifted(ops: Ops, f: Array) -> tuple[Array, Array]:
        shifted = f - ops.reduce_max(f, -1)
        return shifted, ops.reduce_sum(ops.exp(shifted), -1)

    def _p(self, ops: Ops, f: Array) -> Array:
        shifted, total = self._shifted(ops, f)
        return ops.exp(shifted) / total


@dataclass(frozen=True)
class BinaryCrossEntropy(Loss):
    """Σ log(1 + e^f) − y·f over the entries of an output, logits f with labels or probabilities y. A = √(p(1 − p))."""

    name: ClassVar[str] = "binary_cross_entropy"
    undoes: ClassVar[tuple[Function, ...]] = (Function.SIGMOID,)

    def target(self, shape: tuple[int, ...], dtype: str) -> tuple[tuple[int, ...], str]:
        return shape, dtype

    def value(self, ops: Ops, f: Array, y: Array) -> Array:
        soft = ops.maximum(f, ops.zeros_like(f)) + ops.log(1 + ops.exp(-ops.absolute(f)))
        return ops.row_sum(soft - y * f)

    def check_range(self, numbers: Numpy) -> None:
        wrong = (numbers < 0) | (numbers > 1)
        if wrong.any():
            raise TargetError(
                f"'binary_cross_entropy' needs labels or probabilities from 0 to 1; one is {numbers[wrong].flat[0]:g}. "
                "Where labels are missing, take a function as loss that leaves them out"
            )

    def gradient(self, ops: Ops, f: Array, y: Array) -> Array:
        return self._p(ops, f) - y

    def root(self, ops: Ops, f: Array, y: Array, signs: Array) -> Array:
        p = self._p(ops, f)
        return signs * (p * self._p(ops, -f)) ** 0.5

    @staticmethod
    def _p(ops: Ops, f: Array) -> Array:
        small = ops.exp(-ops.absolute(f))
        return ops.where(f >= 0, ops.ones_like(f), small) / (1 + small)


@dataclass(frozen=True)
class SquaredError(Loss):
    """½·Σ (f − y)² over the entries of an output. A = 1."""

    name: ClassVar[str] = "squared_error"

    def target(self, shape: tuple[int, ...], dtype: str) -> tuple[tuple[int, ...], str]:
        return shape, dtype

    def value(self, ops: Ops, f: Array, y: Array) -> Array:
        return ops.row_sum((f - y) * (f - y)) * 0.5

    def gradient(self, ops: Ops, f: Array, y: Array) -> Array:
        return f - y

    def root(self, ops: Ops, f: Array, y: Array, signs: Array) -> Array:
        return signs


@dataclass(frozen=True)
class OutputLoss(Loss):
    """A loss that the traced model computes itself: its output is ℓ of each sample, (N,).

    Nothing is known of its curvature, for which the squares of gradients stand in (the empirical Fisher matrix).
    """

    name: ClassVar[str] = "output"

    def target(self, shape: tuple[int, ...], dtype: str) -> tuple[tuple[int, ...], str]:
        return (), dtype

    def value(self, ops: Ops, f: Array, y: Array) -> Array:
        return ops.row_sum(f)

    def gradient(self, ops: Ops, f: Array, y: Array) -> Array:
        return ops.ones_like(f)

    def root(self, ops: Ops, f: Array, y: Array, signs: Array) -> Array:
        return signs


#: The losses by name.
LOSSES: dict[str, type[Loss]] = {loss.name: loss for loss in (CrossEntropy, BinaryCrossEntropy, SquaredError)}


def argument(graph: Graph, value: Value, loss: Loss) -> Value:
    """What a loss is a function of, for a model with the output ``value``: that, or the logits behind it.

    Raises
    ------
    InputError: the output is squashed otherwise than the loss undoes it.
    """
    node, direct = graph.by_name[value.node], True
    if not loss.undoes:
        return value
    while len(node.inputs) >= 1 and (node.attributes.relabels or (node.elementwise and node.role is Role.LINEAR)):
        moving = [operand for operand in node.inputs if operand in graph.moved(graph.inputs)]
        if len(moving) != 1 or (node.elementwise and len(node.inputs) > 1):
            return value
        direct = direct and node.elementwise
        node = graph.by_name[moving[0].node]
    squashes = node.function in (Function.SOFTMAX, Function.LOG_SOFTMAX, Function.SIGMOID)
    if not squashes:
        return value
    last = node.function is Function.SIGMOID or node.attributes.axis == -1
    if node.function in loss.undoes and last and direct:
        return node.inputs[0]
    raise InputError(
        f"{loss.name!r} takes logits, and the output is behind {node.op!r}{'' if last else ' along another axis'}: "
        "give a model that returns what goes into that, a layer with output=, or a function as loss"
    )


def resolve(loss: Any) -> Loss | None:
    """The loss by name or as a value; None for a function.

    Raises
    ------
    UnknownNameError, InputError
    """
    if isinstance(loss, Loss):
        return loss
    if isinstance(loss, type) and issubclass(loss, Loss):
        return loss()
    if isinstance(loss, str):
        if loss not in LOSSES:
            raise UnknownNameError.among("loss", loss, LOSSES)
        return LOSSES[loss]()
    if callable(loss):
        return None
    raise InputError(f"loss is a {type(loss).__name__}; give one of {', '.join(LOSSES)}, or a function of (f, y)")

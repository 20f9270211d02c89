"""Roles: what kind of operation a node is for attribution rules, independent of the framework."""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from ..errors import InputError, UnknownNameError
from .locality import Locality


class Role(enum.Enum):
    """How a change of the operands affects the result. Every operation has a role."""

    INPUT = "input"  # a placeholder of the model
    WEIGHT = "weight"  # a parameter or a buffer, shared with the model
    CONSTANT = "constant"  # no derivative flows from a floating-point input to its output
    LINEAR = "linear"  # conv, matmul by a constant, add, mean, reshape, pad, batch norm …
    UNIVARIATE = "univariate"  # elementwise in one active input: relu, gelu, exp …
    PRODUCT = "product"  # mul or div of two active tensors
    BILINEAR = "bilinear"  # matmul or convolution of two active tensors
    MAX_POOL = "max_pool"  # a maximum over windows
    REDUCE_MAX = "reduce_max"  # a maximum or minimum over axes or between tensors
    GATHER = "gather"  # picks entries by integers: embedding, index, take
    COMPOSITE = "composite"  # several of these in one fused op: norms, softmax, attention, LSTM
    OPAQUE = "opaque"  # nothing is known about it but, perhaps, its derivative


class Function(str, enum.Enum):  # noqa: UP042 - Python 3.10 has no StrEnum
    """What an operation computes, where rules distinguish it from others of its role. Equal to its text."""

    NONE = ""  # no rule distinguishes it
    RELU = "relu"
    SIGMOID = "sigmoid"
    STOP_GRADIENT = "stop_gradient"
    SHAPE = "shape"  # depends only on its inputs' shapes
    QUOTIENT = "quotient"  # of two active tensors
    SOFTMAX = "softmax"  # with attributes.axis
    LOG_SOFTMAX = "log_softmax"  # with attributes.axis
    LOG_SUM_EXP = "log_sum_exp"  # with attributes.axis, a tuple, and .keepdims
    MINIMUM = "minimum"  # a minimum, with the role reduce_max
    DENSE = "dense"  # linear, with attributes.weight and perhaps .bias
    CONV = "conv"  # linear, with attributes.weight and perhaps .bias
    COPY = "copy"  # linear, each output entry is an entry of an input or a constant
    SCALE = "scale"  # linear, one tensor times constants
    ADD = "add"  # the sum of its operands
    IDENTITY = "identity"  # passes a difference but stops a derivative
    ARITHMETIC = "arithmetic"  # a univariate power, root, exponential or logarithm: no activation
    BIVARIATE = "bivariate"  # an elementwise function of two active tensors
    EMBEDDING = "embedding"  # gather, rows of a table by ids
    OWN_DERIVATIVE = "own_derivative"  # opaque, with a derivative defined by the model
    CALL = "call"  # opaque, a whole model that is called as it is

    __str__ = str.__str__
    __format__ = str.__format__  # type: ignore[assignment]

    @property
    def weighted(self) -> bool:
        """Whether this is a linear map with a weight of the model: dense or conv."""
        return self in (Function.DENSE, Function.CONV)

    @property
    def normalizes(self) -> bool:
        """Whether this is a softmax, its logarithm, or the logarithm of the sum in it."""
        return self in (Function.SOFTMAX, Function.LOG_SOFTMAX, Function.LOG_SUM_EXP)

    @classmethod
    def _missing_(cls, value: object) -> Function:
        raise UnknownNameError.among("function", str(value), [member.value for member in cls])


class Registered:
    """The operations that users registered for one framework: ``(role, function, elementwise)`` by name."""

    def __init__(self, known: Mapping[str, Role]) -> None:
        self._known, self._meanings = known, dict[str, tuple[Role, Function, bool]]()

    def add(self, name: str, role: Role | str, function: Function | str, elementwise: bool | None) -> None:
        role = _role(role)
        if name in self._known:
            raise InputError(f"operation {name!r} has the role {self._known[name].value!r} already")
        if role in (Role.INPUT, Role.WEIGHT, Role.CONSTANT, Role.COMPOSITE):
            raise InputError(f"an operation cannot be registered with the role {role.value!r}")
        if function and role is not Role.LINEAR:
            raise InputError(f"a function tells linear operations apart; {name!r} has the role {role.value!r}")
        if function not in (Function.NONE, Function.COPY, Function.SCALE):
            raise InputError(f"a registered linear operation is a copy, a scale or neither; got {function!r}")
        meaning = (role, Function(function), role is Role.UNIVARIATE if elementwise is None else elementwise)
        if self._meanings.setdefault(name, meaning) != meaning:
            raise InputError(f"operation {name!r} was registered as {self._meanings[name][0].value!r} before")

    def get(self, name: str) -> tuple[Role, Function, bool] | None:
        return self._meanings.get(name)


def _role(given: Role | str) -> Role:
    try:
        return Role(given)
    except ValueError:
        raise UnknownNameError.among("role", given, [role.value for role in Role]) from None


@dataclass(frozen=True)
class Attributes:
    """What rules need to know about an operation, beyond its role and function.

    axis: the axis of a softmax or the axes of a log-sum-exp, counted from the end; keepdims: as in numpy. Of a sum, the
    axis of a bias that is not along the last.
    weight, bias: the places among the inputs of a dense or conv map's operands. contracted: the axis of the weight that
    a plain product x·W or x·Wᵀ of matrices sums over. relabels: each entry of the result is one of the only operand,
    and each of those is in it once. repeats: it is the first operand, over and over along axes. lost: why the model's
    own derivative is not available. locality: which places of the operands the places of the result depend on. Rewrites
    set the rest: behind: the kind of weighted map that feeds an activation. rescaling: places of the factors of a
    product that only rescale the other one. rule: the rule that a composite assigned to this node.
    """

    axis: int | tuple[int, ...] | None = None
    keepdims: bool = False
    weight: int = -1
    bias: int | None = None
    contracted: int | None = None
    relabels: bool = field(default=False, compare=False)
    repeats: bool = field(default=False, compare=False)
    lost: str = ""
    locality: Locality | None = field(default=None, compare=False)
    behind: Function = Function.NONE
    rescaling: tuple[int, ...] = ()
    rule: Any = None

    @property
    def axes(self) -> tuple[int, ...]:
        """``axis`` as a tuple."""
        return self.axis if isinstance(self.axis, tuple) else () if self.axis is None else (self.axis,)

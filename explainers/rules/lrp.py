"""Layer-wise relevance propagation: the message is the relevance of a value.

Bach et al. 2015, "On Pixel-Wise Explanations for Non-Linear Classifier Decisions by Layer-Wise Relevance
Propagation" (ε: eq. 58, αβ: eq. 60); Montavon et al. 2017, "Explaining NonLinear Classification Decisions
with Deep Taylor Decomposition" (w², z⁺, z^B: table 1); Montavon et al. 2019, "Layer-Wise Relevance
Propagation: An Overview" (γ, composites); Achtibat et al. 2024, "AttnLRP" (products, softmax, norms).

With the contributions c_jk = x_j·w_jk to the output z_k = Σ_j c_jk + b_k of a linear map, each rule is
R_j = Σ_k (share of j in k)·R_k. A bias takes its own share, which is not propagated further.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from ..errors import InputError
from ..graph import Function, Graph, Node, Output, Role, Value, rewrite_regions
from ..ops import Ops
from ..stored import Stored
from .base import Array, Rule, RuleSet, Site, passing, unsupported
from .gradient import GRADIENT, vjp

LARGEST_BOUND = 64  # most entries of a bound of z^B


# --- rules for linear maps -------------------------------------------------------------------


class LayerRule(Stored, data=False):
    """A rule as a value, for the entries of a composite. It is written to files by its fields.

    passes_weighted: whether it applies to dense and conv layers; only_weighted: whether to nothing else.
    shares_bias: whether the relevance of a bias is redistributed to the inputs.
    """

    passes_weighted: ClassVar[bool] = True
    only_weighted: ClassVar[bool] = True
    shares_bias: ClassVar[bool] = False

    def __call__(self, ops: Ops, at: Site) -> Sequence[Array | None]:
        raise NotImplementedError

    @property
    def stabilizer(self) -> float:
        """The ε that it adds to denominators, as a fraction of a row's largest output."""
        return 0.0

    def fits(self, node: Node) -> bool:
        """Whether it applies to ``node``."""
        return node.function.weighted

    def conserves(self, graph: Graph, node: Node, places: Sequence[int]) -> bool:
        """Whether all relevance of the outputs reaches the active inputs, except for ε; False if uncertain."""
        return not node.function.normalizes and (
            not node.function.weighted or self.shares_bias or node.attributes.bias is None
        )


class Stabilized(LayerRule, data=False):
    """A rule with a field ``epsilon``."""

    epsilon: float

    @property
    def stabilizer(self) -> float:
        return self.epsilon


def stabilized(ops: Ops, z: Array, output: Output, epsilon: float, size: Array | None = None) -> Array:
    """z + ε·s·sign(z) with sign(0) = 1, where s is the largest |``size``| of the row, by default |z|; never 0."""
    size = ops.absolute(z if size is None else size)
    rows = output.shape.index(None) if None in output.shape else None
    others = tuple(axis for axis in range(len(output.shape)) if axis != rows)
    if others:
        size = ops.reduce_max(size, others)
    safe = z + ops.sign(z) * (size * epsilon)
    return ops.where(safe == 0, ops.ones_like(safe), safe)


@dataclass(frozen=True)
class Epsilon(Stabilized):
    """R_j = Σ_k c_jk/(z_k + ε·s·sign z_k)·R_k, with s the largest |z| of the row (Bach et al., eq. 58)."""

    epsilon: float = 1e-6

    only_weighted: ClassVar[bool] = False

    def __post_init__(self) -> None:
        _not_negative("epsilon", self.epsilon)

    def fits(self, node: Node) -> bool:
        return node.role is Role.LINEAR and node.function not in (Function.COPY, Function.SCALE)

    def conserves(self, graph: Graph, node: Node, places: Sequence[int]) -> bool:
        if node.function.weighted or not super().conserves(graph, node, places):
            return super().conserves(graph, node, places)
        return not _adds_constant(graph, node, places) and (not node.elementwise or len(places) > 1)

    def __call__(self, ops: Ops, at: Site) -> Sequence[Array | None]:
        passed = [
            m if m is None else m / stabilized(ops, y, output, self.epsilon, _own_part(ops, at, y))
            for m, y, output in zip(at.message, at.y, at.node.outputs, strict=True)
        ]
        return [None if p is None else _times(ops, x, p) for x, p in zip(at.x, at.pullback(passed), strict=True)]


def _own_part(ops: Ops, at: Site, y: Array) -> Array | None:
    """The contribution of the only active operand of x ± c: c may be a mask of huge numbers, no scale for x."""
    return ops.zeros_like(y) + at.x[0] if at.node.elementwise and len(at.x) == 1 else None


def _times(ops: Ops, x: Array, passed: Array) -> Array:
    """x·passed; 0 where ``passed`` is 0, even for a masked x = −∞."""
    return ops.where(passed == 0, ops.zeros_like(passed), x * passed)


@dataclass(frozen=True)
class Pass(LayerRule):
    """R_j = R_k: for a linear or univariate operation between tensors of one shape, such as a batch norm."""

    passes_weighted: ClassVar[bool] = False
    only_weighted: ClassVar[bool] = False

    def fits(self, node: Node) -> bool:
        shaped = node.function.weighted or node.function is Function.COPY
        return node.role in (Role.LINEAR, Role.UNIVARIATE) and not shaped

    def __call__(self, ops: Ops, at: Site) -> Sequence[Array | None]:
        return unchanged(ops, at)


@dataclass(frozen=True)
class AlphaBeta(Stabilized):
    """R_j = Σ_k (α·c⁺_jk/z⁺_k − β·c⁻_jk/z⁻_k)·R_k with α − β = 1, z± = Σ c± + b± (Bach et al., eq. 60)."""

    alpha: float = 2.0
    beta: float = 1.0
    epsilon: float = 1e-6

    def __post_init__(self) -> None:
        _not_negative("alpha", self.alpha)
        _not_negative("beta", self.beta)
        _not_negative("epsilon", self.epsilon)
        if abs(self.alpha - self.beta - 1) > 1e-9:
            raise InputError(f"αβ conserves relevance only if alpha − beta = 1; got {self.alpha} and {self.beta}")

    def __call__(self, ops: Ops, at: Site) -> Sequence[Array | None]:
        total, shares = _signed(ops, at, 1)
        passed = shares(self.alpha * at.message[0] / _safe(ops, at, total, self.epsilon))
        if not self.beta:
            return passed
        total, shares = _signed(ops, at, -1)
        return _sum(passed, shares(-self.beta * at.message[0] / _safe(ops, at, total, self.epsilon)))


@dataclass(frozen=True)
class ZPlus(AlphaBeta):
    """R_j = Σ_k c⁺_jk/z⁺_k·R_k: αβ with α = 1, β = 0 (Montavon et al. 2017, table 1)."""

    alpha: float = 1.0
    beta: float = 0.0


@dataclass(frozen=True)
class Gamma(Stabilized):
    """R_j = Σ_k (c_jk + γ·c±_jk)/(z_k + γ·z±_k)·R_k, where ± is the sign of z_k.

    For x ≥ 0 and z_k > 0 this is w + γ·w⁺ (Montavon et al. 2019, section 10.2.3); in general it is the
    rule of Andéol et al. 2021, "Learning Domain Invariant Representations by Joint Wasserstein Distance
    Minimization", appendix.
    """

    gamma: float = 0.25
    epsilon: float = 1e-6

    def __post_init__(self) -> None:
        _not_negative("gamma", self.gamma)
        _not_negative("epsilon", self.epsilon)

    def __call__(self, ops: Ops, at: Site) -> Sequence[Array | None]:
        (rising, up), (falling, down) = _signed(ops, at, 1), _signed(ops, at, -1)
        positive = at.y[0] >= 0
        z = at.y[0] + ops.where(positive, rising, falling) * self.gamma
        passed = at.message[0] / _safe(ops, at, z, self.epsilon)
        more = passed * (1 + self.gamma)
        return _sum(up(ops.where(positive, more, passed)), down(ops.where(positive, passed, more)))


@dataclass(frozen=True)
class Flat(LayerRule):
    """R_j = Σ_k 1/n_k·R_k: equal shares for the n_k inputs of an output (Lapuschkin et al. 2019, supplement)."""

    shares_bias: ClassVar[bool] = True

    def __call__(self, ops: Ops, at: Site) -> Sequence[Array | None]:
        return _even(ops, at, ops.ones_like(_weight(at)))


@dataclass(frozen=True)
class WSquare(LayerRule):
    """R_j = Σ_k w²_jk/Σ_i w²_ik·R_k (Montavon et al. 2017, table 1)."""

    shares_bias: ClassVar[bool] = True

    def __call__(self, ops: Ops, at: Site) -> Sequence[Array | None]:
        return _even(ops, at, _weight(at) * _weight(at))


@dataclass(frozen=True)
class ZBox(Stabilized):
    """R_j = Σ_k (x_j·w_jk − l_j·w⁺_jk − h_j·w⁻_jk)/Σ_i(…)·R_k for inputs between l and h.

    Montavon et al. 2017, table 1. ``low``, ``high``: numbers, or small arrays that broadcast against one
    sample, such as one number a channel, (3, 1, 1).
    """

    low: Any
    high: Any
    epsilon: float = 1e-6

    shares_bias: ClassVar[bool] = True

    def __post_init__(self) -> None:
        _not_negative("epsilon", self.epsilon)
        for name, bound in (("low", self.low), ("high", self.high)):
            if bound is None or np.asarray(bound).dtype.kind not in "fiu" or not np.isfinite(bound).all():
                raise InputError(f"z^B needs the bounds of its input, low= and high=, as numbers; got {name}={bound!r}")
            if np.size(bound) > LARGEST_BOUND:
                raise InputError(
                    f"a bound of z^B has at most {LARGEST_BOUND} entries, such as one per channel; {name} has "
                    f"{np.size(bound)}"
                )
            object.__setattr__(self, name, frozen(bound))
        if not np.less_equal(self.low, self.high).all():
            raise InputError(f"low must be at most high; got low={self.low!r}, high={self.high!r}")

    def __call__(self, ops: Ops, at: Site) -> Sequence[Array | None]:
        weight, x = _weight(at), _input(at)
        nothing = ops.zeros_like(weight)
        low, high = (ops.zeros_like(x) + _bound(ops, bound, x) for bound in (self.low, self.high))
        z, shares = _mapped(ops, at, x, weight)
        z_low, shares_low = _mapped(ops, at, low, ops.maximum(weight, nothing))
        z_high, shares_high = _mapped(ops, at, high, ops.minimum(weight, nothing))
        passed = at.message[0] / _safe(ops, at, z - z_low - z_high, self.epsilon)
        return _sum(shares(passed), shares_low(-passed), shares_high(-passed))


def frozen(bound: Any) -> Any:
    """An array or lists as nested tuples of numbers, so that the rule that holds it is hashable."""
    if isinstance(bound, (list, tuple)):
        return tuple(map(frozen, bound))
    return frozen(bound.tolist()) if hasattr(bound, "tolist") else bound


def _bound(ops: Ops, bound: Any, x: Array) -> Array:
    """``bound`` as an array that broadcasts against ``x``."""
    array = np.asarray(bound, np.float64)
    if not array.ndim:
        return float(array)
    sample = tuple(x.shape[1:])
    if len(sample) < array.ndim or any(k not in (1, s) for k, s in zip(array.shape[::-1], sample[::-1], strict=False)):
        raise InputError(f"a bound of z^B has shape {array.shape}, the layer's input has shape {sample}")
    zero = ops.row_max(ops.zeros_like(x))
    shape = (1,) * (len(x.shape) - 1 - array.ndim) + array.shape
    return ops.reshape_rows(ops.stack([zero + float(entry) for entry in array.flat]), shape)


# --- parts of the rules ----------------------------------------------------------------------

Shares = Callable[[Array], list[Array | None]]


def _weight(at: Site) -> Array:
    return at.operand(at.node.attributes.weight)


def _input_place(at: Site) -> int:
    found = [place for place in at.places if place != at.node.attributes.bias]
    if len(found) != 1:
        raise unsupported(at.node, "lrp", "its input does not depend on what is attributed, only its bias does")
    return found[0]


def _input(at: Site) -> Array:
    return at.operand(_input_place(at))


def _mapped(ops: Ops, at: Site, x: Array, weight: Array, bias: Array | None = None) -> tuple[Array, Shares]:
    """The map on other operands, by default without bias: z, and S_k ↦ Σ_k c_jk·S_k for each active operand."""
    given = {_input_place(at): x, at.node.attributes.weight: weight}
    if at.node.attributes.bias is not None:
        place = at.node.attributes.bias
        given[place] = ops.zeros_like(at.operand(place)) if bias is None else bias
    (z, *_), pullback = at.apply(given)

    def shares(passed: Array) -> list[Array | None]:
        parts = zip(at.places, pullback([passed]), strict=True)
        return [None if part is None else given[place] * part for place, part in parts]

    return z, shares


def _signed(ops: Ops, at: Site, sign: int) -> tuple[Array, Shares]:
    """z⁺ = Σ c⁺ + b⁺ or z⁻ = Σ c⁻ + b⁻, and the shares of the contributions of this sign."""

    def part(array: Array, sign: int) -> Array:
        return (ops.maximum if sign > 0 else ops.minimum)(array, ops.zeros_like(array))

    x, weight, bias = _input(at), _weight(at), at.node.attributes.bias
    positive, first = _mapped(
        ops, at, part(x, 1), part(weight, sign), None if bias is None else part(at.operand(bias), sign)
    )
    negative, second = _mapped(ops, at, part(x, -1), part(weight, -sign))
    return positive + negative, lambda passed: _sum(first(passed), second(passed))


def _even(ops: Ops, at: Site, weight: Array) -> list[Array | None]:
    """Shares in proportion to ``weight`` alone."""
    z, shares = _mapped(ops, at, ops.ones_like(_input(at)), weight)
    return shares(at.message[0] / ops.where(z == 0, ops.ones_like(z), z))


def _safe(ops: Ops, at: Site, z: Array, epsilon: float) -> Array:
    return stabilized(ops, z, at.node.outputs[0], epsilon)


def _sum(*parts: Sequence[Array | None]) -> list[Array | None]:
    """Lists of shares added up, operand by operand."""
    return [None if shares[0] is None else sum(shares[1:], shares[0]) for shares in zip(*parts, strict=True)]


def _not_negative(name: str, value: Any) -> None:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value < float("inf"):
        raise InputError(f"{name} must be a number ≥ 0; got {value!r}")


# --- rules for everything else ---------------------------------------------------------------


class Copied(LayerRule, data=False):
    """Each output entry is a copy of an input entry, which gets its relevance."""

    __name__ = "copied"
    passing = True

    def conserves(self, graph: Graph, node: Node, places: Sequence[int]) -> bool:
        read = [graph.output(node.inputs[place]) for place in places]
        return not _adds_constant(graph, node, places) and _entries(node.outputs) <= _entries(read)  # no padding

    def __call__(self, ops: Ops, at: Site) -> Sequence[Array | None]:
        return at.pullback(at.message)


def _adds_constant(graph: Graph, node: Node, places: Sequence[int]) -> bool:
    """Whether a constant is added, or selected by a condition."""
    others = [value for place, value in enumerate(node.inputs) if place not in places]
    return any(graph.output(value).floating for value in others) or (node.elementwise and bool(others))


def _entries(outputs: Sequence[Output]) -> int:
    return sum(math.prod(size for size in output.shape if size is not None) for output in outputs)


def unchanged(ops: Ops, at: Site) -> Sequence[Array | None]:
    """One operand of the result's shape, or broadcast to it; for x·x the first of the two operands gets everything."""
    return [ops.sum_like(at.message[0], at.x[0]), *[None] * (len(at.x) - 1)]


@passing
def winner(ops: Ops, at: Site) -> Sequence[Array | None]:
    """The largest (or smallest) entry gets everything."""
    return at.pullback(at.message)


def product(ops: Ops, at: Site) -> Sequence[Array | None]:
    """Half to each factor (Achtibat et al. 2024, proposition 3.3); nothing to a factor that only rescales (3.4)."""
    keep = [place for place in at.places if place not in at.node.attributes.rescaling] or at.places
    whole = at.message[0] / len(keep)
    return [ops.sum_like(whole, x) if place in keep else None for place, x in zip(at.places, at.x, strict=True)]


def quotient(ops: Ops, at: Site) -> Sequence[Array | None]:
    """All to the numerator: the denominator only rescales."""
    return [ops.sum_like(at.message[0], x) if place == 0 else None for place, x in zip(at.places, at.x, strict=True)]


def bilinear(ops: Ops, at: Site) -> Sequence[Array | None]:
    """ε for the products of two entries, half to each factor (Achtibat et al. 2024, equation 9)."""
    if len(at.x) > 2:
        raise unsupported(at.node, "lrp", "it adds an active tensor to the product of two; write it as two operations")
    return [None if part is None else part / len(at.x) for part in Epsilon()(ops, at)]


def softmax(ops: Ops, at: Site) -> Sequence[Array | None]:
    """R_i = x_i·(R_i − y_i·Σ_j R_j) (Achtibat et al. 2024, proposition 3.1)."""
    m = at.message[0]
    return [_times(ops, at.x[0], m - at.y[0] * ops.reduce_sum(m, at.node.attributes.axis))]


ROLES: dict[Role, Rule] = {
    Role.LINEAR: Epsilon(),
    Role.GATHER: Copied(),
    Role.UNIVARIATE: unchanged,
    Role.PRODUCT: product,
    Role.BILINEAR: bilinear,
    Role.MAX_POOL: winner,
    Role.REDUCE_MAX: winner,
}
FUNCTIONS: dict[Function, Rule] = {
    Function.COPY: Copied(),
    Function.SCALE: unchanged,
    Function.QUOTIENT: quotient,
    Function.SOFTMAX: softmax,
    Function.LOG_SOFTMAX: Epsilon(),
    Function.LOG_SUM_EXP: Epsilon(),
}


# --- DeepExplain's ---------------------------------------------------------------------------


@dataclass(frozen=True)
class Ratio:
    """m·f(x)/(x + ε·sign(x)) in place of the derivative (Ancona et al. 2018, proposition 1)."""

    epsilon: float

    def __call__(self, ops: Ops, at: Site) -> Sequence[Array | None]:
        x, y, m = at.x[0], at.y[0], at.message[0]
        safe = x + ops.sign(x) * self.epsilon
        ratio = m * y / ops.where(safe == 0, ops.ones_like(safe), safe)
        return [ops.sum_like(ratio, x), *[None] * (len(at.x) - 1)]


@dataclass(frozen=True)
class Ratios(RuleSet):
    """The gradient's table except for activations: all univariate operations but arithmetic, joined beforehand."""

    def prepare(self, graph: Graph, wrt: Sequence[Value]) -> Graph:
        return rewrite_regions.join(graph, wrt)


def ratios(epsilon: float) -> Ratios:
    """The rule set of ε-LRP as DeepExplain defines it."""
    functions = {**GRADIENT.functions, Function.ARITHMETIC: vjp}
    return Ratios("elrp", {**GRADIENT.roles, Role.UNIVARIATE: Ratio(epsilon)}, functions)


__all__ = ["AlphaBeta", "Epsilon", "Flat", "Gamma", "LayerRule", "Pass", "WSquare", "ZBox", "ZPlus"]

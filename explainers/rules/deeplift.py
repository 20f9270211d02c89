"""DeepLIFT: multipliers m = contribution/Δ, where Δ is a value minus its value at the reference.

Shrikumar, Greenside and Kundaje 2017, "Learning Important Features Through Propagating Activation
Differences": the linear rule (3.5.1), the Rescale rule (3.5.2) and RevealCancel (3.5.3). Products are
shared like two-player Shapley values (their appendix and Lundberg and Lee 2017, section 4.2); the
other rules are built from these, so that Σ m·Δ is the same before and behind every operation.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from ..graph import Function, Graph, Role, Value, rewrite_regions
from ..ops import Ops
from .base import Array, Rule, RuleSet, Site, passing

FARTHEST = 30  # times |f(x)| + |f(r)|: the largest values that RevealCancel accepts in between
ROUNDING = 4  # units in the last place by which a value may be off


@passing
def linear(ops: Ops, at: Site) -> Sequence[Array | None]:
    """The operation's own vector–Jacobian product: biases cancel in Δ."""
    return at.pullback(at.message)


@passing
def identity(ops: Ops, at: Site) -> Sequence[Array | None]:
    return [at.message[0]]


def divided(ops: Ops, change: Array, difference: Array, slope: Array, size: Array) -> Array:
    """The slope change/difference of a chord, or the tangent's ``slope`` where the two agree up to rounding.

    ``size``: magnitude of the values whose difference is ``change``. Where slope·difference matches ``change`` to
    within their rounding, the chord's slope is noise and the tangent's is right. The same holds where both ends are
    equal, or the same infinity. A slope that is not finite, such as that of √x at 0, counts as 0.
    """
    rounding, slope = ROUNDING * ops.epsilon(change), ops.finite(slope)
    far = ops.absolute(ops.minus_product(change, slope, difference)) > rounding * size
    return ops.where(far, change / difference, slope)


def rescale(ops: Ops, at: Site) -> Sequence[Array | None]:
    """m·Δy/Δx, with the derivative midway between input and reference where Δx vanishes."""
    if not at.broadcasts:
        ratio, *again = _ratio(ops, at)
        return [at.message[0] * ratio, *again]
    x, r, y, y_r, m = at.x[0], at.x_r[0], at.y[0], at.y_r[0], at.message[0]
    slope, *again = derivative(at, ops.midway(x, r), m)
    dx, size = x - r, ops.absolute(m) * (ops.absolute(y) + ops.absolute(y_r))
    share = ops.sum_like(m * ops.difference(y, y_r), dx)  # c/x with c of more axes: sums what x contributes
    return [divided(ops, share, dx, slope, ops.sum_like(size, dx)), *again]


def _ratio(ops: Ops, at: Site) -> list[Any]:
    """Δy/Δx."""
    x, r, y, y_r = at.x[0], at.x_r[0], at.y[0], at.y_r[0]
    slope, *again = derivative(at, ops.midway(x, r), ops.ones_like(y))
    return [divided(ops, y - y_r, x - r, slope, 2 * ops.absolute(y_r)), *again]  # where the ys differ, Δy is precise


def derivative(at: Site, point: Array, message: Array) -> list[Any]:
    """A univariate operation's vector–Jacobian product at ``point``; for x·x the first operand gets the sum of both."""
    _, pullback = at.apply(dict.fromkeys(at.places, point))
    parts: list[Any] = list(pullback([message]))
    return [sum(parts[1:], parts[0]), *[None] * (len(parts) - 1)]


def rescale_relu(ops: Ops, at: Site) -> Sequence[Array | None]:
    """Rescale for ReLU, whose Δy/Δx is exact however small Δx; [y > 0] where Δx = 0."""
    dx = at.x[0] - at.x_r[0]
    ratio = (at.y[0] - at.y_r[0]) / dx
    return [ops.where(dx == 0, ops.signum(at.y[0]), ratio) * at.message[0]]


def product(ops: Ops, at: Site) -> Sequence[Array | None]:
    """The vector–Jacobian product midway: exact for everything quadratic. m_x = m·(y + y_r)/2.

    For u·v with a factor v that rescales (a reciprocal root, a gate), the two orders v·Δu + u_r·Δv and
    v_r·Δu + u·Δv count in the proportion |v_r| : |v| in place of halves. So m_u is the harmonic mean of v and v_r,
    at most twice the smaller of the two. Halves would be huge numbers that cancel where v and v_r differ by orders
    of magnitude.
    """
    rescaling = at.node.attributes.rescaling
    if len(at.places) != 2 or len(rescaling) != 1:
        return at.apply({p: (x + r) * 0.5 for p, x, r in zip(at.places, at.x, at.x_r, strict=True)})[1](at.message)
    v = at.places.index(rescaling[0])
    first, second = _proportions(ops, at.x_r[v], at.x[v])
    points = {place: second * x + first * r for place, x, r in zip(at.places, at.x, at.x_r, strict=True)}
    points[at.places[v]] = first * at.x[v] + second * at.x_r[v]
    return at.apply(points)[1](at.message)


def _proportions(ops: Ops, a: Array, b: Array) -> tuple[Array, Array]:
    """|a| : |b| as two numbers whose sum is 1; halves where both are 0."""
    a, b = ops.absolute(a), ops.absolute(b)
    top = ops.maximum(a, b)
    none = ops.equal(top, 0)
    a, b = (ops.where(none, ops.ones_like(top), part / ops.where(none, ops.ones_like(top), top)) for part in (a, b))
    return a / (a + b), b / (a + b)


def quotient(ops: Ops, at: Site) -> Sequence[Array | None]:
    """z = x/y as the product of x and v = 1/y, which rescales x, written without large intermediate values.

    For y and y_r of one sign: m_x = m/ȳ and m_y = −m·z̄/ȳ, where ȳ and z̄ are the means of input and reference.
    """
    if len(at.places) == 1:  # the other operand is the same at the reference
        return product(ops, at) if at.places[0] == 0 else rescale(ops, at)
    (x, y), (x_r, y_r), m = at.x, at.x_r, at.message[0]
    z, z_r, sign, sign_r = at.y[0], at.y_r[0], ops.sign(y), ops.sign(y_r)
    shared = m / (ops.absolute(y) + ops.absolute(y_r))
    return [ops.sum_like(shared * (sign + sign_r), x + x_r), ops.sum_like(-shared * (sign * z_r + sign_r * z), y + y_r)]


def bivariate(ops: Ops, at: Site) -> Sequence[Array | None]:
    """Any f(x, y), shared like a product: m_x = m·½[f(x,y) − f(x_r,y) + f(x,y_r) − f(x_r,y_r)]/(x − x_r)."""
    (first, second), (x, y), (x_r, y_r), m = at.places, at.x, at.x_r, at.message[0]
    ((low_y, *_), _), ((low_x, *_), _) = at.apply({second: y_r}), at.apply({first: x_r})
    _, pullback = at.apply({first: (x + x_r) * 0.5, second: (y + y_r) * 0.5})
    whole, across = at.y[0] - at.y_r[0], low_y - low_x
    size = ops.absolute(m) * sum(map(ops.absolute, (at.y[0], at.y_r[0], low_x, low_y)))
    shares = (m * (whole + across) * 0.5, m * (whole - across) * 0.5)
    pairs = zip(shares, at.x, at.x_r, pullback([m]), strict=True)
    return [
        divided(ops, ops.sum_like(share, x), ops.difference(x, r), slope, ops.sum_like(size, x))
        for share, x, r, slope in pairs
    ]


def extreme(ops: Ops, at: Site) -> Sequence[Array | None]:
    """Maximum or minimum: m·Δy goes to the winner of x or, if that is more extreme, of the reference.

    With M = max(y, y_r), m·(M−y_r) belongs to the entries where x has its maximum and m·(y−M) to those
    where the reference has; one of the two is 0.
    """
    y, y_r, m = at.y[0], at.y_r[0], at.message[0]
    from_x = y < y_r if at.node.function is Function.MINIMUM else y > y_r
    share = m * (y - y_r)
    routed = ops.winners(at.node, [at.operand(p) for p in at.places], at.y, at.y_r, from_x, share)
    if routed is None:
        nothing = ops.zeros_like(share)
        _, at_x = at.apply(dict(zip(at.places, at.x, strict=True)))
        _, at_r = at.apply(dict(zip(at.places, at.x_r, strict=True)))
        others = [None] * (len(at.y) - 1)
        parts = zip(
            at_x([ops.where(from_x, share, nothing), *others]),
            at_r([ops.where(from_x, nothing, share), *others]),
            strict=True,
        )
        routed = [a + b for a, b in parts if a is not None and b is not None]
    return [ops.where(part == 0, part, part / (x - r)) for part, x, r in zip(routed, at.x, at.x_r, strict=True)]


# softmax and its relatives are never decomposed: their exponentials and sums differ by many orders of magnitude
# between input and reference, and products of huge with tiny numbers lose all precision.
# With L = log Σ exp(x) each is a sum of logarithmic means, all in [0, 1], of probabilities.


def log_sum_exp(ops: Ops, at: Site) -> Sequence[Array | None]:
    """m_j = m·w_j with w_j the share of x_j in ΔL: Σ w_j·Δx_j = ΔL (see :class:`_Shares`)."""
    m = at.message[0]
    axes = at.node.attributes.axes
    if not at.node.attributes.keepdims:
        for axis in sorted(axes, reverse=True):
            m = ops.insert_axis(m, axis)
    return [m * _Shares.of(ops, at.x[0], at.x_r[0], axes).w]


def log_softmax(ops: Ops, at: Site) -> Sequence[Array | None]:
    """y = x − L: m_j − w_j·Σm."""
    axis = at.node.attributes.axis
    return [_Shares.of(ops, at.x[0], at.x_r[0], axis).taken(ops, at.message[0], axis)]


def softmax(ops: Ops, at: Site) -> Sequence[Array | None]:
    """y = exp(u), u = x − L: m'_j − w_j·Σm' with m' = m·k, k_i the logarithmic mean of y_i and its reference."""
    axis = at.node.attributes.axis
    shares = _Shares.of(ops, at.x[0], at.x_r[0], axis)
    k = ops.exp(ops.maximum(shares.u, shares.u_r)) * _decay(ops, shares.du)
    return [shares.taken(ops, at.message[0] * k, axis)]


@dataclass(frozen=True)
class _Shares:
    """w_j = exp(max(x_j, r_j) − max(L, L_r))·φ(x_j − r_j)/φ(L − L_r), the share of x_j in ΔL.

    φ(d) = (1 − e^−|d|)/|d|. u = x − L. A row of nothing but −∞ has L = −∞ and w = 0.
    """

    w: Array
    u: Array
    u_r: Array
    dx: Array
    du: Array

    @classmethod
    def of(cls, ops: Ops, x: Array, r: Array, axis: Any) -> _Shares:
        """L is held as its largest entry plus a remainder, so that the rounding of large entries cancels."""
        (top, below, rest), (top_r, below_r, rest_r) = _log_total(ops, x, axis), _log_total(ops, r, axis)
        change = (top - top_r) + ops.difference(rest, rest_r)
        up, rest, rest_r = change >= 0, ops.finite(rest), ops.finite(rest_r)
        high, rest_high = ops.where(up, top, top_r), ops.where(up, rest, rest_r)
        dx, u, u_r = ops.difference(x, r), below - rest, below_r - rest_r
        largest = (ops.maximum(x, r) - high) - rest_high
        w = ops.exp(largest) * _decay(ops, dx) * (1 / _decay(ops, change))
        return cls(w, u, u_r, dx, ops.difference(u, u_r))

    def taken(self, ops: Ops, m: Array, axis: Any) -> Array:
        """m_j − w_j·Σm. Where one w is almost 1 and Δx_j is large, 1 − w_j is computed from the other shares and Δu_j.

        Σw ≤ 1, so that at most one is above ½. There (1 − w)·Δx would be the difference of two large numbers.
        """
        w, dx = self.w, self.dx
        large = (w > 0.5) & (ops.absolute(dx) > 1)
        rest = ops.reduce_sum(ops.zeroed(w * dx, large), axis)
        left = ops.where(large, m * ((self.du + rest) / dx), m)
        others = ops.reduce_sum(ops.zeroed(m, large), axis)
        return left - w * ops.where(large, others, ops.reduce_sum(m, axis))


def _log_total(ops: Ops, x: Array, axis: Any) -> tuple[Array, Array, Array]:
    """The largest entry, or 0 if it is −∞; x minus it; L minus it."""
    top = ops.finite(ops.reduce_max(x, axis))
    below = x - top
    return top, below, ops.log(ops.reduce_sum(ops.exp(below), axis))


def _decay(ops: Ops, d: Array) -> Array:
    """φ(d) = (1 − e^−|d|)/|d|, 1 at 0: the mean of e^−t for t from 0 to |d|."""
    fall = -ops.at_least(ops.absolute(d), 1e-30)
    return ops.expm1(fall) / fall


_ROLES: dict[Role, Rule] = {
    Role.LINEAR: linear,
    Role.GATHER: linear,
    Role.UNIVARIATE: rescale,
    Role.PRODUCT: product,
    Role.BILINEAR: product,
    Role.MAX_POOL: extreme,
    Role.REDUCE_MAX: extreme,
}
_FUNCTIONS: dict[Function, Rule] = {
    Function.RELU: rescale_relu,
    Function.QUOTIENT: quotient,
    Function.BIVARIATE: bivariate,
    Function.SOFTMAX: softmax,
    Function.LOG_SOFTMAX: log_softmax,
    Function.LOG_SUM_EXP: log_sum_exp,
    Function.IDENTITY: identity,
}


@dataclass(frozen=True)
class Differences(RuleSet):
    """A table of DeepLIFT; on products it marks the factors that only rescale the other one."""

    def prepare(self, graph: Graph, wrt: Sequence[Value]) -> Graph:
        return rewrite_regions.mark_rescaling(graph, wrt)


RESCALE = Differences("deeplift_rescale", _ROLES, _FUNCTIONS, contrast=True, elementary=True)


# --- RevealCancel: positive and negative differences carried apart ---------------------------


@dataclass(frozen=True)
class Split:
    """Two arrays, one for the positive and one for the negative part of each difference."""

    positive: Array
    negative: Array

    def __add__(self, other: Split) -> Split:
        return Split(self.positive + other.positive, self.negative + other.negative)

    def swapped(self, ops: Ops, keep: Array) -> Split:
        """The two parts, exchanged where ``keep`` is False."""
        positive = ops.where(keep, self.positive, self.negative)
        return Split(positive, ops.where(keep, self.negative, self.positive))

    def by_sign(self, ops: Ops, difference: Array) -> Array:
        """One multiplier for each whole difference: that of its sign; the mean of both where it is 0."""
        mean = (self.positive + self.negative) * 0.5
        return ops.where(difference > 0, self.positive, ops.where(difference < 0, self.negative, mean))

    def total(self, parts: Split) -> Array:
        """Σ multiplier · part."""
        return self.positive * parts.positive + self.negative * parts.negative


def signs(ops: Ops, difference: Array) -> Split:
    nothing = ops.zeros_like(difference)
    return Split(ops.maximum(difference, nothing), ops.minimum(difference, nothing))


def split_by_sign(ops: Ops, at: Site) -> Sequence[Split]:
    return [signs(ops, y - y_r) for y, y_r in zip(at.y, at.y_r, strict=True)]


def _weighted(ops: Ops, at: Site, x: Array, sign: int) -> Any:
    """The linear map of ``x`` with the positive or the negative weights only, without bias."""
    weight = at.operand(at.node.attributes.weight)
    nothing = ops.zeros_like(weight)
    given = {at.places[0]: x, at.node.attributes.weight: (ops.maximum if sign > 0 else ops.minimum)(weight, nothing)}
    if at.node.attributes.bias is not None:
        given[at.node.attributes.bias] = ops.zeros_like(at.operand(at.node.attributes.bias))
    return at.apply(given)


def split_weighted(ops: Ops, at: Site) -> Sequence[Split]:
    """Δy⁺ = Δx₊W₊ + Δx₋W₋ and Δy⁻ = Δx₊W₋ + Δx₋W₊, where ± is the sign of the whole Δx."""
    parts = signs(ops, at.x[0] - at.x_r[0])
    up = _weighted(ops, at, parts.positive, 1)[0][0] + _weighted(ops, at, parts.negative, -1)[0][0]
    down = _weighted(ops, at, parts.positive, -1)[0][0] + _weighted(ops, at, parts.negative, 1)[0][0]
    return [Split(up, down)]


def reveal_weighted(ops: Ops, at: Site) -> Sequence[Split | None]:
    m = at.message[0]
    _, up = _weighted(ops, at, at.x[0], 1)
    _, down = _weighted(ops, at, at.x[0], -1)
    rising = up([m.positive])[0] + down([m.negative])[0]
    falling = down([m.positive])[0] + up([m.negative])[0]
    whole = Split(rising, falling).by_sign(ops, at.x[0] - at.x_r[0])
    return [Split(whole, whole)]


def _signed(ops: Ops, at: Site) -> list[Array]:
    """For each active input of a map without weights: whether its contribution to the outputs has the input's sign."""
    slopes = at.pullback([ops.ones_like(y) for y in at.y])
    return [ops.zeros_like(x) >= 0 if slope is None else slope >= 0 for slope, x in zip(slopes, at.x, strict=True)]


def split_linear(ops: Ops, at: Site) -> Sequence[Split]:
    """Each part passes through separately; the parts are exchanged where the map flips the sign."""
    ordered = [part.swapped(ops, keep) for part, keep in zip(at.split, _signed(ops, at), strict=True)]
    still, _ = at.apply({place: ops.zeros_like(x) for place, x in zip(at.places, at.x, strict=True)})
    up, _ = at.apply({place: part.positive for place, part in zip(at.places, ordered, strict=True)})
    down, _ = at.apply({place: part.negative for place, part in zip(at.places, ordered, strict=True)})
    return [Split(a - c, b - c) for a, b, c in zip(up, down, still, strict=True)]


def reveal_linear(ops: Ops, at: Site) -> Sequence[Split | None]:
    up = at.pullback([m if m is None else m.positive for m in at.message])
    down = at.pullback([m if m is None else m.negative for m in at.message])
    return [
        None if a is None or b is None else Split(a, b).swapped(ops, keep)
        for a, b, keep in zip(up, down, _signed(ops, at), strict=True)
    ]


def _parts(ops: Ops, at: Site) -> Split:
    """Δx⁺ and Δx⁻; a part within the rounding of the other and of r counts as 0."""
    part = at.split[0]
    rise, fall = ops.absolute(part.positive), ops.absolute(part.negative)
    least = (ops.absolute(at.x_r[0]) + rise + fall) * (ROUNDING * ops.epsilon(rise))
    return Split(ops.zeroed(part.positive, rise <= least), ops.zeroed(part.negative, fall <= least))


def split_revealed(ops: Ops, at: Site) -> Sequence[Split]:
    return [_revealed(ops, at)[0]]


def _revealed(ops: Ops, at: Site) -> tuple[Split, Array]:
    """Δy⁺ = ½[f(r+Δ⁺) − f(r) + f(x) − f(r+Δ⁻)], Δy⁻ = ½[f(r+Δ⁻) − f(r) + f(x) − f(r+Δ⁺)] (eq. in 3.5.3).

    Rescale where f is not defined at r+Δ⁺ or r+Δ⁻ (a logarithm, a square root), or where it is far larger there than
    f(x) and f(r) (an exponential, a reciprocal). Also returns the magnitude of the subtracted values.
    """
    part, r, y, y_r = _parts(ops, at), at.x_r[0], at.y[0], at.y_r[0]
    (rising, *_), _ = at.apply(dict.fromkeys(at.places, r + part.positive))
    (falling, *_), _ = at.apply(dict.fromkeys(at.places, r + part.negative))
    up, down = (rising - y_r + y - falling) * 0.5, (falling - y_r + y - rising) * 0.5
    size, ratio = ops.absolute(y) + ops.absolute(y_r), _ratio(ops, at)[0]
    largest = ops.maximum(ops.absolute(rising), ops.absolute(falling))
    defined = largest <= FARTHEST * size if at.node.function is Function.ARITHMETIC else largest < math.inf
    no_rise, no_fall = ops.equal(part.positive, 0), ops.equal(part.negative, 0)
    up, down = ops.where(no_fall, y - y_r, up), ops.where(no_rise, y - y_r, down)  # all of Δy, where one part is 0
    up = ops.zeroed(ops.where(defined, up, part.positive * ratio), no_rise)
    down = ops.zeroed(ops.where(defined, down, part.negative * ratio), no_fall)
    made = Split(up, down)
    return made, ops.where(defined, 2 * largest + size, size)


def revealcancel(ops: Ops, at: Site) -> Sequence[Split | None]:
    """m⁺·Δy⁺/Δx⁺ and m⁻·Δy⁻/Δx⁻."""
    m, part = at.message[0], _parts(ops, at)
    made, size = _revealed(ops, at)
    slope, *again = derivative(at, ops.midway(at.x[0], at.x_r[0]), ops.ones_like(at.y[0]))
    up = m.positive * divided(ops, made.positive, part.positive, slope, size)
    down = m.negative * divided(ops, made.negative, part.negative, slope, size)
    return [Split(up, down), *again]


def split_rescaled(ops: Ops, at: Site) -> Sequence[Split]:
    """Δy± = Δx±·Δy/Δx."""
    ratio, part = _ratio(ops, at)[0], at.split[0]
    return [Split(part.positive * ratio, part.negative * ratio).swapped(ops, ratio >= 0)]


def rescaled(ops: Ops, at: Site) -> Sequence[Split | None]:
    m = at.message[0]
    ratio, *again = _ratio(ops, at)
    m = m.swapped(ops, ratio >= 0)
    return [Split(m.positive * ratio, m.negative * ratio), *again]


def split_behind_dense(ops: Ops, at: Site) -> Sequence[Split]:
    return (split_revealed if at.node.attributes.behind is Function.DENSE else split_rescaled)(ops, at)


def behind_dense(ops: Ops, at: Site) -> Sequence[Split | None]:
    """RevealCancel behind dense layers, else Rescale."""
    return (revealcancel if at.node.attributes.behind is Function.DENSE else rescaled)(ops, at)


def whole(rule: Rule) -> Rule:
    """Adapt a rule for whole differences to differences in two parts: both parts get its multiplier."""

    def passed(ops: Ops, at: Site) -> Sequence[Split | None]:
        pairs = zip(at.message, at.y, at.y_r, strict=False)
        single = [m if m is None else m.by_sign(ops, y - y_r) for m, y, y_r in pairs]
        single += [None] * (len(at.message) - len(single))
        found = rule(ops, dataclasses.replace(at, message=tuple(single)))
        return [m if m is None else Split(m, m) for m in found]

    passed.__name__ = rule.__name__
    return passed


_WHOLE = (
    Function.QUOTIENT, Function.BIVARIATE, Function.SOFTMAX, Function.LOG_SOFTMAX, Function.LOG_SUM_EXP,
)  # fmt: skip
_SPLITS: dict[Role | Function, Callable[[Any, Site], Sequence[Split]]] = {
    **dict.fromkeys(_ROLES, split_by_sign),
    **dict.fromkeys(_WHOLE, split_by_sign),
    **dict.fromkeys((Role.LINEAR, Role.GATHER, Function.IDENTITY), split_linear),
    **dict.fromkeys((Function.DENSE, Function.CONV), split_weighted),
}
_REVEAL_FUNCTIONS: dict[Function, Rule] = {
    **{function: whole(_FUNCTIONS[function]) for function in _WHOLE},
    Function.IDENTITY: identity,
    Function.DENSE: reveal_weighted,
    Function.CONV: reveal_weighted,
}
_REVEAL_ROLES: dict[Role, Rule] = {
    **{role: whole(rule) for role, rule in _ROLES.items()},
    Role.LINEAR: reveal_linear,
    Role.GATHER: reveal_linear,
}

REVEALCANCEL = Differences(
    "deeplift_revealcancel", {**_REVEAL_ROLES, Role.UNIVARIATE: revealcancel}, _REVEAL_FUNCTIONS,
    contrast=True, elementary=True, splits={**_SPLITS, Role.UNIVARIATE: split_revealed},
)  # fmt: skip
GENOMICS = Differences(
    "deeplift_genomics", {**_REVEAL_ROLES, Role.UNIVARIATE: behind_dense}, _REVEAL_FUNCTIONS,
    contrast=True, elementary=True, splits={**_SPLITS, Role.UNIVARIATE: split_behind_dense},
)  # fmt: skip

"""DeepLIFT: multipliers m = contribution/Δ, where Δ is a value minus its value at the reference.

Shrikumar, Greenside and Kundaje 2017, "Learning Important Features Through Propagating Activation
Differences": the linear rule (3.5.1), the Rescale rule (3.5.2) and RevealCancel (3.5.3). Products are
shared like two-player Shapley values (their appendix and Lundberg and Lee 2017, section 4.2); the
other functions are made of these, so that Σ m·Δ is the same before and behind every operation.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from ..graph import Role
from .base import Array, Rule, RuleSet, Site, passing

SMALLEST = {"float64": 1e-12, "float32": 1e-7}  # of |Δx| below which the derivative stands for Δy/Δx


@passing
def linear(ops: Any, at: Site) -> Sequence[Array | None]:
    """The operation's own vector–Jacobian product: biases cancel in Δ."""
    return at.pullback(at.message)


@passing
def identity(ops: Any, at: Site) -> Sequence[Array | None]:
    return [at.message[0]]


def divided(ops: Any, numerator: Array, difference: Array, slope: Array) -> Array:
    """numerator/difference; ``slope`` where the difference is too small."""
    near = ops.absolute(difference) < SMALLEST[ops.wide(difference)]
    return ops.where(near, slope, numerator / difference)


def rescale(ops: Any, at: Site) -> Sequence[Array | None]:
    """m·Δy/Δx, with the derivative midway between input and reference where Δx vanishes."""
    x, r, m = at.x[0], at.x_r[0], at.message[0]
    slope, *again = derivative(at, (x + r) * 0.5, m)
    share = m * (at.y[0] - at.y_r[0])
    if at.broadcasts:  # c/x with c of more axes: what x adds at all of its places
        share = ops.sum_like(share, x - r)
    return [divided(ops, share, x - r, slope), *again]


def derivative(at: Site, point: Array, message: Array) -> list[Any]:
    """A univariate operation's vector–Jacobian product at ``point``; x·x has its operand twice, the sum comes first."""
    _, pullback = at.apply(dict.fromkeys(at.places, point))
    parts: list[Any] = list(pullback([message]))
    return [sum(parts[1:], parts[0]), *[None] * (len(parts) - 1)]


def rescale_relu(ops: Any, at: Site) -> Sequence[Array | None]:
    """Rescale for ReLU, whose Δy/Δx is exact however small Δx; [y > 0] where Δx = 0."""
    dx = at.x[0] - at.x_r[0]
    ratio = (at.y[0] - at.y_r[0]) / dx
    return [ops.where(dx == 0, ops.signum(at.y[0]), ratio) * at.message[0]]


def product(ops: Any, at: Site) -> Sequence[Array | None]:
    """The vector–Jacobian product midway: exact for everything quadratic. m_x = m·(y + y_r)/2."""
    middle = {place: (x + r) * 0.5 for place, x, r in zip(at.places, at.x, at.x_r, strict=True)}
    _, pullback = at.apply(middle)
    return pullback(at.message)


def quotient(ops: Any, at: Site) -> Sequence[Array | None]:
    """x/y as the product of x and 1/y: m_x = m·(1/y + 1/y_r)/2, m_y = −m·(x + x_r)/2/(y·y_r)."""
    if len(at.places) == 1:  # the other operand is the same at the reference
        return product(ops, at) if at.places[0] == 0 else rescale(ops, at)
    (x, y), (x_r, y_r), m = at.x, at.x_r, at.message[0]
    down = (1 / y + 1 / y_r) * 0.5
    to_x = ops.sum_like(m * down, x + x_r)
    to_y = ops.sum_like(-m * ((x + x_r) * 0.5) / (y * y_r), y + y_r)
    return [to_x, to_y]


def bivariate(ops: Any, at: Site) -> Sequence[Array | None]:
    """Any f(x, y), shared like a product: m_x = m·½[f(x,y) − f(x_r,y) + f(x,y_r) − f(x_r,y_r)]/(x − x_r)."""
    (first, second), (x, y), (x_r, y_r), m = at.places, at.x, at.x_r, at.message[0]
    ((low_y, *_), _), ((low_x, *_), _) = at.apply({second: y_r}), at.apply({first: x_r})
    _, pullback = at.apply({first: (x + x_r) * 0.5, second: (y + y_r) * 0.5})
    whole, across = at.y[0] - at.y_r[0], low_y - low_x
    shares = (ops.sum_like(m * part * 0.5, like) for part, like in ((whole + across, x), (whole - across, y)))
    pairs = zip(shares, at.x, at.x_r, pullback([m]), strict=True)
    return [divided(ops, share, x - r, slope) for share, x, r, slope in pairs]


def extreme(ops: Any, at: Site) -> Sequence[Array | None]:
    """Maximum or minimum: m·Δy goes to the winner of x or, where that is farther out, of the reference.

    With M = max(y, y_r), m·(M−y_r) belongs to the entries where x has its maximum and m·(y−M) to those
    where the reference has; one of the two is 0.
    """
    y, y_r, m = at.y[0], at.y_r[0], at.message[0]
    from_x = y < y_r if at.node.function == "minimum" else y > y_r
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


def softmax(ops: Any, at: Site) -> Sequence[Array | None]:
    """exp, sum, reciprocal and product, with one shift for input and reference.

    With e = exp(x−c), S = Σe: the product e·(1/S) gives m_e = m·(1/S + 1/S_r)/2 and the reciprocal
    m_S = −Σ m·(e + e_r)/2 / (S·S_r).
    """
    e, e_r, total, total_r, back = _exponentials(ops, at)
    m = at.message[0]
    shared = ops.reduce_sum(m * (e + e_r), at.node.attributes["axis"]) * 0.5 / (total * total_r)
    return [back(m * ((1 / total + 1 / total_r) * 0.5) - shared)]


def log_softmax(ops: Any, at: Site) -> Sequence[Array | None]:
    """x − log Σ exp(x): linear in x, Rescale at the logarithm and the exponentials."""
    _, _, total, total_r, back = _exponentials(ops, at)
    m = at.message[0]
    slope = divided(ops, ops.log(total) - ops.log(total_r), total - total_r, 2 / (total + total_r))
    return [m + back(-ops.reduce_sum(m, at.node.attributes["axis"]) * slope)]


def _exponentials(ops: Any, at: Site) -> Any:
    """exp(x−c) and exp(r−c), their sums, and the Rescale of the exponential."""
    axis = at.node.attributes["axis"]
    x, r = at.x[0], at.x_r[0]
    shift = ops.maximum(ops.reduce_max(x, axis), ops.reduce_max(r, axis))
    x, r = x - shift, r - shift
    e, e_r = ops.exp(x), ops.exp(r)
    same = e == e_r  # also where both are masked out with −∞
    difference = ops.where(same, ops.zeros_like(x + r), x - r)
    middle = ops.where(same, e + ops.zeros_like(r), ops.exp((x + r) * 0.5))

    def back(message: Array) -> Array:
        return message * divided(ops, e - e_r, difference, middle)

    return e, e_r, ops.reduce_sum(e, axis), ops.reduce_sum(e_r, axis), back


_ROLES: dict[Role, Rule] = {
    Role.LINEAR: linear,
    Role.GATHER: linear,
    Role.UNIVARIATE: rescale,
    Role.PRODUCT: product,
    Role.BILINEAR: product,
    Role.MAX_POOL: extreme,
    Role.REDUCE_MAX: extreme,
}
_FUNCTIONS: dict[str, Rule] = {
    "relu": rescale_relu,
    "quotient": quotient,
    "bivariate": bivariate,
    "softmax": softmax,
    "log_softmax": log_softmax,
    "stop_gradient": identity,
}

RESCALE = RuleSet("deeplift_rescale", _ROLES, _FUNCTIONS, contrast=True, elementary=True)


# --- RevealCancel: positive and negative differences carried apart ---------------------------


@dataclass(frozen=True)
class Split:
    """Two arrays: for, or of, the positive and the negative part of each difference."""

    positive: Array
    negative: Array

    def __add__(self, other: Split) -> Split:
        return Split(self.positive + other.positive, self.negative + other.negative)

    def swapped(self, ops: Any, keep: Array) -> Split:
        """The parts exchanged where ``keep`` is False."""
        positive = ops.where(keep, self.positive, self.negative)
        return Split(positive, ops.where(keep, self.negative, self.positive))

    def by_sign(self, ops: Any, difference: Array) -> Array:
        """One multiplier for each whole difference: its sign says which; the mean of both where it is 0."""
        mean = (self.positive + self.negative) * 0.5
        return ops.where(difference > 0, self.positive, ops.where(difference < 0, self.negative, mean))

    def total(self, parts: Split) -> Array:
        """Σ multiplier · part."""
        return self.positive * parts.positive + self.negative * parts.negative


def signs(ops: Any, difference: Array) -> Split:
    nothing = ops.zeros_like(difference)
    return Split(ops.maximum(difference, nothing), ops.minimum(difference, nothing))


def split_by_sign(ops: Any, at: Site) -> Sequence[Split]:
    return [signs(ops, y - y_r) for y, y_r in zip(at.y, at.y_r, strict=True)]


def _weighted(ops: Any, at: Site, x: Array, sign: int) -> Any:
    """The linear map of ``x`` with the positive or the negative weights only, without bias."""
    weight = at.operand(at.node.attributes["weight"])
    nothing = ops.zeros_like(weight)
    given = {at.places[0]: x, at.node.attributes["weight"]: (ops.maximum if sign > 0 else ops.minimum)(weight, nothing)}
    if "bias" in at.node.attributes:
        given[at.node.attributes["bias"]] = ops.zeros_like(at.operand(at.node.attributes["bias"]))
    return at.apply(given)


def split_weighted(ops: Any, at: Site) -> Sequence[Split]:
    """Δy⁺ = Δx₊W₊ + Δx₋W₋ and Δy⁻ = Δx₊W₋ + Δx₋W₊, where ± is the sign of the whole Δx."""
    parts = signs(ops, at.x[0] - at.x_r[0])
    up = _weighted(ops, at, parts.positive, 1)[0][0] + _weighted(ops, at, parts.negative, -1)[0][0]
    down = _weighted(ops, at, parts.positive, -1)[0][0] + _weighted(ops, at, parts.negative, 1)[0][0]
    return [Split(up, down)]


def reveal_weighted(ops: Any, at: Site) -> Sequence[Split | None]:
    m = at.message[0]
    _, up = _weighted(ops, at, at.x[0], 1)
    _, down = _weighted(ops, at, at.x[0], -1)
    rising = up([m.positive])[0] + down([m.negative])[0]
    falling = down([m.positive])[0] + up([m.negative])[0]
    whole = Split(rising, falling).by_sign(ops, at.x[0] - at.x_r[0])
    return [Split(whole, whole)]


def _signed(ops: Any, at: Site) -> list[Array]:
    """For each active input whether what it adds to the outputs has its own sign: of a map without weights."""
    slopes = at.pullback([ops.ones_like(y) for y in at.y])
    return [ops.zeros_like(x) >= 0 if slope is None else slope >= 0 for slope, x in zip(slopes, at.x, strict=True)]


def split_linear(ops: Any, at: Site) -> Sequence[Split]:
    """The parts go through on their own; exchanged where the map turns the sign."""
    ordered = [part.swapped(ops, keep) for part, keep in zip(at.split, _signed(ops, at), strict=True)]
    still, _ = at.apply({place: ops.zeros_like(x) for place, x in zip(at.places, at.x, strict=True)})
    up, _ = at.apply({place: part.positive for place, part in zip(at.places, ordered, strict=True)})
    down, _ = at.apply({place: part.negative for place, part in zip(at.places, ordered, strict=True)})
    return [Split(a - c, b - c) for a, b, c in zip(up, down, still, strict=True)]


def reveal_linear(ops: Any, at: Site) -> Sequence[Split | None]:
    up = at.pullback([m if m is None else m.positive for m in at.message])
    down = at.pullback([m if m is None else m.negative for m in at.message])
    return [
        None if a is None or b is None else Split(a, b).swapped(ops, keep)
        for a, b, keep in zip(up, down, _signed(ops, at), strict=True)
    ]


def split_revealed(ops: Any, at: Site) -> Sequence[Split]:
    """Δy⁺ = ½[f(r+Δ⁺) − f(r) + f(x) − f(r+Δ⁻)], Δy⁻ = ½[f(r+Δ⁻) − f(r) + f(x) − f(r+Δ⁺)] (eq. in 3.5.3).

    Rescale where f is not defined at r+Δ⁺ or r+Δ⁻: a logarithm, a square root.
    """
    part, r, y, y_r = at.split[0], at.x_r[0], at.y[0], at.y_r[0]
    (rising, *_), _ = at.apply(dict.fromkeys(at.places, r + part.positive))
    (falling, *_), _ = at.apply(dict.fromkeys(at.places, r + part.negative))
    up, down = (rising - y_r + y - falling) * 0.5, (falling - y_r + y - rising) * 0.5
    defined, ratio = ops.absolute(up) < math.inf, _ratio(ops, at)[0]
    return [Split(ops.where(defined, up, part.positive * ratio), ops.where(defined, down, part.negative * ratio))]


def revealcancel(ops: Any, at: Site) -> Sequence[Split | None]:
    """m⁺·Δy⁺/Δx⁺ and m⁻·Δy⁻/Δx⁻."""
    m, part = at.message[0], at.split[0]
    (made,) = split_revealed(ops, at)
    slope, *again = derivative(at, (at.x[0] + at.x_r[0]) * 0.5, ops.ones_like(at.y[0]))
    up = m.positive * divided(ops, made.positive, part.positive, slope)
    down = m.negative * divided(ops, made.negative, part.negative, slope)
    return [Split(up, down), *again]


def _ratio(ops: Any, at: Site) -> list[Any]:
    slope, *again = derivative(at, (at.x[0] + at.x_r[0]) * 0.5, ops.ones_like(at.y[0]))
    return [divided(ops, at.y[0] - at.y_r[0], at.x[0] - at.x_r[0], slope), *again]


def split_rescaled(ops: Any, at: Site) -> Sequence[Split]:
    """Δy± = Δx±·Δy/Δx."""
    ratio, part = _ratio(ops, at)[0], at.split[0]
    return [Split(part.positive * ratio, part.negative * ratio).swapped(ops, ratio >= 0)]


def rescaled(ops: Any, at: Site) -> Sequence[Split | None]:
    m = at.message[0]
    ratio, *again = _ratio(ops, at)
    m = m.swapped(ops, ratio >= 0)
    return [Split(m.positive * ratio, m.negative * ratio), *again]


def split_behind_dense(ops: Any, at: Site) -> Sequence[Split]:
    return (split_revealed if at.node.attributes.get("behind") == "dense" else split_rescaled)(ops, at)


def behind_dense(ops: Any, at: Site) -> Sequence[Split | None]:
    """RevealCancel behind dense layers, else Rescale."""
    return (revealcancel if at.node.attributes.get("behind") == "dense" else rescaled)(ops, at)


def whole(rule: Rule) -> Rule:
    """A rule for whole differences, between values whose parts were split by the sign of the difference."""

    def passed(ops: Any, at: Site) -> Sequence[Split | None]:
        pairs = zip(at.message, at.y, at.y_r, strict=False)
        single = [m if m is None else m.by_sign(ops, y - y_r) for m, y, y_r in pairs]
        single += [None] * (len(at.message) - len(single))
        found = rule(ops, dataclasses.replace(at, message=tuple(single)))
        return [m if m is None else Split(m, m) for m in found]

    passed.__name__ = rule.__name__
    return passed


_SPLITS: dict[Role | str, Callable[[Any, Site], Sequence[Split]]] = {
    **dict.fromkeys(_ROLES, split_by_sign),
    **dict.fromkeys(("quotient", "bivariate", "softmax", "log_softmax"), split_by_sign),
    **dict.fromkeys((Role.LINEAR, Role.GATHER, "stop_gradient"), split_linear),
    **dict.fromkeys(("dense", "conv"), split_weighted),
}
_REVEAL_FUNCTIONS: dict[str, Rule] = {
    "quotient": whole(quotient),
    "bivariate": whole(bivariate),
    "softmax": whole(softmax),
    "log_softmax": whole(log_softmax),
    "stop_gradient": identity,
    "dense": reveal_weighted,
    "conv": reveal_weighted,
}
_REVEAL_ROLES: dict[Role, Rule] = {
    **{role: whole(rule) for role, rule in _ROLES.items()},
    Role.LINEAR: reveal_linear,
    Role.GATHER: reveal_linear,
}

REVEALCANCEL = RuleSet(
    "deeplift_revealcancel", {**_REVEAL_ROLES, Role.UNIVARIATE: revealcancel}, _REVEAL_FUNCTIONS,
    contrast=True, elementary=True, splits={**_SPLITS, Role.UNIVARIATE: split_revealed},
)  # fmt: skip
GENOMICS = RuleSet(
    "deeplift_genomics", {**_REVEAL_ROLES, Role.UNIVARIATE: behind_dense}, _REVEAL_FUNCTIONS,
    contrast=True, elementary=True, splits={**_SPLITS, Role.UNIVARIATE: split_behind_dense},
)  # fmt: skip

"""DeepLIFT: multipliers m = contribution/Δ, where Δ is a value minus its value at the reference.

Shrikumar, Greenside and Kundaje 2017, "Learning Important Features Through Propagating Activation
Differences": the linear rule (3.5.1), the Rescale rule (3.5.2) and RevealCancel (3.5.3). Products are
shared like two-player Shapley values (their appendix and Lundberg and Lee 2017, section 4.2); the
other functions are made of these, so that Σ m·Δ is the same before and behind every operation.
"""

from __future__ import annotations

from collections.abc import Sequence
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
    return ops.where(near, slope, numerator / ops.where(near, ops.ones_like(difference), difference))


def rescale(ops: Any, at: Site) -> Sequence[Array | None]:
    """m·Δy/Δx, with the derivative midway between input and reference where Δx vanishes."""
    x, r, m = at.x[0], at.x_r[0], at.message[0]
    slope, *again = derivative(at, (x + r) * 0.5, m)
    return [divided(ops, m * (at.y[0] - at.y_r[0]), x - r, slope), *again]


def derivative(at: Site, point: Array, message: Array) -> list[Array | None]:
    """A univariate operation's vector–Jacobian product at ``point``; x·x has its operand twice, the sum comes first."""
    _, pullback = at.apply(dict.fromkeys(at.places, point))
    first, *more = pullback([message])
    for part in more:
        first = first + part
    return [first, *[None] * len(more)]


def rescale_relu(ops: Any, at: Site) -> Sequence[Array | None]:
    """Rescale, with the derivative of ReLU midway written out."""
    x, r, m = at.x[0], at.x_r[0], at.message[0]
    return [m * divided(ops, at.y[0] - at.y_r[0], x - r, ops.cast_like(x + r > 0, m))]


def product(ops: Any, at: Site) -> Sequence[Array | None]:
    """The vector–Jacobian product midway: exact for everything quadratic. m_x = m·(y + y_r)/2."""
    middle = {place: (x + r) * 0.5 for place, x, r in zip(at.places, at.x, at.x_r, strict=True)}
    _, pullback = at.apply(middle)
    return pullback(at.message)


def quotient(ops: Any, at: Site) -> Sequence[Array | None]:
    """x/y as the product of x and 1/y: m_x = m·(1/y + 1/y_r)/2, m_y = −m·(x + x_r)/2/(y·y_r)."""
    (x, y), (x_r, y_r), m = at.x, at.x_r, at.message[0]
    down = (1 / y + 1 / y_r) * 0.5
    to_x = ops.sum_like(m * down, x + x_r)
    to_y = ops.sum_like(-m * ((x + x_r) * 0.5) / (y * y_r), y + y_r)
    return [to_x, to_y]


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
        routed = [a + b for a, b in parts]
    return [
        divided(ops, part, x - r, ops.zeros_like(part)) for part, x, r in zip(routed, at.x, at.x_r, strict=True)
    ]


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
    "softmax": softmax,
    "log_softmax": log_softmax,
    "stop_gradient": identity,
}

RESCALE = RuleSet("deeplift_rescale", _ROLES, _FUNCTIONS, contrast=True, elementary=True)

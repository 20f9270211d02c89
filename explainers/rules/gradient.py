"""Derivatives, and variants that change the backward pass of ReLU.

gradient: chain rule. guided_backprop: m·[x>0]·[m>0] (Springenberg et al. 2015, section 3).
deconvnet: m·[m>0] (Zeiler and Fergus 2014, section 2.1). zero: every activation's derivative is 0.
"""

from __future__ import annotations

from collections.abc import Sequence

from ..graph import Function, Role
from ..ops import Ops
from .base import Array, RuleSet, Site, passing


@passing
def vjp(ops: Ops, at: Site) -> Sequence[Array | None]:
    return at.pullback(at.message)


def stop(ops: Ops, at: Site) -> Sequence[Array | None]:
    return [None] * len(at.x)


def guided_relu(ops: Ops, at: Site) -> Sequence[Array | None]:
    m: Array = at.message[0]
    return [ops.where((at.x[0] > 0) & (m > 0), m, ops.zeros_like(m))]


def deconv_relu(ops: Ops, at: Site) -> Sequence[Array | None]:
    m: Array = at.message[0]
    return [ops.where(m > 0, m, ops.zeros_like(m))]


_CHAIN = dict.fromkeys(set(Role) - {Role.INPUT, Role.WEIGHT, Role.CONSTANT}, vjp)
_OWN = {Function.OWN_DERIVATIVE: "its derivative is defined by the model: rules for activations do not apply inside"}

GRADIENT = RuleSet("gradient", _CHAIN, complex=True)
GUIDED_BACKPROP = RuleSet(
    "guided_backprop", _CHAIN, {Function.RELU: guided_relu}, reorders=False, complex=True, refuses=_OWN
)
DECONVNET = RuleSet("deconvnet", _CHAIN, {Function.RELU: deconv_relu}, reorders=False, complex=True, refuses=_OWN)
ZERO = RuleSet("zero", {**_CHAIN, Role.UNIVARIATE: stop}, complex=True, refuses=_OWN)

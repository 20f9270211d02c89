"""Methods of influence, as values: how the inverse of the curvature H is approximated.

The influence of a training sample j on a test sample t is g_tᵀ·(H + λ)⁻¹·g_j, of the derivatives g of their losses
(Koh and Liang 2017, eq. 2, with the other sign): positive if training on j lowers the loss of t. Without j, the loss of
t rises by that, divided by the number of training samples, to first order. H is the generalized Gauss–Newton matrix,
the mean over the training samples.
"""

from __future__ import annotations

from typing import Any

from ...errors import InputError, UnknownNameError
from .base import InfluenceMethod, State
from .derivatives import TRAK, GradientSimilarity, HarmonicMean, TracIn
from .kronecker import EKFAC, KFAC
from .whole import Arnoldi, ConjugateGradient, GaussNewton, LiSSA, Nystroem

__all__ = [
    "EKFAC", "KFAC", "METHODS", "TRAK", "Arnoldi", "ConjugateGradient", "GaussNewton", "GradientSimilarity",
    "HarmonicMean", "InfluenceMethod", "LiSSA", "Nystroem", "State", "TracIn", "resolve",
]  # fmt: skip

#: The methods by name.
METHODS: dict[str, type[InfluenceMethod]] = {
    kind.name: kind
    for kind in (
        EKFAC, KFAC, GaussNewton, ConjugateGradient, Nystroem, Arnoldi, LiSSA, HarmonicMean, GradientSimilarity, TracIn,
        TRAK,
    )
}  # fmt: skip


def resolve(method: Any) -> InfluenceMethod:
    """The method by name or as a value.

    Raises
    ------
    UnknownNameError, InputError
    """
    if isinstance(method, InfluenceMethod):
        return method
    if isinstance(method, type) and issubclass(method, InfluenceMethod):
        return method()
    if isinstance(method, str):
        if method not in METHODS:
            raise UnknownNameError.among("method", method, METHODS)
        return METHODS[method]()
    raise InputError(f"method is a {type(method).__name__}; give one of {', '.join(METHODS)}, or a value of them")

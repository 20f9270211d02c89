"""Influence of training samples: which of them lower, or raise, the loss of a test.

``Influence.compile(model, loss).fit(train)`` gives a function of tests and training samples. See
:mod:`explainers.influence.methods` for how the curvature is approximated, and ``docs/influence.md`` for which to take.
"""

from ..losses import BinaryCrossEntropy, CrossEntropy, Loss, SquaredError
from .compiled import Factors, FittedInfluence, Influence
from .methods import (
    EKFAC,
    KFAC,
    METHODS,
    TRAK,
    Arnoldi,
    ConjugateGradient,
    GaussNewton,
    GradientSimilarity,
    HarmonicMean,
    InfluenceMethod,
    LiSSA,
    Nystroem,
    TracIn,
)
from .scores import Scores, Top

__all__ = [
    "EKFAC", "KFAC", "METHODS", "TRAK", "Arnoldi", "BinaryCrossEntropy", "ConjugateGradient", "CrossEntropy", "Factors",
    "FittedInfluence", "GaussNewton", "GradientSimilarity", "HarmonicMean", "Influence", "InfluenceMethod", "LiSSA",
    "Loss", "Nystroem", "Scores", "SquaredError", "Top", "TracIn",
]  # fmt: skip

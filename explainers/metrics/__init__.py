"""Metrics of attributions, as values, and their evaluation with intervals, controls and tests."""

from __future__ import annotations

from typing import Any

from ..errors import InputError, UnknownNameError
from .axioms import Completeness, Consistency, InputInvariance
from .base import Demand, Metric, Work
from .complexity import EffectiveComplexity, Entropy, Sparseness
from .evaluating import evaluate
from .evaluation import Evaluation, Test
from .faithfulness import (
    ABPC,
    IROF,
    ROAD,
    Deletion,
    FaithfulnessCorrelation,
    FaithfulnessEstimate,
    Infidelity,
    Insertion,
    MonotonicityCorrelation,
    NonSensitivity,
    SensitivityN,
)
from .localization import LocalizationAUC, PointingGame, RelevanceMass, RelevanceRank, TopK
from .randomization import ModelRandomization, TargetRandomization
from .robustness import LocalLipschitz, RelativeInputStability, RelativeOutputStability, Sensitivity
from .statistics import Interval

_KINDS = (
    Deletion, Insertion, ABPC, IROF, ROAD, FaithfulnessCorrelation, SensitivityN, Infidelity, FaithfulnessEstimate,
    MonotonicityCorrelation, NonSensitivity, Sensitivity, LocalLipschitz, RelativeInputStability,
    RelativeOutputStability, ModelRandomization, TargetRandomization, Completeness, InputInvariance, Consistency,
    PointingGame, TopK, RelevanceMass, RelevanceRank, LocalizationAUC, Sparseness, Entropy, EffectiveComplexity,
)  # fmt: skip
METRICS: dict[str, type[Metric]] = {kind.name: kind for kind in _KINDS}

__all__ = [
    "Demand", "Evaluation", "Interval", "Metric", "Test", "Work", "evaluate", "resolve",
    *(kind.__name__ for kind in _KINDS),
]  # fmt: skip


def resolve(metric: Any) -> Metric:
    """A metric by its name, its class, or as the value that it is.

    Raises
    ------
    UnknownNameError, InputError
    """
    if isinstance(metric, str):
        if metric not in METRICS:
            raise UnknownNameError.among("metric", metric, METRICS)
        return METRICS[metric]()
    if isinstance(metric, type) and issubclass(metric, Metric):
        return metric()
    if not isinstance(metric, Metric):
        raise InputError(f"{metric!r} is no metric: give a name or a value of explainers.metrics")
    return metric

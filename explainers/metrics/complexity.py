"""Metrics of complexity: on how few features does an explanation lie?"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from ..errors import InputError
from ..spec import Numpy
from .base import Metric, Work

ZERO = "the attribution is 0 everywhere"


@dataclass(frozen=True)
class Sparseness(Metric):
    """The Gini index of |φ|: 0 for equal entries, (G − 1)/G for a single one. Higher is sparser.

    Chalasani et al. 2020, "Concise Explanations of Neural Networks using Adversarial Training", section 5; Hurley and
    Rickard 2009: 1 − 2·Σ_k |φ|_(k)/‖φ‖₁·(G − k + ½)/G over ascending entries.
    """

    name: ClassVar[str] = "sparseness"
    signed: ClassVar[bool] = False
    bounds: ClassVar[tuple[float, float]] = (0.0, 1.0)
    undefined: ClassVar[str] = ZERO

    def score(self, work: Work, method: str) -> Numpy:
        share = _shares(work.of_features(method))
        count = share.shape[1]
        weights = (count - np.arange(1, count + 1) + 0.5) / count
        result: Numpy = 1 - 2 * (np.sort(share, axis=1) * weights).sum(axis=1)
        return result


@dataclass(frozen=True)
class Entropy(Metric):
    """The entropy of the shares |φ|/Σ|φ|, in nats: 0 for a single entry, log G for equal ones. Lower is simpler.

    Bhatt, Weller and Moura 2020, "Evaluating and Aggregating Feature-based Model Explanations", definition 5.
    """

    name: ClassVar[str] = "entropy"
    higher: ClassVar[bool] = False
    signed: ClassVar[bool] = False
    bounds: ClassVar[tuple[float, float]] = (0.0, math.inf)
    undefined: ClassVar[str] = ZERO

    def score(self, work: Work, method: str) -> Numpy:
        share = _shares(work.of_features(method))
        result: Numpy = -(share * np.log(np.where(share > 0, share, 1.0))).sum(axis=1)
        return result


@dataclass(frozen=True)
class EffectiveComplexity(Metric):
    """How many features have |φ| above ``tolerance`` of the sample's largest. Lower is simpler.

    Nguyen and Martínez 2020, "On Quantitative Aspects of Model Interpretability", section 3.3, with a threshold on the
    attribution, relative to the sample's own, so that other samples do not matter.
    """

    tolerance: float = 0.01

    name: ClassVar[str] = "effective_complexity"
    higher: ClassVar[bool] = False
    signed: ClassVar[bool] = False
    bounds: ClassVar[tuple[float, float]] = (0.0, math.inf)
    undefined: ClassVar[str] = ZERO

    def __post_init__(self) -> None:
        if not 0 <= self.tolerance < 1:
            raise InputError(f"tolerance must be a share between 0 and 1; got {self.tolerance!r}")

    def score(self, work: Work, method: str) -> Numpy:
        size = np.abs(work.of_features(method))
        largest = size.max(axis=1, keepdims=True, initial=0.0)
        count = (size > self.tolerance * largest).sum(axis=1)
        result: Numpy = np.where(largest[:, 0] > 0, count, np.nan)
        return result


def _shares(values: Numpy) -> Numpy:
    """|φ|/Σ|φ| of each row; NaN where all are 0."""
    size = np.abs(values)
    largest = size.max(axis=1, keepdims=True, initial=0.0)
    size = size / np.where(largest > 0, largest, np.nan)
    shares: Numpy = size / size.sum(axis=1, keepdims=True)
    return shares

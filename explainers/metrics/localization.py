"""Metrics of localization: is the attribution where it is known to belong?"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from ..spec import Numpy
from .base import Metric, Work, whole
from .statistics import ranks


@dataclass(frozen=True)
class Localization(Metric):
    """Base: compares attributions with ``masks``, of the features that matter."""

    bounds: ClassVar[tuple[float, float]] = (0.0, 1.0)
    needs_masks: ClassVar[bool] = True

    @staticmethod
    def inside(work: Work) -> Numpy:
        """Which features matter, (n, G): those with an element in the mask."""
        assert work.masks is not None
        found: Numpy = work.features.summed(work.masks) > 0
        return found


@dataclass(frozen=True)
class PointingGame(Localization):
    """Whether the largest attribution is inside the mask; of several equal ones, the share that is.

    Zhang et al. 2018, "Top-Down Neural Attention by Excitation Backprop", section 4.2.
    """

    name: ClassVar[str] = "pointing_game"

    def score(self, work: Work, method: str) -> Numpy:
        values = work.of_features(method)
        largest = values == values.max(axis=1, keepdims=True)
        result: Numpy = (largest & self.inside(work)).sum(axis=1) / largest.sum(axis=1)
        return result


@dataclass(frozen=True)
class TopK(Localization):
    """The share of the k largest attributions that is inside the mask; those equal to the k-th count in part.

    Theiner, Müller-Budack and Ewerth 2022, "Interpretable Semantic Photo Geolocation", section 4.3.
    """

    k: int = 20

    name: ClassVar[str] = "top_k"

    def __post_init__(self) -> None:
        whole("k", self.k, 1)

    def score(self, work: Work, method: str) -> Numpy:
        values, inside = work.of_features(method), self.inside(work)
        return _share_of_largest(values, inside, np.full(len(values), min(self.k, values.shape[1])))


@dataclass(frozen=True)
class RelevanceRank(Localization):
    """The share of the K largest attributions that is inside the mask, where K features matter.

    Arras, Osman and Samek 2022, "CLEVR-XAI: A benchmark dataset for the ground truth evaluation of neural network
    explanations", eq. 7; equal attributions count in part.
    """

    name: ClassVar[str] = "relevance_rank"

    def score(self, work: Work, method: str) -> Numpy:
        inside = self.inside(work)
        return _share_of_largest(work.of_features(method), inside, inside.sum(axis=1))


@dataclass(frozen=True)
class RelevanceMass(Localization):
    """The share of the positive attribution that is inside the mask.

    Arras, Osman and Samek 2022, eq. 6.
    """

    name: ClassVar[str] = "relevance_mass"
    undefined: ClassVar[str] = "no attribution is positive"

    def score(self, work: Work, method: str) -> Numpy:
        positive = np.maximum(work.of_features(method), 0.0)
        total = positive.sum(axis=1)
        result: Numpy = (positive * self.inside(work)).sum(axis=1) / np.where(total > 0, total, np.nan)
        return result


@dataclass(frozen=True)
class LocalizationAUC(Localization):
    """The area under the ROC curve of attributions as scores of being inside the mask; ½ for constant ones.

    Fawcett 2006, "An introduction to ROC analysis": the probability that a feature inside has a larger attribution
    than one outside, where equal ones count ½.
    """

    name: ClassVar[str] = "localization_auc"
    undefined: ClassVar[str] = "the mask holds all features"

    def score(self, work: Work, method: str) -> Numpy:
        inside = self.inside(work)
        count = inside.sum(axis=1)
        others = inside.shape[1] - count
        above = (ranks(work.of_features(method)) * inside).sum(axis=1) - count * (count - 1) / 2
        pairs = count * others
        result: Numpy = above / np.where(pairs > 0, pairs, np.nan)
        return result


def _share_of_largest(values: Numpy, inside: Numpy, count: Numpy) -> Numpy:
    """The share of the ``count`` largest entries of each row that is inside, (n,); ties at the end count in part."""
    descending = -np.sort(-values, axis=1)
    last = np.take_along_axis(descending, np.maximum(count - 1, 0)[:, None], axis=1)
    above, equal = values > last, values == last
    left = (count - above.sum(axis=1)) / equal.sum(axis=1)
    result: Numpy = ((above & inside).sum(axis=1) + left * (equal & inside).sum(axis=1)) / count
    return result

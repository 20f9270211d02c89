"""Metrics of faithfulness: does the output change as the attribution says when features are removed?"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from ..errors import InputError
from ..methods.base import one_of
from ..spec import Numpy
from .base import Facts, Metric, Work, whole
from .images import channel_axis_of, check_axis, image_shape
from .imputation import Imputed
from .noise import Noisy
from .removal import Curve, Endpoints, Ends, Singles, Subsets, check_size, fractions, size_of
from .statistics import pearson, spearman

# --- curves ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Deletion(Metric):
    """The area under s as features are removed, the most important first. Lower is better.

    A = Σ_k (p_{k+1} − p_k)·(s_k + s_{k+1})/2 over the share p of features at the baseline: the pixel-flipping curve of
    Samek et al. 2017, "Evaluating the Visualization of What a Deep Neural Network Has Learned", eq. 12, as an area
    (Petsiuk, Das and Saenko 2018). For an additive model A_deletion + A_insertion = s(x) + s(b).

    Parameters
    ----------
    steps: in how many equal parts the features are removed; each feature by itself if there are fewer.
    order: ``"most"`` important first, or ``"least"``: then higher is better.
    relative: divide s by s(x).
    """

    steps: int = 50
    order: str = "most"
    relative: bool = False

    name: ClassVar[str] = "deletion"
    undefined: ClassVar[str] = "relative=True and the output is 0 at the sample"

    def __post_init__(self) -> None:
        whole("steps", self.steps, 1)
        one_of("order", self.order, ("most", "least"))

    @property
    def higher(self) -> bool:  # type: ignore[override]
        return self.order == "least"

    def score(self, work: Work, method: str) -> Numpy:
        share, values = self.curve(work, method)
        return area(share, values)

    def curve(self, work: Work, method: str) -> tuple[Numpy, Numpy]:
        share, values = fractions(work, method, self.steps), work.get(Curve(self.steps), method)
        if self.order == "least":
            share = (1 - share)[::-1]
            values = work.get(Curve(self.steps, kept=True), method)[:, ::-1]
        return share, _relative(work, values) if self.relative else values


@dataclass(frozen=True)
class Insertion(Metric):
    """The area under s as features are put into the baseline, the most important first. Higher is better.

    Petsiuk, Das and Saenko 2018, "RISE", section 4.2. Backwards it is :class:`Deletion` of the least important first.

    Parameters
    ----------
    steps, relative: as for :class:`Deletion`.
    """

    steps: int = 50
    relative: bool = False

    name: ClassVar[str] = "insertion"
    undefined: ClassVar[str] = Deletion.undefined

    def __post_init__(self) -> None:
        whole("steps", self.steps, 1)

    def score(self, work: Work, method: str) -> Numpy:
        share, values = self.curve(work, method)
        return area(share, values)

    def curve(self, work: Work, method: str) -> tuple[Numpy, Numpy]:
        values = work.get(Curve(self.steps, kept=True), method)
        return fractions(work, method, self.steps), _relative(work, values) if self.relative else values


@dataclass(frozen=True)
class ABPC(Metric):
    """The area between the perturbation curves: of removing the least important features first minus the most.

    Equal to insertion minus deletion. Above 0 for an order that is better than its reverse.

    Parameters
    ----------
    steps, relative: as for :class:`Deletion`.
    """

    steps: int = 50
    relative: bool = False

    name: ClassVar[str] = "abpc"
    undefined: ClassVar[str] = Deletion.undefined

    def __post_init__(self) -> None:
        whole("steps", self.steps, 1)

    def score(self, work: Work, method: str) -> Numpy:
        inserted = Insertion(self.steps, self.relative).score(work, method)
        return inserted - Deletion(self.steps, relative=self.relative).score(work, method)


@dataclass(frozen=True)
class IROF(Metric):
    """The area over the relative curve of removing regions: 1 − A of s/s(x). Higher is better.

    Rieger and Hansen 2020, "IROF: a low resource evaluation metric for explanation methods", eq. 1; its regions are
    the ``groups`` of :func:`evaluate`, such as superpixels, and are ranked by their summed attribution (by their mean
    in the paper). Each region is removed by itself.
    """

    name: ClassVar[str] = "irof"
    undefined: ClassVar[str] = "the output is 0 at the sample"

    def score(self, work: Work, method: str) -> Numpy:
        return 1 - Deletion(work.features.count, relative=True).score(work, method)

    def curve(self, work: Work, method: str) -> tuple[Numpy, Numpy]:
        return Deletion(work.features.count, relative=True).curve(work, method)


@dataclass(frozen=True)
class ROAD(Metric):
    """The mean of s with shares of the most important pixels imputed from their neighbours. Lower is better.

    Rong et al. 2022, "A Consistent and Efficient Evaluation Strategy for Attribution Methods", section 4: each removed
    pixel becomes the weighted mean of its eight neighbours (1/6 beside, 1/12 diagonally; of those inside the image), by
    a linear system for all removed pixels, plus normal noise. The shape of the removed area says less about the class
    than with a baseline. The paper counts correct predictions; here it is the explained output.

    For images; with several channels give ``groups`` of shape (1, H, W), or (H, W, 1), to remove pixels whole.

    Parameters
    ----------
    shares: of the pixels that are imputed.
    noise: its standard deviation, in units of the input.
    channel_axis: of a sample; by default the first on torch, the last on TensorFlow.
    """

    shares: tuple[float, ...] = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)
    noise: float = 0.01
    channel_axis: int | None = None

    name: ClassVar[str] = "road"
    higher: ClassVar[bool] = False

    def __post_init__(self) -> None:
        object.__setattr__(self, "shares", tuple(float(share) for share in np.atleast_1d(self.shares)))
        if not self.shares or not all(0 < share < 1 for share in self.shares):
            raise InputError(f"shares must be numbers between 0 and 1; got {self.shares}")
        if not 0 <= self.noise < math.inf:
            raise InputError(f"noise must be a standard deviation ≥ 0; got {self.noise!r}")
        check_axis(self.channel_axis)

    @property
    def moves(self) -> bool:
        return True

    def check(self, facts: Facts) -> None:
        shape = image_shape("ROAD", facts.shapes)
        axis = channel_axis_of("ROAD", shape, self.channel_axis, facts.channel_axis)
        pixels = math.prod(shape) // max(shape[axis], 1)
        if facts.features > pixels:
            wanted = tuple(1 if i == axis else size for i, size in enumerate(shape))
            raise InputError(
                f"ROAD removes whole pixels, and each of {facts.features} elements of {pixels} pixels is a feature: "
                f"give groups= with a number for each pixel, of shape {wanted}"
            )

    def score(self, work: Work, method: str) -> Numpy:
        result: Numpy = work.get(Imputed(self.shares, float(self.noise), self.channel_axis), method).mean(axis=1)
        return result


def area(share: Numpy, values: Numpy) -> Numpy:
    """The trapezoidal area under curves (n, K)."""
    found: Numpy = (np.diff(share) * (values[:, 1:] + values[:, :-1]) / 2).sum(axis=1)
    return found


def _relative(work: Work, values: Numpy) -> Numpy:
    ends: Ends = work.get(Endpoints())
    with np.errstate(divide="ignore", invalid="ignore"):
        found: Numpy = np.where(ends.x[:, None] == 0, np.nan, values / ends.x[:, None])
    return found


# --- random sets -------------------------------------------------------------------------------


@dataclass(frozen=True)
class FaithfulnessCorrelation(Metric):
    """The correlation, over random sets S of features, of Σ_S φ with s(x) − s(x without S).

    Bhatt, Weller and Moura 2020, "Evaluating and Aggregating Feature-based Model Explanations", eq. 1.

    Parameters
    ----------
    size: features in a set: a number, or a share of all.
    draws: sets for each sample.
    """

    size: float = 0.2
    draws: int = 100

    name: ClassVar[str] = "faithfulness_correlation"
    bounds: ClassVar[tuple[float, float]] = (-1.0, 1.0)
    undefined: ClassVar[str] = "the output does not change with the set, or the attributions of all sets are equal"

    def __post_init__(self) -> None:
        check_size("size", self.size)
        whole("draws", self.draws, 2)

    def check(self, facts: Facts) -> None:
        _check_sets(self.name, size_of(self.size, facts.features, "size"), facts.features)

    def score(self, work: Work, method: str) -> Numpy:
        drawn = work.get(Subsets(size_of(self.size, work.features.count, "size"), self.draws))
        return pearson(drawn.sums[method], drawn.falls)


@dataclass(frozen=True)
class SensitivityN(Metric):
    """The mean, over set sizes n, of the correlation of Σ_S φ with s(x) − s(x without S), |S| = n.

    Ancona et al. 2018, "Towards better understanding of gradient-based attribution methods for Deep Neural Networks",
    section 4.2.

    Parameters
    ----------
    sizes: features in the sets: numbers, or shares of all.
    draws: sets for each sample and size.
    """

    sizes: tuple[float, ...] = (0.02, 0.05, 0.1, 0.2, 0.4, 0.8)
    draws: int = 50

    name: ClassVar[str] = "sensitivity_n"
    bounds: ClassVar[tuple[float, float]] = (-1.0, 1.0)
    undefined: ClassVar[str] = FaithfulnessCorrelation.undefined

    def __post_init__(self) -> None:
        object.__setattr__(self, "sizes", tuple(np.atleast_1d(np.asarray(self.sizes, object)).tolist()))
        if not self.sizes:
            raise InputError("sizes is empty; give at least one number of features")
        for size in self.sizes:
            check_size("sizes", size)
        whole("draws", self.draws, 2)

    def check(self, facts: Facts) -> None:
        for size in self._sizes(facts.features):
            _check_sets(self.name, size, facts.features)

    def _sizes(self, features: int) -> list[int]:
        return sorted({size_of(size, features, "sizes") for size in self.sizes})

    def score(self, work: Work, method: str) -> Numpy:
        found = [work.get(Subsets(size, self.draws)) for size in self._sizes(work.features.count)]
        result: Numpy = np.mean([pearson(drawn.sums[method], drawn.falls) for drawn in found], axis=0)
        return result


def _check_sets(name: str, size: int, features: int) -> None:
    if size >= features:
        raise InputError(
            f"{name} compares sets of {size} features, and samples have {features} in all: every set is the same. "
            "Give smaller sets, or groups= with more features"
        )


@dataclass(frozen=True)
class Infidelity(Metric):
    """The mean of (Iᵀφ − (s(x) − s(x − I)))² over random perturbations I. Lower is better.

    Yeh et al. 2019, "On the (In)fidelity and Sensitivity of Explanations", definition 2.1.

    Parameters
    ----------
    noise: the standard deviation of normal I; None for the removal of random sets of features.
    size: for removal, features in a set: a number, or a share of all.
    draws: perturbations for each sample.
    of: for removal: ``"contributions"``, whose sum over the set stands for Iᵀφ (integrated gradients, DeepLIFT,
        Shapley values), or ``"gradients"``, which are multiplied by I = x − b. Under noise φ is always a gradient.
    scaled: multiply φ by the number for which the result is least (section 2.2 of the paper).
    """

    noise: float | None = None
    size: float = 0.2
    draws: int = 100
    of: str = "contributions"
    scaled: bool = False

    name: ClassVar[str] = "infidelity"
    higher: ClassVar[bool] = False
    bounds: ClassVar[tuple[float, float]] = (0.0, math.inf)

    def __post_init__(self) -> None:
        check_size("size", self.size)
        whole("draws", self.draws, 1)
        one_of("of", self.of, ("contributions", "gradients"))
        if self.noise is not None and not self.noise > 0:
            raise InputError(f"noise must be a standard deviation above 0, or None for removal; got {self.noise!r}")

    @property
    def moves(self) -> bool:
        return self.noise is not None

    def score(self, work: Work, method: str) -> Numpy:
        if self.noise is not None:
            drawn = work.get(Noisy(float(self.noise), self.draws))
        else:
            size = size_of(self.size, work.features.count, "size")
            drawn = work.get(Subsets(size, self.draws, self.of == "gradients"))
        expected = drawn.sums[method]
        if self.scaled:
            square = (expected**2).sum(axis=1, keepdims=True)
            product = (expected * drawn.falls).sum(axis=1, keepdims=True)
            expected = expected * product / np.where(square > 0, square, 1.0)
        result: Numpy = ((expected - drawn.falls) ** 2).mean(axis=1)
        return result


# --- one feature at a time -----------------------------------------------------------------------


@dataclass(frozen=True)
class FaithfulnessEstimate(Metric):
    """The correlation of φ with the fall of s as each feature is removed by itself.

    Alvarez-Melis and Jaakkola 2018, "Towards Robust Interpretability with Self-Explaining Neural Networks", section
    5.1.1. It needs one evaluation for each feature: for images give ``groups``.
    """

    name: ClassVar[str] = "faithfulness_estimate"
    bounds: ClassVar[tuple[float, float]] = (-1.0, 1.0)
    undefined: ClassVar[str] = "the attribution is constant, or the output falls equally with each feature"

    def score(self, work: Work, method: str) -> Numpy:
        return pearson(work.of_features(method), work.get(Singles()))


@dataclass(frozen=True)
class MonotonicityCorrelation(Metric):
    """The rank correlation of |φ| with the squared fall of s as each feature is removed by itself.

    Nguyen and Martínez 2020, "On Quantitative Aspects of Model Interpretability", section 3.2, with the baseline in
    place of draws from the feature's distribution. The rows are those of :class:`FaithfulnessEstimate`.
    """

    name: ClassVar[str] = "monotonicity_correlation"
    signed: ClassVar[bool] = False
    bounds: ClassVar[tuple[float, float]] = (-1.0, 1.0)
    undefined: ClassVar[str] = FaithfulnessEstimate.undefined

    def score(self, work: Work, method: str) -> Numpy:
        return spearman(np.abs(work.of_features(method)), work.get(Singles()) ** 2)


@dataclass(frozen=True)
class NonSensitivity(Metric):
    """The share of features with an attribution but no effect, or an effect but no attribution. Lower is better.

    Nguyen and Martínez 2020, section 3.1, eq. 1, as a share of all features. An attribution counts as none if it is at
    most ``tolerance`` of the sample's largest; likewise an effect, the fall of s with the feature removed by itself.
    """

    tolerance: float = 1e-5

    name: ClassVar[str] = "non_sensitivity"
    higher: ClassVar[bool] = False
    signed: ClassVar[bool] = False
    bounds: ClassVar[tuple[float, float]] = (0.0, 1.0)

    def score(self, work: Work, method: str) -> Numpy:
        sets = [_nonzero(array, self.tolerance) for array in (work.of_features(method), work.get(Singles()))]
        result: Numpy = (sets[0] != sets[1]).mean(axis=1)
        return result


def _nonzero(array: Numpy, tolerance: float) -> Numpy:
    size = np.abs(array)
    found: Numpy = size > tolerance * size.max(axis=1, keepdims=True, initial=0.0)
    return found

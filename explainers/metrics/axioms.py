"""Metrics of what explanations promise by definition."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from ..errors import ExplainersError, InputError
from ..explainer.api import Explainer
from ..spec import Numpy
from .base import Facts, Metric, Work, whole
from .copies import shifted
from .noise import Moved, Predicted
from .removal import Endpoints


@dataclass(frozen=True)
class Completeness(Metric):
    """|Σφ − (s(x) − s(b))|/|s(x) − s(b)|, the relative completeness gap. Lower is better.

    Sundararajan, Taly and Yan 2017, "Axiomatic Attribution for Deep Networks", proposition 1. With groups Σφ is over
    the elements all the same, so that attributions that repeat a group's value at its elements are not complete.
    """

    name: ClassVar[str] = "completeness"
    higher: ClassVar[bool] = False
    bounds: ClassVar[tuple[float, float]] = (0.0, math.inf)
    undefined: ClassVar[str] = "the output is the same at the sample and at the baseline"

    def score(self, work: Work, method: str) -> Numpy:
        ends = work.get(Endpoints())
        change = ends.x - ends.b
        gap = np.abs(work.of_features(method).sum(axis=1) - change)
        result: Numpy = gap / np.where(change != 0, np.abs(change), np.nan)
        return result


@dataclass(frozen=True)
class InputInvariance(Metric):
    """‖φ(x + m; f(· − m)) − φ(x; f)‖/‖φ(x; f)‖: the change when samples and model move by the same m. Lower is better.

    Kindermans et al. 2019, "The (Un)reliability of Saliency Methods", section 2: the model f(· − m) does at x + m what
    f does at x, so that its explanation should be the same. It is 0 for gradients; for methods with a baseline it says
    how much hangs on where that is: a fixed number stays where it is, a baseline that is computed from the samples (a
    function) moves with them.

    Parameters
    ----------
    shift: m, added to each element of the attributed inputs.
    """

    shift: float = 1.0

    name: ClassVar[str] = "input_invariance"
    higher: ClassVar[bool] = False
    signed: ClassVar[bool] = False
    bounds: ClassVar[tuple[float, float]] = (0.0, math.inf)
    undefined: ClassVar[str] = "the attribution is 0 everywhere"
    reexplains: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if not isinstance(self.shift, (int, float, np.number)) or not np.isfinite(self.shift) or self.shift == 0:
            raise InputError(f"shift must be a number other than 0; got {self.shift!r}")

    @property
    def moves(self) -> bool:
        return True

    def check_explainer(self, name: str, explain: Explainer) -> None:
        try:
            shifted(explain, float(self.shift))
        except ExplainersError as error:
            raise InputError(
                f"metric {self.name!r} shifts the model, which {name!r} does not allow: {error}"
            ) from error

    def score(self, work: Work, method: str) -> Numpy:
        own = work.flat(work.attributions[method])
        change = work.flat(work.get(Moved(float(self.shift)), method)) - own
        size = np.linalg.norm(own, axis=1)
        result: Numpy = np.linalg.norm(change, axis=1) / np.where(size > 0, size, np.nan)
        return result


@dataclass(frozen=True)
class Consistency(Metric):
    """The share, among the other samples with the same explanation, of those with the same prediction.

    Dasgupta, Frost and Moshkovitz 2022, "Framework for Evaluating Faithfulness of Local Explanations", definition 1.
    Explanations are the same if their ``top`` features of largest |φ| are, with their signs. The score of a sample
    depends on the others by definition, but not on their order; more samples or fewer features leave fewer alone.

    Parameters
    ----------
    top: features that are compared.
    """

    top: int = 2

    name: ClassVar[str] = "consistency"
    signed: ClassVar[bool] = False
    bounds: ClassVar[tuple[float, float]] = (0.0, 1.0)
    undefined: ClassVar[str] = "no other sample has the same explanation"

    def __post_init__(self) -> None:
        whole("top", self.top, 1)

    def check(self, facts: Facts) -> None:
        if facts.outputs < 2:
            raise InputError(f"metric {self.name!r} compares predictions: it needs several outputs; the model has one")

    def score(self, work: Work, method: str) -> Numpy:
        """The largest output, and the top features with their signs, (n, 1 + top), by which samples are compared."""
        predicted = work.get(Predicted()).reshape(len(work), -1).argmax(axis=1)
        values = work.of_features(method)
        top = np.argsort(-np.abs(values), axis=1, kind="stable")[:, : self.top]
        signs = np.sign(np.take_along_axis(values, top, axis=1)).astype(np.int64)
        missing = np.full((len(work), self.top - top.shape[1]), -1)
        return np.column_stack([predicted, np.sort(3 * top + signs + 1, axis=1), missing])

    def of_all(self, found: Numpy) -> Numpy:
        alike = _sizes(found[:, 1:]) - 1
        result: Numpy = (_sizes(found) - 1) / np.where(alike > 0, alike, np.nan)
        return result


def _sizes(rows: Numpy) -> Numpy:
    """How many rows are equal to each row, itself included, (N,)."""
    _, which, counts = np.unique(rows, axis=0, return_inverse=True, return_counts=True)
    found: Numpy = counts[which.reshape(-1)]
    return found

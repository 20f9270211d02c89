"""Metrics of what explanations promise by definition."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from ..spec import Numpy
from .base import Metric, Work
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

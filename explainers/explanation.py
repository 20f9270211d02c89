"""What an explanation holds besides the attributions."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from .coverage import Operation
from .spec import Numpy


@dataclass(frozen=True)
class Explanation:
    """Attributions with what they explain.

    Attributes
    ----------
    attributions: as ``explain`` returns them.
    outputs: f(x), (N, …), numpy.
    baseline_outputs: f(b), (N, …), or None where the method has no baseline.
    target: the mask w, (N, …), or ``"all"``.
    completeness_gap: Σ attribution − (s(x) − s(b)), (N,), for methods that are complete, else None; elements of
        one group count once.
    standard_error: like ``attributions``, for sampled methods, else None.
    evaluations: rows of the model computed for each sample, (N,).
    method: the method's value.
    approximations: the operations that were passed by their derivative for want of a rule, because the method
        allowed that.
    """

    attributions: Any
    outputs: Numpy
    baseline_outputs: Numpy | None
    target: Numpy | str
    completeness_gap: Numpy | None
    standard_error: Any
    evaluations: Numpy
    method: Any
    approximations: tuple[Operation, ...] = ()

    @property
    def largest_gap(self) -> float:
        """The largest |completeness gap| relative to |s(x) − s(b)|; NaN where it is not defined."""
        if self.completeness_gap is None or self.baseline_outputs is None or isinstance(self.target, str):
            return float("nan")
        axes = tuple(range(1, self.outputs.ndim))
        change = ((self.outputs - self.baseline_outputs) * self.target).sum(axis=axes)
        return float(np.max(np.abs(self.completeness_gap) / np.maximum(np.abs(change), 1e-3), initial=0.0))

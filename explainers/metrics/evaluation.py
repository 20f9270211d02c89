"""The result of an evaluation: scores of samples, with means, intervals, controls and tests."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass, field
from functools import cached_property
from importlib import import_module
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from ..errors import BackendMissing, InputError, UnknownNameError
from ..file import writing
from ..spec import Numpy
from . import statistics
from .base import Metric
from .statistics import Interval

if TYPE_CHECKING:
    from matplotlib.figure import Figure

GRID = np.linspace(0, 1, 101)  # shares at which mean curves are kept
RANDOM = "random"
SEED = 0xE7A1  # of resamples and signs, so that the same scores have the same intervals


class Test(NamedTuple):
    """A paired sign-flip test of two methods. difference: of the means, above 0 if the first is better.

    p: two-sided, adjusted by Holm over all metrics. samples: how many have both scores.
    """

    metric: str
    first: str
    second: str
    difference: float
    p: float
    samples: int


@dataclass
class Curves:
    """The mean over samples of curves on ``GRID``, and its standard error."""

    count: int = 0
    total: Numpy = field(default_factory=lambda: np.zeros(len(GRID)))
    squares: Numpy = field(default_factory=lambda: np.zeros(len(GRID)))

    def add(self, share: Numpy, values: Numpy) -> None:
        """Add the curves (n, K) at the shares (K,)."""
        known = values[np.isfinite(values).all(axis=1)]
        right = np.clip(np.searchsorted(share, GRID), 1, len(share) - 1)
        left = right - 1
        width = share[right] - share[left]
        part = (GRID - share[left]) / np.where(width > 0, width, 1.0)
        on_grid = known[:, left] * (1 - part) + known[:, right] * part
        self.count += len(known)
        self.total += on_grid.sum(axis=0)
        self.squares += (on_grid**2).sum(axis=0)

    @property
    def mean(self) -> Numpy:
        return self.total / max(self.count, 1)

    @property
    def error(self) -> Numpy:
        """The standard error of the mean."""
        variance = np.maximum(self.squares / max(self.count, 1) - self.mean**2, 0.0)
        found: Numpy = np.sqrt(variance / max(self.count - 1, 1))
        return found


@dataclass(frozen=True)
class Evaluation:
    """Scores of samples by metric and method.

    Attributes
    ----------
    scores: by metric and method, (N,); NaN where :meth:`reason` says why.
    metrics: the metrics' values by the label that they have here.
    methods: the names of the evaluated methods.
    controls: the names of the controls, each with the method that it reverses, or "".
    curves: for metrics that are an area, by metric and method: the mean curve on ``GRID``.
    explained: the methods that are explainers, not arrays.
    rows: evaluations of the model. asked: those that each metric would have taken for each method by itself.
    """

    scores: dict[str, dict[str, Numpy]]
    metrics: dict[str, Metric]
    methods: tuple[str, ...]
    controls: dict[str, str]
    curves: dict[str, dict[str, Curves]]
    explained: tuple[str, ...]
    rows: int
    asked: int

    @property
    def count(self) -> int:
        """N, the number of samples."""
        return len(next(iter(next(iter(self.scores.values())).values())))

    def of(self, metric: str, method: str) -> Numpy:
        """The scores (N,) of a method, or a control, by a metric."""
        if metric not in self.scores:
            raise UnknownNameError.among("metric", metric, self.scores)
        if method not in self.scores[metric]:
            raise UnknownNameError.among("method", method, self.scores[metric])
        return self.scores[metric][method]

    def mean(self, metric: str, method: str) -> Interval:
        """The mean score with its 95 % bootstrap interval, inside the metric's bounds; NaN ends for one score."""
        found = statistics.interval(self.of(metric, method), self._random())
        low, high = self.metrics[metric].bounds
        return Interval(found.mean, *(float(np.clip(end, low, high)) for end in found[1:]))

    def calibrated(self, metric: str, method: str) -> Interval:
        """How much better than the random control, in standard deviations of its scores, with a 95 % interval.

        Glass's Δ = ±(mean − mean of the control)/(standard deviation of the control over samples), above 0 if the
        method is better. NaN without the control, and where all its scores are equal.
        """
        scores = self.of(metric, method)
        control = self.scores[metric].get(RANDOM)
        if control is None:
            return Interval(np.nan, np.nan, np.nan)
        known = np.isfinite(scores) & np.isfinite(control)
        spread = control[known].std(ddof=1) if known.sum() > 1 else 0.0
        if spread == 0:
            return Interval(np.nan, np.nan, np.nan)
        sign = 1.0 if self.metrics[metric].higher else -1.0
        return statistics.interval(sign * (scores - control)[known] / spread, self._random())

    def best(self, metric: str) -> dict[str, float]:
        """For each method, the share of bootstrap resamples of the samples in which its mean score is the best."""
        own = {name: self.of(metric, name) for name in self.methods}
        known = {name: scores for name, scores in own.items() if np.isfinite(scores).any()}
        return dict.fromkeys(self.methods, np.nan) | statistics.best(known, self.metrics[metric].higher, self._random())

    def tests(self) -> list[Test]:
        """Paired sign-flip tests of each two methods by each metric, adjusted by Holm over the metrics."""
        return list(self._tests)

    @cached_property
    def _tests(self) -> list[Test]:
        pairs = [(a, b) for i, a in enumerate(self.methods) for b in self.methods[i + 1 :]]
        found: list[Test] = []
        for first, second in pairs:
            raw = []
            for label, metric in self.metrics.items():
                a, b = self.scores[label][first], self.scores[label][second]
                known = np.isfinite(a) & np.isfinite(b)
                difference = float((a - b)[known].mean()) if known.any() else np.nan
                p = statistics.sign_flip(a, b, self._random())
                better = difference if metric.higher else -difference
                raw.append(Test(label, first, second, better, p, int(known.sum())))
            adjusted = statistics.holm([test.p for test in raw])
            found += [test._replace(p=p) for test, p in zip(raw, adjusted, strict=True)]
        return found

    def reason(self, metric: str, method: str) -> str:
        """Why scores are NaN, or "" if none is."""
        missing = int(np.isnan(self.of(metric, method)).sum())
        if not missing:
            return ""
        kind = self.metrics[metric]
        if kind.reexplains and method not in self.explained:
            return "an array cannot be explained again at other samples"
        return f"{missing} of {self.count} samples: {kind.undefined or 'the score is not finite'}"

    @staticmethod
    def _random() -> np.random.Generator:
        return np.random.default_rng(SEED)

    # --- as text, tables and files -----------------------------------------------------------------

    def rows_of_table(self) -> list[dict[str, Any]]:
        """One row for each metric and method or control: the mean with its interval, and what is derived from it."""
        return [dict(row) for row in self._table]

    @cached_property
    def _table(self) -> list[dict[str, Any]]:
        found = []
        for label, metric in self.metrics.items():
            best = self.best(label)
            for name in self.scores[label]:
                mean, over = self.mean(label, name), self.calibrated(label, name)
                found.append({
                    "metric": label, "method": name, "control": name in self.controls,
                    "better": "higher" if metric.higher else "lower",
                    "mean": mean.mean, "low": mean.low, "high": mean.high,
                    "calibrated": over.mean, "calibrated_low": over.low, "calibrated_high": over.high,
                    "best": best.get(name, np.nan), "samples": int(np.isfinite(self.scores[label][name]).sum()),
                    "reason": self.reason(label, name),
                })  # fmt: skip
        return found

    def frame(self) -> Any:
        """The table of means and intervals as a pandas DataFrame. Raises BackendMissing without pandas."""
        try:
            pandas = import_module("pandas")
        except ImportError as error:
            raise BackendMissing("frame() needs pandas: pip install pandas") from error
        return pandas.DataFrame(self.rows_of_table())

    def to_json(self, path: str | os.PathLike[str] | None = None) -> str:
        """Scores, table, tests and rows as JSON; NaN is null. ``path``: a file to write it to as well."""
        content = {
            "samples": self.count,
            "rows": self.rows,
            "asked": self.asked,
            "table": self.rows_of_table(),
            "tests": [test._asdict() for test in self.tests()],
            "scores": {label: {n: s.tolist() for n, s in of.items()} for label, of in self.scores.items()},
        }
        text = json.dumps(writing.without_nan(content), ensure_ascii=False, allow_nan=False, indent=1)
        if path is not None:
            writing.text(path, text)
        return text

    def __str__(self) -> str:
        from .report import text

        return text(self)

    __repr__ = __str__

    def to_html(self, path: str | os.PathLike[str] | None = None) -> str:
        """A self-contained page with pictures, tables and tests. ``path``: a file to write it to as well."""
        from .page import page

        return page(self, path)

    def plot(self, metric: str | None = None) -> Figure:
        """The mean curves of a metric that is an area, else the means of all metrics with their intervals.

        A matplotlib Figure. Raises BackendMissing without matplotlib; InputError for a metric without curves.
        """
        from .report import curves, means

        if metric is None:
            return means(self)
        if metric not in self.metrics:
            raise UnknownNameError.among("metric", metric, self.metrics)
        if metric not in self.curves:
            raise InputError(f"metric {metric!r} is no area under a curve; leave it out for the means of all metrics")
        return curves(self, metric)

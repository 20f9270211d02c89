"""Memory over calls, in a process of its own: ``python -m tests.contract.grow torch-cnn steady|recompiled``."""

from __future__ import annotations

import gc
import sys
from collections.abc import Callable
from typing import Any

import numpy as np
import psutil

from explainers import Explainer, References, methods

from .subjects import subject

METHOD = methods.IntegratedGradients(steps=3)
MEGABYTE = 2**20


def random_calls(explain: Explainer, x: np.ndarray, seed: int) -> Callable[[], Any]:
    """A call of batch size 1–64 with random rows, targets and baselines, new each time."""
    generator = np.random.default_rng(seed)
    baselines = [0.0, 1.0, x[0], None, "per sample"]

    def call() -> None:
        rows = generator.integers(0, len(x), generator.integers(1, 65))
        baseline: Any = baselines[generator.integers(len(baselines))]
        if isinstance(baseline, str):
            baseline = x[generator.integers(0, len(x), len(rows))]
            if explain.method.baseline == "either":
                baseline = References(baseline[:, None], per_sample=True)
        target = generator.integers(0, 3, len(rows))
        explain(x[rows], target=target if generator.random() < 0.5 else int(target[0]), baseline=baseline)

    return call


def resident() -> float:
    gc.collect()
    return psutil.Process().memory_info().rss / MEGABYTE


def growth(call: Callable[[], Any], before: int, calls: int, every: int) -> float:
    """MB per 1,000 calls: the slope of a robust line through the resident set after ``before`` calls."""
    for _ in range(before):
        call()
    marks = [resident()]
    for _ in range(calls // every):
        for _ in range(every):
            call()
        marks.append(resident())
    times = np.arange(len(marks)) * every / 1000
    slopes = [
        (marks[j] - marks[i]) / (times[j] - times[i]) for i in range(len(marks)) for j in range(i + 1, len(marks))
    ]
    return float(np.median(slopes))


def steady(label: str) -> float:
    """Random calls 500 … 5,000 of one explainer."""
    found = subject(label, "float32")
    (x,) = found.case.draw(64, "float32")
    explain = Explainer.compile(found.model, METHOD, inputs=x)
    slope = growth(random_calls(explain, x, 1), before=500, calls=4500, every=500)
    assert explain.stats.traces == 1
    return slope


def recompiled(label: str) -> float:
    """The same, with an explainer compiled (and kept, as hooks and caches do) for each call."""
    found = subject(label, "float32")
    (x,) = found.case.draw(8, "float32")
    kept: list[Explainer] = []

    def call() -> None:
        kept.append(Explainer.compile(found.model, METHOD, inputs=x))
        kept[-1](x, target=1)

    slope = growth(call, before=5, calls=20, every=5)
    assert sum(explain.stats.traces for explain in kept) == 25
    return slope


if __name__ == "__main__":
    print({"steady": steady, "recompiled": recompiled}[sys.argv[2]](sys.argv[1]))

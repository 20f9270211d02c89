"""No retraces and no growth over thousands of random calls ("Must show" 2); and a control that shows both."""

from __future__ import annotations

import gc
from collections.abc import Callable
from typing import Any

import numpy as np
import psutil
import pytest

from explainers import Explainer, methods

from .state import hook_count, operation_count
from .subjects import subject

MODELS = ["torch-cnn", "tensorflow-cnn"]
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


@pytest.mark.parametrize("label", MODELS)
def test_a_thousand_calls_without_a_retrace(label: str) -> None:
    found = subject(label, "float32")
    (x,) = found.case.draw(64, "float32")
    explain = Explainer.compile(found.model, METHOD, inputs=x)
    call = random_calls(explain, x, 0)
    call()
    count = operation_count(found.case.backend, explain.native)
    hooks = hook_count(found.model) if found.case.backend == "torch" else 0
    for _ in range(1000):
        call()
    assert explain.stats.traces == 1
    assert explain.stats.compiled_shapes == ["any rows"]
    assert explain.stats.calls == 1001
    assert operation_count(found.case.backend, explain.native) == count > 0
    assert (hook_count(found.model) if found.case.backend == "torch" else 0) == hooks


@pytest.mark.parametrize("label", MODELS)
def test_memory_stays_over_calls_500_to_5000(label: str) -> None:
    found = subject(label, "float32")
    (x,) = found.case.draw(64, "float32")
    explain = Explainer.compile(found.model, METHOD, inputs=x)
    assert growth(random_calls(explain, x, 1), before=500, calls=4500, every=500) < 1.0
    assert explain.stats.traces == 1


@pytest.mark.parametrize("label", MODELS)
def test_control_recompiling_each_time_shows_growth(label: str) -> None:
    """The same loop, with an explainer compiled (and kept, as hooks and caches do) for each call."""
    found = subject(label, "float32")
    (x,) = found.case.draw(8, "float32")
    kept: list[Explainer] = []

    def call() -> None:
        kept.append(Explainer.compile(found.model, METHOD, inputs=x))
        kept[-1](x, target=1)

    assert growth(call, before=5, calls=20, every=5) > 1.0
    assert sum(explain.stats.traces for explain in kept) == 25

"""No retraces and no growth over thousands of random calls ("Must show" 2); and a control that shows both."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from explainers import Explainer

from .grow import METHOD, random_calls
from .state import hook_count, operation_count
from .subjects import subject

MODELS = ["torch-cnn", "tensorflow-cnn"]
ROOT = Path(__file__).parents[2]


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


def slope(label: str, kind: str) -> float:
    """MB per 1,000 calls, in a process without the memory that other tests have freed."""
    done = subprocess.run(
        [sys.executable, "-m", "tests.contract.grow", label, kind],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    return float(done.stdout.strip().splitlines()[-1])


@pytest.mark.parametrize("label", MODELS)
def test_memory_stays_over_calls_500_to_5000(label: str) -> None:
    assert slope(label, "steady") < 1.0


@pytest.mark.slow
@pytest.mark.parametrize("label", MODELS)
def test_control_recompiling_each_time_shows_growth(label: str) -> None:
    assert slope(label, "recompiled") > 1.0

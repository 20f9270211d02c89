"""What happens to explainers in forked processes, and where memory ends: each in a process of its own."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
MODELS = {
    "torch": """
import torch
torch.set_num_threads(2)
model = torch.nn.Sequential(torch.nn.Linear(2000, 2000), torch.nn.ReLU(), torch.nn.Linear(2000, 3))
""",
    "tensorflow": """
import keras
model = keras.Sequential(
    [keras.Input((2000,)), keras.layers.Dense(2000, "relu"), keras.layers.Dense(3)])
""",
}
FORKED = """
import multiprocessing
import numpy as np
from explainers import Explainer, errors
from explainers.scheduler import Scheduler

explain = Explainer.compile(model, METHOD, inputs=np.zeros((1, 2000), np.float32))
x = np.ones((64, 2000), np.float32)
explain(x, target=0)
scheduler = Scheduler()
scheduler.submit(explain, x, target=0).result()

def submit():
    scheduler.submit(explain, x, target=0).result()

def child():
    for call in (lambda: explain(x, target=0), lambda: explain.predict(x), submit):
        try:
            call()
        except errors.ForkedProcess as error:
            print("refused", "spawn" in str(error), flush=True)
        else:
            print("worked", flush=True)

process = multiprocessing.get_context("fork").Process(target=child)
process.start()
process.join(60)
if process.is_alive():
    print("hangs", flush=True)
    process.kill()
explain(x, target=0)
"""
OTHERS = """
import multiprocessing
import numpy as np
from explainers import Explainer, errors
from explainers.influence import Influence

x, y = np.ones((64, 2000), np.float32), np.arange(64) % 3
ensemble = Explainer.compile([model, model], "gradient", inputs=x[:1])
fitted = Influence.compile(model, method="gradient_similarity", inputs=x[:1]).fit((x, y))
ensemble(x, target=0)
fitted((x[:2], y[:2]))

def child():
    for call in (lambda: ensemble(x, target=0), lambda: ensemble.predict(x), lambda: fitted((x[:2], y[:2]))):
        try:
            call()
        except errors.ForkedProcess as error:
            print("refused", "spawn" in str(error), flush=True)
        else:
            print("worked", flush=True)

process = multiprocessing.get_context("fork").Process(target=child)
process.start()
process.join(60)
if process.is_alive():
    print("hangs", flush=True)
    process.kill()
"""
LIMITED = """
import resource
import numpy as np
import psutil
import torch
from explainers import Explainer, errors

torch.set_num_threads(1)
model = torch.nn.Sequential(torch.nn.Linear(1000, 1000), torch.nn.ReLU(), torch.nn.Linear(1000, 3))
explain = Explainer.compile(model, "gradient", inputs=torch.zeros(1, 1000))
few = np.ones((2, 1000), np.float32)
expected = explain(few, target=0)
many = np.broadcast_to(np.float32(1), (300_000, 1000))  # whose attributions take 1.2 GB
held = psutil.Process().memory_info().vms
resource.setrlimit(resource.RLIMIT_AS, (held + 300 * 2**20, resource.RLIM_INFINITY))
for call in (explain, explain.explanation):
    try:
        call(many, target=0)
    except errors.OutOfMemory as error:
        print("refused", isinstance(error, MemoryError), len(str(error)) < 400)
    assert np.array_equal(explain(few, target=0), expected)
"""


def lines_of(script: str) -> list[str]:
    path = os.pathsep.join([str(ROOT), str(ROOT / "backends"), os.environ.get("PYTHONPATH", "")])
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", script], capture_output=True, text=True, timeout=170, check=False,
        env={**os.environ, "PYTHONPATH": path},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout.splitlines()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork")
@pytest.mark.parametrize("framework", MODELS)
def test_a_call_after_a_fork_is_refused_in_the_child(framework: str) -> None:
    pytest.importorskip(framework)
    assert lines_of(MODELS[framework] + FORKED.replace("METHOD", '"gradient"')) == ["refused True"] * 3


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork")
@pytest.mark.parametrize("framework", MODELS)
def test_so_are_ensembles_and_influences(framework: str) -> None:
    pytest.importorskip(framework)
    assert lines_of(MODELS[framework] + OTHERS) == ["refused True"] * 3


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork")
def test_plain_functions_go_on_after_a_fork_but_schedulers_do_not() -> None:
    model = "def model(x):\n    return x[:, :2]\n"
    script = model + FORKED.replace("METHOD", '"feature_ablation"').replace("2000", "20")
    assert lines_of(script) == ["worked", "worked", "refused True"]


@pytest.mark.skipif(sys.platform != "linux", reason="limits of the address space are Linux's")
def test_a_call_that_does_not_fit_the_memory_is_an_error_and_the_next_one_is_right() -> None:
    pytest.importorskip("torch")
    assert lines_of(LIMITED) == ["refused True True"] * 2

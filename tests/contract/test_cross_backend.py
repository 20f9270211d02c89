"""One Keras model, the same weights, on torch and on TensorFlow ("Must show" 4): the same attributions."""

from __future__ import annotations

import functools
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from .subjects import METHODS, ONE_OF_EACH

ROOT = Path(__file__).parents[2]
NAMES = ("sequential", "cnn", "functional", "subclassed", "two_inputs", "attention", "tokens", "dict", "unrolled_lstm")
IN_EVERY_VARIANT = ("sequential",)
SLOW = ("functional", "subclassed", "two_inputs", "unrolled_lstm")


def methods_for(name: str) -> list[str]:
    return list(METHODS) if name in IN_EVERY_VARIANT else ONE_OF_EACH


Results = Callable[[str], dict[str, dict[str, np.ndarray]]]


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Results:
    """What each Keras backend says of a model and those that run with it, each in a process; weights go by files."""
    folder = tmp_path_factory.mktemp("weights")

    @functools.cache
    def said(names: tuple[str, ...]) -> dict[str, dict[str, np.ndarray]]:
        found = {}
        for backend in ("tensorflow", "torch"):
            target = folder / f"{backend}.npz"
            done = subprocess.run(
                [sys.executable, "-m", "tests.contract.explain_keras", str(folder), str(target), *names],
                cwd=ROOT, env={**os.environ, "KERAS_BACKEND": backend}, capture_output=True, text=True, check=False,
            )  # fmt: skip
            assert done.returncode == 0, done.stderr[-4000:]
            found[backend] = dict(np.load(target))
        return found

    return lambda name: said(SLOW if name in SLOW else tuple(other for other in NAMES if other not in SLOW))


PAIRS = [
    pytest.param(name, method, marks=pytest.mark.slow if name in SLOW else [])
    for name in NAMES
    for method in methods_for(name)
]


@pytest.mark.parametrize(("name", "method"), PAIRS)
def test_torch_and_tensorflow_agree(name: str, method: str, results: Results) -> None:
    found = results(name)
    keys = [key for key in found["torch"] if key.startswith(f"{name}/{method}/")]
    assert keys
    failed = [str(part[key]) for part in found.values() for key in keys if part[key].dtype.kind == "U"]
    assert not failed
    scale = max(abs(found["tensorflow"][key]).max() for key in keys)
    assert scale > 0
    for key in keys:
        assert abs(found["torch"][key] - found["tensorflow"][key]).max() <= 1e-4 * scale

"""One Keras model, the same weights, on torch and on TensorFlow ("Must show" 4): the same attributions."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from .subjects import METHODS, ONE_OF_EACH

ROOT = Path(__file__).parents[2]
NAMES = ("sequential", "cnn", "functional", "subclassed", "two_inputs", "attention", "tokens", "dict", "unrolled_lstm")
IN_EVERY_VARIANT = ("sequential", "attention")


def methods_for(name: str) -> list[str]:
    return list(METHODS) if name in IN_EVERY_VARIANT else ONE_OF_EACH


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, np.ndarray]]:
    """What each Keras backend says, computed in a process of its own; weights pass through files."""
    folder = tmp_path_factory.mktemp("weights")
    found = {}
    for backend in ("tensorflow", "torch"):
        target = folder / f"{backend}.npz"
        done = subprocess.run(
            [sys.executable, "-m", "tests.contract.explain_keras", str(folder), str(target)],
            cwd=ROOT, env={**os.environ, "KERAS_BACKEND": backend}, capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr[-4000:]
        found[backend] = dict(np.load(target))
    return found


PAIRS = [(name, method) for name in NAMES for method in methods_for(name)]


@pytest.mark.parametrize(("name", "method"), PAIRS)
def test_torch_and_tensorflow_agree(name: str, method: str, results: dict[str, dict[str, np.ndarray]]) -> None:
    keys = [key for key in results["torch"] if key.startswith(f"{name}/{method}/")]
    assert keys
    failed = [str(part[key]) for part in results.values() for key in keys if part[key].dtype.kind == "U"]
    assert not failed
    scale = max(abs(results["tensorflow"][key]).max() for key in keys)
    assert scale > 0
    for key in keys:
        assert abs(results["torch"][key] - results["tensorflow"][key]).max() <= 1e-4 * scale

"""The demo runs, keeps its promises, and ends in a picture."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).parent.parent
LINE = re.compile(
    r"^(?P<backend>torch|tensorflow|numpy) +(?P<method>\w+) +(?P<compile>[\d.]+) s +(?P<first>[\d.]+) ms"
    r" +(?P<request>[\d.]+) ms +(?P<rows>[\d,]+) +(?P<before>\d+) → (?P<after>\d+) +(?P<gap>\S+)$",
    re.MULTILINE,
)
METHODS = [
    "gradient",
    "saliency",
    "input_x_gradient",
    "integrated_gradients",
    "smoothgrad",
    "gradient_shap",
    "guided_backprop",
    "deconvnet",
    "deeplift",
    "deeplift_shap",
    "lrp",
    "elrp",
]
REMOVAL = ["feature_ablation", "occlusion", "shapley_sampling", "kernel_shap", "lime", "rise"]  # fmt: skip


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Path]:
    """What ``digits.py --quick`` printed, and the folder that it ran in."""
    folder = tmp_path_factory.mktemp("demo")
    done = subprocess.run(
        [sys.executable, str(ROOT / "examples" / "digits.py"), "--quick"],
        capture_output=True, text=True, encoding="utf-8", cwd=folder, timeout=550,
        env={**os.environ, "PYTHONIOENCODING": "utf-8"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout, folder


def test_the_models_have_learned(demo: tuple[str, Path]) -> None:
    accuracies = dict(re.findall(r"^(\w+): held-out accuracy ([\d.]+)%", demo[0], re.MULTILINE))
    assert set(accuracies) == {"torch", "tensorflow", "numpy"}
    assert all(float(accuracy) >= 97 for accuracy in accuracies.values())


def test_every_method_ran_on_every_backend(demo: tuple[str, Path]) -> None:
    lines = [(found["backend"], found["method"]) for found in LINE.finditer(demo[0])]
    expected = [(backend, method) for backend in ("torch", "tensorflow") for method in [*METHODS, *REMOVAL]]
    assert lines == [*expected, *(("numpy", method) for method in REMOVAL)]


def test_nothing_was_traced_again(demo: tuple[str, Path]) -> None:
    for found in LINE.finditer(demo[0]):
        kernels = "2" if found["method"].startswith("deeplift") else "1"  # one for references
        assert (found["before"], found["after"]) == (kernels, kernels)


def test_complete_methods_are_complete(demo: tuple[str, Path]) -> None:
    largest = {"integrated_gradients": 0.1, "deeplift": 1e-4, "deeplift_shap": 1e-4}
    largest |= {"shapley_sampling": 1e-4, "kernel_shap": 1e-4}
    gaps = {(found["backend"], found["method"]): found["gap"] for found in LINE.finditer(demo[0])}
    for (_, method), gap in gaps.items():
        assert float(gap) < largest[method] if method in largest else gap == "–"


def test_the_gallery_is_a_picture(demo: tuple[str, Path]) -> None:
    from matplotlib.image import imread

    stdout, folder = demo
    printed = re.search(r"^gallery: (.+)$", stdout, re.MULTILINE)
    assert printed is not None
    path = folder / printed[1]
    assert path == folder / "out" / "digits.png"
    pixels = np.round(imread(path)[..., :3] * 255).astype(int)
    assert pixels.shape[0] > 800
    assert pixels.shape[1] > 1200
    red, _, blue = np.moveaxis(pixels, -1, 0)
    assert (red - blue > 60).mean() > 0.01  # both signs are there
    assert (blue - red > 60).mean() > 0.01


def test_any_model() -> None:
    done = subprocess.run(
        [sys.executable, str(ROOT / "examples" / "any_model.py")], capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert "random forest" in done.stdout
    assert float(re.search(r"differ by (\S+)", done.stdout)[1]) < 1e-5  # type: ignore[index]
    assert float(re.search(r"([\d.]+) at most", done.stdout)[1]) < 5  # type: ignore[index]

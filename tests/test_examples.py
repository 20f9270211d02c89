"""The examples run, reach their stated accuracy, and write their pictures."""

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
    """The output of ``digits.py --quick``, and the folder in which it ran."""
    folder = tmp_path_factory.mktemp("demo")
    process = subprocess.run(
        [sys.executable, str(ROOT / "examples" / "digits.py"), "--quick"],
        capture_output=True, text=True, encoding="utf-8", cwd=folder, timeout=550,
        env={**os.environ, "PYTHONIOENCODING": "utf-8"},
    )  # fmt: skip
    assert process.returncode == 0, process.stderr[-3000:]
    return process.stdout, folder


def test_the_models_have_learned(demo: tuple[str, Path]) -> None:
    accuracies = dict(re.findall(r"^(\w+): held-out accuracy ([\d.]+)%", demo[0], re.MULTILINE))
    assert set(accuracies) == {"torch", "tensorflow", "numpy"}
    assert all(float(accuracy) >= 97 for accuracy in accuracies.values())


def test_every_method_ran_on_every_backend(demo: tuple[str, Path]) -> None:
    lines = [(row["backend"], row["method"]) for row in LINE.finditer(demo[0])]
    expected = [(backend, method) for backend in ("torch", "tensorflow") for method in [*METHODS, *REMOVAL]]
    assert lines == [*expected, *(("numpy", method) for method in REMOVAL)]


def test_nothing_was_traced_again(demo: tuple[str, Path]) -> None:
    for row in LINE.finditer(demo[0]):
        kernels = "2" if row["method"].startswith("deeplift") else "1"  # one for references
        assert (row["before"], row["after"]) == (kernels, kernels)


def test_complete_methods_are_complete(demo: tuple[str, Path]) -> None:
    largest = {"integrated_gradients": 0.25, "deeplift": 1e-4, "deeplift_shap": 1e-4}
    largest |= {"shapley_sampling": 1e-4, "kernel_shap": 1e-4}
    gaps = {(row["backend"], row["method"]): row["gap"] for row in LINE.finditer(demo[0])}
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
    process = subprocess.run(
        [sys.executable, str(ROOT / "examples" / "any_model.py")], capture_output=True, text=True, timeout=300
    )
    assert process.returncode == 0, process.stderr[-3000:]
    assert "random forest" in process.stdout
    assert float(re.search(r"differ by (\S+)", process.stdout)[1]) < 1e-5  # type: ignore[index]
    assert float(re.search(r"([\d.]+) at most", process.stdout)[1]) < 5  # type: ignore[index]


def printed_by(example: str, folder: Path) -> str:
    """The output of an example's quick run, which writes its pictures into ``folder``."""
    process = subprocess.run(
        [sys.executable, str(ROOT / "examples" / example), "--quick"],
        capture_output=True, text=True, encoding="utf-8", cwd=folder, timeout=300,
        env={**os.environ, "PYTHONIOENCODING": "utf-8"},
    )  # fmt: skip
    assert process.returncode == 0, process.stderr[-3000:]
    return process.stdout


def pictures(stdout: str, folder: Path) -> list[Path]:
    """Check that each picture whose path was printed is large enough and has both colours."""
    from matplotlib.image import imread

    paths = [folder / name for name in re.findall(r"^picture: (.+)$", stdout, re.MULTILINE)]
    for path in paths:
        assert path.parent == folder / "out"
        pixels = imread(path)
        assert min(pixels.shape[:2]) > 300
        assert len(np.unique(pixels.reshape(-1, pixels.shape[-1]), axis=0)) > 50
    return paths


def test_motifs_are_found(tmp_path: Path) -> None:
    stdout = printed_by("motifs.py", tmp_path)
    inside = {name: float(share) for name, share in re.findall(r"^(\w+) +([\d.]+)%$", stdout, re.MULTILINE)}
    assert inside["deeplift"] >= 90
    assert inside["shapley_sampling"] >= 90
    assert inside["gradient"] < min(inside["deeplift"], inside["shapley_sampling"])
    assert len(pictures(stdout, tmp_path)) == 1
    assert "data:image/png" in (tmp_path / "out" / "motifs.html").read_text(encoding="utf-8")
    best = dict(re.findall(r"^best by (\w+): (\w+)$", stdout, re.MULTILINE))
    assert {best[name] for name in ("relevance_rank", "sensitivity_n", "deletion")} <= {"deeplift", "shapley_sampling"}
    assert "<h2>relevance_rank</h2>" in (tmp_path / "out" / "motifs_evaluated.html").read_text(encoding="utf-8")


def test_the_picture_of_the_readme_is_drawn(tmp_path: Path) -> None:
    stdout = printed_by("overview.py", tmp_path)
    gaps = re.findall(r"\w+ ([\d.e+-]+)", stdout.partition("gaps: ")[2].partition("\n")[0])
    assert len(gaps) == 3
    assert max(map(float, gaps)) < 0.05
    assert pictures(stdout, tmp_path) == [tmp_path / "out" / "overview.png"]


def test_patches_are_found(tmp_path: Path) -> None:
    stdout = printed_by("patches.py", tmp_path)
    assert float(re.search(r"held-out accuracy ([\d.]+)%", stdout)[1]) > 95  # type: ignore[index]
    assert len(pictures(stdout, tmp_path)) == 1
    best = dict(re.findall(r"^best by (\w+)\S*: (\w+)$", stdout, re.MULTILINE))
    assert {best["relevance_rank"], best["abpc"], best["sensitivity_n"]} <= {"deeplift", "integrated_gradients"}
    assert "<h2>localization_auc</h2>" in (tmp_path / "out" / "patches_evaluated.html").read_text(encoding="utf-8")


def test_words_are_explained(tmp_path: Path) -> None:
    stdout = printed_by("text.py", tmp_path)
    assert float(re.search(r"held-out accuracy ([\d.]+)%", stdout)[1]) > 65  # type: ignore[index]
    assert all(f"{topic}: " in stdout for topic in ("network", "files", "numbers", "code"))
    assert len(pictures(stdout, tmp_path)) == 1
    assert 'class="token' in (tmp_path / "out" / "text.html").read_text(encoding="utf-8")


def test_a_series_is_explained(tmp_path: Path) -> None:
    stdout = printed_by("series.py", tmp_path)
    share = {name: int(part) for name, part in re.findall(r"^(\w+) +(\d+)% of it", stdout, re.MULTILINE)}
    assert share["deeplift"] > 45  # the parts where beats differ are 18 and 29 % of one
    assert share["deeplift"] > share["saliency"]
    assert len(pictures(stdout, tmp_path)) == 1


def test_a_table_is_explained(tmp_path: Path) -> None:
    stdout = printed_by("cancer.py", tmp_path)
    assert len(pictures(stdout, tmp_path)) == 2
    assert "waterfall" in (tmp_path / "out" / "cancer.html").read_text(encoding="utf-8")


def test_wrong_labels_are_found(tmp_path: Path) -> None:
    stdout = printed_by("helpful.py", tmp_path)
    assert float(re.search(r"self-influence: ([\d.]+)%", stdout)[1]) >= 80  # type: ignore[index]
    before, after = (float(share) for share in re.findall(r"^held-out accuracy .*?([\d.]+)%$", stdout, re.MULTILINE))
    assert after > before > 90
    assert len(pictures(stdout, tmp_path)) == 1


def test_networks_of_several_seeds_are_explained(tmp_path: Path) -> None:
    stdout = printed_by("ensemble.py", tmp_path)
    one, mean = (float(share) for share in re.findall(r"([\d.]+)%", stdout)[:2])
    assert mean > one > 90
    single, halves = (float(part) for part in re.search(r"networks ([\d.]+), .* ([\d.]+)$", stdout, re.M).groups())  # type: ignore[union-attr]
    assert halves > single + 0.05
    assert len(pictures(stdout, tmp_path)) == 1

"""A built wheel installs and works outside the repository."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGES = ("explainers", "explainers_torch", "explainers_tensorflow", "explainers_numpy")
SOURCES = ("setup.cfg", "pyproject.toml", "README.md", "LICENSE", "explainers", "backends")

EXAMPLE = """
import json, sys
import numpy as np, torch
import explainers
from explainers import Explainer
from explainers.backend import backends
result = Explainer.compile(torch.nn.Linear(3, 2), "integrated_gradients").explanation(torch.ones(2, 3), target=1)
blocks = Explainer.compile(lambda x: x.sum(1), "feature_ablation")(np.ones((1, 3)))
import explainers_torch, explainers_tensorflow, explainers_numpy
files = [m.__file__ for m in (explainers, explainers_torch, explainers_tensorflow, explainers_numpy)]
print(json.dumps([files, sorted(backends()), result.largest_gap, blocks.tolist()]))
"""


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built from a copy, so that the repository stays clean."""
    source = tmp_path_factory.mktemp("source")
    for name in SOURCES:
        copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copy
        copy(ROOT / name, source / name)
    command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", "dist"]
    done = subprocess.run(command, cwd=source, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    (built,) = (source / "dist").glob("*.whl")
    return built


def test_it_holds_the_packages_their_types_and_no_tests(wheel: Path) -> None:
    names = zipfile.ZipFile(wheel).namelist()
    for package in PACKAGES:
        assert f"{package}/__init__.py" in names
        assert f"{package}/py.typed" in names
    assert {name.partition("/")[0] for name in names if ".dist-info" not in name} == set(PACKAGES)
    for source in (*ROOT.glob("explainers/**/*.py"), *ROOT.glob("backends/**/*.py")):
        relative = source.relative_to(ROOT / "backends" if "backends" in source.parts else ROOT)
        assert relative.as_posix() in names


def test_it_names_its_entry_points_and_extras(wheel: Path) -> None:
    archive = zipfile.ZipFile(wheel)
    (folder,) = {name.partition("/")[0] for name in archive.namelist() if ".dist-info" in name}
    points = archive.read(f"{folder}/entry_points.txt").decode()
    assert "[explainers.backends]" in points
    for name in ("torch", "tensorflow", "numpy"):
        assert f"{name} = explainers_{name}:BACKEND" in points
    metadata = archive.read(f"{folder}/METADATA").decode()
    for extra in ("torch", "tensorflow", "plots", "all", "dev", "bench"):
        assert f"Provides-Extra: {extra}" in metadata


def test_it_works_outside_the_repository(wheel: Path, tmp_path: Path) -> None:
    """Installed without its dependencies into a folder that goes before this environment's own packages."""
    place = tmp_path / "site"
    command = [sys.executable, "-m", "pip", "install", "--no-deps", "--no-index", "--quiet", "--target", str(place)]
    subprocess.run([*command, str(wheel)], check=True, capture_output=True)
    done = subprocess.run(
        [sys.executable, "-c", EXAMPLE], cwd=tmp_path, env={**os.environ, "PYTHONPATH": str(place)},
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    files, backends, gap, blocks = json.loads(done.stdout.splitlines()[-1])
    assert {Path(file).parent.parent for file in files} == {place}
    assert backends == ["numpy", "tensorflow", "torch"]
    assert gap < 1e-3
    assert blocks == [[1.0, 1.0, 1.0]]

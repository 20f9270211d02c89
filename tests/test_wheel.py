"""A built wheel installs and works outside the repository."""

from __future__ import annotations

import email
import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
import zipfile
from email.message import Message
from pathlib import Path
from typing import Any

import pytest

import explainers

ROOT = Path(__file__).parent.parent
PACKAGES = ("explainers", "explainers_torch", "explainers_tensorflow", "explainers_numpy")
SOURCES = ("setup.py", "setup.cfg", "pyproject.toml", "README.md", "LICENSE", "explainers", "backends")

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


def metadata(wheel: Path) -> Message:
    archive = zipfile.ZipFile(wheel)
    (name,) = (name for name in archive.namelist() if name.endswith(".dist-info/METADATA"))
    return email.message_from_bytes(archive.read(name))


def test_it_holds_the_packages_their_types_and_no_tests(wheel: Path) -> None:
    names = zipfile.ZipFile(wheel).namelist()
    for package in PACKAGES:
        assert f"{package}/__init__.py" in names
        assert f"{package}/py.typed" in names
    assert "explainers/plots/browser.js" in names
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
    extras = metadata(wheel).get_all("Provides-Extra", [])
    assert {"torch", "tensorflow", "tensorflow-cpu", "plots", "all", "dev", "bench"} <= set(extras)


def test_only_one_extra_asks_for_the_cpu_build_of_tensorflow(wheel: Path) -> None:
    """Installed over a GPU build, it would replace it."""
    asking = [line for line in metadata(wheel).get_all("Requires-Dist", []) if re.search(r"tensorflow.cpu", line)]
    assert {re.findall(r"extra == .([\w-]+)", line)[-1] for line in asking} == {"tensorflow-cpu", "dev"}


def test_the_version_stands_in_one_place(wheel: Path) -> None:
    assert metadata(wheel)["Version"] == explainers.__version__
    assert wheel.name.startswith(f"explainers-{explainers.__version__}-")
    for name in ("setup.cfg", "setup.py", "pyproject.toml", "docs/conf.py"):
        assert explainers.__version__ not in (ROOT / name).read_text(encoding="utf-8"), name


def test_classifiers_begin_with_the_oldest_python(wheel: Path) -> None:
    classifiers = metadata(wheel).get_all("Classifier", [])
    minors = [int(line.rpartition(".")[2]) for line in classifiers if re.search(r":: 3\.\d+$", line)]
    assert metadata(wheel)["Requires-Python"] == f">=3.{minors[0]}"
    assert minors == list(range(minors[0], minors[-1] + 1))


def test_no_link_of_the_page_on_an_index_is_relative(wheel: Path) -> None:
    page = metadata(wheel).get_payload()
    assert "# explainers" in page
    assert not [link for link in re.findall(r"\]\(([^)]*)\)", page) if not link.startswith(("https://", "#"))]


def test_links_lead_to_the_files_of_the_version() -> None:
    spec = importlib.util.spec_from_file_location("setup_script", ROOT / "setup.py")
    assert spec is not None
    assert spec.loader is not None
    script: Any = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    text = "![A\ndigit.](docs/a.png) [the `x[0]` page](docs/a.md#top), [there](https://b.org/c), [here](#below)"
    assert script.page(text, "https://code.org/me/it/", "1.2.3") == (
        "![A\ndigit.](https://code.org/me/it/raw/v1.2.3/docs/a.png) "
        "[the `x[0]` page](https://code.org/me/it/blob/v1.2.3/docs/a.md#top), [there](https://b.org/c), [here](#below)"
    )
    assert script.page(text, "", "1.2.3") == "*A digit.* the `x[0]` page, [there](https://b.org/c), [here](#below)"
    assert script.version() == explainers.__version__


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

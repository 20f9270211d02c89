"""The linter's contracts name every module, and each kind of wrong import breaks one."""

from __future__ import annotations

import configparser
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SEEN_BY_BACKENDS = {"backend", "conditions", "errors", "file", "graph", "lengths", "ops", "spec", "structure"}
WRONG = [
    ("explainers/errors.py", "from .spec import TensorSpec"),
    ("explainers/structure.py", "from .spec import TensorSpec"),
    ("explainers/stored.py", "from .structure import Fixed"),
    ("explainers/ops.py", "from .spec import TensorSpec"),
    ("explainers/spec.py", "from .graph import Graph"),
    ("explainers/graph/nodes.py", "from ..methods import Method"),
    ("explainers/graph/coverage.py", "from ..program import Program"),
    ("explainers/graph/rewrite_regions.py", "from ..rules import Site"),
    ("explainers/rules/base.py", "from ..program import Program"),
    ("explainers/methods/base.py", "from ..run import Packages"),
    ("explainers/program/prepare.py", "from ..run import Packages"),
    ("explainers/file/container.py", "from ..explainer.plan import Plan"),
    ("explainers/explainer/bind.py", "from .api import Explainer"),
    ("explainers/tables.py", "import torch"),
    ("explainers/scheduler.py", "from .serve import settings"),
    ("backends/explainers_torch/roles.py", "from explainers.program import Program"),
    ("backends/explainers_numpy/kernel.py", "from explainers.random_numbers import unit"),
    ("backends/explainers_torch/watch.py", "import explainers_tensorflow"),
    ("explainers/new.py", "from .graph import Graph"),  # a module that no layer names
    ("explainers/explainer/new.py", "from .plan import Plan"),
]


def test_all_that_backends_must_not_see_is_listed() -> None:
    settings = configparser.ConfigParser()
    settings.read(ROOT / "setup.cfg", encoding="utf-8")
    listed = settings["importlinter:contract:backends"]["forbidden_modules"].split()
    names = {path.stem for path in (ROOT / "explainers").iterdir() if path.suffix == ".py" or path.is_dir()}
    known = {name for name in names if not name.startswith("_") and name != "py"}
    assert {name.removeprefix("explainers.") for name in listed} == known - SEEN_BY_BACKENDS


def lint(folder: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [Path(sys.executable).parent / "lint-imports", "--no-cache"], cwd=folder, capture_output=True, text=True,
        check=False, env={**os.environ, "PYTHONPATH": f"{folder}:{folder / 'backends'}"},
    )  # fmt: skip


@pytest.mark.slow
def test_every_wrong_import_breaks_a_contract(tmp_path: Path) -> None:
    for name in ("explainers", "backends"):
        shutil.copytree(ROOT / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "setup.cfg", tmp_path)
    assert lint(tmp_path).returncode == 0
    for path, line in WRONG:
        file = tmp_path / path
        before = file.read_text(encoding="utf-8") if file.exists() else None
        file.write_text(f"{before or ''}\n{line}\n", encoding="utf-8")
        assert lint(tmp_path).returncode == 1, (path, line)
        file.write_text(before, encoding="utf-8") if before is not None else file.unlink()

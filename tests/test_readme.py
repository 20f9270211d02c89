"""Every Python block of the README and the docs runs, each in a process of its own; the tables are complete."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from explainers import methods
from explainers.backend import backends

ROOT = Path(__file__).parent.parent
README = ROOT / "README.md"
DOCS = ROOT / "docs"
GLANCE = DOCS / "glance.md"
MOST_WORDS = 900
PAGES = [README, *sorted(page for page in DOCS.rglob("*.md") if "_build" not in page.parts)]
FENCE = re.compile(r"^```python\n(.*?)^```$", re.DOTALL | re.MULTILINE)


def blocks(page: Path) -> list[str]:
    """The page's Python blocks, each behind as many empty lines as stand before it, so that line numbers match."""
    text = page.read_text(encoding="utf-8")
    return ["\n" * text.count("\n", 0, found.start(1)) + found[1] for found in FENCE.finditer(text)]


def name(page: Path) -> str:
    return "-".join(page.relative_to(ROOT).with_suffix("").parts).removeprefix("docs-")


PARAMETERS = [
    pytest.param(page, block, id=f"{name(page)}-line-{len(block) - len(block.lstrip()) + 1}")
    for page in PAGES
    for block in blocks(page)
]


@pytest.mark.parametrize(("page", "block"), PARAMETERS)
def test_block_runs(page: Path, block: str, tmp_path: Path) -> None:
    script = tmp_path / f"{page.stem}.py"
    script.write_text(block, encoding="utf-8")
    done = subprocess.run(
        [sys.executable, str(script)], capture_output=True, text=True, cwd=tmp_path, timeout=300,
        env={**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3", "KERAS_BACKEND": "tensorflow"},
    )  # fmt: skip
    assert done.returncode == 0, f"{page.name}:\n{done.stderr[-3000:]}"


def test_no_block_is_overlooked() -> None:
    for page in PAGES:
        assert len(blocks(page)) == page.read_text(encoding="utf-8").count("```python"), page.name


def test_the_readme_shows_both_frameworks_in_ten_lines() -> None:
    first = blocks(README)[:2]
    assert ["import torch" in block for block in first] == [True, False]
    assert ["import keras" in block for block in first] == [False, True]
    assert all(len([line for line in block.splitlines() if line.strip()]) <= 10 for block in first)


def test_the_readme_is_short_and_shows_a_picture_at_once() -> None:
    text = README.read_text(encoding="utf-8")
    assert len(text.split()) < MOST_WORDS
    (path, *others) = re.findall(r"!\[[^\]]*\]\(([^)]+)\)", text)
    assert not others
    assert (ROOT / path).is_file()
    assert text.index(f"({path})") < text.index("\n## ")
    links = set(re.findall(r"\]\(([^)#]+)", text))
    assert {"docs/influence.md", "docs/ensembles.md", "docs/glance.md", "SECURITY.md"} <= links


def test_the_readme_s_figures_are_those_of_the_benchmarks() -> None:
    """The table of the README repeats lines of docs/benchmarks.md."""
    measured = (DOCS / "benchmarks.md").read_text(encoding="utf-8").partition("## DeepLIFT beside Captum and SHAP")[2]
    cells = dict(re.findall(r"^\| (torch-\S+ \| \w+) \| (.*) \|$", measured, re.MULTILINE))
    places = (("torch-vit", 1), ("torch-vit", 0), ("torch-cnn_softmax", 2), ("torch-vit", 2))
    of = [[float(cells[f"{net} | {name}"].split(" | ")[place]) for name in ("explainers", "Captum", "SHAP")]
          for net, place in places]  # fmt: skip
    text = README.read_text(encoding="utf-8")
    for start, expected in zip(("**Threads**", "**Complete**", "**Speed**", "and that transformer"), of, strict=True):
        (line,) = (line for line in text.splitlines() if line.startswith(f"| {start}"))
        given = [float(re.match(r"[\d.,]+", cell.strip())[0].strip(",").replace(",", ""))  # type: ignore[index]
                 for cell in line.strip("| ").split("|")[1:]]  # fmt: skip
        assert given == pytest.approx(expected, rel=0.06), line


def test_the_table_of_methods_is_complete() -> None:
    table = GLANCE.read_text(encoding="utf-8").partition("| method |")[2].partition("\n\n")[0]
    ticks = {}
    for line in table.splitlines()[2:]:
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        ticks.update({name: [cell == "✓" for cell in cells[2:]] for name in re.findall(r"`(\w+)`", cells[0])})
    known = {name: [True, True, method.rules is None] for name, method in methods.METHODS.items()}
    assert {name: ticks[name] for name in known} == known
    options = set(ticks) - set(known)
    assert options <= {"tolerance", "References", "groups", "Perturbation"}


def test_the_table_of_engines_is_complete() -> None:
    text = GLANCE.read_text(encoding="utf-8")
    lines = dict(re.findall(r"^\| (torch|tensorflow|numpy) \|(.*)$", text, re.MULTILINE))
    for name, backend in backends().items():
        named = re.findall(r"`(\w+)`", lines[name].split("|")[1])
        assert set(named) == set(backend.engines)
        assert named[0] == backend.default_engine

"""The tables of ``explainers compare`` at the widths of terminals."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from explainers import Candidate, Comparison, compare
from explainers.compare.measuring import Candidates

METHODS = ("integrated_gradients", "saliency", "captum:IntegratedGradients")


@pytest.fixture(scope="module")
def comparison() -> Comparison:
    import torch

    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.Tanh(), torch.nn.Linear(8, 3))
    x = np.random.default_rng(0).normal(size=(5, 4)).astype("float32")
    return compare([Candidate(model, method) for method in METHODS], x, target=0, seconds=0.01)


@pytest.mark.parametrize("columns", [80, 100])
def test_headings_take_two_lines_and_nothing_is_cut(comparison: Comparison, columns: int) -> None:
    console = Console(width=columns)
    with console.capture() as capture:
        console.print(comparison)
    lines = capture.get().splitlines()
    assert max(map(len, lines)) <= columns
    assert not [line for line in lines if "…" in line]
    (ruled, *_) = (i for i, line in enumerate(lines) if set(line.strip()) == {"─"})
    assert not lines[ruled - 3].strip()
    assert re.findall(r"\S+", lines[ruled - 2]) == ["compile", "one", "all", "rows", "peak"]
    assert re.findall(r"\S+", lines[ruled - 1]) == [
        "candidate",
        "gap",
        "(s)",
        "(ms)",
        "(ms)",
        "(1/s)",
        "(MB)",
        "traces",
    ]
    first = lines[ruled + 1]
    for cell in comparison.candidates.numeric()[0]:
        assert cell in first


def test_every_number_has_a_heading() -> None:
    assert len(Candidates.headings) == len(Candidates.numbers)
    for name, (words, unit) in zip(Candidates.numbers, Candidates.headings, strict=True):
        assert name.startswith(words), name
        assert unit.replace("1/", "per_").lower() in name


def test_the_page_has_the_same_headings(comparison: Comparison) -> None:
    heads = re.findall(r'<th scope="col">(.*?)</th>', comparison.to_html())
    assert heads[:8] == ["candidate", "gap", "compile, s", "one, ms", "all, ms", "rows, 1/s", "peak, MB", "traces"]


def test_it_is_the_command_s_table(comparison: Comparison, tmp_path: Path) -> None:
    from ..test_cli import done

    np.save(tmp_path / "x.npy", np.ones((3, 4), "float32"))
    (tmp_path / "net.py").write_text("import torch\nmodel = torch.nn.Linear(4, 3)\n")
    arguments = ("--methods", "saliency", "--inputs", "x.npy", "--target", "0", "--seconds", "0")
    text = done(tmp_path, "compare", "net.py:model", *arguments)
    assert re.search(r"candidate +gap +\(s\) +\(ms\) +\(ms\) +\(1/s\) +\(MB\) +traces", text)

"""An output that cannot be written is told before anything is loaded, imported or compiled."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from explainers import Explainer
from explainers.cli import commands
from explainers.cli import compare as comparing
from explainers.cli.loading import Subject

from ..test_cli import refused

MODEL = "import torch\nmodel = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.Tanh(), torch.nn.Linear(8, 3))\n"
RUN = ("run", "net.py:model", "x.npy", "--method", "saliency", "--target", "0", "-o")
COMPARE = ("compare", "net.py:model", "--methods", "saliency", "--inputs", "x.npy", "--target", "0", "--seconds", "0")
EVALUATE = ("evaluate", "e.explainer", "--inputs", "x.npy", "--metric", "deletion", "--target", "0")


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a model, samples, an explainer, and what is in the way of outputs."""
    import torch

    folder = tmp_path_factory.mktemp("outputs")
    (folder / "net.py").write_text(MODEL)
    np.save(folder / "x.npy", np.zeros((5, 4), "float32"))
    np.save(folder / "there.npy", np.zeros(3))
    (folder / "folder.npy").mkdir()
    (folder / "page.html").mkdir()
    Explainer.compile(torch.nn.Linear(4, 3), "saliency", inputs=torch.zeros(1, 4)).save(folder / "e.explainer")
    return folder


@pytest.fixture
def nothing_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fails whatever loads an explainer, imports a model, compiles, or compares."""

    def early(*arguments: Any, **options: Any) -> None:
        raise AssertionError("it began before it looked at its output")

    monkeypatch.setattr(Explainer, "compile", early)
    monkeypatch.setattr(Explainer, "load", early)
    monkeypatch.setattr(Subject, "of", early)
    monkeypatch.setattr(commands.sources, "model", early)
    monkeypatch.setattr(comparing, "compare_candidates", early)


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ((*RUN, "a.txt"), "'a.txt' is not of a known kind"),
        ((*RUN, "no/a.npy"), "no folder 'no'"),
        ((*RUN, "there.npy"), "--output 'there.npy' exists: choose another name, or replace it by --overwrite"),
        ((*RUN, "folder.npy", "--overwrite"), "'folder.npy' is a folder with other things in it"),
        ((*RUN, "x.npy", "--overwrite"), "--output 'x.npy' would replace the input 'x.npy'"),
        ((*RUN, "/dev/full"), "'/dev/full' is not of a known kind"),
        (("compile", "net.py:model", "saliency", "-o", "no/a.explainer"), "the folder of 'no/a.explainer' does not"),
        (("report", "e.explainer", "x.npy", "-o", "page.html"), "'page.html' is a folder"),
        ((*COMPARE, "--html", "page.html"), "'page.html' is a folder"),
        ((*COMPARE, "--json", "no/a.json"), "the folder of 'no/a.json' does not exist"),
        ((*EVALUATE, "--html", "page.html"), "'page.html' is a folder"),
        ((*EVALUATE, "--json", "no/a.json"), "the folder of 'no/a.json' does not exist"),
    ],
    ids=lambda value: " ".join((value[0], *value[-2:])) if isinstance(value, tuple) else "",
)
@pytest.mark.usefixtures("nothing_runs")
def test_outputs_are_checked_first(place: Path, arguments: tuple[str, ...], expected: str) -> None:
    before = sorted(place.iterdir())
    assert expected in refused(place, *arguments)
    assert sorted(place.iterdir()) == before

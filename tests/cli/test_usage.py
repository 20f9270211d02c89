"""Messages of the command: in the words of its options, what was given and what to do; status 2 for wrong usage."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from ..test_cli import run
from ..test_words import PYTHON

NET = "import torch\n\nmodel = torch.nn.Sequential(torch.nn.Linear(4, 3))\n"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("usage")
    (folder / "net.py").write_text(NET)
    np.save(folder / "x.npy", np.ones((5, 4), "float32"))
    status, text = run(
        folder, "compile", "net.py:model", "integrated_gradients", "--inputs", "x.npy", "-o", "a.explainer"
    )
    assert status == 0, text
    return folder


RUN = ("run", "a.explainer", "x.npy", "-o", "new.npy", "--target")
COMPILE = ("compile", "net.py:model", "integrated_gradients", "-o", "new.explainer")
USAGE = [
    ((*RUN, "cat"), "--target 'cat' is not a target: give the number of an output, such as 3"),
    ((*RUN, "0", "--block", "0"), "--block must be a number of samples ≥ 1; got 0"),
    ((*RUN, "0", "--set", "step=4"), "unknown parameter 'step'. Did you mean 'steps'?"),
    ((*RUN, "0", "--set", "steps=many"), 'steps must be a valid integer; got "many"'),
    ((*RUN, "0", "--set", "steps"), "give parameters as name=value; got 'steps'"),
    ((*RUN, "0", "--method", "deeplift"), "this option is for models. Leave it out, or set it when you run explainers"),
    ((*RUN, "0", "--baseline", "mean"), "--baseline 'mean' is neither a number nor @file.npy"),
    ((*RUN, "0", "--baseline", "0", "--references", "@x.npy"), "give --baseline or --references, not both"),
    ((*RUN, "0", "--where", "a~0"), "--where 'a~0' is not a condition: give NAME=VALUE"),
    ((*RUN, "@none.npy"), "there is no file 'none.npy'"),
    (("run", "none.explainer", "x.npy", "-o", "new.npy"), "there is no file 'none.explainer'. Give the file of"),
    (COMPILE, "the model 'net.py:model' does not declare its inputs: give --inputs"),
    ((*COMPILE, "--inputs", "float3[4]"), "--inputs 'float3[4]' is neither a file nor a type"),
    ((*COMPILE, "--inputs", "x.npy", "--engine", "turbo"), "unknown engine 'turbo' of backend 'torch'. Known:"),
    ((*COMPILE, "--inputs", "x.npy", "--model-output", "end"), "unknown output or layer 'end'. Known: 0."),
    (("compile", "net.py:net", "deeplift", "-o", "new.explainer"), "unknown name 'net' in 'net.py:net'"),
    (("evaluate", "a.explainer", "--inputs", "x.npy", "--metric", "deletion:stepz=4"),
     "unknown parameter 'stepz' of metric 'deletion'"),
    (("report", "a.explainer", "x.npy", "-o", "new.html", "--target", "0", "--samples", "few"), "--samples takes a"),
    (("bench-call", "a.explainer", "--batch-size", "0"), "--batch-size"),
    (("bench-call", "a.explainer", "--seconds", "-1"), "--seconds"),
    (("serve", "a.explainer", "--port", "99999"), "--port"),
    (("compare", "net.py:model", "--methods", ",", "--inputs", "x.npy"), "--methods is empty: name at least one"),
]  # fmt: skip


@pytest.mark.parametrize(("arguments", "expected"), USAGE, ids=[" ".join(some)[:70] for some, _ in USAGE])
def test_wrong_usage_ends_with_status_2(folder: Path, arguments: tuple[str, ...], expected: str) -> None:
    status, text = run(folder, *arguments)
    assert status == 2, text
    assert expected in text
    assert not PYTHON.search(text), text
    assert "Traceback" not in text
    assert not list(folder.glob("new.*"))


@pytest.mark.parametrize(
    ("arguments", "option"),
    [
        (("compile", "net.py:model", "deeplift", "--inputs", "x.npy", "-o"), "--output"),
        (("run", "a.explainer", "x.npy", "--target", "0", "-o"), "--output"),
        (("report", "a.explainer", "x.npy", "--target", "0", "-o"), "--output"),
        (("compare", "net.py:model", "--methods", "deeplift", "--inputs", "x.npy", "--html"), "--html"),
        (("evaluate", "a.explainer", "--inputs", "x.npy", "--metric", "deletion", "--json"), "--json"),
    ],
)
def test_outputs_are_tried_before_anything_is_loaded(
    folder: Path, monkeypatch: pytest.MonkeyPatch, arguments: tuple[str, ...], option: str
) -> None:
    """A folder may exist and take no files all the same: a read-only disk, /proc."""

    def refuse(*given: object, **options: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("tempfile.TemporaryFile", refuse)
    monkeypatch.setattr("explainers.Explainer.load", None)
    monkeypatch.setattr("explainers.Explainer.compile", None)
    status, text = run(folder, *arguments, "new.npy")
    assert status != 0
    assert f"{option} 'new.npy' cannot be written: its folder takes no new files (Permission denied)" in text


def test_a_model_that_fails_on_its_inputs_is_no_traceback(folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
    status, text = run(folder, *COMPILE, "--inputs", "float32[5]")
    assert status == 1
    assert "Check that the model itself runs on inputs of these shapes and types." in text
    assert "Traceback" not in text + "".join(capfd.readouterr())


def test_serve_speaks_of_its_own_options(folder: Path) -> None:
    status, text = run(folder, "serve", "a.explainer", "--host", "0.0.0.0")
    assert status == 1
    assert "can be reached from other machines: give --keys, or let anybody use the server: --insecure\n" in text


def test_candidates_are_named_by_what_the_options_say(folder: Path) -> None:
    arguments = ("--inputs", "x.npy", "--target", "9", "--seconds", "0")
    status, text = run(folder, "compare", "net.py:model", "--methods", "deeplift", *arguments)
    assert status == 2
    assert "candidate 'deeplift': target 9 at position 0 is out of range" in text


@pytest.mark.parametrize("command", ["compile", "run", "serve", "compare", "evaluate", "report", "info", "bench-call"])
def test_headings_and_examples_of_help_are_whole(folder: Path, command: str) -> None:
    status, text = run(folder, command, "--help")
    assert status == 0
    assert "Example: explainers" in text

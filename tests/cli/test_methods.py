"""``explainers methods`` says what the docstrings and fields say, in the command's words."""

from __future__ import annotations

import dataclasses
import json
import re
import subprocess
import sys
from pathlib import Path
from unittest import mock

import pytest
from rich.console import Console
from typer.testing import CliRunner

import explainers
from explainers import methods
from explainers.cli import methods as listing
from explainers.cli import sources
from explainers.cli.commands import app

from ..test_cli import done, refused


def shown(columns: int, *names: str) -> str:
    with mock.patch.object(listing, "console", Console(width=columns)):
        result = CliRunner().invoke(app, ["methods", *names])
    assert result.exit_code == 0, result.output
    return result.output


def test_all_methods_are_listed_with_their_parameters(tmp_path: Path) -> None:
    text = done(tmp_path, "methods")
    entries = dict(re.findall(r"^(\w+)\n((?: {4}.*\n)+)", text, re.MULTILINE))
    assert set(entries) == set(methods.METHODS)
    for name, method in methods.METHODS.items():
        fields = [field.name for field in dataclasses.fields(method)]
        parameters = re.search(r"parameters: (.*)", entries[name], re.DOTALL)
        assert bool(parameters) == bool(fields), name
        assert [part.partition("=")[0].strip() for part in parameters[1].split(", ")] == fields if parameters else True
        head = (type(method).__doc__ or "").split("\n")[0].replace("``", "").split(":class:")[0]
        assert head[:50] in " ".join(entries[name].split()), name


def test_methods_for_any_function_stand_below(tmp_path: Path) -> None:
    _, networks, functions = re.split(r"^For .*\n", done(tmp_path, "methods"), flags=re.MULTILINE)
    for name, method in methods.METHODS.items():
        assert re.search(rf"^{name}$", functions if method.rules is None else networks, re.MULTILINE), name


@pytest.mark.parametrize("name", methods.METHODS)
def test_set_takes_the_parameters_as_they_are_shown(name: str) -> None:
    """A default that is shown, given back as ``--set``, changes nothing."""
    method = methods.METHODS[name]
    settings = [f"{key}={value}" for key, value in listing.spoken(listing.defaults(method)).items()]
    assert sources.method(name, settings) == method


@pytest.mark.parametrize("name", methods.METHODS)
def test_a_description_speaks_the_command(name: str) -> None:
    text = listing.description(methods.METHODS[name])
    for markup in ("``", ":class:", "---", r"\*", "Raises", "References(", "Explanation.", "explain."):
        assert markup not in text, markup
    assert not re.search(r"\b(None|True|False|wrt=|baseline=)", text), text
    for field in dataclasses.fields(methods.METHODS[name]):
        if name not in ("deeplift_shap",):  # refers to deeplift
            assert re.search(rf"\b{field.name}\b", text), field.name


def test_a_named_method_is_described_in_full(tmp_path: Path) -> None:
    text = done(tmp_path, "methods", "integrated_gradients")
    assert "quadrature: nodes and weights" in text
    assert "steps=50, quadrature=gauss_legendre, tolerance=null" in text
    assert "deeplift" not in text
    assert "steps=100, quadrature=right" in done(tmp_path, "methods", "intgrad")
    assert "Similar names: lrp" in refused(tmp_path, "methods", "lpr")


@pytest.mark.parametrize("columns", [60, 80, 100])
def test_it_fits_the_terminal(columns: int) -> None:
    text, wide = (shown(width) + shown(width, *methods.METHODS) for width in (columns, 400))
    assert max(map(len, text.splitlines())) <= columns
    assert text.split() == wide.split(), "nothing is cut"


def test_json_holds_values(tmp_path: Path) -> None:
    records = {record["name"]: record for record in json.loads(done(tmp_path, "methods", "--json"))}
    assert set(records) == set(methods.METHODS)
    assert records["lime"]["parameters"] == {"samples": 1000, "kernel_width": 0.25, "ridge": 1.0, "groups": None}
    assert records["lime"]["any_function"] is True
    assert records["saliency"] == {
        "name": "saliency", "summary": "|∂s/∂x| (Simonyan, Vedaldi and Zisserman 2014, section 3.1).",
        "any_function": False, "parameters": {},
    }  # fmt: skip


def test_it_loads_no_framework() -> None:
    code = (
        "import sys; sys.argv = ['explainers', 'methods']\nfrom explainers.cli import main\n"
        "try: main()\nexcept SystemExit: pass\n"
        "assert not {'torch', 'tensorflow', 'keras'} & set(sys.modules), sorted(sys.modules)\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)


def test_the_version(tmp_path: Path) -> None:
    assert done(tmp_path, "--version").strip() == f"explainers {explainers.__version__}"

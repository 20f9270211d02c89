"""The site: links, pages written from the code, examples of the shell and of docstrings; it builds."""

from __future__ import annotations

import doctest
import importlib
import importlib.util
import os
import pkgutil
import re
import shutil
import socket
import subprocess
import sys
import warnings
import xml.etree.ElementTree as ElementTree
from pathlib import Path
from typing import Any

import pytest

import explainers

from .test_readme import DOCS, PAGES, ROOT, name

FENCED = re.compile(r"^(`{3,})[^\n]*\n.*?^\1$", re.DOTALL | re.MULTILINE)
LINK = re.compile(r"!?\[((?:[^\]\[]|\[[^\]]*\])*)\]\(([^)\s]+)\)")
OTHERS = [ROOT / "CHANGELOG.md", ROOT / "CONTRIBUTING.md", ROOT / "SECURITY.md"]


def prose(page: Path) -> str:
    return FENCED.sub("", page.read_text(encoding="utf-8"))


def anchors(page: Path) -> set[str]:
    """Of the headings, as GitHub and the site name them."""
    titles = re.findall(r"^#+ (.*)$", prose(page), re.MULTILINE)
    plain = [re.sub(r"[`*]|\[([^\]]*)\]\([^)]*\)", r"\1", title).strip().lower() for title in titles]
    return {re.sub(r"[^\w\- ]", "", title).replace(" ", "-") for title in plain}


@pytest.mark.parametrize("page", [*PAGES, *OTHERS], ids=name)
def test_links_lead_somewhere(page: Path) -> None:
    for text, link in LINK.findall(prose(page)):
        assert text.strip(), f"{page.name}: {link} has no text"
        if link.startswith(("http:", "https:")):
            assert re.fullmatch(r"https://[\w.-]+\.[a-z]+(/[\w./#?=&%+-]*)?", link), f"{page.name} → {link}"
            continue
        path, _, anchor = link.partition("#")
        target = page.parent / path if path else page
        assert target.exists(), f"{page.name} → {link}"
        if anchor:
            assert anchor in anchors(target), f"{page.name} → {link}: {sorted(anchors(target))}"


def test_every_page_is_in_a_table_of_contents() -> None:
    listed = set()
    for page in PAGES:
        for block in re.findall(r"^```\{toctree\}\n(.*?)^```$", page.read_text(encoding="utf-8"), re.S | re.M):
            lines = [line for line in block.splitlines() if line and not line.startswith(":")]
            listed.update((page.parent / f"{line}.md").resolve() for line in lines)
    assert listed == {page.resolve() for page in DOCS.rglob("*.md") if "_build" not in page.parts} - {DOCS / "index.md"}


def test_pictures_have_texts_and_load_nothing() -> None:
    for page in PAGES:
        for alternative, path in re.findall(r"!\[(.*?)\]\((.*?)\)", prose(page), re.DOTALL):
            assert len(alternative) > 40, f"{page.name}: {path}"
    for path in (DOCS / "_static").glob("*.svg"):
        assert ElementTree.parse(path).getroot().tag.endswith("svg")
        assert "href" not in path.read_text(encoding="utf-8")


def test_pages_written_from_the_code_are_current() -> None:
    spec = importlib.util.spec_from_file_location("generate", DOCS / "generate.py")
    assert spec is not None
    assert spec.loader is not None
    module: Any = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    for path, text in module.pages():
        assert path.read_text(encoding="utf-8") == text, f"{path.name}: run python docs/generate.py"


def test_benchmarks_come_onto_the_page_with_what_was_missed() -> None:
    from benchmarks import page
    from benchmarks.report import Line

    slow = {"forward": [1.0] * 3, "explain": [3.0] * 3, "Captum": [2.0] * 3, "hand": [2.5] * 3}
    line = Line("torch", "mlp", "MLP", "saliency", 1, 1, slow).record()
    run = {"about": "a machine; torch 0", "lines": [line], "overhead_microseconds": {"saliency": 70.0}}
    before = (DOCS / "benchmarks.md").read_text(encoding="utf-8")
    text = page.fill_page(before, [run])
    assert "a machine; torch 0:" in text
    assert "1.50 (1.50–1.50) **> 0.8 missed**" in text
    assert "0 of 2 goals met; missed:" in text
    assert "70 µs **> 60 missed**" in text
    assert text.partition(page.END)[2] == before.partition(page.END)[2]
    assert page.fill_page(text, [run]) == text


def test_the_security_policy_names_this_version_and_what_is_not_promised() -> None:
    text = (ROOT / "SECURITY.md").read_text(encoding="utf-8")
    minor = explainers.__version__.rpartition(".")[0]
    assert f"| {minor}.x | yes |" in text
    for title in ("Supported versions", "Report a vulnerability", "Threat model"):
        assert f"## {title}\n" in text
    promised, _, refused = text.partition("**What is not promised:**")
    assert "Explainer.load" in refused
    assert "Explainer.load" not in promised
    assert "SECURITY.md\n:start-after: <!-- report -->" in (DOCS / "security.md").read_text(encoding="utf-8")
    assert text.index("<!-- report -->") < text.index("in private") < text.index("<!-- end -->")


# --- docstrings ------------------------------------------------------------------------------


def modules() -> list[str]:
    found = pkgutil.walk_packages(explainers.__path__, "explainers.")
    return [
        "explainers",
        *sorted(module.name for module in found if module.name != "explainers.serve.ray"),
    ]  # needs ray


@pytest.mark.parametrize("module", modules())
def test_examples_of_docstrings(module: str) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        found = importlib.import_module(module)
    flags = doctest.NORMALIZE_WHITESPACE | doctest.ELLIPSIS
    failed, _ = doctest.testmod(found, optionflags=flags)
    assert not failed


def test_there_are_examples() -> None:
    finder = doctest.DocTestFinder()
    tests = [test for module in modules() for test in finder.find(importlib.import_module(module))]
    assert sum(bool(test.examples) for test in tests) >= 7


def test_public_names_are_in_the_reference() -> None:
    text = "".join(page.read_text(encoding="utf-8") for page in (DOCS / "api").glob("*.md"))
    listed = set(re.findall(r"auto(?!module)\w+:: ([\w.]+)", text))
    for module, options in re.findall(r"automodule:: ([\w.]+)\n((?: +:.*\n)*)", text):
        if ":members:" in options:
            left_out = re.split(r"[,\s]+", "".join(re.findall(r":exclude-members: (.*)", options)))
            listed |= set(vars(importlib.import_module(module)).get("__all__", ())) - set(left_out)
    for family in re.findall(r"\.\. methods:: (\w+)", text):
        listed |= set(importlib.import_module(f"explainers.methods.{family}").__all__)
    for family in re.findall(r"\.\. metrics:: (\w+)", text):
        listed |= set(vars(importlib.import_module(f"explainers.metrics.{family}")))
    listed = {name.rpartition(".")[2] for name in listed}
    modules = {"cluster", "errors", "genomics", "influence", "losses", "methods", "metrics", "text"}
    for module in (
        "explainers",
        "explainers.methods",
        "explainers.methods.lrp",
        "explainers.metrics",
        "explainers.serve",
    ):
        missing = set(importlib.import_module(module).__all__) - listed - modules
        assert not missing, (module, missing)


# --- the shell -------------------------------------------------------------------------------

SHELL = [DOCS / "cli.md", DOCS / "million.md"]
MAIN = "import sys; from explainers.cli import main; sys.argv[0] = 'explainers'; main()"
COMMANDS = {  # programs, not functions of the shell: `kill %1` ends them
    "explainers": f'exec "$PYTHON" -c "{MAIN}" "$@"\n',
    "python": 'exec "$PYTHON" "$@"\n',
}


@pytest.mark.skipif(not shutil.which("bash") or not shutil.which("curl"), reason="bash or curl is not installed")
@pytest.mark.parametrize("page", SHELL, ids=name)
def test_shell(page: Path, tmp_path: Path) -> None:
    """All blocks of a page, one after the other."""
    blocks = re.findall(r"^```bash\n(.*?)^```$", page.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)
    assert blocks
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    script = "\n".join(["set -euo pipefail", *blocks, "wait"]).replace("8080", str(port))
    commands = tmp_path / "bin"
    commands.mkdir()
    for command, text in COMMANDS.items():
        (commands / command).write_text(f"#!/bin/sh\n{text}", encoding="utf-8")
        (commands / command).chmod(0o755)
    path = os.pathsep.join([str(ROOT), str(ROOT / "backends"), os.environ.get("PYTHONPATH", "")])
    environment = {**os.environ, "PYTHON": sys.executable, "PYTHONPATH": path, "COLUMNS": "160"}
    environment["PATH"] = f"{commands}{os.pathsep}{environment['PATH']}"
    with open(tmp_path / "output", "w+") as output:
        done = subprocess.run(
            ["bash", "-c", script], stdout=output, stderr=subprocess.STDOUT, cwd=tmp_path, env=environment, timeout=300
        )
        output.seek(0)
        text = output.read()
    assert done.returncode == 0, text
    assert not re.search(r"^error|Traceback", text, re.MULTILINE), text
    if page.stem == "million":
        assert (tmp_path / "scores.npy").exists()
    else:
        assert '"explanations"' in text, text


# --- the site --------------------------------------------------------------------------------


def test_site(tmp_path: Path) -> None:
    """It builds without a warning, and nothing in it comes from elsewhere."""
    pytest.importorskip("sphinx")
    for module in ("furo", "myst_nb"):
        pytest.importorskip(module)
    command = [sys.executable, "-m", "sphinx", "-W", "--keep-going", "-q", "-b", "html"]
    command += ["-D", "nb_execution_mode=off", str(DOCS), str(tmp_path)]  # make docs runs the notebooks
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    for page in tmp_path.rglob("*.html"):
        for source in re.findall(r'<(?:script|link|img)[^>]+(?:src|href)="([^"]+)"', page.read_text(encoding="utf-8")):
            assert not source.startswith(("http:", "https:", "//")), f"{page.name}: {source}"
    reference = (tmp_path / "api" / "explainer.html").read_text(encoding="utf-8")
    assert "Parameters" in reference
    assert "----" not in re.sub(r"<!--.*?-->", "", reference, flags=re.DOTALL)

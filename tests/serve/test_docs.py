"""The curl examples of the page run as they stand there, but for the port; its tables are complete."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path

import pytest
import torch

from explainers import Explainer
from explainers.serve import Settings

from .live import Live, live

PAGE = (Path(__file__).parent.parent.parent / "docs" / "serve.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```bash\n(.*?)^```$", PAGE, re.DOTALL | re.MULTILINE)


@pytest.fixture(scope="module")
def iris() -> Iterator[Live]:
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.Tanh(), torch.nn.Linear(8, 3))
    methods = {"iris": "integrated_gradients", "shapley": "shapley_sampling"}
    found = {name: Explainer.compile(model, method, inputs=torch.zeros(1, 4)) for name, method in methods.items()}
    with live(found) as client:
        yield client


@pytest.mark.skipif(not shutil.which("curl"), reason="curl is not installed")
@pytest.mark.parametrize("block", BLOCKS, ids=lambda block: re.sub(r"\W+", "-", block[-60:-1]))
def test_curl(iris: Live, block: str) -> None:
    script = block.replace("http://127.0.0.1:8080", iris.url)
    done = subprocess.run(["bash", "-euo", "pipefail", "-c", script], capture_output=True, timeout=30)
    assert done.returncode == 0, done.stderr
    assert done.stdout
    assert b'"error"' not in done.stdout, done.stdout
    assert b"event: error" not in done.stdout


def test_there_is_an_example_of_each_route(iris: Live) -> None:
    for path in iris.get("/openapi.json").json()["paths"]:
        pattern = re.escape(path).replace(re.escape("{name}"), r"\w+")
        assert re.search(pattern + r"\b", "".join(BLOCKS)) or path == "/v2/health/live", path


def test_the_settings_are_listed() -> None:
    others = {"keys", "hosts", "variants", "stream_interval"}
    listed = set(re.findall(r"^\| `(\w+)` \| [^|]+ \| [^|]*\|$", PAGE, re.MULTILINE))
    assert listed == {field.name for field in fields(Settings)} - others
    settings = Settings()
    for name, value in re.findall(r"^\| `(\w+)` \| ([\d,]+) \|", PAGE, re.MULTILINE):
        assert int(value.replace(",", "")) == getattr(settings, name)

"""The curl examples of the page run unchanged except for the port; its tables are complete."""

from __future__ import annotations

import json
import os
import re
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path

import numpy as np
import pytest
import torch

from explainers import Explainer
from explainers.serve import Settings

from .live import Live, live

ROOT = Path(__file__).parent.parent.parent
PAGE = (ROOT / "docs" / "serve.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```bash\n(.*?)^```$", PAGE, re.DOTALL | re.MULTILINE)


@pytest.fixture(scope="module")
def iris() -> Iterator[Live]:
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.Tanh(), torch.nn.Linear(8, 3))
    methods = {"iris": "integrated_gradients", "shapley": "shapley_sampling"}
    explainer_by_name = {
        name: Explainer.compile(model, method, inputs=torch.zeros(1, 4)) for name, method in methods.items()
    }
    with live(explainer_by_name) as client:
        yield client


@pytest.mark.skipif(not shutil.which("curl"), reason="curl is not installed")
@pytest.mark.parametrize("block", BLOCKS, ids=lambda block: re.sub(r"\W+", "-", block[-60:-1]))
def test_curl(iris: Live, block: str) -> None:
    script = block.replace("http://127.0.0.1:8080", iris.url)
    process = subprocess.run(["bash", "-euo", "pipefail", "-c", script], capture_output=True, timeout=30)
    assert process.returncode == 0, process.stderr
    assert process.stdout
    assert b'"error"' not in process.stdout, process.stdout
    assert b"event: error" not in process.stdout


@pytest.mark.skipif(not shutil.which("curl"), reason="curl is not installed")
def test_from_the_readme_s_file_to_an_answer_in_two_lines(tmp_path: Path) -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    example = re.findall(r"^```python\n(.*?)^```$", readme, re.DOTALL | re.MULTILINE)[0]
    (tmp_path / "example.py").write_text(example, encoding="utf-8")
    subprocess.run([sys.executable, "example.py"], cwd=tmp_path, check=True, timeout=120)
    (lines,) = re.findall(r"^```bash\n(explainers serve .*?)^```$", readme, re.DOTALL | re.MULTILINE)
    assert len(lines.splitlines()) == 2
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        script = lines.replace("8080", str(free.getsockname()[1])) + "kill $!; wait $!"
    path = {**os.environ, "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}
    process = subprocess.run(["bash", "-c", script], cwd=tmp_path, env=path, capture_output=True, timeout=120)
    answer = json.loads(process.stdout)
    assert np.shape(answer["explanations"]) == (1, 8), process.stderr


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

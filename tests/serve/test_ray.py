"""The Ray Serve deployment on one local node. RAY_PYTHON names a Python that has Ray."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLE = Path(__file__).parent.parent.parent / "examples" / "ray_serve.py"


@pytest.mark.slow
def test_the_example() -> None:
    python = os.environ.get("RAY_PYTHON", sys.executable)
    if subprocess.run([python, "-c", "import ray.serve"], capture_output=True).returncode:
        pytest.skip(f"{python} has no ray[serve]")
    process = subprocess.run([python, str(EXAMPLE)], capture_output=True, text=True, timeout=300)
    assert process.returncode == 0, process.stderr[-3000:]
    assert '"explanations"' in process.stdout or "'explanations'" in process.stdout
    assert "400" in process.stdout

"""Clients of other projects. Each may have its own environment, whose Python KSERVE_PYTHON or TRITON_PYTHON names."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from .live import Live

CLIENTS = {"kserve": "KSERVE_PYTHON", "tritonclient.http": "TRITON_PYTHON"}


@pytest.mark.slow
@pytest.mark.parametrize("module", CLIENTS)
def test_client(server: Live, module: str) -> None:
    python = os.environ.get(CLIENTS[module], sys.executable)
    if subprocess.run([python, "-c", f"import {module}"], capture_output=True).returncode:
        pytest.skip(f"{python} has no {module}")
    script = Path(__file__).with_name(f"client_{module.partition('.')[0].removesuffix('client')}.py")
    process = subprocess.run([python, str(script), server.url, "ig"], capture_output=True, text=True, timeout=120)
    print(process.stdout)
    assert process.returncode == 0, process.stderr[-3000:]

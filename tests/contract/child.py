"""Runs a script in a fresh interpreter, outside the repository."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

BLOCK = """
import sys
class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in NAMES:
            raise ImportError(f"{name} is blocked in this test")
sys.meta_path.insert(0, Blocked())
"""


def run(script: str, folder: Path, *, blocked: tuple[str, ...] = (), **environment: str) -> Any:
    """The JSON that the script prints last. ``blocked``: top-level packages that cannot be imported there."""
    head = f"NAMES = {blocked!r}\n{BLOCK}" if blocked else ""
    clean = {k: v for k, v in os.environ.items() if k not in ("KERAS_BACKEND", "PYTHONPATH")}
    done = subprocess.run(
        [sys.executable, "-c", head + textwrap.dedent(script)],
        cwd=folder, env={**clean, **environment}, capture_output=True, text=True, timeout=500, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-4000:]
    return json.loads(done.stdout.strip().splitlines()[-1])

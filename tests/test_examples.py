"""The examples run and end in a picture."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent


def test_digits(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, str(ROOT / "examples" / "digits.py"), "--quick"],
        capture_output=True, text=True, cwd=tmp_path, env={**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3"}, timeout=550,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    accuracies = re.findall(r"held-out accuracy ([\d.]+)%", done.stdout)
    assert len(accuracies) == 3
    assert all(float(a) >= 97 for a in accuracies)
    traces = re.findall(r"(\d+) → (\d+)", done.stdout)
    assert len(traces) == 19
    assert all(before == after for before, after in traces)
    assert (tmp_path / "out" / "digits.png").stat().st_size > 50_000

"""The command ``explainers``: compile, inspect, run, compare and serve explainers in files."""

from __future__ import annotations

import sys


def main() -> None:
    """The command's entry point."""
    try:
        from . import compare, evaluate, info, methods, report  # noqa: F401 - add their commands
        from .commands import app
    except ImportError as error:
        sys.exit(f"explainers: {error}. The command needs more packages: pip install 'explainers[cli]'")
    app()


__all__ = ["main"]

"""How many forks this process is away from the one that imported the library.

A forked child has none of its parent's threads, and frameworks wait for theirs.
"""

from __future__ import annotations

import os

from .errors import ForkedProcess

_forks = 0  # of this process and those that it was forked from


def forks() -> int:
    """How many forks this process is away from the one that imported the library: 0, or 1 in a forked child, …"""
    return _forks


def _count_fork() -> None:
    global _forks
    _forks += 1


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_count_fork)


class Home:
    """The process in which something was made, ``thing``, whose threads a child that is forked from it lacks."""

    def __init__(self, thing: str, has_threads: bool = True) -> None:
        self.thing, self.has_threads, self.forks = thing, has_threads, forks()

    def check(self) -> None:
        """Raise ForkedProcess in a child that was forked since."""
        if self.has_threads and self.forks != forks():
            raise ForkedProcess.of(self.thing)

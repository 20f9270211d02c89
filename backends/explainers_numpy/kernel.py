"""Kernels that run programs uncompiled: only the callable costs time."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from explainers.backend import Runnable, Traced
from explainers.graph import Value

from . import ops


class NumpyKernel:
    def __init__(self, program: Runnable) -> None:
        self.native = self._run
        self.program = program

    def _run(self, *arguments: Any) -> tuple[Any, ...]:
        return self.program(ops, {}, *arguments)

    def __call__(self, *arguments: Any) -> tuple[Any, ...]:
        return self._run(*arguments)

    def bind(self, weights: Mapping[Value, Any]) -> None:
        """A callable keeps its own weights."""


def compile(program: Runnable, traced: Traced) -> NumpyKernel:
    return NumpyKernel(program)

"""Watching ``forward`` while it is traced for operations that would fix the batch size or grow the graph: they are
reported with their line, or replaced."""

from __future__ import annotations

import traceback
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from . import recurrent


class Watch(TorchFunctionMode):
    """``lengths``: the stacks of calls of ``len`` on a tensor, which Python turns into a fixed number.

    ``layers``: replacements for torch's functions of recurrent layers. ``recurrent``: whether one of these was called.
    """

    def __init__(self, layers: Mapping[Any, Callable[..., Any]]) -> None:
        super().__init__()
        self.instead = {**_SAME, **layers}
        self.lengths: list[traceback.StackSummary] = []
        self.recurrent = False

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is Tensor.__len__:
            self.lengths.append(traceback.extract_stack())
        self.recurrent = self.recurrent or func in recurrent.LAYERS
        return self.instead.get(func, func)(*args, **(kwargs or {}))


def cdist(x1: Tensor, x2: Tensor, p: float = 2.0, compute_mode: str | None = None) -> Tensor:
    """``torch.cdist`` without its branches on the number of rows."""
    return torch.linalg.vector_norm(x1[..., :, None, :] - x2[..., None, :, :], p, dim=-1)


_SAME = {torch.cdist: cdist}

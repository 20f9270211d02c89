"""A torch model evaluated and differentiated by autograd, in inference, outside the library."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from .cases import Case

Arrays = list[np.ndarray]


class _Guided(torch.autograd.Function):
    @staticmethod
    def forward(context: Any, x: Tensor) -> Tensor:
        context.save_for_backward(x)
        return x.clamp(min=0)

    @staticmethod
    def backward(context: Any, message: Tensor) -> Tensor:
        (x,) = context.saved_tensors
        return message * (x > 0) * (message > 0)


class _Deconvolved(torch.autograd.Function):
    @staticmethod
    def forward(context: Any, x: Tensor) -> Tensor:
        return x.clamp(min=0)

    @staticmethod
    def backward(context: Any, message: Tensor) -> Tensor:
        return message * (message > 0)


class BentRelu(TorchFunctionMode):
    """Replaces every ReLU, module or functional, by one with another derivative."""

    def __init__(self, rule: str) -> None:
        super().__init__()
        self.function = {"guided_backprop": _Guided, "deconvnet": _Deconvolved}[rule]

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if function in (torch.relu, torch.nn.functional.relu, torch.Tensor.relu):
            return self.function.apply(args[0])
        return function(*args, **(kwargs or {}))


@contextmanager
def replaced(module: nn.Module, output: Tensor) -> Iterator[None]:
    """Let ``module`` return ``output``."""
    handle = module.register_forward_hook(lambda *_: output)
    try:
        yield
    finally:
        handle.remove()


class TorchReference:
    def __init__(self, case: Case, model: nn.Module) -> None:
        self.case = case
        self.model = copy.deepcopy(model).eval()
        self.layer = case.layer(self.model) if case.layer else None

    def _call(self, arrays: list[Any]) -> Tensor:
        tensors = [torch.as_tensor(array) for array in arrays]
        result = self.model(**self.case.named(tensors)) if self.case.by_name else self.model(*tensors)
        picked: Tensor = self.case.pick(result)
        return picked

    def _run(self, points: list[Tensor], inputs: Arrays) -> Tensor:
        if self.layer is not None:
            with replaced(self.layer, points[0]):
                return self._call(list(inputs))
        arrays: list[Any] = list(inputs)
        for place, point in zip(self.case.floating, points, strict=True):
            arrays[place] = point
        return self._call(arrays)

    def points(self, inputs: Arrays) -> Arrays:
        if self.layer is None:
            return [inputs[place] for place in self.case.floating]
        seen: list[Tensor] = []
        handle = self.layer.register_forward_hook(lambda _, __, out: seen.append(out.detach()))
        with torch.no_grad():
            self._call(list(inputs))
        handle.remove()
        return [seen[0].numpy()]

    def output(self, points: Arrays, inputs: Arrays) -> np.ndarray:
        with torch.no_grad():
            return self._run([torch.as_tensor(p) for p in points], inputs).numpy()

    def gradient(self, points: Arrays, inputs: Arrays, mask: np.ndarray, rule: str) -> Arrays:
        leaves = [torch.tensor(p, requires_grad=True) for p in points]
        if rule == "gradient":
            out = self._run(leaves, inputs)
        else:
            with BentRelu(rule):
                out = self._run(leaves, inputs)
        scalar = (out * torch.as_tensor(mask, dtype=out.dtype)).sum()
        found = torch.autograd.grad(scalar, leaves, allow_unused=True)
        return [np.zeros_like(p) if g is None else g.numpy() for p, g in zip(points, found, strict=True)]

"""Functions of tensors, like Captum's ``forward_func``, as modules that contain the modules the function uses."""

from __future__ import annotations

import functools
import types
from collections.abc import Iterator
from typing import Any

import torch

from .twin import filled, named_globals


class FunctionModule(torch.nn.Module):
    """A function of tensors as a module. The modules that it refers to are submodules, under the same names."""

    def __init__(self, function: Any) -> None:
        super().__init__()
        for name, module in _reached(function, set()):
            self.add_module(name, module)
        plain = isinstance(function, (types.FunctionType, types.MethodType, functools.partial))
        self.forward = function if plain else function.__call__


def _reached(value: Any, seen: set[int]) -> Iterator[tuple[str, torch.nn.Module]]:
    """The modules that a function refers to, by the names it uses for them."""
    if id(value) in seen:
        return
    seen.add(id(value))
    for name, held in _held(value).items():
        several = isinstance(held, (list, tuple))
        for place, entry in enumerate(held if several else [held]):
            if not isinstance(entry, torch.nn.Module):
                yield from _reached(entry, seen)
            elif id(entry) not in seen:
                seen.add(id(entry))
                yield f"{name}_{place}" if several else name, entry


def _held(value: Any) -> dict[str, Any]:
    """The objects that a function holds (arguments, closure, defaults, globals), by name."""
    if isinstance(value, functools.partial):
        return {"function": value.func, **{f"argument_{i}": arg for i, arg in enumerate(value.args)}, **value.keywords}
    if isinstance(value, types.MethodType):
        return {"model": value.__self__, "function": value.__func__}
    if not isinstance(value, types.FunctionType):
        return {}
    cells = zip(value.__code__.co_freevars, value.__closure__ or (), strict=True)
    defaults = {f"default_{i}": default for i, default in enumerate(value.__defaults__ or ())}
    inside = {name: cell.cell_contents for name, cell in cells if filled(cell)}
    return {**inside, **named_globals(value), **(value.__kwdefaults__ or {}), **defaults}

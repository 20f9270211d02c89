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
        self.written = function
        for name, module in _modules_of(function, set()):
            self.add_module(name, module)
        plain = isinstance(function, (types.FunctionType, types.MethodType, functools.partial))
        self.forward = function if plain else function.__call__


def _modules_of(value: Any, seen_ids: set[int]) -> Iterator[tuple[str, torch.nn.Module]]:
    """The modules that a function refers to, by the names it uses for them."""
    if id(value) in seen_ids:
        return
    seen_ids.add(id(value))
    for name, held_object in _held_objects(value).items():
        several = isinstance(held_object, (list, tuple))
        for place, entry in enumerate(held_object if several else [held_object]):
            if not isinstance(entry, torch.nn.Module):
                yield from _modules_of(entry, seen_ids)
            elif id(entry) not in seen_ids:
                seen_ids.add(id(entry))
                yield f"{name}_{place}" if several else name, entry


def _held_objects(value: Any) -> dict[str, Any]:
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

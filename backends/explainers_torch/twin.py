"""The user's model as it is traced: modules of its own over the same tensors, and stores that stay as they were."""

from __future__ import annotations

import copy
import types
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch


def in_inference(
    model: torch.nn.Module, device: torch.device | None = None, dtype: torch.dtype | None = None
) -> torch.nn.Module:
    """A twin of the model, out of training, and on another device or in another dtype if asked to."""
    made: dict[int, torch.nn.Module] = {}
    twin = _twin(model, made)
    for module in made.values():  # more than twin.modules(): some are kept in plain lists
        module.training = False
    if device is not None or dtype is not None:
        _own_parameters(made)
        twin.to(device=device, dtype=dtype)
    return twin


def _own_parameters(made: dict[int, torch.nn.Module]) -> None:
    """``Module.to`` changes parameters in place (buffers it replaces): the twin's are to be others than the user's."""
    own: dict[int, torch.nn.Parameter] = {}
    for module in made.values():
        for name, parameter in module._parameters.items():
            if parameter is not None:
                fresh = torch.nn.Parameter(parameter.detach(), requires_grad=parameter.requires_grad)
                module._parameters[name] = own.setdefault(id(parameter), fresh)  # tied ones stay tied


def _twin(module: torch.nn.Module, made: dict[int, torch.nn.Module]) -> torch.nn.Module:
    """The module and those below it anew, over the same tensors and whatever else they hold.

    Lists, dicts and sets that a module keeps are copied, one level deep: what ``forward`` puts there stays in the twin.
    """
    if id(module) in made:
        return made[id(module)]
    twin: torch.nn.Module = type(module).__new__(type(module))
    made[id(module)] = twin
    twin.__dict__.update(module.__dict__)
    for name, value in module.__dict__.items():
        if type(value) in (list, dict, set, OrderedDict):
            twin.__dict__[name] = copy.copy(value)
    for name, value in twin.__dict__.items():  # modules may be kept past _modules: a list, or to hide their parameters
        twin.__dict__[name] = _twins(value, made)
    return twin


def _twins(value: Any, made: dict[int, torch.nn.Module]) -> Any:
    """``value``, with twins in the place of modules."""
    if isinstance(value, torch.nn.Module):
        return _twin(value, made)
    if type(value) in (dict, OrderedDict):
        return type(value)((key, _twins(entry, made)) for key, entry in value.items())
    if type(value) in (list, tuple):
        return type(value)(_twins(entry, made) for entry in value)
    if isinstance(value, types.MethodType) and id(value.__self__) in made:
        return types.MethodType(value.__func__, made[id(value.__self__)])  # forward, put onto the instance
    return value


@contextmanager
def hooks_restored(module: torch.nn.Module) -> Iterator[None]:
    """Users' hooks run while the model is traced; what they stored stays as it was before."""
    stores = [store for hook in _hooks(module) for store in _stores(hook)]
    before = [copy.copy(store) for store in stores]
    try:
        yield
    finally:
        for store, content in zip(stores, before, strict=True):
            if isinstance(store, list):
                store[:] = content
            else:
                store.clear()
                store.update(content)


def _hooks(module: torch.nn.Module) -> Iterator[Any]:
    for part in module.modules():
        yield from part._forward_hooks.values()
        yield from part._forward_pre_hooks.values()


def _stores(hook: Any) -> list[Any]:
    """The lists and dicts that a function reaches: in its closure, its defaults, its object, its module."""
    function = getattr(hook, "__func__", getattr(hook, "func", hook))
    held = [getattr(hook, "__self__", None), *getattr(hook, "args", ()), *getattr(hook, "keywords", {}).values()]
    held += [cell.cell_contents for cell in getattr(function, "__closure__", None) or () if _filled(cell)]
    held += getattr(function, "__defaults__", None) or ()
    names = getattr(getattr(function, "__code__", None), "co_names", ())
    held += [function.__globals__[name] for name in names if name in getattr(function, "__globals__", {})]
    if not hasattr(function, "__code__"):
        held.append(function)  # an object that is called
    found = []
    for value in held:
        if isinstance(value, (list, dict, set)):
            found.append(value)
        elif not isinstance(value, (type, types.ModuleType, torch.nn.Module)) and hasattr(value, "__dict__"):
            found.append(value.__dict__)
            found += [entry for entry in value.__dict__.values() if isinstance(entry, (list, dict, set))]
    return found


def _filled(cell: Any) -> bool:
    try:
        return cell.cell_contents is not None
    except ValueError:  # not assigned yet
        return False

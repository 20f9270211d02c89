"""Twins: copies of the user's model for tracing that share its tensors and leave its state unchanged."""

from __future__ import annotations

import copy
import functools
import operator
import types
from collections import OrderedDict
from collections.abc import Container, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch

_CONTAINERS = (list, dict, set, OrderedDict)  # of values that a module may collect


def in_inference(
    model: torch.nn.Module, device: torch.device | None = None, dtype: torch.dtype | None = None
) -> torch.nn.Module:
    """A twin of the model in evaluation mode, moved to another device or dtype if given."""
    twin_by_id: dict[int, Any] = {}
    twin = _twin(model, twin_by_id)
    modules = [module for module in twin_by_id.values() if isinstance(module, torch.nn.Module)]
    for module in modules:  # more than twin.modules(): some modules are in plain lists
        for part in module.modules() if isinstance(module, torch.jit.ScriptModule) else [module]:
            if hasattr(part, "training"):  # frozen TorchScript has no mode
                part.training = False
    if device is not None or dtype is not None:
        _own_parameters(modules)
        twin.to(device=device, dtype=dtype)
    return twin


def _own_parameters(modules: Sequence[torch.nn.Module]) -> None:
    """Give the twin parameters of its own: ``Module.to`` changes parameters in place (but replaces buffers)."""
    own: dict[int, torch.nn.Parameter] = {}
    for module in modules:
        if isinstance(module, torch.jit.ScriptModule):
            _own_tensors(module)
            continue
        for name, parameter in module._parameters.items():
            if parameter is not None:
                fresh = torch.nn.Parameter(parameter.detach(), requires_grad=parameter.requires_grad)
                module._parameters[name] = own.setdefault(id(parameter), fresh)  # tied parameters stay tied


def _own_tensors(module: torch.jit.ScriptModule) -> None:
    """Give TorchScript copies of its tensors, for the same reason; it cannot share some and replace others."""
    for part in module.modules():
        for name, tensor in [*part.named_parameters(recurse=False), *part.named_buffers(recurse=False)]:
            own = tensor.detach().clone()
            setattr(part, name, torch.nn.Parameter(own) if isinstance(tensor, torch.nn.Parameter) else own)


def _script_twin(module: torch.jit.ScriptModule) -> torch.nn.Module:
    """A copy of the TorchScript modules that shares their tensors."""

    def copied(compiled: Any) -> Any:
        twin = copy.copy(compiled)  # of this module alone: its parts are still the user's
        for name, part in torch._C.ModuleDict(compiled).items():
            twin.setattr(name, copied(part))
        return twin

    from torch.jit import _recursive

    twin: torch.nn.Module = _recursive.wrap_cpp_module(copied(module._c))
    return twin


def _twin(module: torch.nn.Module, twin_by_id: dict[int, Any]) -> torch.nn.Module:
    """Copies of the module and its submodules that share tensors and other attributes.

    Lists, dicts and sets that a module holds are copied, one level deep, so that ``forward`` fills only the twin's.
    """
    if id(module) in twin_by_id:
        existing_twin: torch.nn.Module = twin_by_id[id(module)]
        return existing_twin
    if isinstance(module, torch.jit.ScriptModule):
        twin_by_id[id(module)] = _script_twin(module)
        script_twin: torch.nn.Module = twin_by_id[id(module)]
        return script_twin
    twin: torch.nn.Module = type(module).__new__(type(module))
    twin_by_id[id(module)] = twin
    twin.__dict__.update(module.__dict__)
    for name, value in module.__dict__.items():
        if type(value) in _CONTAINERS:
            twin.__dict__[name] = copy.copy(value)
    for name, value in twin.__dict__.items():  # modules may be outside _modules: in a list, or hidden
        twin.__dict__[name] = _twins(value, twin_by_id)
    return twin


def _twins(value: Any, twin_by_id: dict[int, Any]) -> Any:
    """``value``, with modules replaced by their twins."""
    if isinstance(value, torch.nn.Module):
        return _twin(value, twin_by_id)
    if type(value) in (dict, OrderedDict):
        return type(value)((key, _twins(entry, twin_by_id)) for key, entry in value.items())
    if type(value) in (list, tuple):
        return type(value)(_twins(entry, twin_by_id) for entry in value)
    if isinstance(value, types.MethodType):  # a forward set on the instance, or another method of a module
        return types.MethodType(value.__func__, _twins(value.__self__, twin_by_id))
    if isinstance(value, functools.partial):
        return functools.partial(
            _twins(value.func, twin_by_id), *_twins(value.args, twin_by_id), **_twins(value.keywords, twin_by_id)
        )
    if isinstance(value, types.FunctionType) and id(value) not in twin_by_id:
        twin_by_id[id(value)] = value  # a recursive function
        twin_by_id[id(value)] = _function(value, twin_by_id)
    return twin_by_id.get(id(value), value)


def _function(function: types.FunctionType, twin_by_id: dict[int, Any]) -> types.FunctionType:
    """The function with the modules it refers to replaced by twins; the function itself if there are none."""
    cells = tuple(cell.cell_contents if filled(cell) else None for cell in function.__closure__ or ())
    names, named = named_globals(function), function.__kwdefaults__ or {}
    held_objects = (*cells, *names.values(), *named.values(), *(function.__defaults__ or ()))
    held_twins = _twins(held_objects, twin_by_id)
    if all(twin is value for twin, value in zip(held_twins, held_objects, strict=True)):
        return function
    twins = iter(held_twins)
    closure = tuple(types.CellType(next(twins)) for _ in cells)
    global_names = {**function.__globals__, **{name: next(twins) for name in names}} if names else function.__globals__
    by_name = {name: next(twins) for name in named}
    twin = types.FunctionType(function.__code__, global_names, function.__name__, tuple(twins), closure)
    twin.__kwdefaults__ = by_name
    if hasattr(function, "__wrapped__"):
        functools.update_wrapper(twin, function)
    return twin


def named_globals(function: types.FunctionType) -> dict[str, Any]:
    """The global modules, and the functions of the same file, that a user's function refers to."""
    if (function.__module__ or "").startswith("torch."):
        return {}
    global_objects = {
        name: function.__globals__[name] for name in function.__code__.co_names if name in function.__globals__
    }
    return {
        name: value
        for name, value in global_objects.items()
        if isinstance(value, torch.nn.Module) or getattr(value, "__globals__", None) is function.__globals__
    }


class Attributes:
    """What the modules of a twin hold, to be put back after a call: models may collect values while they run."""

    def __init__(self, twin: torch.nn.Module) -> None:
        held: list[Any] = []
        for module in twin.modules():
            if not isinstance(module, torch.jit.ScriptModule):
                held += [module.__dict__, *(v for v in module.__dict__.values() if type(v) in _CONTAINERS)]
        self.contents = [(container, copy.copy(container)) for container in held]

    def restore(self) -> None:
        for container, content in self.contents:
            if _same(container, content):
                continue
            container.clear()
            if isinstance(container, list):
                container.extend(content)
            else:
                container.update(content)


def _same(container: Any, content: Any) -> bool:
    """Whether both hold the same objects."""
    if len(container) != len(content):
        return False
    if isinstance(container, dict):
        return all(key in content and content[key] is value for key, value in container.items())
    return all(map(operator.is_, container, content)) if isinstance(container, list) else bool(container == content)


@contextmanager
def buffers_restored(twin: torch.nn.Module) -> Iterator[set[str]]:
    """A context that restores the buffers which the twin of a model writes to, and gives it ones of its own.

    The set holds their paths when the context ends.
    """
    before = [(path, tensor, tensor._version, tensor.clone()) for path, tensor in _buffers(twin)]
    written: set[str] = set()
    try:
        yield written
    finally:
        for path, tensor, version, content in before:
            if tensor._version != version:
                with torch.no_grad():
                    tensor.copy_(content)
                written.add(path)
        own_buffers(twin, written)


def own_buffers(twin: torch.nn.Module, paths: Container[str]) -> None:
    """Give the twin copies of these buffers; one buffer under several paths stays one."""
    own: dict[int, torch.Tensor] = {}
    found = _buffers(twin)
    for path, tensor in found:
        if path in paths:
            own.setdefault(id(tensor), tensor.clone())
    for path, tensor in found:
        if id(tensor) in own:
            module, _, name = path.rpartition(".")
            setattr(twin.get_submodule(module), name, own[id(tensor)])


def _buffers(twin: torch.nn.Module) -> list[tuple[str, torch.Tensor]]:
    named = twin.named_buffers(remove_duplicate=False)
    return [(path, tensor) for path, tensor in named if not tensor.is_inference()]


@contextmanager
def hooks_restored(module: torch.nn.Module) -> Iterator[None]:
    """A context that restores the stores of users' hooks, which run while the model is traced."""
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
    """The lists and dicts that a function can access: in its closure, its defaults, its object, its module."""
    function = getattr(hook, "__func__", getattr(hook, "func", hook))
    held_objects = [
        getattr(hook, "__self__", None),
        *getattr(hook, "args", ()),
        *getattr(hook, "keywords", {}).values(),
    ]
    held_objects += [cell.cell_contents for cell in getattr(function, "__closure__", None) or () if filled(cell)]
    held_objects += getattr(function, "__defaults__", None) or ()
    names = getattr(getattr(function, "__code__", None), "co_names", ())
    held_objects += [function.__globals__[name] for name in names if name in getattr(function, "__globals__", {})]
    if not hasattr(function, "__code__"):
        held_objects.append(function)  # a callable object
    stores = []
    for value in held_objects:
        if isinstance(value, (list, dict, set)):
            stores.append(value)
        elif not isinstance(value, (type, types.ModuleType, torch.nn.Module)) and hasattr(value, "__dict__"):
            stores.append(value.__dict__)
            stores += [entry for entry in value.__dict__.values() if isinstance(entry, (list, dict, set))]
    return stores


def filled(cell: Any) -> bool:
    try:
        return cell.cell_contents is not None
    except ValueError:  # an unassigned variable
        return False

"""Models by name: a file, or an object in a module."""

from __future__ import annotations

import importlib
import importlib.util
import inspect
import sys
from pathlib import Path
from typing import Any

from ..errors import InputError, UnknownNameError


def model(spec: str) -> Any:
    """The model that ``spec`` names.

    ``package.module:name`` or ``path/to/file.py:name`` (a function or class without required parameters is called,
    and returns the model); a ``.keras`` file; a ``.pt2`` file; the folder of a SavedModel.
    """
    if check(spec):
        return spec
    where, _, name = spec.rpartition(":")
    return _instance(_attribute(_module(where), name, spec))


def check(spec: str) -> bool:
    """Whether ``spec`` is a model's file or folder rather than a name; InputError if it is neither."""
    path = Path(spec)
    if path.is_dir() or (path.suffix in (".keras", ".pt2") and path.is_file()):
        return True
    if ":" not in spec:
        raise InputError(
            f"no model {spec!r}: give package.module:name, file.py:name, a .keras or .pt2 file, or the folder of a "
            "SavedModel"
        )
    return False


def _module(where: str) -> Any:
    if where.endswith(".py"):
        if not Path(where).is_file():
            raise InputError(f"no file {where!r}")
        module_spec = importlib.util.spec_from_file_location(Path(where).stem, where)
        assert module_spec is not None
        assert module_spec.loader is not None
        module = importlib.util.module_from_spec(module_spec)
        sys.modules[module_spec.name] = module
        sys.path.insert(0, str(Path(where).resolve().parent))
        module_spec.loader.exec_module(module)
        return module
    sys.path.insert(0, "")
    try:
        return importlib.import_module(where)
    except ModuleNotFoundError as error:
        raise InputError(f"no module {where!r} ({error}); it is looked for in the working folder, too") from error


def _attribute(module: Any, name: str, spec: str) -> Any:
    value = module
    for part in name.split("."):
        if not hasattr(value, part):
            raise UnknownNameError.among(f"name in {spec!r}", part, [n for n in dir(value) if not n.startswith("_")])
        value = getattr(value, part)
    return value


def _instance(value: Any) -> Any:
    """The result of calling a function or class without required parameters; any other value unchanged."""
    if inspect.isclass(value) or inspect.isfunction(value):
        required = [
            p for p in inspect.signature(value).parameters.values()
            if p.default is p.empty and p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)
        ]  # fmt: skip
        if not required:
            return value()
    return value

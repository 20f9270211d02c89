"""Models that a text names: a file, or an object in a module."""

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

    ``package.module:name`` or ``path/to/file.py:name`` (a function or class without parameters is called
    for it, unless it is the model itself); a ``.keras`` file; a ``.pt2`` file; the folder of a SavedModel.
    """
    if check(spec):
        return spec
    where, _, name = spec.rpartition(":")
    return _made(_attribute(_module(where), name, spec))


def check(spec: str) -> bool:
    """Whether ``spec`` is a file or folder rather than a name; InputError where it is neither."""
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
        found = importlib.util.spec_from_file_location(Path(where).stem, where)
        assert found is not None
        assert found.loader is not None
        module = importlib.util.module_from_spec(found)
        sys.modules[found.name] = module
        sys.path.insert(0, str(Path(where).resolve().parent))
        found.loader.exec_module(module)
        return module
    sys.path.insert(0, "")
    try:
        return importlib.import_module(where)
    except ModuleNotFoundError as error:
        raise InputError(f"no module {where!r} ({error}); it is looked for in the working folder, too") from error


def _attribute(module: Any, name: str, spec: str) -> Any:
    found = module
    for part in name.split("."):
        if not hasattr(found, part):
            raise UnknownNameError.among(f"name in {spec!r}", part, [n for n in dir(found) if not n.startswith("_")])
        found = getattr(found, part)
    return found


def _made(found: Any) -> Any:
    """What a function or class without parameters gives; anything else is the model itself."""
    if inspect.isclass(found) or inspect.isfunction(found):
        required = [
            p for p in inspect.signature(found).parameters.values()
            if p.default is p.empty and p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)
        ]  # fmt: skip
        if not required:
            return found()
    return found

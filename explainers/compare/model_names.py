"""Models by name: a file, or an object in a module."""

from __future__ import annotations

import importlib
import importlib.util
import inspect
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ..errors import ExplainersError, InputError, UnknownNameError


def model(spec: str) -> Any:
    """The model that ``spec`` names.

    ``package.module:name`` or ``path/to/file.py:name`` (a function or class without required parameters is called,
    and returns the model); a ``.keras`` file; a ``.pt2`` file; the folder of a SavedModel.

    Raises
    ------
    InputError: no such file or module, or code in it that fails; the message has the error, the file and the line.
    UnknownNameError: the module has no such name.
    """
    if check(spec):
        return spec
    where, _, name = spec.rpartition(":")
    found = _attribute(_module(where), name, spec)
    with _failures(f"{spec!r} fails when it is called to make the model"):
        return _instance(found)


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


def source(spec: str) -> list[Path]:
    """The source file of the module that ``spec`` names, once :func:`model` has imported it; none if it has no file."""
    where = spec.rpartition(":")[0]
    file = where if where.endswith(".py") else getattr(sys.modules.get(where), "__file__", None)
    return [Path(file)] if file and Path(file).is_file() else []


def _module(where: str) -> Any:
    if where.endswith(".py"):
        if not Path(where).is_file():
            raise InputError(f"there is no file {where!r}")
        module_spec = importlib.util.spec_from_file_location(Path(where).stem, where)
        assert module_spec is not None
        assert module_spec.loader is not None
        module = importlib.util.module_from_spec(module_spec)
        sys.modules[module_spec.name] = module
        sys.path.insert(0, str(Path(where).resolve().parent))
        with _failures(f"the file {where!r} fails when it is imported"):
            try:
                module_spec.loader.exec_module(module)
            except BaseException:
                sys.modules.pop(module_spec.name, None)
                raise
        return module
    sys.path.insert(0, "")
    try:
        with _failures(f"the module {where!r} fails when it is imported", (where, where.partition(".")[0])):
            return importlib.import_module(where)
    except ModuleNotFoundError as error:
        raise InputError(f"no module {where!r} ({error}); it is looked for in the working folder, too") from error


@contextmanager
def _failures(what: str, names: tuple[str, ...] = ()) -> Iterator[None]:
    """Turn an error of a user's code into an InputError that says what failed, where and why.

    ``names``: modules whose absence is left as a ModuleNotFoundError.
    """
    try:
        yield
    except ExplainersError:
        raise
    except (Exception, SystemExit) as error:  # a script may end with sys.exit()
        if isinstance(error, ModuleNotFoundError) and error.name in names:
            raise
        raise InputError(f"{what}: {type(error).__name__}: {error}{_place(error)}") from error


def _place(error: BaseException) -> str:
    """The file and line where ``error`` was raised, outside of Python's own import machinery."""
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if not frame.filename.startswith("<")]
    if isinstance(error, SyntaxError) or len(frames) < 2:
        return ""  # the text of a SyntaxError has it; the first frame is this module
    return f" ({frames[-1].filename}, line {frames[-1].lineno})"


def _attribute(module: Any, name: str, spec: str) -> Any:
    value = module
    for part in name.split("."):
        if not hasattr(value, part):
            known = [name for name in dir(value) if not name.startswith("_")]
            raise UnknownNameError.among("name", part, known, where=f" in {spec!r}")
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

"""What is named on the command line: models, inputs, targets and parameters."""

from __future__ import annotations

import dataclasses
import importlib
import importlib.util
import inspect
import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from .. import methods
from ..errors import InputError, UnknownNameError
from ..methods import Method
from ..spec import Numpy, TensorSpec
from .files import read_array


def model(spec: str) -> Any:
    """The model that ``spec`` names.

    ``package.module:name`` or ``path/to/file.py:name`` (a function or class without parameters is called
    for it, unless it is the model itself); a ``.keras`` file; a ``.pt2`` file; the folder of a SavedModel.
    """
    path = Path(spec)
    if path.is_dir() or (path.suffix in (".keras", ".pt2") and path.is_file()):
        return spec
    where, colon, name = spec.rpartition(":")
    if not colon:
        raise InputError(
            f"no model {spec!r}: give package.module:name, file.py:name, a .keras or .pt2 file, or the folder of a "
            "SavedModel"
        )
    return _made(_attribute(_module(where), name, spec))


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


def method(name: str, settings: Sequence[str]) -> Method:
    """The method of this name with its parameters set, each as ``name=value``."""
    value = methods.resolve(name)
    known = [field.name for field in dataclasses.fields(value)]
    return dataclasses.replace(value, **parameters(settings, known))


def parameters(settings: Sequence[str], known: Sequence[str]) -> dict[str, Any]:
    """``name=value`` pairs; values as JSON, or text."""
    found = {}
    for setting in settings:
        name, sign, text = setting.partition("=")
        if not sign:
            raise InputError(f"give parameters as name=value; got {setting!r}")
        if name not in known:
            raise UnknownNameError.among("parameter", name, known)
        found[name] = _value(text)
    return found


def _value(text: str) -> Any:
    if text.startswith("@"):
        return read_array(Path(text[1:]))
    try:
        value = json.loads(text)
    except ValueError:
        return text
    return tuple(value) if isinstance(value, list) else value


def specs(texts: Sequence[str]) -> Any:
    """Inputs of a model that does not carry its signature: ``[name=]dtype[sizes]``, or a file of examples.

    >>> specs(["float32[1,28,28]"])
    (TensorSpec(shape=(None, 1, 28, 28), dtype='float32', name=''),)
    """
    if not texts:
        return None
    found = [_spec(text) for text in texts]
    if any(name for name, _ in found):
        return {name or f"input_{i}": value for i, (name, value) in enumerate(found)}
    return tuple(value for _, value in found)


def _spec(text: str) -> tuple[str, Any]:
    name, sign, rest = text.partition("=")
    name, rest = (name, rest) if sign else ("", text)
    if Path(rest).is_file():
        return name, np.asarray(read_array(Path(rest))[:1])
    dtype, bracket, sizes = rest.partition("[")
    try:
        if not bracket or not sizes.endswith("]"):
            raise ValueError("no sizes in brackets")
        shape = tuple(int(size) for size in sizes[:-1].split(",") if size.strip())
        return name, TensorSpec((None, *shape), dtype or "float32", name)
    except (ValueError, TypeError) as error:
        raise InputError(
            f"input {text!r} is neither a file nor a spec such as float32[1,28,28] (sizes of one sample): {error}"
        ) from error


def target(text: str | None) -> Any:
    """``3``, ``1,2`` (an index into several axes), ``max``, or ``@file.npy``: one for each sample, or a mask."""
    if text is None:
        return None
    if text.startswith("@"):
        return read_array(Path(text[1:]))
    return _numbers(text, int, lambda: text)


def baseline(text: str | None) -> Any:
    """A number, or ``@file.npy``: one sample, or one for each sample."""
    if text is None:
        return None
    if text.startswith("@"):
        return read_array(Path(text[1:]))
    try:
        return float(text)
    except ValueError as error:
        raise InputError(f"baseline {text!r} is neither a number nor @file.npy") from error


def _numbers(text: str, kind: Callable[[str], Any], otherwise: Callable[[], Any]) -> Any:
    try:
        found = tuple(kind(part) for part in text.split(","))
    except ValueError:
        return otherwise()
    return found[0] if len(found) == 1 else found


def rows_of(value: Any, start: int, stop: int, count: int, sample_axes: int | None = None) -> Any:
    """The part of ``value`` that belongs to the samples start … stop−1, if it has one entry for each of ``count``.

    ``sample_axes``: axes of one entry, where an array of as many axes stands for all samples.
    """
    if not isinstance(value, np.ndarray) or value.ndim == 0 or len(value) != count:
        return value
    if sample_axes is not None and value.ndim != sample_axes + 1:
        return value
    part: Numpy = value[start:stop]
    return part

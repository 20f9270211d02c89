"""Parsers for values on the command line: models, inputs, targets, baselines and parameters."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import zipfile
from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, get_args, get_type_hints

import numpy as np
from pydantic import ConfigDict, TypeAdapter, ValidationError

from .. import methods, tables
from ..backend import find
from ..compare.model_names import check
from ..compare.model_names import model as named
from ..errors import ArtifactError, InputError, UnknownNameError
from ..file import container
from ..methods import Method
from ..spec import TensorSpec
from .files import read_array, read_value, read_whole
from .usage import UsageError, parsing

WORDS = ("max", "all")  # targets that are not numbers
PYTHON = {"True": True, "False": False, "None": None}  # as Python writes them, beside JSON's true, false and null


def model(text: str) -> Any:
    """The model that ``text`` names: see :func:`explainers.compare.model_names.model`."""
    check_model_name(text)
    return named(text)


def check_model_name(text: str) -> None:
    """Check that ``text`` can name a model.

    Raises
    ------
    InputError: it cannot; the message is specific where it is the file of an explainer.
    """
    path = Path(text)
    if path.is_file() and zipfile.is_zipfile(path):
        with contextlib.suppress(ArtifactError):
            manifest = container.read_manifest(path)
            raise UsageError(
                f"{text!r} is an explainer already, of {manifest.method}: give it to run, report or "
                "serve. To use another method, name the model that it was made from."
            )
    check(text)


def savable_model(text: str, method: str, backend: str | None) -> Any:
    """The model of this name, checked before any computation to be one whose explainer can be saved to a file."""
    named_model = model(text)
    names_of_functions = functions(named_model)
    try:
        files = find(named_model, backend).files
    except InputError:
        if not names_of_functions:
            raise
        files = False
    if not files:
        example = f"{text}.{names_of_functions[0]}" if names_of_functions else text
        raise InputError(
            f"{text!r} is a {type(named_model).__name__}, which runs only from its Python source, so its explanation "
            f"cannot be compiled to a file. Explain samples with explainers run {example} --method {method}, or name a "
            "torch or TensorFlow model."
        )
    return named_model


def functions(value: Any) -> list[str]:
    """The names of the functions that an estimator such as scikit-learn's has from samples to outputs."""
    return [name for name in ("predict_proba", "predict", "decision_function") if hasattr(value, name)]


def method(name: str, settings: Sequence[str]) -> Method:
    """The method of this name with its parameters set, each as ``name=value``."""
    with parsing():
        value = methods.resolve(name)
        return dataclasses.replace(value, **parameters(settings, kinds(value)))


def divided(settings: Sequence[str], limits: Mapping[str, Any], method: str | None) -> tuple[dict[str, Any], list[str]]:
    """Settings divided into those of the server, parsed, and those of the method, as ``name=value``.

    ``limits``: the names of the server's, with their types. A setting of the method may be written
    ``method.name=value``, and must be where the server has a limit of this name.
    """
    names = {} if method is None else kinds(methods.resolve(method))
    of_server, of_method = [], []
    for setting in settings:
        prefix, dot, plain = setting.partition("=")[0].rpartition(".")
        if dot and prefix == method:
            of_method.append(setting[len(prefix) + 1 :])
        elif plain in names and plain not in limits:
            of_method.append(setting)
        else:
            of_server.append(setting)
    return parameters(of_server, {**names, **limits}), of_method


def kinds(value: Any, names: Sequence[str] | None = None) -> dict[str, Any]:
    """The types of the fields of a dataclass or of one of its values; only of these ``names``, if they are given."""
    hints = get_type_hints(value if isinstance(value, type) else type(value))
    return {name: hints[name] for name in (names if names is not None else [f.name for f in dataclasses.fields(value)])}


def parameters(settings: Sequence[str], kind_by_name: Mapping[str, Any]) -> dict[str, Any]:
    """The parameters in ``name=value`` texts; values are parsed as JSON, else kept as text.

    ``kind_by_name``: the parameters that there are, with their types.

    Raises
    ------
    InputError: a setting without a value, or a value of another type. UnknownNameError: there is no such parameter.
    """
    values = {}
    for setting in settings:
        name, sign, text = setting.partition("=")
        if not sign:
            raise UsageError(f"give parameters as name=value; got {setting!r}")
        if name not in kind_by_name:
            raise UnknownNameError.among("parameter", name, list(kind_by_name))
        values[name] = _checked(name, _value(text), kind_by_name[name])
    return values


def _value(text: str) -> Any:
    if text.startswith("@"):
        return read_array(Path(text[1:]))
    if text in PYTHON:
        return PYTHON[text]
    try:
        value = json.loads(text)
    except ValueError:
        return text
    return tuple(value) if isinstance(value, list) else value


def _checked(name: str, value: Any, kind: Any) -> Any:
    """The value as it was given, if it is of this kind: a share is not made of a number of features."""
    try:
        _adapter(kind).validate_python(value)
        return value
    except ValidationError as error:
        wanted = [part["msg"].removeprefix("Input should be ") for part in error.errors()]
        wanted += ["null"] * (type(None) in get_args(kind))
        given = f"an array of shape {value.shape}" if isinstance(value, np.ndarray) else json.dumps(value)
        raise UsageError(f"{name} must be {' or '.join(dict.fromkeys(wanted))}; got {given:.100}") from None


@lru_cache(maxsize=64)
def _adapter(kind: Any) -> TypeAdapter[Any]:
    return TypeAdapter(kind, config=ConfigDict(strict=True, arbitrary_types_allowed=True))


def specs(texts: Sequence[str]) -> Any:
    """The inputs of a model without a signature, each as ``[name=]dtype[sizes]`` or a file of examples.

    >>> specs(["float32[1,28,28]"])
    (TensorSpec(shape=(None, 1, 28, 28), dtype='float32', name=''),)
    >>> specs(["int64[length]"])  # a size that varies from call to call
    (TensorSpec(shape=(None, length), dtype='int64', name=''),)
    """
    if not texts:
        return None
    named_specs = [_spec(text) for text in texts]
    if any(name for name, _ in named_specs):
        return {name or f"input_{i}": value for i, (name, value) in enumerate(named_specs)}
    return tuple(value for _, value in named_specs)


def _spec(text: str) -> tuple[str, Any]:
    name, sign, text_of_spec = text.partition("=")
    name, text_of_spec = (name, text_of_spec) if sign else ("", text)
    if Path(text_of_spec).is_file():
        example = read_value(Path(text_of_spec))
        return name, tables.rows(example, 0, 1) if tables.is_table(example) else np.asarray(example[:1])
    dtype, bracket, sizes = text_of_spec.partition("[")
    try:
        if not bracket or not sizes.endswith("]"):
            raise ValueError("no sizes in brackets")
        parts = [size.strip() for size in sizes[:-1].split(",") if size.strip()]
        shape = tuple(size if size.isidentifier() else int(size) for size in parts)
        return name, TensorSpec((None, *shape), dtype or "float32", name)
    except (ValueError, TypeError) as error:
        raise UsageError(
            f"--inputs {text!r} is neither a file nor a type and the sizes of a sample, as in float32[1,28,28]: {error}"
        ) from error


def target(text: str | None) -> Any:
    """The target: ``3``, ``1,2`` (an index into two axes), ``max``, or ``@file.npy`` (one per sample, or a mask)."""
    if text is None:
        return None
    if text.startswith("@"):
        return read_array(Path(text[1:]))
    try:
        indices = tuple(int(part) for part in text.split(","))
    except ValueError:
        if text in WORDS:
            return text
        raise UsageError(
            f"--target {text!r} is not a target: give the number of an output, such as 3, or its indices, such as 1,2; "
            "or max, all, or @file.npy"
        ) from None
    return indices[0] if len(indices) == 1 else indices


def baseline(text: str | None) -> Any:
    """The baseline: a number, or ``@file.npy`` with one or one per sample; ``@file.npz`` for several inputs."""
    if text is None:
        return None
    if text.startswith("@"):
        path = Path(text[1:])
        array_by_name = read_whole([path])
        return array_by_name if len(array_by_name) > 1 else read_value(path)
    try:
        return float(text)
    except ValueError as error:
        raise UsageError(f"--baseline {text!r} is neither a number nor @file.npy") from error


def names(text: str) -> list[str]:
    """The names in ``a,b,c``, or in the lines of ``@file``."""
    if not text.startswith("@"):
        return [part.strip() for part in text.split(",")]
    path = Path(text[1:])
    if not path.is_file():
        raise UsageError(f"there is no file {text[1:]!r}")
    return path.read_text(encoding="utf-8").splitlines()

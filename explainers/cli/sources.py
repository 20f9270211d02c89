"""What is named on the command line: models, inputs, targets and parameters."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from .. import methods, tables
from ..backend import find
from ..compare.model_names import check
from ..compare.model_names import model as named
from ..errors import ArtifactError, InputError, UnknownNameError
from ..file import container
from ..methods import Method
from ..spec import TensorSpec
from .files import read, read_array, read_value


def model(text: str) -> Any:
    """The model that ``text`` names: see :func:`explainers.compare.model_names.model`."""
    checked(text)
    return named(text)


def checked(text: str) -> None:
    """InputError for what is no name of a model: an explainer's file, above all."""
    path = Path(text)
    if path.is_file() and zipfile.is_zipfile(path):
        with contextlib.suppress(ArtifactError):
            manifest = container.read_manifest(path)
            raise InputError(
                f"{text!r} is an explainer already, of {manifest.method}: run, report and serve take it as it is. For "
                "another method name the model that it was made from."
            )
    check(text)


def filed(text: str, backend: str | None) -> Any:
    """The model of this name, if an explanation of it has a file form; known before anything is computed."""
    found = model(text)
    functions = [name for name in ("predict_proba", "predict", "decision_function") if hasattr(found, name)]
    try:
        files = find(found, backend).files
    except InputError:
        if not functions:
            raise
        files = False
    if not files:
        example = f"{text}.{functions[0]}" if functions else text
        raise InputError(
            f"{text!r} is a {type(found).__name__}, which only its own Python source can run: an explanation of it has "
            f"no file. Compare methods on it with explainers compare {example}, explain it from Python, or name a "
            "torch or TensorFlow model."
        )
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
        example = read_value(Path(rest))
        return name, tables.rows(example, 0, 1) if tables.is_table(example) else np.asarray(example[:1])
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
    try:
        found = tuple(int(part) for part in text.split(","))
    except ValueError:
        return text
    return found[0] if len(found) == 1 else found


def baseline(text: str | None) -> Any:
    """A number, or ``@file.npy``: one sample, or one for each sample; of several inputs the arrays of an npz file."""
    if text is None:
        return None
    if text.startswith("@"):
        path = Path(text[1:])
        found = read([path])
        return found if len(found) > 1 else read_value(path)
    try:
        return float(text)
    except ValueError as error:
        raise InputError(f"baseline {text!r} is neither a number nor @file.npy") from error


def names(text: str) -> list[str]:
    """``a,b,c``, or the lines of ``@file``."""
    if not text.startswith("@"):
        return [part.strip() for part in text.split(",")]
    path = Path(text[1:])
    if not path.is_file():
        raise InputError(f"no file {text[1:]!r}")
    return path.read_text(encoding="utf-8").splitlines()

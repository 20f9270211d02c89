"""Compiled TensorFlow programs as files: a SavedModel with one function for each program, over one set of variables.

:mod:`.data` is the form without code.
"""

from __future__ import annotations

import tempfile
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import tensorflow as tf

from explainers.backend import CODE, DATA, Kernel, Runnable, Size, Traced
from explainers.errors import ArtifactError

from . import data, kernel
from .trace import _TRACING

FOLDER = "saved_model"
SIGNATURES = ("explain", "predict")  # other programs exist only as functions


def save(
    parts: Mapping[str, tuple[Runnable, Kernel | None]], traced: Traced, engine: str, form: str
) -> dict[str, bytes]:
    """Programs as a SavedModel. The engine ``eager`` is saved as ``graph``, since a file holds no Python."""
    weights = list(traced.weights.values())
    if any(isinstance(weight, tf.Tensor) and weight.dtype == tf.resource for weight in weights):
        raise ArtifactError(
            "the model looks up in a table that is no part of it, so a file cannot hold it. Explain a Keras model or a "
            "tf.Module with the table as an attribute, or look up before the model."
        )
    if form == DATA:
        return data.save(parts, traced, engine)
    kind = "xla" if engine == "xla" else "graph"
    module = tf.Module()
    module.weights = weights
    for name, (program, known) in parts.items():
        made = known if known is not None and engine == "graph" else kernel.compile(program, traced, kind, None)
        setattr(module, name, made.native)
    return _written(module, {name: getattr(module, name) for name in SIGNATURES})


def _written(module: Any, signatures: Mapping[str, Any]) -> dict[str, bytes]:
    with tempfile.TemporaryDirectory() as folder, _TRACING, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        tf.saved_model.save(module, folder, signatures=dict(signatures))
        paths = sorted(path for path in Path(folder).rglob("*") if path.is_file())
        return {f"{FOLDER}/{path.relative_to(folder).as_posix()}": path.read_bytes() for path in paths}


class LoadedFunctions:
    """The functions of a SavedModel: each takes any sizes; XLA compiles for a size at its first use."""

    ahead = False
    form = CODE

    def __init__(
        self, files: Mapping[str, bytes], engine: str, device: str, parts: Mapping[str, Sequence[Any]]
    ) -> None:
        self.engine = engine
        self.device = device or None
        if f"{FOLDER}/saved_model.pb" not in files or not all(name.startswith(f"{FOLDER}/") for name in files):
            raise ArtifactError(f"it holds {sorted(files)} where a SavedModel is expected in {FOLDER}/")
        with tempfile.TemporaryDirectory() as folder:
            for name, content in files.items():
                path = Path(folder, name)
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(content)
            with _TRACING, warnings.catch_warnings(), tf.device(self.device):
                warnings.simplefilter("ignore")
                self.module = tf.saved_model.load(str(Path(folder, FOLDER)))
        self.functions = {name: _function(self.module, name, len(parts[name])) for name in parts}

    def kernel(self, part: str, rows: Size) -> kernel.TensorFlowKernel:
        native = self.functions[part]
        return kernel.TensorFlowKernel(native, native.graph, {}, self.engine)

    def files(self) -> dict[str, bytes]:
        return _written(self.module, self.module.signatures)


def load(files: Mapping[str, bytes], engine: str, device: str, parts: Mapping[str, Sequence[Any]], form: str) -> Any:
    return (data.Data if form == DATA else LoadedFunctions)(files, engine, device, parts)


def _function(module: Any, name: str, wanted: int) -> Any:
    native: Any = getattr(module, name, None)
    if not hasattr(native, "captured_inputs"):
        raise ArtifactError(f"its SavedModel has no function {name!r}")
    count = len(native.inputs) - len(native.captured_inputs)
    if count != wanted:
        raise ArtifactError(f"its function {name!r} takes {count} arguments; the manifest lists {wanted}")
    return native


def code(files: Mapping[str, bytes]) -> dict[str, str]:
    """The programs as text, read as data; nothing is run.

    Raises
    ------
    ArtifactError: neither a SavedModel nor programs as data.
    """
    if data.PROGRAM in files:
        return data.code(files)
    from google.protobuf.message import DecodeError  # type: ignore[import-untyped]
    from tensorflow.core.protobuf import saved_model_pb2

    name = f"{FOLDER}/saved_model.pb"
    found = saved_model_pb2.SavedModel()
    try:
        found.ParseFromString(files[name])
    except (KeyError, DecodeError) as error:
        raise ArtifactError(f"it holds no SavedModel in {name}: {error}") from error
    functions = [function for graph in found.meta_graphs for function in graph.graph_def.library.function]
    return {f"{name}/{function.signature.name}": data.function_text(function) for function in functions}

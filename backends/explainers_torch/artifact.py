"""Compiled torch programs as files.

``torchscript``: one archive, ``program.pt``, with a method-less parent whose submodules are the programs and
share their weights. Other engines: one ``….pt2`` of torch.export for each program, which takes the weights as
its first arguments, and ``weights.safetensors``; it is compiled for a size at its first use. With ahead-of-time
compilation there is also an AOTInductor package for each program, and ``aot.json``, the requirements to run them.
:mod:`.data` is the form without code, of any engine.
"""

from __future__ import annotations

import io
import json
import re
import threading
import warnings
import zipfile
from collections.abc import Mapping, Sequence
from typing import Any

import safetensors.torch
import torch
from torch import fx
from torch.export import ExportedProgram
from torch.export.exported_program import ModuleCallEntry, ModuleCallSignature
from torch.export.graph_signature import (
    ExportGraphSignature,
    InputKind,
    InputSpec,
    OutputKind,
    OutputSpec,
    TensorArgument,
)
from torch.utils import _pytree as pytree
from torch.utils._sympy.numbers import int_oo
from torch.utils._sympy.value_ranges import ValueRanges

from explainers.backend import CODE, DATA, Kernel, Runnable, Size, Traced
from explainers.errors import ArtifactError, TraceError
from explainers.file.container import check_archive, decoding
from explainers.graph import Graph, Value
from explainers.spec import Signature

from . import aot, data, kernel
from .trace import _TRACING

SCRIPT, WEIGHTS = "program.pt", "weights.safetensors"
Parts = Mapping[str, tuple[Runnable, "Kernel | None"]]


def save(parts: Parts, traced: Traced, engine: str, form: str) -> dict[str, bytes]:
    if form == DATA:
        return data.save(parts, traced)
    if engine == "torchscript":
        return {SCRIPT: _script(parts, traced)}
    with _TRACING, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        weights = {f"weight_{i:04d}": tensor for i, tensor in enumerate(traced.weights.values())}
        files = {f"{name}.pt2": _exported(program, traced) for name, (program, _) in parts.items()}
    # Tensors in a file must not share storage.
    files[WEIGHTS] = safetensors.torch.save({k: t.detach().contiguous().clone() for k, t in weights.items()})
    return files


def load(files: Mapping[str, bytes], engine: str, device: str, parts: Mapping[str, Sequence[Any]], form: str) -> Any:
    place = torch.device(device)
    if place.type == "cuda" and (not torch.cuda.is_available() or (place.index or 0) >= torch.cuda.device_count()):
        raise ArtifactError(
            f"it was made for the device {device}, which does not exist here. Compile the model on this machine."
        )
    if form == DATA:
        _check_files(files, {data.PROGRAM, data.TENSORS}, engine)
        return data.Data(files, engine, place, parts)
    wanted = {SCRIPT} if engine == "torchscript" else {WEIGHTS, *(f"{name}.pt2" for name in parts)}
    if engine == "inductor" and aot.NEEDS in files:
        wanted |= {aot.NEEDS, *(name + aot.SUFFIX for name in parts)}
    _check_files(files, wanted, engine)
    if engine == "torchscript":
        return Scripted(files[SCRIPT], place, parts)
    return Exported(files, engine, place, parts)


def _check_files(files: Mapping[str, bytes], wanted: set[str], engine: str) -> None:
    if set(files) != wanted:
        raise ArtifactError(f"it holds {sorted(files)} where engine {engine!r} takes {sorted(wanted)}")


def compile_ahead(files: Mapping[str, bytes], device: str) -> dict[str, bytes]:
    """The files plus packages, which run without a compiler."""
    if aot.NEEDS in files:
        return dict(files)
    programs = {name.removesuffix(".pt2"): content for name, content in files.items() if name.endswith(".pt2")}
    weights = len(safetensors.torch.load(files[WEIGHTS]))
    return {**files, **aot.package(programs, weights, torch.device(device))}


# --- TorchScript -----------------------------------------------------------------------------


def _script(parts: Parts, traced: Traced) -> bytes:
    parent = torch.nn.Module()
    for name, (program, known) in parts.items():
        made = known or kernel.compile(program, traced, "torchscript", None)
        parent.add_module(name, made.native)
    buffer = io.BytesIO()
    with _TRACING, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch.jit is deprecated
        torch.jit.save(torch.jit.script(parent), buffer)
    return buffer.getvalue()


class Scripted:
    """The programs of one TorchScript archive."""

    ahead = False
    form = CODE

    def __init__(self, content: bytes, device: torch.device, parts: Mapping[str, Sequence[Any]]) -> None:
        self.device = device
        check_archive(content, SCRIPT)
        with _TRACING, warnings.catch_warnings():
            warnings.simplefilter("ignore")
            self.module = torch.jit.load(io.BytesIO(content), map_location=device)
        for name, placeholders in parts.items():
            program: Any = getattr(self.module, name, None)
            if not isinstance(program, torch.jit.ScriptModule):
                raise ArtifactError(f"{SCRIPT} has no program {name!r}")
            forward: Any = program.forward
            count = len(forward.schema.arguments) - 1  # the first is self
            _check_count(name, count, len(placeholders))

    def kernel(self, part: str, rows: Size) -> kernel.TorchKernel:
        return kernel.TorchKernel(getattr(self.module, part), {})

    def files(self) -> dict[str, bytes]:
        buffer = io.BytesIO()
        with _TRACING, warnings.catch_warnings():
            warnings.simplefilter("ignore")
            torch.jit.save(self.module, buffer)
        return {SCRIPT: buffer.getvalue()}


def _check_count(name: str, count: int, wanted: int) -> None:
    if count != wanted:
        raise ArtifactError(f"its program {name!r} takes {count} arguments; the manifest lists {wanted}")


# --- torch.export ----------------------------------------------------------------------------


def _exported(program: Runnable, traced: Traced) -> bytes:
    """A program's flat graph, with dynamic leading axes, as an ExportedProgram: weights, arguments → results."""
    try:
        graph = kernel.flatten(program, traced, None)
    except TraceError as error:
        raise ArtifactError(
            f"a file holds one program for all batch sizes, and this model cannot be traced for all: {error}"
        ) from error
    holders = [node for node in graph.graph.nodes if node.op == "placeholder"]
    if any(node.op == "get_attr" for node in graph.graph.nodes):
        raise ArtifactError("the program holds constants of its own, which torch.export cannot write; use torchscript")
    _complete(graph, holders)
    results = graph.graph.output_node().args[0]
    env = next(node.meta["val"].fake_mode.shape_env for node in holders)
    inputs = [TensorArgument(node.name) for node in holders]
    outputs = [TensorArgument(node.name) for node in results]
    call = ModuleCallSignature(
        list(inputs), list(outputs),
        pytree.tree_structure((tuple(range(len(inputs))), {})), pytree.tree_structure(tuple(range(len(outputs)))),
    )  # fmt: skip
    exported = ExportedProgram(
        root=graph,
        graph=graph.graph,
        graph_signature=ExportGraphSignature(
            [InputSpec(InputKind.USER_INPUT, argument, None) for argument in inputs],
            [OutputSpec(OutputKind.USER_OUTPUT, argument, None) for argument in outputs],
        ),
        state_dict={},
        range_constraints={symbol: ValueRanges(1, int_oo) for symbol in env.var_to_range},
        module_call_graph=[ModuleCallEntry("", call)],
        example_inputs=None,
        constants={},
    )
    buffer = io.BytesIO()
    torch.export.save(exported, buffer)
    return buffer.getvalue()


def _complete(graph: fx.GraphModule, holders: Sequence[fx.Node]) -> None:
    """Add the shapes of nodes that simplifying created."""
    with holders[0].meta["val"].fake_mode:
        for node in graph.graph.nodes:
            if node.op == "call_function" and "val" not in node.meta:
                args, kwargs = fx.node.map_arg((node.args, node.kwargs), lambda other: other.meta["val"])
                node.meta["val"] = node.target(*args, **kwargs)


class Exported:
    """Loaded programs of torch.export, compiled for a size at its first use, or their packages."""

    form = CODE

    def __init__(
        self, files: Mapping[str, bytes], engine: str, device: torch.device, parts: Mapping[str, Sequence[Any]]
    ) -> None:
        self.engine, self.device, self.parts = engine, device, parts
        self.programs = {name: files[f"{name}.pt2"] for name in parts}
        self.extra = {name: content for name, content in files.items() if name.endswith((aot.SUFFIX, aot.NEEDS))}
        found = safetensors.torch.load(files[WEIGHTS])
        for name, content in self.programs.items():
            _check_count(name, _check(name, content) - len(found), len(parts[name]))
        weights = {Value(name): found[name].to(device) for name in sorted(found)}
        self.traced = Traced(Graph((), (), ()), Signature((), 0), weights, device=device)
        self.flat: dict[str, kernel.Flat] = {}
        self.lock = threading.Lock()
        self.packages = self._packages() if self.extra else {}

    @property
    def ahead(self) -> bool:
        return bool(self.packages)

    def _packages(self) -> dict[str, aot.Package]:
        """The packages, if they can run on this machine."""
        for name in self.parts:
            aot.check(name, self.extra[name + aot.SUFFIX])
        with decoding(aot.NEEDS):
            told = json.loads(self.extra[aot.NEEDS])
            unmet = aot.unmet(told["needs"], self.device)
            strides = [tuple(map(int, steps)) for steps in told["strides"]]
            self.traced.weights = _laid_out(self.traced.weights, strides)
        if unmet:
            warnings.warn(
                f"the file's packages were compiled for {unmet}. Its programs are compiled here instead, each size at "
                "its first use; save it on this machine with aot=True to compile them once.",
                stacklevel=2,
            )
            self.extra = {}
            return {}
        return {name: aot.Package(self.extra[name + aot.SUFFIX], self.device) for name in self.parts}

    def kernel(self, part: str, rows: Size) -> kernel.TorchKernel:
        if self.packages:
            return aot.PackageKernel(self.packages[part], self.traced.weights, self.parts[part])
        with self.lock:
            if part not in self.flat:
                graph = _opened(part, self.programs[part])
                holders = [node.meta["val"] for node in graph.graph.nodes if node.op == "placeholder"]
                strides = [tuple(holder.stride()) for holder in holders[: len(self.traced.weights)]]
                self.traced.weights = _laid_out(self.traced.weights, strides)
                self.flat[part] = kernel.Flat(graph, self.parts[part])
        flat = self.flat[part]
        if rows is None:
            return kernel.WeightsFirst(flat.graph, self.traced.weights)
        return kernel.compile(flat, self.traced, self.engine, rows)

    def files(self) -> dict[str, bytes]:
        weights = {value.node: tensor for value, tensor in self.traced.weights.items()}
        weights = {name: tensor.contiguous() for name, tensor in weights.items()}
        programs = {f"{name}.pt2": content for name, content in self.programs.items()}
        return {**programs, **self.extra, WEIGHTS: safetensors.torch.save(weights)}


def _laid_out(weights: Mapping[Value, torch.Tensor], strides: Sequence[tuple[int, ...]]) -> dict[Value, torch.Tensor]:
    """The weights with the strides that the program was traced with, on which the rounding of convolutions depends."""
    arranged_weights = {}
    for (value, tensor), steps in zip(weights.items(), strides, strict=True):
        arranged_weights[value] = tensor
        if tensor.stride() != steps:
            arranged_weights[value] = torch.empty_strided(tensor.shape, steps, dtype=tensor.dtype, device=tensor.device)
            arranged_weights[value].copy_(tensor)
    return arranged_weights


def _opened(name: str, content: bytes) -> fx.GraphModule:
    """Raises ArtifactError for a program that this version of torch cannot read."""
    with _TRACING, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            return torch.export.load(io.BytesIO(content)).graph_module
        except Exception as error:  # torch has many of its own
            raise ArtifactError(f"torch {torch.__version__} cannot read the program {name!r}: {error}") from error


_PROGRAM = re.compile(
    r"[^/]+/(models/model\.json|archive_format|archive_version|byteorder|\.data/(version|serialization_id)|"
    r"data/(weights|constants)/model_(weights|constants)_config\.json|data/sample_inputs/model\.pt)"
)


def _check(name: str, content: bytes) -> int:
    """The number of a program's arguments.

    Raises
    ------
    ArtifactError: it has members that torch.export would unpickle: weights, constants, sample inputs. Ours have none.
    """
    count = 0
    infos = check_archive(content, f"{name}.pt2")
    with decoding(f"{name}.pt2"), zipfile.ZipFile(io.BytesIO(content)) as archive:
        for info in infos:
            if not _PROGRAM.fullmatch(info.filename):
                raise ArtifactError(f"{name}.pt2 holds {info.filename!r}, which programs of explainers do not have")
            if info.filename.endswith("sample_inputs/model.pt") and info.file_size:
                raise ArtifactError(f"{name}.pt2 holds sample inputs, which programs of explainers do not have")
            if info.filename.endswith("_config.json") and json.loads(archive.read(info)) != {"config": {}}:
                raise ArtifactError(f"{name}.pt2 holds tensors, which programs of explainers do not have")
            if info.filename.endswith("models/model.json"):
                count = len(json.loads(archive.read(info))["graph_module"]["graph"]["inputs"])
    return count

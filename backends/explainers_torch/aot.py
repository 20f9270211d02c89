"""Programs compiled when they are saved: AOTInductor packages.

A package is a zip with the shared library of one program for all sizes. It takes the weights as its first
arguments, like the ``….pt2`` of torch.export that it is compiled from, so that programs share them.
"""

from __future__ import annotations

import io
import json
import platform
import re
import tempfile
import warnings
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch.export import ExportedProgram

from explainers.errors import ArtifactError, InputError
from explainers.file.container import check_archive
from explainers.graph import Value

from . import kernel, verify
from .trace import _TRACING

NEEDS, SUFFIX = "aot.json", ".aot.pt2"
_MEMBER = re.compile(
    r"[^/]+/(data/aotinductor/model/[A-Za-z0-9_][A-Za-z0-9_.\-]*\.(so|cpp|json)|"
    r"archive_format|archive_version|byteorder|\.data/(version|serialization_id))"
)


def needs(device: torch.device) -> dict[str, Any]:
    """The requirements of a package: it uses all instruction sets of the processor that compiles it."""
    capabilities = torch.cpu.get_capabilities() if hasattr(torch.cpu, "get_capabilities") else {}
    return {
        "torch": str(torch.__version__),
        "system": platform.system(),
        "machine": platform.machine(),
        "instructions": sorted(name for name, has in capabilities.items() if has is True),
        "gpu": list(torch.cuda.get_device_capability(device)) if device.type == "cuda" else None,
    }


def unmet(wanted: Mapping[str, Any], device: torch.device) -> str:
    """The reason why packages with these requirements cannot run here; "" if they can."""
    here = needs(device)
    for name in ("torch", "system", "machine", "gpu"):
        if wanted[name] != here[name]:
            return f"{name} {wanted[name]}; here is {here[name]}"
    missing = sorted(set(wanted["instructions"]) - set(here["instructions"]))
    return f"a processor with {', '.join(missing)}" if missing else ""


# --- writing ---------------------------------------------------------------------------------


def package(programs: Mapping[str, bytes], weights: int, device: torch.device) -> dict[str, bytes]:
    """Compile programs of torch.export, whose first ``weights`` arguments are weights, into packages, as files."""
    _check_compiler()
    files = {}
    for name, content in programs.items():
        with _TRACING, warnings.catch_warnings():
            warnings.simplefilter("ignore")
            program = torch.export.load(io.BytesIO(content))
        files[f"{name}{SUFFIX}"] = _package(name, program)
        strides = [list(holder.stride()) for holder in _holders(program)[:weights]]
    files[NEEDS] = json.dumps({"needs": needs(device), "strides": strides}).encode()
    return files


def _check_compiler() -> None:
    from torch._inductor.cpp_builder import get_cpp_compiler
    from torch._inductor.exc import InvalidCxxCompiler

    try:
        get_cpp_compiler()
    except InvalidCxxCompiler as error:
        raise ArtifactError(
            f"aot=True compiles with a C++ compiler, and there is none that works here ({error}). Install g++ or "
            "clang++ (or name one in the variable CXX), or save without aot."
        ) from error


def _package(name: str, program: ExportedProgram) -> bytes:
    """Compile the package of one program, for any number of rows."""
    from torch._inductor import aoti_compile_and_package

    examples = tuple(map(_example, _holders(program)))
    program.example_inputs = (examples, {})

    def package(options: dict[str, Any]) -> bytes:
        with _TRACING, warnings.catch_warnings(), tempfile.TemporaryDirectory() as folder:
            warnings.simplefilter("ignore")
            path = Path(folder, f"{name}.pt2")
            configs = {"aot_inductor.embed_kernel_binary": True, **options}
            aoti_compile_and_package(program, package_path=str(path), inductor_configs=configs)
            return path.read_bytes()

    graph, arguments = program.module(check_guards=False), verify.probe(examples, 0)
    device = examples[0].device
    try:
        made = package({})
        if not verify.agrees(Package(made, device), graph, arguments, 0):
            made = package(verify.WITHOUT_VECTORS)
            if not verify.agrees(Package(made, device), graph, arguments, 0):
                raise RuntimeError("the compiled program gives other numbers than the original")
    except Exception as error:
        raise ArtifactError(
            f"AOTInductor of torch {torch.__version__} cannot compile the program {name!r} ({type(error).__name__}: "
            f"{error}). Save without aot."
        ) from error
    check(name, made)
    return made


def _holders(program: ExportedProgram) -> Sequence[torch.Tensor]:
    return [node.meta["val"] for node in program.graph.nodes if node.op == "placeholder"]


def _example(holder: torch.Tensor) -> torch.Tensor:
    """Zeros in the shape that the program was traced with."""
    sizes = [size if isinstance(size, int) else size.node.hint for size in holder.shape]
    return torch.empty_strided(sizes, holder.stride(), dtype=holder.dtype, device=holder.device).zero_()


# --- reading ---------------------------------------------------------------------------------


def check(name: str, content: bytes) -> None:
    """Check that a package holds only a library, its sources and torch's metadata, in one folder; unpickles nothing."""
    for member in (info.filename for info in check_archive(content, f"{name}{SUFFIX}")):
        if not _MEMBER.fullmatch(member):
            raise ArtifactError(f"{name}{SUFFIX} holds {member!r}, which packages of explainers do not have")


class Package:
    """A loaded package: weights, arguments → results. Several threads may call it at once."""

    def __init__(self, content: bytes, device: torch.device) -> None:
        # Not torch._inductor.aoti_load_package: it imports the compiler and builds a probe with it. The library
        # stays mapped after its folder is deleted.
        with tempfile.TemporaryDirectory(prefix="explainers-", ignore_cleanup_errors=True) as folder:
            with zipfile.ZipFile(io.BytesIO(content)) as archive:
                for info in archive.infolist():
                    path = Path(folder, info.filename.partition("/")[2])
                    path.parent.mkdir(parents=True, exist_ok=True)
                    path.write_bytes(archive.read(info))
            index = -1 if device.index is None or device.type == "cpu" else device.index
            self.loader = torch._C._aoti.AOTIModelPackageLoader(folder, "model", False, 1, index)

    def __call__(self, *arguments: torch.Tensor) -> list[torch.Tensor]:
        found: list[torch.Tensor] = self.loader.boxed_run(list(arguments))
        return found


class PackageKernel(kernel.WeightsFirst):
    """A package with its weights bound."""

    def __init__(self, native: Package, weights: Mapping[Value, torch.Tensor], placeholders: Sequence[Any]) -> None:
        super().__init__(native, weights)
        self.holders = [(holder.axis, tuple(holder.shape)) for holder in placeholders]

    def __call__(self, *arguments: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Checks shapes and strides first: the library reads memory by those that it was compiled for."""
        sizes: dict[str, int] = {}
        for argument, (axis, shape) in zip(arguments, self.holders, strict=True):
            argument_shape = tuple(argument.shape)
            expected_shape = (
                (sizes.setdefault(axis, argument_shape[0] if argument_shape else 0), *shape) if axis else shape
            )
            if argument_shape != expected_shape:
                raise InputError(
                    f"a compiled program takes an argument of shape {expected_shape}; got {argument_shape}"
                )
        return super().__call__(*(a if a.is_contiguous() else a.contiguous() for a in arguments))

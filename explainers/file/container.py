"""The file of an explainer: an uncompressed zip of a manifest and the members that it lists.

::

    manifest.json         what is explained and how; the size and the SHA-256 of every other member
    graph.json            the traced graph, without the framework's own data about operations
    arrays.safetensors    arrays among the method's parameters and in the baseline, if any
    …                     the backend's own: compiled programs and weights

A file is rejected, with the reason, before any framework reads it, unless its members match the manifest in
name, size and checksum. Checksums detect damage, not malice: compiled programs are code.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import os
import re
import struct
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, BinaryIO

import numpy as np
import safetensors.numpy

from ..errors import ArtifactError, ExplainersError
from ..graph.coverage import Coverage
from ..program import Placeholder
from ..spec import Numpy, Signature
from . import writing
from .encoding import decode

FORMAT = 1
MANIFEST, GRAPH, ARRAYS = "manifest.json", "graph.json", "arrays.safetensors"
LARGEST_MANIFEST = 2**26
_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.\-]*(/[A-Za-z0-9_][A-Za-z0-9_.\-]*)*")
_BROKEN = (
    zipfile.BadZipFile, zipfile.LargeZipFile, EOFError, struct.error, zlib.error, NotImplementedError, RuntimeError,
    ValueError, OverflowError,
)  # fmt: skip
Source = str | os.PathLike[str] | bytes | bytearray | memoryview | BinaryIO


@dataclass(frozen=True)
class Member:
    """One member of the zip: its size in bytes, and its SHA-256 in hexadecimal."""

    size: int
    sha256: str


@dataclass(frozen=True)
class Manifest:
    """The description of an explainer's file.

    ``method``: as text. ``output``: the key of the explained output. ``placeholders``: the arguments of each
    compiled program, in order. ``device``: "" where the framework chooses. ``batch_size``: rows in a package.
    """

    format: int
    backend: str
    engine: str
    device: str
    method: str
    signature: Signature
    output: str
    attributed: tuple[str, ...]
    placeholders: Mapping[str, tuple[Placeholder, ...]]
    batch_size: int
    per_token: bool
    coverage: Coverage
    versions: Mapping[str, str]
    members: Mapping[str, Member]

    @property
    def size(self) -> int:
        """Bytes of all members."""
        return sum(member.size for member in self.members.values())


def read_manifest(source: Source) -> Manifest:
    """Read the manifest of a file without loading a framework; checks names and sizes, but not checksums.

    Raises
    ------
    ArtifactError: not an explainer's file, or one of a newer format.
    """
    with _opened(source) as archive, _reasons(source):
        data, members = _manifest(archive)
        with decoding("the manifest"):
            return Manifest(
                format=data["format"], members=members,
                **{name: data[name] for name in ("backend", "engine", "device", "output", "batch_size", "versions")},
                method=data["method_text"], signature=decode(data["signature"], {}),
                attributed=tuple(data["attributed"]), per_token=data["options"]["per_token"],
                placeholders={part: tuple(decode(p, {}) for p in some) for part, some in data["parts"].items()},
                coverage=Coverage(decode(row, {}) for row in data["coverage"]),
            )  # fmt: skip


# --- reading ---------------------------------------------------------------------------------


def read(source: Source) -> tuple[dict[str, Any], dict[str, bytes]]:
    """The manifest's data and all other members, after checking each one's size and checksum."""
    with _opened(source) as archive, _reasons(source):
        data, members = _manifest(archive)
        files = {}
        for name, member in members.items():
            files[name] = archive.read(name)
            if hashlib.sha256(files[name]).hexdigest() != member.sha256:
                raise ArtifactError(f"member {name!r} does not have the checksum in the manifest: it is damaged")
        return data, files


@contextlib.contextmanager
def _opened(source: Source) -> Iterator[zipfile.ZipFile]:
    stream: Any = io.BytesIO(source) if isinstance(source, (bytes, bytearray, memoryview)) else source
    with _reasons(source):
        archive = zipfile.ZipFile(stream)
    with archive:
        yield archive


@contextlib.contextmanager
def _reasons(source: Source) -> Iterator[None]:
    with reasons(source):
        try:
            yield
        except ArtifactError:
            raise
        except _BROKEN as error:
            raise ArtifactError(f"it is not an explainer's file, or is truncated ({error})") from error


@contextlib.contextmanager
def reasons(source: Source) -> Iterator[None]:
    """Add the name of the file to an ArtifactError."""
    try:
        yield
    except ArtifactError as error:
        name = repr(os.fspath(source)) if isinstance(source, (str, os.PathLike)) else "the file"
        raise ArtifactError(f"{name} is refused: {error}") from error


def _manifest(archive: zipfile.ZipFile) -> tuple[dict[str, Any], dict[str, Member]]:
    """The manifest, after checking that the members are those it lists."""
    infos = archive.infolist()
    names = [info.orig_filename for info in infos]
    for info in infos:
        if not _NAME.fullmatch(info.orig_filename) or info.filename != info.orig_filename:
            raise ArtifactError(f"it has a member with the name {info.orig_filename!r}, unknown in explainers' files")
        if info.compress_type != zipfile.ZIP_STORED or info.flag_bits & 1 or info.file_size != info.compress_size:
            raise ArtifactError(f"member {info.filename!r} is compressed or encrypted; explainers' files are neither")
    if len(set(names)) != len(names):
        raise ArtifactError("it has two members with the same name")
    if MANIFEST not in names:
        raise ArtifactError(f"it has no {MANIFEST}")
    if archive.getinfo(MANIFEST).file_size > LARGEST_MANIFEST:
        raise ArtifactError(f"its {MANIFEST} has {archive.getinfo(MANIFEST).file_size} bytes")
    data = parsed(archive.read(MANIFEST), MANIFEST)
    _check_format(data)
    with decoding("the manifest"):
        members = {name: Member(int(m["size"]), str(m["sha256"])) for name, m in data["members"].items()}
    missing_names = sorted(members.keys() - set(names))
    unlisted_names = sorted(set(names) - members.keys() - {MANIFEST})
    if missing_names or unlisted_names or MANIFEST in members:
        raise ArtifactError(
            f"its members are not those of the manifest: missing {missing_names}, not listed {unlisted_names}"
        )
    for name, member in members.items():
        size = archive.getinfo(name).file_size
        if size != member.size:
            raise ArtifactError(f"member {name!r} has {size} bytes; the manifest says {member.size}")
    return data, members


def _check_format(data: Any) -> None:
    version = data.get("format") if isinstance(data, dict) else None
    if type(version) is not int or version < 1:
        raise ArtifactError(f"its {MANIFEST} has no format number")
    if version > FORMAT:
        writer = data.get("versions", {}).get("explainers", "a newer version") if isinstance(data, dict) else ""
        raise ArtifactError(f"it has format {version}; this version reads formats up to {FORMAT}. It was made by "
                            f"explainers {writer}: update.")  # fmt: skip


def parsed(content: bytes, name: str) -> Any:
    try:
        return json.loads(content.decode("utf-8"))
    except (ValueError, RecursionError) as error:
        raise ArtifactError(f"{name} is not JSON: {error}") from error


@contextlib.contextmanager
def decoding(what: str) -> Iterator[None]:
    """Report any error in decoding as a damaged file."""
    try:
        yield
    except ArtifactError:
        raise
    except (LookupError, TypeError, ValueError, AttributeError, RecursionError, ExplainersError) as error:
        raise ArtifactError(
            f"{what} does not hold what this version expects: {type(error).__name__}: {error}"
        ) from error


def arrays(content: bytes | None) -> dict[str, Numpy]:
    if content is None:
        return {}
    try:
        found: dict[str, Numpy] = safetensors.numpy.load(content)
    except Exception as error:  # safetensors has errors of its own
        raise ArtifactError(f"{ARRAYS} cannot be read: {error}") from error
    return found


# --- writing ---------------------------------------------------------------------------------


def write(target: Any, data: Mapping[str, Any], files: Mapping[str, bytes]) -> None:
    """Write atomically to a path, or to an open binary file."""
    if hasattr(target, "write"):
        _write(target, data, files)
        return
    with writing.replacing(target) as stream:
        _write(stream, data, files)


def _write(stream: Any, data: Mapping[str, Any], files: Mapping[str, bytes]) -> None:
    members = {name: {"size": len(f), "sha256": hashlib.sha256(f).hexdigest()} for name, f in files.items()}
    manifest = to_json({"format": FORMAT, **data, "members": members}, indent=1)
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_STORED) as archive:
        for name, content in {MANIFEST: manifest, **files}.items():
            assert _NAME.fullmatch(name), name
            archive.writestr(zipfile.ZipInfo(name), content)


def to_json(data: Any, indent: int | None = None) -> bytes:
    return json.dumps(data, ensure_ascii=False, allow_nan=False, indent=indent).encode("utf-8")


def from_arrays(found: Mapping[str, Numpy]) -> bytes:
    return safetensors.numpy.save({name: np.asarray(array) for name, array in found.items()})

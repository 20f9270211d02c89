"""The file of an explainer: an uncompressed zip of a manifest and the members that it lists.

::

    manifest.json         what is explained and how; the size and the SHA-256 of every other member
    details.json          the longest of its entries, where the manifest would be larger than 1 MiB
    graph.json            the traced graph, without the framework's own data about operations
    arrays.safetensors    arrays among the method's parameters and in the baseline, if any
    …                     the backend's own: programs, as code or as data, and weights
    signatures.json       signatures of the manifest, if any (:mod:`explainers.file.signing`)

A file is rejected, with the reason, before any framework reads it, unless its members match the manifest in
name, size and checksum, lie one behind the other, and the JSON has the types and ranges of
:mod:`explainers.file.schema`. Checksums detect damage, not malice: compiled programs are code.
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
from . import signing, writing
from .encoding import decode

FORMAT = 1
MANIFEST, DETAILS, SIGNATURES = "manifest.json", "details.json", "signatures.json"
GRAPH, ARRAYS = "graph.json", "arrays.safetensors"
LONG = ("parts", "signature", "specs", "coverage", "attributed")  # entries that may lie in the details
LARGEST_MANIFEST = 2**20  # bytes, also of the signatures
LARGEST_JSON = 2**26  # bytes of the graph and of the details
MOST_MEMBERS = 10_000
EXPANSION = 100  # size of a framework's archive once it is expanded, in sizes of the archive
LOCAL_HEADER = 30  # bytes before the name of a member in a zip
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
    compiled program, in order. ``program``: ``"code"`` or ``"data"``, the form of the programs. ``device``: "" where
    the framework chooses. ``batch_size``: rows in a package. ``signers``: the public keys of its signatures, in
    hexadecimal, which only ``Explainer.load(…, trusted=…)`` checks.
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
    program: str
    members: Mapping[str, Member]
    signers: tuple[str, ...]

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
    from . import schema  # importing this library stays quick

    with _opened(source) as archive, _reasons(source):
        data, members = _manifest(archive)
        if DETAILS in members:
            data = _with_details(data, _member(archive, DETAILS, members[DETAILS]))
        schema.check(schema.DESCRIBED, data, MANIFEST)
        with decoding("the manifest"):
            return Manifest(
                format=data["format"], members=members, signers=_signers(archive), program=data.get("program", "code"),
                **{name: data[name] for name in ("backend", "engine", "device", "output", "batch_size", "versions")},
                method=data["method_text"], signature=decode(data["signature"], {}),
                attributed=tuple(data["attributed"]), per_token=data["options"]["per_token"],
                placeholders={part: tuple(decode(p, {}) for p in some) for part, some in data["parts"].items()},
                coverage=Coverage(decode(row, {}) for row in data["coverage"]),
            )  # fmt: skip


# --- reading ---------------------------------------------------------------------------------


def read(source: Source, trusted: signing.Keys | None = None) -> tuple[dict[str, Any], dict[str, bytes]]:
    """The manifest's data and all other members, after checking each one's size and checksum.

    ``trusted``: public keys, one of which must have signed the manifest, and with it the checksums of all members.
    """
    keys = None if trusted is None else signing.public_keys(trusted)
    with _opened(source) as archive, _reasons(source):
        data, members = _manifest(archive, keys)
        files = {name: _member(archive, name, member) for name, member in members.items()}
        if DETAILS in files:
            data = _with_details(data, files.pop(DETAILS))
        return data, files


def _member(archive: zipfile.ZipFile, name: str, member: Member) -> bytes:
    content = archive.read(name)
    if hashlib.sha256(content).hexdigest() != member.sha256:
        raise ArtifactError(f"member {name!r} does not have the checksum in the manifest: it is damaged")
    return content


def _with_details(data: dict[str, Any], content: bytes) -> dict[str, Any]:
    """The manifest's entries together with those that are in the details."""
    details = parsed(content, DETAILS)
    if not isinstance(details, dict) or not details.keys() <= set(LONG) - data.keys():
        raise ArtifactError(f"{DETAILS} does not hold what the manifest leaves out")
    return {**data, **details}


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


def _manifest(
    archive: zipfile.ZipFile, keys: signing.Checked | None = None
) -> tuple[dict[str, Any], dict[str, Member]]:
    """The manifest, after checking its signature and that the members are those it lists."""
    from . import schema

    names = _names(archive)
    content = archive.read(MANIFEST)
    if keys is not None:
        signing.verify(content, _signatures(archive), keys)
    data = parsed(content, MANIFEST)
    _check_format(data)
    listed = data.get("members")
    schema.check(schema.MEMBERS, listed, f"{MANIFEST}['members']")
    members = {name: Member(m["size"], m["sha256"]) for name, m in listed.items()}
    missing_names = sorted(members.keys() - names)
    unlisted_names = sorted(names - members.keys() - {MANIFEST, SIGNATURES})
    if missing_names or unlisted_names or {MANIFEST, SIGNATURES} & members.keys():
        raise ArtifactError(
            f"its members are not those of the manifest: missing {missing_names}, not listed {unlisted_names}"
        )
    for name, member in members.items():
        size = archive.getinfo(name).file_size
        if size != member.size:
            raise ArtifactError(f"member {name!r} has {size} bytes; the manifest says {member.size}")
    return data, members


def _names(archive: zipfile.ZipFile) -> set[str]:
    """The names of the members, after checking names, sizes and places."""
    infos = archive.infolist()
    if len(infos) > MOST_MEMBERS:
        raise ArtifactError(f"it has {len(infos)} members; explainers' files have at most {MOST_MEMBERS}")
    for info in infos:
        if not _NAME.fullmatch(info.orig_filename) or info.filename != info.orig_filename:
            raise ArtifactError(f"it has a member with the name {info.orig_filename!r}, unknown in explainers' files")
        if info.compress_type != zipfile.ZIP_STORED or info.flag_bits & 1 or info.file_size != info.compress_size:
            raise ArtifactError(f"member {info.filename!r} is compressed or encrypted; explainers' files are neither")
    _check_places(archive)
    names = {info.filename for info in infos}
    if len(names) != len(infos):
        raise ArtifactError("it has two members with the same name")
    if MANIFEST not in names:
        raise ArtifactError(f"it has no {MANIFEST}")
    limits = {MANIFEST: LARGEST_MANIFEST, SIGNATURES: LARGEST_MANIFEST, GRAPH: LARGEST_JSON, DETAILS: LARGEST_JSON}
    for name in limits.keys() & names:
        if archive.getinfo(name).file_size > limits[name]:
            raise ArtifactError(
                f"its {name} has {archive.getinfo(name).file_size} bytes; files have at most {limits[name]} there"
            )
    return names


def _check_places(archive: zipfile.ZipFile) -> None:
    """Refuse members that share bytes: a small file could hold any amount then."""
    end = 0
    for info in sorted(archive.infolist(), key=lambda info: info.header_offset):
        if info.header_offset < end:
            raise ArtifactError(f"member {info.filename!r} overlaps with another one")
        end = info.header_offset + LOCAL_HEADER + len(info.filename) + info.compress_size
    if end > archive.start_dir:
        raise ArtifactError("its last member is longer than the file")


def check_archive(content: bytes, name: str) -> list[zipfile.ZipInfo]:
    """The members of a zip inside a file, which frameworks write and may have compressed.

    Raises
    ------
    ArtifactError: no zip, members that overlap, or more than ``EXPANSION`` times the size once they are expanded.
    """
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            _check_places(archive)
            infos = archive.infolist()
    except _BROKEN as error:
        if isinstance(error, ArtifactError):
            raise
        raise ArtifactError(f"{name} is not a program: {error}") from error
    expanded = sum(info.file_size for info in infos)
    if expanded > EXPANSION * len(content):
        raise ArtifactError(f"{name} has {len(content)} bytes and would have {expanded} once it is expanded")
    return infos


def _signatures(archive: zipfile.ZipFile) -> Any:
    """The signatures as JSON; [] without."""
    return parsed(archive.read(SIGNATURES), SIGNATURES) if SIGNATURES in archive.namelist() else []


def _signers(archive: zipfile.ZipFile) -> tuple[str, ...]:
    return tuple(signing.entries(_signatures(archive)))


def _check_format(data: Any) -> None:
    version = data.get("format") if isinstance(data, dict) else None
    if type(version) is not int or version < 1:
        raise ArtifactError(f"its {MANIFEST} has no format number")
    if version > FORMAT:
        made = data.get("versions")
        writer = (
            f"version {made['explainers']!r}" if isinstance(made, dict) and "explainers" in made else "a newer version"
        )
        raise ArtifactError(f"it has format {version}; this version reads formats up to {FORMAT}. It was made by "
                            f"{writer} of explainers: update.")  # fmt: skip


def parsed(content: bytes, name: str) -> Any:
    """Strict JSON: without the NaN and the Infinity that Python's reader takes. ArtifactError for anything else."""

    def refuse(constant: str) -> None:
        raise ValueError(f"it holds {constant}")

    try:
        return json.loads(content.decode("utf-8"), parse_constant=refuse)
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


def write(target: Any, data: Mapping[str, Any], files: Mapping[str, bytes], sign: signing.Key | None = None) -> None:
    """Write atomically to a path, or to an open binary file. ``sign``: a private key that signs the manifest."""
    key = None if sign is None else signing.private_key(sign)
    if hasattr(target, "write"):
        _write(target, data, files, key)
        return
    with writing.replacing(target) as stream:
        _write(stream, data, files, key)


def _write(stream: Any, data: Mapping[str, Any], files: Mapping[str, bytes], key: Any = None) -> None:
    manifest, files = _manifest_of(data, files)
    if key is not None:
        files = {**files, SIGNATURES: to_json([signing.signed(manifest, key)])}
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_STORED) as archive:
        for name, content in {MANIFEST: manifest, **files}.items():
            assert _NAME.fullmatch(name), name
            archive.writestr(zipfile.ZipInfo(name), content)


def _manifest_of(data: Mapping[str, Any], files: Mapping[str, bytes]) -> tuple[bytes, dict[str, bytes]]:
    """The manifest and the other members, with details where it would be too large."""
    manifest = _listing(data, files)
    if len(manifest) > LARGEST_MANIFEST:
        details = to_json({name: data[name] for name in LONG if name in data})
        data = {name: entry for name, entry in data.items() if name not in LONG}
        files = {DETAILS: details, **files}
        manifest = _listing(data, files)
    sizes = {MANIFEST: len(manifest), **{name: len(files[name]) for name in (GRAPH, DETAILS) if name in files}}
    for name, size in sizes.items():
        largest = LARGEST_MANIFEST if name == MANIFEST else LARGEST_JSON
        if size > largest:
            raise ArtifactError(
                f"{name} would have {size} bytes, and files have at most {largest} there: give arrays for long lists, "
                "or explain a smaller part of the model"
            )
    return manifest, dict(files)


def _listing(data: Mapping[str, Any], files: Mapping[str, bytes]) -> bytes:
    """The manifest's bytes."""
    members = {name: {"size": len(f), "sha256": hashlib.sha256(f).hexdigest()} for name, f in files.items()}
    return to_json({"format": FORMAT, **data, "members": members}, indent=1)


def to_json(data: Any, indent: int | None = None) -> bytes:
    return json.dumps(data, ensure_ascii=False, allow_nan=False, indent=indent).encode("utf-8")


def from_arrays(found: Mapping[str, Numpy]) -> bytes:
    return safetensors.numpy.save({name: np.asarray(array) for name, array in found.items()})

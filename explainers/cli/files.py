"""Arrays and tables in npy, npz, zarr, parquet and csv files."""

from __future__ import annotations

import hashlib
import json
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from .. import sources as blocks
from .. import store, tables
from ..errors import InputError
from ..spec import Numpy
from ..table_libraries import ParquetTable
from .usage import UsageError


def read(paths: Sequence[Path]) -> dict[str, Any]:
    """Arrays and tables by name; npy, zarr and parquet files are read only when they are sliced.

    A single file gives its arrays; an npy file's array and a table have the name "". Of several files, each is one
    input, in order. A parquet file with columns of lists has an array for each column.
    """
    array_by_name: dict[str, Any] = {}
    for place, path in enumerate(paths):
        if not path.exists():
            raise UsageError(f"there is no file {str(path)!r}")
        for name, array in _open(path).items():
            array_by_name[name or ("" if len(paths) == 1 else str(place))] = array
    return array_by_name


def read_whole(paths: Sequence[Path]) -> dict[str, Any]:
    """:func:`read`, with what lies in parquet files in memory."""
    return {name: _in_memory(value) for name, value in read(paths).items()}


def _in_memory(value: Any) -> Any:
    if isinstance(value, ParquetTable):
        return value.rows(0, value.shape[0])
    return value[:] if isinstance(value, blocks.ListColumn) else value


def _open(path: Path) -> dict[str, Any]:
    suffix = path.suffix if path.suffix == ".csv" else store.kind(path)
    try:
        if suffix == ".npy":
            return {"": np.load(path, mmap_mode="r", allow_pickle=False)}
        if suffix == ".npz":
            with np.load(path, allow_pickle=False) as archive:
                return {name: archive[name] for name in archive.files}
        if suffix == ".zarr":
            found = store.zarr().open(str(path), mode="r")
            return {"": found} if hasattr(found, "shape") else dict(found.arrays())
        if suffix == ".csv":
            return {"": _read_csv(path)}
        table = ParquetTable(store.parquet().ParquetFile(path, memory_map=True))
        return blocks.columns(table) or {"": table}
    except (ValueError, OSError, EOFError, zipfile.BadZipFile) as error:
        raise InputError(f"{str(path)!r} cannot be read: {error}") from error


def _read_csv(path: Path) -> Any:
    store.parquet()  # says what to install
    from pyarrow import ArrowInvalid, csv  # type: ignore[import-untyped]

    try:
        return csv.read_csv(path)
    except ArrowInvalid as error:
        raise InputError(f"{str(path)!r} cannot be read: {error}") from error


def read_array(path: Path) -> Numpy:
    """The only array of a file; a table as an array of its numbers."""
    value = read_value(path)
    return tables.numbers(value, repr(str(path)), floating=False) if tables.is_table(value) else np.asarray(value)


def read_value(path: Path) -> Any:
    """The only array or table of a file."""
    arrays = read_whole([path])
    if len(arrays) != 1:
        raise InputError(
            f"{str(path)!r} holds {len(arrays)} arrays ({', '.join(arrays)}); give a file with a single one"
        )
    (value,) = arrays.values()
    return value


def fingerprint(paths: Sequence[Path], what: Mapping[str, Any]) -> str:
    """A hash that changes when one of the files or ``what`` changes."""
    states = [(str(path.resolve()), path.stat().st_size, path.stat().st_mtime_ns) for path in paths]
    text = json.dumps([states, store.digest(what)], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()

"""Arrays in files: npy and npz, zarr, parquet. Read in parts, written in parts, all or nothing."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import BackendMissing, InputError
from ..spec import Numpy

KINDS = (".npy", ".npz", ".zarr", ".parquet")


def kind(path: Path) -> str:
    if path.suffix not in KINDS:
        raise InputError(f"{str(path)!r} is not of a known kind: {', '.join(KINDS)}")
    return path.suffix


def read(paths: Sequence[Path]) -> tuple[dict[str, Any], list[str]]:
    """Arrays by name, read where they are sliced, and the names of a table's columns.

    One file: its arrays; an npy file's and a table's are named "". Several: one input each, in order.
    """
    found: dict[str, Any] = {}
    columns: list[str] = []
    for place, path in enumerate(paths):
        if not path.exists():
            raise InputError(f"no file {str(path)!r}")
        arrays, names = _read(path)
        columns = columns or names
        for name, array in arrays.items():
            found[name or ("" if len(paths) == 1 else str(place))] = array
    return found, columns


def _read(path: Path) -> tuple[dict[str, Any], list[str]]:
    suffix = kind(path)
    try:
        if suffix == ".npy":
            return {"": np.load(path, mmap_mode="r", allow_pickle=False)}, []
        if suffix == ".npz":
            with np.load(path, allow_pickle=False) as archive:
                return {name: archive[name] for name in archive.files}, []
        if suffix == ".zarr":
            found = _zarr().open(str(path), mode="r")
            return ({"": found} if hasattr(found, "shape") else dict(found.arrays())), []
        table = _parquet().read_table(path, memory_map=True)
        return {"": np.stack([table[name].to_numpy() for name in table.column_names], axis=1)}, table.column_names
    except (ValueError, OSError, EOFError, zipfile.BadZipFile) as error:
        raise InputError(f"{str(path)!r} cannot be read: {error}") from error


def read_array(path: Path) -> Numpy:
    """The only array of a file."""
    arrays, _ = read([path])
    if len(arrays) != 1:
        raise InputError(f"{str(path)!r} has {len(arrays)} arrays; one is needed")
    return np.asarray(next(iter(arrays.values())))


def fingerprint(paths: Sequence[Path], what: Mapping[str, Any]) -> str:
    """Differs when a file or ``what`` does."""
    states = [(str(path.resolve()), path.stat().st_size, path.stat().st_mtime_ns) for path in paths]
    text = json.dumps([states, {name: _told(value) for name, value in what.items()}], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


def _told(value: Any) -> Any:
    return hashlib.sha256(np.ascontiguousarray(value).tobytes()).hexdigest() if isinstance(value, np.ndarray) else value


class Output:
    """One array for each attributed value, filled from the first sample on; takes up where it was interrupted.

    Until it is finished, what is known lies in the folder ``….part`` beside it.
    """

    def __init__(self, path: Path, key: str, restart: bool) -> None:
        kind(path)
        if not path.parent.is_dir():
            raise InputError(f"no folder {str(path.parent)!r}")
        self.path, self.key = path, key
        self.folder = path.with_name(path.name + ".part")
        self.arrays: dict[str, Any] = {}
        self.done = 0
        if restart:
            shutil.rmtree(self.folder, ignore_errors=True)
        state = self.folder / "state.json"
        if state.is_file():
            known = json.loads(state.read_text())
            if known["key"] != key:
                raise InputError(
                    f"{str(self.folder)!r} holds part of another run (of other inputs or parameters): finish that, or "
                    "begin anew with --restart"
                )
            self.done = int(known["done"])
            self.arrays = {
                name: np.load(self.folder / f"{i}.npy", mmap_mode="r+") for i, name in enumerate(known["names"])
            }

    def write(self, start: int, total: int, parts: Mapping[str, Numpy]) -> None:
        """The samples from ``start`` on of ``total``."""
        if not self.arrays:
            self.folder.mkdir(exist_ok=True)
            self.arrays = {
                name: np.lib.format.open_memmap(
                    self.folder / f"{i}.npy", mode="w+", dtype=part.dtype, shape=(total, *part.shape[1:])
                )
                for i, (name, part) in enumerate(parts.items())
            }
        for name, part in parts.items():
            self.arrays[name][start : start + len(part)] = part
            self.done = start + len(part)

    def keep(self) -> None:
        """What has been written survives an interruption from here on."""
        for array in self.arrays.values():
            array.flush()
        state = self.folder / "state.json"
        beside = state.with_suffix(".new")
        beside.write_text(json.dumps({"key": self.key, "done": self.done, "names": list(self.arrays)}))
        os.replace(beside, state)

    def finish(self, columns: Sequence[str]) -> None:
        """The file itself, from its parts."""
        self.keep()
        suffix = self.path.suffix
        made = self.folder / f"made{suffix}"
        names = list(self.arrays)
        if suffix == ".npy":
            if len(names) != 1:
                raise InputError(f"there are attributions of {len(names)} inputs: write them to an .npz or .zarr file")
            self.arrays.clear()
            made = self.folder / "0.npy"
        elif suffix == ".npz":
            np.savez(made, **{name or "attributions": array for name, array in self.arrays.items()})
        elif suffix == ".zarr":
            _save_zarr(made, self.arrays)
        else:
            _save_table(made, self.arrays, columns)
        if self.path.is_dir():
            shutil.rmtree(self.path)
        os.replace(made, self.path)
        shutil.rmtree(self.folder)


def _save_zarr(path: Path, arrays: Mapping[str, Any]) -> None:
    zarr = _zarr()
    if list(arrays) == [""]:
        stores = {"": zarr.open_array(str(path), mode="w", **_form(arrays[""]))}
    else:
        group = zarr.open_group(str(path), mode="w")
        stores = {name: group.create_array(name, **_form(array)) for name, array in arrays.items()}
    for name, array in arrays.items():
        step = stores[name].chunks[0]
        for start in range(0, len(array), step):
            stores[name][start : start + step] = array[start : start + step]


def _form(array: Any) -> dict[str, Any]:
    row = max(1, array.dtype.itemsize * int(np.prod(array.shape[1:])))
    chunk = max(1, min(len(array), 2**22 // row))
    return {"shape": array.shape, "dtype": array.dtype, "chunks": (chunk, *array.shape[1:])}


def _save_table(path: Path, arrays: Mapping[str, Any], columns: Sequence[str]) -> None:
    parquet = _parquet()
    import pyarrow  # type: ignore[import-untyped]

    (array,) = arrays.values() if len(arrays) == 1 else (None,)
    if array is None or array.ndim != 2:
        raise InputError("a parquet file takes one table, (samples, columns); others go to .npy, .npz or .zarr")
    names = list(columns) if len(columns) == array.shape[1] else [str(i) for i in range(array.shape[1])]
    schema = pyarrow.schema([(name, pyarrow.from_numpy_dtype(array.dtype)) for name in names])
    with parquet.ParquetWriter(path, schema) as writer:
        for start in range(0, len(array), 2**16):
            part = np.ascontiguousarray(array[start : start + 2**16].T)
            writer.write_table(pyarrow.Table.from_arrays([pyarrow.array(column) for column in part], schema=schema))


def _zarr() -> Any:
    try:
        import zarr
    except ImportError as error:
        raise BackendMissing("zarr files need zarr: pip install 'explainers[files]'") from error
    return zarr


def _parquet() -> Any:
    try:
        from pyarrow import parquet
    except ImportError as error:
        raise BackendMissing("parquet files need pyarrow: pip install 'explainers[files]'") from error
    return parquet

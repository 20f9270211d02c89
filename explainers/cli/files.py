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

from .. import tables
from ..errors import BackendMissing, InputError
from ..file import writing
from ..spec import Numpy

ZARR = ("zarr.json", ".zarray", ".zgroup")  # what makes a folder a store
KINDS = (".npy", ".npz", ".zarr", ".parquet")


def kind(path: Path) -> str:
    if path.suffix not in KINDS:
        raise InputError(f"{str(path)!r} is not of a known kind: {', '.join(KINDS)}")
    return path.suffix


def read(paths: Sequence[Path]) -> dict[str, Any]:
    """Arrays and tables by name, read where they are sliced.

    One file: its arrays; an npy file's and a table are named "". Several: one input each, in order.
    """
    found: dict[str, Any] = {}
    for place, path in enumerate(paths):
        if not path.exists():
            raise InputError(f"no file {str(path)!r}")
        for name, array in _read(path).items():
            found[name or ("" if len(paths) == 1 else str(place))] = array
    return found


def _read(path: Path) -> dict[str, Any]:
    suffix = kind(path)
    try:
        if suffix == ".npy":
            return {"": np.load(path, mmap_mode="r", allow_pickle=False)}
        if suffix == ".npz":
            with np.load(path, allow_pickle=False) as archive:
                return {name: archive[name] for name in archive.files}
        if suffix == ".zarr":
            found = _zarr().open(str(path), mode="r")
            return {"": found} if hasattr(found, "shape") else dict(found.arrays())
        return {"": _parquet().read_table(path, memory_map=True)}
    except (ValueError, OSError, EOFError, zipfile.BadZipFile) as error:
        raise InputError(f"{str(path)!r} cannot be read: {error}") from error


def read_array(path: Path) -> Numpy:
    """The only array of a file; of a table its numbers."""
    found = read_value(path)
    return tables.numbers(found, repr(str(path)), floating=False) if tables.is_table(found) else np.asarray(found)


def read_value(path: Path) -> Any:
    """The only array or table of a file."""
    arrays = read([path])
    if len(arrays) != 1:
        raise InputError(f"{str(path)!r} has {len(arrays)} arrays, {', '.join(arrays)}; one is needed")
    (found,) = arrays.values()
    return found


def fingerprint(paths: Sequence[Path], what: Mapping[str, Any]) -> str:
    """Differs when a file or ``what`` does."""
    states = [(str(path.resolve()), path.stat().st_size, path.stat().st_mtime_ns) for path in paths]
    text = json.dumps([states, {name: _told(value) for name, value in what.items()}], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


def _told(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _told(part) for name, part in value.items()}
    return hashlib.sha256(np.ascontiguousarray(value).tobytes()).hexdigest() if isinstance(value, np.ndarray) else value


class OutputFile:
    """One array for each attributed value, filled from the first sample on; takes up where it was interrupted.

    Until it is finished, what is known lies in the folder ``….part`` beside it. Nothing that was there is touched:
    not a file, but with ``overwrite``; never one of ``inputs``, nor a folder that is no zarr store.
    """

    def __init__(self, path: Path, key: str, restart: bool, overwrite: bool, inputs: Sequence[Path]) -> None:
        kind(path)
        if not path.parent.is_dir():
            raise InputError(f"no folder {str(path.parent)!r}")
        if writing.is_stream(path):
            raise InputError(f"--output {str(path)!r} is a device or a pipe, and samples are written in any order")
        self.name, self.path, self.key = path, writing.place(path), key
        self.folder = self.path.with_name(self.path.name + ".part")
        self.arrays: dict[str, Any] = {}
        self.done = 0
        self._check(overwrite, inputs)
        state = self.folder / "state.json"
        if self.folder.exists() and not state.is_file() and (not self.folder.is_dir() or any(self.folder.iterdir())):
            raise InputError(
                f"{str(self.folder)!r} is in the way: it is no part of a run. Move it, or choose another --output"
            )
        if restart and self.folder.exists():
            shutil.rmtree(self.folder)
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

    def _check(self, overwrite: bool, inputs: Sequence[Path]) -> None:
        path, own = self.name, self.path
        for given in inputs:
            other = given.resolve()
            same = own == other or own in other.parents or other in own.parents
            if same or (path.exists() and os.path.samefile(path, given)):
                raise InputError(f"--output {str(path)!r} would replace the input {str(given)!r}")
        if not path.is_dir():
            writing.check(path)
        if not path.exists():
            return
        if path.is_dir() and not (path.suffix == ".zarr" and any((path / name).is_file() for name in ZARR)):
            raise InputError(f"--output {str(path)!r} is a folder with other things in it: choose another name")
        if not overwrite:
            raise InputError(f"--output {str(path)!r} exists: choose another name, or replace it by --overwrite")

    def allocate(self, shapes: Mapping[str, tuple[tuple[int, ...], Any]]) -> None:
        """Room on the disk for all samples, before the first: (shape, dtype) by name."""
        self._check_form([len(shape) for shape, _ in shapes.values()])
        if self.arrays:
            return
        size = sum(int(np.prod(shape)) * np.dtype(dtype).itemsize for shape, dtype in shapes.values())
        self.folder.mkdir(exist_ok=True)
        try:
            for i, (name, (shape, dtype)) in enumerate(shapes.items()):
                file = self.folder / f"{i}.npy"
                self.arrays[name] = np.lib.format.open_memmap(file, mode="w+", dtype=dtype, shape=shape)
                with file.open("r+b") as handle:
                    _reserve(handle.fileno(), file.stat().st_size)
            self.keep()
        except OSError as error:
            self.forget()
            raise InputError(f"no space for {size / 1e3:,.0f} kB in {str(self.path.parent)!r}: {error}") from error

    def _check_form(self, ranks: Sequence[int]) -> None:
        """Whether a file of this kind takes arrays of these ranks."""
        if self.name.suffix == ".npy" and len(ranks) != 1:
            raise InputError(f"there are attributions of {len(ranks)} inputs: write them to an .npz or .zarr file")
        if self.name.suffix == ".parquet" and list(ranks) != [2]:
            raise InputError("a parquet file takes one table, (samples, columns); others go to .npy, .npz or .zarr")

    def forget(self) -> None:
        """Nothing is known that would be worth keeping."""
        self.arrays.clear()
        shutil.rmtree(self.folder, ignore_errors=True)

    def write(self, start: int, parts: Mapping[str, Numpy]) -> None:
        """The samples from ``start`` on."""
        for name, part in parts.items():
            self.arrays[name][start : start + len(part)] = part
            self.done = start + len(part)

    def keep(self) -> None:
        """What has been written survives an interruption from here on."""
        for array in self.arrays.values():
            array.flush()
        state = self.folder / "state.json"
        writing.text(state, json.dumps({"key": self.key, "done": self.done, "names": list(self.arrays)}))

    def finish(self, columns: Sequence[str]) -> None:
        """The file itself, from its parts."""
        self.keep()
        suffix = self.name.suffix
        made = self.folder / f"made{suffix}"
        if suffix == ".npy":
            self.arrays.clear()
            made = self.folder / "0.npy"
        elif suffix == ".npz":
            np.savez(made, **{name or "attributions": array for name, array in self.arrays.items()})
        elif suffix == ".zarr":
            _save_zarr(made, self.arrays)
        else:
            _save_table(made, self.arrays, columns)
        self._move(made)
        shutil.rmtree(self.folder)

    def _move(self, made: Path) -> None:
        if not self.path.is_dir():
            writing.move(made, self.path)
            return
        old = self.folder / "replaced"  # a store, which --overwrite replaces
        os.replace(self.path, old)
        try:
            os.replace(made, self.path)
        except BaseException:
            os.replace(old, self.path)
            raise


def _reserve(handle: int, size: int) -> None:
    """Take the bytes of a file from the disk now: a full one is an error here, and a crash where it is mapped."""
    if hasattr(os, "posix_fallocate"):
        os.posix_fallocate(handle, 0, size)
    else:  # pragma: no cover - other systems tell of a full disk at the first write
        os.truncate(handle, size)


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

    (array,) = arrays.values()
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

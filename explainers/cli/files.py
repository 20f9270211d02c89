"""Arrays in npy, npz, zarr and parquet files, read and written in parts; an output file appears only when complete."""

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
from ..spec import Numpy, References

ZARR = ("zarr.json", ".zarray", ".zgroup")  # a folder with one of these files is a zarr store
ROUNDING = 1e-4  # of the largest output: more tells another model
KINDS = (".npy", ".npz", ".zarr", ".parquet")


def kind(path: Path) -> str:
    if path.suffix not in KINDS:
        raise InputError(f"{str(path)!r} is not of a known kind: {', '.join(KINDS)}")
    return path.suffix


def read(paths: Sequence[Path]) -> dict[str, Any]:
    """Arrays and tables by name; npy, zarr and parquet files are read only when they are sliced.

    A single file gives its arrays; an npy file's array and a table have the name "". Of several files, each is one
    input, in order.
    """
    array_by_name: dict[str, Any] = {}
    for place, path in enumerate(paths):
        if not path.exists():
            raise InputError(f"no file {str(path)!r}")
        for name, array in _open(path).items():
            array_by_name[name or ("" if len(paths) == 1 else str(place))] = array
    return array_by_name


def _open(path: Path) -> dict[str, Any]:
    suffix = kind(path)
    try:
        if suffix == ".npy":
            return {"": np.load(path, mmap_mode="r", allow_pickle=False)}
        if suffix == ".npz":
            with np.load(path, allow_pickle=False) as archive:
                return {name: archive[name] for name in archive.files}
        if suffix == ".zarr":
            store = _zarr().open(str(path), mode="r")
            return {"": store} if hasattr(store, "shape") else dict(store.arrays())
        return {"": _parquet().read_table(path, memory_map=True)}
    except (ValueError, OSError, EOFError, zipfile.BadZipFile) as error:
        raise InputError(f"{str(path)!r} cannot be read: {error}") from error


def read_array(path: Path) -> Numpy:
    """The only array of a file; a table as an array of its numbers."""
    value = read_value(path)
    return tables.numbers(value, repr(str(path)), floating=False) if tables.is_table(value) else np.asarray(value)


def read_value(path: Path) -> Any:
    """The only array or table of a file."""
    arrays = read([path])
    if len(arrays) != 1:
        raise InputError(f"{str(path)!r} has {len(arrays)} arrays, {', '.join(arrays)}; one is needed")
    (value,) = arrays.values()
    return value


def fingerprint(paths: Sequence[Path], what: Mapping[str, Any]) -> str:
    """A hash that changes when one of the files or ``what`` changes."""
    states = [(str(path.resolve()), path.stat().st_size, path.stat().st_mtime_ns) for path in paths]
    text = json.dumps([states, {name: _digest(value) for name, value in what.items()}], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


def _digest(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _digest(part) for name, part in value.items()}
    if isinstance(value, References):
        return {"references": _digest(value.array)}
    if tables.is_table(value):
        rows = tables.values(value, "the table").tolist()
        return hashlib.sha256(json.dumps([tables.names(value), rows], default=repr).encode()).hexdigest()
    return hashlib.sha256(np.ascontiguousarray(value).tobytes()).hexdigest() if isinstance(value, np.ndarray) else value


class OutputFile:
    """The output of ``run``: one array for each attributed value, written block by block; continues an interrupted run.

    Until the file is finished, its results lie in the folder ``….part`` beside it. An existing file or zarr store is
    replaced only with ``overwrite``; one of ``inputs`` and any other folder never.
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
        self.outputs: Any = None
        self._check(overwrite, inputs)
        state = self.folder / "state.json"
        if self.folder.exists() and not state.is_file() and (not self.folder.is_dir() or any(self.folder.iterdir())):
            raise InputError(
                f"{str(self.folder)!r} is in the way: it is no part of a run. Move it, or choose another --output"
            )
        if restart and self.folder.exists():
            shutil.rmtree(self.folder)
        if state.is_file():
            saved_state = json.loads(state.read_text())
            if saved_state["key"] != key:
                raise InputError(
                    f"{str(self.folder)!r} holds part of another run (of other inputs or parameters): finish that, or "
                    "begin anew with --restart"
                )
            self.done = int(saved_state["done"])
            self.outputs = saved_state.get("outputs")
            self.arrays = {
                name: np.load(self.folder / f"{i}.npy", mmap_mode="r+") for i, name in enumerate(saved_state["names"])
            }

    def check_model(self, outputs: Numpy | None) -> None:
        """Keep the model's outputs for some samples, or compare them with those of the run that is continued.

        ``outputs``: None where the key tells the model already.

        Raises
        ------
        InputError: they differ by more than rounding, so that the rest would be an explanation of another model.
        """
        if outputs is None:
            return
        before = outputs if self.outputs is None else np.array(self.outputs, np.float64)
        self.outputs = outputs.tolist()
        largest = np.abs(outputs[np.isfinite(outputs)]).max(initial=0.0)
        if before.shape != outputs.shape or not np.allclose(before, outputs, 0, ROUNDING * largest, equal_nan=True):
            raise InputError(
                f"{str(self.folder)!r} holds part of a run of another model: its outputs for the first samples differ "
                "from those of the model now. If the module trains it, or draws numbers, give it a seed. Begin anew "
                "with --restart."
            )

    def _check(self, overwrite: bool, inputs: Sequence[Path]) -> None:
        path, target = self.name, self.path
        for input_path in inputs:
            input_target = input_path.resolve()
            same = target == input_target or target in input_target.parents or input_target in target.parents
            if same or (path.exists() and os.path.samefile(path, input_path)):
                raise InputError(f"--output {str(path)!r} would replace the input {str(input_path)!r}")
        if not path.is_dir():
            writing.check(path)
        if not path.exists():
            return
        if path.is_dir() and not (path.suffix == ".zarr" and any((path / name).is_file() for name in ZARR)):
            raise InputError(f"--output {str(path)!r} is a folder with other things in it: choose another name")
        if not overwrite:
            raise InputError(f"--output {str(path)!r} exists: choose another name, or replace it by --overwrite")

    def allocate(self, shapes: Mapping[str, tuple[tuple[int, ...], Any]]) -> None:
        """Reserve disk space for all samples. ``shapes``: (shape, dtype) by name."""
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
        """Check that a file of this kind can hold arrays of these ranks."""
        if self.name.suffix == ".npy" and len(ranks) != 1:
            raise InputError(f"there are attributions of {len(ranks)} inputs: write them to an .npz or .zarr file")
        if self.name.suffix == ".parquet" and list(ranks) != [2]:
            raise InputError("a parquet file takes one table, (samples, columns); others go to .npy, .npz or .zarr")

    def forget(self) -> None:
        """Delete all results written so far."""
        self.arrays.clear()
        shutil.rmtree(self.folder, ignore_errors=True)

    def write(self, start: int, parts: Mapping[str, Numpy]) -> None:
        """Write the attributions of the samples from ``start`` on."""
        for name, part in parts.items():
            self.arrays[name][start : start + len(part)] = part
            self.done = start + len(part)

    def keep(self) -> None:
        """Flush the results to disk, so that an interrupted run can continue from here."""
        for array in self.arrays.values():
            array.flush()
        state = self.folder / "state.json"
        known = {"key": self.key, "done": self.done, "names": list(self.arrays), "outputs": self.outputs}
        writing.text(state, json.dumps(known))

    def finish(self, columns: Sequence[str]) -> None:
        """Turn the results into the output file and delete the ``….part`` folder."""
        self.keep()
        suffix = self.name.suffix
        result = self.folder / f"made{suffix}"
        if suffix == ".npy":
            self.arrays.clear()
            result = self.folder / "0.npy"
        elif suffix == ".npz":
            np.savez(result, **{name or "attributions": array for name, array in self.arrays.items()})
        elif suffix == ".zarr":
            _save_zarr(result, self.arrays)
        else:
            _save_table(result, self.arrays, columns)
        self._move(result)
        shutil.rmtree(self.folder)

    def _move(self, result: Path) -> None:
        if not self.path.is_dir():
            writing.move(result, self.path)
            return
        old = self.folder / "replaced"  # the zarr store that --overwrite replaces
        os.replace(self.path, old)
        try:
            os.replace(result, self.path)
        except BaseException:
            os.replace(old, self.path)
            raise


def _reserve(handle: int, size: int) -> None:
    """Allocate a file's bytes now: a full disk is an error here, but a crash when writing to a memory map."""
    if hasattr(os, "posix_fallocate"):
        os.posix_fallocate(handle, 0, size)
    else:  # pragma: no cover - other systems report a full disk at the first write
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

"""Results on disk: written block by block, each exactly once, whatever interrupts the run.

Until a run is complete, its results lie in the folder ``….part`` beside the output. ``state.json`` there says how many
samples are done; it is written after their results have reached the disk, and both are synchronized, so that it never
says more than there is. ``finished`` says that only the move of the result to its place is left.
"""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import hashlib
import json
import os
import shutil
import socket
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from . import tables
from .backend import owner
from .errors import BackendMissing, InputError, RunInProgress
from .file import writing
from .spec import Numpy

ZARR = ("zarr.json", ".zarray", ".zgroup")  # a folder with one of these files is a zarr store
KINDS = (".npy", ".npz", ".zarr", ".parquet")
ROUNDING = 1e-4  # of the largest output: more tells another model
LOCK, OWNER = "explainers.lock", "explainers.owner"
FULL = (errno.ENOSPC, errno.EDQUOT)
FEW = 64  # entries of a list that are told one by one
CHUNK = 2**22  # bytes of a chunk of a zarr store, about
GROUP = 2**16  # rows of a group of a parquet file


def kind(path: Path) -> str:
    if path.suffix not in KINDS:
        raise InputError(f"{str(path)!r} is not of a known kind: {', '.join(KINDS)}")
    return path.suffix


def digest(value: Any) -> Any:
    """What JSON can hold of a value, equal for equal values only: of arrays and tables a hash, of code its name."""
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    if isinstance(value, Mapping):
        return {str(name): digest(part) for name, part in value.items()}
    if tables.is_table(value):
        return {"table": [*tables.names(value)], "rows": digest(tables.values(value, "the table"))}
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        parts = {field.name: digest(getattr(value, field.name)) for field in dataclasses.fields(value)}
        return {type(value).__qualname__: parts}
    home = owner(value)
    if isinstance(value, (tuple, list)) and len(value) <= FEW:
        return [digest(part) for part in value]
    if home is None and not isinstance(value, (tuple, list, np.ndarray, np.generic)):
        return getattr(value, "__qualname__", None) or repr(value)
    array = np.asarray(value if home is None else home.numpy(value))
    data = json.dumps(array.tolist(), default=repr).encode() if array.dtype.hasobject else array.tobytes()
    return f"{array.dtype} {array.shape}, sha256 {hashlib.sha256(data).hexdigest()}"


def check(path: Path, overwrite: bool, inputs: Sequence[Path], what: str) -> None:
    """Raise InputError or OSError unless a run may write to ``path``: what can be told before anything is computed.

    The arguments are those of :class:`Store`, which checks them again, since the disk may change in the meantime.
    """
    _check_path(path, inputs, what)
    if not (_part(writing.place(path)) / "finished").is_file():
        _check_place(path, overwrite, what)


def _part(path: Path) -> Path:
    """The folder beside an output in which its results lie until the run is complete."""
    return path.with_name(path.name + ".part")


def _check_path(path: Path, inputs: Sequence[Path], what: str) -> None:
    """Check the name of an output, and that it is none of the ``inputs``."""
    kind(path)
    if not path.parent.is_dir():
        raise InputError(f"no folder {str(path.parent)!r}")
    if writing.is_stream(path):
        raise InputError(f"{what} {str(path)!r} is a device or a pipe, and samples are written in any order")
    target = writing.place(path)
    for input_path in inputs:
        input_target = input_path.resolve()
        same = target == input_target or target in input_target.parents or input_target in target.parents
        if same or (path.exists() and os.path.samefile(path, input_path)):
            raise InputError(f"{what} {str(path)!r} would replace the input {str(input_path)!r}")


def _check_place(path: Path, overwrite: bool, what: str) -> None:
    """Check what is at the place of an output."""
    if not path.is_dir():
        writing.check(path)
    if not path.exists():
        return
    if path.is_dir() and not (path.suffix == ".zarr" and any((path / name).is_file() for name in ZARR)):
        raise InputError(f"{what} {str(path)!r} is a folder with other things in it: choose another name")
    if not overwrite:
        raise InputError(f"{what} {str(path)!r} exists: choose another name, or replace it by overwrite=True")


class Form(NamedTuple):
    """Shape of all samples' results, (N, …), and their dtype."""

    shape: tuple[int, ...]
    dtype: Any


class Store:
    """The output of a run: arrays by name, (N, …) each; continues an interrupted run.

    An existing file or zarr store is replaced only with ``overwrite``; one of ``inputs`` and any other folder never.
    ``key``: of the run; another one's results are not continued. ``restart``: discard them.

    Attributes
    ----------
    given: the output's path as it was given. done: samples whose results are there. complete: whether all are, in
    their place: nothing is left to do.

    Raises
    ------
    InputError: the output cannot be written, or is another run's. RunInProgress: another process writes to it.
    """

    def __init__(
        self, path: Path, key: str, restart: bool = False, overwrite: bool = False, inputs: Sequence[Path] = (),
        what: str = "the output",
    ) -> None:  # fmt: skip
        _check_path(path, inputs, what)
        self.given, self.path, self.key, self.what = path, writing.place(path), key, what
        self.folder = _part(self.path)
        self.arrays: dict[str, Any] = {}
        self.done = self._kept = 0
        self.outputs: Any = None
        self.complete = False
        self._lock: Any = None
        if self.folder.exists():
            self._check_folder()
            self._take_lock()
        if restart and self.folder.is_dir():
            self._empty()
        if (self.folder / "finished").is_file():
            self._check_key(json.loads((self.folder / "finished").read_text()))
            self._place()
            return
        try:
            _check_place(path, overwrite, what)
            self._resume()
        except BaseException:
            if self._lock is not None and not {*os.listdir(self.folder)} - {LOCK, OWNER}:
                self._end()  # of a run that was killed after its end
            self.close()
            raise

    # --- before ------------------------------------------------------------------------------------

    def _check_folder(self) -> None:
        others = not self.folder.is_dir() or any(entry.name != LOCK for entry in self.folder.iterdir())
        if others and not any((self.folder / name).is_file() for name in ("state.json", "finished", OWNER)):
            raise InputError(
                f"{str(self.folder)!r} is in the way: it is no part of a run. Move it, or choose another place for "
                f"{self.what}"
            )

    def _check_key(self, state: Mapping[str, Any]) -> None:
        if state["key"] != self.key:
            self.close()
            raise InputError(
                f"{str(self.folder)!r} holds part of another run (of other inputs or parameters): finish that, or "
                "begin anew with restart=True"
            )

    def _resume(self) -> None:
        file = self.folder / "state.json"
        if not file.is_file():
            return
        state = json.loads(file.read_text())
        self._check_key(state)
        self.done = self._kept = int(state["done"])
        self.outputs = state.get("outputs")
        names = state["names"]
        if (self.folder / "0.npy").is_file():
            self.arrays = {name: np.load(self.folder / f"{i}.npy", mmap_mode="r+") for i, name in enumerate(names)}
        elif names:
            group = zarr().open_group(str(self.folder / "made.zarr"), mode="r+")
            self.arrays = {name: group[name] for name in names}

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
            self.close()
            raise InputError(
                f"{str(self.folder)!r} holds part of a run of another model: its outputs for the first samples differ "
                "from those of the model now. If the module trains it, or draws numbers, give it a seed. Begin anew "
                "with restart=True."
            )

    # --- one process at a time ---------------------------------------------------------------------

    def _take_lock(self) -> None:
        try:
            from filelock import FileLock, Timeout  # importing this library stays quick
        except ImportError as error:
            raise BackendMissing("results on disk need filelock: pip install 'explainers[files]'") from error
        place = self.folder / LOCK
        while self._lock is None or not place.exists():  # a run that has just finished removes it
            self.close()
            self.folder.mkdir(exist_ok=True)
            self._lock = FileLock(place)
            try:
                self._lock.acquire(timeout=0)
            except Timeout:
                self._lock, who = None, ""
                with contextlib.suppress(OSError):
                    who = (self.folder / OWNER).read_text()
                raise RunInProgress(
                    f"{str(self.folder)!r} is being written by {who or 'another process'}: wait for it, or end it"
                ) from None
        owner = f"process {os.getpid()} on {socket.gethostname()}, since {time.strftime('%Y-%m-%d %H:%M:%S')}"
        with contextlib.suppress(OSError):
            (self.folder / OWNER).write_text(owner)

    def close(self) -> None:
        """Let other processes continue the run."""
        self.arrays.clear()
        if self._lock is not None:
            self._lock.release()
            self._lock = None

    # --- during ------------------------------------------------------------------------------------

    def allocate(self, forms: Mapping[str, Form]) -> None:
        """Reserve disk space for all samples, for memory-mapped files; on disk at once, so that a run can go on."""
        self._check_form([len(form.shape) for form in forms.values()])
        if self.arrays:
            return
        size = sum(int(np.prod(form.shape)) * np.dtype(form.dtype).itemsize for form in forms.values())
        self._begin()
        try:
            for i, (name, form) in enumerate(forms.items()):
                file = self.folder / f"{i}.npy"
                self.arrays[name] = np.lib.format.open_memmap(file, mode="w+", dtype=form.dtype, shape=form.shape)
                with file.open("r+b") as handle:
                    _reserve(handle.fileno(), file.stat().st_size)
            self.keep()
        except OSError as error:
            self.forget()
            raise InputError(f"no space for {size / 1e3:,.0f} kB in {str(self.path.parent)!r}: {error}") from error

    def begin_zarr(self, forms: Mapping[str, Form], block: int, attributes: Mapping[str, Any]) -> None:
        """Begin a zarr group of these arrays, in chunks of ``block`` samples, which are written as they come.

        N of the forms may be less than the samples that will be written: arrays grow.
        """
        if self.arrays:
            return
        self._begin()
        kept = {} if self.given.suffix == ".zarr" else {"compressors": None}  # it is only on the way to another form
        with self._room():
            shutil.rmtree(self.folder / "made.zarr", ignore_errors=True)
            group = zarr().open_group(str(self.folder / "made.zarr"), mode="w")
            group.attrs.update(attributes)
            for name, (shape, dtype) in forms.items():
                chunks = (block, *(max(1, size) for size in shape[1:]))
                self.arrays[name] = group.create_array(name, shape=shape, dtype=dtype, chunks=chunks, **kept)
        self.keep()

    def _begin(self) -> None:
        if self._lock is None:
            self._take_lock()

    def _check_form(self, ranks: Sequence[int]) -> None:
        """Check that a file of this kind can hold arrays of these ranks."""
        if self.given.suffix == ".npy" and len(ranks) != 1:
            raise InputError(f"there are attributions of {len(ranks)} inputs: write them to an .npz or .zarr file")
        if self.given.suffix == ".parquet" and list(ranks) != [2]:
            raise InputError("a parquet file takes one table, (samples, columns); others go to .npy, .npz or .zarr")

    def write(self, start: int, parts: Mapping[str, Numpy]) -> None:
        """Write the results of the samples from ``start`` on."""
        stop = start + len(next(iter(parts.values())))
        with self._room():
            for name, part in parts.items():
                array = self.arrays[name]
                if stop > array.shape[0]:
                    array.resize((stop, *array.shape[1:]))
                array[start:stop] = part
        self.done = stop

    def keep(self) -> None:
        """Synchronize the results with the disk, so that an interrupted run can continue from here."""
        with self._room():
            for array in self.arrays.values():
                if isinstance(array, np.memmap):
                    array.flush()
            self._synchronize_chunks()
            known = {"key": self.key, "done": self.done, "names": list(self.arrays), "outputs": self.outputs}
            writing.text(self.folder / "state.json", json.dumps(known))
        self._kept = self.done

    def _synchronize_chunks(self) -> None:
        """Wait until the chunks of a zarr store that were written since the last state have reached the disk."""
        for name, array in self.arrays.items():
            if isinstance(array, np.memmap):
                continue
            place, rows = self.folder / "made.zarr" / name, array.chunks[0]
            writing.synchronize(place / "zarr.json")
            for number in range(self._kept // rows, -(-self.done // rows)):
                _synchronize(place / "c" / str(number))

    @contextlib.contextmanager
    def _room(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            if error.errno not in FULL:
                raise
            raise InputError(
                f"no space for {str(self.given)!r}: {error}. {self.done} samples are done and kept: make room, and the "
                "same run goes on from there"
            ) from error

    def forget(self) -> None:
        """Delete all results written so far."""
        self.arrays.clear()
        self.done, self._kept, self.outputs = 0, 0, None
        self._empty()
        self._end()

    # --- after -------------------------------------------------------------------------------------

    def finish(self, columns: Sequence[str] = (), attributes: Mapping[str, Any] | None = None) -> None:
        """Turn the results into the output, and delete the ``….part`` folder; can be repeated after a kill.

        columns: of a table of one parquet column for each feature. attributes: of a parquet file of one column for each
        array, of lists where a sample's results are more than a number.
        """
        self.keep()
        suffix = self.given.suffix
        result = self.folder / f"made{suffix}"
        with self._room():
            if suffix == ".npy":
                result = self.folder / "0.npy"
            elif suffix == ".npz":
                np.savez(result, **{name or "attributions": array for name, array in self.arrays.items()})
            elif suffix == ".parquet" and attributes is None:
                _save_table(result, self.arrays, columns)
            elif suffix == ".parquet":
                _save_lists(result, self.arrays, attributes or {})
            elif isinstance(next(iter(self.arrays.values())), np.memmap):
                shutil.rmtree(result, ignore_errors=True)
                _save_zarr(result, self.arrays)
                _synchronize(result)
            else:
                for left in result.rglob("*.partial"):  # of writes that were killed
                    left.unlink()
            self.arrays.clear()
            writing.synchronize(result)
            writing.text(self.folder / "finished", json.dumps({"key": self.key, "result": result.name}))
        self._place()

    def _place(self) -> None:
        """Move the result to its place, if it is not there yet, and delete the folder."""
        self.arrays.clear()
        result = self.folder / json.loads((self.folder / "finished").read_text())["result"]
        if result.exists():
            with self._room():
                self._move(result)
                writing.synchronize(self.path.parent)
        self._empty(besides="finished")  # last: it says that what is left after a kill is not needed
        _remove(self.folder / "finished")
        self._end()
        self.complete = True

    def _move(self, result: Path) -> None:
        if not result.is_dir():
            writing.move(result, self.path)
            return
        old = self.folder / "replaced"  # the zarr store that overwrite replaces
        _remove(old)
        if self.path.is_dir():
            os.replace(self.path, old)
        try:
            os.replace(result, self.path)
        except BaseException:
            if old.is_dir():
                os.replace(old, self.path)
            raise

    def _empty(self, besides: str = "") -> None:
        for name in ("state.json", "finished", *os.listdir(self.folder)):  # first what says that there is a run
            if name not in (LOCK, OWNER, besides):
                _remove(self.folder / name)

    def _end(self) -> None:
        """Remove the folder, which holds nothing any more, with the lock."""
        _remove(self.folder / OWNER)
        _remove(self.folder / LOCK)  # while it is held
        self.close()
        with contextlib.suppress(OSError):
            self.folder.rmdir()


def _synchronize(path: Path) -> None:
    """Wait until a file, or all files of a folder, have reached the disk. A chunk of zeros has none."""
    if path.is_file():
        writing.synchronize(path)
    for place, _, files in os.walk(path):
        for file in files:
            writing.synchronize(os.path.join(place, file))


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def _reserve(handle: int, size: int) -> None:
    """Allocate a file's bytes now: a full disk is an error here, but a crash when writing to a memory map."""
    if hasattr(os, "posix_fallocate"):
        os.posix_fallocate(handle, 0, size)
    else:  # pragma: no cover - other systems report a full disk at the first write
        os.truncate(handle, size)


def _save_zarr(path: Path, arrays: Mapping[str, Any]) -> None:
    if list(arrays) == [""]:
        stores = {"": zarr().open_array(str(path), mode="w", **_form(arrays[""]))}
    else:
        group = zarr().open_group(str(path), mode="w")
        stores = {name: group.create_array(name, **_form(array)) for name, array in arrays.items()}
    for name, array in arrays.items():
        step = stores[name].chunks[0]
        for start in range(0, len(array), step):
            stores[name][start : start + step] = array[start : start + step]


def _form(array: Any) -> dict[str, Any]:
    row = max(1, array.dtype.itemsize * int(np.prod(array.shape[1:])))
    chunk = max(1, min(len(array), CHUNK // row))
    return {"shape": array.shape, "dtype": array.dtype, "chunks": (chunk, *array.shape[1:])}


def _save_table(path: Path, arrays: Mapping[str, Any], columns: Sequence[str]) -> None:
    writer_of = parquet().ParquetWriter
    import pyarrow  # type: ignore[import-untyped]

    (array,) = arrays.values()
    names = list(columns) if len(columns) == array.shape[1] else [str(i) for i in range(array.shape[1])]
    schema = pyarrow.schema([(name, pyarrow.from_numpy_dtype(array.dtype)) for name in names])
    with writer_of(path, schema, use_dictionary=False) as writer:  # numbers hardly repeat
        for start in range(0, len(array), GROUP):
            part = np.ascontiguousarray(array[start : start + GROUP].T)
            writer.write_table(pyarrow.Table.from_arrays([pyarrow.array(column) for column in part], schema=schema))


def _save_lists(path: Path, arrays: Mapping[str, Any], attributes: Mapping[str, Any]) -> None:
    """A column for each array, of lists of equal length where it has more axes than one; shapes in the metadata."""
    writer_of = parquet().ParquetWriter
    import pyarrow

    fields, facts = [], {"explainers": json.dumps(attributes)}
    for name, array in arrays.items():
        item = pyarrow.from_numpy_dtype(array.dtype)
        fields.append((name, item if len(array.shape) == 1 else pyarrow.list_(item, int(np.prod(array.shape[1:])))))
        facts[f"shape of {name}"] = json.dumps(array.shape[1:])
    schema = pyarrow.schema(fields, metadata=facts)
    total = next(iter(arrays.values())).shape[0]
    with writer_of(path, schema, use_dictionary=False) as writer:  # numbers hardly repeat
        step = next(iter(arrays.values())).chunks[0]
        for start in range(0, total, step):
            columns = []
            for (_, column), array in zip(fields, arrays.values(), strict=True):
                part = pyarrow.array(np.ascontiguousarray(array[start : start + step]).reshape(-1))
                size = getattr(column, "list_size", None)
                columns.append(part if size is None else pyarrow.FixedSizeListArray.from_arrays(part, size))
            writer.write_table(pyarrow.Table.from_arrays(columns, schema=schema))


def zarr() -> Any:
    try:
        import zarr as found
    except ImportError as error:
        raise BackendMissing("zarr files need zarr: pip install 'explainers[files]'") from error
    return found


def parquet() -> Any:
    try:
        from pyarrow import parquet as found
    except ImportError as error:
        raise BackendMissing("parquet files need pyarrow: pip install 'explainers[files]'") from error
    return found

"""Blocks of samples from anything that holds them or yields them, read ahead while the device works.

A source is recognized by what it can do; no library of arrays or tables is imported.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

import numpy as np

from . import tables
from .backend import owner
from .errors import ExplainersError, InputError, SourceError
from .spec import Numpy, Signature
from .table_libraries import ParquetTable

T = TypeVar("T")
Label = str | Callable[[Any], Any] | None
Picked = tuple[Any, ...]  # the model's inputs in order, and the samples' targets if there are any
AHEAD = 2  # blocks that are read before they are asked for
PATIENCE = 2.0  # seconds that a stream which is closed waits for its thread
TURN = 0.1  # seconds between looks at whether a stream is still wanted


@dataclass
class Block:
    """Some consecutive samples. ``inputs``: the model's, in order. ``target``: of each, if the source holds them.

    number, start: of the block and of its first sample.
    """

    number: int
    start: int
    inputs: tuple[Any, ...]
    target: Any = None

    def __len__(self) -> int:
        return _length(self.inputs[0])


class Sized(Protocol):
    """A source whose samples can be read anywhere, in any order."""

    def __len__(self) -> int: ...

    @property
    def chunk(self) -> int:
        """Samples that are best read together; 1 if it does not matter."""

    def read(self, start: int, stop: int) -> Any:
        """The samples start … stop−1: an array or a table, or a tuple or dict of these."""


def blocks(
    source: Any, size: int, signature: Signature, *, inputs: Sequence[str | int] | None = None, target: Label = None,
    first: int = 0, ahead: int = AHEAD,
) -> Generator[Block, None, None]:  # fmt: skip
    """Blocks of about ``size`` samples of the model's inputs, in order.

    Parameters
    ----------
    source: an array or a table, or a tuple or dict of these, of N samples each: numpy (memory maps, too), torch,
        TensorFlow, h5py, zarr, dask, xarray, pandas, polars, Arrow, a ``ParquetFile``, a dataset of ``datasets``. Or
        anything that yields batches: a generator, a DataLoader, a ``tf.data.Dataset``, Arrow's record batches. A tuple
        holds the inputs in order; a dict, or the columns of a dataset, hold them by name. The rest is left out.
    size: of blocks of a source that can be sliced; batches of others are joined until they hold as many.
    inputs: names or positions of the inputs in a batch; by default the names of the model, or the first ones.
    target: the name of what holds each sample's target in a batch, or a function of the batch.
    first: the sample to begin with.
    ahead: blocks that one thread reads before they are asked for; 0 reads each when it is.

    Raises
    ------
    InputError: of no known kind; another number or other names of inputs. SourceError: reading a block failed; the
    blocks before it have been yielded.
    """

    def pick(batch: Any) -> Picked:
        return picked(batch, signature, inputs, target)

    found = sized(source)
    if found is None:
        parts = _joined((_several(pick(batch), signature) for batch in _batches(source)), size, first)
    else:
        parts = _slices(found, size, first, pick)
    made = _numbered(parts, first, len(signature.inputs))
    return read_ahead(made, ahead) if ahead else made


def sized(source: Any) -> Sized | None:
    """The source as one that can be sliced; None if it only yields batches."""
    if isinstance(source, tuple) and source and all(_is_array(part) for part in source):
        return _Together(dict(enumerate(_one(part) for part in source)), tuple)
    if isinstance(source, Mapping):
        if not source or not all(_is_array(part) for part in source.values()):
            wrong = [name for name, part in source.items() if not _is_array(part)]
            raise InputError(f"a source of arrays by name has no array in {wrong or 'it'}")
        return _Together({name: _one(part) for name, part in source.items()}, dict)
    if hasattr(source, "column_names") and hasattr(source, "with_format") and hasattr(source, "__len__"):
        return _Dataset(source)
    if hasattr(source, "read_row_group") and hasattr(source, "num_row_groups"):
        return _Table(ParquetTable(source))
    if all(hasattr(source, name) for name in ("read", "chunk", "__len__")) and not hasattr(source, "shape"):
        return source  # type: ignore[no-any-return]
    return _one(source) if _is_array(source) else None


def _is_array(value: Any) -> bool:
    if tables.is_table(value):
        return True
    shape = getattr(value, "shape", None)
    return shape is not None and hasattr(value, "__getitem__") and len(shape) > 0 and not isinstance(value, np.generic)


def _one(array: Any) -> Sized:
    if tables.is_table(array):
        return _Table(array)
    return _Array(array)


@dataclass
class _Array:
    array: Any

    def __len__(self) -> int:
        return int(self.array.shape[0])

    @property
    def chunk(self) -> int:
        """Of zarr and h5py a number; of dask and xarray the largest of a tuple of numbers."""
        chunks = getattr(self.array, "chunks", None)
        if not isinstance(chunks, tuple) or not chunks:
            return 1
        first = chunks[0]
        return max(1, int(max(first) if isinstance(first, tuple) else first))

    def read(self, start: int, stop: int) -> Any:
        part = self.array[start:stop]
        if isinstance(part, np.memmap):
            return np.array(part)  # read now, by this thread, not when the device waits for it
        return part if isinstance(part, np.ndarray) or owner(part) is not None else np.asarray(part)


@dataclass
class _Table:
    table: Any

    chunk = 1

    def __len__(self) -> int:
        return int(self.table.shape[0])

    def read(self, start: int, stop: int) -> Any:
        return _plain(tables.rows(self.table, start, stop))


@dataclass
class _Dataset:
    """A dataset of columns: ``datasets.Dataset``."""

    dataset: Any

    chunk = 1

    def __post_init__(self) -> None:
        self.dataset = self.dataset.with_format("numpy")

    def __len__(self) -> int:
        return len(self.dataset)

    def read(self, start: int, stop: int) -> dict[str, Numpy]:
        return {name: np.asarray(column) for name, column in self.dataset[start:stop].items()}


class ListColumn:
    """A column of lists of equal length in a parquet file, as an array (N, k) of which slices are read."""

    def __init__(self, table: ParquetTable, name: str) -> None:
        self.table, self.name = table, name
        head = self[:1]
        self.shape, self.dtype = (table.shape[0], *head.shape[1:]), head.dtype

    def __getitem__(self, index: Any) -> Numpy:
        start, stop, _ = index.indices(self.table.shape[0])
        return _column(self.table.rows(start, stop).column(self.name))


def columns(table: Any) -> dict[str, Any]:
    """The columns of a parquet file by name, if some of them are lists; else none: it is a table of features."""
    if not any(hasattr(kind, "value_field") for kind in table.schema.types):
        return {}
    return {name: ListColumn(table, name) for name in table.schema.names}


@dataclass
class _Together:
    """Several of equal length."""

    parts: dict[Any, Sized]
    kind: type[tuple[Any, ...]] | type[dict[Any, Any]]

    def __post_init__(self) -> None:
        lengths = {name: len(part) for name, part in self.parts.items()}
        if len(set(lengths.values())) > 1:
            raise InputError(f"the parts of the source have different numbers of samples: {lengths}")

    def __len__(self) -> int:
        return len(next(iter(self.parts.values())))

    @property
    def chunk(self) -> int:
        return max(part.chunk for part in self.parts.values())

    def read(self, start: int, stop: int) -> Any:
        found = {name: part.read(start, stop) for name, part in self.parts.items()}
        return found if self.kind is dict else tuple(found.values())


# --- from a source to blocks ----------------------------------------------------------------------


def _slices(source: Sized, size: int, first: int, pick: Callable[[Any], Picked]) -> Iterator[Picked]:
    """Slices of ``size`` samples. Chunks are read once: what a slice leaves of one is kept for the next."""
    total, chunk = len(source), source.chunk
    held: Picked = ()
    begin = end = first  # of what is held
    for start in range(first, total, size):
        stop = min(start + size, total)
        if stop > end:
            until = min(-(-stop // chunk) * chunk, total)
            more = pick(source.read(end, until))
            held = more if start == end else _concatenated([_cut(held, start - begin, end - begin), more])
            begin, end = start, until
        yield held if (start, stop) == (begin, end) else _cut(held, start - begin, stop - begin)


def _batches(source: Any) -> Iterator[Any]:
    if isinstance(source, (str, bytes)) or not hasattr(source, "__iter__"):
        raise InputError(
            f"a {type(source).__name__} is no source of samples: give an array or a table, a tuple or dict of these, "
            "or something that yields batches of them"
        )
    return map(_plain, source)


def _plain(batch: Any) -> Any:
    """A batch; of Arrow with columns of lists, the columns by name, where one of lists is an array (n, k)."""
    kinds = getattr(getattr(batch, "schema", None), "types", None)
    if kinds is None or not tables.is_table(batch) or not any(hasattr(kind, "value_field") for kind in kinds):
        return batch
    return {name: _column(batch.column(place)) for place, name in enumerate(batch.schema.names)}


def _column(column: Any) -> Numpy:
    if hasattr(column, "combine_chunks"):
        column = column.combine_chunks()
    if not hasattr(column, "flatten") or not hasattr(column.type, "value_field"):
        return np.asarray(column.to_numpy(zero_copy_only=False))
    flat = np.asarray(column.flatten().to_numpy(zero_copy_only=False))
    if column.null_count or len(flat) % max(len(column), 1):
        raise InputError("a column of lists has missing ones, or lists of different lengths: an array needs equal ones")
    return flat.reshape(len(column), -1)


def _joined(batches: Iterator[Picked], size: int, first: int) -> Iterator[Picked]:
    """Batches joined to at least ``size`` samples; the first ``first`` samples are left out."""
    waiting: list[Picked] = []
    count, skip = 0, first
    for batch in batches:
        length = _length(batch[0])
        if skip >= length:
            skip -= length
            continue
        if skip:
            batch, length, skip = _cut(batch, skip, length), length - skip, 0
        waiting.append(batch)
        count += length
        del batch
        if count >= size:
            whole = _concatenated(waiting)
            waiting, count = [], 0
            yield whole
            del whole
    if waiting:
        yield _concatenated(waiting)


def _length(part: Any) -> int:
    return int(part.shape[0]) if hasattr(part, "shape") else len(part)


def _cut(parts: Picked, start: int, stop: int) -> Picked:
    return tuple(tables.rows(p, start, stop) if tables.is_table(p) else p[start:stop] for p in parts)


def _concatenated(batches: list[Picked]) -> Picked:
    return batches[0] if len(batches) == 1 else tuple(_together(list(parts)) for parts in zip(*batches, strict=True))


def _together(parts: list[Any]) -> Any:
    if tables.is_table(parts[0]):
        return tables.joined(parts)
    home = owner(parts[0])
    if home is not None:
        return home.concat(parts)
    return np.concatenate([np.asarray(part) for part in parts])


def _numbered(batches: Iterator[Picked], first: int, count: int) -> Generator[Block, None, None]:
    """Errors of the source name the block that it was read for. ``count``: of the model's inputs."""
    number, start = 0, first
    while True:
        try:
            parts = next(batches, None)
        except ExplainersError as error:
            error.add_note(_place(number, start))
            raise
        except Exception as error:
            raise SourceError(f"{_place(number, start)}: {type(error).__name__}: {error}") from error
        if parts is None:
            return
        block = Block(number, start, parts[:count], parts[count] if len(parts) > count else None)
        del parts
        yield block
        number, start = number + 1, start + len(block)
        del block


def _place(number: int, start: int) -> str:
    return f"reading block {number} of the source, from sample {start} on"


def picked(batch: Any, signature: Signature, inputs: Sequence[str | int] | None, target: Label) -> Picked:
    """The model's inputs in a batch, in order, and the samples' targets behind them, if ``target`` says where."""
    targets: Picked = ()
    if callable(target):
        targets = (target(batch),)
    elif target is not None and tables.is_table(batch):
        targets, batch = (tables.column(batch, target, "the table"),), tables.without(batch, target)
    elif target is not None:
        if not isinstance(batch, Mapping) or target not in batch:
            has = list(batch) if isinstance(batch, Mapping) else f"a {type(batch).__name__}"
            raise InputError(
                f"target={target!r} names a part of a batch, and a batch of the source is {has}: give its name, or a "
                "function of the batch"
            )
        targets = (batch[target],)
        batch = {name: part for name, part in batch.items() if name != target}
    parts = _inputs(batch, signature, inputs)
    return (*(p if hasattr(p, "shape") or tables.is_table(p) else np.asarray(p) for p in parts), *targets)


def _inputs(batch: Any, signature: Signature, inputs: Sequence[str | int] | None) -> Picked:
    if isinstance(batch, Mapping):
        parts: dict[Any, Any] = dict(batch)
    else:
        parts = dict(enumerate(batch)) if isinstance(batch, tuple) or _is_pair(batch) else {0: batch}
    names = signature.names
    wanted: list[str | int] = list(names if inputs is None else inputs)
    if len(wanted) != len(names):
        raise InputError(f"inputs={wanted}: the model takes {len(names)}, {list(names)}")
    if inputs is None and not isinstance(batch, Mapping):
        wanted = list(range(len(names)))
    elif inputs is None and len(names) == len(parts) == 1:
        wanted = list(parts)  # any name will do
    missing = [name for name in wanted if name not in parts]
    if missing:
        raise InputError(
            f"a batch of the source has {list(parts)}, and no {missing}: the model takes ({signature}). Say which are "
            "its inputs with inputs=[…]"
        )
    return tuple(parts[name] for name in wanted)


def _is_pair(batch: Any) -> bool:
    """Whether a list holds arrays, as DataLoaders return them, not samples."""
    return isinstance(batch, list) and all(hasattr(part, "shape") for part in batch) and len(batch) > 0


def _several(batch: Picked, signature: Signature) -> Picked:
    """A batch, checked to be one: sources that yield single samples would be joined to something else."""
    for part, spec in zip(batch, signature.inputs, strict=False):
        if not tables.is_table(part) and len(part.shape) == len(spec.sample_shape):
            raise InputError(
                f"the source yields {spec.name!r} of shape {tuple(part.shape)}, which is one sample of ({spec}): give "
                "batches of them, (n, …), such as those of a DataLoader, of .batch(1000) or of .iter(1000)"
            )
    return batch


# --- ahead ------------------------------------------------------------------------------------------


class _End:
    """The end of an iterator, or its error."""

    def __init__(self, error: BaseException | None = None) -> None:
        self.error = error


def read_ahead(items: Iterable[T], ahead: int) -> Generator[T, None, None]:
    """The items, taken by a thread of their own before they are asked for; at most ``ahead`` of them wait.

    An error comes after the items before it. The thread ends when the generator is closed or forgotten.
    """
    ready: queue.Queue[Any] = queue.Queue(ahead)
    stopped = threading.Event()

    def put(item: Any) -> bool:
        while not stopped.is_set():
            try:
                ready.put(item, timeout=TURN)
                return True
            except queue.Full:
                continue
        return False

    def run() -> None:
        end = _End()
        try:
            for item in items:
                if not put(item):
                    return
                del item
        except BaseException as error:
            end = _End(error)
        put(end)

    thread = threading.Thread(target=run, name="explainers-ahead", daemon=True)
    thread.start()
    try:
        while True:
            item = ready.get()
            if isinstance(item, _End):
                if item.error is not None:
                    raise item.error
                return
            yield item
            del item
    finally:
        stopped.set()
        thread.join(PATIENCE)  # it may be waiting for a source that hangs

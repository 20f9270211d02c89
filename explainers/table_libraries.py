"""Table packages (pandas, polars, Arrow) behind one interface. None is imported unless the caller has imported it."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any, Protocol

import numpy as np

from .spec import Numpy


class TableLibrary(Protocol):
    """The operations on the tables of one package."""

    def labels(self, table: Any) -> Sequence[Any]:
        """The labels of its columns, in order."""

    def column(self, table: Any, place: int) -> Numpy:
        """One column as numpy. Missing numbers become NaN; a column without numbers has a non-numeric dtype."""

    def kinds(self, table: Any) -> Sequence[Any]:
        """The dtypes of its columns."""

    def values(self, table: Any, place: int) -> list[Any]:
        """The values of one column as Python objects, missing ones as the package has them."""

    def restored(self, values: Sequence[Any], kind: Any) -> Any:
        """A column of values such as :meth:`values` returns, of the dtype ``kind``.

        Categories that ``kind`` lacks are added after its own. A dtype that does not hold the values gives way to
        one that does.
        """

    def rows(self, table: Any, start: int, stop: int) -> Any: ...

    def take(self, table: Any, places: Numpy) -> Any: ...

    def joined(self, tables: Sequence[Any]) -> Any:
        """The rows of all tables, one after the other."""

    def select(self, table: Any, labels: Sequence[Any]) -> Any:
        """The table of some of its columns."""

    def make(self, columns: Sequence[Numpy], like: Any) -> Any:
        """A table of these columns with the labels of ``like``, and its index where it has as many rows."""

    def cast(self, column: Numpy, dtype: Any) -> tuple[Any, Numpy]:
        """A column cast to a dtype of this package, and the numbers it then holds."""


class Pandas:
    def labels(self, table: Any) -> Sequence[Any]:
        return list(table.columns)

    def column(self, table: Any, place: int) -> Numpy:
        found = table.iloc[:, place]
        if isinstance(found.dtype, np.dtype) or not getattr(found.dtype, "_is_numeric", False):
            return np.asarray(found)
        return np.asarray(found.to_numpy(dtype="float64", na_value=np.nan) if found.hasnans else found.to_numpy())

    def values(self, table: Any, place: int) -> list[Any]:
        return list(table.iloc[:, place].tolist())

    def restored(self, values: Sequence[Any], kind: Any) -> Any:
        pandas = sys.modules["pandas"]
        if kind == np.dtype(object):
            return pandas.Series(np.fromiter(values, object, len(values)), dtype=object)
        categories = getattr(kind, "categories", None)
        if categories is not None:
            found = pandas.Series(values, dtype=object)
            known = found.isna() | found.isin(categories)
            if not known.all():
                kind = pandas.CategoricalDtype([*categories, *found[~known].unique()], kind.ordered)
            return found.astype(kind)
        try:
            if isinstance(kind, pandas.StringDtype) and pandas.api.types.infer_dtype(values) != "string":
                raise TypeError("pandas would turn other values into words")
            found = pandas.Series(values, dtype=kind)
            if getattr(kind, "kind", "") in "mM":  # a coarser unit would cut the values off
                exact = pandas.Series(values)
                return found if ((found == exact) | found.isna()).all() else exact
        except (TypeError, ValueError):
            return pandas.Series(np.fromiter(values, object, len(values)), dtype=object)
        return found

    def kinds(self, table: Any) -> Sequence[Any]:
        return list(table.dtypes)

    def rows(self, table: Any, start: int, stop: int) -> Any:
        return table.iloc[start:stop]

    def take(self, table: Any, places: Numpy) -> Any:
        return table.iloc[places]

    def joined(self, tables: Sequence[Any]) -> Any:
        return sys.modules["pandas"].concat(tables)

    def select(self, table: Any, labels: Sequence[Any]) -> Any:
        return table[list(labels)]

    def make(self, columns: Sequence[Any], like: Any) -> Any:
        pandas = sys.modules["pandas"]
        count = len(columns[0]) if columns else 0
        index = like.index if len(like) == count else pandas.RangeIndex(count)
        frame = pandas.DataFrame({i: np.asarray(c) if isinstance(c, np.ndarray) else c.set_axis(index)
                                  for i, c in enumerate(columns)}, index=index)  # fmt: skip
        frame.columns = like.columns
        return frame

    def cast(self, column: Numpy, dtype: Any) -> tuple[Any, Numpy]:
        categories = getattr(dtype, "categories", None)
        if categories is not None and not np.isin(column[~np.isnan(column)], categories).all():
            raise ValueError("not one of the categories")
        found = sys.modules["pandas"].Series(column).astype(dtype)
        return found, np.asarray(found.to_numpy(dtype="float64", na_value=np.nan))


class Polars:
    def labels(self, table: Any) -> Sequence[Any]:
        return list(table.columns)

    def column(self, table: Any, place: int) -> Numpy:
        return np.asarray(table.to_series(place).to_numpy())

    def values(self, table: Any, place: int) -> list[Any]:
        series = table.to_series(place)
        if getattr(series.dtype, "time_unit", None) == "ns":  # Python's datetime ends at microseconds
            return list(series.to_physical().to_list())
        return list(series.to_list())

    def restored(self, values: Sequence[Any], kind: Any) -> Any:
        polars = sys.modules["polars"]
        if kind == polars.Enum:
            known = kind.categories.to_list()
            unknown = [value for value in dict.fromkeys(values) if value is not None and value not in set(known)]
            kind = polars.Enum([*known, *unknown]) if unknown else kind
        whole = getattr(kind, "time_unit", None) == "ns" and all(v is None or type(v) is int for v in values)
        try:
            return polars.Series(values, dtype=polars.Int64).cast(kind) if whole else polars.Series(values, dtype=kind)
        except (TypeError, ValueError, OverflowError, polars.exceptions.PolarsError):
            return polars.Series(values, strict=False)

    def kinds(self, table: Any) -> Sequence[Any]:
        return list(table.dtypes)

    def rows(self, table: Any, start: int, stop: int) -> Any:
        return table[start:stop]

    def take(self, table: Any, places: Numpy) -> Any:
        return table[places.tolist()]

    def joined(self, tables: Sequence[Any]) -> Any:
        return sys.modules["polars"].concat(tables)

    def select(self, table: Any, labels: Sequence[Any]) -> Any:
        return table.select(list(labels))

    def make(self, columns: Sequence[Any], like: Any) -> Any:
        return sys.modules["polars"].DataFrame(dict(zip(like.columns, columns, strict=True)))

    def cast(self, column: Numpy, dtype: Any) -> tuple[Any, Numpy]:
        found = sys.modules["polars"].Series(column).cast(dtype)
        return found, np.asarray(found.to_numpy(), np.float64)


class Arrow:
    def labels(self, table: Any) -> Sequence[Any]:
        return list(table.schema.names)

    def column(self, table: Any, place: int) -> Numpy:
        found = table.column(place)
        return np.asarray(found.to_numpy(zero_copy_only=False) if hasattr(found, "buffers") else found.to_numpy())

    def values(self, table: Any, place: int) -> list[Any]:
        found = table.column(place)
        if getattr(found.type, "unit", None) == "ns":  # Python's datetime ends at microseconds
            found = found.cast("int64")
        return list(found.to_pylist())

    def restored(self, values: Sequence[Any], kind: Any) -> Any:
        pyarrow = sys.modules["pyarrow"]
        whole = getattr(kind, "unit", None) == "ns" and all(v is None or type(v) is int for v in values)
        try:
            return pyarrow.array(values, pyarrow.int64()).cast(kind) if whole else pyarrow.array(values, kind)
        except (TypeError, ValueError, OverflowError, pyarrow.ArrowException):
            return pyarrow.array(values)

    def kinds(self, table: Any) -> Sequence[Any]:
        return list(table.schema.types)

    def rows(self, table: Any, start: int, stop: int) -> Any:
        return table.slice(start, stop - start)

    def take(self, table: Any, places: Numpy) -> Any:
        return table.take(places)

    def joined(self, tables: Sequence[Any]) -> Any:
        pyarrow = sys.modules["pyarrow"]
        kind = pyarrow.RecordBatch if isinstance(tables[0], pyarrow.RecordBatch) else pyarrow.Table
        whole = [pyarrow.Table.from_batches([t]) if kind is pyarrow.RecordBatch else t for t in tables]
        return pyarrow.concat_tables(whole)

    def select(self, table: Any, labels: Sequence[Any]) -> Any:
        return table.select(list(labels))

    def make(self, columns: Sequence[Any], like: Any) -> Any:
        pyarrow = sys.modules["pyarrow"]
        arrays = [pyarrow.array(column) for column in columns]
        return type(like).from_arrays(arrays, names=like.schema.names)

    def cast(self, column: Numpy, dtype: Any) -> tuple[Any, Numpy]:
        found = sys.modules["pyarrow"].array(column).cast(dtype)
        return found, np.asarray(found.to_numpy(zero_copy_only=False), np.float64)


class ParquetTable:
    """The rows of a ``pyarrow.parquet.ParquetFile``, of which groups are read when they are asked for.

    picked: ascending numbers of the only rows that count, or None for all.
    """

    def __init__(self, file: Any, columns: Sequence[str] | None = None, picked: Numpy | None = None) -> None:
        self.file, self.columns, self.picked = file, None if columns is None else list(columns), picked
        schema = file.schema_arrow
        self.schema = schema if columns is None else sys.modules["pyarrow"].schema([schema.field(n) for n in columns])
        rows = [file.metadata.row_group(i).num_rows for i in range(file.num_row_groups)]
        self.ends = np.cumsum([0, *rows])
        self._group: tuple[int, Any] = -1, None  # the one that was read last

    @property
    def shape(self) -> tuple[int, int]:
        count = int(self.ends[-1]) if self.picked is None else len(self.picked)
        return count, len(self.schema.names)

    def at(self, rows: Numpy) -> ParquetTable:
        """The table of these rows alone, in ascending order."""
        return ParquetTable(self.file, self.columns, rows if self.picked is None else self.picked[rows])

    def rows(self, start: int, stop: int) -> Any:
        """The rows start … stop−1 as an Arrow table."""
        start, stop = max(start, 0), min(stop, self.shape[0])
        spans = [(start, stop)] if self.picked is None else runs(self.picked[start:stop])
        parts = [part for span in spans if span[0] < span[1] for part in self._parts(*span)]
        if not parts:
            return self.schema.empty_table()
        return parts[0] if len(parts) == 1 else ARROW.joined(parts)

    def _parts(self, start: int, stop: int) -> list[Any]:
        """The rows start … stop−1 of the file, a part for each of its groups."""
        first = int(np.searchsorted(self.ends, start, side="right")) - 1
        last = int(np.searchsorted(self.ends, stop, side="left"))
        parts = []
        for place in range(first, last):
            begin = int(self.ends[place])
            part = self._read(place).slice(max(start - begin, 0), stop - max(start, begin))
            parts.append(part)
        return parts

    def column(self, place: int) -> Any:
        """One column as an Arrow table."""
        found = self.file.read(columns=[self.schema.names[place]])
        return found if self.picked is None else found.take(self.picked)

    def _read(self, place: int) -> Any:
        if self._group[0] != place:
            self._group = place, self.file.read_row_group(place, self.columns)
        return self._group[1]


def runs(rows: Numpy) -> list[tuple[int, int]]:
    """Ascending numbers as spans of neighbours, start … stop−1.

    >>> runs(np.array([2, 3, 4, 7]))
    [(2, 5), (7, 8)]
    """
    parts = np.split(rows, np.flatnonzero(np.diff(rows) != 1) + 1)
    return [(int(part[0]), int(part[-1]) + 1) for part in parts if len(part)]


class Parquet(Arrow):
    """Tables in a file, as Arrow's once they are read."""

    def column(self, table: Any, place: int) -> Numpy:
        return super().column(table.column(place), 0)

    def values(self, table: Any, place: int) -> list[Any]:
        return super().values(table.column(place), 0)

    def rows(self, table: Any, start: int, stop: int) -> Any:
        return table.rows(start, stop)

    def take(self, table: Any, places: Numpy) -> Any:
        return self.joined([table.rows(int(place), int(place) + 1) for place in places])

    def select(self, table: Any, labels: Sequence[Any]) -> Any:
        return ParquetTable(table.file, labels, table.picked)


ARROW = Arrow()
KINDS: Mapping[tuple[str, str], TableLibrary] = {
    ("pandas", "DataFrame"): Pandas(), ("polars", "DataFrame"): Polars(),
    ("pyarrow", "Table"): ARROW, ("pyarrow", "RecordBatch"): ARROW, ("explainers", "ParquetTable"): Parquet(),
}  # fmt: skip


@lru_cache(maxsize=256)
def parents(value: Any) -> tuple[tuple[str, str], ...]:
    """Package and name of a class and of all its base classes."""
    return tuple((parent.__module__.partition(".")[0], parent.__name__) for parent in value.__mro__)


@lru_cache(maxsize=256)
def _kind(value: Any) -> TableLibrary | None:
    """The table library of a class; None for a class of anything else."""
    return next((KINDS[key] for key in parents(value) if key in KINDS), None)


def is_table(value: Any) -> bool:
    kind: Any = type(value)
    return _kind(kind) is not None


def of(table: Any) -> TableLibrary:
    kind: Any = type(table)
    found = _kind(kind)
    assert found is not None
    return found


def is_row(value: Any) -> bool:
    """Whether it is one row with names: a pandas Series."""
    kind: Any = type(value)
    return ("pandas", "Series") in parents(kind)

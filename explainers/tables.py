"""Tables with named columns (pandas, polars, Arrow): to arrays in a given order of columns, and back.

No table package is imported unless the caller has imported it already.
"""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache, update_wrapper
from typing import Any, Protocol

import numpy as np

from .backend import Backend
from .errors import ColumnsWarning, InputError
from .spec import Numpy, References, Signature, TensorSpec
from .stored import Stored

SHOWN = 8  # names in a message


class TableLibrary(Protocol):
    """The operations on the tables of one package."""

    def labels(self, table: Any) -> Sequence[Any]:
        """The labels of its columns, in order."""

    def column(self, table: Any, place: int) -> Numpy:
        """One column as numpy. Missing numbers become NaN; a column without numbers has a non-numeric dtype."""

    def kinds(self, table: Any) -> Sequence[Any]:
        """The dtypes of its columns."""

    def rows(self, table: Any, start: int, stop: int) -> Any: ...

    def take(self, table: Any, places: Numpy) -> Any: ...

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

    def kinds(self, table: Any) -> Sequence[Any]:
        return list(table.dtypes)

    def rows(self, table: Any, start: int, stop: int) -> Any:
        return table.iloc[start:stop]

    def take(self, table: Any, places: Numpy) -> Any:
        return table.iloc[places]

    def make(self, columns: Sequence[Any], like: Any) -> Any:
        pandas = sys.modules["pandas"]
        count = len(columns[0]) if columns else 0
        index = like.index if len(like) == count else None
        frame = pandas.DataFrame({i: np.asarray(c) if isinstance(c, np.ndarray) else c.array
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

    def kinds(self, table: Any) -> Sequence[Any]:
        return list(table.dtypes)

    def rows(self, table: Any, start: int, stop: int) -> Any:
        return table[start:stop]

    def take(self, table: Any, places: Numpy) -> Any:
        return table[places.tolist()]

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

    def kinds(self, table: Any) -> Sequence[Any]:
        return list(table.schema.types)

    def rows(self, table: Any, start: int, stop: int) -> Any:
        return table.slice(start, stop - start)

    def take(self, table: Any, places: Numpy) -> Any:
        return table.take(places)

    def make(self, columns: Sequence[Any], like: Any) -> Any:
        pyarrow = sys.modules["pyarrow"]
        arrays = [pyarrow.array(column) for column in columns]
        return type(like).from_arrays(arrays, names=like.schema.names)

    def cast(self, column: Numpy, dtype: Any) -> tuple[Any, Numpy]:
        found = sys.modules["pyarrow"].array(column).cast(dtype)
        return found, np.asarray(found.to_numpy(zero_copy_only=False), np.float64)


ARROW = Arrow()
KINDS: Mapping[tuple[str, str], TableLibrary] = {
    ("pandas", "DataFrame"): Pandas(), ("polars", "DataFrame"): Polars(),
    ("pyarrow", "Table"): ARROW, ("pyarrow", "RecordBatch"): ARROW,
}  # fmt: skip


@lru_cache(maxsize=256)
def _parents(value: Any) -> tuple[tuple[str, str], ...]:
    """Package and name of a class and of all its base classes."""
    return tuple((parent.__module__.partition(".")[0], parent.__name__) for parent in value.__mro__)


@lru_cache(maxsize=256)
def _kind(value: Any) -> TableLibrary | None:
    """The table library of a class; None for a class of anything else."""
    return next((KINDS[key] for key in _parents(value) if key in KINDS), None)


def is_table(value: Any) -> bool:
    kind: Any = type(value)
    return _kind(kind) is not None


def _of(table: Any) -> TableLibrary:
    kind: Any = type(table)
    found = _kind(kind)
    assert found is not None
    return found


def rows(table: Any, start: int, stop: int) -> Any:
    """The rows start … stop−1 of a table."""
    return _of(table).rows(table, start, stop)


def take(table: Any, places: Numpy) -> Any:
    """The rows at ``places`` of a table."""
    return _of(table).take(table, places)


def names(table: Any, what: str = "the table") -> tuple[str, ...]:
    """The names of a table's columns; none if they are only numbered 0, 1, 2 …."""
    return _names(_of(table).labels(table), what)


def _names(labels: Sequence[Any], what: str) -> tuple[str, ...]:
    found = tuple(map(str, labels))
    if found == tuple(map(str, range(len(found)))):
        return ()
    twice = sorted({name for name in found if found.count(name) > 1}) if len(set(found)) < len(found) else []
    if twice:
        raise InputError(f"{what} has several columns with the name {twice[0]!r}; names must differ")
    return found


def dtype(table: Any) -> str:
    """The floating-point dtype that holds all columns: float64 unless all of them are narrower."""
    kinds = {str(_column(table, place, "the table").dtype) for place in range(len(_of(table).labels(table)))}
    return str(np.result_type(*kinds)) if kinds and all(kind.startswith("float") for kind in kinds) else "float64"


def numbers(table: Any, what: str, order: Sequence[int] | None = None, floating: bool = True) -> Numpy:
    """The columns of a table as an array (N, columns), or only those at the positions ``order``.

    ``floating``: whole numbers become floating-point; without it a table of whole numbers stays one.

    Raises
    ------
    InputError: a column does not hold numbers.
    """
    places = range(len(_of(table).labels(table))) if order is None else order
    columns = [_column(table, place, what) for place in places]
    if not columns:
        raise InputError(f"{what} has no columns")
    kind: Any = np.result_type(*(column.dtype for column in columns))
    if floating and not all(column.dtype.kind == "f" for column in columns):
        kind = np.float64
    return np.stack([column.astype(kind, copy=False) for column in columns], axis=1)


def _column(table: Any, place: int, what: str) -> Numpy:
    found = _of(table).column(table, place)
    if found.dtype.kind in "fiub":
        return found
    label, kind = _of(table).labels(table)[place], _of(table).kinds(table)[place]
    raise InputError(
        f"column {label!r} of {what} has dtype {kind}, which holds no numbers. Encode it before the model (one-hot, "
        "or a number for each category), or leave it out."
    )


# --- names -----------------------------------------------------------------------------------


def order(given: Sequence[str], wanted: Sequence[str], what: str) -> list[int]:
    """The positions of the names ``wanted`` in ``given``, which must hold the same names.

    Raises
    ------
    InputError: names are missing or unknown.
    """
    if tuple(given) == tuple(wanted):
        return list(range(len(wanted)))
    places = {name: place for place, name in enumerate(given)}
    missing = [name for name in wanted if name not in places]
    unknown = [name for name in given if name not in set(wanted)]
    if missing or unknown:
        problem = " and ".join(
            f"{text} {listed(some)}" for text, some in (("lacks the columns", missing), ("has the unknown", unknown))
            if some
        )  # fmt: skip
        raise InputError(f"{what} {problem}. The explainer takes the columns {listed(wanted)}, in any order.")
    return [places[name] for name in wanted]


def listed(some: Sequence[str]) -> str:
    rest = f" and {len(some) - SHOWN} more" if len(some) > SHOWN else ""
    return ", ".join(map(repr, some[:SHOWN])) + rest


def array(table: Any, spec: TensorSpec, what: str) -> Numpy:
    """The numbers of a table in the order of the columns of ``spec``; by position if either has no names.

    Warns
    -----
    ColumnsWarning: the table names its columns, and ``spec`` does not know them.
    """
    column_names = names(table, what)
    if column_names and not spec.columns:
        warnings.warn(
            f"{what} is a table with the columns {listed(column_names)}, but the explainer knows no column names: they "
            "are taken by position. Compile it with a table for inputs=, or with TensorSpec(…, columns=…).",
            ColumnsWarning, stacklevel=_outside(),
        )  # fmt: skip
    places = order(column_names, spec.columns, what) if column_names and spec.columns else None
    return numbers(table, what, places, spec.floating)


def _outside() -> int:
    """The stack level of the first caller outside this package."""
    frame, level = sys._getframe(1), 1
    while frame.f_back is not None and frame.f_globals.get("__name__", "").partition(".")[0] == __package__:
        frame, level = frame.f_back, level + 1
    return level


def row(series: Any, spec: TensorSpec, what: str) -> Any:
    """A pandas Series with names, such as a row of a frame, as one sample in the order of the columns."""
    labels = _names(list(series.index), what)
    if not labels or not spec.columns:
        return series
    return np.asarray(series)[order(labels, spec.columns, what)]


def is_row(value: Any) -> bool:
    kind: Any = type(value)
    return ("pandas", "Series") in _parents(kind)


def aligned(given: Any, specs: Sequence[TensorSpec], what: str = "the baseline") -> Any:
    """Any form of baseline, with tables and rows of tables turned into arrays in the order of the specs' columns."""
    if isinstance(given, References):
        return replace(given, array=aligned(given.array, specs, what))
    if isinstance(given, Stored):  # an object that makes references from the inputs
        return given
    by_name = {spec.name: spec for spec in specs}
    if isinstance(given, dict):
        return {name: _aligned(part, by_name[name], what) if name in by_name else part for name, part in given.items()}
    if isinstance(given, tuple) and len(given) == len(specs):
        return tuple(_aligned(part, spec, what) for part, spec in zip(given, specs, strict=True))
    if callable(given) and not hasattr(given, "shape") and not is_table(given):
        return lambda batch: aligned(given(batch), specs, what)
    return _aligned(given, specs[0], what) if len(specs) == 1 else given


def _aligned(part: Any, spec: TensorSpec, what: str) -> Any:
    what = f"{what} of {spec.name!r}"
    refuse(part, what)
    if is_table(part):
        return array(part, spec, what)
    return row(part, spec, what) if is_row(part) else part


def like(result: Numpy, given: Any, spec: TensorSpec) -> Any:
    """Attributions (…, N, columns), reordered from the columns of ``spec`` to those of the table ``given``.

    Returned as a table with the same index, unless output axes lead.
    """
    found = names(given)
    if found and spec.columns:
        result = result[..., order(spec.columns, found, "the result")]
    if result.ndim != 2:
        return result
    result = result.astype(dtype(given), copy=False) if result.dtype.kind == "f" else result
    return _of(given).make(list(result.T), given)


# --- what is no plain array ---------------------------------------------------------------------


def refuse(value: Any, what: str) -> None:
    """Raise InputError for masked and sparse arrays, which numpy would silently misread."""
    kind: Any = type(value)
    if kind is np.ndarray:
        return
    if isinstance(value, np.ma.MaskedArray) and np.ma.is_masked(value):
        count = int(np.ma.getmaskarray(value).sum())
        raise InputError(
            f"{what} is a masked array, with {count} of {value.size} entries masked, and the numbers behind the mask "
            "would be used. Fill them first, with x.filled(0.0) or what else stands for missing ones."
        )
    if any(package == "scipy" for package, _ in _parents(kind)) and hasattr(value, "toarray"):
        raise InputError(f"{what} is a sparse matrix ({kind.__name__}); dense arrays are needed: give x.toarray()")


# --- models of tables ------------------------------------------------------------------------


def example(value: Any, floating: bool) -> Any:
    """An example as backends understand it: tables become arrays."""
    refuse(value, "the example")
    return numbers(value, "the example", floating=floating) if is_table(value) else value


def signature(backend: Backend, model: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Signature | None:
    """The backend's signature of a model, with column names taken from examples that are tables."""
    floating = backend.forward_only
    plain = [example(value, floating) for value in args]
    found = backend.signature(model, plain, {name: example(value, floating) for name, value in kwargs.items()})
    if found is None or not any(map(_columns, [*args, *kwargs.values()])):
        return found
    bound = found.bind(args, dict(kwargs))
    specs = (replace(spec, columns=_columns(value)) for spec, value in zip(found.inputs, bound, strict=True))
    return replace(found, inputs=tuple(specs))


def _columns(value: Any) -> tuple[str, ...]:
    if isinstance(value, TensorSpec):
        return value.columns
    return names(value, "the example") if is_table(value) else ()


@dataclass(frozen=True)
class Template:
    """An empty table with the columns that the model expects."""

    kind: TableLibrary
    table: Any
    names: tuple[str, ...]

    @classmethod
    def of(cls, value: Any) -> Template | None:
        return cls(_of(value), rows(value, 0, 0), names(value)) if is_table(value) else None

    def fill(self, values: Numpy) -> Any:
        """A table of these numbers (N, columns), each column in its original dtype if that can hold them."""
        dtypes = self.kind.kinds(self.table)
        columns = [self._cast(column, kind) for column, kind in zip(values.T, dtypes, strict=True)]
        return self.kind.make(columns, self.table)

    def _cast(self, column: Numpy, kind: Any) -> Any:
        if kind == column.dtype:
            return column
        try:
            with np.errstate(invalid="ignore"):
                found, inside = self.kind.cast(column, kind)
        except (TypeError, ValueError, ArithmeticError):
            return column
        except Exception as error:  # polars and Arrow have errors of their own
            if type(error).__module__.partition(".")[0] not in ("polars", "pyarrow"):
                raise
            return column
        floating = "float" in str(kind).lower() or str(kind) == "double"
        return found if floating or np.array_equal(inside, column, equal_nan=True) else column


def of_tables(model: Callable[..., Any], sig: Signature, examples: Sequence[Any]) -> Callable[..., Any]:
    """A callable that takes arrays, wrapping a model whose examples are tables; otherwise the model itself."""
    templates = {
        name: template for name, value in zip(sig.names, examples, strict=True)
        if (template := Template.of(value)) is not None
    }  # fmt: skip
    if not templates:
        return model

    def filled(name: str, value: Numpy) -> Any:
        return templates[name].fill(value) if name in templates else value

    def call(*arrays: Numpy, **named: Numpy) -> Any:
        given = [filled(name, value) for name, value in zip(sig.forms, arrays, strict=False)]
        return model(*given, **{name: filled(name, value) for name, value in named.items()})

    call.__qualname__ = type(model).__qualname__  # an object without a name of its own
    return update_wrapper(call, model)

"""Tables with named columns (pandas, polars, Arrow): to arrays in a given order of columns, and back."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import update_wrapper
from typing import Any

import numpy as np

from .backend import Backend
from .code_books import CodeBook, Words, hold
from .errors import BaselineError, ColumnsWarning, InputError
from .spec import Numpy, References, Signature, TensorSpec
from .stored import Stored
from .table_libraries import TableLibrary, of, parents
from .table_libraries import is_row as is_row
from .table_libraries import is_table as is_table

SHOWN = 8  # names in a message
NUMBERS = "fiub"  # kinds of numpy dtypes that are numbers


def rows(table: Any, start: int, stop: int) -> Any:
    """The rows start … stop−1 of a table."""
    return of(table).rows(table, start, stop)


def take(table: Any, places: Numpy) -> Any:
    """The rows at ``places`` of a table."""
    return of(table).take(table, places)


def joined(some: Sequence[Any]) -> Any:
    """The rows of several tables of the same columns, one after the other."""
    return of(some[0]).joined(some)


def without(table: Any, label: str) -> Any:
    """The table without a column."""
    return selected(table, [name for name in of(table).labels(table) if str(name) != label])


def selected(table: Any, labels: Sequence[Any]) -> Any:
    """The table of some of its columns."""
    return of(table).select(table, labels)


def column(table: Any, label: str, what: str) -> Numpy:
    """One column as numpy, by its name."""
    labels = [str(name) for name in of(table).labels(table)]
    if label not in labels:
        raise InputError(f"{what} has no column {label!r}; it has {listed(labels)}")
    return of(table).column(table, labels.index(label))


def names(table: Any, what: str = "the table") -> tuple[str, ...]:
    """The names of a table's columns; none if they are only numbered 0, 1, 2 …."""
    return _names(of(table).labels(table), what)


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
    columns = [of(table).column(table, place) for place in range(len(of(table).labels(table)))]
    kinds = {str(column.dtype) if column.dtype.kind in NUMBERS else "float64" for column in columns}
    return str(np.result_type(*kinds)) if kinds and all(kind.startswith("float") for kind in kinds) else "float64"


def numbers(
    table: Any, what: str, order: Sequence[int] | None = None, floating: bool = True, words: Words | None = None
) -> Numpy:
    """The columns of a table as an array (N, columns), or only those at the positions ``order``.

    ``floating``: whole numbers become floating-point; without it a table of whole numbers stays one. ``words``: the
    columns, by position in the result, whose values become codes.

    Raises
    ------
    InputError: another column does not hold numbers.
    """
    places = range(len(of(table).labels(table))) if order is None else order
    columns, uses = [], []
    for place, position in enumerate(places):
        book = words.books.get(place) if words else None
        if book is None:
            columns.append(_column(table, position, what))
        else:
            codes, used = book.encode(of(table).values(table, position))
            columns.append(codes)
            uses.append((book, used))
    if not columns:
        raise InputError(f"{what} has no columns")
    kind: Any = np.result_type(*(column.dtype for column in columns))
    if floating and not all(column.dtype.kind == "f" for column in columns):
        kind = np.float64
    return hold(np.stack([column.astype(kind, copy=False) for column in columns], axis=1), uses)


def values(table: Any, what: str) -> Numpy:
    """The values of a table, (N, columns): numbers, or objects if a column holds none."""
    places = range(len(of(table).labels(table)))
    if all(of(table).column(table, place).dtype.kind in NUMBERS for place in places):
        return numbers(table, what)
    found = np.empty((len(table), len(places)), object)
    for place in places:
        found[:, place] = np.fromiter(of(table).values(table, place), object, len(table))
    return found


def _column(table: Any, place: int, what: str) -> Numpy:
    found = of(table).column(table, place)
    if found.dtype.kind in NUMBERS:
        return found
    label, kind = of(table).labels(table)[place], of(table).kinds(table)[place]
    raise InputError(
        f"column {label!r} of {what} has dtype {kind}, which holds no numbers. Encode it before the model (one-hot, "
        "or a number for each category), or leave it out."
    )


def words_of(table: Any) -> Words | None:
    """New code books for the columns of a table that do not hold numbers; None if there are none."""
    found = [of(table).column(table, place) for place in range(len(of(table).labels(table)))]
    return Words.at([place for place, column in enumerate(found) if column.dtype.kind not in NUMBERS])


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
    return numbers(table, what, places, spec.floating, spec.words)


def _outside() -> int:
    """The stack level of the first caller outside this package."""
    frame, level = sys._getframe(1), 1
    while frame.f_back is not None and frame.f_globals.get("__name__", "").partition(".")[0] == __package__:
        frame, level = frame.f_back, level + 1
    return level


def row(given: Any, spec: TensorSpec, what: str) -> Any:
    """One sample with names, a pandas Series such as a row of a frame or a mapping, in the order of the columns."""
    entries = list(given.values()) if isinstance(given, Mapping) else np.asarray(given)
    labels = _names(list(given) if isinstance(given, Mapping) else list(given.index), what)
    if labels and spec.columns:
        places = order(labels, spec.columns, what)
    elif len(entries) == spec.sample_shape[0]:
        places = list(range(len(entries)))
    else:
        raise InputError(f"{what} has {len(entries)} entries; the table has {spec.sample_shape[0]} columns")
    return _sample([entries[place] for place in places], spec, what) if spec.words else np.asarray(entries)[places]


def _sample(entries: Sequence[Any], spec: TensorSpec, what: str) -> Numpy:
    """One sample of a table with words, (columns,), from its entries in the model's order."""
    sample, uses = np.empty(len(entries)), []
    for place, entry in enumerate(entries):
        book = spec.words.books.get(place)
        if book is None:
            sample[place] = _number(entry, f"column {_label(spec, place)} of {what}")
        else:
            codes, used = book.encode([entry])
            sample[place] = codes[0]
            uses.append((book, used))
    return hold(sample, uses)


def _number(value: Any, what: str) -> float:
    missing = value is None or type(value).__name__ == "NAType"
    try:
        if isinstance(value, (str, bytes)):
            raise TypeError("words are not read as numbers")
        return np.nan if missing else float(value)
    except (TypeError, ValueError) as error:
        raise InputError(f"{what} is {value!r}, and the column holds numbers: give one") from error


def _label(spec: TensorSpec, place: int) -> str:
    return repr(spec.columns[place]) if spec.columns else str(place)


def _no_row(given: Any, spec: TensorSpec, what: str) -> BaselineError:
    """The error for a baseline that has no values for columns without numbers."""
    labels = [_label(spec, place) for place in spec.words.books]
    more = f" (and {len(labels) - 1} more)" if len(labels) > 1 else ""
    shown = repr(given) if np.ndim(given) == 0 else f"of type {type(given).__name__}"
    return BaselineError(
        f"column {labels[0]}{more} of input {spec.name!r} holds no numbers, and {what}, {shown}, does not say which "
        "value stands for its absence. Give baseline= one row: a Series, a dict by column, or a table of one row; or "
        "give rows of a background as References, where the method takes a set."
    )


def aligned(given: Any, specs: Sequence[TensorSpec], what: str = "the baseline") -> Any:
    """Any form of baseline, with tables and rows of tables turned into arrays in the order of the specs' columns."""
    if isinstance(given, References):
        array_of = aligned(given.array, specs, what)
        if given.per_sample and is_table(given.array):  # one row for each sample
            array_of = array_of[:, None]
        return replace(given, array=array_of)
    if isinstance(given, Stored):  # an object that makes references from the inputs
        return given
    by_name = {spec.name: spec for spec in specs}
    if isinstance(given, Mapping) and not (len(specs) == 1 and specs[0].columns and set(given) != set(by_name)):
        return {name: _aligned(part, by_name[name], what) if name in by_name else part for name, part in given.items()}
    if isinstance(given, tuple) and len(given) == len(specs):
        return tuple(_aligned(part, spec, what) for part, spec in zip(given, specs, strict=True))
    if callable(given) and not hasattr(given, "shape") and not is_table(given):
        return lambda batch: aligned(given(batch), specs, what)
    if len(specs) == 1:
        return _aligned(given, specs[0], what)
    for spec in (spec for spec in specs if spec.words):  # one number for all
        raise _no_row(given, spec, what)
    return given


def _aligned(part: Any, spec: TensorSpec, what: str) -> Any:
    what = f"{what} of {spec.name!r}"
    refuse(part, what)
    if is_table(part):
        return array(part, spec, what)
    if is_row(part) and (spec.words or (spec.columns and _names(list(part.index), what))):
        return row(part, spec, what)
    if isinstance(part, Mapping) and (spec.words or spec.columns):
        return row(part, spec, what)
    if spec.words:
        raise _no_row(part, spec, what)
    return part


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
    return of(given).make(list(result.T), given)


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
    if any(package == "dask" for package, _ in parents(kind)):
        raise InputError(
            f"{what} is a lazy array of dask, and a call would load all of it: give it to explain.stream or "
            "explain.to_zarr, which read it block by block"
        )
    if any(package == "scipy" for package, _ in parents(kind)) and hasattr(value, "toarray"):
        raise InputError(f"{what} is a sparse matrix ({kind.__name__}); dense arrays are needed: give x.toarray()")


# --- models of tables ------------------------------------------------------------------------


def example(value: Any, floating: bool, words: Words | None = None) -> Any:
    """An example as backends understand it: tables become arrays. ``words``: its columns that become codes."""
    refuse(value, "the example")
    return numbers(value, "the example", None, floating, words) if is_table(value) else value


def signature(backend: Backend, model: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Signature | None:
    """The backend's signature of a model, with column names taken from examples that are tables.

    A backend that only calls the model takes columns without numbers, too.
    """
    floating = backend.forward_only
    given: dict[Any, Any] = {**dict(enumerate(args)), **kwargs}
    words = {name: words_of(value) if floating and is_table(value) else None for name, value in given.items()}
    plain = {name: example(value, floating, words[name]) for name, value in given.items()}
    found = backend.signature(model, [plain[i] for i in range(len(args))], {name: plain[name] for name in kwargs})
    if found is None or not (any(words.values()) or any(map(_columns, given.values()))):
        return found
    bound = found.bind(args, dict(kwargs))
    specs = []
    for spec, value in zip(found.inputs, bound, strict=True):
        of_table = next((words[name] for name, other in given.items() if other is value and is_table(value)), None)
        specs.append(replace(spec, columns=_columns(value), words=of_table))
    return replace(found, inputs=tuple(specs))


def _columns(value: Any) -> tuple[str, ...]:
    if isinstance(value, TensorSpec):
        return value.columns
    return names(value, "the example") if is_table(value) else ()


@dataclass(frozen=True)
class Template:
    """An empty table with the columns that the model expects. ``books``: those of columns without numbers, by place."""

    kind: TableLibrary
    table: Any
    names: tuple[str, ...]
    books: Mapping[int, CodeBook]

    @classmethod
    def of(cls, value: Any, words: Words | None) -> Template | None:
        return (
            cls(of(value), rows(value, 0, 0), names(value), words.books if words else {}) if is_table(value) else None
        )

    def fill(self, values: Numpy) -> Any:
        """A table of these numbers and codes (N, columns), each column in its original dtype if that can hold them."""
        dtypes = self.kind.kinds(self.table)
        columns = [
            self.kind.restored(self.books[place].decode(column), dtype)
            if place in self.books else self._cast(column, dtype)
            for place, (column, dtype) in enumerate(zip(values.T, dtypes, strict=True))
        ]  # fmt: skip
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
        spec.name: template for spec, value in zip(sig.inputs, examples, strict=True)
        if (template := Template.of(value, spec.words)) is not None
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

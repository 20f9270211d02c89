"""Which samples of a file: those that meet conditions such as ``split=test`` and ``age>=50``."""

from __future__ import annotations

import json
import operator
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from .. import tables
from ..errors import InputError
from ..spec import Numpy, TensorSpec, is_mask
from ..table_libraries import ParquetTable, runs
from .usage import UsageError

SIGNS: Mapping[str, Callable[[Any, Any], Any]] = {
    "!=": operator.ne, "<=": operator.le, ">=": operator.ge, "=": operator.eq, "<": operator.lt, ">": operator.gt,
}  # fmt: skip


class Condition(NamedTuple):
    """``name`` is that of a column or an array with one value for each sample."""

    name: str
    sign: str
    value: str

    @classmethod
    def parse(cls, text: str) -> Condition:
        """
        >>> Condition.parse("age>=50")
        Condition(name='age', sign='>=', value='50')
        """
        found = re.fullmatch(r"(.+?)\s*(!=|<=|>=|=|<|>)\s*(.*)", text, re.DOTALL)
        if found is None:
            raise UsageError(
                f"--where {text!r} is not a condition: give NAME=VALUE, or {', '.join(SIGNS)} in place of ="
            )
        return cls(*found.groups())

    def holds(self, column: Numpy) -> Numpy:
        """Where it holds, (N,) of booleans. Missing values meet no condition."""
        if column.ndim != 1:
            raise InputError(
                f"--where {self}: {self.name!r} has the shape {column.shape}; it must have one value per sample"
            )
        compare, missing = SIGNS[self.sign], _missing(column)
        if column.dtype.kind in "biuf":
            found = compare(column, self._number())
        elif column.dtype.kind in "OUT" and all(isinstance(value, str) for value in column[~missing]):
            found = np.zeros(len(column), bool)
            found[~missing] = [compare(value, self.value) for value in column[~missing]]
        else:
            raise InputError(f"--where {self}: {self.name!r} holds {column.dtype}, not numbers or text")
        return np.asarray(found & ~missing)

    def _number(self) -> Any:
        try:
            value = json.loads(self.value)
        except ValueError:
            value = None
        if not isinstance(value, (bool, int, float)):
            raise InputError(f"--where {self}: {self.name!r} holds numbers, and {self.value!r} is not a number")
        return value

    def __str__(self) -> str:
        return f"{self.name}{self.sign}{self.value}"


def _missing(column: Numpy) -> Numpy:
    if column.dtype.kind == "f":
        return np.isnan(column)
    if column.dtype.kind != "O":
        return np.zeros(len(column), bool)
    return np.array([value is None or value != value for value in column], bool)


class Chosen(NamedTuple):
    """The samples that fulfil all conditions: ``rows`` of ``total``."""

    conditions: list[Condition]
    arrays: dict[str, Any]
    rows: Numpy
    total: int

    def target(self, value: Any, output: tuple[int, ...]) -> Any:
        """Of targets with one for each sample, those of these samples; others, such as a mask, as they are."""
        array = np.asarray(value)
        if isinstance(value, (str, tuple)) or not array.ndim or len(array) != self.total:
            return value
        return value if array.shape == output and is_mask(array, output) else array[self.rows]

    def baseline(self, value: Any, specs: Sequence[TensorSpec]) -> Any:
        """Of baselines with one for each sample, those of these samples; others as they are."""
        if isinstance(value, Mapping):
            return {spec.name: self.baseline(value[spec.name], [spec]) for spec in specs if spec.name in value}
        if tables.is_table(value):
            return tables.take(value, self.rows) if value.shape[0] == self.total else value
        (spec, *_) = specs
        return value[self.rows] if np.shape(value) == (self.total, *spec.sample_shape) else value


def choose(arrays: Mapping[str, Any], texts: Sequence[str]) -> Chosen:
    """The samples of a file's arrays and tables that meet all conditions. Only the columns in question are read.

    Raises
    ------
    InputError: no such column, of another kind, or no sample meets them.
    """
    parsed = [Condition.parse(text) for text in texts]
    columns = [_column(arrays, condition) for condition in parsed]
    totals = {len(column) for column in columns}
    totals |= {array.shape[0] for array in arrays.values()}
    if len(totals) > 1:
        raise InputError(f"--where: the parts of the inputs have different numbers of samples: {sorted(totals)}")
    holds = [condition.holds(column) for condition, column in zip(parsed, columns, strict=True)]
    rows = np.flatnonzero(np.logical_and.reduce(holds))
    if not len(rows):
        raise InputError(f"none of the {totals.pop():,} samples has {' and '.join(map(str, parsed))}")
    return Chosen(parsed, {name: _rows(array, rows) for name, array in arrays.items()}, rows, totals.pop())


def _column(arrays: Mapping[str, Any], condition: Condition) -> Numpy:
    if condition.name in arrays and not tables.is_table(arrays[condition.name]):
        return np.asarray(arrays[condition.name][:])
    known = list(map(str, (name for name, array in arrays.items() if name and not tables.is_table(array))))
    for table in filter(tables.is_table, arrays.values()):
        if condition.name in tables.names(table):
            return tables.column(table, condition.name, "the table")
        known += tables.names(table)
    raise InputError(
        f"--where {condition}: the inputs have no column or array {condition.name!r}; they have {tables.listed(known)}"
    )


def without(arrays: Mapping[str, Any], names: set[str]) -> dict[str, Any]:
    """The arrays and tables without the columns and arrays that only conditions name."""
    found = {}
    for name, array in arrays.items():
        if tables.is_table(array):
            for label in names.intersection(tables.names(array)):
                array = tables.without(array, label)
        elif name in names:
            continue
        found[name] = array
    return found


def _rows(array: Any, rows: Numpy) -> Any:
    if isinstance(array, ParquetTable):
        return array.at(rows)
    return tables.take(array, rows) if tables.is_table(array) else ChosenRows(array, rows)


class ChosenRows:
    """Some rows of an array, in ascending order; those of a slice that are neighbours are read together."""

    def __init__(self, array: Any, rows: Numpy) -> None:
        self.array, self.rows = array, rows
        self.shape, self.dtype = (len(rows), *array.shape[1:]), array.dtype

    def __getitem__(self, index: Any) -> Numpy:
        parts = [np.asarray(self.array[start:stop]) for start, stop in runs(self.rows[index])]
        return np.concatenate(parts) if parts else np.asarray(self.array[:0])

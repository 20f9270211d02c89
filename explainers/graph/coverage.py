"""Tables of a graph's operations and their rules, and of the nodes where completeness is lost."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Generic, TypeVar

import numpy as np
import numpy.typing as npt

from ..errors import BackendMissing
from ..stored import Stored

if TYPE_CHECKING:
    from _typeshed import DataclassInstance


@dataclass(frozen=True)
class Operation(Stored):
    """One kind of operation of a graph.

    ``exactness``: ``exact`` (the rule set has a rule), ``conserving`` (by LRP: nor does a constant or a
    softmax absorb relevance), ``approximate`` (passed by its derivative because the caller allowed
    that), ``unsupported``, or "" where the walk does not visit it.
    """

    op: str
    role: str
    rule: str
    exactness: str
    count: int


@dataclass(frozen=True)
class Gap:
    """The completeness gap of one node: |Σ m·Δ over its inputs − Σ m·Δ over its outputs|, largest and mean."""

    node: str
    op: str
    scope: str
    largest: float
    mean: float
    gaps: npt.NDArray[np.float64]


Row = TypeVar("Row", bound="DataclassInstance")


class Table(tuple[Row, ...], Generic[Row]):
    """Rows that print as a table, also with ``rich.print``, and turn into a DataFrame."""

    columns: tuple[str, ...] = ()
    shown: tuple[str, ...] = ()  # heads of the cells, where these are not the columns

    def cells(self) -> list[tuple[str, ...]]:
        return [tuple(_text(getattr(row, column)) for column in self.columns) for row in self]

    def __str__(self) -> str:
        lines = [self.shown or self.columns, *self.cells()]
        widths = [max(len(line[i]) for line in lines) for i in range(len(lines[0]))]
        return "\n".join("  ".join(c.ljust(w) for c, w in zip(line, widths, strict=True)).rstrip() for line in lines)

    __repr__ = __str__

    def __rich__(self) -> Any:
        from rich.table import Table as RichTable
        from rich.text import Text as RichText

        table = RichTable(*(self.shown or self.columns))
        for row, line in zip(self, self.cells(), strict=True):
            table.add_row(*map(RichText, line), style=self.style(row))
        return table

    def style(self, row: Row) -> str | None:
        """The colour of a row."""
        return None

    def to_dataframe(self) -> Any:
        """The rows as a pandas DataFrame, one column for each field."""
        try:
            import pandas  # type: ignore[import-untyped]
        except ImportError as error:
            raise BackendMissing("a DataFrame needs pandas, which is not installed: pip install pandas") from error
        return pandas.DataFrame([asdict(row) for row in self], columns=list(self.columns))


class Coverage(Table[Operation]):
    """A table of a traced graph's operations: how many, their role, the rule that handles them, and how exact it is."""

    columns = ("op", "role", "rule", "exactness", "count")

    def style(self, row: Operation) -> str | None:
        return {"unsupported": "red", "approximate": "yellow"}.get(row.exactness)

    @property
    def unsupported(self) -> tuple[Operation, ...]:
        return tuple(row for row in self if row.exactness == "unsupported")

    @property
    def approximate(self) -> tuple[Operation, ...]:
        return tuple(row for row in self if row.exactness == "approximate")


class Audit(Table[Gap]):
    """The nodes of a walk, the least complete first."""

    columns = ("node", "op", "scope", "largest", "mean")

    @classmethod
    def of(cls, gaps: Sequence[tuple[Any, npt.NDArray[Any]]]) -> Audit:
        """From (node, gap of each sample) pairs."""
        rows = []
        for node, values in gaps:
            wide = np.asarray(values, np.float64)
            absolute = np.abs(wide)
            rows.append(
                Gap(node.name, node.op, node.scope, float(absolute.max(initial=0)), float(absolute.mean()), wide)
            )
        return cls(sorted(rows, key=lambda row: row.largest, reverse=True))


def _text(value: Any) -> str:
    if value is None:
        return "–"
    if isinstance(value, float) and 1000 <= abs(value) < 1e15:
        return f"{value:,.0f}"
    return f"{value:.3g}" if isinstance(value, float) else printable(str(value))


def printable(text: str) -> str:
    """``text`` with what a terminal would obey, or not show, written as in Python: ``\\x1b``, ``\\u202e``."""
    return "".join(char if char.isprintable() else repr(char)[1:-1] for char in text)

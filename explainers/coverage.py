"""Which operations a graph holds and how a rule set passes them; where an explanation loses completeness."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Generic, TypeVar

import numpy as np
import numpy.typing as npt

from .errors import BackendMissing


@dataclass(frozen=True)
class Operation:
    """One kind of operation of a graph.

    ``exactness``: ``exact`` (the rule set has a rule), ``conserving`` (by LRP: nor does a constant or a
    softmax take relevance away), ``approximate`` (passed by its derivative because the caller allowed
    that), ``unsupported``, or "" where the walk does not come by.
    """

    op: str
    role: str
    rule: str
    exactness: str
    count: int


@dataclass(frozen=True)
class Gap:
    """By how much one node is incomplete: |Σ m·Δ over its inputs − Σ m·Δ over its outputs|, largest and mean."""

    node: str
    op: str
    scope: str
    largest: float
    mean: float
    gaps: npt.NDArray[np.float64]


Row = TypeVar("Row", Operation, Gap)


class Table(tuple[Row, ...], Generic[Row]):
    """Rows that print as a table, also with ``rich.print``, and turn into a DataFrame."""

    columns: tuple[str, ...] = ()

    def cells(self) -> list[tuple[str, ...]]:
        return [tuple(_text(getattr(row, column)) for column in self.columns) for row in self]

    def __str__(self) -> str:
        lines = [self.columns, *self.cells()]
        widths = [max(len(line[i]) for line in lines) for i in range(len(self.columns))]
        return "\n".join("  ".join(c.ljust(w) for c, w in zip(line, widths, strict=True)).rstrip() for line in lines)

    __repr__ = __str__

    def __rich__(self) -> Any:
        from rich.table import Table as RichTable

        table = RichTable(*self.columns)
        for line in self.cells():
            style = "red" if "unsupported" in line else "yellow" if "approximate" in line else None
            table.add_row(*line, style=style)
        return table

    def to_dataframe(self) -> Any:
        """The rows as a pandas DataFrame, one column for each field."""
        try:
            import pandas  # type: ignore[import-untyped]
        except ImportError as error:
            raise BackendMissing("a DataFrame needs pandas, which is not installed: pip install pandas") from error
        return pandas.DataFrame([asdict(row) for row in self], columns=list(self.columns))


class Coverage(Table[Operation]):
    """Every kind of operation of a traced graph: count, role, the rule that passes it, and how exactly."""

    columns = ("op", "role", "rule", "exactness", "count")

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
    return f"{value:.3g}" if isinstance(value, float) else str(value)

"""A comparison as terminal tables that fit 80 columns."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from .measuring import CAPTION

if TYPE_CHECKING:
    from .comparison import Comparison


def rich(comparison: Comparison) -> Any:
    """The title and the tables as a ``rich`` renderable."""
    from rich.console import Group
    from rich.text import Text

    parts: list[Any] = [Text(comparison.title, style="bold")]
    rows = enumerate(zip(comparison.candidates, comparison.candidates.numeric(), strict=True), 1)
    lines = [("\n".join(filter(None, (f"{i}. {row.title[0]}", row.title[1]))), *cells) for i, (row, cells) in rows]
    headings = (f"{words}\n({unit})" if unit else words for words, unit in comparison.candidates.headings)
    parts += ["", _table(("candidate", *headings), lines, [None] * len(lines)), Text(CAPTION, style="dim")]
    if comparison.pairs:
        number = {name: i for i, name in enumerate(comparison.attributions, 1)}
        lines = [(f"{number[left]} and {number[right]}", *rest) for left, right, *rest in comparison.pairs.cells()]
        styles = [comparison.pairs.style(pair) for pair in comparison.pairs]
        parts += ["", _table(("pair", *comparison.pairs.shown[2:]), lines, styles)]
    return Group(*parts)


def _table(head: Sequence[str], lines: Sequence[Sequence[str]], styles: Sequence[str | None]) -> Any:
    from rich import box
    from rich.table import Table
    from rich.text import Text

    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), show_edge=False)
    table.add_column(head[0], overflow="fold")
    for name in head[1:]:
        table.add_column(name, justify="right", no_wrap=True)
    for line, style in zip(lines, styles, strict=True):
        table.add_row(*map(Text, line), style=style)
    return table

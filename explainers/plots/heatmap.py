"""A heatmap of tokens: a row for each output token, a column for each token that it is attributed to."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from ..errors import InputError, NonFiniteError
from ..spec import Numpy
from . import canvas
from .canvas import MARGIN, Sheet
from .view import largest, number

if TYPE_CHECKING:
    from .picture import Picture

CELL = 0.24  # inches
LETTER = 0.075  # width of a letter of the labels
LONGEST = 16  # letters of a label
WIDEST = 40.0  # inches of the table
HEAD = 0.36
NUMBERS = 0.6  # width of the column of scores


def figure(
    table: Numpy, columns: Sequence[str], rows: Sequence[str], scores: Numpy, *, title: str, split: int,
    allow_nonfinite: bool = False,
) -> Picture:  # fmt: skip
    """Draw the attributions ``table`` (T, C) of rows to columns on a scale from blue over white to red.

    ``scores`` (T,): log-probabilities, written behind the rows. ``split``: the columns from it on are earlier output
    tokens; row t has entries in the first ``split`` + t columns, and the others are left grey.

    Raises
    ------
    NonFiniteError: an attribution is not finite, unless ``allow_nonfinite``, which hatches it.
    """
    if table.shape != (len(rows), len(columns)):
        raise InputError(f"a table of shape {table.shape} has no {len(rows)} rows and {len(columns)} columns")
    if not (allow_nonfinite or np.isfinite(table).all()):
        row, column = map(int, np.argwhere(~np.isfinite(table))[0])
        raise NonFiniteError(
            f"the attribution of output token {row} to column {column} is not finite; pass allow_nonfinite=True to "
            "show it hatched"
        )
    names = [_label(name) for name in columns]
    lines = [_label(name) for name in rows]
    cell = min(CELL, WIDEST / max(1, table.shape[1]))
    left, above = (LETTER * max(map(len, texts)) + 0.12 for texts in (lines, names))
    width, height = cell * table.shape[1], CELL * table.shape[0]
    x, y = MARGIN + left, MARGIN + HEAD + above
    scale = largest([table])
    sheet = Sheet()
    sheet.text(MARGIN, MARGIN, canvas.short_label(title), weight="bold", fontsize=11)
    sheet.box(x, y, width, height, partial(_cells, table=table, scale=scale, split=split, labels=(names, lines)))
    for place, score in enumerate(scores):
        sheet.text(x + width + NUMBERS, y + CELL * (place + 0.5), number(float(score)), ha="right", va="center")
    sheet.text(x + width + NUMBERS, y - 0.08, "log p", ha="right", va="bottom")
    sheet.box(x + width + NUMBERS + 0.2, y, 0.14, max(0.8, min(1.7, height)), partial(canvas.colour_bar, scale=scale))
    sheet.reserve(max(x + width + NUMBERS + 1.05, MARGIN + 0.1 * len(title)), y + height)
    return sheet.figure(_alt(table, columns, rows, title))


def _label(token: str) -> str:
    """A token on one line, with marks for spaces and line breaks, which would not be seen."""
    shown = token.replace("\n", "⏎").replace("\t", "⇥").replace(" ", "·")
    return canvas.short_label(shown, LONGEST).replace(r"\$", "$")


def _cells(axes: Any, table: Numpy, scale: float, split: int, labels: tuple[list[str], list[str]]) -> None:
    from matplotlib.patches import Rectangle

    count, width = table.shape
    colours = canvas.colours(table, scale)
    later = np.arange(width)[None] >= split + np.arange(count)[:, None]
    colours[later] = (0.91, 0.91, 0.91, 1.0)
    axes.imshow(colours, aspect="auto", interpolation="nearest")
    for row, column in np.argwhere(~np.isfinite(table)):
        axes.add_patch(Rectangle((column - 0.5, row - 0.5), 1, 1, **canvas.HATCH))
    if 0 < split < width:
        axes.axvline(split - 0.5, color=canvas.INK, linewidth=0.8)
    names, lines = ([text.replace("$", r"\$") for text in texts] for texts in labels)
    every = max(1, round(0.15 * width / WIDEST))  # labels that would overlap are left out
    canvas.style_axes(axes, ticks=True)
    axes.xaxis.tick_top()
    axes.set_xticks(range(0, width, every), names[::every], rotation=90, family="monospace", fontsize=8)
    axes.set_yticks(range(count), lines, family="monospace", fontsize=8)


def _alt(table: Numpy, columns: Sequence[str], rows: Sequence[str], title: str) -> str:
    """A description in words: the largest attribution of each of the first output tokens."""
    parts = []
    for row, scores in list(zip(rows, table, strict=True))[:8]:
        finite = np.where(np.isfinite(scores), scores, 0.0)
        place = int(np.abs(finite).argmax())
        parts.append(f"{row!r}: largest at {columns[place]!r}, {number(float(finite[place]))}")
    more = f"; and {len(rows) - 8} more output tokens" if len(rows) > 8 else ""
    return f"Attributions of {len(rows)} output tokens to {len(columns)} tokens by {title}. " + "; ".join(parts) + more

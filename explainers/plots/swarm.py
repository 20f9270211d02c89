"""The attributions of many samples at once: a row for each feature, a dot for each sample."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from ..errors import InputError
from ..explainer.explanation import Explanation
from ..spec import Numpy
from . import bars, canvas
from .canvas import MARGIN, Sheet
from .view import View, check_finite, largest, number, one_output, panels

if TYPE_CHECKING:
    from .picture import Picture

ROW, WIDTH = 0.34, 4.4  # inches
LETTER, NUMBERS, HEAD = 0.068, 0.75, 0.4
BINS = 90  # dots of one bin lie above one another
SPREAD = 0.4  # of a row, above and below its middle
DOT = 0.075  # of a row, between dots of one bin where there is room
VALUES, PLAIN = "coolwarm", "#7a7a7a"  # colours of values, and of features that have none in order


class Row(NamedTuple):
    """A feature: its attribution of each sample, (N,), and its values as ranks from 0 to 1, or None."""

    name: str
    scores: Numpy
    ranks: Numpy | None

    @property
    def mean(self) -> float:
        """The mean absolute attribution, of the samples where it is finite."""
        finite = np.abs(self.scores[np.isfinite(self.scores)])
        return float(finite.mean()) if len(finite) else 0.0


def figure(explanation: Explanation, view: View) -> Picture:
    """Draw the ``top`` features of the largest mean absolute attribution, the largest first."""
    rows, count = _rows(explanation, view)
    shown, others = rows[: view.top], rows[view.top :]
    labels = [canvas.short_label(row.name, 28) for row in shown]
    scale, height = largest([row.scores for row in shown]), ROW * max(2, len(shown))
    x, y = MARGIN + LETTER * max(map(len, labels)) + 0.15, MARGIN + HEAD + 0.1
    title = f"{explanation.method.name}: {count:,} samples"
    sheet = Sheet()
    sheet.text(MARGIN, MARGIN, canvas.short_label(title), weight="bold", fontsize=11)
    sheet.box(x, y, WIDTH, height, partial(_draw, rows=shown, labels=labels, scale=scale))
    sheet.text(x + WIDTH + NUMBERS, y - 0.06, "mean |·|", ha="right", va="bottom", fontsize=8)
    for place, row in enumerate(shown):
        middle = y + height * (place + 0.5) / max(2, len(shown))
        sheet.text(x + WIDTH + NUMBERS, middle, number(row.mean), ha="right", va="center")
    right = x + WIDTH + NUMBERS
    if any(row.ranks is not None for row in shown):
        sheet.box(right + 0.25, y, 0.12, max(0.8, min(1.7, height)), _bar)
        right += 0.95
    below = y + height + 0.45
    if others:
        rest = sum(row.mean for row in others)
        text = f"and {len(others):,} more features, with mean |·| {number(rest)} in all"
        sheet.text(x, below, text, fontsize=8, color="#555555")
        below += 0.2
    sheet.reserve(max(right, MARGIN + 0.1 * len(title)), below)
    return sheet.figure(_alt(shown, len(others), title))


def _rows(explanation: Explanation, view: View) -> tuple[list[Row], int]:
    """The features, the largest first, and the number of samples."""
    parts = explanation.parts()
    if view.input is None and len(parts) > 1:
        raise InputError(f"a beeswarm shows one input: choose it with input=, one of {', '.join(parts)}")
    ((panel,),) = panels(explanation, replace(view, samples=1, allow_nonfinite=True))  # which has the names
    name = panel.name
    positions = view.positions(len(explanation.outputs))
    scores = np.asarray(one_output(parts[name], explanation, view), np.float64)[positions]
    scores = scores.reshape(len(positions), -1)
    for position, own in zip(positions, scores, strict=True):
        check_finite(own, None, view, position)
    given = explanation.inputs.get(name)
    values = None if given is None else given[positions].reshape(len(positions), -1)
    if values is not None and values.shape != scores.shape:
        values = None
    names = bars.names(panel, view)
    rows = [Row(label, scores[:, k], None if values is None else _ranks(values[:, k])) for k, label in enumerate(names)]
    return sorted(rows, key=lambda row: -row.mean), len(positions)


def _ranks(values: Numpy) -> Numpy | None:
    """Each value's rank from 0 to 1, equal for equal ones; None of what has no order, or of one value."""
    try:
        numbers = values.astype(np.float64)
    except (TypeError, ValueError):
        return None
    unique, place = np.unique(numbers, return_inverse=True)
    if len(unique) < 2:
        return None
    if len(unique) == 2:
        return place.astype(float)
    counts = np.bincount(place, minlength=len(unique))
    middle = np.cumsum(counts) - (counts + 1) / 2  # the mean rank of equal values
    ranks: Numpy = (middle / max(len(numbers) - 1, 1))[place]
    return ranks


def offsets(scores: Numpy, scale: float) -> Numpy:
    """How far above or below its row each dot lies, so that dots at one place do not hide one another."""
    bins = np.round((scores / scale + 1) / 2 * BINS).astype(int)
    order = np.argsort(bins, kind="stable")
    counts = np.bincount(bins, minlength=BINS + 1)
    starts = np.cumsum(counts) - counts
    place = np.empty(len(scores), int)
    place[order] = np.arange(len(scores)) - starts[bins[order]]
    side = (place + 1) // 2 * np.where(place % 2, 1, -1)  # 0, 1, −1, 2, −2 …
    step = min(DOT, 2 * SPREAD / max(int(counts.max(initial=1)), 1))
    found: Numpy = side * step
    return found


def _draw(axes: Any, rows: Sequence[Row], labels: Sequence[str], scale: float) -> None:
    from matplotlib import colormaps

    axes.axvline(0, color="#666666", linewidth=0.8)
    for place, row in enumerate(rows):
        finite = np.isfinite(row.scores)
        scores = row.scores[finite]
        ink = PLAIN if row.ranks is None else colormaps[VALUES](row.ranks[finite])
        axes.scatter(scores, place + offsets(scores, scale), s=7, c=ink, linewidths=0, rasterized=True)
    axes.set_xlim(-1.06 * scale, 1.06 * scale)
    bars.finish(axes, labels, "attribution")


def _bar(axes: Any) -> None:
    from matplotlib import colormaps

    axes.imshow(np.linspace(1, 0, 256)[:, None], cmap=colormaps[VALUES], aspect="auto", extent=(0, 1, 0, 1))
    axes.set_xticks([])
    axes.yaxis.tick_right()
    axes.yaxis.set_label_position("right")
    axes.set_yticks([0, 1], labels=["low", "high"])
    axes.set_ylabel("feature's value", fontsize=8, color=canvas.INK)
    canvas.style_axes(axes, ticks=True)


def _alt(rows: Sequence[Row], others: int, title: str) -> str:
    """A description in words: the largest features, and whether large values of each raise the output."""
    parts = []
    for row in rows[:8]:
        finite = np.isfinite(row.scores)
        text = f"{row.name}: mean absolute attribution {number(row.mean)}"
        if row.ranks is not None and row.scores[finite].std() > 0:
            with_value = float(np.corrcoef(row.scores[finite], row.ranks[finite])[0, 1])
            if abs(with_value) > 0.3:
                text += ", larger for " + ("high" if with_value > 0 else "low") + " values"
        parts.append(text)
    more = f"; and {len(rows) - 8 + others} more features" if len(rows) - 8 + others > 0 else ""
    return f"Attributions by {title}. " + "; ".join(parts) + more

"""Layout of panels on a sheet: samples one after the other, or a grid of explanations by samples."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from ..errors import InputError
from ..explainer.explanation import Explanation
from . import canvas, image
from .canvas import MARGIN, Sheet
from .kinds import PlotKind, resolve
from .view import Panel, View, largest, number, panels

if TYPE_CHECKING:
    from .picture import Picture

WIDTH = 11.0  # inches, unless a single panel is wider
TITLE = 0.52
EDGE = 0.08  # around a picture without titles
HEAD = 0.36
GAP = 0.22
BAR = 0.14  # width of a colour bar; with its numbers it takes LABELS
LABELS = 0.85
KindAndPanel = tuple[PlotKind, Panel]


def samples(lines: Sequence[Sequence[KindAndPanel]], view: View, head: str, scale: float) -> Picture:
    """Draw the attributed values of each sample side by side, and samples in as many rows as needed, on one scale."""
    sheet = Sheet()
    top = MARGIN + (HEAD if head else 0.0)
    head += _without_mean(lines[0]) if head else ""
    sheet.text(MARGIN, MARGIN, head, weight="bold", fontsize=11)
    several = len(lines[0]) > 1
    x, y, tallest = MARGIN, top, 0.0
    coloured = False
    for line in lines:
        boxes = [_extent(kind, panel, view, several) for kind, panel in line]
        if x > MARGIN and x + sum(width for width, _ in boxes) > WIDTH:
            x, y, tallest = MARGIN, y + tallest + GAP, 0.0
        for (kind, panel), (width, height) in zip(line, boxes, strict=True):
            _panel(sheet, (x, y), kind, panel, view, several, scale)
            coloured |= kind.coloured
            x, tallest = x + width + GAP, max(tallest, height)
    if coloured:
        height = min(1.7, max(0.8, sheet.height - y))
        sheet.box(sheet.width + GAP, top + TITLE, BAR, height, partial(canvas.colour_bar, scale=scale))
        sheet.reserve(sheet.width + LABELS, 0)
    sheet.reserve(MARGIN + 0.1 * len(head), 0)
    return sheet.figure(alt_text(lines, view))


def _extent(kind: PlotKind, panel: Panel, view: View, several: bool) -> tuple[float, float]:
    """Width and height of a panel with its title, ticks and labels."""
    (width, height), (left, below) = kind.size(panel, view), kind.margins
    title = canvas.wrap_text(_title(panel, several), left + width)
    return left + max(width, 1.3), height + below + 0.16 * (title.count("\n") + 1) + 0.08


def _title(panel: Panel, several: bool) -> str:
    return canvas.short_label(panel.facts.title.partition("\n")[0]) + (
        f"\n{canvas.short_label(panel.name)}" if several else ""
    ) + "\n" + panel.facts.title.partition("\n")[2]  # fmt: skip


def _panel(
    sheet: Sheet, at: tuple[float, float], kind: PlotKind, panel: Panel, view: View, several: bool, scale: float
) -> None:
    (width, height), (left, below) = kind.size(panel, view), kind.margins
    x, y = at
    title = canvas.wrap_text(_title(panel, several), left + max(width, 1.3))
    sheet.text(x, y, title, linespacing=1.15)
    y += 0.16 * (title.count("\n") + 1) + 0.08
    sheet.box(x + left, y, width, height, partial(kind.draw, panel=panel, view=view, scale=scale))
    sheet.reserve(x + left + max(width, 1.3), y + height + below)


def grid(explanations: Mapping[str, Explanation], kind: str, view: View) -> Picture:
    """Draw one row for each explanation, with its own scale, and one column for each sample; images come first."""
    if not explanations:
        raise InputError("a grid needs at least one explanation; got none")
    table: dict[str, list[KindAndPanel]] = {}
    for name, explanation in explanations.items():
        sample_panels = panels(explanation, view)
        if len(sample_panels[0]) > 1:
            names = ", ".join(repr(panel.name) for panel in sample_panels[0])
            raise InputError(f"explanation {name!r} attributes {names}; say which to show with input=")
        table[name] = [(resolve(kind, line[0], view), line[0]) for line in sample_panels]
    if len({len(line) for line in table.values()}) > 1:
        raise InputError(
            f"the explanations have {[len(line) for line in table.values()]} samples; they need as many each"
        )
    return _Grid(table, view).figure()


def untitled(line: Sequence[KindAndPanel], view: View, scale: float) -> Picture:
    """Draw the attributed values of one sample side by side, under their names if there are several."""
    sheet, x = Sheet(), EDGE
    y = EDGE + (0.24 if len(line) > 1 else 0.0)
    for kind, panel in line:
        (width, height), (left, below) = kind.size(panel, view), kind.margins
        if len(line) > 1:
            sheet.text(x, EDGE, canvas.short_label(panel.name, max(12, int(11 * (left + width)))))
        sheet.box(x + left, y, width, height, partial(kind.draw, panel=panel, view=view, scale=scale))
        below = 0.0 if kind.name == "image" else below
        sheet.reserve(x + left + max(width, 1.3 if len(line) > 1 else 0.0), y + height + below)
        x = sheet.width + GAP
    return _close(sheet).figure(alt_text([line], view))


def _close(sheet: Sheet) -> Sheet:
    """The sheet with a narrower margin."""
    sheet.width, sheet.height = sheet.width + EDGE - MARGIN, sheet.height + EDGE - MARGIN
    return sheet


def input_image(kind: PlotKind, panel: Panel, view: View) -> Picture:
    """Draw a sample that is an image."""
    sheet = Sheet()
    sheet.box(EDGE, EDGE, *kind.size(panel, view), partial(image.draw_image, panel=panel, view=view))
    return _close(sheet).figure(f"The input: sample {panel.facts.position}, {panel.name}.")


def images(line: Sequence[KindAndPanel], view: View, scale: float) -> Picture:
    """Draw the images, and the attributions below each of them."""
    return _Grid({line[0][1].facts.method: line}, view, scale).figure()


class _Grid:
    """A grid with columns as wide as their widest panel and rows as high as their highest panel."""

    left = 1.65

    def __init__(self, table: Mapping[str, Sequence[KindAndPanel]], view: View, scale: float | None = None) -> None:
        self.table, self.view, self.scale, self.sheet = table, view, scale, Sheet()
        lines = list(table.values())
        self.widths = [max(_extent(*line[i], view, False)[0] for line in lines) for i in range(len(lines[0]))]

    def figure(self) -> Picture:
        lines = list(self.table.values())
        first_line = lines[0]
        y = self._titles(first_line)
        if first_line[0][0].name == "image" and first_line[0][1].values is not None:
            self._label("input", y, first_line[0][0].size(first_line[0][1], self.view)[1])
            for x, (kind, panel) in zip(self._columns(), first_line, strict=True):
                self.sheet.box(
                    x, y, *kind.size(panel, self.view), partial(image.draw_image, panel=panel, view=self.view)
                )
            y = self.sheet.height + 0.12
        for name, line in self.table.items():
            y = self._line(name, line, y)
        return self.sheet.figure(alt_text([[entry] for line in lines for entry in line], self.view))

    def _columns(self) -> list[float]:
        starts = [MARGIN + self.left]
        for width in self.widths[:-1]:
            starts.append(starts[-1] + width + 0.12)
        return starts

    def _titles(self, line: Sequence[KindAndPanel]) -> float:
        """Write the column titles, with the baseline's output if it is the same in all rows; return where they end."""
        texts = []
        for i, (width, (_, panel)) in enumerate(zip(self.widths, line, strict=True)):
            facts = panel.facts
            title = f"sample {facts.position}\n{canvas.short_label(facts.target)}\noutput {number(facts.output)}"
            baselines = {entry[i][1].facts.baseline_output for entry in self.table.values()}
            if len(baselines) == 1 and facts.baseline_output is not None:
                title += f"\nbaseline {number(facts.baseline_output)}"
            texts.append(canvas.wrap_text(title, width))
        height = 0.16 * (max(text.count("\n") for text in texts) + 1) + 0.08
        for x, text in zip(self._columns(), texts, strict=True):
            self.sheet.text(x, MARGIN, text, linespacing=1.15)
        return MARGIN + height

    def _label(self, name: str, y: float, height: float) -> None:
        text = canvas.wrap_text(canvas.short_label(name), self.left - 0.15)
        self.sheet.text(MARGIN + self.left - 0.12, y + height / 2, text, ha="right", va="center", weight="bold")

    def _line(self, name: str, line: Sequence[KindAndPanel], y: float) -> float:
        view = self.view
        scale = self.scale or largest([kind.drawn_scores(panel, view) for kind, panel in line])
        sizes = [kind.size(panel, view) for kind, panel in line]
        self._label(name + _without_mean(line), y, max(height for _, height in sizes))
        for x, (kind, panel), (width, height) in zip(self._columns(), line, sizes, strict=True):
            self.sheet.box(
                x + kind.margins[0], y, width, height, partial(kind.draw, panel=panel, view=view, scale=scale)
            )
        right = self._columns()[-1] + self.widths[-1]
        below = max(kind.margins[1] for kind, _ in line)
        if any(kind.coloured for kind, _ in line):
            height = max(height for _, height in sizes)
            self.sheet.box(right + 0.12, y, BAR, height, partial(canvas.colour_bar, scale=scale, label=""))
            self.sheet.reserve(right + LABELS, 0)
        self.sheet.reserve(right, y + max(height for _, height in sizes) + below)
        return self.sheet.height + 0.08


def _without_mean(line: Sequence[KindAndPanel]) -> str:
    """What a label adds where colours show attributions minus their mean."""
    return " (minus its mean)" if any(k.coloured and p.facts.only_differences for k, p in line) else ""


def alt_text(lines: Sequence[Sequence[KindAndPanel]], view: View) -> str:
    """A description of the figure in words: the output and the three largest attributions of each panel."""
    descriptions = []
    for line in lines:
        for kind, panel in line:
            facts = panel.facts
            descriptions.append(
                f"{kind.name} of {facts.method} for {panel.name}, sample {facts.position}, {facts.target}: output "
                f"{number(facts.output)}; {_largest(panel)}"
            )
    ending = f"; and {len(descriptions) - 8} more panels" if len(descriptions) > 8 else ""
    return "Attributions. " + "; ".join(descriptions[:8]) + ending + "."


def _largest(panel: Panel) -> str:
    scores = np.where(np.isfinite(panel.scores), panel.scores, 0.0)
    order = np.argsort(-np.abs(scores).reshape(-1), kind="stable")[:3]
    parts = []
    for flat in order:
        index = tuple(int(k) for k in np.unravel_index(flat, scores.shape))
        place = panel.words[index[0]] if panel.words is not None else index[0] if len(index) == 1 else index
        parts.append(f"{place}: {number(float(scores[index]))}")
    return "largest at " + ", ".join(parts)

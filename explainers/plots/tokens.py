"""Tokens: words coloured by their attribution, as a plot, as HTML and as text for a terminal."""

from __future__ import annotations

import html as escaping
from typing import Any

import numpy as np

from ..errors import InputError
from ..spec import Numpy
from . import canvas
from .view import Panel, View, number

COLUMNS = 96
LETTER = 0.083  # width of a letter at 9.5 pt, in inches
LINE = 0.27
RED, BLUE = (178, 24, 43), (33, 102, 172)
STRONGEST = 0.7  # largest opacity at which text stays legible, on dark and on light pages


def words_of(panel: Panel) -> tuple[str, ...]:
    if panel.words is None:
        raise InputError(
            "tokens need one score for each id of an integer input: compile with wrt= the embedding and per_token=True"
            f"; this is {panel.name!r} of the shape {panel.scores.shape}"
        )
    return panel.words


def drawn_scores(panel: Panel, view: View) -> Numpy:
    words_of(panel)
    return panel.scores


def _word_positions(panel: Panel) -> list[tuple[int, int, str]]:
    """The position of each token, as (line, column, word)."""
    positions, line, column = [], 0, 0
    for word in words_of(panel):
        text = canvas.short_label(word, 30).replace(r"\$", "$")
        if column and column + len(text) > COLUMNS:
            line, column = line + 1, 0
        positions.append((line, column, text))
        column += len(text) + 1
    return positions


def size(panel: Panel, view: View) -> tuple[float, float]:
    positions = _word_positions(panel)
    widest = max((column + len(text) for _, column, text in positions), default=1)
    return max(2.6, (widest + 1) * LETTER), LINE * (1 + max((line for line, _, _ in positions), default=0))


def draw(axes: Any, panel: Panel, view: View, scale: float) -> None:
    from matplotlib.patches import Rectangle

    width, height = size(panel, view)
    axes.set_xlim(0, width / LETTER)
    axes.set_ylim(height / LINE, 0)
    inks = canvas.colours(panel.scores, scale)
    for (line, column, text), score, ink in zip(_word_positions(panel), panel.scores, inks, strict=True):
        style = canvas.HATCH if not np.isfinite(score) else {"facecolor": ink, "linewidth": 0}
        axes.add_patch(Rectangle((column + 0.1, line + 0.08), max(len(text), 0.6) + 0.8, 0.84, **style))
        dark = np.isfinite(score) and ink[:3] @ (0.299, 0.587, 0.114) < 0.5
        axes.text(
            column + 0.5 + len(text) / 2, line + 0.52, text.replace("$", r"\$"), ha="center", va="center",
            family="monospace", fontsize=9.5, color="white" if dark else canvas.INK,
        )  # fmt: skip
    axes.set_axis_off()


def html(panel: Panel, view: View, scale: float) -> str:
    """The words as spans whose colour and title show the score; negative ones also have a dotted underline."""
    spans = []
    for word, score in zip(words_of(panel), panel.scores, strict=True):
        text = escaping.escape(word) or "&nbsp;"
        if not np.isfinite(score):
            spans.append(f'<span class="token nonfinite" title="not finite">{text}</span>')
            continue
        red, green, blue = RED if score > 0 else BLUE
        opacity = STRONGEST * abs(score) / scale
        sign = " negative" if score < 0 else ""
        spans.append(
            f'<span class="token{sign}" style="background:rgba({red},{green},{blue},{opacity:.3f})" '
            f'title="{number(score)}">{text}</span>'
        )
    return f'<p class="tokens">{" ".join(spans)}</p>'


def text(panel: Panel, view: View, scale: float, colour: bool = True) -> str:
    """The words for a terminal, on 24-bit colours or, without ``colour``, with marks from ``++`` to ``--``."""
    words = []
    for word, score in zip(words_of(panel), panel.scores, strict=True):
        safe = "".join(c for c in word if c.isprintable())
        if not np.isfinite(score):
            words.append(f"{safe}(?)")
        elif colour:
            share = abs(score) / scale
            ground = [round(255 + share * (c - 255)) for c in (RED if score > 0 else BLUE)]
            ink = 0 if share < 0.6 else 255
            words.append("\x1b[48;2;{};{};{}m\x1b[38;2;{};{};{}m{}\x1b[0m".format(*ground, ink, ink, ink, safe))
        else:
            words.append(safe + ("+" if score > 0 else "-") * round(2.49 * abs(score) / scale))
    return " ".join(words)

"""Sequence logos: the height of each letter is attribution × input at its position.

Of effects of changes, such as mutations, it is what the output loses on average if the letter is replaced.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np

from ..errors import InputError
from ..spec import Numpy
from . import canvas
from .view import Panel, View

ALPHABETS = {4: "ACGT", 20: "ACDEFGHIKLMNPQRSTVWY"}
LINE = 100  # positions
STEP = 2.3  # scales between two lines
# Okabe and Ito's colours; amino acids are coloured by class: acidic, basic, polar, hydrophobic, special
DNA = {"A": "#009E73", "C": "#0072B2", "G": "#C58A00", "T": "#D55E00", "U": "#D55E00"}
PROTEIN = dict(
    [(a, "#D55E00") for a in "DE"] + [(a, "#0072B2") for a in "KRH"] + [(a, "#009E73") for a in "STNQ"]
    + [(a, "#C58A00") for a in "CGP"]
)  # fmt: skip


def letters_axis(values: Numpy | None, view: View) -> int | None:
    """The axis of letters, 0 or 1, of a one-hot sample (letters, length) or (length, letters); None for others."""
    if values is None or values.ndim != 2 or not np.isin(values, (0.0, 1.0)).all():
        return None
    axes = (1, 0) if view.channels is None else ((1,) if view.channels == "last" else (0,))
    for axis in axes:
        sums = values.sum(axis=axis)
        has_alphabet = values.shape[axis] in ALPHABETS or _names_letters(view, values.shape[axis])
        if has_alphabet and (sums <= 1).all() and sums.mean() > 0.5:
            return axis
    return None


def _names_letters(view: View, count: int) -> bool:
    names = view.names
    return isinstance(names, (str, list, tuple)) and len(names) == count and all(len(str(n)) == 1 for n in names)


def drawn_scores(panel: Panel, view: View) -> Numpy:
    """The score of the letter at each position, (length,); NaN only where that letter's score is NaN."""
    axis = _axis(panel, view)
    assert panel.values is not None
    present = panel.values > 0
    if panel.facts.of_changes:
        changes = np.where(present, 0.0, panel.scores).sum(axis=axis)
        losses: Numpy = -changes / max(panel.values.shape[axis] - 1, 1) * present.any(axis=axis)
        return losses
    letter_scores: Numpy = np.where(present, panel.scores, 0.0).sum(axis=axis)
    return letter_scores


def _axis(panel: Panel, view: View) -> int:
    axis = letters_axis(panel.values, view)
    if axis is None:
        raise InputError(
            f"a logo needs one-hot samples (length, letters) of 4 or 20 letters, or names= with one for each; this one "
            f"has the shape {panel.scores.shape}" + (" and is a layer's" if panel.values is None else "")
        )
    return axis


def _letters(panel: Panel, view: View) -> list[str]:
    """The letter at each position; "" if there is none."""
    axis = _axis(panel, view)
    assert panel.values is not None
    count = panel.values.shape[axis]
    alphabet = view.names if _names_letters(view, count) else ALPHABETS[count]
    has_letter = panel.values.sum(axis=axis) > 0
    return [str(alphabet[k]) if p else "" for k, p in zip(panel.values.argmax(axis=axis), has_letter, strict=True)]


def size(panel: Panel, view: View) -> tuple[float, float]:
    length = len(drawn_scores(panel, view))
    return float(np.clip(0.13 * min(length, LINE), 2.5, 10.0)), 1.25 * -(-length // LINE)


def draw(axes: Any, panel: Panel, view: View, scale: float) -> None:
    from matplotlib.collections import PathCollection
    from matplotlib.patches import Rectangle
    from matplotlib.transforms import Affine2D

    scores = drawn_scores(panel, view)
    palette = DNA if panel.values is not None and min(panel.values.shape) <= 5 else PROTEIN
    paths, inks = [], []
    for i, (letter, score) in enumerate(zip(_letters(panel, view), scores, strict=True)):
        line, x = divmod(i, LINE)
        y = -line * STEP * scale
        if not np.isfinite(score):
            axes.add_patch(Rectangle((x, y - scale), 1, 2 * scale, **canvas.HATCH))
        elif letter and score:
            place = Affine2D().scale(0.94, abs(score)).translate(x + 0.03, y + min(score, 0.0))
            paths.append(place.transform_path(_path(letter)))
            inks.append(palette.get(letter, "#555555"))
    lines = -(-len(scores) // LINE)
    axes.hlines([-k * STEP * scale for k in range(lines)], 0, min(len(scores), LINE), color="#999999", linewidth=0.5)
    axes.add_collection(PathCollection(paths, facecolors=inks, linewidths=0))
    axes.set_xlim(0, min(len(scores), LINE))
    axes.set_ylim(-(lines - 1) * STEP * scale - 1.08 * scale, 1.08 * scale)
    _ticks(axes, len(scores), lines, scale, "mean loss if replaced" if panel.facts.of_changes else "attribution")


def _ticks(axes: Any, length: int, lines: int, scale: float, label: str) -> None:
    from .view import number

    line_length = min(length, LINE)
    step = next(step for step in (1, 2, 5, 10, 20) if line_length <= 12 * step)
    places = np.arange(0, line_length, step)
    axes.set_xticks(places + 0.5, labels=[str(p) for p in places])
    if lines == 1:
        axes.set_yticks([-scale, 0, scale], labels=[number(-scale), "0", number(scale)])
        axes.set_ylabel(label, fontsize=8, color=canvas.INK)
    else:
        axes.set_yticks([-k * STEP * scale for k in range(lines)], labels=[f"+{k * LINE}" for k in range(lines)])
        axes.set_ylabel(f"letters to ±{number(scale)}", fontsize=8, color=canvas.INK)
    axes.set_xlabel("position", fontsize=8, color=canvas.INK)
    canvas.style_axes(axes, ticks=True)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)


@lru_cache(maxsize=128)
def _path(letter: str) -> Any:
    """The outline of a letter, stretched to the unit square."""
    from matplotlib.font_manager import FontProperties
    from matplotlib.textpath import TextPath
    from matplotlib.transforms import Affine2D

    outline = TextPath((0, 0), letter, size=1, prop=FontProperties(family="DejaVu Sans", weight="bold"))
    box = outline.get_extents()
    narrow = 0.35 if letter in "I1l|" else 1.0
    fit = Affine2D().translate(-box.x0, -box.y0).scale(narrow / (box.width or 1), 1 / (box.height or 1))
    return fit.translate((1 - narrow) / 2, 0).transform_path(outline)

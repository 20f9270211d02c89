"""The table of plot kinds, and the choice of the kind that fits a sample."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from ..errors import InputError, UnknownNameError
from ..spec import Numpy
from . import bars, curves, image, logo, tokens
from .view import Draw, Panel, View

FEATURES = 128  # a single unnamed axis of at least this length is drawn as a signal
LONG = 4  # a sample with one axis at least this many times as long as the other is drawn as a signal


@dataclass(frozen=True)
class PlotKind:
    """How to draw a panel.

    size: gives (width, height) of its axes in inches. drawn_scores: gives the numbers that are drawn; their largest
    absolute value over all panels is the scale. margins: inches left of and below the axes. coloured: whether it needs
    a colour bar.
    """

    name: str
    size: Callable[[Panel, View], tuple[float, float]]
    drawn_scores: Callable[[Panel, View], Numpy]
    draw: Draw
    margins: tuple[float, float]
    coloured: bool


KINDS = {
    kind.name: kind
    for kind in (
        PlotKind("image", image.size, image.drawn_scores, image.draw, (0.0, 0.1), True),
        PlotKind("logo", logo.size, logo.drawn_scores, logo.draw, (0.65, 0.5), False),
        PlotKind("tokens", tokens.size, tokens.drawn_scores, tokens.draw, (0.0, 0.15), True),
        PlotKind("bars", bars.size, bars.drawn_scores, bars.draw, (2.3, 0.5), False),
        PlotKind("waterfall", bars.size_waterfall, bars.drawn_steps, bars.draw_waterfall, (2.55, 0.5), False),
        PlotKind("curves", curves.size, curves.drawn_scores, curves.draw, (0.95, 0.5), True),
    )
}


def resolve(name: str, panel: Panel, view: View) -> PlotKind:
    """The kind of this name; ``"auto"`` is decided by the sample's shape and values (see ``Explanation.plot``)."""
    if name == "auto":
        return KINDS[_fitting(panel, view)]
    if name not in KINDS:
        raise UnknownNameError.among("kind of picture", name, ["auto", *KINDS])
    return KINDS[name]


def _fitting(panel: Panel, view: View) -> str:
    shape = panel.scores.shape
    if panel.words is not None:
        return "tokens"
    if logo.letters_axis(panel.values, view) is not None:
        return "logo"
    if len(shape) < 2:
        return "bars" if view.names is not None or panel.scores.size < FEATURES else "curves"
    if len(shape) == 2:
        return "curves" if max(shape) >= LONG * min(shape) else "image"
    if len(shape) == 3:
        return "image"
    raise InputError(
        f"no kind of picture fits {panel.name!r} with samples of shape {shape}. Sum over axes first, or say kind='bars'"
    )

"""Figures laid out in inches from the top left. matplotlib is imported at the first use; pyplot is never imported."""

from __future__ import annotations

import base64
import io
import textwrap
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

from ..errors import BackendMissing
from ..spec import Numpy

if TYPE_CHECKING:
    from .picture import Picture

COLOURS = "RdBu_r"  # distinguishable with any kind of colour vision
POSITIVE, NEGATIVE, GREY, INK = "#b2182b", "#2166ac", "#c8c8c8", "#222222"
HATCH: dict[str, Any] = {"facecolor": GREY, "edgecolor": "#777777", "hatch": "////", "linewidth": 0}
DPI = 120
MARGIN = 0.15


class Sheet:
    """Boxes and texts at positions in inches; :meth:`figure` draws them all into a figure."""

    def __init__(self) -> None:
        self.boxes: list[tuple[tuple[float, float, float, float], Callable[[Any], None]]] = []
        self.texts: list[tuple[float, float, str, dict[str, Any]]] = []
        self.width = self.height = 0.0

    def box(self, x: float, y: float, width: float, height: float, draw: Callable[[Any], None]) -> None:
        self.boxes.append(((x, y, width, height), draw))
        self.reserve(x + width, y + height)

    def text(self, x: float, y: float, text: str, **style: Any) -> None:
        self.texts.append((x, y, text, style))

    def reserve(self, x: float, y: float) -> None:
        """Make the figure extend at least to (x, y)."""
        self.width, self.height = max(self.width, x), max(self.height, y)

    def figure(self, alt: str) -> Picture:
        try:
            from .picture import Picture
        except ImportError as error:
            raise BackendMissing("pictures need matplotlib: pip install 'explainers[plots]'") from error
        width, height = self.width + MARGIN, self.height + MARGIN
        figure = Picture(figsize=(width, height), dpi=DPI, facecolor="white")
        figure.alt = alt
        for (x, y, w, h), draw in self.boxes:
            axes = figure.add_axes((x / width, 1 - (y + h) / height, w / width, h / height))
            draw(axes)
        for x, y, text, style in self.texts:
            figure.text(x / width, 1 - y / height, text, **{"color": INK, "va": "top", "fontsize": 9, **style})
        return figure


def png(figure: Any) -> bytes:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=DPI)
    return buffer.getvalue()


def inline(figure: Any) -> str:
    """A figure as a PNG data URL."""
    return "data:image/png;base64," + base64.b64encode(png(figure)).decode()


def short_label(text: Any, longest: int = 60) -> str:
    """A name as one short line, escaped so that matplotlib does not read it as a formula."""
    line = " ".join("".join(c if c.isprintable() else " " for c in str(text)).split())
    return (line if len(line) <= longest else line[: longest - 1] + "…").replace("$", r"\$")


def wrap_text(text: str, inches: float, size: float = 9) -> str:
    """``text`` wrapped into lines of about ``inches``."""
    columns = max(8, int(inches / (size * 0.0078)))
    return "\n".join(textwrap.fill(line, columns) for line in text.split("\n"))


def style_axes(axes: Any, *, ticks: bool = False) -> None:
    """Style the axes with thin grey frames; remove the ticks unless ``ticks``."""
    if not ticks:
        axes.set_xticks([])
        axes.set_yticks([])
    axes.tick_params(labelsize=8, length=2, color="#888888", labelcolor=INK)
    for spine in axes.spines.values():
        spine.set(color="#bbbbbb", linewidth=0.6)


def colour_bar(axes: Any, scale: float, label: str = "attribution") -> None:
    """Draw a vertical colour bar from −scale to scale."""
    from .view import number

    axes.imshow(np.linspace(1, -1, 256)[:, None], cmap=COLOURS, vmin=-1, vmax=1, aspect="auto", extent=(0, 1, -1, 1))
    axes.set_xticks([])
    axes.yaxis.tick_right()
    axes.yaxis.set_label_position("right")
    axes.set_yticks([-1, 0, 1], labels=[number(-scale), "0", number(scale)])
    axes.set_ylabel(label, fontsize=8, color=INK)
    style_axes(axes, ticks=True)


def colours(scores: Numpy, scale: float) -> Numpy:
    """The colours of scores as RGBA (…, 4); white for 0 and for non-finite scores."""
    from matplotlib import colormaps

    finite_scores = np.where(np.isfinite(scores), scores, 0.0)
    return np.asarray(colormaps[COLOURS](0.5 + 0.5 * finite_scores / scale))

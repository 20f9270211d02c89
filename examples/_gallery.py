"""A picture of attributions: methods down, digits across, one block for each backend."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

Numpy = npt.NDArray[Any]
COLOURS = "RdBu_r"
TITLES = {
    "torch": "PyTorch, residual network",
    "tensorflow": "Keras on TensorFlow, residual network",
    "numpy": "scikit-learn, extra trees",
}


@dataclass(frozen=True)
class Panel:
    """Attributions (digits, 8, 8) of one method on one backend."""

    backend: str
    method: str
    scores: Numpy


def draw(images: Numpy, panels: Sequence[Panel], path: Path) -> Path:
    """Write the gallery of ``images`` (digits, 8, 8) and their attributions to ``path``."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib.figure import Figure

    names = list(dict.fromkeys(panel.method for panel in panels))
    backends = list(dict.fromkeys(panel.backend for panel in panels))
    size, digits = 0.56, len(images)
    figure = Figure(figsize=(1.9 + len(backends) * (digits * size + 0.4), (len(names) + 3.0) * size + 0.9), dpi=120)
    grid = _Grid(figure, size, digits)
    for place, backend in enumerate(backends):
        scores_by_method = {p.method: p.scores for p in panels if p.backend == backend}
        grid.block(place, backend, images, [(name, scores_by_method.get(name)) for name in names])
    grid.colour_bar(len(backends) - 1, len(names) + 2.0)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path)
    return path


class _Grid:
    """Places square cells on a figure, by their row and column from the top left."""

    left, top, gap = 1.75, 0.62, 0.4  # inches

    def __init__(self, figure: Any, size: float, digits: int) -> None:
        self.figure, self.size, self.digits = figure, size, digits
        self.width, self.height = figure.get_size_inches()

    def block(self, place: int, backend: str, images: Numpy, bands: Sequence[tuple[str, Any]]) -> None:
        """One backend: the digits, then one band for each method."""
        x, y = self._corner(place, 0)
        self.figure.text(
            x / self.width, 1 - (y - 0.16) / self.height, TITLES.get(backend, backend), fontsize=11, weight="bold"
        )
        self._label(place, 0, "digit")
        for column, image in enumerate(images):
            self._cell(place, 0, column).imshow(image, cmap="gray_r", vmin=0, vmax=1)
        for band, (name, scores) in enumerate(bands, start=1):
            self._label(place, band, name)
            for column in range(self.digits if scores is not None else 0):
                largest = float(np.abs(scores[column]).max()) or 1.0
                axes = self._cell(place, band, column)
                axes.imshow(scores[column], cmap=COLOURS, vmin=-largest, vmax=largest)

    def colour_bar(self, place: int, row: float) -> None:
        from matplotlib.cm import ScalarMappable
        from matplotlib.colors import Normalize

        x, y = self._corner(place, row)
        axes = self.figure.add_axes(self._box(x, y, self.digits * self.size, 0.16))
        bar = self.figure.colorbar(ScalarMappable(Normalize(-1, 1), COLOURS), cax=axes, orientation="horizontal")
        bar.set_ticks([-1, 0, 1], labels=["−max", "0", "max"])
        bar.outline.set_visible(False)
        axes.tick_params(labelsize=9, length=2)
        axes.set_title(
            "attribution of the digit's own class: red positive, blue negative,\n"
            "each panel scaled to its own largest |attribution|, RISE minus its mean", fontsize=9, loc="left",
        )  # fmt: skip

    def _corner(self, place: int, row: float) -> tuple[float, float]:
        return self.left + place * (self.digits * self.size + self.gap), self.top + row * self.size

    def _box(self, x: float, y: float, width: float, height: float) -> tuple[float, float, float, float]:
        """Convert inches from the top left to fractions of the figure from the bottom left."""
        return x / self.width, 1 - (y + height) / self.height, width / self.width, height / self.height

    def _label(self, place: int, row: float, text: str) -> None:
        if place:
            return
        x, y = self._corner(0, row)
        self.figure.text(
            (x - 0.12) / self.width, 1 - (y + self.size / 2) / self.height, text, ha="right", va="center", fontsize=10
        )

    def _cell(self, place: int, row: float, column: int) -> Any:
        x, y = self._corner(place, row)
        margin = 0.025
        box = self._box(x + column * self.size + margin, y + margin, self.size - 2 * margin, self.size - 2 * margin)
        axes = self.figure.add_axes(box)
        axes.set_xticks([])
        axes.set_yticks([])
        for spine in axes.spines.values():
            spine.set(color="0.8", linewidth=0.6)
        return axes

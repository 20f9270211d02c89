"""A figure with a description in words. Imported only when a plot is drawn, because it needs matplotlib."""

from __future__ import annotations

import html

from matplotlib.figure import Figure

from . import canvas


class Picture(Figure):
    """A matplotlib figure with an alternative text, ``alt``, that notebooks show without pyplot."""

    alt = ""

    def _repr_html_(self) -> str:
        return f'<img src="{canvas.inline(self)}" alt="{html.escape(self.alt)}" style="max-width:100%">'

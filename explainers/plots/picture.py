"""A figure that says in words what it shows. Imported where a picture is made, since it needs matplotlib."""

from __future__ import annotations

import html

from matplotlib.figure import Figure

from . import canvas


class Picture(Figure):
    """A matplotlib figure with an alternative text, ``alt``; notebooks show it without pyplot."""

    alt = ""

    def _repr_html_(self) -> str:
        return f'<img src="{canvas.inline(self)}" alt="{html.escape(self.alt)}" style="max-width:100%">'

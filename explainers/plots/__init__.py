"""Pictures and pages of explanations. matplotlib is imported with the first picture, and pyplot never.

``Explanation.plot`` and ``.to_html`` lead here; :func:`grid` puts several methods side by side, and
:func:`tokens_text` colours words in a terminal.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from ..explainer.explanation import Explanation
from . import layout, tokens
from . import page as _page
from .kinds import KINDS, resolve
from .page import notebook
from .view import View, largest, panels

if TYPE_CHECKING:
    from .picture import Picture


def plot(explanation: Explanation, kind: str = "auto", **view: Any) -> Picture:
    """See :meth:`Explanation.plot`. ``view``: the fields of :class:`View`."""
    return draw(explanation, kind, View.of(view))


def draw(explanation: Explanation, kind: str, view: View) -> Picture:
    """The samples of a view. Images stand below the image that they explain."""
    lines = [[(resolve(kind, panel, view), panel) for panel in line] for line in panels(explanation, view)]
    scale = largest([one.shown(panel, view) for line in lines for one, panel in line])
    if all(len(line) == 1 and line[0][0].name == "image" for line in lines):
        return layout.images([line[0] for line in lines], view, scale)
    return layout.samples(lines, view, explanation.method.name, scale)


def grid(explanations: Mapping[str, Explanation], kind: str = "auto", **view: Any) -> Picture:
    """Explanations by name down, samples across: each line has one scale, and its colour bar or axis says which.

    Arguments and errors as for :meth:`Explanation.plot`. The explanations are of the same samples.
    """
    return layout.grid(explanations, kind, View.of(view))


def page(
    explanation: Explanation, path: str | os.PathLike[str] | None = None, *, kind: str = "auto", **view: Any
) -> str:
    """See :meth:`Explanation.to_html`."""
    return _page.page(explanation, path, kind, View.of(view))


def tokens_html(explanation: Explanation, **view: Any) -> list[str]:
    """For each sample its words as HTML spans on the colour of their attribution; all on one scale."""
    chosen = View.of(view)
    lines = [line[0] for line in panels(explanation, chosen)]
    scale = largest([tokens.shown(panel, chosen) for panel in lines])
    return [tokens.html(panel, chosen, scale) for panel in lines]


def tokens_text(explanation: Explanation, *, colour: bool = True, **view: Any) -> list[str]:
    """As :func:`tokens_html`, for a terminal: with 24-bit colours, or with ``+`` and ``-`` behind the words."""
    chosen = View.of(view)
    lines = [line[0] for line in panels(explanation, chosen)]
    scale = largest([tokens.shown(panel, chosen) for panel in lines])
    return [tokens.text(panel, chosen, scale, colour) for panel in lines]


__all__ = ["KINDS", "View", "grid", "notebook", "page", "plot", "tokens_html", "tokens_text"]

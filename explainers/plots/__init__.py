"""Plots and HTML pages of explanations. matplotlib is imported with the first plot; pyplot is never imported.

``Explanation.plot`` and ``.to_html`` call this package; :func:`grid` compares several methods, :func:`beeswarm` shows
many samples at once, and :func:`tokens_text` colours words in a terminal.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from ..explainer.explanation import Explanation
from . import browser as _browser
from . import layout, swarm, tokens
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
    """Draw the samples of a view; attributions of images are drawn below the images."""
    lines = [[(resolve(kind, panel, view), panel) for panel in line] for line in panels(explanation, view)]
    scale = largest([plot_kind.drawn_scores(panel, view) for line in lines for plot_kind, panel in line])
    if all(len(line) == 1 and line[0][0].name == "image" for line in lines):
        return layout.images([line[0] for line in lines], view, scale)
    return layout.samples(lines, view, explanation.method.name, scale)


def grid(explanations: Mapping[str, Explanation], kind: str = "auto", **view: Any) -> Picture:
    """A grid with one row for each explanation and one column for each sample; each row has its own scale.

    ``explanations``: by name, of the same samples. Other arguments and errors are those of :meth:`Explanation.plot`.
    """
    return layout.grid(explanations, kind, View.of(view))


def beeswarm(explanation: Explanation, **view: Any) -> Picture:
    """The attributions of many samples at once: a row for each feature, the largest first, and a dot for each sample.

    A dot's colour says whether the feature's value is low or high among the samples, so that one sees whether high
    values raise the output (the summary plot of Lundberg et al. 2020). ``view``: as for :meth:`Explanation.plot`; all
    samples are shown by default, and ``top`` is the number of features.

    Raises
    ------
    InputError: several inputs, of which none is chosen. UnknownNameError. NonFiniteError. BackendMissing: no
    matplotlib.
    """
    return swarm.figure(explanation, View.of({"samples": max(1, len(explanation.outputs)), **view}))


def page(
    explanation: Explanation, path: str | os.PathLike[str] | None = None, *, kind: str = "auto", **view: Any
) -> str:
    """See :meth:`Explanation.to_html`."""
    return _page.page(explanation, path, kind, View.of(view))


def browser(
    explanations: _browser.Explanations, path: str | os.PathLike[str] | None = None, *, kind: str = "auto", **view: Any
) -> str:
    """A self-contained page to look through many samples, by several methods and for several targets.

    One chooses a sample (also with the arrow keys ← and →), a target, and the methods that are shown side by side. Each
    shows the attributions, the output, the baseline's output and the sum of the attributions. The address holds what is
    chosen, so that it is a link to it. Without scripts, the page shows all samples one below the other.

    ``explanations``: by the method's name, of the same samples and targets: an :class:`Explanation`; a list of them, of
    different targets; or a dict of them by the target's name. One of ``target="all"`` has every output, or
    that of ``output=``. One whose samples have targets of their own is one target. Each method has one
    scale. ``view``: as for :meth:`Explanation.plot`; all samples are shown by default. A page has at most 2,000
    pictures, samples × methods × targets. Returns the page; ``path``: a file to write it to as well.

    Raises
    ------
    InputError: no explanations, too many pictures, or explanations of different samples or targets. NonFiniteError:
    a shown number is not finite, unless ``allow_nonfinite``. UnknownNameError. BackendMissing: no matplotlib.
    """
    return _browser.browser(explanations, path, kind, View.of({"samples": sys.maxsize, **view}))


def tokens_html(explanation: Explanation, **view: Any) -> list[str]:
    """The words of each sample as HTML spans, coloured by their attribution on one scale."""
    options = View.of(view)
    lines = [line[0] for line in panels(explanation, options)]
    scale = largest([tokens.drawn_scores(panel, options) for panel in lines])
    return [tokens.html(panel, options, scale) for panel in lines]


def tokens_text(explanation: Explanation, *, colour: bool = True, **view: Any) -> list[str]:
    """Like :func:`tokens_html`, for a terminal: with 24-bit colours, or with ``+`` and ``-`` after the words."""
    options = View.of(view)
    lines = [line[0] for line in panels(explanation, options)]
    scale = largest([tokens.drawn_scores(panel, options) for panel in lines])
    return [tokens.text(panel, options, scale, colour) for panel in lines]


__all__ = ["KINDS", "View", "beeswarm", "browser", "grid", "notebook", "page", "plot", "tokens_html", "tokens_text"]

"""Plots of table rows: bars, the largest first, and waterfalls from the baseline's output to the output."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..errors import InputError
from ..spec import Numpy
from . import canvas
from .view import Panel, View, number

ROW = 0.24  # inches


@dataclass(frozen=True)
class Bar:
    """One bar; a non-finite ``score`` is NaN."""

    label: str
    score: float
    error: float = 0.0


def drawn_scores(panel: Panel, view: View) -> Numpy:
    return np.array([abs(bar.score) + bar.error for bar in _bars(panel, view)])


def drawn_steps(panel: Panel, view: View) -> Numpy:
    return np.array([bar.score for bar in _steps(panel, view)])


def size(panel: Panel, view: View) -> tuple[float, float]:
    return 2.6, ROW * max(2, len(_bars(panel, view))) + 0.1


def size_waterfall(panel: Panel, view: View) -> tuple[float, float]:
    return 2.7, ROW * (len(_steps(panel, view)) + 2) + 0.1


def names(panel: Panel, view: View) -> Sequence[str]:
    shape, count = panel.scores.shape, panel.scores.size
    given_names = view.names.get(panel.name) if isinstance(view.names, Mapping) else view.names
    if given_names is not None:
        names = np.asarray(given_names, dtype=object).reshape(-1)
        if len(names) != count:
            raise InputError(f"names has {len(names)} names; a sample of {panel.name!r} has {count} features")
        return [str(name) for name in names]
    if panel.columns:
        return panel.columns
    if len(shape) < 2:
        return [f"feature {i}" for i in range(count)]
    return [str(tuple(int(k) for k in index)).replace(" ", "") for index in np.ndindex(shape)]


def _bars(panel: Panel, view: View) -> list[Bar]:
    """Bars for the ``top`` largest features and one for the sum of the others; non-finite scores come first."""
    scores = panel.scores.reshape(-1)
    labels = names(panel, view)
    values = None if panel.values is None else panel.values.reshape(-1)
    errors = np.zeros(len(scores)) if panel.error is None else np.nan_to_num(panel.error.reshape(-1))
    finite = np.isfinite(scores)
    order = np.argsort(-np.where(finite, np.abs(scores), np.inf), kind="stable")
    bar_count = len(scores) if len(scores) <= view.top + 1 else view.top
    bars = []
    for i in order[:bar_count]:
        value = "" if values is None else f" = {_shown(values[i])}"
        bars.append(
            Bar(canvas.short_label(labels[i], 28) + value, float(scores[i]) if finite[i] else np.nan, errors[i])
        )
    other_features = order[bar_count:]
    if len(other_features):
        nonfinite_count = int((~finite[other_features]).sum())
        note = f", {nonfinite_count} not finite" if nonfinite_count else ""
        other_scores = scores[other_features]
        bars.append(Bar(f"{len(other_features)} others{note}", float(other_scores[np.isfinite(other_scores)].sum())))
    return bars


def _shown(value: Any) -> str:
    """A feature's value: a number, or what a column without numbers holds."""
    numeric = isinstance(value, (int, float, np.number)) and not isinstance(value, bool)
    return number(value) if numeric else canvas.short_label(str(value), 20)


def draw(axes: Any, panel: Panel, view: View, scale: float) -> None:
    """Draw the bars; all panels of a figure have the same axis, −scale … scale."""
    bars = _bars(panel, view)
    for row, bar in enumerate(bars):
        if np.isnan(bar.score):
            axes.barh(row, 2 * scale, left=-scale, height=0.66, **canvas.HATCH)
            continue
        ink = canvas.POSITIVE if bar.score > 0 else canvas.NEGATIVE
        axes.barh(row, bar.score, height=0.66, color=ink)
        if bar.error:
            axes.errorbar(bar.score, row, xerr=bar.error, color=canvas.INK, linewidth=1, capsize=2)
    axes.axvline(0, color="#666666", linewidth=0.8)
    axes.set_xlim(-1.06 * scale, 1.06 * scale)
    label = "attribution" + (" ± standard error" if panel.error is not None else "")
    finish(axes, [bar.label for bar in bars], label)


def finish(axes: Any, labels: Sequence[str], x_label: str) -> None:
    from matplotlib.ticker import MaxNLocator

    axes.set_ylim(max(len(labels), 2) - 0.5, -0.5)
    axes.set_yticks(range(len(labels)), labels=labels)
    axes.xaxis.set_major_locator(MaxNLocator(5))
    axes.set_xlabel(x_label, fontsize=8, color=canvas.INK)
    axes.grid(axis="x", color="#e4e4e4", linewidth=0.6)
    axes.set_axisbelow(True)
    canvas.style_axes(axes, ticks=True)


def _steps(panel: Panel, view: View) -> list[Bar]:
    """The steps from the baseline's output to the output, the largest first."""
    if panel.incomplete:
        raise InputError(f"a waterfall needs attributions that add up, and {panel.incomplete}. Use kind='bars'")
    facts = panel.facts
    assert facts.baseline_output is not None
    steps = _bars(panel, view)
    if panel.elsewhere:
        steps = [*steps, Bar("other inputs", panel.elsewhere)]
    change = facts.output - facts.baseline_output
    gap = change - float(np.nansum([step.score for step in steps]))
    if abs(gap) > 1e-3 * max(abs(change), max(abs(step.score) for step in steps)):
        steps = [*steps, Bar("completeness gap", gap)]
    return steps


def draw_waterfall(axes: Any, panel: Panel, view: View, scale: float) -> None:
    """Draw one step for each feature; every panel has its own axis, in units of the output."""
    facts, steps = panel.facts, _steps(panel, view)
    assert facts.baseline_output is not None
    level = facts.baseline_output
    levels = [level]
    for row, step in enumerate(steps, start=1):
        if np.isnan(step.score):
            axes.axhspan(row - 0.33, row + 0.33, **canvas.HATCH)
            continue
        ink = canvas.POSITIVE if step.score > 0 else canvas.NEGATIVE
        axes.barh(row, step.score, left=level, height=0.66, color=ink)
        axes.plot([level, level], [row - 1, row], color="#888888", linewidth=0.6)
        if step.error:
            axes.errorbar(level + step.score, row, xerr=step.error, color=canvas.INK, linewidth=1, capsize=2)
        level += step.score
        levels.append(level)
    last = len(steps) + 1
    axes.plot([facts.baseline_output, facts.output], [0, last], "o", color=canvas.INK, markersize=5)
    axes.plot([level, level], [last - 1, last], color="#888888", linewidth=0.6)
    span = (max(levels) - min(levels)) or 1.0
    axes.set_xlim(min(levels) - 0.06 * span, max(levels) + 0.06 * span)
    signed = [f"{step.label}  ({'+' if step.score > 0 else ''}{number(step.score)})" for step in steps]
    ends = f"baseline's output: {number(facts.baseline_output)}", f"output: {number(facts.output)}"
    finish(axes, [ends[0], *signed, ends[1]], "output")

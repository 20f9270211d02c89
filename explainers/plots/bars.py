"""Tables of features: bars, the largest first, and waterfalls from the baseline's output to the output."""

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
    """``score`` is NaN where it is not finite."""

    label: str
    score: float
    error: float = 0.0


def shown(panel: Panel, view: View) -> Numpy:
    return np.array([abs(bar.score) + bar.error for bar in _bars(panel, view)])


def shown_waterfall(panel: Panel, view: View) -> Numpy:
    return np.array([bar.score for bar in _steps(panel, view)])


def size(panel: Panel, view: View) -> tuple[float, float]:
    return 2.6, ROW * max(2, len(_bars(panel, view))) + 0.1


def size_waterfall(panel: Panel, view: View) -> tuple[float, float]:
    return 2.7, ROW * (len(_steps(panel, view)) + 2) + 0.1


def _names(panel: Panel, view: View) -> Sequence[str]:
    shape, count = panel.scores.shape, panel.scores.size
    given = view.names.get(panel.name) if isinstance(view.names, Mapping) else view.names
    if given is not None:
        names = np.asarray(given, dtype=object).reshape(-1)
        if len(names) != count:
            raise InputError(f"names has {len(names)} names; a sample of {panel.name!r} has {count} features")
        return [str(name) for name in names]
    if panel.columns:
        return panel.columns
    if len(shape) < 2:
        return [f"feature {i}" for i in range(count)]
    return [str(tuple(int(k) for k in index)).replace(" ", "") for index in np.ndindex(shape)]


def _bars(panel: Panel, view: View) -> list[Bar]:
    """The ``top`` largest, and one for the sum of the others. What is not finite comes first."""
    scores = panel.scores.reshape(-1)
    names = _names(panel, view)
    values = None if panel.values is None else panel.values.reshape(-1)
    errors = np.zeros(len(scores)) if panel.error is None else np.nan_to_num(panel.error.reshape(-1))
    finite = np.isfinite(scores)
    order = np.argsort(-np.where(finite, np.abs(scores), np.inf), kind="stable")
    kept = len(scores) if len(scores) <= view.top + 1 else view.top
    found = []
    for i in order[:kept]:
        value = "" if values is None else f" = {number(values[i])}"
        found.append(Bar(canvas.plain(names[i], 28) + value, float(scores[i]) if finite[i] else np.nan, errors[i]))
    rest = order[kept:]
    if len(rest):
        left = int((~finite[rest]).sum())
        told = f", {left} not finite" if left else ""
        found.append(Bar(f"{len(rest)} others{told}", float(scores[rest][finite[rest]].sum())))
    return found


def draw(axes: Any, panel: Panel, view: View, scale: float) -> None:
    """All panels of a figure have the same axis, −scale … scale."""
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
    said = "attribution" + (" ± standard error" if panel.error is not None else "")
    _finish(axes, [bar.label for bar in bars], said)


def _finish(axes: Any, labels: Sequence[str], x_label: str) -> None:
    from matplotlib.ticker import MaxNLocator

    axes.set_ylim(max(len(labels), 2) - 0.5, -0.5)
    axes.set_yticks(range(len(labels)), labels=labels)
    axes.xaxis.set_major_locator(MaxNLocator(5))
    axes.set_xlabel(x_label, fontsize=8, color=canvas.INK)
    axes.grid(axis="x", color="#e4e4e4", linewidth=0.6)
    axes.set_axisbelow(True)
    canvas.bare(axes, ticks=True)


def _steps(panel: Panel, view: View) -> list[Bar]:
    """What leads from the baseline's output to the output, the largest first."""
    if panel.incomplete:
        raise InputError(f"a waterfall needs attributions that add up, and {panel.incomplete}. Use kind='bars'")
    facts = panel.facts
    assert facts.baseline_output is not None
    steps = _bars(panel, view)
    if panel.elsewhere:
        steps = [*steps, Bar("other inputs", panel.elsewhere)]
    change = facts.output - facts.baseline_output
    left = change - float(np.nansum([step.score for step in steps]))
    if abs(left) > 1e-3 * max(abs(change), max(abs(step.score) for step in steps)):
        steps = [*steps, Bar("completeness gap", left)]
    return steps


def draw_waterfall(axes: Any, panel: Panel, view: View, scale: float) -> None:
    """One step for each feature; every panel has an axis of its own, in units of the output."""
    facts, steps = panel.facts, _steps(panel, view)
    assert facts.baseline_output is not None
    at = facts.baseline_output
    reached = [at]
    for row, step in enumerate(steps, start=1):
        if np.isnan(step.score):
            axes.axhspan(row - 0.33, row + 0.33, **canvas.HATCH)
            continue
        ink = canvas.POSITIVE if step.score > 0 else canvas.NEGATIVE
        axes.barh(row, step.score, left=at, height=0.66, color=ink)
        axes.plot([at, at], [row - 1, row], color="#888888", linewidth=0.6)
        if step.error:
            axes.errorbar(at + step.score, row, xerr=step.error, color=canvas.INK, linewidth=1, capsize=2)
        at += step.score
        reached.append(at)
    last = len(steps) + 1
    axes.plot([facts.baseline_output, facts.output], [0, last], "o", color=canvas.INK, markersize=5)
    axes.plot([at, at], [last - 1, last], color="#888888", linewidth=0.6)
    span = (max(reached) - min(reached)) or 1.0
    axes.set_xlim(min(reached) - 0.06 * span, max(reached) + 0.06 * span)
    signed = [f"{step.label}  ({'+' if step.score > 0 else ''}{number(step.score)})" for step in steps]
    ends = f"baseline's output: {number(facts.baseline_output)}", f"output: {number(facts.output)}"
    _finish(axes, [ends[0], *signed, ends[1]], "output")

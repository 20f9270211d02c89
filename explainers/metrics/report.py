"""An evaluation as text and as pictures."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING

import numpy as np

from ..errors import BackendMissing
from .evaluation import GRID, Evaluation
from .statistics import Interval

if TYPE_CHECKING:
    from matplotlib.figure import Figure

ALPHA = 0.05
WIDTH = 100


def text(found: Evaluation) -> str:
    """A table of each metric, and the tests whose difference is more than chance."""
    try:
        from rich.console import Console
        from rich.table import Table
    except ImportError:
        return _plain(found)
    buffer = io.StringIO()
    console = Console(file=buffer, width=WIDTH, color_system=None)
    for label, rows in _by_metric(found).items():
        better = "higher" if found.metrics[label].higher else "lower"
        table = Table(title=f"{label}: {better} is better", title_justify="left", title_style="")
        table.add_column("method")
        known = [i for i in range(4) if i < 2 or any(row[i] for row in rows)]
        for i in known[1:]:
            table.add_column(("mean [95 %]", "over random [95 %]", "best")[i - 1], justify="right", no_wrap=True)
        for row in rows:
            table.add_row(*(row[i] for i in known))
        console.print(table)
    for line in _notes(found):
        console.print(line, highlight=False)
    return buffer.getvalue().rstrip()


def _plain(found: Evaluation) -> str:
    lines = []
    for label, rows in _by_metric(found).items():
        lines += [f"{label}: {'higher' if found.metrics[label].higher else 'lower'} is better"]
        lines += ["  " + "  ".join(cell.ljust(28) for cell in row) for row in rows]
    return "\n".join([*lines, *_notes(found)])


def _by_metric(found: Evaluation) -> dict[str, list[tuple[str, str, str, str]]]:
    tables: dict[str, list[tuple[str, str, str, str]]] = {label: [] for label in found.metrics}
    for row in found.rows_of_table():
        mean = Interval(row["mean"], row["low"], row["high"])
        over = Interval(row["calibrated"], row["calibrated_low"], row["calibrated_high"])
        best = "" if row["control"] or np.isnan(row["best"]) else f"{row['best']:.0%}"
        name = f"({row['method']})" if row["control"] else row["method"]
        calibrated = "" if np.isnan(over.mean) or row["method"] == "random" else shown(over)
        tables[row["metric"]].append((name, shown(mean), calibrated, best))
    return tables


def shown(interval: Interval) -> str:
    """A mean with its interval, in three figures."""
    if np.isnan(interval.mean):
        return "–"
    if np.isnan(interval.low):
        return f"{interval.mean:.3g}"
    return f"{interval.mean:.3g} [{interval.low:.3g}, {interval.high:.3g}]"


def _notes(found: Evaluation) -> list[str]:
    lines = []
    for label in found.metrics:
        reasons: dict[str, list[str]] = {}
        for name in found.scores[label]:
            reason = found.reason(label, name)
            if reason:
                reasons.setdefault(reason, []).append(name)
        lines += [f"{label}, no score for {', '.join(names)}: {reason}." for reason, names in reasons.items()]
    if found.count == 1:
        lines.append("One sample: there are no intervals and no tests.")
    sure = [test for test in found.tests() if test.p < ALPHA]
    for test in sure:
        better, worse = (test.first, test.second) if test.difference > 0 else (test.second, test.first)
        lines.append(f"{test.metric}: {better} is better than {worse} (p = {test.p:.2g}).")
    if len(found.methods) > 1 and not sure and found.count > 1:
        lines.append("No difference between two methods is more than chance (Holm over the metrics, 5 %).")
    saved = f", of {found.asked:,} that the metrics would have taken by themselves" if found.asked > found.rows else ""
    return [*lines, f"{found.count:,} samples; {found.rows:,} rows of the model{saved}."]


# --- pictures ------------------------------------------------------------------------------------


def _figure(columns: int, rows: int = 1, width: float = 5.0, height: float = 3.6) -> Figure:
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise BackendMissing("pictures need matplotlib: pip install 'explainers[plots]'") from error
    figure = Figure(figsize=(width * columns, height * rows), layout="constrained")
    figure.subplots(rows, columns, squeeze=False)
    return figure


def curves(found: Evaluation, metric: str) -> Figure:
    """The mean curves of a metric, with bands of ±1.96 standard errors; controls are dashed."""
    figure = _figure(1, width=8.0, height=4.0)
    axes = figure.axes[0]
    for name, curve in found.curves[metric].items():
        control = name in found.controls
        (line,) = axes.plot(GRID, curve.mean, "--" if control else "-", label=name, lw=1.2 if control else 1.8)
        band = 1.96 * curve.error
        axes.fill_between(GRID, curve.mean - band, curve.mean + band, color=line.get_color(), alpha=0.15, lw=0)
    kept = metric.startswith("insertion")
    axes.set_xlabel("share of features from the sample" if kept else "share of features at the baseline")
    axes.set_ylabel("explained output")
    axes.set_title(metric)
    figure.legend(loc="outside right upper", fontsize="small")
    return figure


def means(found: Evaluation) -> Figure:
    """The mean of each method by each metric, with its interval; controls in grey."""
    labels = list(found.metrics)
    columns = min(3, len(labels))
    names = [*found.methods, *found.controls]
    figure = _figure(columns, -(-len(labels) // columns), 4.2, 1.0 + 0.32 * len(names))
    for axes in figure.axes[len(labels) :]:
        axes.set_visible(False)
    for number, (axes, label) in enumerate(zip(figure.axes, labels, strict=False)):
        for place, name in enumerate(names):
            mean = found.mean(label, name) if name in found.scores[label] else Interval(np.nan, np.nan, np.nan)
            if np.isnan(mean.mean):
                continue
            color = "0.6" if name in found.controls else "C0"
            axes.plot(mean.mean, place, "o", color=color)
            if not np.isnan(mean.low):
                axes.plot([mean.low, mean.high], [place, place], "-", color=color)
        axes.set_yticks(range(len(names)), names if number % columns == 0 else [""] * len(names))
        axes.set_ylim(len(names) - 0.5, -0.5)
        axes.set_title(f"{label} ({'higher' if found.metrics[label].higher else 'lower'} is better)", fontsize="medium")
        axes.grid(axis="x", alpha=0.3)
    return figure

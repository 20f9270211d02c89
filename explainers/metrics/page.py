"""An evaluation as a self-contained HTML page, without scripts and without external resources."""

from __future__ import annotations

import os
from html import escape

from ..errors import BackendMissing
from ..plots import canvas
from ..plots.page import document
from . import report
from .evaluation import Evaluation

CURVES = 6  # pictures of curves, at most


def page(found: Evaluation, path: str | os.PathLike[str] | None) -> str:
    """The page as text, which is also written to ``path`` unless that is None."""
    methods = ", ".join(found.methods)
    title = f"Evaluation of {methods}: {found.count:,} sample{'s' * (found.count != 1)}"
    notes = "".join(f"<li>{escape(line)}</li>" for line in report.notes(found))
    body = f"""<ul>{notes}</ul>
<p class="key">Means of the samples with 95 % bootstrap intervals. Over random: how much better than a random
attribution, in standard deviations of its scores. Best: the share of resamples in which the method has the best mean.
In parentheses: controls.</p>
{_pictures(found)}
{"".join(_section(found, label, rows) for label, rows in report.by_metric(found).items())}"""
    return document(title, body, path, "tr.control { opacity: .7; }")


def _pictures(found: Evaluation) -> str:
    """The means of all metrics, and curves; nothing without matplotlib."""
    try:
        figures = [(found.plot(), "Means of all methods by all metrics; the tables below list the numbers.")]
        for label in list(found.curves)[:CURVES]:
            ends = "; ".join(
                f"{name} from {curve.mean[0]:.3g} over {curve.mean[50]:.3g} to {curve.mean[-1]:.3g}"
                for name, curve in found.curves[label].items()
            )
            figures.append((found.plot(label), f"Mean curves of {label}: {ends}."))
    except BackendMissing:
        return ""
    return "\n".join(f'<img src="{canvas.inline(figure)}" alt="{escape(alt)}">' for figure, alt in figures)


def _section(found: Evaluation, label: str, rows: list[report.Row]) -> str:
    shown = report.columns(rows)
    heads = "".join(f'<th scope="col">{escape(report.HEADINGS[i])}</th>' for i in shown)
    body = "\n".join(
        f'<tr{" class=control" if row[0].startswith("(") else ""}><th scope="row">{escape(row[0])}</th>'
        + "".join(f"<td>{escape(row[i])}</td>" for i in shown[1:])
        + "</tr>"
        for row in rows
    )
    kind = found.metrics[label]
    summary = escape((type(kind).__doc__ or "").strip().split("\n\n")[0])
    better = "Higher" if kind.higher else "Lower"
    return (
        f"<section><h2>{escape(label)}</h2><p>{summary} {better} scores are better.</p>"
        f'<div class="wide"><table><thead><tr>{heads}</tr></thead><tbody>\n{body}\n</tbody></table></div></section>\n'
    )

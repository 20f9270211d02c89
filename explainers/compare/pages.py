"""A comparison as Markdown, as an HTML page, and as a figure."""

from __future__ import annotations

import html as escaping
from typing import TYPE_CHECKING, Any

import numpy as np

from ..plots.page import document
from .measuring import CAPTION

if TYPE_CHECKING:
    from .comparison import Comparison

STYLE = """
table { font-size: .85rem; width: 100%; }
.compared th, .compared td { border: 1px solid #8886; padding: .25rem .5rem; text-align: right; }
.compared td { white-space: nowrap; }
.compared thead th { background: #8882; } .compared th:first-child { text-align: left; }
th[scope=row] { font-weight: 600; min-width: 8rem; overflow-wrap: anywhere; }
.agrees, .near, .differs { color: #1a1a1a; }
.agrees { background: #d7f0dc; } .near { background: #fdf0c4; } .differs { background: #f9d3d0; }
svg text { fill: currentColor; } svg text.cell { fill: #1a1a1a; } svg { color: inherit; }
"""
COLORS = {"agrees": "#d7f0dc", "near": "#fdf0c4", "differs": "#f9d3d0"}


def markdown(comparison: Comparison) -> str:
    parts = [comparison.title, _markdown(comparison.candidates.columns, comparison.candidates.cells())]
    if comparison.pairs:
        parts.append(_markdown(comparison.pairs.shown, comparison.pairs.cells(medians=True)))
    return "\n\n".join(parts) + "\n"


def _markdown(head: tuple[str, ...], rows: list[tuple[str, ...]]) -> str:
    lines = [head, tuple("---" for _ in head), *rows]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)


def html(comparison: Comparison) -> str:
    """A self-contained page, without scripts and without external resources."""
    title = escaping.escape(comparison.title)
    body = [f"<p>{title}.</p>", _candidates(comparison)]
    if comparison.pairs:
        body += [_matrix(comparison), _pairs(comparison)]
    return document("Comparison of explanations", "\n".join(body), None, STYLE)


def _table(caption: str, head: tuple[str, ...], rows: list[str]) -> str:
    cells = "".join(f'<th scope="col">{escaping.escape(name)}</th>' for name in head)
    return (
        f'<p class="key">{escaping.escape(caption)}</p><div class="wide compared"><table>'
        f"<thead><tr>{cells}</tr></thead><tbody>\n{chr(10).join(rows)}\n</tbody></table></div>"
    )


def _row(title: tuple[str, ...], cells: list[str], kind: str = "") -> str:
    """A table row. ``title``: lines of its first cell. ``cells``: texts; a part in brackets goes on a second line."""
    numbers = (escaping.escape(cell).replace(" (", "<br><small>(").replace(")", ")</small>") for cell in cells)
    head = "<br>".join(escaping.escape(line) for line in title if line)
    return f'<tr class="{kind}"><th scope="row">{head}</th>{"".join(f"<td>{cell}</td>" for cell in numbers)}</tr>'


def _candidates(comparison: Comparison) -> str:
    rows = [
        _row(row.title, list(cells))
        for row, cells in zip(comparison.candidates, comparison.candidates.numeric(), strict=True)
    ]
    headings = (", ".join(filter(None, heading)) for heading in comparison.candidates.headings)
    return "<h2>Candidates</h2>" + _table(CAPTION, ("candidate", *headings), rows)


def _pairs(comparison: Comparison) -> str:
    rows = []
    for pair, line in zip(comparison.pairs, comparison.pairs.cells(medians=True), strict=True):
        rows.append(_row(line[:2], list(line[2:]), pair.verdict(comparison.tolerance)))
    caption = "Each measure has the value of the worst sample, and the median over samples in brackets."
    return "<h2>Pairs</h2>" + _table(caption, ("pair", *comparison.pairs.shown[2:]), rows)


def _matrix(comparison: Comparison) -> str:
    """The relative differences of all pairs as an SVG image, whose description lists the numbers as text."""
    names, values = list(comparison.attributions), comparison.matrix()
    size, left, n = 64, 250, len(names)
    verdicts = {frozenset((p.left, p.right)): p.verdict(comparison.tolerance) for p in comparison.pairs}
    parts = []
    for i, name in enumerate(names):
        y = 30 + i * size
        label = escaping.escape(_short(f"{i + 1}. {name}", 34))
        parts.append(f'<text x="{left - 8}" y="{y + 36}" text-anchor="end">{label}</text>')
        parts.append(f'<text x="{left + i * size + 32}" y="20" text-anchor="middle">{i + 1}</text>')
        for j, other in enumerate(names):
            verdict = verdicts.get(frozenset((name, other)), "agrees")
            x = left + j * size
            parts.append(
                f'<rect x="{x}" y="{y}" width="{size}" height="{size}" fill="{COLORS[verdict]}" stroke="#fff"/>'
            )
            lines = ["–"] if i == j else [f"{values[i, j]:.1e}", verdict]
            parts += [
                f'<text x="{x + 32}" y="{y + 30 + 18 * k}" text-anchor="middle" class="cell">{line}</text>'
                for k, line in enumerate(lines)
            ]
    description = "; ".join(
        f"{p.left} and {p.right}: {p.relative:.3g}, {p.verdict(comparison.tolerance)}" for p in comparison.pairs
    )
    width, height = left + n * size + 4, 34 + n * size
    return (
        f'<h2>Relative differences</h2><div class="wide"><svg role="img" viewBox="0 0 {width} {height}" '
        f'style="max-width:100%;height:auto" width="{width}" height="{height}" font-size="12" '
        f'font-family="system-ui, sans-serif" '
        f'aria-label="{escaping.escape(description)}"><title>{escaping.escape(description)}</title>{"".join(parts)}</svg></div>'
    )


def _short(text: str, limit: int) -> str:
    return text if len(text) <= limit else text[: limit - 1] + "…"


def draw(comparison: Comparison, figure: Any, colors: Any) -> Any:
    """A matrix of the pairs, and bars of latency and memory. ``figure``: Figure class. ``colors``: colormap class."""
    names = [_short(name, 30) for name in comparison.attributions]
    n = len(names)
    page = figure(figsize=(6 + 0.7 * n, 2.2 + 0.55 * n), layout="constrained")
    matrix, latency, memory = page.subplots(1, 3, width_ratios=[2, 1, 1])
    values, kinds = comparison.matrix(), list(COLORS)
    shades = np.zeros((n, n))
    for pair in comparison.pairs:
        i, j = list(comparison.attributions).index(pair.left), list(comparison.attributions).index(pair.right)
        shades[i, j] = shades[j, i] = kinds.index(pair.verdict(comparison.tolerance))
    matrix.imshow(shades, cmap=colors(list(COLORS.values())), vmin=0, vmax=len(kinds) - 1, aspect="auto")
    for i in range(n):
        for j in range(n):
            text = "–" if i == j else f"{values[i, j]:.0e}\n{kinds[int(shades[i, j])]}"
            matrix.text(j, i, text, ha="center", va="center", fontsize=8)
    matrix.set_xticks(range(n), [str(i + 1) for i in range(n)])
    matrix.set_yticks(range(n), [f"{i + 1}. {name}" for i, name in enumerate(names)])
    matrix.set_title("largest relative difference")
    for axes, column, title in ((latency, "all_ms", "ms, all samples"), (memory, "peak_mb", "peak MB")):
        bars = [getattr(row, column) or 0.0 for row in comparison.candidates]
        axes.barh(range(n), bars, color="#4477aa")
        axes.set_yticks(range(n), [str(i + 1) for i in range(n)])
        axes.set_ylim(n - 0.5, -0.5)
        axes.set_title(title)
    return page

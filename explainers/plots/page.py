"""Explanations as HTML: a self-contained page, and a fragment for notebooks."""

from __future__ import annotations

import base64
import hashlib
import os
from collections.abc import Sequence
from html import escape

from ..errors import ExplainersError
from ..explainer.explanation import Explanation
from ..file import writing
from . import canvas, layout, tokens
from .kinds import resolve
from .layout import KindAndPanel
from .view import Facts, View, facts_of, largest, number, panels

LONG = 720  # pixels of a picture that scrolls on narrow screens, where it would be too small to read

STYLE = """
:root { color-scheme: light dark; }
body { font: 15px/1.5 system-ui, sans-serif; margin: 0 auto; padding: 1rem; max-width: 90rem; overflow-wrap: anywhere; }
h1 { font-size: 1.4rem; line-height: 1.25; } h2 { font-size: 1.1rem; margin: 1.2rem 0 .3rem; }
.row { display: flex; flex-wrap: wrap; gap: 0 1.6rem; align-items: start; } .row > * { min-width: 0; max-width: 100%; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; overflow-wrap: normal; }
th, td { text-align: left; vertical-align: bottom; padding: .15rem .9rem .15rem 0; }
th, td { border-bottom: 1px solid rgba(128, 128, 128, .35); }
img { max-width: 100%; height: auto; background: #fff; border-radius: 6px; display: block; margin: .3rem 0; }
.tokens { line-height: 2; margin: .3rem 0; }
.token { padding: .1em .25em; border-radius: 3px; }
.negative { border-bottom: 2px dotted currentColor; }
.nonfinite { background: repeating-linear-gradient(45deg, #9996 0 4px, transparent 4px 8px); }
.key { font-size: .9rem; } ul.key { padding: 0; list-style: none; }
.legend { white-space: nowrap; } .legend i { display: inline-block; width: 7rem; height: .8em; border-radius: 3px;
  background: linear-gradient(to right, #053061, #4393c3, #f7f7f7, #d6604d, #67001f); vertical-align: -.05em; }
.legend.words i { background: linear-gradient(to right, rgba(33, 102, 172, .7), transparent, rgba(178, 24, 43, .7)); }
.long img { min-width: 40rem; }
@media (max-width: 36rem) { table { font-size: .75rem; } th, td { padding-right: .4rem; } }
"""


def page(explanation: Explanation, path: str | os.PathLike[str] | None, kind: str, view: View) -> str:
    """The page as text, which is also written to ``path`` unless that is None."""
    lines = [[(resolve(kind, p, view), p) for p in line] for line in panels(explanation, view)]
    scale = largest([k.drawn_scores(p, view) for line in lines for k, p in line])
    method = explanation.method
    count = len(explanation.outputs)
    sample_count = f"{len(lines)} of {count} samples" if len(lines) < count else f"{count} sample{'s' * (count > 1)}"
    shared = legend(lines, scale)
    sections = "\n".join(_section(line, view, scale) for line in lines)
    body = f"""<p><code>{escape(str(method))}</code></p>
<p class="key">{key(lines)}{f" All pictures share one scale: {shared}" if shared else ""}</p>
{_overview([line[0][1].facts for line in lines])}
<div class="row">{sections}</div>"""
    return document(f"{method.name}: attributions of {sample_count}", body, path)


def document(title: str, body: str, path: str | os.PathLike[str] | None, style: str = "", script: str = "") -> str:
    """A page with its title as the heading, which is also written to ``path`` unless that is None.

    It loads nothing from elsewhere, and runs no script but ``script``: its policy names that by its checksum.
    """
    policy = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
    tail = ""
    if script:
        checksum = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
        policy += f"; script-src 'sha256-{checksum}'"
        tail = f"<script>{script}</script>\n"
    text = f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="{policy}">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{escape(title)}</title>
<style>{STYLE}{style}</style>
</head>
<body>
<main>
<h1>{escape(title)}</h1>
{body}
</main>
{tail}</body>
</html>
"""
    if path is not None:
        writing.text(path, text)
    return text


def key(lines: Sequence[Sequence[KindAndPanel]]) -> str:
    """A sentence on how to read the plots."""
    kinds = {kind.name for line in lines for kind, _ in line}
    signs = "Red adds to the target's output, blue takes away"
    if "logo" in kinds:
        letters = "letters above the line add to the target's output, those below take away"
        signs = letters.capitalize() if kinds == {"logo"} else f"{signs}; {letters}"
    if kinds == {"waterfall"}:
        return f"{signs}. The axes are in units of the output."
    return f"{signs}."


def legend(lines: Sequence[Sequence[KindAndPanel]], scale: float) -> str:
    """The scale, with its colours where pictures have no axis for it; "" for waterfalls, each with its own."""
    kinds = {kind.name: kind for line in lines for kind, _ in line}
    if set(kinds) == {"waterfall"}:
        return ""
    if not any(kind.coloured for kind in kinds.values()):
        return f"up to ±{number(scale)}"
    words = " words" if set(kinds) == {"tokens"} else ""
    mean = (
        " around the mean of each picture"
        if any(panel.facts.only_differences for line in lines for _, panel in line)
        else ""
    )
    return f'<span class="legend{words}">{number(-scale)} <i></i> {number(scale)}</span>{mean}'


def _overview(facts: Sequence[Facts]) -> str:
    """A table with one row for each sample."""
    heads = ["sample", "target", "output", "baseline's output", "completeness gap", "evaluations"]
    body = []
    for sample in facts:
        cells = [
            str(sample.position), sample.target.removeprefix("target ").removeprefix("target: "),
            number(sample.output),
            "–" if sample.baseline_output is None else number(sample.baseline_output),
            "–" if sample.gap is None else number(sample.gap), f"{sample.evaluations:,}",
        ]  # fmt: skip
        body.append("<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in cells) + "</tr>")
    head = "".join(f'<th scope="col">{escape(name)}</th>' for name in heads)
    return (
        f'<div class="wide"><table><thead><tr>{head}</tr></thead><tbody>\n'
        + "\n".join(body)
        + "\n</tbody></table></div>"
    )


def _section(line: Sequence[KindAndPanel], view: View, scale: float) -> str:
    facts = line[0][1].facts
    heading = f"<h2>Sample {facts.position}: {escape(facts.target)}</h2>"
    if image := input_picture(line, view):
        return f'<section>{heading}<div class="row">{image}{pictures(line, view, scale)[0]}</div></section>'
    html, style = pictures(line, view, scale)
    return f"<section{style}>{heading}{html}</section>"


def pictures(line: Sequence[KindAndPanel], view: View, scale: float) -> tuple[str, str]:
    """The attributions of one sample, words as text and one picture of everything else; and its box's style attribute.

    In a row, a box may shrink by a quarter, so that two pictures fit side by side on most screens.
    """
    parts = [tokens.html(panel, view, scale) for kind, panel in line if kind.name == "tokens"]
    style = ""
    if drawn := [entry for entry in line if entry[0].name != "tokens"]:
        figure = layout.untitled(drawn, view, scale)
        width = round(canvas.DPI * figure.get_figwidth())
        style = f' style="flex: 1 1 {round(0.75 * width)}px; max-width: min(100%, {width}px)"'
        image = f'<img src="{canvas.inline(figure)}" alt="{escape(figure.alt)}">'
        parts.append(f'<div class="wide long">{image}</div>' if width > LONG else image)
    return "\n".join(parts), style


def input_picture(line: Sequence[KindAndPanel], view: View) -> str:
    """The sample itself, if it is one image; "" otherwise."""
    (kind, panel), *others = line
    if others or kind.name != "image" or panel.values is None:
        return ""
    figure = layout.input_image(kind, panel, view)
    return f'<img src="{canvas.inline(figure)}" alt="{escape(figure.alt)}">'


def notebook(explanation: Explanation) -> str:
    """The plot and a small table, for a notebook's output; an explanation that cannot be drawn shows the error."""
    view = View(allow_nonfinite=True, output=_first_output(explanation))
    count = len(explanation.outputs)
    heading = f"<p><b>{escape(explanation.method.name)}</b>, {count} sample{'s' * (count != 1)}</p>"
    if not count:
        return heading
    table = _overview([facts_of(explanation, view, i) for i in view.positions(count)])
    try:
        from . import draw

        figure = draw(explanation, "auto", view)
        picture = f'<img src="{canvas.inline(figure)}" alt="{escape(figure.alt)}" style="max-width:100%">'
    except ExplainersError as error:
        picture = f"<p>{escape(str(error))}</p>"
    return heading + picture + table


def _first_output(explanation: Explanation) -> tuple[int, ...] | None:
    return (0,) * (explanation.outputs.ndim - 1) if isinstance(explanation.target, str) else None

"""Explanations as HTML: a self-contained page, and a fragment for notebooks."""

from __future__ import annotations

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

STYLE = """
:root { color-scheme: light dark; }
body { font: 15px/1.5 system-ui, sans-serif; margin: 0 auto; padding: 1rem; max-width: 72rem; overflow-wrap: anywhere; }
h1 { font-size: 1.4rem; } h2 { font-size: 1.1rem; margin: 2rem 0 .5rem; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; overflow-wrap: normal; }
th, td { text-align: left; vertical-align: bottom; padding: .15rem .9rem .15rem 0; }
th, td { border-bottom: 1px solid rgba(128, 128, 128, .35); }
img { max-width: 100%; height: auto; background: #fff; border-radius: 6px; display: block; margin: .6rem 0; }
.tokens { line-height: 2; }
.token { padding: .1em .25em; border-radius: 3px; }
.negative { border-bottom: 2px dotted currentColor; }
.nonfinite { background: repeating-linear-gradient(45deg, #9996 0 4px, transparent 4px 8px); }
.key { font-size: .9rem; }
@media (max-width: 36rem) { table { font-size: .8rem; } th, td { padding-right: .5rem; } }
"""


def page(explanation: Explanation, path: str | os.PathLike[str] | None, kind: str, view: View) -> str:
    """The page as text, which is also written to ``path`` unless that is None."""
    lines = [[(resolve(kind, p, view), p) for p in line] for line in panels(explanation, view)]
    scale = largest([k.drawn_scores(p, view) for line in lines for k, p in line])
    method = explanation.method
    count = len(explanation.outputs)
    sample_count = f"{len(lines)} of {count} samples" if len(lines) < count else f"{count} sample{'s' * (count > 1)}"
    sections = "\n".join(_section(line, view, scale) for line in lines)
    body = f"""<p><code>{escape(str(method))}</code></p>
<p class="key">{_key(lines, scale)}</p>
{_overview([line[0][1].facts for line in lines])}
{sections}"""
    return document(f"{method.name}: attributions of {sample_count}", body, path)


def document(title: str, body: str, path: str | os.PathLike[str] | None, style: str = "") -> str:
    """A page with its title as the heading, which is also written to ``path`` unless that is None."""
    text = f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{escape(title)}</title>
<style>{STYLE}{style}</style>
</head>
<body>
<main>
<h1>{escape(title)}</h1>
{body}
</main>
</body>
</html>
"""
    if path is not None:
        writing.text(path, text)
    return text


def _key(lines: Sequence[Sequence[KindAndPanel]], scale: float) -> str:
    """A sentence on how to read the plots."""
    kinds = {kind.name for line in lines for kind, _ in line}
    signs = "Red adds to the target's output, blue takes away"
    if "logo" in kinds:
        letters = "letters above the line add to the target's output, those below take away"
        signs = letters.capitalize() if kinds == {"logo"} else f"{signs}; {letters}"
    if kinds == {"waterfall"}:
        return f"{signs}. The axes are in units of the output."
    return f"{signs}. All pictures share one scale, up to ±{number(scale)}."


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
    parts = [f"<section><h2>Sample {facts.position}: {escape(facts.target)}</h2>"]
    pictures = [entry for entry in line if entry[0].name != "tokens"]
    parts += [tokens.html(panel, view, scale) for kind, panel in line if kind.name == "tokens"]
    if pictures:
        figure = (
            layout.images([pictures[0]], view, scale)
            if len(pictures) == 1 and pictures[0][0].name == "image"
            else layout.samples([pictures], view, "", scale)
        )
        parts.append(f'<img src="{canvas.inline(figure)}" alt="{escape(figure.alt)}">')
    return "\n".join([*parts, "</section>"])


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

"""A page to look through many samples, by several methods and for several targets. It works without a network."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from html import escape
from importlib.resources import files

import numpy as np

from ..errors import InputError, NonFiniteError
from ..explainer.explanation import Explanation
from ..spec import Numpy
from . import page as pages
from .kinds import resolve
from .layout import KindAndPanel
from .view import View, largest, number, one_output, panels, target_name

Explanations = Mapping[str, Explanation | Sequence[Explanation] | Mapping[str, Explanation]]
PICTURES = 2000  # on a page: one to three minutes to draw, and 10 MB (digits) to 130 MB (signals)
OWN = "each sample's own"

STYLE = """
#controls { display: flex; flex-wrap: wrap; gap: .6rem 1.6rem; align-items: end; margin: 1rem 0; }
fieldset { border: 0; margin: 0; padding: 0; min-width: 0; } legend { padding: 0; font-size: .9rem; }
label { display: inline-block; } fieldset label { margin-right: .9rem; } .name { display: block; font-size: .9rem; }
button, input[type=number], select { font: inherit; padding: .15rem .6rem; max-width: 100%; }
input[type=number] { width: 6rem; } select { max-width: 16rem; }
figure { margin: 0; min-width: 0; max-width: 100%; } figcaption { font-weight: 600; }
ul.key { display: flex; flex-wrap: wrap; gap: .2rem 1.6rem; margin: .3rem 0; } [hidden] { display: none !important; }
dl { display: grid; grid-template-columns: auto auto; gap: 0 .9rem; margin: 0; justify-content: start; }
dl { font-variant-numeric: tabular-nums; font-size: .9rem; } dd { margin: 0; }
"""


@dataclass(frozen=True)
class Cell:
    """One sample by one method for one target: what is drawn, and the sum of all attributions if they add up."""

    line: list[KindAndPanel]
    total: float | None


@dataclass(frozen=True)
class Block:
    """One method for one target: the cell of each sample."""

    target: str
    cells: list[Cell]


def browser(explanations: Explanations, path: str | os.PathLike[str] | None, kind: str, view: View) -> str:
    """The page as text, which is also written to ``path`` unless that is None."""
    explained = {name: _by_target(name, given, view) for name, given in explanations.items()}
    if not explained:
        raise InputError("a browser needs at least one explanation; got none")
    targets = _targets(explained)
    view = _same_samples(explained, view)
    _check_size(len(view.samples), len(explained), len(targets))  # type: ignore[arg-type]
    table = {
        name: [Block(target, _cells(f"{name!r}, target {target!r}", one, kind, chosen))
               for target, (one, chosen) in by_target.items()]
        for name, by_target in _at(explained, view)
    }  # fmt: skip
    scales = {
        name: largest([k.drawn_scores(p, view) for block in blocks for cell in block.cells for k, p in cell.line])
        for name, blocks in table.items()
    }
    count = len(next(iter(table.values()))[0].cells)
    title = f"Attributions of {count:,} sample{'s' * (count != 1)} by {', '.join(table)}"
    keys = "".join(
        f'<li data-key="{place}"><b>{escape(name)}</b> {legend}</li>'
        for place, (name, blocks) in enumerate(table.items())
        if (legend := pages.legend(_lines(blocks), scales[name]))
    )
    how = pages.key([line for blocks in table.values() for line in _lines(blocks)])
    body = f"""<p id="unscripted">Without scripts, all samples follow, one below the other.</p>
{_controls(list(table), targets)}
<p class="key">{how}{" Each method has one scale:" if keys else ""}</p>
<ul class="key">{keys}</ul>
{"".join(_section(i, table, targets, scales, view) for i in range(count))}"""
    script = files(__package__).joinpath("browser.js").read_text(encoding="utf-8")
    return pages.document(title, body, path, STYLE, script)


# --- what is shown --------------------------------------------------------------------------------


def _by_target(
    name: str, given: Explanation | Sequence[Explanation] | Mapping[str, Explanation], view: View
) -> dict[str, tuple[Explanation, View]]:
    """The explanations of one method by the names of their targets, each with the view that shows it."""
    if isinstance(given, Mapping):
        named = list(given.items())
    else:
        named = [("", one) for one in ([given] if isinstance(given, Explanation) else given)]
    found: dict[str, tuple[Explanation, View]] = {}
    for target, explanation in named:
        if not isinstance(explanation, Explanation):
            raise InputError(
                f"{name!r} must be an Explanation, a list of them, or a dict of them by target; got "
                f"{type(explanation).__name__}"
            )
        for label, chosen in _outputs(explanation, view):
            full = ", ".join(filter(None, (target, label if chosen is not view else ""))) if target else label
            if full in found:
                raise InputError(
                    f"two explanations of {name!r} have the target {full!r}: give each a name, as in "
                    f"{{{name!r}: {{'its name': explanation}}}}"
                )
            found[full] = explanation, chosen
    if not found:
        raise InputError(f"{name!r} has no explanations")
    return found


def _outputs(explanation: Explanation, view: View) -> Iterator[tuple[str, View]]:
    """The name of the target and the view; with ``target="all"``, of each output unless the view chooses one."""
    mask = explanation.target
    if not isinstance(mask, str):
        same = not len(mask) or (mask == mask[:1]).all()
        yield (target_name(mask[0], view) if same and len(mask) else OWN), view
    elif view.output is not None:
        one_output(next(iter(explanation.parts().values())), explanation, view)
        index = (view.output,) if isinstance(view.output, int) else tuple(view.output)
        yield view.class_name(index), view
    else:
        shape = explanation.outputs.shape[1:]
        for index in np.ndindex(shape):
            yield (view.class_name(index) if shape else "the output"), replace(view, output=index)


def _targets(explained: Mapping[str, Mapping[str, tuple[Explanation, View]]]) -> list[str]:
    """The targets, which are the same for all methods."""
    (first, known), *others = explained.items()
    for name, by_target in others:
        for missing, owner, other in (
            (known.keys() - by_target.keys(), name, first),
            (by_target.keys() - known.keys(), first, name),
        ):
            if missing:
                listed = ", ".join(map(repr, sorted(missing)[:5]))
                raise InputError(
                    f"{owner!r} has no explanation of the target {listed}, and {other!r} has; explain the same "
                    "targets by every method"
                )
    return list(known)


def _same_samples(explained: Mapping[str, Mapping[str, tuple[Explanation, View]]], view: View) -> View:
    """The view with the positions of the samples, which are those of every explanation."""
    first: tuple[str, Explanation, dict[str, Numpy]] | None = None
    for name, by_target in explained.items():
        for target, (explanation, _) in by_target.items():
            label = f"{name!r}, target {target!r}"
            inputs = explanation.inputs
            if first is None:
                first = label, explanation, inputs
            counts = len(first[1].outputs), len(explanation.outputs)
            if counts[0] != counts[1]:
                raise InputError(
                    f"{first[0]} has {counts[0]} samples, and {label} has {counts[1]}; explain the same samples"
                )
            for key in first[2].keys() & inputs.keys():
                _check_equal(first[2][key], inputs[key], f"the input {key!r} of {first[0]} and of {label}")
    assert first is not None
    count = len(first[1].outputs)
    if not count:
        raise InputError("the explanations have no samples, so there is nothing to show")
    return replace(view, samples=view.positions(count))


def _check_equal(one: Numpy, other: Numpy, what: str) -> None:
    if one is other:
        return
    if one.shape == other.shape:
        numeric = one.dtype.kind in "fc" and other.dtype.kind in "fc"
        if np.array_equal(one, other, equal_nan=numeric):
            return
    raise InputError(f"{what} are not the same samples; a browser shows explanations of the same samples")


def _check_size(samples: int, methods: int, targets: int) -> None:
    pictures = samples * methods * targets
    if pictures > PICTURES:
        fits = PICTURES // (methods * targets)
        advice = f"at most {fits} samples (samples={fits}), or " if fits else ""
        raise InputError(
            f"{samples:,} samples by {methods:,} methods for {targets:,} targets are {pictures:,} pictures, and a page "
            f"has at most {PICTURES:,}. Show {advice}fewer targets or methods a page"
        )


def _at(
    explained: Mapping[str, Mapping[str, tuple[Explanation, View]]], view: View
) -> Iterator[tuple[str, dict[str, tuple[Explanation, View]]]]:
    for name, by_target in explained.items():
        yield name, {t: (one, replace(own, samples=view.samples)) for t, (one, own) in by_target.items()}


def _cells(label: str, explanation: Explanation, kind: str, view: View) -> list[Cell]:
    try:
        lines = panels(explanation, view)
        entries = [[(resolve(kind, panel, view), panel) for panel in line] for line in lines]
    except NonFiniteError as error:
        raise NonFiniteError(f"{label}: {error}") from error
    except InputError as error:
        raise InputError(f"{label}: {error}") from error
    return [Cell(entry, _total(explanation, entry)) for entry in entries]


def _total(explanation: Explanation, line: Sequence[KindAndPanel]) -> float | None:
    """Σ attribution over all attributed values; None where it is unknown how many elements share an effect."""
    panel = line[0][1]
    if explanation.method.has_groups or explanation.groups is not None:
        facts = panel.facts
        if facts.gap is None or facts.baseline_output is None:
            return None
        return facts.gap + facts.output - facts.baseline_output
    return float(panel.scores.sum()) + panel.elsewhere


# --- how it is shown ------------------------------------------------------------------------------


def _lines(blocks: Sequence[Block]) -> list[list[KindAndPanel]]:
    return [cell.line for block in blocks for cell in block.cells]


def _controls(methods: Sequence[str], targets: Sequence[str]) -> str:
    boxes = "".join(
        f'<label><input type="checkbox" name="method" value="{escape(name)}" checked> {escape(name)}</label>'
        for name in methods
    )
    options = "".join(f'<option value="{place}">{escape(target)}</option>' for place, target in enumerate(targets))
    return f"""<form id="controls" aria-label="what is shown" autocomplete="off" hidden>
<div><label><span class="name">sample</span> <input type="number" name="sample" min="0" step="1"></label>
<button type="button" name="previous" aria-keyshortcuts="ArrowLeft">← previous</button>
<button type="button" name="next" aria-keyshortcuts="ArrowRight">next →</button>
<output name="place" aria-live="polite"></output></div>
<label><span class="name">target</span> <select name="target">{options}</select></label>
<fieldset><legend>methods</legend>{boxes}</fieldset>
</form>"""


def _section(
    i: int, table: Mapping[str, Sequence[Block]], targets: Sequence[str], scales: Mapping[str, float], view: View
) -> str:
    """One sample: its input if that is an image, and a figure for each target and method."""
    first = next(iter(table.values()))[0].cells[i]
    image = pages.input_picture(first.line, view)
    figures = [f"<figure><figcaption>input</figcaption>{image}</figure>"] if image else []
    for place, target in enumerate(targets):
        for column, (name, blocks) in enumerate(table.items()):
            (cell,) = [block.cells[i] for block in blocks if block.target == target]
            html, style = pages.pictures(cell.line, view, scales[name])
            figures.append(
                f'<figure data-method="{column}" data-target="{place}"{style}><figcaption>{escape(name)}</figcaption>'
                f"{html}{_numbers(cell)}</figure>"
            )
    position = first.line[0][1].facts.position
    return (
        f'<section data-sample="{position}"><h2>Sample {position}</h2><div class="row">{"".join(figures)}</div>'
        "</section>\n"
    )


def _numbers(cell: Cell) -> str:
    facts = cell.line[0][1].facts
    rows = [
        ("target", facts.target.removeprefix("target ").removeprefix("target: ")),
        ("output", number(facts.output)),
        ("baseline's output", "–" if facts.baseline_output is None else number(facts.baseline_output)),
        ("sum of attributions", "–" if cell.total is None else number(cell.total)),
    ]
    return "<dl>" + "".join(f"<dt>{name}</dt><dd>{escape(value)}</dd>" for name, value in rows) + "</dl>"

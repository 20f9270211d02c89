"""The command ``report``: explain a few samples of a file and write a page about them."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from .. import plots, tables
from ..errors import InputError
from . import files, sources
from .calls import (
    Baseline,
    Columns,
    Device,
    File,
    Inputs,
    Output,
    Seed,
    Setting,
    Target,
    bound,
    incomplete,
    loaded,
    some,
    with_columns,
)
from .commands import app, destination, say, told, warn


@app.command(epilog="Example: explainers report digits.explainer inputs.npy --target max -o report.html")
def report(
    file: File,
    inputs: Inputs,
    output: Output,
    target: Target = None,
    baseline: Baseline = None,
    seed: Seed = None,
    samples: Annotated[str, typer.Option(help="How many from the first on; or which: 0,5,7, or 5, for one.")] = "20",
    kind: Annotated[str, typer.Option(help=f"auto, {', '.join(plots.KINDS)}.")] = "auto",
    names: Annotated[str | None, typer.Option(help="Features, letters or words: a,b,c, or @file: one a line.")] = None,
    classes: Annotated[str | None, typer.Option(help="The outputs' names: a,b,c, or @file: one a line.")] = None,
    channels: Annotated[str | None, typer.Option(help="first or last.")] = None,
    columns: Columns = None,
    device: Device = None,
    setting: Setting = None,
    allow_nonfinite: Annotated[bool, typer.Option("--allow-nonfinite", help="Show NaN and infinity in grey.")] = False,
) -> None:
    """Write a page that shows the explanations of some samples and needs nothing else."""
    with told("report"):
        destination(output)
        explain = loaded(file, device, setting)
        explain = with_columns(explain, columns)
        found = bound(explain, files.read(inputs))
        chosen = _chosen(samples, found[0].shape[0])
        base = tables.aligned(sources.baseline(baseline), explain.attributed)
        given = {"target": sources.target(target), "baseline": base, "seed": seed}
        request = some(explain, found, given, chosen, allow_nonfinite)
        explanation = request.explanation(request.packages.run(request.call))
        view: dict[str, Any] = {"channels": channels, "classes": _listed(classes), "allow_nonfinite": allow_nonfinite}
        shown = {"samples": len(chosen), "names": _listed(names) or None, "numbers": chosen}
        plots.page(explanation, output, kind=kind, **shown, **view)
        warn(incomplete(explain))
        say(f"{output}: {len(chosen)} samples", output)


def _chosen(text: str, total: int) -> list[int]:
    """``"20"``: the first 20; ``"0,5,7"`` or ``"5,"``: these."""
    try:
        parts = [int(part) for part in text.split(",") if part.strip()]
    except ValueError as error:
        raise InputError(f"--samples takes a number, or positions such as 0,5,7; got {text!r}") from error
    if not total:
        raise InputError("there are no samples")
    return plots.View(samples=parts if "," in text else parts[0] if parts else 0).positions(total)


def _listed(text: str | None) -> list[str] | None:
    """Names in a line, or in the lines of a file."""
    if text is None:
        return None
    letters = len(text) > 1 and "," not in text and not text.startswith("@")
    return list(text) if letters else sources.names(text)

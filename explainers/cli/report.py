"""The command ``report``: explain some samples of a file and write an HTML page about them."""

from __future__ import annotations

from typing import Annotated, Any

import numpy as np
import typer

from .. import plots
from ..errors import InputError
from ..explainer.slices import Whole
from . import files, sources
from .calls import (
    Baseline,
    Columns,
    Device,
    Explained,
    Inputs,
    Output,
    ProgramForm,
    Seed,
    Setting,
    Target,
    Trusted,
    baseline_of,
    incomplete_warning,
    prepared,
    read_rows,
)
from .commands import app, command_errors, destination, say, warn
from .loading import Compiling, Subject
from .options import MethodName, ModelOptions, ReferenceSet, TableKind, with_model_options
from .usage import UsageError


@app.command(epilog="Example: explainers report digits.explainer inputs.npy --target max -o report.html")
@with_model_options
def report(
    explainer: Explained,
    inputs: Inputs,
    output: Output,
    method: MethodName = None,
    target: Target = None,
    baseline: Baseline = None,
    references: ReferenceSet = None,
    seed: Seed = None,
    samples: Annotated[
        str, typer.Option(help="How many, from the first one on; or which: 0,5,7, or 5, for a single one.")
    ] = "20",
    kind: Annotated[str, typer.Option(help=f"auto, {', '.join(plots.KINDS)}.")] = "auto",
    names: Annotated[
        str | None, typer.Option(help="Names of features, letters or words: a,b,c, or @file with one per line.")
    ] = None,
    classes: Annotated[
        str | None, typer.Option(help="Names of the outputs: a,b,c, or @file with one per line.")
    ] = None,
    channels: Annotated[str | None, typer.Option(help="Where the axis of channels is: first or last.")] = None,
    columns: Columns = None,
    device: Device = None,
    setting: Setting = None,
    allow_nonfinite: Annotated[bool, typer.Option("--allow-nonfinite", help="Show NaN and infinity in grey.")] = False,
    table_kind: TableKind = None,
    trusted: Trusted = None,
    program: ProgramForm = None,
    *,
    options: ModelOptions,
) -> None:
    """Write a self-contained page with the explanations of some samples."""
    with command_errors("report"):
        destination(output)
        compiling = Compiling(method, setting or (), options, device, table_kind, trusted, program)
        explain, bound_inputs = prepared(Subject.of(explainer), compiling, files.read(inputs), columns)
        positions = _positions(samples, bound_inputs[0].shape[0])
        baseline_value = baseline_of(explain, baseline, references)
        whole = Whole(
            sources.target(target), baseline_value, seed, bound_inputs[0].shape[0],
            allow_nonfinite=allow_nonfinite, details=True,
        )  # fmt: skip
        index = np.array(positions)
        request = whole.request(explain, [read_rows(array, index) for array in bound_inputs], index)
        explanation = request.explanation(request.packages.run(request.call))
        view: dict[str, Any] = {
            "channels": channels,
            "classes": _name_list(classes),
            "allow_nonfinite": allow_nonfinite,
        }
        selection = {"samples": len(positions), "names": _name_list(names) or None, "numbers": positions}
        plots.page(explanation, output, kind=kind, **selection, **view)
        warn(incomplete_warning(explain))
        say(f"{output}: {len(positions)} samples", output)


def _positions(text: str, total: int) -> list[int]:
    """Sample positions: ``"20"`` means the first 20; ``"0,5,7"`` and ``"5,"`` list them."""
    try:
        parts = [int(part) for part in text.split(",") if part.strip()]
    except ValueError as error:
        raise UsageError(f"--samples takes a number, or positions such as 0,5,7; got {text!r}") from error
    if not total:
        raise InputError("there are no samples")
    return plots.View(samples=parts if "," in text else parts[0] if parts else 0).positions(total)


def _name_list(text: str | None) -> list[str] | None:
    """Names from ``a,b,c``, from the lines of ``@file``, or single letters from ``abc``."""
    if text is None:
        return None
    letters = len(text) > 1 and "," not in text and not text.startswith("@")
    return list(text) if letters else sources.names(text)

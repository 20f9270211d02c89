"""The command ``report``: explain a few samples of a file and write a page about them."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer

from .. import counter, plots
from ..api import Explainer
from ..errors import InputError
from ..spec import Numpy
from . import files, sources
from .commands import Device, File, Output, Setting, app, bound, console, told


@app.command(epilog="Example: explainers report digits.explainer inputs.npy --target max -o report.html")
def report(
    file: File,
    inputs: Annotated[list[Path], typer.Argument(help="Samples: npy, npz, zarr or parquet; a file for each input.")],
    output: Output,
    target: Annotated[str | None, typer.Option(help="3, 1,2, max, or @file.npy: one a sample, or a mask.")] = None,
    baseline: Annotated[str | None, typer.Option(help="A number, or @file.npy: one sample, or one for each.")] = None,
    seed: Annotated[int | None, typer.Option(help="For sampled methods.")] = None,
    samples: Annotated[str, typer.Option(help="How many from the first on; or which: 0,5,7, or 5, for one.")] = "20",
    kind: Annotated[str, typer.Option(help=f"auto, {', '.join(plots.KINDS)}.")] = "auto",
    names: Annotated[str | None, typer.Option(help="Features, letters or words: a,b,c, or @file: one a line.")] = None,
    classes: Annotated[str | None, typer.Option(help="The outputs' names: a,b,c, or @file: one a line.")] = None,
    channels: Annotated[str | None, typer.Option(help="first or last.")] = None,
    device: Device = None,
    setting: Setting = None,
    allow_nonfinite: Annotated[bool, typer.Option("--allow-nonfinite", help="Show NaN and infinity in grey.")] = False,
) -> None:
    """Write a page that shows the explanations of some samples and needs nothing else."""
    with told():
        if not output.parent.is_dir():
            raise InputError(f"no folder {str(output.parent)!r}")
        explain = Explainer.load(file, device)
        if setting:
            explain = explain.replace(**sources.parameters(setting, explain.method.effort))
        arrays, columns = files.read(inputs)
        found = bound(explain, arrays)
        chosen = _chosen(samples, found[0].shape[0])
        given = {"target": sources.target(target), "baseline": sources.baseline(baseline), "seed": seed}
        explanation = _explained(explain, found, given, chosen, allow_nonfinite)
        view: dict[str, Any] = {"channels": channels, "classes": _listed(classes), "allow_nonfinite": allow_nonfinite}
        named = _listed(names) or columns or None
        plots.page(explanation, output, kind=kind, samples=len(chosen), names=named, numbers=chosen, **view)
        console.print(f"{output}: {len(chosen)} samples", markup=False, highlight=False, soft_wrap=True)


def _explained(
    explain: Explainer, arrays: list[Any], given: dict[str, Any], chosen: list[int], allow_nonfinite: bool
) -> Any:
    """The chosen samples, with the draws that they get in a run of all."""
    total = arrays[0].shape[0]
    axes = len(explain.signature.inputs[0].shape) - 1
    request = explain.request(
        *(_rows(array, chosen) for array in arrays), target=_picked(given["target"], chosen, total),
        baseline=_picked(given["baseline"], chosen, total, axes), allow_nonfinite=allow_nonfinite,
    )  # fmt: skip
    if explain.method.sampled:
        request.call.seeds = counter.sample_seeds(given["seed"], total)[chosen]
    return request.explanation(request.packages.run(request.call))


def _rows(array: Any, chosen: list[int]) -> Numpy:
    """One after the other: files are read where they are sliced."""
    return np.concatenate([np.asarray(array[i : i + 1]) for i in chosen])


def _picked(value: Any, chosen: list[int], total: int, axes: int | None = None) -> Any:
    """The rows of ``value`` that belong to the chosen samples, where it has one for each."""
    return value if sources.rows_of(value, 0, total, total, axes) is value else np.asarray(value)[chosen]


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
    if not text.startswith("@"):
        return list(text) if len(text) > 1 and "," not in text else [part.strip() for part in text.split(",")]
    path = Path(text[1:])
    if not path.is_file():
        raise InputError(f"no file {text[1:]!r}")
    return path.read_text(encoding="utf-8").splitlines()

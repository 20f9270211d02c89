"""The command ``evaluate``: scores of explainers in files by metrics."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path
from typing import Annotated, Any

import typer

from .. import metrics
from ..errors import UnknownNameError
from ..file import writing
from . import files, sources
from .calls import Baseline, Device, ProgramForm, Target, Trusted, baseline_of, bind_inputs, load_explainer
from .commands import app, command_errors, console, destination
from .usage import UsageError, parsing


@app.command(
    epilog="Example: explainers evaluate ig.explainer deeplift.explainer --inputs x.npy --target max "
    "--metric deletion --metric sensitivity_n"
)
def evaluate(
    explainers: Annotated[list[Path], typer.Argument(help="Explainers' files, of one model.", exists=True)],
    inputs: Annotated[
        list[Path], typer.Option(help="Samples: npy, npz, zarr, parquet or csv; one file for each input.")
    ],
    metric: Annotated[
        list[str], typer.Option(help="deletion, sensitivity_n …; deletion:steps=20,order=least sets parameters.")
    ],
    target: Target = None,
    baseline: Baseline = None,
    references: Annotated[str | None, typer.Option(help="@file.npy with a set of baselines, (B, …).")] = None,
    groups: Annotated[
        str | None, typer.Option(help="@file.npy with feature numbers, for all samples or for each.")
    ] = None,
    masks: Annotated[str | None, typer.Option(help="@file.npy with masks of the elements that matter, (N, …).")] = None,
    seed: Annotated[int, typer.Option(help="The seed of all random draws.")] = 0,
    batch_size: Annotated[int | None, typer.Option(help="How many rows a package has.")] = None,
    html: Annotated[Path | None, typer.Option(help="Write a page to this file.")] = None,
    json: Annotated[Path | None, typer.Option(help="Write scores, tables and tests to this file.")] = None,
    device: Device = None,
    trusted: Trusted = None,
    program: ProgramForm = None,
) -> None:
    """Score explainers by metrics, with intervals, controls and tests."""
    with command_errors("evaluate"):
        for option, given in (("--html", html), ("--json", json)):
            if given is not None:
                destination(given, option)
        values = [_metric(text) for text in metric]
        found = {path.stem: load_explainer(path, device, None, trusted, program) for path in explainers}
        if len(found) < len(explainers):
            raise UsageError("two explainers' files have the same name: rename one of them")
        first = next(iter(found.values()))
        result = metrics.evaluate(
            found, tuple(bind_inputs(first, files.read_whole(inputs))), metrics=values, target=sources.target(target),
            baseline=baseline_of(first, baseline, references), groups=_array(groups, "--groups"),
            masks=_array(masks, "--masks"), seed=seed, batch_size=batch_size,
        )  # fmt: skip
        console.print(str(result), markup=False, highlight=False, soft_wrap=True)
        if html is not None:
            writing.text(html, result.to_html())
        if json is not None:
            writing.text(json, result.to_json())


def _metric(text: str) -> metrics.Metric:
    """A metric by name, with parameters as ``name:parameter=value,…``."""
    name, _, settings = text.partition(":")
    value = metrics.resolve(name)
    kinds = sources.kinds(value)
    parts = [part for part in re.split(r",(?=\w+=)", settings) if part]
    for part in parts:
        if part.partition("=")[0] not in kinds:
            raise UnknownNameError.among("parameter", part.partition("=")[0], list(kinds), where=f" of metric {name!r}")
    with parsing():
        return dataclasses.replace(value, **sources.parameters(parts, kinds))


def _array(text: str | None, option: str) -> Any:
    if text is None:
        return None
    if not text.startswith("@"):
        raise UsageError(f"{option} must be @file.npy; got {text!r}")
    array = sources.baseline(text)
    return tuple(array.values()) if isinstance(array, dict) else array

"""The command ``compare``: one model on several backends, engines and methods; its exit status can serve CI."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from itertools import product
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer

from .. import tables
from ..backend import named
from ..compare import Candidate
from ..compare import compare as compare_candidates
from ..compare.candidates import PEERS, Question
from ..errors import UnknownNameError
from ..file import writing
from ..methods import Method
from ..spec import References
from . import files, sources
from .calls import Baseline, Setting, Target
from .commands import app, command_errors, console, destination
from .usage import USAGE, UsageError

DIFFERS = 1


@app.command(
    epilog="Example: explainers compare digits.keras --backends torch,tensorflow --methods deeplift,lrp "
    "--inputs x.npy --target 3"
)
def compare(
    model: Annotated[str, typer.Argument(help="module:name, file.py:name, a .keras or .pt2 file, or a SavedModel.")],
    methods: Annotated[str, typer.Option(help="deeplift,integrated_gradients; also captum:DeepLift.")],
    inputs: Annotated[
        list[Path], typer.Option(help="Samples: npy, npz, zarr, parquet or csv; one file for each input.")
    ],
    backends: Annotated[str | None, typer.Option(help="torch,tensorflow; by default that of the model.")] = None,
    engines: Annotated[str, typer.Option(help="torchscript,eager …; each backend uses those that it has.")] = "auto",
    target: Target = None,
    baseline: Baseline = None,
    references: Annotated[str | None, typer.Option(help="@file.npy: a set of baselines, (B, …).")] = None,
    seed: Annotated[int, typer.Option(help="The seed of methods that draw random numbers.")] = 0,
    tolerance: Annotated[float, typer.Option(help="The largest relative difference that counts as agreement.")] = 1e-4,
    seconds: Annotated[float, typer.Option(help="How long to measure each latency; 0 skips it.")] = 0.2,
    timeout: Annotated[float, typer.Option(help="How many seconds a candidate in another process may take.")] = 600.0,
    locate: Annotated[bool, typer.Option("--locate", help="Name the layer where the worst pair diverges.")] = False,
    html: Annotated[Path | None, typer.Option(help="Write a page to this file.")] = None,
    json: Annotated[Path | None, typer.Option(help="Write both tables to this file.")] = None,
    setting: Setting = None,
) -> None:
    """Compare backends, engines and methods.

    Exit status: 1 if two candidates of the same method differ by more than --tolerance, 2 for errors.
    """
    with command_errors("compare", USAGE):
        if baseline is not None and references is not None:
            raise UsageError("give --baseline or --references, not both")
        for option, given in (("--html", html), ("--json", json)):
            if given is not None:
                destination(given, option)
        baseline_value = sources.baseline(references or baseline)
        baseline_value = References(baseline_value) if references else baseline_value
        arrays = _inputs(files.read_whole(inputs))
        question = Question.of(arrays, sources.target(target), baseline_value, seed, seconds).with_arrays()
        method_names, backend_names, engine_names = map(_split_names, (methods, backends, engines))
        comparison = compare_candidates(
            _candidates(model, method_names, backend_names, engine_names, setting or []), question.inputs,
            target=question.target, baseline=question.baseline, seed=seed, tolerance=tolerance, seconds=seconds,
            timeout=timeout,
        )  # fmt: skip
        console.print(comparison)
        if locate and not comparison.agrees():
            console.print(str(comparison.locate()), markup=False, highlight=False, soft_wrap=True)
        for path, text in ((html, comparison.to_html), (json, comparison.to_json)):
            if path is not None:
                writing.text(path, text())
        if not comparison.agrees():
            raise typer.Exit(DIFFERS)


def _split_names(text: str | None) -> list[str]:
    return [part.strip() for part in (text or "").split(",") if part.strip()]


def _inputs(arrays: dict[str, Any]) -> Any:
    """The inputs as one array, a tuple in order, or a dict by name."""
    array_by_name = {name: array if tables.is_table(array) else np.asarray(array) for name, array in arrays.items()}
    if all(name and not name.isdigit() for name in array_by_name):
        return array_by_name
    return next(iter(array_by_name.values())) if len(array_by_name) == 1 else tuple(array_by_name.values())


def _candidates(
    model: str, methods: list[str], backends: list[str], engines: list[str], settings: list[str]
) -> list[Candidate]:
    """One candidate for each combination of method, backend and engine that the backend has."""
    if not methods:
        raise UsageError("--methods is empty: name at least one method, such as deeplift")
    sources.check_model_name(model)
    values: dict[str, str | Method] = {name: name if _peer(name) else sources.method(name, []) for name in methods}
    for setting in settings:
        takers = [name for name, value in values.items() if _takes(name, value, setting)]
        if not takers:
            raise UnknownNameError.among("parameter", setting.partition("=")[0], sorted(_parameters(values)))
        for name in takers:
            values[name] = _set(values[name], setting)
    candidate_by_key: dict[tuple[str, str | None, str], Candidate] = {}
    for name, backend, engine in product(methods, list[str | None](backends) or [None], engines or ["auto"]):
        if _peer(name):
            candidate_by_key[name, "torch", "auto"] = Candidate(model, name, "torch")
        elif engine == "auto" or backend is None or engine in named(backend).engines:
            candidate_by_key[name, backend, engine] = Candidate(model, values[name], backend, engine)
    if not candidate_by_key:
        raise UsageError(
            f"--engines {','.join(engines)}: none of the backends {', '.join(backends)} has one of these engines"
        )
    return list(candidate_by_key.values())


def _peer(method: str) -> bool:
    return method.partition(":")[0] in PEERS


def _parameters(values: Mapping[str, str | Method]) -> set[str]:
    return {f.name for value in values.values() if not isinstance(value, str) for f in dataclasses.fields(value)}


def _takes(name: str, value: str | Method, setting: str) -> bool:
    """Whether the method takes the setting ``name=value`` or, for this method only, ``method.name=value``."""
    method, _, parameter = setting.partition("=")[0].rpartition(".")
    return method in ("", name) and parameter in _parameters({name: value})


def _set(value: str | Method, setting: str) -> str | Method:
    assert not isinstance(value, str)
    _, dot, parameter = setting.partition("=")[0].rpartition(".")
    plain_setting = f"{parameter}={setting.partition('=')[2]}" if dot else setting
    return dataclasses.replace(value, **sources.parameters([plain_setting], sources.kinds(value)))

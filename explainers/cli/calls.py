"""Code shared by the commands that explain samples in files: their options, and requests for some of the samples."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer

from .. import random_numbers, tables
from ..errors import InputError
from ..explainer.api import Explainer
from ..explainer.bind import samples_of, targets_of
from ..explainer.request import Request
from ..spec import References, TensorSpec, is_mask, resolve_target
from . import sources
from .loading import Compiling, Subject, examples

File = Annotated[Path, typer.Argument(help="An explainer's file.", exists=True, dir_okay=False)]
Explained = Annotated[
    str, typer.Argument(help="An explainer's file; or, as module:name or file.py:name, an Explainer, or a model.")
]
Inputs = Annotated[list[Path], typer.Argument(help="Samples: npy, npz, zarr or parquet; a file for each input.")]
Output = Annotated[Path, typer.Option("--output", "-o", help="Where to write.")]
Target = Annotated[str | None, typer.Option(help="3, 1,2, max, or @file.npy: one a sample, or a mask.")]
Baseline = Annotated[str | None, typer.Option(help="A number, or @file.npy: one sample, or one for each.")]
Seed = Annotated[int | None, typer.Option(help="For sampled methods.")]
Setting = Annotated[list[str] | None, typer.Option("--set", help="A parameter of the method: name=value.")]
Columns = Annotated[
    list[str] | None, typer.Option(help="Names of a table's columns in the model's order: a,b,c, or @file: one a line.")
]
Device = Annotated[str | None, typer.Option(help="Where to run; by default where the explainer was made.")]


def load_explainer(file: Path, device: str | None, setting: list[str] | None) -> Explainer:
    """The explainer in a file, with the effort parameters of ``--set``."""
    explain = Explainer.load(file, device)
    return explain.replace(**sources.parameters(setting, explain.method.effort)) if setting else explain


def prepared(
    subject: Subject, compiling: Compiling, arrays: dict[str, Any], columns: list[str] | None
) -> tuple[Explainer, list[Any]]:
    """The explainer of these samples, with its column names, and its inputs in order."""
    explain = with_columns(subject.explainer(compiling, lambda: examples(arrays)), columns)
    return explain, bind_inputs(explain, arrays)


def baseline_of(explain: Explainer, baseline: str | None, references: str | None) -> Any:
    """The baseline or set of References that the options give; None for the explainer's own."""
    if baseline is not None and references is not None:
        raise InputError("give --baseline or --references, not both")
    value = sources.baseline(references or baseline)
    if not any(spec.words for spec in explain.attributed):
        value = tables.aligned(value, explain.attributed)
    elif not references and any(tables.is_table(t) and t.shape[0] != 1 for t in _parts(value)):
        raise InputError(
            "--baseline needs a table of one row where columns hold no numbers; give more rows, a background, with "
            "--references"
        )
    return References(value) if references else value


def _parts(value: Any) -> list[Any]:
    return list(value.values()) if isinstance(value, dict) else [value]


def bind_inputs(explain: Explainer, arrays: dict[str, Any]) -> list[Any]:
    """The arrays and tables in the order of the model's inputs, checked to have equal lengths.

    Raises
    ------
    InputError: names of arrays or columns that differ from the model's, or columns without numbers.
    """
    array_by_name = {name: array for name, array in arrays.items() if name and not name.isdigit()}
    inputs = explain.signature.inputs
    if len(inputs) == len(arrays) == 1:
        ordered_inputs = list(arrays.values())  # any name will do
    elif array_by_name and set(array_by_name) != {spec.name for spec in inputs}:
        raise InputError(
            f"the file has the arrays {tables.listed(list(array_by_name))}; the model takes ({explain.signature}). "
            "Name the arrays of an npz or zarr file as these, or give a file for each input, in this order."
        )
    else:
        ordered_inputs = explain.signature.bind(
            [a for name, a in arrays.items() if name not in array_by_name], array_by_name
        )
    lengths = [array.shape[0] for array in ordered_inputs]
    if len(set(lengths)) > 1:
        raise InputError(f"the inputs have {lengths} samples; they need as many each")
    for table, spec in zip(ordered_inputs, inputs, strict=True):
        if tables.is_table(table):
            _check_table(table, spec)
    return ordered_inputs


def _check_table(table: Any, spec: TensorSpec) -> None:
    what = f"the table of input {spec.name!r}"
    names = tables.names(table, what)
    places = tables.order(names or spec.columns, spec.columns, what) if spec.columns else None
    tables.numbers(tables.rows(table, 0, 0), what, places, words=spec.words)
    if spec.columns:
        return
    if names and spec.sample_shape == (len(names),):
        raise InputError(
            f"{what} names its columns, and the explainer's file knows no names, so nothing tells which of them is "
            f"which input of the model. Say the model's order: --columns {','.join(names)} if it is the table's, here "
            "or, for good, in explainers compile."
        )


def with_columns(explain: Explainer, column_options: list[str] | None) -> Explainer:
    """The explainer with column names; each option is ``[input=]a,b,c``, in the model's order."""
    for text in column_options or ():
        name, sign, names_text = text.rpartition("=")
        if not sign and len(explain.signature.inputs) > 1:
            raise InputError(f"--columns {text!r}: the model has several inputs; give --columns input=a,b,c")
        explain = explain.with_columns(sources.names(names_text), name or None)
    return explain


def request_for(
    explain: Explainer, inputs: list[Any], arguments: dict[str, Any], index: Any, allow_nonfinite: bool
) -> Request:
    """A request for the samples ``index`` (a slice or positions), with the random draws of a call of all samples.

    ``arguments``: target, baseline and seed for all samples.
    """
    total = inputs[0].shape[0]
    rows = [_read_rows(array, index) for array in inputs]
    output = explain.output.at(explain.signature.sizes(rows))
    request = explain.request(
        *rows,
        target=_target(output, arguments["target"], index, total, rows[0].shape[0]),
        baseline=_baseline(explain, arguments["baseline"], index, total),
        allow_nonfinite=allow_nonfinite,
    )
    request = dataclasses.replace(request, warns=False)  # the command warns once, at the end
    if explain.method.sampled:
        request.call.seeds = random_numbers.sample_seeds(arguments["seed"], total)[index]
    return request


def incomplete_warning(explain: Explainer) -> str | None:
    """A warning about samples whose attributions do not add up; None if all do."""
    count = explain.stats.incomplete
    if not count:
        return None
    return (
        f"warning: the attributions of {count} samples do not add up to the change of the output. explain.audit in "
        "Python names the operations that lose the rest."
    )


def _baseline(explain: Explainer, baseline: Any, index: Any, total: int) -> Any:
    """The baseline of the samples ``index``. A ``--baseline`` with as many rows as samples is one for each sample."""
    axes = {spec.name: len(spec.sample_shape) for spec in explain.attributed}
    first_axes = next(iter(axes.values()))
    if not isinstance(baseline, dict):
        return _one_each(explain, samples_of(baseline, index, total, first_axes), first_axes)
    baseline_by_name = {name: samples_of(part, index, total, axes.get(name)) for name, part in baseline.items()}
    sets = {name: _one_each(explain, part, axes.get(name, first_axes)) for name, part in baseline_by_name.items()}
    if all(isinstance(part, References) for part in sets.values()):
        return References({name: part.array for name, part in sets.items()}, per_sample=True)
    return baseline_by_name


def _one_each(explain: Explainer, baseline: Any, axes: int) -> Any:
    if explain.method.takes_sets and isinstance(baseline, np.ndarray) and baseline.ndim == axes + 1:
        return References(baseline[:, None], per_sample=True)
    return baseline


def _target(output: TensorSpec, target: Any, index: Any, total: int, count: int) -> Any:
    """The target of the ``count`` samples ``index``; a single mask is repeated for each sample.

    Raises
    ------
    TargetError: there are as many samples as outputs, so the mask could also be one index per sample.
    """
    shape = output.sample_shape
    if is_mask(target, shape):
        resolve_target(target, shape, total)
        return np.broadcast_to(np.asarray(target), (count, *shape))
    return targets_of(target, index, total, shape)


def _read_rows(array: Any, index: Any) -> Any:
    """The rows ``index`` of an array or a table; only these are read from the file."""
    if tables.is_table(array):
        return tables.rows(array, index.start, index.stop) if isinstance(index, slice) else tables.take(array, index)
    if isinstance(index, slice):
        return np.asarray(array[index])
    return np.concatenate([np.asarray(array[i : i + 1]) for i in index])

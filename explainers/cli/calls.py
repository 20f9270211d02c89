"""What commands that explain samples in files share: their options, and calls of some of the samples."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer

from .. import random_numbers, tables
from ..errors import InputError
from ..explainer.api import Explainer, Request
from ..explainer.bind import samples_of, targets_of
from ..spec import References, TensorSpec, is_mask, resolve_target
from . import sources

File = Annotated[Path, typer.Argument(help="An explainer's file.", exists=True, dir_okay=False)]
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


def loaded(file: Path, device: str | None, setting: list[str] | None) -> Explainer:
    """The explainer in a file, at the effort that is set."""
    explain = Explainer.load(file, device)
    return explain.replace(**sources.parameters(setting, explain.method.effort)) if setting else explain


def bound(explain: Explainer, arrays: dict[str, Any]) -> list[Any]:
    """The arrays and tables in the order of the model's inputs, of equal lengths.

    Raises
    ------
    InputError: names that are not the inputs', columns that are not the model's or hold no numbers.
    """
    named = {name: array for name, array in arrays.items() if name and not name.isdigit()}
    inputs = explain.signature.inputs
    if len(inputs) == len(arrays) == 1:
        found = list(arrays.values())  # whatever it is called
    elif named and set(named) != {spec.name for spec in inputs}:
        raise InputError(
            f"the file has the arrays {tables.listed(list(named))}; the model takes ({explain.signature}). Name the "
            "arrays of an npz or zarr file as these, or give a file for each input, in this order."
        )
    else:
        found = explain.signature.bind([a for name, a in arrays.items() if name not in named], named)
    lengths = [array.shape[0] for array in found]
    if len(set(lengths)) > 1:
        raise InputError(f"the inputs have {lengths} samples; they need as many each")
    for table, spec in zip(found, inputs, strict=True):
        if tables.is_table(table):
            _check_table(table, spec)
    return found


def _check_table(table: Any, spec: TensorSpec) -> None:
    what = f"the table of input {spec.name!r}"
    names = tables.names(table, what)
    tables.numbers(tables.rows(table, 0, 0), what)
    if spec.columns:
        tables.order(names or spec.columns, spec.columns, what)
    elif names and spec.sample_shape == (len(names),):
        raise InputError(
            f"{what} names its columns, and the explainer's file knows no names, so nothing tells which of them is "
            f"which input of the model. Say the model's order: --columns {','.join(names)} if it is the table's, here "
            "or, for good, in explainers compile."
        )


def with_columns(explain: Explainer, given: list[str] | None) -> Explainer:
    """The explainer with the names of columns that are ``given`` as ``[input=]a,b,c``, in the model's order."""
    for text in given or ():
        name, sign, listed = text.rpartition("=")
        if not sign and len(explain.signature.inputs) > 1:
            raise InputError(f"--columns {text!r}: the model has several inputs; give --columns input=a,b,c")
        explain = explain.with_columns(sources.names(listed), name or None)
    return explain


def some(explain: Explainer, inputs: list[Any], given: dict[str, Any], index: Any, allow_nonfinite: bool) -> Request:
    """A call of the samples ``index`` (a slice or positions) of all, with the draws that they get in a call of all.

    ``given``: target, baseline and seed for all.
    """
    total = inputs[0].shape[0]
    rows = [_read(array, index) for array in inputs]
    request = explain.request(
        *rows,
        target=_target(explain, given["target"], index, total, rows[0].shape[0]),
        baseline=_baseline(explain, given["baseline"], index, total),
        allow_nonfinite=allow_nonfinite,
    )
    request = dataclasses.replace(request, warns=False)  # noted at the end
    if explain.method.sampled:
        request.call.seeds = random_numbers.sample_seeds(given["seed"], total)[index]
    return request


def incomplete(explain: Explainer) -> str | None:
    """What to tell of samples whose attributions do not add up."""
    count = explain.stats.incomplete
    if not count:
        return None
    return (
        f"warning: the attributions of {count} samples do not add up to the change of the output. explain.audit in "
        "Python names the operations that lose the rest."
    )


def _baseline(explain: Explainer, given: Any, index: Any, total: int) -> Any:
    """That of the samples ``index``. ``--baseline`` of as many rows as samples is one for each, whatever the method."""
    axes = {spec.name: len(spec.sample_shape) for spec in explain.attributed}
    first = next(iter(axes.values()))
    if not isinstance(given, dict):
        return _one_each(explain, samples_of(given, index, total, first), first)
    found = {name: samples_of(part, index, total, axes.get(name)) for name, part in given.items()}
    sets = {name: _one_each(explain, part, axes.get(name, first)) for name, part in found.items()}
    if all(isinstance(part, References) for part in sets.values()):
        return References({name: part.array for name, part in sets.items()}, per_sample=True)
    return found


def _one_each(explain: Explainer, given: Any, axes: int) -> Any:
    if explain.method.takes_sets and isinstance(given, np.ndarray) and given.ndim == axes + 1:
        return References(given[:, None], per_sample=True)
    return given


def _target(explain: Explainer, given: Any, index: Any, total: int, count: int) -> Any:
    """That of the samples ``index``, ``count`` of them; a mask for all of them as one for each.

    Raises
    ------
    TargetError: as many samples as outputs, so that it may be an index for each.
    """
    shape = explain.output.sample_shape
    if is_mask(given, shape):
        resolve_target(given, shape, total)
        return np.broadcast_to(np.asarray(given), (count, *shape))
    return targets_of(given, index, total, shape)


def _read(array: Any, index: Any) -> Any:
    """Files are read where they are sliced."""
    if tables.is_table(array):
        return tables.rows(array, index.start, index.stop) if isinstance(index, slice) else tables.take(array, index)
    if isinstance(index, slice):
        return np.asarray(array[index])
    return np.concatenate([np.asarray(array[i : i + 1]) for i in index])

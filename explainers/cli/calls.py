"""Code shared by the commands that explain samples in files: their options, and requests for some of the samples."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import typer

from .. import tables
from ..errors import InputError
from ..explainer.api import Explainer
from ..explainer.streaming import incomplete
from ..spec import Numpy, References, TensorSpec
from . import samples, sources
from .loading import Compiling, Subject, examples, with_effort
from .usage import UsageError

File = Annotated[Path, typer.Argument(help="An explainer's file.", exists=True, dir_okay=False)]
Explained = Annotated[
    str, typer.Argument(help="An explainer's file; or an Explainer or a model, as module:name or file.py:name.")
]
Inputs = Annotated[list[Path], typer.Argument(help="Samples: npy, npz, zarr, parquet or csv; one file for each input.")]
Output = Annotated[Path, typer.Option("--output", "-o", help="The file to write.")]
Target = Annotated[str | None, typer.Option(help="3, or 1,2, or max, or @file.npy with one per sample or a mask.")]
Baseline = Annotated[
    str | None, typer.Option(help="A number, or @file.npy with one sample, or with one for each sample.")
]
Seed = Annotated[int | None, typer.Option(help="The seed of methods that draw random numbers.")]
Setting = Annotated[list[str] | None, typer.Option("--set", help="A parameter of the method: name=value.")]
Columns = Annotated[
    list[str] | None,
    typer.Option(help="Names of a table's columns in the model's order: a,b,c, or @file with one per line."),
]
Where = Annotated[
    list[str] | None,
    typer.Option(help="Only samples whose column NAME has this VALUE: NAME=VALUE, or !=, <, <=, >, >=. All must hold."),
]
Device = Annotated[str | None, typer.Option(help="The device to run on; by default the one it was made for.")]

Trusted = Annotated[
    list[Path] | None, typer.Option(help="A PEM file with an Ed25519 public key: load only files that it signed.")
]


ProgramForm = Annotated[
    Literal["code", "data"] | None,
    typer.Option("--program", help="Take only files that hold their programs as code, or as data."),
]


def load_explainer(
    file: Path, device: str | None, setting: list[str] | None, trusted: list[Path] | None = None,
    program: str | None = None,
) -> Explainer:  # fmt: skip
    """The explainer in a file, with the effort parameters of ``--set``."""
    return with_effort(Explainer.load(file, device, trusted=trusted or None, program=program), setting or ())


def prepared(
    subject: Subject, compiling: Compiling, arrays: dict[str, Any], columns: list[str] | None,
    named: Collection[str] = (),
) -> tuple[Explainer, list[Any]]:  # fmt: skip
    """The explainer of these samples, with its column names, and its inputs in order.

    ``named``: what conditions on the samples name, which is no input unless the model or ``columns`` name it, too.
    """
    features = {name for text in columns or () for name in sources.names(text.rpartition("=")[2])}

    def given(known: Collection[str]) -> dict[str, Any]:
        return samples.without(arrays, set(named) - features - set(known))

    explain = with_columns(subject.explainer(compiling, lambda: examples(given(()))), columns)
    inputs = explain.signature.inputs
    known = [name for spec in inputs for name in (spec.name, *spec.columns)]
    return explain, bind_inputs(explain, given(known), choose=bool(columns))


def baseline_of(explain: Explainer, baseline: str | None, references: str | None) -> Any:
    """The baseline or set of References that the options give; None for the explainer's own."""
    if baseline is not None and references is not None:
        raise UsageError("give --baseline or --references, not both")
    value = sources.baseline(references or baseline)
    if not any(spec.words for spec in explain.attributed):
        value = tables.aligned(value, explain.attributed)
    elif not references and any(tables.is_table(t) and t.shape[0] != 1 for t in _parts(value)):
        raise InputError(
            "--baseline must be a table of one row, because some columns hold no numbers; give several rows as "
            "--references"
        )
    return References(value) if references else value


def _parts(value: Any) -> list[Any]:
    return list(value.values()) if isinstance(value, dict) else [value]


def bind_inputs(explain: Explainer, arrays: dict[str, Any], choose: bool = False) -> list[Any]:
    """The arrays and tables in the order of the model's inputs, checked to have equal lengths.

    ``choose``: of a table with more columns than the model's, take these.

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
        raise InputError(f"the inputs have {lengths} samples; all inputs must have the same number")
    for place, spec in enumerate(inputs):
        table = ordered_inputs[place]
        if tables.is_table(table):
            if choose and {*spec.columns} < {*tables.names(table)}:
                table = ordered_inputs[place] = tables.selected(table, spec.columns)
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
            f"{what} has named columns, but the explainer's file does not know the model's order of columns. Give it: "
            f"--columns {','.join(names)} if it is the order of the table. To store it in the file, give --columns to "
            "explainers compile."
        )


def with_columns(explain: Explainer, column_options: list[str] | None) -> Explainer:
    """The explainer with column names; each option is ``[input=]a,b,c``, in the model's order."""
    for text in column_options or ():
        name, sign, names_text = text.rpartition("=")
        if not sign and len(explain.signature.inputs) > 1:
            raise UsageError(f"--columns {text!r}: the model has several inputs; give --columns input=a,b,c")
        explain = explain.with_columns(sources.names(names_text), name or None)
    return explain


def read_rows(array: Any, index: Numpy) -> Any:
    """The rows ``index`` of an array or a table; only these are read from the file."""
    if tables.is_table(array):
        return tables.take(array, index)
    return np.concatenate([np.asarray(array[i : i + 1]) for i in index])


def incomplete_warning(explain: Explainer) -> str | None:
    """A warning about samples whose attributions do not add up; None if all do."""
    count = explain.stats.incomplete
    return f"warning: {incomplete(count)}" if count else None

"""What commands that explain samples in files share: their options, and calls of some of the samples."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer

from .. import counter
from ..api import Explainer, Request
from ..arguments import samples_of, targets_of
from ..errors import InputError
from . import sources

File = Annotated[Path, typer.Argument(help="An explainer's file.", exists=True, dir_okay=False)]
Inputs = Annotated[list[Path], typer.Argument(help="Samples: npy, npz, zarr or parquet; a file for each input.")]
Output = Annotated[Path, typer.Option("--output", "-o", help="Where to write.")]
Target = Annotated[str | None, typer.Option(help="3, 1,2, max, or @file.npy: one a sample, or a mask.")]
Baseline = Annotated[str | None, typer.Option(help="A number, or @file.npy: one sample, or one for each.")]
Seed = Annotated[int | None, typer.Option(help="For sampled methods.")]
Setting = Annotated[list[str] | None, typer.Option("--set", help="A parameter of the method: name=value.")]
Device = Annotated[str | None, typer.Option(help="Where to run; by default where the explainer was made.")]


def loaded(file: Path, device: str | None, setting: list[str] | None) -> Explainer:
    """The explainer in a file, at the effort that is set."""
    explain = Explainer.load(file, device)
    return explain.replace(**sources.parameters(setting, explain.method.effort)) if setting else explain


def bound(explain: Explainer, arrays: dict[str, Any]) -> list[Any]:
    """The arrays in the order of the model's inputs, of equal lengths."""
    named = {name: array for name, array in arrays.items() if name and not name.isdigit()}
    found = explain.signature.bind([a for name, a in arrays.items() if name not in named], named)
    lengths = [array.shape[0] for array in found]
    if len(set(lengths)) > 1:
        raise InputError(f"the inputs have {lengths} samples; they need as many each")
    return found


def some(explain: Explainer, inputs: list[Any], given: dict[str, Any], index: Any, allow_nonfinite: bool) -> Request:
    """A call of the samples ``index`` (a slice or positions) of all, with the draws that they get in a call of all.

    ``given``: target, baseline and seed for all.
    """
    total = inputs[0].shape[0]
    request = explain.request(
        *(_read(array, index) for array in inputs),
        target=targets_of(given["target"], index, total, explain.output.sample_shape),
        baseline=samples_of(given["baseline"], index, total, len(explain.signature.inputs[0].sample_shape)),
        allow_nonfinite=allow_nonfinite,
    )
    request = dataclasses.replace(request, warns=False)  # noted at the end
    if explain.method.sampled:
        request.call.seeds = counter.sample_seeds(given["seed"], total)[index]
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


def _read(array: Any, index: Any) -> Any:
    """Files are read where they are sliced."""
    if isinstance(index, slice):
        return np.asarray(array[index])
    return np.concatenate([np.asarray(array[i : i + 1]) for i in index])

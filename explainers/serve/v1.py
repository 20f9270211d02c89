"""KServe's V1 protocol: JSON in, JSON out."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from ..errors import InputError
from ..explainer.explanation import Explanation
from ..run.base import Estimate
from ..spec import Numpy
from .arrays import batch, dump, dump_list, parse
from .parameters import Arguments
from .service import Job, Model

FIELDS = ("instances", "parameters")


def decode(model: Model, body: bytes) -> Job:
    """The request of a body ``{"instances": […], "parameters": {…}}``."""
    found = parse(body)
    for name in found:
        if name not in FIELDS:
            raise InputError(f"unknown field {name!r}; a request has {' and '.join(map(repr, FIELDS))}")
    instances = found.get("instances")
    if not isinstance(instances, list) or not instances:
        raise InputError("'instances' must be a list of one instance or more")
    return Job(model, _inputs(model, instances), model.parameters.read(found.get("parameters")))


def _inputs(model: Model, instances: list[Any]) -> list[Numpy]:
    """One array for each input; instances are arrays, or objects of arrays by input name."""
    names = [spec.name for spec in model.inputs]
    if not isinstance(instances[0], dict):
        if len(names) > 1:
            raise InputError(f"instances[0]: an object with the inputs {', '.join(names)} expected")
        return [batch(instances, model.inputs[0], "instances")]
    for number, instance in enumerate(instances):
        if not isinstance(instance, dict) or set(instance) != set(names):
            given = f"the fields {sorted(instance)}" if isinstance(instance, dict) else "no object"
            raise InputError(f"instances[{number}]: {given} given; the inputs are {', '.join(names)}")
    return [batch([i[spec.name] for i in instances], spec, f"{spec.name!r} of instances") for spec in model.inputs]


def predictions(outputs: Numpy) -> bytes:
    return b"".join([b'{"predictions":', *dump_list(outputs), b"}"])


def encode(job: Job, found: Explanation) -> bytes:
    """``{"predictions": […], "explanations": […]}``, and ``"incomplete": [number, …]`` where some do not add up."""
    attributions = job.model.attributions(found)
    if job.arguments.form == "full":
        explanations = [dump(list(full(job.model, found, attributions)))]
    elif len(attributions) == 1:
        explanations = dump_list(attributions[0])
    else:
        names = [spec.name for spec in job.model.attributed]
        elements = [dict(zip(names, arrays, strict=True)) for arrays in zip(*attributions, strict=True)]
        explanations = [dump(elements)]
    outputs = dump_list(found.outputs)
    numbers = incomplete(found)
    noted = [b',"incomplete":', dump(numbers)] if numbers else []
    return b"".join([b'{"predictions":', *outputs, b',"explanations":', *explanations, *noted, b"}"])


def incomplete(found: Explanation) -> list[int]:
    """The instances whose attributions do not add up though the method is complete by its rules."""
    return [] if found.incomplete is None else np.flatnonzero(found.incomplete).tolist()


def full(model: Model, found: Explanation, attributions: list[Numpy]) -> Iterator[Any]:
    """Vertex AI's attribution of each instance; under ``"all"`` a list of these, one for each output."""
    errors = None if found.standard_error is None else model.parts(found.standard_error, found)
    for number in range(len(found.outputs)):
        values = [array[number] for array in attributions]
        deviations = None if errors is None else [array[number] for array in errors]
        if isinstance(found.target, str):
            indices = np.ndindex(*model.output.sample_shape)
            yield [_of_output(model, found, number, index, values, deviations) for index in indices]
        else:
            yield _of_target(model, found, number, values, deviations)


def _of_target(
    model: Model, found: Explanation, number: int, values: list[Numpy], deviations: list[Numpy] | None
) -> dict[str, Any]:
    assert not isinstance(found.target, str)
    mask, gap = found.target[number], found.completeness_gap
    value = float((found.outputs[number] * mask).sum(dtype=np.float64))
    base = None if found.baseline_outputs is None else float((found.baseline_outputs[number] * mask).sum())
    places = np.argwhere(mask)
    one = len(places) == 1 and mask[tuple(places[0])] == 1
    error = None
    if gap is not None and base is not None:
        error = abs(float(gap[number])) / max(abs(value - base), 1e-12)
    index = places[0].tolist() if one else None
    result = _attribution(model, values, deviations, value, base, error, index, int(found.evaluations[number]))
    result["incomplete"] = None if found.incomplete is None else bool(found.incomplete[number])
    return result


def _of_output(
    model: Model, found: Explanation, number: int, index: tuple[int, ...],
    values: list[Numpy], deviations: list[Numpy] | None,
) -> dict[str, Any]:  # fmt: skip
    base = None if found.baseline_outputs is None else float(found.baseline_outputs[number][index])
    at = [array[index] for array in values]
    off = None if deviations is None else [array[index] for array in deviations]
    rows = int(found.evaluations[number])
    return _attribution(model, at, off, float(found.outputs[number][index]), base, None, list(index), rows)


def _attribution(
    model: Model, values: list[Numpy], deviations: list[Numpy] | None,
    value: float, base: float | None, error: float | None, index: list[int] | None, rows: int,
) -> dict[str, Any]:  # fmt: skip
    names = [spec.name for spec in model.attributed]
    return {
        "baselineOutputValue": base,
        "instanceOutputValue": value,
        "approximationError": error,
        "featureAttributions": dict(zip(names, values, strict=True)),
        "outputIndex": index,
        "outputName": model.output.name,
        "standardError": None if deviations is None else dict(zip(names, deviations, strict=True)),
        "evaluations": rows,
    }


def estimate(model: Model, found: Estimate) -> dict[str, Any]:
    """A running estimate of the instances start … stop − 1; null where there is none yet."""
    errors = found.standard_errors
    names = [spec.name for spec in model.attributed]
    return {
        "start": found.start,
        "stop": found.stop,
        "attributions": dict(zip(names, found.attributions, strict=True)),
        "standardError": None if errors is None else dict(zip(names, errors, strict=True)),
        "evaluations": found.evaluations,
    }


def metadata(model: Model) -> dict[str, Any]:
    def shape(spec: Any) -> dict[str, Any]:
        columns = {"columns": spec.columns} if spec.columns else {}
        return {"name": spec.name, "dtype": spec.dtype, "shape": [-1, *spec.sample_shape], **columns}

    return {
        "name": model.name,
        "ready": True,
        "method": str(model.explain.method),
        "inputs": [shape(spec) for spec in model.inputs],
        "output": shape(model.output),
        "attributed": [shape(spec) for spec in model.attributed],
        "parameters": ["target", "baseline", "seed", "timeout", "format", *model.explain.method.effort],
    }


def arguments_for_prediction(job: Job) -> Arguments:
    """A prediction takes a timeout only."""
    taken = job.arguments
    if taken.effort or any(value is not None for value in (taken.target, taken.baseline, taken.seed)):
        raise InputError("a prediction takes the parameter 'timeout' only")
    return taken

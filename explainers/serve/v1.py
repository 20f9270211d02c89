"""KServe's V1 protocol: JSON in, JSON out."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from ..errors import InputError, shown
from ..explainer.explanation import Explanation
from ..run.base import Estimate
from ..spec import Numpy
from .arrays import batch, dump, dump_list, parse
from .large import LargeArray
from .parameters import Arguments
from .service import Job, Model

FIELDS = ("instances", "parameters")


def decode(model: Model, body: bytes) -> Job:
    """The request in a body ``{"instances": […], "parameters": {…}}``."""
    data = parse(body)
    for name in data:
        if name not in FIELDS:
            raise InputError(f"unknown field {shown(name)}; a request has {' and '.join(map(repr, FIELDS))}")
    instances = data.get("instances")
    if not isinstance(instances, (list, LargeArray)) or instances == []:
        raise InputError("'instances' must be a list of one instance or more")
    return Job(model, _inputs(model, instances), model.parameters.read(data.get("parameters")))


def _inputs(model: Model, instances: list[Any] | LargeArray) -> list[Numpy]:
    """One array for each input, from instances that are nested lists, or objects of these by input name."""
    names = [spec.name for spec in model.inputs]
    if isinstance(instances, LargeArray) or not isinstance(instances[0], dict):
        if len(names) > 1:
            raise InputError(f"instances[0]: an object with the inputs {', '.join(names)} expected")
        return [batch(instances, model.inputs[0], "instances")]
    for number, instance in enumerate(instances):
        if not isinstance(instance, dict) or set(instance) != set(names):
            description = f"the fields {shown(sorted(instance))}" if isinstance(instance, dict) else "no object"
            raise InputError(f"instances[{number}]: {description} given; the inputs are {', '.join(names)}")
    return [batch([i[spec.name] for i in instances], spec, f"{spec.name!r} of instances") for spec in model.inputs]


def predictions(outputs: Numpy) -> bytes:
    return b"".join([b'{"predictions":', *dump_list(outputs), b"}"])


def encode(job: Job, explanation: Explanation) -> bytes:
    """``{"predictions": […], "explanations": […]}``, and ``"incomplete": [number, …]`` where some do not add up."""
    attributions = job.model.attributions(explanation)
    if job.arguments.form == "full":
        explanations = [dump(list(full(job.model, explanation, attributions)))]
    elif len(attributions) == 1:
        explanations = dump_list(attributions[0])
    else:
        names = [spec.name for spec in job.model.attributed]
        elements = [dict(zip(names, arrays, strict=True)) for arrays in zip(*attributions, strict=True)]
        explanations = [dump(elements)]
    outputs = dump_list(explanation.outputs)
    numbers = incomplete_instances(explanation)
    incomplete_field = [b',"incomplete":', dump(numbers)] if numbers else []
    return b"".join([b'{"predictions":', *outputs, b',"explanations":', *explanations, *incomplete_field, b"}"])


def incomplete_instances(explanation: Explanation) -> list[int]:
    """The instances whose attributions do not add up although the method is complete."""
    return [] if explanation.incomplete is None else np.flatnonzero(explanation.incomplete).tolist()


def full(model: Model, explanation: Explanation, attributions: list[Numpy]) -> Iterator[Any]:
    """Yield an attribution object, in Vertex AI's form, for each instance, or for target ``"all"`` for each output."""
    errors = None if explanation.standard_error is None else model.parts(explanation.standard_error, explanation)
    for number in range(len(explanation.outputs)):
        values = [array[number] for array in attributions]
        deviations = None if errors is None else [array[number] for array in errors]
        if isinstance(explanation.target, str):
            indices = np.ndindex(*explanation.outputs.shape[1:])
            yield [_of_output(model, explanation, number, index, values, deviations) for index in indices]
        else:
            yield _of_target(model, explanation, number, values, deviations)


def _of_target(
    model: Model, explanation: Explanation, number: int, values: list[Numpy], deviations: list[Numpy] | None
) -> dict[str, Any]:
    assert not isinstance(explanation.target, str)
    mask, gap = explanation.target[number], explanation.completeness_gap
    value = float((explanation.outputs[number] * mask).sum(dtype=np.float64))
    base = None if explanation.baseline_outputs is None else float((explanation.baseline_outputs[number] * mask).sum())
    places = np.argwhere(mask)
    is_single = len(places) == 1 and mask[tuple(places[0])] == 1
    error = None
    if gap is not None and base is not None:
        error = abs(float(gap[number])) / max(abs(value - base), 1e-12)
    index = places[0].tolist() if is_single else None
    result = _attribution(model, values, deviations, value, base, error, index, int(explanation.evaluations[number]))
    result["incomplete"] = None if explanation.incomplete is None else bool(explanation.incomplete[number])
    return result


def _of_output(
    model: Model, explanation: Explanation, number: int, index: tuple[int, ...],
    values: list[Numpy], deviations: list[Numpy] | None,
) -> dict[str, Any]:  # fmt: skip
    base = None if explanation.baseline_outputs is None else float(explanation.baseline_outputs[number][index])
    scores = [array[index] for array in values]
    errors = None if deviations is None else [array[index] for array in deviations]
    rows = int(explanation.evaluations[number])
    return _attribution(model, scores, errors, float(explanation.outputs[number][index]), base, None, list(index), rows)


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


def estimate(model: Model, running_estimate: Estimate) -> dict[str, Any]:
    """The fields of a running estimate for the instances start … stop − 1; null where there is none yet."""
    errors = running_estimate.standard_errors
    names = [spec.name for spec in model.attributed]
    return {
        "start": running_estimate.start,
        "stop": running_estimate.stop,
        "attributions": dict(zip(names, running_estimate.attributions, strict=True)),
        "standardError": None if errors is None else dict(zip(names, errors, strict=True)),
        "evaluations": running_estimate.evaluations,
    }


def metadata(model: Model) -> dict[str, Any]:
    def shape(spec: Any) -> dict[str, Any]:
        columns = {"columns": spec.columns} if spec.columns else {}
        return {"name": spec.name, "dtype": spec.dtype, "shape": spec.declared, **columns}

    return {
        "name": model.name,
        "ready": True,
        "method": str(model.explain.method),
        "inputs": [shape(spec) for spec in model.inputs],
        "output": shape(model.output),
        "attributed": [shape(spec) for spec in model.attributed],
        "parameters": [*model.parameters.common, "format", *model.explain.method.effort],
    }


def arguments_for_prediction(job: Job) -> Arguments:
    """The arguments of a prediction, which accepts only a timeout."""
    arguments = job.arguments
    given = (arguments.target, arguments.baseline, arguments.seed, arguments.groups)
    if arguments.effort or any(value is not None for value in given):
        raise InputError("a prediction takes only the parameter 'timeout'")
    return arguments

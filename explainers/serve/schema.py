"""The OpenAPI descriptions of the routes, with examples."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from ..spec import TensorSpec
from .parameters import FORMATS
from .service import Model

DESCRIPTION = "Attributions of trained models: KServe V1, Open Inference Protocol V2, server-sent events."
ERROR = {
    "description": "The error",
    "content": {"application/json": {"schema": {"type": "object", "properties": {"error": {"type": "string"}}}}},
}
EMPTY: dict[int | str, Any] = {200: {"description": "OK", "content": {"application/json": {"schema": {}}}}}
TEXT: dict[int | str, Any] = {200: {"description": "Metrics", "content": {"text/plain": {"schema": {}}}}}
REFUSALS: dict[int | str, Any] = dict.fromkeys((400, 401, 404, 408, 413, 415, 421, 422, 500, 503, 504), ERROR)
EXAMPLE_SIZE = 256  # largest number of numbers in an example


def by_name(models: Sequence[Model]) -> dict[str, Any]:
    """The description of a route of one model."""
    return {"responses": {**EMPTY, **REFUSALS}, "openapi_extra": {"parameters": [_name(models)]}}


def _name(models: Sequence[Model]) -> dict[str, Any]:
    names = [model.name for model in models]
    return {"name": "name", "in": "path", "required": True, "schema": {"type": "string", "enum": names}}


def _nested() -> dict[str, Any]:
    """The schema of a number or nested lists of numbers."""
    return {"anyOf": [{"type": "number"}, {"type": "array", "items": {}}]}


def _parameters(models: Sequence[Model], formats: bool) -> dict[str, Any]:
    properties: dict[str, Any] = {
        "target": {
            "description": "An output index, one for each instance, a mask, 'max', or 'all' for forward-only methods",
            "anyOf": [{"type": "integer", "minimum": 0}, {"type": "array", "items": {}},
                      {"type": "string", "enum": ["max", "all"]}],
        },
        "baseline": {
            "description": "A number, one instance, one for each instance, by input name, or {'references': […]} "
            "(with 'per_sample': true a set for each instance)",
            "anyOf": [*_nested()["anyOf"], {"type": "object"}],
        },
        "seed": {"anyOf": [{"type": "integer"}, {"type": "array", "items": {"type": "integer"}}]},
        "groups": {
            "description": "Feature ids of the elements of each instance, for methods that remove features",
            "anyOf": [{"type": "array", "items": {}}, {"type": "object"}],
        },
        "timeout": {"type": "number", "exclusiveMinimum": 0, "description": "seconds"},
    }  # fmt: skip
    if formats:
        properties["format"] = {"type": "string", "enum": list(FORMATS)}
    for model in models:
        for name, adapter in model.parameters.effort.items():
            properties[name] = adapter.json_schema()
    return {"type": "object", "properties": properties, "additionalProperties": False}


# --- examples ----------------------------------------------------------------------------------


def _sample(spec: TensorSpec) -> Any:
    if not spec.floating:
        return np.ones(spec.sample_shape, np.int64).tolist()
    size = math.prod(spec.sample_shape)
    return (np.arange(1, size + 1) / max(size, 1)).round(2).reshape(spec.sample_shape).tolist()


def _small(model: Model) -> bool:
    return sum(math.prod(spec.sample_shape) for spec in model.inputs) <= EXAMPLE_SIZE


def _instance(model: Model) -> Any:
    if len(model.inputs) == 1:
        return _sample(model.inputs[0])
    return {spec.name: _sample(spec) for spec in model.inputs}


def _example_v1(model: Model, parameters: bool = True) -> dict[str, Any]:
    request: dict[str, Any] = {"instances": [_instance(model)]}
    if parameters:
        request["parameters"] = {"target": "max", "format": "full"}
    return {"summary": f"One instance for {model.name}", "value": request}


def _example_v2(model: Model) -> dict[str, Any]:
    tensors = [
        {
            "name": spec.name,
            "shape": [1, *spec.sample_shape],
            "datatype": "FP32" if spec.floating else spec.dtype.upper(),
            "data": np.ravel(_sample(spec)).tolist(),
        }
        for spec in model.inputs
    ]
    return {"summary": f"One instance for {model.name}", "value": {"inputs": tensors, "parameters": {"target": "max"}}}


def _body(schema: dict[str, Any], examples: dict[str, Any]) -> dict[str, Any]:
    return {"required": True, "content": {"application/json": {"schema": schema, "examples": examples}}}


# --- routes ------------------------------------------------------------------------------------


def _request_v1(models: Sequence[Model], parameters: dict[str, Any]) -> dict[str, Any]:
    instances = {"type": "array", "minItems": 1, "items": {"anyOf": [*_nested()["anyOf"], {"type": "object"}]}}
    return {
        "type": "object",
        "required": ["instances"],
        "properties": {"instances": instances, "parameters": parameters},
        "additionalProperties": False,
    }


def _answers(properties: dict[str, Any], *others: str, optional: dict[str, Any] | None = None) -> dict[int | str, Any]:
    schema = {"type": "object", "properties": {**properties, **(optional or {})}, "required": list(properties)}
    content = {"application/json": {"schema": schema}, **{kind: {"schema": {}} for kind in others}}
    return {200: {"description": "The answer", "content": content}, **REFUSALS}


def explain_v1(models: Sequence[Model]) -> dict[str, Any]:
    lists = {"type": "array", "items": {}}
    stream = {"name": "stream", "in": "query", "schema": {"type": "boolean"}, "description": "Server-sent events"}
    examples = {model.name: _example_v1(model) for model in models if _small(model)}
    return {
        "summary": "Explain instances",
        "responses": _answers(
            {"predictions": lists, "explanations": lists},
            "text/event-stream",
            optional={"incomplete": {"type": "array", "items": {"type": "integer"}}},
        ),
        "openapi_extra": {
            "parameters": [_name(models), stream],
            "requestBody": _body(_request_v1(models, _parameters(models, True)), examples),
        },
    }


def predict_v1(models: Sequence[Model]) -> dict[str, Any]:
    timeout = {"type": "object", "properties": {"timeout": {"type": "number", "exclusiveMinimum": 0}}}
    examples = {model.name: _example_v1(model, False) for model in models if _small(model)}
    return {
        "summary": "The model's outputs",
        "responses": _answers({"predictions": {"type": "array", "items": {}}}),
        "openapi_extra": {
            "parameters": [_name(models)],
            "requestBody": _body(_request_v1(models, timeout), examples),
        },
    }


def infer_v2(models: Sequence[Model]) -> dict[str, Any]:
    tensor = {
        "type": "object",
        "required": ["name", "shape", "datatype"],
        "properties": {
            "name": {"type": "string"},
            "shape": {"type": "array", "items": {"type": "integer", "minimum": 0}},
            "datatype": {"type": "string", "enum": ["BOOL", "INT32", "INT64", "FP16", "FP32", "FP64"]},
            "data": {"type": "array", "items": {}},
            "parameters": {"type": "object"},
        },
    }
    output = {"type": "object", "required": ["name"], "properties": {"name": {"type": "string"}}}
    parameters = _parameters(models, False)
    parameters["properties"]["binary_data_output"] = {"type": "boolean"}
    request = {
        "type": "object",
        "required": ["inputs"],
        "properties": {
            "id": {"type": "string"},
            "inputs": {"type": "array", "minItems": 1, "items": tensor},
            "outputs": {"type": "array", "items": output},
            "parameters": parameters,
        },
        "additionalProperties": False,
    }
    answer = {"model_name": {"type": "string"}, "outputs": {"type": "array", "items": {}}}
    examples = {model.name: _example_v2(model) for model in models if _small(model)}
    return {
        "summary": "Explain instances, as tensors",
        "responses": _answers(answer, "application/octet-stream", optional={"parameters": {"type": "object"}}),
        "openapi_extra": {"parameters": [_name(models)], "requestBody": _body(request, examples)},
    }

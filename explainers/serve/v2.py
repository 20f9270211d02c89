"""The Open Inference Protocol V2, with binary tensors."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import Any

import numpy as np

from .. import __version__
from ..errors import InputError, UnknownNameError, shown
from ..explainer.explanation import Explanation
from ..spec import Numpy, TensorSpec
from .arrays import array_of, as_floats, dump, parse
from .large import MOST_AXES
from .service import Job, Model
from .v1 import incomplete_instances

HEADER = "Inference-Header-Content-Length"
DATATYPES = {
    "BOOL": "bool", "UINT8": "uint8", "UINT16": "uint16", "UINT32": "uint32", "UINT64": "uint64", "INT8": "int8",
    "INT16": "int16", "INT32": "int32", "INT64": "int64", "FP16": "float16", "FP32": "float32", "FP64": "float64",
}  # fmt: skip
NAMES = {dtype: name for name, dtype in DATATYPES.items()} | {"bfloat16": "FP32"}
FIELDS = ("id", "inputs", "outputs", "parameters")
LARGEST_SIZE = 2**40  # numbers in a tensor; numpy overflows at 2^63 bytes
REPEATED = ("model_name", "model_version")  # fields that some clients send although the path contains them


@dataclass
class Inference:
    """A decoded request: the job, and which outputs to return in which form."""

    job: Job
    identity: str | None
    outputs: dict[str, bool]  # by name, whether binary


def decode(model: Model, body: bytes, header: str | None) -> Inference:
    """The request in a body: JSON and, if ``header`` gives its length, binary tensors after it."""
    text, binary = _cut(body, header)
    data = parse(text)
    for name in data:
        if name not in (*FIELDS, *REPEATED):
            raise InputError(f"unknown field {shown(name)}; a request has {', '.join(FIELDS)}")
    identity = data.get("id")
    if identity is not None and not isinstance(identity, str):
        raise InputError("id must be a string")
    parameters = _object(data.get("parameters"), "parameters")
    all_binary = _flag(parameters.pop("binary_data_output", False), "binary_data_output")
    arrays = _tensors(model, data.get("inputs"), binary)
    job = Job(model, arrays, model.parameters.read(parameters, formats=False))
    return Inference(job, identity, _requested_outputs(model, data.get("outputs"), all_binary))


def _cut(body: bytes, header: str | None) -> tuple[memoryview, memoryview]:
    view = memoryview(body)
    if header is None:
        return view, view[:0]
    if not (re.fullmatch(r"\d{1,15}", header, re.ASCII) and int(header) <= len(body)):
        raise InputError(f"{HEADER} must be a length within the body of {len(body)} bytes; got {shown(header)}")
    return view[: int(header)], view[int(header) :]


def _object(value: Any, what: str) -> dict[str, Any]:
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise InputError(f"{what} must be a JSON object")
    return dict(value)


def _flag(value: Any, name: str) -> bool:
    if not isinstance(value, bool):
        raise InputError(f"{name} must be true or false; got {shown(value)}")
    return value


# --- tensors ---------------------------------------------------------------------------------


def _tensors(model: Model, tensors: Any, binary: memoryview) -> list[Numpy]:
    """The model's inputs as arrays, in the model's order."""
    if not isinstance(tensors, list) or not all(isinstance(tensor, dict) for tensor in tensors):
        raise InputError("'inputs' must be a list of tensors")
    arrays: dict[str, Numpy] = {}
    for number, tensor in enumerate(tensors):
        what = f"inputs[{number}]"
        name = tensor.get("name")
        if not isinstance(name, str) or name in arrays:
            raise InputError(f"{what}: a name that no other input has is needed; got {shown(name)}")
        arrays[name], binary = _tensor(tensor, f"{what} ({shown(name)})", binary)
    if len(binary):
        raise InputError(f"{len(binary)} bytes follow the last binary tensor")
    names = [spec.name for spec in model.inputs]
    for name in arrays:
        if name not in names:
            raise UnknownNameError.among("input", name, names)
    for name in names:
        if name not in arrays:
            raise InputError(f"no value for input {name!r}; the inputs are {', '.join(names)}")
    counts = {array.shape[:1] for array in arrays.values()}
    if counts == {(0,)} or () in counts:
        raise InputError("the inputs must hold one instance or more along their first axis")
    return [arrays[name] for name in names]


def _tensor(tensor: dict[str, Any], what: str, binary: memoryview) -> tuple[Numpy, memoryview]:
    """One tensor as an array, and the remaining bytes."""
    shape, datatype = tensor.get("shape"), tensor.get("datatype")
    if not isinstance(shape, list) or not all(type(size) is int and 0 <= size < 2**40 for size in shape):
        raise InputError(f"{what}: shape must be a list of whole numbers ≥ 0; got {shown(shape)}")
    if len(shape) > MOST_AXES:
        raise InputError(f"{what}: a shape of {len(shape)} axes; {MOST_AXES} is the limit")
    if not isinstance(datatype, str) or datatype not in DATATYPES:
        raise UnknownNameError.among("datatype", datatype, DATATYPES, where=f" of {what}")
    dtype, size = np.dtype(DATATYPES[datatype]), math.prod(shape)
    if not size and math.prod(axis or 1 for axis in shape) >= LARGEST_SIZE:  # numpy refuses it, although it is empty
        raise InputError(f"{what}: the shape {shown(shape)} is larger than any body")
    length = _object(tensor.get("parameters"), f"{what}: parameters").get("binary_data_size")
    if length is None:
        array = array_of(tensor.get("data"), f"{what}: data")
        if array.size != size:
            raise InputError(f"{what}: {array.size} numbers given, the shape {shown(shape)} has {shown(size)}")
        return _cast(array.reshape(shape), dtype, what), binary
    if type(length) is not int or length != size * dtype.itemsize:
        raise InputError(
            f"{what}: {size * dtype.itemsize} bytes are the shape {shown(shape)} of {datatype}; got {shown(length)}"
        )
    if length > len(binary):
        raise InputError(f"{what}: {length} bytes announced, {len(binary)} there")
    array = np.frombuffer(binary[:length], dtype.newbyteorder("<")).reshape(shape)
    return array.astype(np.float32) if datatype == "FP16" else array.astype(dtype, copy=False), binary[length:]


def _cast(array: Numpy, dtype: np.dtype[Any], what: str) -> Numpy:
    """Numbers from JSON cast to ``dtype``; InputError if it cannot represent them."""
    if dtype.kind == "f":
        with np.errstate(over="ignore"):  # the explainer rejects infinity later
            return as_floats(array, what).astype(np.float32 if dtype.itemsize == 2 else dtype)
    with np.errstate(invalid="ignore"):
        cast = array.astype(dtype)
    if not np.array_equal(cast, array):
        raise InputError(f"{what}: a number is not of the datatype {NAMES[str(dtype)]}")
    return cast


# --- outputs ---------------------------------------------------------------------------------


def output_names(model: Model) -> dict[str, TensorSpec]:
    """``outputs``, ``attributions`` and, for sampled methods, ``standard_error``; by input if there are several."""
    many = len(model.attributed) > 1
    names = {"outputs": model.output}
    for kind in ("attributions", *(["standard_error"] if model.explain.method.sampled else [])):
        names.update({f"{kind}.{spec.name}" if many else kind: spec for spec in model.attributed})
    return names


def _requested_outputs(model: Model, outputs: Any, all_binary: bool) -> dict[str, bool]:
    names = output_names(model)
    if outputs is None:
        return dict.fromkeys(names, all_binary)
    if not isinstance(outputs, list) or not all(isinstance(output, dict) for output in outputs):
        raise InputError("'outputs' must be a list of objects")
    binary_by_name = {}
    for output in outputs:
        name = output.get("name")
        if not isinstance(name, str) or name not in names:
            raise UnknownNameError.among("output", name, names)
        parameters = _object(output.get("parameters"), f"output {name!r}: parameters")
        binary_by_name[name] = _flag(parameters.get("binary_data", all_binary), "binary_data")
    return binary_by_name


def encode(inference: Inference, explanation: Explanation) -> tuple[bytes, int | None]:
    """The body of the response, and the length of its JSON if binary tensors follow."""
    model = inference.job.model
    arrays = {"outputs": explanation.outputs}
    several = len(model.attributed) > 1
    for kind in ("attributions", "standard_error"):
        values = getattr(explanation, kind)
        if values is not None:
            for spec, array in zip(model.attributed, model.parts(values, explanation), strict=True):
                arrays[f"{kind}.{spec.name}" if several else kind] = array
    tensors, blobs = [], []
    for name, binary in inference.outputs.items():
        if name not in arrays:
            continue
        array = np.ascontiguousarray(arrays[name])
        tensor: dict[str, Any] = {"name": name, "shape": array.shape, "datatype": NAMES[str(array.dtype)]}
        if binary:
            blobs.append(array.astype(array.dtype.newbyteorder("<"), copy=False).tobytes())
            tensor["parameters"] = {"binary_data_size": len(blobs[-1])}
        else:
            tensor["data"] = array.ravel()
        tensors.append(tensor)
    head: dict[str, Any] = {"model_name": model.name, "outputs": tensors}
    if inference.identity is not None:
        head["id"] = inference.identity
    numbers = incomplete_instances(explanation)
    if numbers:
        head["parameters"] = {"incomplete": numbers}
    text = dump(head)
    return (b"".join([text, *blobs]), len(text)) if blobs else (text, None)


def server_metadata() -> dict[str, Any]:
    return {"name": "explainers", "version": __version__, "extensions": ["binary_tensor_data"]}


def metadata(model: Model) -> dict[str, Any]:
    def tensor(name: str, spec: TensorSpec) -> dict[str, Any]:
        return {"name": name, "datatype": NAMES.get(spec.dtype, "FP32"), "shape": spec.declared}

    return {
        "name": model.name,
        "versions": [],
        "platform": f"explainers_{model.explain.method.name}",
        "inputs": [tensor(spec.name, spec) for spec in model.inputs],
        "outputs": [tensor(name, spec) for name, spec in output_names(model).items()],
    }

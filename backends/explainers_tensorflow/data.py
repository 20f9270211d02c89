"""Compiled TensorFlow programs as data: a GraphDef for each, and ``program.json`` and ``tensors.safetensors``.

Nothing of such a file is executed when it is loaded, and no SavedModel is: an operation must be of one of the families
below, which compute their results from their operands and variables and do nothing else, a graph calls no functions
(those of the model and loops are unrolled in it), and each graph is imported into a new function::

    {"programs": {"explain": {"inputs": ["input_0:0"], "captures": [["unknown:0", "t0", true]],
                              "outputs": ["Identity:0"]}, …},
     "dtypes": {"t0": "float32"}}

A capture is a tensor of the file, and whether it is a variable.
"""

from __future__ import annotations

import json
import math
import warnings
from collections.abc import Mapping, Sequence
from typing import Annotated, Any

import numpy as np
import pydantic
import safetensors.numpy
import tensorflow as tf
from google.protobuf.message import DecodeError  # type: ignore[import-untyped]
from tensorflow.core.framework import graph_pb2
from tensorflow.python.framework import op_def_registry
from tensorflow.python.ops import (
    gen_array_ops,
    gen_bitwise_ops,
    gen_data_flow_ops,
    gen_image_ops,
    gen_linalg_ops,
    gen_list_ops,
    gen_manip_ops,
    gen_math_ops,
    gen_nn_ops,
    gen_ragged_array_ops,
    gen_ragged_math_ops,
    gen_rnn_ops,
    gen_sparse_ops,
    gen_special_math_ops,
    gen_spectral_ops,
    gen_stateless_random_ops,
    gen_stateless_random_ops_v2,
    gen_string_ops,
)

from explainers.backend import DATA, Kernel, Runnable, Size, Traced
from explainers.errors import ArtifactError
from explainers.file import schema
from explainers.file.container import decoding, parsed

from . import kernel
from .trace import _TRACING

PROGRAM, TENSORS, GRAPH = "program.json", "tensors.safetensors", ".pb"
FAMILIES: tuple[Any, ...] = (
    gen_array_ops, gen_bitwise_ops, gen_data_flow_ops, gen_image_ops, gen_linalg_ops, gen_list_ops,
    gen_manip_ops, gen_math_ops, gen_nn_ops, gen_ragged_array_ops, gen_ragged_math_ops, gen_rnn_ops, gen_sparse_ops,
    gen_special_math_ops, gen_spectral_ops, gen_stateless_random_ops, gen_stateless_random_ops_v2, gen_string_ops,
)  # fmt: skip
# In TensorFlow's terms they have state: they read a variable, or check a value.
READING = frozenset({
    "ReadVariableOp", "ResourceGather", "ResourceGatherNd", "VariableShape", "Assert", "CheckNumerics",
    "CheckNumericsV2", "NoOp", "StatelessRandomGetAlg",
})  # fmt: skip
# In TensorFlow's terms they have none, but they map a file into memory, or write to their operand.
WRITING = frozenset({"ImmutableConst", "InplaceAdd", "InplaceSub", "InplaceUpdate", "ParallelConcat"})
LARGEST = 2**24  # entries of a constant that is not written out, but as one number for all


def allowed(operation: str) -> bool:
    """Whether an operation may stand in a file: it computes its results, and does nothing else."""
    if operation in READING:
        return True
    if operation in WRITING or not any(hasattr(family, operation) for family in FAMILIES):
        return False
    known = op_def_registry.get(operation)
    return known is not None and not known.is_stateful


class _Program(pydantic.BaseModel):
    model_config = pydantic.ConfigDict(strict=True)
    inputs: list[str]
    captures: list[Annotated[tuple[str, str, bool], pydantic.Strict(False)]]
    outputs: list[str]


class _Told(pydantic.BaseModel):
    model_config = pydantic.ConfigDict(strict=True)
    programs: dict[str, _Program]
    dtypes: dict[str, str]


_TOLD: pydantic.TypeAdapter[Any] = pydantic.TypeAdapter(_Told)


def save(parts: Mapping[str, tuple[Runnable, Kernel | None]], traced: Traced, engine: str) -> dict[str, bytes]:
    """The programs as files, by name.

    Raises
    ------
    ArtifactError: an operation that may not stand in a file, or a table.
    """
    tensors = _Tensors(traced)
    told: dict[str, Any] = {}
    files = {}
    for name, (program, known) in parts.items():
        made: Any = known if known is not None and engine == "graph" else kernel.compile(program, traced, "graph", None)
        graph = made.native.graph.as_graph_def()
        _check(graph, f"its program {name!r}", "Save it with program='code'.")
        files[name + GRAPH] = graph.SerializeToString(deterministic=True)
        count = len(made.native.inputs) - len(made.native.captured_inputs)
        captures = zip(made.native.inputs[count:], made.native.captured_inputs, strict=True)
        told[name] = {
            "inputs": [tensor.name for tensor in made.native.inputs[:count]],
            "captures": [[inner.name, *tensors.of(outer)] for inner, outer in captures],
            "outputs": [tensor.name for tensor in made.native.outputs],
        }
    text = json.dumps({"programs": told, "dtypes": tensors.dtypes}, separators=(",", ":"))
    return {PROGRAM: text.encode(), TENSORS: safetensors.numpy.save(tensors.by_name), **files}


class _Tensors:
    """What the programs capture, each once."""

    def __init__(self, traced: Traced) -> None:
        weights = traced.weights.values()
        self.variables = {id(weight.handle): weight for weight in weights if hasattr(weight, "handle")}
        self.by_name: dict[str, Any] = {}
        self.dtypes: dict[str, str] = {}
        self._names: dict[int, str] = {}

    def of(self, captured: Any) -> tuple[str, bool]:
        """The name of a captured tensor, and whether it is a variable."""
        variable = self.variables.get(id(captured))
        name = self._names.setdefault(id(captured), f"t{len(self._names)}")
        if name not in self.by_name:
            value = np.ascontiguousarray((captured if variable is None else variable).numpy())
            self.dtypes[name] = str(value.dtype)
            self.by_name[name] = value.view("uint16") if self.dtypes[name] == "bfloat16" else value
        return name, variable is not None


def _check(graph: Any, what: str, advice: str) -> None:
    if graph.library.function:
        raise ArtifactError(f"{what} holds functions, which programs as data do not have. {advice}".rstrip())
    for node in graph.node:
        if not allowed(node.op):
            raise ArtifactError(
                f"{what} uses the operation {node.op!r:.100}; as data, a program may hold only operations that do "
                f"nothing but compute. {advice}".rstrip()
            )
        constant = node.attr["value"].tensor if node.op == "Const" else None
        if constant is None:
            continue
        entries = math.prod(dim.size for dim in constant.tensor_shape.dim)
        if entries > max(LARGEST, len(constant.tensor_content)):
            raise ArtifactError(
                f"{what} has a constant of {entries} entries, of which few are written. {advice}".rstrip()
            )


# --- reading ---------------------------------------------------------------------------------


class Data:
    """Programs that were read, as functions: each takes any sizes; XLA compiles for a size at its first use."""

    ahead = False
    form = DATA

    def __init__(
        self, files: Mapping[str, bytes], engine: str, device: str, parts: Mapping[str, Sequence[Any]]
    ) -> None:
        self.content, self.engine, self.device = dict(files), engine, device or None
        wanted = {PROGRAM, TENSORS, *(name + GRAPH for name in parts)}
        if set(files) != wanted:
            raise ArtifactError(f"it holds {sorted(files)} where programs as data are {sorted(wanted)}")
        told = parsed(files[PROGRAM], PROGRAM)
        schema.check(_TOLD, told, PROGRAM)
        self.told = _Told(**told)
        with decoding(TENSORS):
            self.values = self._values(files[TENSORS])
        self.variables: dict[str, Any] = {}
        with _TRACING, warnings.catch_warnings():
            warnings.simplefilter("ignore")
            self.functions = {name: self._function(name, holders) for name, holders in parts.items()}

    def _values(self, content: bytes) -> dict[str, Any]:
        try:
            found = safetensors.numpy.load(content)
        except Exception as error:  # safetensors has errors of its own
            raise ArtifactError(f"{TENSORS} cannot be read: {error}") from error
        if set(found) != set(self.told.dtypes):
            raise ArtifactError(f"{PROGRAM} lists other tensors than {TENSORS} holds")
        wide = tf.bfloat16.as_numpy_dtype
        return {n: v.view(wide) if self.told.dtypes[n] == "bfloat16" else v for n, v in found.items()}

    def _function(self, name: str, holders: Sequence[Any]) -> Any:
        told, graph = self.told.programs.get(name), graph_of(name, self.content[name + GRAPH])
        if told is None or len(told.inputs) != len(holders):
            takes = "is missing" if told is None else f"takes {len(told.inputs)} arguments"
            raise ArtifactError(f"its program {name!r} {takes}; the manifest lists {len(holders)}")

        def run(*arguments: Any) -> Any:
            captured = {inner: self._captured(tensor, variable) for inner, tensor, variable in told.captures}
            given = {**dict(zip(told.inputs, arguments, strict=True)), **captured}
            used = {name: tensor for name, tensor in given.items() if _node(name) in consumed}
            return tuple(tf.graph_util.import_graph_def(graph, used, told.outputs, name=""))

        given = {_node(name) for name in (*told.inputs, *(inner for inner, *_ in told.captures))}
        for place in reversed(range(len(graph.node))):
            if graph.node[place].name in given:
                del graph.node[place]  # a placeholder, which XLA does not know
        consumed = {_node(name) for node in graph.node for name in node.input}
        function = tf.function(
            run, input_signature=kernel.specs(holders), autograph=False, jit_compile=self.engine == "xla"
        )
        with tf.device(self.device):
            return function.get_concrete_function()

    def _captured(self, name: str, variable: bool) -> Any:
        with tf.init_scope():
            if name not in self.variables:
                value = self.values[name]
                self.variables[name] = tf.Variable(value, trainable=False) if variable else tf.constant(value)
        found = self.variables[name]
        return tf.compat.v1.get_default_graph().capture(found.handle if variable else found)

    def kernel(self, part: str, rows: Size) -> kernel.TensorFlowKernel:
        native = self.functions[part]
        return kernel.TensorFlowKernel(native, native.graph, {}, self.engine)

    def files(self) -> dict[str, bytes]:
        return self.content


def _node(tensor: str) -> str:
    """The node that a tensor, or a control input, is of."""
    return tensor.removeprefix("^").partition(":")[0]


def graph_of(name: str, content: bytes) -> Any:
    graph = graph_pb2.GraphDef()
    try:
        graph.ParseFromString(content)
    except DecodeError as error:
        raise ArtifactError(f"its program {name!r} is no graph: {error}") from error
    _check(graph, f"its program {name!r}", "")
    for node in graph.node:
        node.device = ""
    return graph


# --- showing ---------------------------------------------------------------------------------


def code(files: Mapping[str, bytes]) -> dict[str, str]:
    """The graphs as text."""
    graphs = {name: graph_of(name.removesuffix(GRAPH), files[name]) for name in files if name.endswith(GRAPH)}
    return {name: "\n".join(map(_line, graph.node)) for name, graph in graphs.items()}


def function_text(function: Any) -> str:
    signature = function.signature
    head = f"def {signature.name}({', '.join(argument.name for argument in signature.input_arg)}):"
    end = f"return {', '.join(function.ret[output.name] for output in signature.output_arg)}"
    return "\n  ".join([head, *map(_line, function.node_def), end])


def _line(node: Any) -> str:
    return f"{node.name} = {node.op}({', '.join(node.input)})"

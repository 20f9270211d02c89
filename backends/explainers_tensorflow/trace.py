"""Tracing a TensorFlow model into a Graph: its concrete function is flattened and read operation by operation."""

from __future__ import annotations

import os
import re
import sys
import sysconfig
import threading
import traceback
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import tensorflow as tf
from tensorflow.python.checkpoint.graph_view import ObjectGraphView
from tensorflow.python.trackable.base import Trackable

from explainers.backend import Traced
from explainers.errors import ExplainersError, InputError, TraceError
from explainers.graph import Attributes, Function, Graph, Node, Output, Role, Value
from explainers.spec import Signature

from . import log_sums, models, roles, scopes
from .flatten import FlatGraph, Inlining, Modules, flatten
from .joined import joined
from .locality import locality
from .norms import normalized
from .ops import Recipe
from .own import Backwards, OwnRecipe
from .scopes import numbered

_TRACING = threading.RLock()  # Keras keeps state of its own on its layers while they are called
_SIZES = (3, 5)  # two batch sizes; sizes that differ between them depend on the batch


def trace(model: Any, sig: Signature, device: Any, dtype: str | None, elementary: bool = False) -> Traced:
    """The model in inference mode as a Graph over its variables. ``elementary``: norms as on other frameworks."""
    place = device_name(device)
    target = model
    check_dtype(target, sig, dtype)
    with _TRACING, warnings.catch_warnings(), as_it_was(target):
        warnings.simplefilter("ignore")
        concrete, keys, paths = _concrete(target, sig)
        weights = _weights(target, concrete)
        locate, backwards = _Locate(target, paths), Backwards()

        def flat(batch: int | None) -> FlatGraph:
            return flatten(concrete, weights, _specs(sig, batch), locate, user_line_of, backwards)

        graph, used = _read(flat, keys, str(models.kind(target)))
    graph = normalized(log_sums.joined(graph)) if elementary else joined(graph)
    return Traced(graph, sig, used, device=place, memory=target)


def parameters(model: Any, weights: Mapping[Value, Any]) -> dict[Value, tuple[str, bool]]:
    """The names of variables, as Keras or TensorFlow has them, and whether they are trained: layers may be frozen."""
    own = getattr(model, "followed", model)
    of_keras = models.kind(own) == "keras"
    trained = {id(variable.value) for variable in own.trainable_variables} if of_keras else set()
    found = {}
    for value, weight in weights.items():
        if weight.dtype.is_floating:
            name = value.node.removeprefix("weights/")
            found[value] = (name, id(weight) in trained if of_keras else bool(weight.trainable))
    return found


def device_name(device: Any) -> str | None:
    """The full TensorFlow name of ``device``; None leaves placement to TensorFlow."""
    if device is None:
        return None
    try:
        parsed = tf.DeviceSpec.from_string(re.sub(r"^cuda", "gpu", str(device)) if "/" in str(device) else
                                           "/device:" + _kind_and_number(str(device)))  # fmt: skip
    except ValueError as error:
        raise InputError(f"device {device!r} is not one of TensorFlow's: give 'cpu', 'gpu' or 'gpu:0'") from error
    kinds = {d.device_type for d in tf.config.list_logical_devices()}
    if parsed.device_type not in kinds:
        raise InputError(f"device {device!r}: TensorFlow sees {', '.join(sorted(kinds))} here")
    return str(parsed.to_string())


def _kind_and_number(device: str) -> str:
    kind, _, number = device.partition(":")
    return f"{kind.upper().replace('CUDA', 'GPU')}:{number or 0}"


def check_dtype(model: Any, sig: Signature, dtype: str | None) -> None:
    """Raise an error unless the model computes in ``dtype``: the dtypes of a TensorFlow graph are fixed."""
    floating = {spec.dtype for spec in sig.inputs if spec.floating}
    own = models._model_dtype(model)
    if own is not None:
        floating.add(own.name)
    if dtype is not None and floating - {dtype}:
        raise InputError(
            f"dtype={dtype!r}: the model computes in {', '.join(sorted(floating))}, and a TensorFlow model cannot be "
            f"cast once built. Build it in {dtype} (keras.config.set_floatx({dtype!r}) before its layers are made, "
            "then set_weights), or leave dtype out."
        )


@contextmanager
def as_it_was(model: Any) -> Iterator[None]:
    """Restore the losses of Keras layers, which collect new ones while they are called."""
    layers = list(model._flatten_layers()) if models.kind(model) == "keras" else []
    before = [list(layer._losses) for layer in layers]
    try:
        yield
    finally:
        for layer, losses in zip(layers, before, strict=True):
            layer._losses[:] = losses


def _specs(sig: Signature, batch: int | None) -> list[tf.TensorSpec]:
    names = node_names(sig.names)
    return [tf.TensorSpec((batch, *s.sample_shape), s.dtype, name) for s, name in zip(sig.inputs, names, strict=True)]


def node_names(names: Iterable[str]) -> list[str]:
    """``names`` made unique and valid as names of TensorFlow operations and arguments."""
    result: list[str] = []
    for name in names:
        clean = re.sub(r"\W", "_", name) or "input"
        clean = clean if clean[0].isalpha() else f"input_{clean.strip('_')}"
        while clean.lower() in (other.lower() for other in result):
            clean += "_"
        result.append(clean)
    return result


def _weights(model: Any, concrete: Any) -> dict[int, Any]:
    """The model's variables and tables, by the ``id`` of their handles."""
    found = [*concrete.graph.variables]
    if models.kind(model) == "saved":
        found += models.endpoint(model).graph.variables if hasattr(models.endpoint(model), "graph") else ()
    found += getattr(model, "variables", ())
    plain = (getattr(v, "value", v) if not isinstance(v, tf.Variable) else v for v in found)
    handles = {id(v.handle): v for v in plain if isinstance(v, tf.Variable)}
    parts = ObjectGraphView(model).breadth_first_traversal()[0] if isinstance(model, Trackable) else ()
    return handles | {id(part.resource_handle): part for part in parts if hasattr(part, "resource_handle")}


# --- the concrete function -------------------------------------------------------------------


def _concrete(model: Any, sig: Signature) -> tuple[Any, list[str], dict[str, Modules]]:
    """The model as a concrete function, its outputs' keys, and the Keras layers around each operation."""
    call = models.caller(model, sig)
    keys: list[str] = []
    paths: dict[str, Modules] = {}

    def run(*tensors: Any) -> list[Any]:
        _record_layers(tf.compat.v1.get_default_graph(), model, paths)
        pairs = models.output_tensors(call(*tensors))
        keys[:] = [key for key, _ in pairs]
        return [tensor for _, tensor in pairs]

    try:
        function = tf.function(run, input_signature=_specs(sig, None), autograph=False)
        return function.get_concrete_function(), keys, paths
    except ExplainersError:
        raise
    except Exception as error:
        raise trace_error(error) from error


def _record_layers(graph: Any, model: Any, paths: dict[str, Modules]) -> None:
    """Record, for each operation created in ``graph``, the layers whose calls created it.

    TensorFlow renames repeated scopes; Keras' own call stack is exact.
    """
    if models.kind(model) != "keras":
        return
    from keras.src.backend.common import global_state

    make = graph._create_op_internal
    calls: dict[str, list[Any]] = {}

    def recorded(*args: Any, **kwargs: Any) -> Any:
        op = make(*args, **kwargs)
        stack = global_state.get_global_attribute("name_scope_stack") or ()
        paths[op.name] = _modules([s for s in stack if s.caller is not None and s.caller is not model], calls)
        return op

    graph._create_op_internal = recorded


def _modules(stack: Sequence[Any], calls: dict[str, list[Any]]) -> Modules:
    """``block``, ``block.attention``; in a layer's second call ``block@1``, ``block.attention@1``."""
    modules = []
    for depth, scope in enumerate(stack):
        path = ".".join(outer.name for outer in stack[: depth + 1])
        known = calls.setdefault(path, [])
        if scope not in known:
            known.append(scope)
        modules.append(numbered(path, known.index(scope)))
    return tuple(modules)


class _Locate:
    """Finds the layers around an operation: as recorded, else from TensorFlow's names."""

    def __init__(self, model: Any, paths: dict[str, Modules]) -> None:
        self.paths = paths
        layers = model._flatten_layers() if models.kind(model) == "keras" else ()
        self.layers = {layer.name for layer in layers}
        self.names: dict[int, set[str]] = {}  # recorded paths of the operations of each graph

    def __call__(self, op: tf.Operation, site: Inlining) -> Modules:
        if not site.caller and op.name in self.paths:
            return self.paths[op.name]
        inside = self._parts(op, f"{site.caller}/")
        if self.layers:
            inside = [name for name in map(self._layer, inside) if name]
        modules = list(site.modules)
        path = modules[-1].partition("@")[0] if modules else ""
        for part in inside:
            path = f"{path}.{part}" if path else part
            modules.append(numbered(path, site.turn))
        return tuple(modules)

    def _parts(self, op: tf.Operation, prefix: str) -> list[str]:
        """The scopes in the operation's name, except those that another operation created for its parts."""
        names = self.names.get(id(op.graph))
        if names is None:
            names = self.names[id(op.graph)] = {other.name for other in op.graph.get_operations()}
        parts = op.name.split("/")
        paths = ["/".join(parts[: depth + 1]) for depth in range(len(parts) - 1)]
        return [path.rpartition("/")[2] for path in paths if path not in names and not prefix.startswith(f"{path}/")]

    def _layer(self, part: str) -> str:
        bare = re.sub(r"_\d+$", "", part)
        return part if part in self.layers else bare if bare in self.layers else ""


def trace_error(error: Exception) -> TraceError:
    """A TraceError for any exception of tracing, with the user's line and advice."""
    where = user_line(error)
    text = re.sub(r"\x1b\[\d*m", "", str(error))
    name = type(error).__name__
    if "OperatorNotAllowedInGraph" in name or ("symbolic" in text and "Python" in text):
        what = "its control flow depends on the values of a tensor"
        advice = (
            "A compiled explanation runs the same operations on every batch. Write the choice with tf.where, "
            "or give a model without this branch (fix the flag, or wrap the part that is explained)."
        )
    elif name in ("NotImplementedError", "AttributeError") and "numpy" in text:
        what = "it turns a tensor into numpy, which leaves the graph"
        advice = "Write it with TensorFlow operations."
    elif name == "TypeError" and "SymbolicTensor" in text:
        what = "it turns a tensor into a Python number, which has no value yet"
        advice = "Write it with TensorFlow operations: a choice between values with tf.where."
    else:
        what = f"TensorFlow raised {name}"
        advice = (
            "Simplify this line." if where else "Check that the model itself runs on inputs of these shapes and types."
        )
    skip = ("in user code", "Exception encountered", "File ", "Arguments received")
    lines = [line.strip() for line in text.splitlines() if line.strip() and not line.strip().startswith(skip)]
    detail = f"\n(TensorFlow: {lines[0][:300]})" if lines else ""
    return TraceError(f"the model cannot be traced{f' at {where}' if where else ''}: {what}. {advice}{detail}")


_HERE = os.path.dirname(os.path.abspath(__file__))
_NOT_USERS = (os.path.dirname(tf.__file__), sysconfig.get_paths()["stdlib"] + os.sep + "contextlib")


def foreign(filename: str) -> bool:
    keras = sys.modules.get("keras")
    own = (os.path.dirname(keras.__file__),) if keras is not None and keras.__file__ else ()
    return filename.startswith((*_NOT_USERS, *own, "<")) or "__autograph_generated" in filename


def user_line(error: BaseException) -> str:
    """``file:line (code)`` of the last frame in the model's own code, below this package's."""
    found = ""
    for frame in traceback.extract_tb(error.__traceback__):
        if frame.filename.startswith(_HERE):
            found = ""
        elif not foreign(frame.filename):
            found = f"{frame.filename}:{frame.lineno} ({(frame.line or '').strip()})"
    told = re.findall(r'File "([^"]+)", line (\d+), in [^\n]+\n\s*([^\n]+)', str(error))  # converted by autograph
    own = [frame for frame in told if not foreign(frame[0]) and not frame[0].startswith(_HERE)]
    return "{}:{} ({})".format(*own[-1]) if own else found


def user_line_of(op: tf.Operation | None) -> str:
    """``file:line`` in the user's model that created ``op``, or ""."""
    frames = list(op.traceback or ()) if op is not None else []
    for frame in reversed(frames):
        if frame.filename.startswith(_HERE):
            return ""
        if not foreign(frame.filename):
            return f"{frame.filename}:{frame.lineno}"
    return ""


# --- reading the flat graph ------------------------------------------------------------------


def _read(flat: Callable[[int | None], FlatGraph], keys: Sequence[str], kind: str) -> tuple[Graph, dict[Value, Any]]:
    """The Graph for ``flat(None)``, and the variable behind each of its weights."""
    found = flat(None)
    if kind == "saved":
        scopes.drop_model(found)
    if kind != "keras":
        scopes.settle(found)
    reader = _Reader(found, _Shapes(flat, found.outputs))
    nodes = tuple(reader.node(op) for op in _needed(found))
    inputs = tuple(_value(tensor) for tensor in found.inputs)
    outputs = tuple((key, _value(tensor)) for key, tensor in zip(keys, found.outputs, strict=True))
    graph = Graph(nodes, inputs, outputs)
    weights = {Value(name): variable for name, variable in found.weights.items() if name in graph.by_name}
    _check_outputs(graph)
    return graph, weights


def _needed(flat: FlatGraph) -> list[tf.Operation]:
    """The inputs and the operations of the flat graph that the outputs depend on, in order."""
    keep = {tensor.op for tensor in flat.inputs}
    stack = [tensor.op for tensor in flat.outputs]
    while stack:
        op = stack.pop()
        if op not in keep:
            keep.add(op)
            stack += [tensor.op for tensor in _operands(flat, op)]
    return [op for op in flat.graph.get_operations() if op in keep]


def _operands(flat: FlatGraph, op: tf.Operation) -> list[Any]:
    """The operation's inputs, and the further tensors that its custom derivative uses."""
    return [*op.inputs, *(flat.own[op.name][1].operands if op.name in flat.own else ())]


def _value(tensor: Any) -> Value:
    return Value(tensor.op.name, tensor.value_index)


class _Reader:
    """Turns operations into nodes, in order, tracking facts about the values before them.

    ``dependent``: the values that depend on the model's inputs. ``sized``: integers and booleans whose entries, not
    only shapes, depend on the batch size.
    """

    def __init__(self, flat: FlatGraph, shapes: _Shapes) -> None:
        self.flat, self.shapes = flat, shapes
        self.heads = {tensor.op.name for tensor in flat.inputs}
        self.dependent: set[Value] = set()
        self.sized: set[Value] = set()

    def node(self, op: tf.Operation) -> Node:
        outputs = tuple(self.shapes.of(tensor) for tensor in op.outputs)
        values = [_value(tensor) for tensor in op.outputs]
        origin, modules = self.flat.graph.origin[op.name]
        if op.name in self.heads:
            self.dependent.update(values)
            return Node(op.name, "placeholder", Role.INPUT, outputs=outputs)
        if op.name in self.flat.weights:
            return Node(op.name, "variable", Role.WEIGHT, outputs=outputs)
        operands = tuple(_value(tensor) for tensor in _operands(self.flat, op))
        role, function, attributes = self._meaning(op, operands[: len(op.inputs)])
        kinds = [self.shapes.of(tensor) for tensor in _operands(self.flat, op)]
        fact = locality(op, kinds, outputs[0]) if outputs and self.dependent.intersection(operands) else None
        reorders, repeats = op.type in roles.RELABELS, op.type in roles.REPEATS
        attributes = replace(attributes, locality=fact, relabels=reorders, repeats=repeats)
        kind, steps = self.flat.own.get(op.name, (op.type, None))
        if self.dependent.intersection(operands):
            self.dependent.update(values)
        if self.sized.intersection(operands) or (op.type in roles.BATCH_SIZES and self._counted(op)):
            outputs = tuple(out if out.floating else replace(out, plain=False) for out in outputs)
            self.sized.update(value for value, out in zip(values, outputs, strict=True) if not out.floating)
        return Node(
            op.name, kind, role, operands, outputs, scope=modules[-1] if modules else "", modules=modules,
            function=function, elementwise=roles.elementwise(op.type) and steps is None, attributes=attributes,
            source=user_line_of(origin), payload=Recipe(op) if steps is None else OwnRecipe(op, steps),
        )  # fmt: skip

    def _counted(self, op: tf.Operation) -> bool:
        """Whether an operand's shape or entries depend on the batch size."""
        return any(None in self.shapes.of(tensor).shape for tensor in op.inputs)

    def _meaning(self, op: tf.Operation, operands: Sequence[Value]) -> tuple[Role, Function, Attributes]:
        """The operation's role, function and attributes."""
        floats = [place for place, tensor in enumerate(op.inputs) if tensor.dtype.is_floating]
        moving = [place for place in floats if operands[place] in self.dependent]
        floating = any(out.dtype.is_floating for out in op.outputs)
        if not floating or not moving or op.type in roles.SHAPE_ONLY:
            picks = floating and roles.listed(op.type) is Role.GATHER and self.dependent.intersection(operands)
            role = Role.GATHER if picks else Role.CONSTANT
        elif op.name in self.flat.own:
            lost = self.flat.own[op.name][1].lost
            return Role.OPAQUE, Function.OWN_DERIVATIVE, Attributes(lost=lost)
        elif op.type in roles.NORMS:
            role = Role.COMPOSITE if op.get_attr("is_training") or moving != [0] else Role.LINEAR
        else:
            role = roles.role(op.type, moving, len({operands[place] for place in moving}))
        constants = [place for place in floats if place not in moving]
        if op.type == "Maximum" and len(moving) == 1 and _is_zero(op.inputs[1 - moving[0]]):
            return role, Function.RELU, Attributes()
        known = constants or op.type not in roles.MATRIX_PRODUCTS
        function = roles.function(op.type, role) if known else Function.NONE
        attributes = roles.attributes(function, constants)
        if op.type == "MatMul" and moving == [0] and not op.get_attr("transpose_a"):
            attributes = replace(attributes, contracted=int(op.get_attr("transpose_b")))
        if op.type == "BiasAdd" and op.get_attr("data_format").startswith(b"NC"):
            attributes = replace(attributes, axis=1)
        if op.type in ("BatchMatMulV2", "BatchMatMulV3") and moving == [0] and op.inputs[1].shape.rank == 2:
            attributes = replace(attributes, contracted=None if op.get_attr("adj_x") else int(op.get_attr("adj_y")))
        return role, function, attributes


def _is_zero(tensor: Any) -> bool:
    known = tf.get_static_value(tensor)
    return known is not None and not known.any()


class _Shapes:
    """Shapes in which ``None`` marks exactly the sizes that depend on the batch size.

    The model is flattened for two more batch sizes: a size that differs between them depends on the batch;
    one that is still unknown depends on the input's values. What nothing uses, such as the space that a norm reserves,
    counts as a number.
    """

    def __init__(self, flat: Callable[[int | None], FlatGraph], results: Sequence[Any]) -> None:
        self.sized = [flat(size).graph for size in _SIZES]
        self.results = {tensor.name for tensor in results}

    def of(self, tensor: Any) -> Output:
        dtype = tensor.dtype.name
        if tensor.shape.rank is None and not tensor.consumers() and tensor.name not in self.results:
            return Output((), dtype)
        if tensor.shape.is_fully_defined():
            return Output(tuple(tensor.shape), dtype)
        small, large = (graph.get_tensor_by_name(tensor.name).shape for graph in self.sized)
        if small.rank is None or None in (*small, *large):
            line = user_line_of(tensor.graph.origin[tensor.op.name][0])
            raise TraceError(
                f"operation {tensor.op.type!r} ({tensor.op.name}){f' at {line}' if line else ''} makes a tensor of "
                f"shape {small}, which depends on the values of the input. A compiled explanation needs the same "
                "shapes for every sample: use a mask (tf.where) in place of picking entries."
            )
        pairs = list(zip(small, large, strict=True))
        differ = [pair for pair in pairs if pair[0] != pair[1]]
        shape = tuple(a if a == b else None for a, b in pairs)
        return Output(shape, dtype, plain=differ in ([], [_SIZES]))


def _check_outputs(graph: Graph) -> None:
    for key, value in graph.outputs:
        shape = graph.output(value).shape
        if None in shape[1:]:
            raise TraceError(
                f"output {key!r} of the model has shape {shape}: an axis behind the first depends on the batch size. "
                "Return a tensor with the batch as its first axis only."
            )

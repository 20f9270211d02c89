"""Values as JSON and named arrays, and back: a closed set of types; no class is imported by a name in the file."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import fields
from typing import Any

import numpy as np

from ..backend import owner
from ..errors import ArtifactError
from ..graph import Attributes, Function, Graph, Node, Output, Role, Value
from ..lengths import Length
from ..spec import Numpy
from ..stored import Stored, kinds

Arrays = dict[str, Numpy]


def encode(value: Any, arrays: Arrays, what: str) -> Any:
    """``value`` as JSON. Arrays go to ``arrays`` under a name; ``what`` names the value in errors.

    Raises
    ------
    ArtifactError: a function, or a value of an unsupported type.
    """
    kind = type(value)
    if value is None or kind in (bool, int, str):
        return value
    if kind is Length:
        return {"length": [value.name, int(value), value.axis, value.example, value.low, encode(value.high, {}, what)]}
    if isinstance(value, (np.bool_, np.integer, np.floating)):
        return encode(value.item(), arrays, what)
    if kind is float:
        return value if math.isfinite(value) else {"float": repr(value)}
    if kind is list:
        return [encode(entry, arrays, f"{what}[{i}]") for i, entry in enumerate(value)]
    if kind is tuple:
        return {"tuple": [encode(entry, arrays, f"{what}[{i}]") for i, entry in enumerate(value)]}
    if kind is dict:
        return {"dict": [[encode(k, arrays, what), encode(v, arrays, f"{what}[{k!r}]")] for k, v in value.items()]}
    if kind is slice:
        return {"slice": [encode(part, arrays, what) for part in (value.start, value.stop, value.step)]}
    if kind is Role:
        return {"role": value.value}
    if isinstance(value, Stored) and kinds().get(kind.__name__) is kind:
        pairs = [(f, getattr(value, f.name)) for f in fields(value)]
        given = {f.name: entry for f, entry in pairs if f.name not in kind.later or entry != f.default}
        parts = {name: encode(entry, arrays, f"{what}.{name}") for name, entry in given.items()}
        _check_stored(kind, given)
        return {"class": kind.__name__, "fields": parts}
    home = owner(value)
    array = home.numpy(value) if home is not None else value
    if isinstance(array, np.ndarray) and array.dtype.kind in "fiub":
        name = f"{what}:{len(arrays)}"
        arrays[name] = np.ascontiguousarray(array, array.dtype.newbyteorder("=")).reshape(array.shape)
        return {"array": name}
    raise ArtifactError(_refusal(value, what))


def _refusal(value: Any, what: str) -> str:
    kind = f"{type(value).__module__}.{type(value).__qualname__}"
    if callable(value) or (isinstance(value, Stored) and not value.is_data):
        return (
            f"{what} is code ({getattr(value, '__qualname__', kind)}), which cannot be saved in an explainer's file. "
            "Compile with values (numbers, arrays, References, the library's own methods and rules), or give it at "
            "each call: explain(x, baseline=…)."
        )
    return f"{what} is of type {kind}, which cannot be saved: give numbers, texts, arrays, or the library's own values"


def decode(data: Any, arrays: Mapping[str, Numpy]) -> Any:
    """The value that :func:`encode` wrote. Raises ArtifactError for anything else."""
    if data is None or isinstance(data, (bool, int, float, str)):
        return data
    if isinstance(data, list):
        return [decode(entry, arrays) for entry in data]
    if set(data) == {"class", "fields"}:
        kind = kinds().get(data["class"])
        if kind is None:
            raise ArtifactError(f"it holds a value of the unknown class {data['class']!r}: made by a newer version?")
        given, known = data["fields"], {f.name for f in fields(kind)}
        if set(given) | kind.later != known:
            raise ArtifactError(f"{data['class']} has the fields {sorted(given)}; this version knows {sorted(known)}")
        values = {name: decode(entry, arrays) for name, entry in given.items()}
        _check_stored(kind, values)
        return kind(**values)
    if len(data) != 1:
        raise ArtifactError(f"it holds an unknown kind of value: {sorted(data)}")
    ((tag, body),) = data.items()
    if tag not in _TAGS:
        raise ArtifactError(f"it holds an unknown kind of value: {tag!r}")
    return _TAGS[tag](body, arrays)


def _check_stored(kind: type[Any], values: Mapping[str, Any]) -> None:
    """Also where files are written, so that none is written that would be refused."""
    from . import schema  # importing this library stays quick

    schema.check_fields(kind, values)


def _slice(body: Any, arrays: Mapping[str, Numpy]) -> slice:
    from . import schema

    parts = tuple(decode(part, arrays) for part in body)
    schema.check(schema.SLICE, parts, "slice")
    return slice(*parts)


def _length(body: Any, arrays: Mapping[str, Numpy]) -> Length:
    from . import schema

    parts = [decode(part, {}) for part in body]
    schema.check(schema.LENGTH, parts, "length")
    return Length(*parts)


def _float(body: Any, arrays: Mapping[str, Numpy]) -> float:
    return {"inf": math.inf, "-inf": -math.inf, "nan": math.nan}[body]


_TAGS: dict[str, Callable[[Any, Mapping[str, Numpy]], Any]] = {
    "float": _float,
    "tuple": lambda body, arrays: tuple(decode(entry, arrays) for entry in body),
    "dict": lambda body, arrays: {decode(k, arrays): decode(v, arrays) for k, v in body},
    "slice": _slice,
    "role": lambda body, arrays: Role(body),
    "array": lambda body, arrays: arrays[body],
    "length": _length,
}


# --- graphs ----------------------------------------------------------------------------------


def encode_graph(graph: Graph) -> Any:
    """A graph as JSON, without the payloads that only its backend understands."""
    return {
        "nodes": [_node(node) for node in graph],
        "inputs": [list(value) for value in graph.inputs],
        "outputs": [[key, list(value)] for key, value in graph.outputs],
    }


def _node(node: Node) -> list[Any]:
    outputs = [[encode(list(out.shape), {}, node.name), out.dtype, out.plain] for out in node.outputs]
    known = {f.name: getattr(node.attributes, f.name) for f in fields(node.attributes)}
    given = {name: value for name, value in known.items() if value != getattr(Attributes, name)}
    attributes = encode(given, {}, f"attributes of {node.name}")
    return [
        node.name, node.op, node.role.value, [list(value) for value in node.inputs], outputs, node.scope,
        list(node.modules), node.function.value, node.elementwise, attributes, node.source,
    ]  # fmt: skip


def decode_graph(data: Any) -> Graph:
    """The graph that :func:`encode_graph` wrote. Raises ArtifactError for anything else."""
    from . import schema

    schema.check(schema.GRAPH, data, "graph.json")
    nodes = []
    for name, op, role, inputs, outputs, scope, modules, function, elementwise, attributes, source in data["nodes"]:
        made = tuple(Output(_shape(shape), dtype, plain) for shape, dtype, plain in outputs)
        operands = tuple(Value(*value) for value in inputs)
        kind = {"scope": scope, "modules": tuple(modules), "function": Function(function), "elementwise": elementwise}
        told = decode(attributes, {})
        _check_stored(Attributes, told)
        known = {**kind, "attributes": Attributes(**told), "source": source}
        nodes.append(Node(name, op, Role(role), operands, made, **known))
    outputs = tuple((key, Value(*value)) for key, value in data["outputs"])
    return Graph(tuple(nodes), tuple(Value(*value) for value in data["inputs"]), outputs)


def _shape(data: Any) -> tuple[int | None, ...]:
    from . import schema

    shape = tuple(decode(data, {}))
    schema.check(schema.SHAPE, shape, "the shape of a node")
    return shape

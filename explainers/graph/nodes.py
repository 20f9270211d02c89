"""The model as a flat list of nodes in topological order.

A :class:`Node` is one operation of the framework; a :class:`Value` names one of its outputs.
The graph knows no method and no framework: what an operation *is* to an attribution rule is
its :class:`~explainers.graph.Role`, and how to run it stays with the backend, behind ``Node.payload``.
"""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from itertools import count
from typing import Any, NamedTuple

from ..errors import TraceError, UnknownNameError
from ..lengths import Length
from ..spec import COMPLEX, FLOATING
from .roles import Attributes, Function, Role


class Value(NamedTuple):
    """Output number ``place`` of the node called ``node``."""

    node: str
    place: int = 0

    def __str__(self) -> str:
        return self.node if self.place == 0 else f"{self.node}:{self.place}"


@dataclass(frozen=True)
class Output:
    """Shape and dtype of one value. A dimension that depends on the batch size is ``None``.

    ``plain``: the dimension that is ``None`` counts samples, one by one; not so where the batch is folded
    into another axis (B·heads) or where the value itself is the batch size.
    """

    shape: tuple[int | None, ...]
    dtype: str
    plain: bool = True

    @property
    def batch_axis(self) -> int | None:
        """The axis whose entries are the samples, or None where there is no such axis."""
        return self.shape.index(None) if self.plain and self.shape.count(None) == 1 else None

    @property
    def floating(self) -> bool:
        return self.dtype in FLOATING

    @property
    def differentiable(self) -> bool:
        return self.floating or self.dtype in COMPLEX

    def __str__(self) -> str:
        return f"{self.dtype}[{', '.join('batch' if d is None else str(d) for d in self.shape)}]"


@dataclass(frozen=True)
class Node:
    """One operation.

    ``function``: what it computes, where rules care; ``attributes``: what else they need to know.
    ``elementwise``: each output entry depends on the entries at its own place only. ``scope``: the path of
    the module that it came from, the last of ``modules``. ``source``: the user's own line. ``payload``: the
    backend's handle.
    """

    name: str
    op: str
    role: Role
    inputs: tuple[Value, ...] = ()
    outputs: tuple[Output, ...] = ()
    scope: str = ""
    modules: tuple[str, ...] = ()
    function: Function = Function.NONE
    elementwise: bool = False
    attributes: Attributes = field(default=Attributes(), compare=False)
    source: str = ""
    payload: Any = field(default=None, compare=False, repr=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "function", Function(self.function))

    @property
    def values(self) -> tuple[Value, ...]:
        return tuple(Value(self.name, index) for index in range(len(self.outputs)))

    def __str__(self) -> str:
        operands = ", ".join(map(str, self.inputs))
        kinds = ", ".join(map(str, self.outputs))
        where = f"  # {self.scope}" if self.scope else ""
        return f"%{self.name}: {kinds} = {self.op}({operands}) <{self.role.value}>{where}"


@dataclass(frozen=True)
class Graph:
    """Nodes in topological order, with the values that go in and come out.

    ``outputs`` maps the key of each of the model's outputs (``"0"``, ``"logits"`` …) to its value.
    """

    nodes: tuple[Node, ...]
    inputs: tuple[Value, ...]
    outputs: tuple[tuple[str, Value], ...]

    def __post_init__(self) -> None:
        self.check()

    @cached_property
    def called(self) -> bool:
        """Whether the model is called as it is, one node, so that nothing inside it can be seen."""
        return any(node.function is Function.CALL for node in self.nodes)

    @cached_property
    def by_name(self) -> dict[str, Node]:
        return {node.name: node for node in self.nodes}

    def __iter__(self) -> Iterator[Node]:
        return iter(self.nodes)

    def output(self, value: Value) -> Output:
        """Shape and dtype of ``value``."""
        return self.by_name[value.node].outputs[value.place]

    def check(self) -> None:
        """Check that names are unique and operands are defined before use. Runs after each build and rewrite."""
        defined: set[Value] = set()
        names: set[str] = set()
        for node in self.nodes:
            if node.name in names:
                raise TraceError(f"the graph has two nodes called {node.name!r}")
            names.add(node.name)
            for value in node.inputs:
                if value not in defined:
                    raise TraceError(f"node {node.name!r} uses {value} before it is defined")
            defined.update(node.values)
        for value in (*self.inputs, *(value for _, value in self.outputs)):
            if value not in defined:
                raise TraceError(f"the graph names {value}, which no node defines")

    def active(self, wrt: Iterable[Value]) -> set[Value]:
        """The floating and complex values through which ``wrt`` can move an output: none behind a stop-gradient."""
        active = set(wrt)
        for node in self.nodes:
            stops = node.role is Role.CONSTANT or node.function is Function.STOP_GRADIENT
            if not stops and any(value in active for value in node.inputs):
                active.update(v for v, out in zip(node.values, node.outputs, strict=True) if out.differentiable)
        return active

    def moved(self, wrt: Iterable[Value], by_shape: bool = False) -> set[Value]:
        """All values, of any dtype, that depend on the entries of ``wrt``; ``by_shape``: or on their shapes."""
        moved = set(wrt)
        for node in self.nodes:
            if (by_shape or node.function is not Function.SHAPE) and any(value in moved for value in node.inputs):
                moved.update(node.values)
        return moved

    def needed(self, targets: Iterable[Value], given: Iterable[Value] = ()) -> set[str]:
        """Names of the nodes needed to compute ``targets`` from the values ``given``."""
        known = set(given)
        stack = [value for value in targets if value not in known]
        names: set[str] = set()
        while stack:
            node = self.by_name[stack.pop().node]
            if node.name not in names:
                names.add(node.name)
                stack.extend(value for value in node.inputs if value not in known)
        return names

    def restrict(self, targets: Iterable[tuple[str, Value]]) -> Graph:
        """The subgraph that computes ``targets``; all inputs are kept, used or not."""
        wanted = tuple(targets)
        keep = self.needed(value for _, value in wanted) | {value.node for value in self.inputs}
        return Graph(tuple(n for n in self.nodes if n.name in keep), self.inputs, wanted)

    def cut(self, at: tuple[Value, ...]) -> Graph:
        """The graph with the values ``at`` as its first inputs, in place of the nodes that computed them.

        The original inputs follow: values that bypass the cut (masks, a skip
        connection around it) is computed from them as before.
        """
        free = (name for index in count() if (name := f"cut_{index}") not in self.by_name)  # it may be cut already
        replaced = {value: Value(next(free)) for value in at}
        heads = tuple(
            Node(
                replaced[value].node,
                "cut",
                Role.INPUT,
                outputs=(self.output(value),),
                scope=self.by_name[value.node].scope,
            )
            for value in at
        )
        keep = self.needed((value for _, value in self.outputs), at)
        keep |= {value.node for value in self.inputs}
        body = tuple(
            dataclasses.replace(n, inputs=tuple(replaced.get(v, v) for v in n.inputs))
            for n in self.nodes
            if n.name in keep
        )
        outputs = tuple((key, replaced.get(value, value)) for key, value in self.outputs)
        return Graph(heads + body, (*replaced.values(), *self.inputs), outputs)

    def logits(self, value: Value) -> Value:
        """The input of the softmax or sigmoid that computes ``value``; ``value`` itself if it is neither."""
        node = self.by_name[value.node]
        while node.elementwise and node.role is Role.LINEAR and len(node.inputs) == 1:  # casts, copies
            node = self.by_name[node.inputs[0].node]
        squashes = node.function in (Function.SOFTMAX, Function.LOG_SOFTMAX, Function.SIGMOID)
        return node.inputs[0] if squashes else value

    def table_size(self, ids: Value) -> int | None:
        """The number of rows of the smallest embedding table that ``ids`` index directly; None if there is none."""
        sizes = []
        for node in self.nodes:
            if node.function is Function.EMBEDDING and ids in node.inputs[1:]:
                shape = self.output(node.inputs[0]).shape
                whole = (*self.output(ids).shape, *shape[1:])
                if shape and shape[0] is not None and node.outputs[0].shape == whole:
                    sizes.append(shape[0])
        return min(sizes, default=None)

    def scopes(self) -> list[str]:
        """All modules that computed something, in order of first use."""
        return list(dict.fromkeys(module for node in self.nodes for module in node.modules))

    def layer(self, path: str) -> tuple[Value, ...]:
        """The values that leave the layer at ``path``, in order; ``path@n`` is the n-th of several calls."""
        known = self.scopes()
        calls = [f"{path}@0", *(m for m in known if m.rpartition("@")[0] == path)]
        if len(calls) > 1 and path in known:
            raise UnknownNameError(f"layer {path!r} runs {len(calls)} times; name one call: {', '.join(calls)}")
        path = path.removesuffix("@0")
        inside = {n.name for n in self.nodes if path in n.modules}
        if not inside:
            raise UnknownNameError.among("layer", path, known)
        leaving: dict[Value, None] = {}
        users = [(node.name, value) for node in self.nodes for value in node.inputs]
        users += [("", value) for _, value in self.outputs]
        for user, value in users:
            if value.node in inside and user not in inside:
                leaving[value] = None
        values = tuple(value for value in leaving if self.output(value).floating)
        values = tuple(sorted(values, key=lambda v: self._order[v.node]))
        for value in values:
            shape = self.output(value).shape
            if not shape or shape[0] is not None:
                raise TraceError(
                    f"the output of layer {path!r} ({self.output(value)}) does not have the batch as its "
                    "first axis, so its rows cannot be told apart. Pick a layer around it."
                )
        if not values:
            raise UnknownNameError(f"layer {path!r} has no floating-point output that the model uses")
        return values

    @cached_property
    def _order(self) -> dict[str, int]:
        return {node.name: place for place, node in enumerate(self.nodes)}

    def row_bytes(self, sizes: Mapping[str, int] | None = None) -> int:
        """The size of one row's activations in bytes, over all nodes. ``sizes``: of the axes that vary."""
        total = 0
        for node in self.nodes:
            for out in node.outputs:
                if None in out.shape:
                    count = 1
                    for size in out.shape:
                        count *= (size.at(sizes) if sizes and isinstance(size, Length) else int(size or 1)) or 1
                    total += count * {**FLOATING, **COMPLEX}.get(out.dtype, 8)
        return total

    def ops(self) -> Counter[tuple[str, Role]]:
        """How often each operation occurs, with its role."""
        skip = (Role.INPUT, Role.WEIGHT)
        return Counter((node.op, node.role) for node in self.nodes if node.role not in skip)

    def __str__(self) -> str:
        lines = [str(node) for node in self.nodes]
        lines += [f"return {key}: %{value}" for key, value in self.outputs]
        return "\n".join(lines)

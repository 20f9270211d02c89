"""A traced function as one flat graph: calls inlined, loops of known length unrolled, variables as placeholders.

Each operation is recreated in a new graph, so that TensorFlow infers shapes again from those of the inputs.
TensorList values (the TensorArray of loops) become Python tuples of plain tensors.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import tensorflow as tf
from tensorflow.python.framework import tensor_util

from explainers.errors import TraceError

from .own import CALLS, Backward, Backwards, Source, Steps, moves, steps

LONG_LOOP, LONGEST_LOOP = 50, 10_000  # steps
READ = 10  # ratio of the time to trace and compile a step to that of reading it
_log = logging.getLogger(__name__)
RANDOM = ("Random", "Multinomial", "TruncatedNormal", "Bernoulli", "Dropout")
WRITES = (
    "AssignVariableOp", "AssignAddVariableOp", "AssignSubVariableOp", "ResourceScatter", "ResourceApply",
    "LookupTableInsert", "LookupTableImport", "LookupTableRemove",
)  # fmt: skip
LOOKUPS = ("LookupTableFind", "LookupTableFindV2", "LookupTableSize", "LookupTableSizeV2")


Modules = tuple[str, ...]  # paths of the layers around an operation, outermost first


@dataclass(frozen=True)
class Captured:
    """A variable's handle or another tensor that a function captures from outside."""

    tensor: Any


@dataclass(frozen=True)
class ListValue:
    """A TensorList of known length; ``None`` for entries that are not written yet."""

    items: tuple[Any, ...]
    dtype: tf.DType


class _OwnedGraph(tf.Graph):
    """A graph that records for each new operation its original, ``made_for``, and the layers around it."""

    def __init__(self) -> None:
        super().__init__()
        self.made_for: tuple[tf.Operation | None, Modules] = (None, ())
        self.origin: dict[str, tuple[tf.Operation | None, Modules]] = {}

    def _create_op_internal(self, *args: Any, **kwargs: Any) -> Any:
        op = super()._create_op_internal(*args, **kwargs)
        self.origin[op.name] = self.made_for
        return op


@dataclass
class FlatGraph:
    """The flat graph with its inputs and outputs. ``weights``: the variable behind each placeholder for one.

    ``own``: the name and the derivative of each operation with a custom derivative.
    """

    graph: _OwnedGraph
    inputs: list[Any] = field(default_factory=list)
    outputs: list[Any] = field(default_factory=list)
    weights: dict[str, Any] = field(default_factory=dict)
    own: dict[str, tuple[str, Steps]] = field(default_factory=dict)


@dataclass(frozen=True)
class Inlining:
    """The context in which a function is inlined: the layers, the calling operation, and the iteration of a loop."""

    modules: Modules = ()
    caller: str = ""
    turn: int = 0


Locate = Callable[[tf.Operation, Inlining], Modules]


@dataclass(frozen=True)
class Inlined:
    """A function that is being inlined: ``values`` has the tensors recreated so far, by the names of the originals."""

    graph: Any
    site: Inlining
    values: dict[str, Any]


def flatten(
    concrete: Any, weights: Mapping[int, Any], specs: Sequence[tf.TensorSpec], locate: Locate,
    where: Callable[[Any], str], backwards: Backwards,
) -> FlatGraph:  # fmt: skip
    """The concrete function, which uses ``weights``, as a flat graph for inputs of ``specs``.

    ``weights``: variables and tables by the ``id`` of their handles.
    ``locate(op, site)``: the paths of the layers around an operation.
    ``where(op)``: the user's line for error messages, or "". ``backwards``: the model's custom derivatives.
    """
    flat = FlatGraph(_OwnedGraph())
    with flat.graph.as_default():
        flat.inputs = [tf.compat.v1.placeholder(s.dtype, s.shape, name=s.name) for s in specs]
        flattener = _Flattener(flat, locate, where, weights, backwards)
        captured = [Captured(outer) for outer, _ in concrete.graph.captures]
        results = flattener.inline(concrete.graph, [*flat.inputs, *captured], Inlining(), len(concrete.graph.outputs))
        flat.outputs = [flattener.tensor(result) for result in results]
    flattener.check_writes()
    return flat


class _Flattener:
    def __init__(
        self,
        flat: FlatGraph,
        locate: Locate,
        where: Callable[[Any], str],
        weights: Mapping[int, Any],
        backwards: Backwards,
    ) -> None:
        self.flat = flat
        self.backwards = backwards
        self.around: list[Inlined] = []  # the functions that are being inlined, outermost first
        self.locate = locate
        self.where = where
        self.known = weights
        self.read: dict[int, Any] = {}
        self.written: dict[int, tf.Operation] = {}
        self.orders: dict[tuple[Any, ...], list[tf.Operation]] = {}

    # --- functions ---------------------------------------------------------------------------

    def inline(self, graph: Any, arguments: Sequence[Any], site: Inlining, count: int) -> list[Any]:
        """The first ``count`` outputs of the function ``graph`` on ``arguments``, recreated in the flat graph.

        TensorFlow appends outputs to a function's graph where a tape differentiates it: only the
        first of them are the function's own.
        """
        values = {inner.name: value for inner, value in zip(graph.inputs, arguments, strict=False)}
        self._note_writes(graph, values)
        here = Inlined(graph, site, values)
        self.around.append(here)
        try:
            return self._computed(here, graph.outputs[:count])
        finally:
            self.around.pop()

    def _computed(self, here: Inlined, outputs: Sequence[Any]) -> list[Any]:
        """The flat graph's tensors for ``outputs`` of the function; recreates those that do not exist yet."""
        key = (id(here.graph), *(tensor.name for tensor in outputs))
        if key not in self.orders:
            self.orders[key] = _needed(here.graph, outputs)
        values = here.values
        for op in self.orders[key]:
            if all(out.name in values for out in op.outputs):
                continue
            inputs = [values[tensor.name] for tensor in op.inputs]
            results = self.make(op, inputs, self.locate(op, here.site))
            values.update((out.name, result) for out, result in zip(op.outputs, results, strict=True))
        return [values[out.name] for out in outputs]

    def make(self, op: tf.Operation, inputs: list[Any], modules: Modules) -> Sequence[Any]:
        handler = getattr(self, "_" + op.type, None)
        if op.type in CALLS:
            return self.inline(_function(op, "f"), inputs, Inlining(modules, op.name), len(op.outputs))
        if op.type in ("While", "StatelessWhile"):
            return self._loop(op, inputs, modules)
        if op.type in ("If", "StatelessIf", "Case", "StatelessCase"):
            return self._branch(op, inputs, modules)
        self.flat.graph.made_for = (op, modules)
        backward = self.backwards.of(op)
        if backward is not None:
            return self._own(op, inputs, backward, modules)
        if handler is None:
            return self._again(op, inputs)
        with tf.name_scope(op.name + "/"):
            results: Sequence[Any] = handler(op, inputs)
        return results

    def _again(self, op: tf.Operation, inputs: list[Any]) -> Sequence[Any]:
        self._check(op)
        take = self._table if op.type in LOOKUPS else self.tensor
        tensors = [*map(take, inputs[:1]), *map(self.tensor, inputs[1:])]
        names = {attr.name for attr in op.op_def.attr}
        attributes = {key: value for key, value in op.node_def.attr.items() if key in names}
        kinds = [out.dtype for out in op.outputs]
        try:
            made = self.flat.graph.create_op(op.type, tensors, kinds, attrs=attributes, op_def=op.op_def, name=op.name)
        except (ValueError, TypeError) as error:
            lines = str(error).splitlines()
            raise self._error(
                op,
                f"does not work with a batch of any size ({lines[0] if lines else error})",
                "Use tf.shape(x)[0] (or -1) where the code has a number in place of the batch size.",
            ) from error
        if op.type.startswith("LookupTableFind"):  # their shapes are set by TensorFlow's Python code, not by the graph
            keys, values = tensors[1].shape, op.outputs[0].shape
            made.outputs[0].set_shape(keys.concatenate(values[keys.rank :] if values.rank else ()))
        return list(made.outputs)

    def _check(self, op: tf.Operation) -> None:
        if any(part in op.type for part in RANDOM):
            error = self._error(op, "draws random numbers in inference",
                                "An explanation must be repeatable: draw only if training.")  # fmt: skip
            error.callable = False
            raise error
        if "PyFunc" in op.type:
            raise self._error(op, "runs Python code, which a graph cannot hold",
                              "Write it with TensorFlow operations.")  # fmt: skip
        functional = any(value.WhichOneof("value") == "func" for value in op.node_def.attr.values())
        stateful = op.op_def.is_stateful and op.type not in LOOKUPS
        if functional or stateful or op.type in ("Switch", "Merge", "Enter", "Exit", "RefSwitch"):
            raise self._error(op, "cannot be recreated outside the model", "Write it with plain tensor operations.")

    def _error(self, op: tf.Operation, what: str, advice: str) -> TraceError:
        line = self.where(op)
        return TraceError(f"operation {op.type!r} ({op.name}){f' at {line}' if line else ''} {what}. {advice}")

    # --- custom derivatives ------------------------------------------------------------------

    def _own(self, op: tf.Operation, inputs: list[Any], backward: Backward, modules: Modules) -> Sequence[Any]:
        """The operation as one node, whose derivative is ``backward``."""
        tensors = [self.tensor(value) for value in inputs]
        try:
            found = self._steps(op, tensors, backward, modules)
        except TraceError as error:
            found = Steps({}, {}, (), f"its own derivative cannot be traced ({error})")
        self.flat.graph.made_for = (op, modules)
        made = self._again(op, list(tensors))
        self.flat.own[made[0].op.name] = backward.name, found
        return made

    def _steps(self, op: tf.Operation, tensors: Sequence[Any], backward: Backward, modules: Modules) -> Steps:
        if backward.graph is None:
            return Steps({}, {}, (), backward.lost)
        known: dict[str, Source] = {tensor.name: ("input", place, 0) for place, tensor in enumerate(tensors)}
        with tf.name_scope("backward/"):
            outs = [tf.compat.v1.placeholder(out.dtype, out.shape) for out in op.outputs]
            arriving = [tf.compat.v1.placeholder(out.dtype, out.shape) for out in op.outputs]
        known.update((tensor.name, ("output", place, 0)) for place, tensor in enumerate(outs))
        known.update((tensor.name, ("cotangent", place, 0)) for place, tensor in enumerate(arriving))
        own = {out.name: tensor for out, tensor in zip(op.outputs, outs, strict=True)}
        captured = [self._outer(outer, own) for outer, _ in backward.graph.captures]
        start = len(self.flat.graph.origin)
        given = [tensor for tensor in arriving if moves(tensor.dtype)]
        results = self.inline(backward.graph, [*given, *captured], Inlining(modules, op.name), len(backward.places))
        made = [self.flat.graph.get_operation_by_name(name) for name in list(self.flat.graph.origin)[start:]]
        inside = [each for each in made if each.name not in self.flat.weights]
        by_place = dict(zip(backward.places, map(self.tensor, results), strict=True))
        return steps(inside, by_place, known, len(tensors))

    def _outer(self, tensor: Any, own: dict[str, Any]) -> Any:
        """A tensor that a derivative captures from outside: a value of a function being inlined, or a capture."""
        if hasattr(tensor, "numpy") or not hasattr(tensor, "graph"):
            return Captured(tensor)
        for here in reversed(self.around):
            if here.graph is tensor.graph:
                if here is self.around[-1] and tensor.name in own:
                    return own[tensor.name]
                return self._computed(here, [tensor])[0]
        raise TraceError(f"it uses {tensor.name!r} of another graph")

    # --- captures ----------------------------------------------------------------------------

    def tensor(self, value: Any) -> Any:
        """``value`` as a tensor of the flat graph."""
        if isinstance(value, Captured):
            return self._weight(value.tensor)
        if isinstance(value, ListValue):
            raise TraceError(
                "the model keeps a TensorArray in a way that cannot be followed. Stack it before using it."
            )
        return value

    def _weight(self, outer: Any) -> Any:
        """One placeholder for each captured variable or tensor; small integers as constants."""
        if id(outer) not in self.read:
            with tf.init_scope():
                whole = not outer.dtype.is_floating and outer.dtype != tf.resource
                number = outer.numpy() if whole and hasattr(outer, "numpy") else None
            if number is not None:
                self.read[id(outer)] = tf.constant(number)
            else:
                self.read[id(outer)] = self._placeholder(outer)
        return self.read[id(outer)]

    def _placeholder(self, outer: Any) -> Any:
        source = self.known.get(id(outer), outer)
        if outer.dtype == tf.resource and not isinstance(source, tf.Variable):
            raise TraceError(
                f"the model uses a resource that is neither a variable nor a lookup table ({outer!r:.200}). Compute "
                "what it gives before the model, and make that an input."
            )
        label = getattr(source, "name", "") if source is not outer else "constant"
        clean = "".join(c if c.isalnum() or c in "_/" else "_" for c in label.partition(":")[0]).strip("_/")
        with tf.name_scope("weights/"):
            made = tf.compat.v1.placeholder(source.dtype, source.shape, name=clean or "variable")
        self.flat.weights[made.op.name] = source
        return made

    def _table(self, value: Any) -> Any:
        """The handle of a table, as a placeholder."""
        if not isinstance(value, Captured):
            raise TraceError(
                "the model creates a table while it runs. Create it once, outside of it, or look up before the model."
            )
        key = id(value.tensor)
        if key not in self.read:
            with tf.name_scope("weights/"):
                self.read[key] = tf.compat.v1.placeholder(tf.resource, (), name="table")
            self.flat.weights[self.read[key].op.name] = self.known.get(key, value.tensor)
        return self.read[key]

    def _note_writes(self, graph: Any, values: dict[str, Any]) -> None:
        for op in graph.get_operations():
            if op.type.startswith(WRITES) and op.inputs[0].name in values:
                target = values[op.inputs[0].name]
                if isinstance(target, Captured):
                    self.written[id(target.tensor)] = op

    def check_writes(self) -> None:
        """Raise an error for a variable that the model reads and writes in inference: calls would affect each other."""
        for key, op in self.written.items():
            if key in self.read:
                name = getattr(self.known.get(key), "name", "a variable")
                advice = "An explanation leaves the model as it is: use stateful=False, training=False."
                raise self._error(op, f"writes to {name!r}, which the model reads, in inference", advice)

    def _ReadVariableOp(self, op: tf.Operation, inputs: list[Any]) -> list[Any]:
        return [self.tensor(inputs[0])]

    def _ResourceGather(self, op: tf.Operation, inputs: list[Any]) -> list[Any]:
        batch = op.get_attr("batch_dims")
        return [tf.gather(self.tensor(inputs[0]), self.tensor(inputs[1]), axis=batch, batch_dims=batch)]

    def _ResourceGatherNd(self, op: tf.Operation, inputs: list[Any]) -> list[Any]:
        return [tf.gather_nd(self.tensor(inputs[0]), self.tensor(inputs[1]))]

    # --- identities --------------------------------------------------------------------------

    def _IdentityN(self, op: tf.Operation, inputs: list[Any]) -> list[Any]:
        return inputs

    def _Identity(self, op: tf.Operation, inputs: list[Any]) -> Sequence[Any]:
        return inputs

    def _PlaceholderWithDefault(self, op: tf.Operation, inputs: list[Any]) -> list[Any]:
        return inputs

    # --- control flow ------------------------------------------------------------------------

    def static(self, value: Any) -> Any:
        """The constant value of a tensor, as numpy; None if it depends on the input."""
        if isinstance(value, Captured):
            value = self.tensor(value)
        if isinstance(value, ListValue):
            return None
        known = tensor_util.constant_value(value)
        return tensor_util.try_evaluate_constant(value) if known is None else known

    def _loop(self, op: tf.Operation, inputs: list[Any], modules: Modules) -> list[Any]:
        condition, body = _function(op, "cond"), _function(op, "body")
        began = time.perf_counter()
        for turn in range(LONGEST_LOOP):
            site = Inlining(modules, op.name, turn)
            go = self.static(self.inline(condition, inputs, site, 1)[0])
            if go is None:
                raise self._error(
                    op,
                    "is a loop whose length depends on the input",
                    "A compiled explanation runs the same operations on every batch: build the layer with "
                    "unroll=True, loop over a fixed number of steps, or write it without a loop.",
                )
            if not go:
                return inputs
            if turn == LONG_LOOP and self.flat.inputs[0].shape[0] is None:  # once, not each time that it is read
                self._tell(op, modules, time.perf_counter() - began)
            inputs = [self._folded(value) for value in self.inline(body, inputs, site, len(inputs))]
        raise self._error(op, f"is a loop of more than {LONGEST_LOOP} steps", "Shorten the inputs.")

    def _tell(self, op: tf.Operation, modules: Modules, seconds: float) -> None:
        """Log the cost of a long loop, of which ``LONG_LOOP`` steps have taken ``seconds``."""
        _log.warning(
            "The loop in %s (%s) is taken apart: each step takes about %.2f s to compile. Save the explainer "
            "to do this once.", modules[-1] if modules else "the model", op.name, READ * seconds / LONG_LOOP,
        )  # fmt: skip

    def _folded(self, value: Any) -> Any:
        """Fold loop counters into constants, so that the next step's condition is known."""
        if not isinstance(value, tf.Tensor) or value.dtype.is_floating or value.op.type == "Const":
            return value
        known = self.static(value) if value.shape.rank == 0 else None
        return value if known is None else tf.constant(known, value.dtype)

    def _branch(self, op: tf.Operation, inputs: list[Any], modules: Modules) -> list[Any]:
        choice = self.static(inputs[0])
        if choice is None:
            raise self._error(
                op,
                "chooses between branches by the values of a tensor",
                "A compiled explanation runs the same operations on every batch: write the choice with tf.where.",
            )
        if op.type.endswith("If"):
            branch = _function(op, "then_branch" if choice else "else_branch")
        else:
            names = op.get_attr("branches")
            branch = _graph_of(op, names[int(choice) if 0 <= choice < len(names) else -1].name)
        return self.inline(branch, inputs[1:], Inlining(modules, op.name), len(op.outputs))

    # --- tensor lists ------------------------------------------------------------------------

    def _number(self, op: tf.Operation, value: Any) -> int:
        number = self.static(value)
        if number is None:
            raise self._error(op, "uses a TensorArray with an index or size that depends on the input",
                              "Build the layer with unroll=True, or use fixed sizes.")  # fmt: skip
        return int(number)

    def _item(self, op: tf.Operation, values: ListValue, index: int, shape: Any) -> Any:
        if values.items[index] is not None:
            return values.items[index]
        written = next((item for item in values.items if item is not None), None)
        if written is not None:
            return tf.zeros_like(written)
        known = self.static(shape)
        if known is None or (np.asarray(known) < 0).any():
            raise self._error(op, "reads a TensorArray entry before it is written", "Write every entry first.")
        return tf.zeros(known, values.dtype)

    def _TensorListReserve(self, op: tf.Operation, inputs: list[Any]) -> list[Any]:
        return [ListValue((None,) * self._number(op, inputs[1]), op.get_attr("element_dtype"))]

    def _EmptyTensorList(self, op: tf.Operation, inputs: list[Any]) -> list[Any]:
        return [ListValue((), op.get_attr("element_dtype"))]

    def _TensorListFromTensor(self, op: tf.Operation, inputs: list[Any]) -> list[Any]:
        whole = self.tensor(inputs[0])
        if whole.shape.rank is None or whole.shape[0] is None:
            raise self._error(op, "splits a tensor whose first size is unknown", "Give the inputs fixed sizes.")
        parts = tf.unstack(whole, axis=0)
        return [ListValue(tuple(parts), whole.dtype)]

    def _TensorListGetItem(self, op: tf.Operation, inputs: list[Any]) -> list[Any]:
        return [self._item(op, inputs[0], self._number(op, inputs[1]), inputs[2])]

    def _TensorListSetItem(self, op: tf.Operation, inputs: list[Any]) -> list[Any]:
        index = self._number(op, inputs[1])
        items = [*inputs[0].items, *[None] * (index + 1 - len(inputs[0].items))]
        items[index] = self.tensor(inputs[2])
        return [ListValue(tuple(items), inputs[0].dtype)]

    def _TensorListStack(self, op: tf.Operation, inputs: list[Any]) -> list[Any]:
        values = inputs[0]
        if not values.items:
            raise self._error(op, "stacks an empty TensorArray", "Give the inputs at least one step.")
        return [tf.stack([self._item(op, values, i, inputs[1]) for i in range(len(values.items))])]

    def _TensorListConcatV2(self, op: tf.Operation, inputs: list[Any]) -> list[Any]:
        items = [self._item(op, inputs[0], i, inputs[1]) for i in range(len(inputs[0].items))]
        lengths = tf.cast(tf.stack([tf.shape(item)[0] for item in items]), tf.int64)
        return [tf.concat(items, 0), lengths]

    def _TensorListPushBack(self, op: tf.Operation, inputs: list[Any]) -> list[Any]:
        return [ListValue((*inputs[0].items, self.tensor(inputs[1])), inputs[0].dtype)]

    def _TensorListPopBack(self, op: tf.Operation, inputs: list[Any]) -> list[Any]:
        values = inputs[0]
        return [ListValue(values.items[:-1], values.dtype), self._item(op, values, -1, inputs[1])]

    def _TensorListLength(self, op: tf.Operation, inputs: list[Any]) -> list[Any]:
        return [tf.constant(len(inputs[0].items))]

    def _TensorListGather(self, op: tf.Operation, inputs: list[Any]) -> list[Any]:
        places = self.static(inputs[1])
        if places is None:
            raise self._error(op, "gathers from a TensorArray by the input's values", "Use fixed indices.")
        return [tf.stack([self._item(op, inputs[0], int(i), inputs[2]) for i in places])]


def _needed(graph: Any, outputs: Sequence[Any]) -> list[tf.Operation]:
    """The operations that ``outputs`` are computed from, in order of creation, each after its inputs."""
    keep = {tensor.op for tensor in graph.inputs}
    stack = [tensor.op for tensor in outputs]
    while stack:
        op = stack.pop()
        if op not in keep:
            keep.add(op)
            stack += [tensor.op for tensor in op.inputs]
    left = [op for op in graph.get_operations() if op in keep]
    done: dict[tf.Operation, None] = {}
    while left:  # one pass, unless a function from a file has another order
        waiting = []
        for op in left:
            if all(tensor.op in done for tensor in op.inputs):
                done[op] = None
            else:
                waiting.append(op)
        if len(waiting) == len(left):
            raise TraceError(
                f"operation {left[0].type!r} ({left[0].name}) is in a cycle; use tf.while_loop of TensorFlow 2"
            )
        left = waiting
    return list(done)


def _function(op: tf.Operation, attribute: str) -> Any:
    return _graph_of(op, op.get_attr(attribute).name)


def _graph_of(op: tf.Operation, name: str) -> Any:
    graph = op.graph
    while graph is not None:
        function = graph._get_function(name)
        if function is not None:
            return function.graph
        graph = getattr(graph, "outer_graph", None)
    raise TraceError(f"operation {op.type!r} ({op.name}) calls the function {name!r}, which is not in the graph")

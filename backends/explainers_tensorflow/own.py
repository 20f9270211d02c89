"""Operations with a custom derivative: ``tf.custom_gradient``, and overridden gradients of other operations.

TensorFlow marks such an operation with the name of a Python function in its registry. The function is traced
in the operation's graph, once, and stored with the operation as a small program.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import tensorflow as tf
from tensorflow.python.framework.ops import gradient_registry

from .ops import Recipe

CALLS = ("PartitionedCall", "StatefulPartitionedCall", "TPUPartitionedCall")  # differentiated through their bodies
EXACT = {("tensorflow.python.ops.custom_gradient", "recompute_grad")}  # the forward computation's own derivative
LOST = (
    "its derivative is custom and was not saved with the model: save it with "
    "tf.saved_model.SaveOptions(experimental_custom_gradients=True), or give the model as it was built"
)
Source = tuple[str, Any, int]  # "cotangent", "output", "input" and a place there; or "step", its name, its output


@dataclass(frozen=True)
class Backward:
    """The custom derivative of an operation.

    ``graph``: its function of a cotangent for each differentiable output; None if it is not available, for
    the reason ``lost``. ``places``: the inputs that its results belong to.
    """

    name: str
    graph: Any = None
    places: tuple[int, ...] = ()
    lost: str = ""


class Backwards:
    """The registered derivatives of a model's operations, each looked up once."""

    def __init__(self) -> None:
        self.known: dict[tf.Operation, Backward | None] = {}

    def of(self, op: tf.Operation) -> Backward | None:
        """The custom derivative of ``op``; None if it has the derivative of its type or of the forward computation."""
        if op not in self.known:
            mark = _mark(op)
            self.known[op] = _backward(op, mark) if mark and op.type not in CALLS else None
        return self.known[op]


def _mark(op: tf.Operation) -> str:
    """The registry's name of the gradient function that overrides that of ``op``, or ""."""
    return op.node_def.attr["_gradient_op_type"].s.decode() if "_gradient_op_type" in op.node_def.attr else ""


def _backward(op: tf.Operation, mark: str) -> Backward | None:
    custom = op.type == "IdentityN" and mark.startswith("CustomGradient-")
    try:
        function = gradient_registry.lookup(mark)
    except LookupError:
        function = None
    belongs = function is not None and (not custom or _belongs(function, op))
    module, label = _written(function) if custom and belongs else ("", "")
    name = f"{op.type}:{mark}" if not custom else f"custom_gradient:{label}" if label else "custom_gradient"
    if not belongs:
        return Backward(name, lost=LOST)
    if (module, label.partition(".")[0]) in EXACT:
        return None
    try:
        graph, places = _traced(op, function)
    except Exception as error:
        lines = str(error).strip().splitlines() or [""]
        return Backward(name, lost=f"its own derivative cannot be traced ({type(error).__name__}: {lines[0]:.300})")
    return None if custom and _is_swish(op, graph, places) else Backward(name, graph, places)


def _cell(function: Any, name: str) -> Any:
    """The closure variable ``name`` of ``function``; None if there is none."""
    names = getattr(getattr(function, "__code__", None), "co_freevars", ())
    return function.__closure__[names.index(name)].cell_contents if name in names else None


def _written(function: Any) -> tuple[str, str]:
    """Module and qualified name of the function decorated with ``tf.custom_gradient``; "" for a loaded one."""
    gradient = _cell(_cell(function, "tape_grad_fn"), "grad_fn")
    name = getattr(gradient, "__qualname__", "")
    return getattr(gradient, "__module__", ""), (name.rpartition(".<locals>.")[0] or name).replace(".<locals>", "")


def _belongs(function: Any, op: tf.Operation) -> bool:
    """Whether the registered ``function`` belongs to ``op``: an id from a file may name another function here."""
    tape, loaded = _cell(function, "tape_grad_fn"), _cell(function, "func")
    if tape is not None:
        results = [t for t in tf.nest.flatten(_cell(tape, "result"), expand_composites=True) if hasattr(t, "op")]
        return all(any(t is operand for operand in op.inputs) for t in results) and bool(results)
    if loaded is None:
        return False
    near = [t for t in loaded.captured_inputs if not hasattr(t, "numpy") and t.dtype != tf.resource]
    kinds = [t.dtype for t in loaded.graph.inputs[: len(op.outputs)]]
    return all(t.graph is op.graph for t in near) and kinds == [out.dtype for out in op.outputs]


def _traced(op: tf.Operation, function: Any) -> tuple[Any, tuple[int, ...]]:
    """The gradient function traced inside the graph of ``op``, and the places of the inputs that it differentiates."""
    places: list[int] = []

    def run(*cotangents: Any) -> list[Any]:
        remaining_cotangents = iter(cotangents)
        gradients = function(op, *(next(remaining_cotangents) if moves(out.dtype) else None for out in op.outputs))
        gradients = list(gradients) if isinstance(gradients, (list, tuple)) else [gradients]
        places[:] = [
            place for place, part in enumerate(gradients) if part is not None and moves(op.inputs[place].dtype)
        ]
        return [tf.convert_to_tensor(gradients[place]) for place in places]

    specs = [tf.TensorSpec(out.shape, out.dtype) for out in op.outputs if moves(out.dtype)]
    with op.graph.as_default():
        return tf.function(run, autograph=False).get_concrete_function(*specs).graph, tuple(places)


def moves(dtype: tf.DType) -> bool:
    return bool(dtype.is_floating or dtype.is_complex)


# --- TensorFlow's own swish ------------------------------------------------------------------


def _is_swish(op: tf.Operation, graph: Any, places: Sequence[int]) -> bool:
    """Whether ``op`` and its derivative come from ``tf.nn.silu``: x·sigmoid(βx) with its true derivative."""
    return len(op.inputs) == 3 and 1 in places and _formulas(op, graph, places) == _swish()


def _formulas(op: tf.Operation, graph: Any, places: Sequence[int]) -> tuple[str, str]:
    """The value and its derivative towards the first argument, written with x, b and m, the cotangent."""
    leaves = {id(op.inputs[1]): "x", id(op.inputs[2]): "b"}
    inner = {id(inside): leaves[id(outer)] for outer, inside in graph.captures if id(outer) in leaves}
    inner[id(graph.inputs[0])] = "m"
    return _formula(op.inputs[0], leaves), _formula(graph.outputs[places.index(1)], inner)


@cache
def _swish() -> tuple[str, str]:
    traced = tf.function(tf.nn.silu, autograph=False).get_concrete_function(tf.TensorSpec(None, tf.float32))
    op = next(op for op in traced.graph.get_operations() if _mark(op))
    return _formulas(op, *_traced(op, gradient_registry.lookup(_mark(op))))


def _formula(tensor: Any, leaves: Mapping[int, str]) -> str:
    """The formula of ``tensor`` as text, with function calls expanded."""
    if id(tensor) in leaves:
        return leaves[id(tensor)]
    op = tensor.op
    if op.type == "Const":
        return str(tf.get_static_value(tensor))
    if op.type in ("Identity", "IdentityN"):
        return _formula(op.inputs[tensor.value_index], leaves)
    operand_formulas = [_formula(each, leaves) for each in op.inputs]
    if op.type in CALLS:
        body = op.graph._get_function(op.get_attr("f").name).graph
        inner = {id(parameter): text for parameter, text in zip(body.inputs, operand_formulas, strict=True)}
        return _formula(body.outputs[tensor.value_index], inner)
    return f"{op.type}:{tensor.value_index}({', '.join(operand_formulas)})"


# --- in the flat graph -----------------------------------------------------------------------


@dataclass(frozen=True)
class Steps:
    """A derivative as operations in order, each with the sources of its inputs, and its results by input."""

    made: Mapping[str, tuple[Recipe, tuple[Source, ...]]]
    results: Mapping[int, Source]
    operands: tuple[Any, ...]  # tensors of the flat graph that it uses besides the operation's inputs
    lost: str = ""


def steps(
    operations: Sequence[tf.Operation], results: Mapping[int, Any], known_sources: Mapping[str, Source], count: int
) -> Steps:
    """The ``operations``, which compute ``results``, as steps. ``known_sources``: of tensors that are given."""
    inside = {op.name: op for op in operations}
    operands: dict[str, Any] = {}

    def source(tensor: Any) -> Source:
        if tensor.name in known_sources:
            return known_sources[tensor.name]
        if tensor.op.name in inside:
            return "step", tensor.op.name, tensor.value_index
        operands.setdefault(tensor.name, tensor)
        return "input", count + list(operands).index(tensor.name), 0

    sources = {place: source(tensor) for place, tensor in results.items()}
    needed = _needed(sources.values(), lambda name: map(source, inside[name].inputs))
    recipes = {
        name: (Recipe(op), tuple(map(source, op.inputs))) for name, op in inside.items() if name in needed
    }  # fmt: skip
    return Steps(recipes, sources, tuple(operands.values()))


def _needed(sources: Any, before: Callable[[str], Any]) -> set[str]:
    """The names of the steps that compute ``sources``."""
    names: set[str] = set()
    queue = list(sources)
    while queue:
        kind, name, _ = queue.pop()
        if kind == "step" and name not in names:
            names.add(name)
            queue += before(name)
    return names


class OwnRecipe(Recipe):
    """An operation together with its custom derivative."""

    def __init__(self, op: tf.Operation, steps: Steps) -> None:
        super().__init__(op)
        self.count = len(op.inputs)
        self.made, self.results = steps.made, steps.results  # so that the flat graph itself is not kept alive

    def make(self, name: str, arrays: Sequence[Any]) -> Any:
        return super().make(name, arrays[: self.count])

    def gradients(
        self, op: Any, arrays: Sequence[Any], cotangents: Sequence[Any], places: Sequence[int]
    ) -> list[Any | None]:  # fmt: skip
        wanted = [self.results.get(place) for place in places]
        needed = _needed(filter(None, wanted), lambda name: self.made[name][1])
        given = {"cotangent": cotangents, "output": op.outputs, "input": arrays}
        done: dict[str, Any] = {}

        def value(source: Source) -> Any:
            kind, key, place = source
            return done[key][place] if kind == "step" else given[kind][key]

        for name, (recipe, sources) in self.made.items():
            if name in needed:
                done[name] = recipe.make(name, [value(source) for source in sources]).outputs
        return [None if source is None else value(source) for source in wanted]

"""Programs with weights as placeholders, and programs that run several models of one graph at once.

Several models take the samples of a call one model after the other along the samples' axis, so that every operation
without weights runs as it is. An operation with weights sees its samples as (models, samples, …): dense maps are
batched products of matrices, elementwise operations broadcast, and others run model by model.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

from ..graph import Function, Graph, Node, Role, Value
from ..ops import Ops, Pullback
from .walk import Placeholder

Array = Any
Ran = tuple[tuple[Any, ...], Pullback]


@dataclass(frozen=True)
class WithWeights:
    """A program that takes the weights of its graph behind its own arguments.

    program: has a ``graph`` and ``placeholders``, and is called with ops, weights and arguments. weights: those that it
    takes, in order. models: how many models' weights are stacked; 0: those of one.
    """

    program: Any
    weights: tuple[Value, ...]
    models: int = 0

    @property
    def graph(self) -> Graph:
        graph: Graph = self.program.graph
        return graph

    @cached_property
    def placeholders(self) -> tuple[Placeholder, ...]:
        lead = (self.models,) if self.models else ()
        more = []
        for value in self.weights:
            kind = self.graph.output(value)
            shape = tuple(size or 0 for size in kind.shape)
            more.append(Placeholder(f"weight_{value.node}", "", (*lead, *shape), kind.dtype))
        return (*self.program.placeholders, *more)

    def __call__(self, ops: Ops, weights: Mapping[Value, Array], *arguments: Array) -> tuple[Array, ...]:
        count = len(self.program.placeholders)
        own = dict(zip(self.weights, arguments[count:], strict=True))
        if self.models:
            return self._together(ops, own, arguments[:count])
        found: tuple[Array, ...] = self.program(ops, {**weights, **own}, *arguments[:count])
        return found

    def _together(self, ops: Ops, weights: Mapping[Value, Array], arguments: Sequence[Array]) -> tuple[Array, ...]:
        """Each result with the models along its first axis."""
        holders, args = self.program.placeholders, []
        first = {holder.axis: array for holder, array in reversed(list(zip(holders, arguments, strict=True)))}
        for holder, array in zip(holders, arguments, strict=True):
            if holder.axis == "rows" and holder.name in ("sample", "baseline"):
                array = self._shifted(ops, array, first[f"{holder.name}s"])
            elif holder.axis:
                array = ops.concat([array] * self.models, 0)
            args.append(array)
        stacked = {value: Stacked(array) for value, array in weights.items()}
        found = self.program(Together(ops, self.models, self.graph), stacked, *args)
        return tuple(ops.reshape(array, (self.models, -1, *ops.sample_shape(array))) for array in found)

    def _shifted(self, ops: Ops, index: Array, like: Array) -> Array:
        """Indices into what is given once, as indices into what is repeated for each model."""
        size = ops.total(ops.row_numbers(like) * 0 + 1)
        return ops.concat([index + size * model for model in range(self.models)], 0)


def number_weights(graph: Graph, weights: Iterable[Value]) -> tuple[Value, ...]:
    """Those of ``weights`` that the graph uses, but for tables of words, which stay where they are."""
    known = (value for value in weights if value.node in graph.by_name)
    return tuple(value for value in known if graph.output(value).dtype not in ("string", "resource", "variant"))


def runs_together(graph: Graph) -> bool:
    """Whether several models of a graph can run at once: the samples lie first wherever weights are used."""
    made = {value for node in graph if node.role is Role.WEIGHT for value in node.values}
    moved = graph.moved(graph.inputs, by_shape=True)
    for node in graph:
        if not any(value in made for value in node.inputs):
            continue
        if not any(value in moved for value in node.inputs):
            made.update(node.values)
            continue
        samples = [value for value in (*node.inputs, node.values[0]) if value in moved]
        kinds = [graph.output(value) for value in samples]
        if any(kind.batch_axis != 0 for kind in kinds if None in kind.shape or not kind.plain):
            return False
        if None not in node.outputs[0].shape:
            return False
    return True


class Stacked(NamedTuple):
    """A weight of each model, (M, …), or what is made of weights alone."""

    array: Array


class Together:
    """The array functions for M models at once: a backend's own, but for the graph's operations with weights."""

    def __init__(self, ops: Ops, models: int, graph: Graph) -> None:
        self._ops, self._models, self._graph = ops, models, graph

    def __getattr__(self, name: str) -> Any:
        return getattr(self._ops, name)

    def evaluate(self, node: Node, arrays: Sequence[Any]) -> tuple[Any, ...]:
        if not any(isinstance(array, Stacked) for array in arrays):
            return self._ops.evaluate(node, arrays)
        return self._run(node, arrays, ())[0]

    def vjp(self, node: Node, arrays: Sequence[Any], places: Sequence[int]) -> Ran:
        if not any(isinstance(array, Stacked) for array in arrays):
            return self._ops.vjp(node, arrays, places)
        return self._run(node, arrays, places)

    def _run(self, node: Node, arrays: Sequence[Any], places: Sequence[int]) -> Ran:
        if all(None not in out.shape for out in node.outputs):
            return self._of_weights(node, arrays), list
        if node.function is Function.DENSE and node.attributes.contracted is not None and len(places) <= 1:
            return self._dense(node, arrays)
        plain = [array.array if isinstance(array, Stacked) else array for array in arrays]
        ops = self._ops
        found = ops.run_each(node, plain, places, self._models)
        if found is not None:
            return found
        if node.elementwise and node.role is not Role.UNIVARIATE and node.attributes.axis is None:
            return self._elementwise(node, arrays, places)
        return self._one_by_one(node, arrays, places)

    def _apart(self, array: Any) -> Any:
        """(M·N, …) → (M, N, …)."""
        return self._ops.reshape(array, (self._models, -1, *self._ops.sample_shape(array)))

    def _of_weights(self, node: Node, arrays: Sequence[Any]) -> tuple[Any, ...]:
        """An operation on weights alone, model by model."""
        ops, parts = self._ops, []
        for model in range(self._models):
            own = [array.array[model] if isinstance(array, Stacked) else array for array in arrays]
            parts.append([ops.insert_axis(result, 0) for result in ops.evaluate(node, own)])
        return tuple(Stacked(ops.concat(list(results), 0)) for results in zip(*parts, strict=True))

    def _dense(self, node: Node, arrays: Sequence[Any]) -> Ran:
        ops, given = self._ops, node.attributes
        weight = arrays[given.weight].array
        (x,) = (array for place, array in enumerate(arrays) if place not in (given.weight, given.bias))
        shape = ops.sample_shape(x)
        forward = weight if given.contracted == 0 else ops.move_axis(weight, 1, 2)  # (M, L, R)
        y = ops.matmul(ops.reshape(x, (self._models, -1, shape[-1])), forward)
        if given.bias is not None:
            y = y + ops.insert_axis(arrays[given.bias].array, 1)
        width = ops.sample_shape(y)[-1]

        def pullback(messages: Sequence[Any]) -> Sequence[Any]:
            message = ops.reshape(messages[0], (self._models, -1, width))
            return [ops.reshape(ops.matmul(message, ops.move_axis(forward, 1, 2)), (-1, *shape))]

        return (ops.reshape(y, (-1, *shape[:-1], width)),), pullback

    def _elementwise(self, node: Node, arrays: Sequence[Any], places: Sequence[int]) -> Ran:
        ops, rank = self._ops, len(node.outputs[0].shape)
        operands = []
        for value, array in zip(node.inputs, arrays, strict=True):
            if isinstance(array, Stacked):
                inner = ops.sample_shape(array.array)
                operands.append(ops.reshape_rows(array.array, (*(1,) * (rank - len(inner)), *inner)))
            else:
                operands.append(self._apart(array) if None in self._graph.output(value).shape else array)
        whole = [self._graph.output(node.inputs[place]).shape == node.outputs[0].shape for place in places]
        if node.function is Function.ADD and all(whole):  # also of biases, which some frameworks only add as vectors
            results: Any = (sum(operands[1:], operands[0]),)
            pull: Pullback = lambda messages: [messages[0]] * len(places)  # noqa: E731
        else:
            results, pull = ops.vjp(node, operands, places) if places else (ops.evaluate(node, operands), list)

        def pullback(messages: Sequence[Any]) -> Sequence[Any]:
            parts = pull([None if message is None else self._apart(message) for message in messages])
            return [None if part is None else ops.join_axis(part, 0) for part in parts]

        return tuple(ops.join_axis(result, 0) for result in results), pullback

    def _one_by_one(self, node: Node, arrays: Sequence[Any], places: Sequence[int]) -> Ran:
        """Each model's samples by themselves, and the results one after the other."""
        ops = self._ops
        apart = []
        for value, array in zip(node.inputs, arrays, strict=True):
            if isinstance(array, Stacked):
                apart.append(array.array)
            else:
                apart.append(self._apart(array) if None in self._graph.output(value).shape else [array] * self._models)
        each = []
        for model in range(self._models):
            operands = [array[model] for array in apart]
            each.append(ops.vjp(node, operands, places) if places else (ops.evaluate(node, operands), list))
        results = tuple(ops.concat(list(parts), 0) for parts in zip(*(found for found, _ in each), strict=True))

        def pullback(messages: Sequence[Any]) -> Sequence[Any]:
            split = [None if message is None else self._apart(message) for message in messages]
            parts = [
                pull([None if message is None else message[model] for message in split])
                for model, (_, pull) in enumerate(each)
            ]
            return [None if own[0] is None else ops.concat(list(own), 0) for own in zip(*parts, strict=True)]

        return results, pullback

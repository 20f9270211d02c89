"""Programs that compute the first layer once for each sample, not once for each row.

Methods that remove groups of features evaluate the model at rows that have x in some groups of features and the
baseline b in the others. Behind a dense layer with the weight W such a row is

    W·row + bias = Σ_{g kept} W_g·x_g + Σ_{g removed} W_g·b_g + bias,

where x_g are the entries of group g, and W_g its columns of the weight. The products W_g·x_g and W_g·b_g are computed
once for each sample and each baseline, and a row is one small product with the matrix of which groups it keeps. Both
points are kept apart, and not joined in W_g·(x_g − b_g), so that the terms that are added up are those of the dense
product: a large value in one of them does not cost the digits of the other.

Methods of gradients on the line b + α(x − b) have rows that the layer maps to (1 − α)·(W·b + bias) + α·(W·x + bias),
for dense layers and convolutions. Their gradients g are summed with the weights w of the rows at the layer's result,
since Σ_k w_k·Wᵀg_k = Wᵀ·Σ_k w_k·g_k.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np

from ..graph import Function, Graph, Node, Role, Value
from ..lengths import varies
from ..ops import Ops
from .walk import ACCUMULATE, Placeholder, Program, Results, evaluate

Array = Any
ENABLED = True
WIDE = ("float32", "float64")  # sums of groups would be rounded to the digits of shorter dtypes
SETUP = 16  # ordering an entry of the weight by groups takes as long as so many multiplications
WORTHWHILE = 0.75  # of the dense layer's multiplications
LEAST_WORK = 2**24  # multiplications of the dense layer in a package: below, fixed costs of a package outweigh them
LEAST_TERMS = 64  # products in an entry of a path's first layer: below, passes over its results cost as much
LEAST_STEPS = 4  # of a path
LEAST_PATH_WORK = 2**22  # multiplications of the layer for the rows of a sample
LEAST_ROWS = 128  # in a package: fewer run at a fraction of the processor's speed


class Layer(NamedTuple):
    """A dense layer that the only attributed input goes into, and nothing else does.

    ``operand``: the input as the layer takes it, (N, F). ``weight``, ``bias``: its other operands. ``axis``: the
    axis of the weight that the layer sums over.
    """

    node: Node
    operand: Value
    weight: Value
    bias: Value | None
    axis: int

    @property
    def result(self) -> Value:
        return self.node.values[0]


def dense_layer(graph: Graph, wrt: Sequence[Value]) -> Layer | None:
    """The dense layer that ``wrt`` goes into; None if it goes into something else, or elsewhere, too."""
    if len(wrt) != 1:
        return None
    moved, value = graph.moved(graph.inputs), wrt[0]
    outputs = {output for _, output in graph.outputs}
    while True:
        users = [node for node in graph if value in node.inputs and node.function is not Function.SHAPE]
        if len(users) != 1 or value in outputs:
            return None
        (node,) = users
        if node.function is Function.DENSE:
            break
        if not _keeps_order(graph, node, value):
            return None
        value = node.values[0]
    given = node.attributes
    if given.contracted is None or node.inputs.count(value) != 1:
        return None
    bias = None if given.bias is None else node.inputs[given.bias]
    layer = Layer(node, value, node.inputs[given.weight], bias, given.contracted)
    others = {operand for operand in node.inputs if operand != value}
    sources = graph.needed([value]) & {source.node for source in graph.inputs}
    kinds = {graph.output(each).dtype for each in (value, layer.weight, layer.result)}
    ranks = {len(graph.output(each).shape) for each in (value, layer.weight, layer.result)}
    plain = graph.output(value).batch_axis == 0 and graph.output(layer.result).batch_axis == 0
    fits = plain and ranks == {2} and len(kinds) == 1 and kinds <= set(WIDE)
    return layer if fits and not others & moved and sources <= {wrt[0].node} else None


def _keeps_order(graph: Graph, node: Node, value: Value) -> bool:
    """Whether ``node`` only casts the value, or flattens its samples."""
    if node.function is not Function.COPY or len(node.outputs) != 1 or "as_strided" in node.op:
        return False
    before, behind = graph.output(value), node.outputs[0]
    if before.batch_axis != 0 or behind.batch_axis != 0 or not behind.floating:
        return False
    if node.elementwise:
        return len(node.inputs) == 1 and before.shape == behind.shape
    # among operations that copy, only those that flatten make an array of rank 2 with all entries from another rank
    return len(before.shape) != 2 and len(behind.shape) == 2 and behind.shape[1] == _size(before.shape[1:])


def _size(shape: Sequence[int | None]) -> int:
    return math.prod(size or 0 for size in shape)


@dataclass(frozen=True)
class BehindFirstLayer(Program):
    """A program whose rows start behind the first layer."""

    @property
    def result(self) -> Value:
        """The layer's result."""
        raise NotImplementedError

    @cached_property
    def behind(self) -> Graph:
        """The graph from the layer's result on."""
        return self.graph.cut((self.result,))

    def points(self, ops: Ops, hidden: Array, inputs: Sequence[Array], args: Mapping[str, Array]) -> list[Array]:
        """The inputs of the graph behind the layer, for each row: the layer's result, and the model's other inputs."""
        needed = self.behind.needed([self.behind.outputs[0][1]])
        found, sample = [hidden], args["sample"]
        for value, array in zip(self.graph.inputs, inputs, strict=True):
            if value == self.wrt[0] and value.node in needed:  # for its shape
                found.append(ops.blank(array, 0, sample, ops.total(sample)))
            else:
                found.append(ops.take(array, sample) if value.node in needed else None)
        return found

    def alone(self, points: Array) -> list[Array]:
        """The model's inputs with ``points`` for the attributed one, as far as the layer needs them."""
        return [points if value == self.wrt[0] else None for value in self.graph.inputs]


@dataclass(frozen=True)
class GroupsInFirstLayer(BehindFirstLayer):
    """Like :class:`Program`, for designs with a feature map: rows start behind the first layer.

    A further argument, ``members`` (G, S), holds the elements of each group, filled up with −1.
    """

    @property
    def plain(self) -> Program:
        """The program that computes the layer for each row, for calls that it is cheaper for."""
        return Program(self.graph, self.method, self.wrt, sizes=self.sizes)

    @cached_property
    def layer(self) -> Layer:
        found = dense_layer(self.graph, self.wrt)
        assert found is not None
        return found

    @property
    def result(self) -> Value:
        return self.layer.result

    @cached_property
    def members(self) -> np.ndarray[Any, Any]:
        assert self.design is not None
        assert self.design.feature_map is not None
        return group_members(self.design.feature_map)

    @cached_property
    def placeholders(self) -> tuple[Placeholder, ...]:
        return (*super().placeholders, Placeholder("members", "", self.members.shape, "int64"))

    def constants(self) -> dict[str, np.ndarray[Any, Any]]:
        return {**super().constants(), "members": self.members}

    def suits(self, samples: int, baselines: int) -> bool:
        """Whether the products of these samples and baselines are together smaller than the layer's operand."""
        return (samples + baselines) * len(self.members) <= self.size

    @property
    def size(self) -> int:
        """The number of elements of a sample, F."""
        return _size(self.graph.output(self.layer.operand).shape[1:])

    @cached_property
    def most_samples(self) -> int:
        """The samples in a package, so that the costs of ordering the weight and of unused products are balanced."""
        assert self.design is not None
        rows = max(self.design.rows_per_sample, 1)
        groups, largest = self.members.shape
        most: int = max(self.size // (4 * groups), 1)
        balanced = round(math.sqrt(SETUP * largest / (2 * rows)))
        return min(max(balanced, -(-LEAST_ROWS // rows), 1), most)

    @property
    def most_single_rows(self) -> int:
        """The most samples, each with a baseline, that :meth:`suits`."""
        return max(self.size // (2 * len(self.members)), 1)

    def worthwhile(self, batch_size: int | None) -> bool:
        """Whether rows cost fewer multiplications than with the dense layer. ``batch_size``: rows in a package."""
        assert self.design is not None
        samples, padded = self.most_samples, self.members.size
        rows = min(self.design.rows_per_sample * samples, batch_size or 2**62)
        dense = rows * self.size
        reused = (SETUP + 2 * samples) * padded + 2 * samples * rows * len(self.members)
        units = _size(self.graph.output(self.layer.result).shape[1:])
        return reused <= WORTHWHILE * dense and dense * units >= LEAST_WORK

    # --- running -----------------------------------------------------------------------------

    def _rows(
        self, ops: Ops, weights: Mapping[Value, Array], inputs: list[Array], args: Mapping[str, Array]
    ) -> Results:
        rows = self.points(ops, self._hidden(ops, weights, inputs, args), inputs, args)
        output = self.behind.outputs[0][1]
        values, _ = evaluate(ops, self.behind, weights, rows, (output,))
        return self.scored(ops, values[output], [], args)

    def _hidden(
        self, ops: Ops, weights: Mapping[Value, Array], inputs: Sequence[Array], args: Mapping[str, Array]
    ) -> Array:
        """The layer's result for each row, (R, H)."""
        assert self.design is not None
        layer = self.layer
        operands = [layer.weight] if layer.bias is None else [layer.weight, layer.bias]
        known, _ = evaluate(ops, self.graph, weights, inputs, operands)
        members = ops.join_axis(args["members"], 0)
        members = ops.where(members < 0, ops.zeros_like(members), members)
        by_group = self._weight_by_group(ops, known[layer.weight], members, args["members"])
        x = inputs[self.graph.inputs.index(self.wrt[0])]
        kept = ops.cast_like(self.design.features_kept(ops, args), by_group)
        places, products = [], []
        for points, index, chosen in ((x, args["sample"], kept), (args["baseline_0"], args["baseline"], 1 - kept)):
            places.append(_places(ops, chosen, index, points))
            products.append(self._products(ops, weights, points, by_group, members, args["members"]))
        if layer.bias is not None:
            places.append(ops.ones_like(kept[:, :1]))
            products.append(ops.insert_axis(known[layer.bias], 0))
        return ops.matmul(ops.concat(places, 1), ops.concat(products, 0))

    def _weight_by_group(self, ops: Ops, weight: Array, members: Array, by_group: Array) -> Array:
        """The weight's entries for the elements of each group, (G, S, H)."""
        if self.layer.axis == 0:
            return ops.split_axis(ops.take(weight, members), 0, by_group, 0, by_group, 1)
        found = ops.split_axis(ops.take_columns(weight, members), 1, by_group, 0, by_group, 1)  # (H, G, S)
        return ops.move_axis(found, 0, 2)

    def _products(
        self, ops: Ops, weights: Mapping[Value, Array], points: Array, weight: Array, members: Array, by_group: Array
    ) -> Array:
        """W_g·x_g of each of the points (N, …) and each group, (N·G, H)."""
        operand = self.layer.operand
        known, _ = evaluate(ops, self.graph, weights, self.alone(points), (operand,))
        entries = ops.take_columns(known[operand], members)
        if (self.members < 0).any():
            entries = ops.zeroed(entries, ops.join_axis(by_group, 0) < 0)
        entries = ops.split_axis(entries, 1, by_group, 0, by_group, 1)  # (N, G, S)
        products = ops.matmul(ops.move_axis(entries, 1, 0), weight)  # (G, N, H)
        return ops.join_axis(ops.move_axis(products, 0, 1), 0)


def _places(ops: Ops, chosen: Array, index: Array, points: Array) -> Array:
    """(R, N·G): 1 where a row adds the product of a point and a group: that of its point ``index``, (R,), and of the
    groups ``chosen``, (R, G)."""
    own = ops.cast_like(ops.rows_equal(index, ops.row_numbers(points)), chosen)
    return ops.join_axis(ops.insert_axis(own, 2) * ops.insert_axis(chosen, 1), 1)


def group_members(feature_map: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """The elements of each group (G, S), S the size of the largest group; −1 where a group has fewer."""
    numbers = feature_map.ravel()
    order = numbers.argsort(kind="stable")
    counts = np.bincount(numbers)
    found = np.full((len(counts), int(counts.max(initial=0))), -1, np.int64)
    place = np.arange(len(order)) - np.repeat(np.cumsum(counts) - counts, counts)
    found[numbers[order], place] = order
    return found


# --- paths of gradients --------------------------------------------------------------------------


class Affine(NamedTuple):
    """The first dense layer or convolution, with the linear operations before it, which only the attributed input
    goes into. ``terms``: the products that an entry of its result sums up."""

    result: Value
    terms: int


def affine_layer(graph: Graph, wrt: Sequence[Value]) -> Affine | None:
    """The layer that ``wrt`` goes into; None if it goes into something else, or elsewhere, too."""
    if len(wrt) != 1 or varies(graph.output(wrt[0]).shape[1:]):
        return None
    value, outputs = wrt[0], {output for _, output in graph.outputs}
    while True:
        users = [node for node in graph if value in node.inputs and node.function is not Function.SHAPE]
        if len(users) != 1 or value in outputs:
            return None
        (node,) = users
        if node.role is not Role.LINEAR or len(node.outputs) != 1 or node.inputs.count(value) != 1:
            return None
        value, before = node.values[0], value
        if node.function.weighted:
            break
    kinds = {graph.output(each).dtype for each in (before, value)}
    sources = graph.needed([value]) & {source.node for source in graph.inputs}
    if graph.output(value).batch_axis != 0 or not kinds <= set(WIDE) or sources != {wrt[0].node}:
        return None
    return Affine(value, _terms(graph, node))


def _terms(graph: Graph, node: Node) -> int:
    """The entries of the weight for one entry, or one channel, of the result."""
    weight, result = graph.output(node.inputs[node.attributes.weight]).shape, node.outputs[0].shape
    channels = weight[0] if node.function is Function.CONV and weight[0] == result[1] else result[-1]
    return _size(weight) // max(channels or 1, 1)


@dataclass(frozen=True)
class PathBehindFirstLayer(BehindFirstLayer):
    """Like :class:`Program`, for sums of gradients on the line from the baseline to the sample."""

    @cached_property
    def layer(self) -> Affine:
        found = affine_layer(self.graph, self.wrt)
        assert found is not None
        return found

    @property
    def result(self) -> Value:
        return self.layer.result

    @cached_property
    def first(self) -> Program:
        """The program of the layer itself."""
        return Program(self.graph.restrict((("0", self.result),)), self.method, self.wrt)

    @cached_property
    def rest(self) -> Program:
        """The program behind the layer."""
        return Program(self.behind, self.method, self.behind.inputs[:1])

    def worthwhile(self, batch_size: int | None) -> bool:
        """Whether the products that are saved outweigh the passes over the layer's results that are added."""
        rows = min(self.method.count([self.sample_shape(self.wrt[0])]), batch_size or 2**62)
        work = rows * self.layer.terms * _size(self.graph.output(self.result).shape[1:])
        return rows >= LEAST_STEPS and self.layer.terms >= LEAST_TERMS and work >= LEAST_PATH_WORK

    def _rows(
        self, ops: Ops, weights: Mapping[Value, Array], inputs: list[Array], args: Mapping[str, Array]
    ) -> Results:
        sample, x, table = args["sample"], inputs[self.graph.inputs.index(self.wrt[0])], args["baseline_0"]
        at_x, pullbacks = self.first.forward(ops, weights, inputs)
        at_b, _ = evaluate(ops, self.graph, weights, self.alone(table), (self.result,))
        ends = ops.take(at_b[self.result], args["baseline"]), ops.take(at_x[self.result], sample)
        alpha = args["alpha"]
        hidden = ops.cast_like(ops.scale_rows(ends[0], 1 - alpha) + ops.scale_rows(ends[1], alpha), ends[0])
        values, behind = self.rest.forward(ops, weights, self.points(ops, hidden, inputs, args))
        y = values[self.rest.output]
        (message,) = self.rest.walk(ops, values, behind, ops.take(args["mask"], sample))
        wide = ACCUMULATE[self.dtype(self.result)]
        total = ops.segment_sum(ops.cast(ops.scale_rows(message, args["weight"]), wide), sample, args["mask"])
        (gradient,) = self.first.walk(ops, at_x, pullbacks, ops.cast_like(total, hidden))
        base = ops.take(table, _of_samples(ops, args))
        one = {**args, "weight": ops.ones_like(ops.row_sum(gradient))}
        sums = self.method.contribute(ops, [gradient], [x], [base], one)
        kinds = (ops.cast(part, ACCUMULATE[self.dtype(self.wrt[0])]) for part in sums)
        return (ops.cast(y, ACCUMULATE[self.dtype(self.output)]), *kinds)


def _of_samples(ops: Ops, args: Mapping[str, Array]) -> Array:
    """The baseline of each sample, (U,), which all its rows share: the mean of their indices."""
    index, sample = ops.cast(args["baseline"], "float64"), args["sample"]
    count = ops.segment_sum(ops.ones_like(index), sample, args["mask"])
    return ops.cast(ops.segment_sum(index, sample, args["mask"]) / ops.at_least(count, 1.0), "int64")


# --- the choice ------------------------------------------------------------------------------------


def reusing(program: Program, batch_size: int | None, known: bool | None) -> Program:
    """The program with a first layer that is computed once for each sample, where that is possible and pays.

    ``known``: True for a program that was saved so, which takes the same arguments again; None to decide.
    """
    if known is False or not (ENABLED or known) or type(program) is not Program:
        return program
    found = _with_groups(program) if program.design else _on_path(program)
    return found if found is not None and (known or found.worthwhile(batch_size)) else program


def _with_groups(program: Program) -> GroupsInFirstLayer | None:
    assert program.design is not None
    if program.design.feature_map is None or program.method.baseline not in ("point", "either"):
        return None
    if dense_layer(program.graph, program.wrt) is None:
        return None
    return GroupsInFirstLayer(program.graph, program.method, program.wrt)


def _on_path(program: Program) -> PathBehindFirstLayer | None:
    if not program.method.on_line or affine_layer(program.graph, program.wrt) is None:
        return None
    return PathBehindFirstLayer(program.graph, program.method, program.wrt)

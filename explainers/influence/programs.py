"""Programs of per-sample derivatives towards weights, and of what methods make of them inside the kernel.

Every program runs the model once forward, walks once back from the loss, and forms each block's factors, (N, G, T, L)
and (N, G, T, R): G groups of T places. The derivative is Σ_t leftᵀ·right, (N, G, L, R); P = G·L·R numbers a block.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

from ..graph import Function, Graph, Node, Value
from ..losses import Loss
from ..methods import Gradient
from ..ops import Ops
from ..program.walk import Placeholder, Program, input_placeholders
from .sites import Block, Layout, Sites, Use

Array = Any
MANY = "baselines"  # the axis of what is given for all samples: vectors, directions


class Factor(NamedTuple):
    """left: (N, G, T, L). right: (N, G, T, R); T may be 1."""

    left: Array
    right: Array


@dataclass(frozen=True)
class PerSample:
    """The base: losses, and the factors of each block. Nothing is returned but the losses, (N,).

    pseudo: derivatives start from the root of the loss' curvature times signs, instead of from its gradient.
    """

    sites: Sites
    blocks: tuple[Block, ...]
    loss: Loss
    pseudo: bool = False

    @property
    def graph(self) -> Graph:
        return self.sites.graph

    @property
    def output(self) -> Value:
        return self.sites.output

    @cached_property
    def walk(self) -> Program:
        """The reverse walk from the output to the results of all uses."""
        values = dict.fromkeys(use.node.values[0] for block in self.blocks for use in block.uses)
        return Program(self.graph, Gradient(), tuple(values))

    @cached_property
    def output_shape(self) -> tuple[int, ...]:
        return tuple(size or 0 for size in self.graph.output(self.output).shape[1:])

    @property
    def dtype(self) -> str:
        return self.graph.output(self.output).dtype

    @cached_property
    def placeholders(self) -> tuple[Placeholder, ...]:
        shape, dtype = self.loss.target(self.output_shape, self.dtype)
        found = [*input_placeholders(self.graph.inputs, self.graph), Placeholder("target", "samples", shape, dtype)]
        if self.pseudo:
            found.append(Placeholder("signs", "samples", self.output_shape, self.dtype))
        return (*found, *self.further())

    def further(self) -> Sequence[Placeholder]:
        return ()

    @property
    def key(self) -> tuple[Any, ...]:
        """What tells the program from others of the same sites."""
        return type(self), self.pseudo

    def __call__(self, ops: Ops, weights: Mapping[Value, Array], *arguments: Array) -> tuple[Array, ...]:
        args = dict(zip((p.name for p in self.placeholders), arguments, strict=True))
        loss, factors = self.evaluated(ops, weights, args)
        return (loss, *self.results(ops, factors, args))

    def evaluated(
        self, ops: Ops, weights: Mapping[Value, Array], args: Mapping[str, Array]
    ) -> tuple[Array, list[Factor]]:
        """The losses, (N,), and the factors of each block."""
        inputs = [args[f"input_{value.node}"] for value in self.graph.inputs]
        values, pullbacks = self.walk.forward(ops, weights, inputs)
        f, y = values[self.output], args["target"]
        start = self.loss.root(ops, f, y, args["signs"]) if self.pseudo else self.loss.gradient(ops, f, y)
        messages = self.walk.messages(ops, values, pullbacks, start)
        factors = [self.factor(ops, block, values, messages) for block in self.blocks]
        # layers may compute in other dtypes than the output's
        alike = [Factor(*(ops.cast_like(side, f) for side in factor)) for factor in factors]
        return self.loss.value(ops, f, y), alike

    def results(self, ops: Ops, factors: Sequence[Factor], args: Mapping[str, Array]) -> Sequence[Array]:
        return ()

    # --- factors -----------------------------------------------------------------------------

    def factor(self, ops: Ops, block: Block, values: Mapping[Value, Array], messages: Mapping[Value, Array]) -> Factor:
        if not block.factored:
            whole = self._whole(ops, block, values, messages)
            if block.rule == "diagonal":
                return Factor(ops.insert_axis(ops.insert_axis(whole, 2), 3), _ones(ops, whole, (block.entries, 1, 1)))
            return Factor(ops.insert_axis(ops.insert_axis(whole, 1), 1), _ones(ops, whole, (1, 1, 1)))
        parts = [self._factors(ops, block, use, values, messages) for use in block.uses]
        if len(parts) == 1:
            return parts[0]
        return Factor(*(ops.concat(list(sides), 2) for sides in zip(*parts, strict=True)))

    def _factors(
        self, ops: Ops, block: Block, use: Use, values: Mapping[Value, Array], messages: Mapping[Value, Array]
    ) -> Factor:
        node = use.node
        message = messages[node.values[0]] if node.values[0] in messages else ops.zeros_like(values[node.values[0]])
        arrays = [values[value] for value in node.inputs]
        layout = self.sites.layouts[node.values[0]]
        left, right, groups = ops.weight_factors(node, arrays, message)
        if block.rule != "conv":
            left, right = (_samples_first(ops, array, layout) for array in (left, right))
        left, right = (_grouped(ops, array, groups) for array in (left, right))
        if block.biased:
            left = ops.concat([left, ops.ones_like(left[..., :1])], 3)
        return Factor(left, right)

    def _whole(self, ops: Ops, block: Block, values: Mapping[Value, Array], messages: Mapping[Value, Array]) -> Array:
        """The derivative of a weight, (N, P)."""
        (weight,) = block.weights
        found: dict[Value, Array] = {}
        for use in block.uses:
            if use.node.values[0] in messages:  # of its only result that is used
                part = self._towards(ops, use, values, messages[use.node.values[0]])
                value = use.operand
                found[value] = found[value] + part if value in found else part
        if not found:
            f = values[self.output]
            return _blank(ops, f, block.entries)
        for node in self._chain([value for value in found if value != weight]):
            arrived = [found.pop(value) if value in found else None for value in node.values]
            if all(message is None for message in arrived):
                continue
            arrays = [values[value] for value in node.inputs]
            for place, operand in enumerate(node.inputs):
                if weight in self.sites.made.get(operand, ()):
                    part = self._pulled(ops, node, arrays, place, arrived)
                    found[operand] = found[operand] + part if operand in found else part
        return ops.reshape_rows(found[weight], (block.entries,))

    def _pulled(self, ops: Ops, node: Node, arrays: list[Array], place: int, messages: Sequence[Any]) -> Array:
        """Each sample's messages at an operation on weights, (N, …), towards the operand at ``place``."""
        if not node.elementwise or len(messages) > 1:
            return ops.pull_each(node, arrays, place, messages)
        (message,) = messages
        return self._repeated(ops, node, arrays, place, message, Layout(0), 1)

    def _repeated(
        self, ops: Ops, node: Node, arrays: Sequence[Array], place: int, message: Array, layout: Layout, added: int = 0
    ) -> Array:
        """The message at an elementwise operation, towards an operand that is repeated along the samples, (N, …).

        added: axes of the message before those of the result.
        """
        shape, rank = self._shape(node.inputs[place]), len(node.outputs[0].shape) + added
        if node.function is not Function.ADD and not node.attributes.repeats:
            operands = list(arrays)
            operands[place] = ops.broadcast_like(arrays[place], message) + ops.zeros_like(
                ops.cast_like(message, arrays[place])
            )
            _, pullback = ops.vjp(node, operands, (place,))
            (message,) = pullback([message])
        kept = {rank - len(shape) + axis for axis, size in enumerate(shape) if size != 1}
        if node.attributes.axis is not None:  # a bias along another axis than the last
            kept = set(node.attributes.axes)
        return _summed(ops, message, layout, kept, shape)

    def _chain(self, values: Sequence[Value]) -> list[Node]:
        nodes = {node.name: node for value in values for node in self.sites.chain(value)}
        return [node for node in reversed(self.graph.nodes) if node.name in nodes]

    def _towards(self, ops: Ops, use: Use, values: Mapping[Value, Array], message: Array) -> Array:
        """The derivative of each sample towards what a use is made of, (N, …)."""
        node, layout = use.node, self.sites.layouts[use.node.values[0]]
        arrays = [values[value] for value in node.inputs]
        if self.sites.adds_bias(use):
            axis = self.sites.channels(node)
            return _summed(ops, message, layout, {axis}, self._shape(use.operand))
        if self.sites.factored(use):
            return self._from_factors(ops, use, arrays, message)
        if not self.sites.broadcasts(use):
            axes = [self._axis(value) for value in node.inputs]
            return ops.weight_gradients(node, arrays, use.place, axes, message, layout.axis)
        return self._repeated(ops, node, arrays, use.place, message, layout)

    def _from_factors(self, ops: Ops, use: Use, arrays: Sequence[Array], message: Array) -> Array:
        """The derivative towards a dense map's weight or a table, with the axes of the weight."""
        layout, table = self.sites.layouts[use.node.values[0]], use.node.function is Function.EMBEDDING
        left, right, _ = ops.weight_factors(use.node, arrays, message)
        left, right = (_grouped(ops, _samples_first(ops, side, layout), 1) for side in (left, right))
        whole = derivative(ops, Factor(left, right))
        turned = whole if table or use.node.attributes.contracted == 0 else transposed(ops, whole)
        return ops.reshape_rows(turned, self._shape(use.operand))

    def _shape(self, value: Value) -> tuple[int, ...]:
        return tuple(size or 0 for size in self.graph.output(value).shape)

    def _axis(self, value: Value) -> int | None:
        if value not in self.sites.moved or None not in self.graph.output(value).shape:
            return None
        return self.sites.layouts[value].axis


def _summed(ops: Ops, array: Array, layout: Layout, kept: Collection[int], shape: tuple[int, ...]) -> Array:
    """The sum of each sample over all axes but those that are ``kept``, in ``shape``."""
    rank = len(ops.sample_shape(array)) + 1
    apart = ops.split_batch(array, layout.axis, layout.before, layout.behind)
    first = ops.move_axis(apart, layout.axis + 1, 0)
    places = [axis for axis in range(rank) if axis != layout.axis]
    axes = [*places[: layout.axis], -1, -1, *places[layout.axis :]]
    for axis, origin in enumerate(axes, 1):
        if origin not in kept:
            first = ops.reduce_sum(first, axis)
    return ops.reshape_rows(first, shape)


def _blank(ops: Ops, f: Array, entries: int) -> Array:
    """(N, entries) zeros."""
    flat = ops.row_sum(f) * 0
    return ops.insert_axis(flat, 1) + ops.zeros_like(ops.cast_like(ops.arange(entries, f), f))


def _ones(ops: Ops, whole: Array, shape: tuple[int, ...]) -> Array:
    if shape == (1, 1, 1):
        return ops.reshape_rows(whole[:, :1] * 0 + 1, shape)
    return ops.reshape_rows(ops.ones_like(whole), shape)


def _samples_first(ops: Ops, array: Array, layout: Layout) -> Array:
    """(…, L) with the samples along ``layout`` → (N, T, L)."""
    width = ops.sample_shape(array)[-1]
    apart = ops.split_batch(array, layout.axis, layout.before, layout.behind)
    first = ops.move_axis(apart, layout.axis + 1, 0)
    places = math.prod(ops.sample_shape(first)[:-1])
    return ops.reshape_rows(first, (places, width))


def _grouped(ops: Ops, array: Array, groups: int) -> Array:
    """(N, T, G·L) → (N, G, T, L)."""
    places, width = ops.sample_shape(array)
    if groups == 1:
        return ops.insert_axis(array, 1)
    return ops.move_axis(ops.reshape_rows(array, (places, groups, width // groups)), 1, 2)


def transposed(ops: Ops, array: Array) -> Array:
    """The last two axes the other way round."""
    rank = len(ops.sample_shape(array)) + 1
    return ops.move_axis(array, rank - 1, rank - 2)


def derivative(ops: Ops, factor: Factor) -> Array:
    """Σ_t leftᵀ·right, (N, G, L, R)."""
    return ops.matmul(transposed(ops, factor.left), factor.right)


def flat(ops: Ops, factor: Factor) -> Array:
    """The derivative, (N, P)."""
    whole = derivative(ops, factor)
    return ops.reshape_rows(whole, (math.prod(ops.sample_shape(whole)),))


@dataclass(frozen=True)
class Derivatives(PerSample):
    """Each block's derivative, (N, G, L, R)."""

    def results(self, ops: Ops, factors: Sequence[Factor], args: Mapping[str, Array]) -> Sequence[Array]:
        return [derivative(ops, factor) for factor in factors]


@dataclass(frozen=True)
class Factors(PerSample):
    """Each block's factors, (N, G, T, L) and (N, G, T, R)."""

    def results(self, ops: Ops, factors: Sequence[Factor], args: Mapping[str, Array]) -> Sequence[Array]:
        return [side for factor in factors for side in factor]


@dataclass(frozen=True)
class WithSizes(PerSample):
    """Programs that take arrays with the sizes of blocks. ``sizes``: (G, L, R) of each."""

    sizes: tuple[tuple[int, int, int], ...] = ()

    @property
    def entries(self) -> list[int]:
        return [math.prod(size) for size in self.sizes]

    def vectors(self) -> Iterator[Placeholder]:
        """K vectors, of each block's numbers."""
        for place, size in enumerate(self.entries):
            yield Placeholder(f"vector_{place}", MANY, (size,), self.dtype)

    def scales(self) -> Iterator[Placeholder]:
        """A number for each of a block's."""
        for place, size in enumerate(self.sizes):
            yield Placeholder(f"scale_{place}", "", size, self.dtype)

    def bases(self) -> Iterator[Placeholder]:
        """The bases of each block's factors; tables have that of their rows."""
        for place, (block, (groups, left, right)) in enumerate(zip(self.blocks, self.sizes, strict=True)):
            if block.rule != "embedding":
                yield Placeholder(f"left_{place}", "", (groups, left, left), self.dtype)
            yield Placeholder(f"right_{place}", "", (groups, right, right), self.dtype)


@dataclass(frozen=True)
class Turned(WithSizes):
    """Each block's derivative along the axes of given bases, times ``scale``, (N, P).

    Factors are turned, not the derivative.
    """

    def further(self) -> Sequence[Placeholder]:
        return [*self.bases(), *self.scales()]

    def results(self, ops: Ops, factors: Sequence[Factor], args: Mapping[str, Array]) -> Sequence[Array]:
        found = []
        for place, factor in enumerate(factors):
            whole = derivative(ops, rotated(ops, factor, args, place)) * args[f"scale_{place}"]
            found.append(ops.reshape_rows(whole, (self.entries[place],)))
        return found


@dataclass(frozen=True)
class TurnedProducts(WithSizes):
    """The products of each sample's derivative with K vectors, (N, K), along the axes of given bases."""

    def further(self) -> Sequence[Placeholder]:
        return [*self.bases(), *self.vectors()]

    def results(self, ops: Ops, factors: Sequence[Factor], args: Mapping[str, Array]) -> Sequence[Array]:
        turned = [rotated(ops, factor, args, place) for place, factor in enumerate(factors)]
        return [_added(products(ops, flat(ops, factor), args, place) for place, factor in enumerate(turned))]


def products(ops: Ops, wholes: Array, args: Mapping[str, Array], place: int) -> Array:
    """Derivatives of a block, (N, P), times the vectors ``vector_i``: (N, K)."""
    return ops.matmul(wholes, transposed(ops, args[f"vector_{place}"]))


def _added(parts: Iterable[Array]) -> Array:
    first, *others = parts
    return sum(others, first)


@dataclass(frozen=True)
class Sides(WithSizes):
    """What :class:`Pairs` needs of the others: of each block two factors, (N, G, L) and (N, G, R), or (N, P)."""

    by_factors: tuple[bool, ...] = ()

    def results(self, ops: Ops, factors: Sequence[Factor], args: Mapping[str, Array]) -> Sequence[Array]:
        found = []
        for factor, by_factors in zip(factors, self.by_factors, strict=True):
            found += [side[:, :, 0] for side in factor] if by_factors else [flat(ops, factor)]
        return found


@dataclass(frozen=True)
class Pairs(WithSizes):
    """The products of each sample's derivative with those of K others, (N, K), without forming either where T = 1.

    ⟨lᵀr, l'ᵀr'⟩ = (l·l')(r·r'). ``by_factors``: the blocks of which the others' factors are given, not derivatives.
    """

    by_factors: tuple[bool, ...] = ()

    @property
    def key(self) -> tuple[Any, ...]:
        return *super().key, self.by_factors

    def further(self) -> Sequence[Placeholder]:
        found = []
        for place, (groups, left, right) in enumerate(self.sizes):
            if self.by_factors[place]:
                found.append(Placeholder(f"left_{place}", MANY, (groups, left), self.dtype))
                found.append(Placeholder(f"right_{place}", MANY, (groups, right), self.dtype))
            else:
                found.append(Placeholder(f"vector_{place}", MANY, (self.entries[place],), self.dtype))
        return found

    def results(self, ops: Ops, factors: Sequence[Factor], args: Mapping[str, Array]) -> Sequence[Array]:
        return [_added(self._product(ops, factor, args, place) for place, factor in enumerate(factors))]

    def _product(self, ops: Ops, factor: Factor, args: Mapping[str, Array], place: int) -> Array:
        if not self.by_factors[place]:
            return products(ops, flat(ops, factor), args, place)
        others = args[f"left_{place}"], args[f"right_{place}"]
        left, right = (
            ops.matmul(ops.move_axis(own[:, :, 0], 0, 1), ops.move_axis(ops.move_axis(other, 0, 1), 1, 2))
            for own, other in zip(factor, others, strict=True)
        )  # (G, N, K)
        return ops.sum_axis(left * right, 0)


@dataclass(frozen=True)
class HarmonicSums(WithSizes):
    """Σ_n derivative_n·(derivative_n·v)/(λ + |derivative_n|²) for K vectors v: for each block (K, P)."""

    def further(self) -> Sequence[Placeholder]:
        return [*self.vectors(), Placeholder("damping", "", (len(self.blocks),), self.dtype)]

    def results(self, ops: Ops, factors: Sequence[Factor], args: Mapping[str, Array]) -> Sequence[Array]:
        found = []
        for place, factor in enumerate(factors):
            whole = flat(ops, factor)
            lengths = args["damping"][place] + ops.row_sum(whole * whole)
            weights = products(ops, whole, args, place) / ops.insert_axis(lengths, 1)
            found.append(ops.matmul(ops.move_axis(weights, 0, 1), whole))
        return found


@dataclass(frozen=True)
class Covariances(PerSample):
    """Σ over samples of Σ_t left·leftᵀ (G, L, L) and of the mean over t of right·rightᵀ (G, R, R), of each block.

    Of tables the former is a diagonal, (G, L).

    The product of the two, over the number of samples, stands for the curvature, as if places were independent
    (Grosse and Martens 2016, eq. 20).
    """

    def results(self, ops: Ops, factors: Sequence[Factor], args: Mapping[str, Array]) -> Sequence[Array]:
        found = []
        for block, (left, right) in zip(self.blocks, factors, strict=True):
            places = ops.sample_shape(left)[1]
            picks = block.rule == "embedding"  # whose covariance has entries on the diagonal only
            own = ops.sum_axis(ops.sum_axis(left, 2), 0) if picks else _covariance(ops, left)
            found += [own, _covariance(ops, right) / places]
        return found


def _covariance(ops: Ops, side: Array) -> Array:
    groups, _, width = ops.sample_shape(side)
    if width == 1:
        return ops.sum_axis(ops.matmul(transposed(ops, side), side), 0)
    if groups == 1:
        rows = ops.join_axis(side[:, 0], 0)  # (N·T, L)
        return ops.insert_axis(ops.matmul(ops.move_axis(rows, 0, 1), rows), 0)
    stacked = ops.move_axis(ops.join_axis(ops.move_axis(side, 1, 2), 0), 0, 1)  # (G, N·T, L)
    return ops.matmul(transposed(ops, stacked), stacked)


@dataclass(frozen=True)
class Squares(WithSizes):
    """Σ_n (Q_Lᵀ·derivative_n·Q_R)², (G, L, R), of each block: the curvature along the axes of given bases."""

    def further(self) -> Sequence[Placeholder]:
        return list(self.bases())

    def results(self, ops: Ops, factors: Sequence[Factor], args: Mapping[str, Array]) -> Sequence[Array]:
        found = []
        for place, factor in enumerate(factors):
            turned = rotated(ops, factor, args, place)
            if ops.sample_shape(turned.left)[1] == 1:  # the square of a product is the product of squares
                left, right = (ops.move_axis(side[:, :, 0] * side[:, :, 0], 0, 1) for side in turned)  # (G, N, L)
                found.append(ops.matmul(transposed(ops, left), right))
            else:
                whole = derivative(ops, turned)
                found.append(ops.sum_axis(whole * whole, 0))
        return found


def rotated(ops: Ops, factor: Factor, args: Mapping[str, Array], place: int) -> Factor:
    """The factors in the bases ``left_i`` and ``right_i``."""
    known = f"left_{place}" in args and not single(factor.left, ops)
    left = ops.matmul(factor.left, args[f"left_{place}"]) if known else factor.left
    right = factor.right if single(factor.right, ops) else ops.matmul(factor.right, args[f"right_{place}"])
    return Factor(left, right)


def single(side: Array, ops: Ops) -> bool:
    return bool(ops.sample_shape(side)[-1] == 1)


@dataclass(frozen=True)
class Norms(WithSizes):
    """Σ (Q_Lᵀ·derivative·Q_R)²·scale of each sample, summed over the blocks, (N,): its squared length in a metric."""

    def further(self) -> Sequence[Placeholder]:
        return [*self.bases(), *self.scales()]

    def results(self, ops: Ops, factors: Sequence[Factor], args: Mapping[str, Array]) -> Sequence[Array]:
        wholes = [derivative(ops, rotated(ops, factor, args, place)) for place, factor in enumerate(factors)]
        return [_added(ops.row_sum(w * w * args[f"scale_{place}"]) for place, w in enumerate(wholes))]


@dataclass(frozen=True)
class Lengths(PerSample):
    """The squared length of each sample's derivative in each block, (N, blocks)."""

    def results(self, ops: Ops, factors: Sequence[Factor], args: Mapping[str, Array]) -> Sequence[Array]:
        return [ops.stack([_squared_length(ops, factor) for factor in factors])]


def _squared_length(ops: Ops, factor: Factor) -> Array:
    if ops.sample_shape(factor.left)[1] == 1:  # of a product of two vectors
        left, right = (ops.reduce_sum(side * side, (2, 3)) for side in factor)
        return ops.row_sum(left * right)
    whole = derivative(ops, factor)
    return ops.row_sum(whole * whole)


@dataclass(frozen=True)
class Curvature(WithSizes):
    """Σ_n derivative_n·(derivative_n·v) for K vectors v: for each block (K, P)."""

    def further(self) -> Sequence[Placeholder]:
        return list(self.vectors())

    def results(self, ops: Ops, factors: Sequence[Factor], args: Mapping[str, Array]) -> Sequence[Array]:
        wholes = [flat(ops, factor) for factor in factors]
        total = _added(products(ops, whole, args, place) for place, whole in enumerate(wholes))
        return [ops.matmul(ops.move_axis(total, 0, 1), whole) for whole in wholes]


@dataclass(frozen=True)
class Perturbations(WithSizes):
    """∂/∂x of ⟨∂ℓ/∂θ, v⟩ of each sample, as the inputs ``moving``, for one vector v."""

    moving: tuple[str, ...] = ()

    def further(self) -> Sequence[Placeholder]:
        return [Placeholder(f"vector_{place}", "", (size,), self.dtype) for place, size in enumerate(self.entries)]

    def __call__(self, ops: Ops, weights: Mapping[Value, Array], *arguments: Array) -> tuple[Array, ...]:
        args = dict(zip((p.name for p in self.placeholders), arguments, strict=True))

        def product(*inputs: Array) -> tuple[Array, Array]:
            loss, factors = self.evaluated(ops, weights, {**args, **dict(zip(self.moving, inputs, strict=True))})
            wholes = enumerate(flat(ops, factor) for factor in factors)
            return _added(ops.row_sum(whole * args[f"vector_{place}"]) for place, whole in wholes), loss

        loss, found = ops.input_gradients(product, [args[name] for name in self.moving])
        return (loss, *found)


@dataclass(frozen=True)
class Projections(WithSizes):
    """A random projection of the whole derivative to ``dimension`` = a² numbers, (N, a²).

    Of each block Aᵀ·derivative·B, with random A (L, a) and B (R, a): factors are projected, not the derivative.
    """

    side: int = 8

    @property
    def key(self) -> tuple[Any, ...]:
        return *super().key, self.side

    def further(self) -> Sequence[Placeholder]:
        found = []
        for place, (groups, left, right) in enumerate(self.sizes):
            found.append(Placeholder(f"left_{place}", "", (groups, left, self.side), self.dtype))
            found.append(Placeholder(f"right_{place}", "", (groups, right, self.side), self.dtype))
        return found

    def results(self, ops: Ops, factors: Sequence[Factor], args: Mapping[str, Array]) -> Sequence[Array]:
        found = _added(self._projected(ops, factor, args, place) for place, factor in enumerate(factors))
        return [ops.reshape_rows(found, (self.side**2,))]

    def _projected(self, ops: Ops, factor: Factor, args: Mapping[str, Array], place: int) -> Array:
        left = ops.matmul(factor.left, args[f"left_{place}"])
        right = ops.matmul(factor.right, args[f"right_{place}"])
        return ops.sum_axis(derivative(ops, Factor(left, right)), 1)

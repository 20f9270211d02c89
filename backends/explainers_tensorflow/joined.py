"""Operations that TensorFlow writes as several, with the batch folded into other axes in between, as one node.

- A dilated convolution: SpaceToBatchND, a convolution without dilation, BatchToSpaceND.
- A dense layer along the last axis of more than two: Reshape to a matrix, MatMul, Reshape.
- ``tf.repeat``, with which Keras repeats the nearest neighbour: ExpandDims, Tile, Reshape.

The joined node computes them one after the other, and has a fact about its places, which the parts cannot have.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import tensorflow as tf

from explainers.graph import Attributes, EachPlace, Function, Graph, Locality, Node, Repeating, Role, Sliding, Value
from explainers.graph.rewrite_regions import Region

CONVOLUTIONS = ("Conv2D", "Conv3D", "DepthwiseConv2dNative")
RESHAPES = ("Reshape", "Squeeze", "ExpandDims")


def joined(graph: Graph) -> Graph:
    """The graph with each of these groups of operations as one node."""
    found = {node.name: made for node in graph for made in _joined(graph, node)}
    nodes = tuple(found.get(node.name, node) for node in graph)
    return Graph(nodes, graph.inputs, graph.outputs).restrict(graph.outputs) if found else graph


def weighted(node: Node) -> Node | None:
    """The convolution that a node is, or that is inside of it."""
    return next((part for part in _parts(node) if part.op in (*CONVOLUTIONS, "Conv")), None)


def matrix_product(node: Node) -> Node | None:
    """The product of matrices inside of a joined dense layer."""
    return next((part for part in _parts(node) if part.op == "MatMul" and part is not node), None)


def _parts(node: Node) -> tuple[Node, ...]:
    return node.payload.members if isinstance(node.payload, Region) else (node,)


def _joined(graph: Graph, last: Node) -> Iterator[Node]:
    if last.op == "BatchToSpaceND":
        yield from _dilated(graph, last)
    elif last.op == "Reshape":
        before = _behind(graph, last.inputs[0])
        if before.op == "MatMul":
            yield from _dense(graph, last, before)
        elif before.op == "Tile":
            yield from _repeated(graph, last, before)


def _behind(graph: Graph, value: Value) -> Node:
    return graph.by_name[value.node]


def _constant(graph: Graph, value: Value) -> list[Any]:
    """The entries along the first axis of a constant; [] if it is not known."""
    node = _behind(graph, value)
    return tf.make_ndarray(node.payload.attributes["value"].tensor).tolist() if node.op == "Const" else []


def _whole(graph: Graph, *values: Value) -> bool:
    """Whether the values have the samples first, and are known in size otherwise."""
    kinds = [graph.output(value) for value in values]
    return all(kind.batch_axis == 0 and None not in kind.shape[1:] and 0 not in kind.shape for kind in kinds)


def _made(graph: Graph, last: Node, linear: Node, inputs: tuple[Value, ...], fact: Locality) -> Iterator[Node]:
    """The operations from ``inputs`` to ``last`` as one node, like ``linear``; none if they use anything else.

    The shapes of other values, which they may use, become inputs, too.
    """
    names, shapes, queue = {last.name}, dict[Value, None](), list(last.inputs)
    while queue:
        value = queue.pop()
        node = _behind(graph, value)
        if node.function is Function.SHAPE:
            shapes[value] = None
        elif value not in inputs and node.name not in names:
            if node.role in (Role.INPUT, Role.WEIGHT):
                return
            names.add(node.name)
            queue += node.inputs
    members = tuple(node for node in graph if node.name in names)
    operands = (*inputs, *(value for value in shapes if value not in inputs))
    given = linear.attributes
    attributes = Attributes(weight=given.weight, contracted=given.contracted, locality=fact)
    yield replace(
        last, op="+".join(node.op for node in members if node.role is not Role.CONSTANT), function=linear.function,
        inputs=operands, attributes=attributes, payload=Region(members, operands, last.values[0]),
    )  # fmt: skip


def _dilated(graph: Graph, last: Node) -> Iterator[Node]:
    """Place o of the result is the sum over j of the places o + crop − pad + j·block."""
    convolution = _feeding(graph, last.inputs[0], CONVOLUTIONS, "Squeeze")
    first = convolution and _feeding(graph, convolution.inputs[0], ("SpaceToBatchND",), "ExpandDims")
    if convolution is None or first is None or convolution.attributes.weight != 1:
        return
    x, weight, result = first.inputs[0], convolution.inputs[1], last.values[0]
    blocks, crops = (_constant(graph, value) for value in last.inputs[1:])
    own_blocks, pads = (_constant(graph, value) for value in first.inputs[1:])
    if not (blocks and crops and pads) or blocks != own_blocks or not _whole(graph, x, result):
        return
    rank, given = len(graph.output(x).shape), convolution.payload.plain
    channels = 1 if given["data_format"].startswith(b"NC") else rank - 1
    axes = tuple(axis for axis in range(1, rank) if axis != channels)
    filter_shape, added = graph.output(weight).shape, len(convolution.outputs[0].shape) - rank
    plain = given["padding"] == b"VALID" and {*given["strides"], *given["dilations"]} == {1}
    row = added == 1 and filter_shape[0] == 1 == graph.output(convolution.inputs[0]).shape[1] and channels == rank - 1
    if not plain or not (added == 0 or row) or None in filter_shape:
        return
    along_channels = [(blocks[i], pads[i], crops[i]) for i in range(len(blocks)) if i + 1 == channels]
    if along_channels not in ([], [(1, [0, 0], [0, 0])]):
        return
    steps = dict(enumerate(blocks, start=1))
    moved = {axis: pad[0] - crop[0] for axis, (pad, crop) in enumerate(zip(pads, crops, strict=True), start=1)}
    fact = Sliding(
        axes, tuple(size or 0 for size in filter_shape[added : added + len(axes)]), (1,) * len(axes),
        tuple(steps.get(axis, 1) for axis in axes), tuple(moved.get(axis, 0) for axis in axes), mixes=True,
    )  # fmt: skip
    yield from _made(graph, last, convolution, (x, weight), fact)


def _feeding(graph: Graph, value: Value, kinds: tuple[str, ...], between: str) -> Node | None:
    """The node of one of ``kinds`` that computes the value, perhaps with one ``between``."""
    node = _behind(graph, value)
    if node.op == between:
        node = _behind(graph, node.inputs[0])
    return node if node.op in kinds else None


def _dense(graph: Graph, last: Node, product: Node) -> Iterator[Node]:
    first = _behind(graph, product.inputs[0])
    if first.op != "Reshape" or product.attributes.weight != 1 or product.payload.plain["transpose_a"]:
        return
    x, result = first.inputs[0], last.values[0]
    before, behind = graph.output(x).shape, graph.output(result).shape
    matrices = graph.output(product.inputs[0]).shape, product.outputs[0].shape
    if len(before) < 3 or before[:-1] != behind[:-1] or not _whole(graph, x, result):
        return
    if [shape[-1] for shape in matrices] == [before[-1], behind[-1]]:
        fact = EachPlace((*range(len(before) - 1), None))
        yield from _made(graph, last, product, (x, product.inputs[1]), fact)


def _repeated(graph: Graph, last: Node, tile: Node) -> Iterator[Node]:
    first = _behind(graph, tile.inputs[0])
    if first.op not in RESHAPES:
        return
    x = first.inputs[0]
    values = x, first.values[0], tile.values[0], last.values[0]
    if not _whole(graph, *values):
        return
    before, apart, tiled, behind = (graph.output(value).shape for value in values)
    repeated = [axis for axis, (one, size) in enumerate(zip(apart, tiled, strict=True)) if one != size]
    if len(repeated) != 1 or repeated[0] < 2:
        return
    (axis,) = repeated
    times = tiled[axis] or 0
    whole = (*before[: axis - 1], (before[axis - 1] or 0) * times, *before[axis:])
    if apart == (*before[:axis], 1, *before[axis:]) and behind == whole:
        yield from _made(graph, last, last, (x,), Repeating((axis - 1,), (times,)))

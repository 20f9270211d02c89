"""A program that walks to the inputs and multiplies the result by the map of a layer: guided Grad-CAM."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ..errors import UnknownNameError
from ..graph import Graph, Value
from ..methods.base import Cam, Method
from ..methods.layer import stretched
from ..ops import Ops
from .walk import Program

Array = Any


@dataclass(frozen=True)
class Guided(Program):
    """Like :class:`Program`, but every attribution is multiplied by a map of ``layer``, interpolated to its places.

    ``map``: the program that computes the map from the part of the graph behind the layer. It walks that part a second
    time, with its own rules.
    """

    map: Program
    layer: Value
    channel_axis: int

    def weighed(
        self, ops: Ops, weights: Mapping[Value, Array], values: Mapping[Value, Array], args: Mapping[str, Array],
        contributions: list[Array],
    ) -> list[Array]:  # fmt: skip
        inputs = [values[self.layer], *(values[value] for value in self.graph.inputs)]
        _, found = self.map._single(ops, weights, inputs, args)
        results = []
        for value, contribution in zip(self.wrt, contributions, strict=True):
            shape = self.sample_shape(value)
            axis = self.channel_axis % len(shape)
            places = (*shape[:axis], *shape[axis + 1 :])
            results.append(contribution * ops.insert_axis(stretched(ops, found, places), axis + 1))
        return results


def guided(graph: Graph, method: Method, wrt: tuple[Value, ...], cam: Cam) -> Guided:
    """The program of a method whose attributions are multiplied by the map ``cam``."""
    layers = graph.layer(cam.layer)
    if len(layers) > 1:
        raise UnknownNameError(f"layer {cam.layer!r} has {len(layers)} outputs: name one inside it")
    behind = graph.cut(layers)
    return Guided(graph, method, wrt, Program(behind, cam.method, behind.inputs[:1]), layers[0], cam.channel_axis)

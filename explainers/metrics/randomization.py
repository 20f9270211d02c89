"""Metrics of randomization: does the explanation depend on what the model has learnt?"""

from __future__ import annotations

import threading
from dataclasses import dataclass
from typing import ClassVar
from weakref import WeakKeyDictionary

import numpy as np

from ..errors import InputError
from ..explainer.api import Explainer
from ..graph import Graph, Role, Value
from ..methods.base import one_of
from ..spec import Numpy
from .base import Demand, Facts, Metric, Work
from .noise import OtherTargets
from .statistics import spearman

Layers = list[list[Value]]


@dataclass(frozen=True)
class TargetRandomization(Metric):
    """The rank correlation of φ with the explanation of another output, drawn at random. Lower is better.

    Sixt, Granz and Landgraf 2020, "When Explanations Lie: Why Many Modified BP Attributions Fail", section 4.1.
    """

    name: ClassVar[str] = "target_randomization"
    higher: ClassVar[bool] = False
    signed: ClassVar[bool] = False
    bounds: ClassVar[tuple[float, float]] = (-1.0, 1.0)
    undefined: ClassVar[str] = "one of the two attributions is constant"
    reexplains: ClassVar[bool] = True

    def check(self, facts: Facts) -> None:
        if facts.outputs < 2:
            raise InputError(f"metric {self.name!r} needs a model of several outputs; this one has one")

    def score(self, work: Work, method: str) -> Numpy:
        other = work.features.summed(work.get(OtherTargets(), method))
        return spearman(work.of_features(method), other)


@dataclass(frozen=True)
class ModelRandomization(Metric):
    """The mean rank correlation of φ with explanations of the model as its layers are randomized. Lower is better.

    Adebayo et al. 2018, "Sanity Checks for Saliency Maps", section 3. The entries of the weights of dense layers,
    convolutions and embeddings are permuted, layer by layer, which keeps their distribution. The model itself is not
    touched: the explainer is compiled once more, with weights of its own.

    Parameters
    ----------
    order: ``"top_down"``: from the output on, each layer with all those behind it; ``"independent"``: each by itself.
    absolute: compare |φ|.
    """

    order: str = "top_down"
    absolute: bool = False

    name: ClassVar[str] = "model_randomization"
    higher: ClassVar[bool] = False
    signed: ClassVar[bool] = False
    bounds: ClassVar[tuple[float, float]] = (-1.0, 1.0)
    undefined: ClassVar[str] = "the attribution is constant, of the model itself or of all randomized ones"
    reexplains: ClassVar[bool] = True
    weights: ClassVar[bool] = True

    def __post_init__(self) -> None:
        one_of("order", self.order, ("top_down", "independent"))

    def score(self, work: Work, method: str) -> Numpy:
        own = work.of_features(method)
        found = [work.features.summed(parts) for parts in work.get(Randomized(self.order), method)]
        if self.absolute:
            own, found = np.abs(own), [np.abs(array) for array in found]
        similar = np.stack([spearman(own, other) for other in found])
        known = np.isfinite(similar)
        count = known.sum(axis=0)
        result: Numpy = np.where(known, similar, 0.0).sum(axis=0) / np.where(count > 0, count, np.nan)
        return result


@dataclass(frozen=True)
class Randomized(Demand):
    """A method's attributions of the samples for each stage of the randomization."""

    order: str

    def run(self, work: Work, method: str) -> list[list[Numpy]]:
        explain = work.compiled[method]
        with _LOCK:
            known = copy_of(explain)
            original = explain.weights()
            layers = layers_of(known.graph)
            found = []
            try:
                known.set_weights(original)
                for values in reversed(layers):
                    known.set_weights({value: _permuted(original[value], value) for value in values})
                    found.append(work.explain(method, None, np.arange(len(work)), by=known))
                    if self.order == "independent":
                        known.set_weights({value: original[value] for value in values})
            finally:
                known.set_weights(original)
        return found


_COPIES: WeakKeyDictionary[Explainer, Explainer] = WeakKeyDictionary()
_LOCK = threading.RLock()  # one evaluation at a time sets the weights of a copy


def copy_of(explain: Explainer) -> Explainer:
    """The explainer with weights of its own, made once. Raises as :meth:`.Explainer.detached`."""
    with _LOCK:
        known = _COPIES.get(explain)
        if known is None:
            known = _COPIES[explain] = explain.detached()
        return known


def layers_of(graph: Graph) -> Layers:
    """The floating-point weights of dense layers, convolutions and embeddings, by the module that they come from."""
    layers: dict[str, list[Value]] = {}
    seen = set[Value]()
    for node in graph:
        place = node.attributes.weight
        if not node.function.weighted or place < 0:
            continue
        for value in _leaves(graph, node.inputs[place]):
            if value not in seen:
                seen.add(value)
                layers.setdefault(node.scope or node.name, []).append(value)
    return list(layers.values())


def _leaves(graph: Graph, value: Value) -> list[Value]:
    """The weights that a value is computed from."""
    node = graph.by_name[value.node]
    if node.role is Role.WEIGHT:
        return [value] if graph.output(value).floating else []
    return [leaf for operand in node.inputs for leaf in _leaves(graph, operand)]


def _permuted(array: Numpy, value: Value) -> Numpy:
    """The entries in an order that depends on the weight's name only, so that every chunk sees the same model."""
    seed = np.frombuffer(str(value).encode(), np.uint8)
    generator = np.random.default_rng(seed.tolist())
    permuted: Numpy = generator.permutation(array.ravel()).reshape(array.shape)
    return permuted

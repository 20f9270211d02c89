"""Metrics of randomization: does the explanation depend on what the model has learnt?"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from ..errors import ArtifactError, InputError, UnsupportedOperation
from ..explainer.api import Explainer
from ..graph import Graph, Role, Value
from ..methods.base import one_of
from ..spec import Numpy
from .base import Demand, Facts, Metric, Work, positive, whole
from .copies import LOCK, copy_of
from .images import WINDOW, channel_axis_of, check_axis, image_shape, ssim
from .noise import Blurred, OtherTargets
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
    similarity: ``"spearman"``: of ranks; ``"ssim"``: the structural similarity of images, each summed over its channels
        and divided by its largest |φ|. It is made for images ≥ 0: give ``absolute=True``.
    noise, draws: with ``draws`` above 1, explanations are means over as many samples with normal noise, of ``noise``
        times the range of the sample's entries: Hedström et al. 2023, "Sanity Checks Revisited: An Exploration to
        Repair the Model Parameter Randomisation Test", section 4.1, which keeps the noise of gradients from passing
        for a dependence on the weights.
    channel_axis: of images (C, H, W) or (H, W, C), for ``"ssim"``: 0 or 2; by default that of the framework.
    """

    order: str = "top_down"
    absolute: bool = False
    similarity: str = "spearman"
    noise: float = 0.1
    draws: int = 1
    channel_axis: int | None = None

    name: ClassVar[str] = "model_randomization"
    higher: ClassVar[bool] = False
    signed: ClassVar[bool] = False
    bounds: ClassVar[tuple[float, float]] = (-1.0, 1.0)
    undefined: ClassVar[str] = "the attribution is constant, of the model itself or of all randomized ones"
    reexplains: ClassVar[bool] = True

    def __post_init__(self) -> None:
        one_of("order", self.order, ("top_down", "independent"))
        one_of("similarity", self.similarity, ("spearman", "ssim"))
        whole("draws", self.draws, 1)
        positive("noise", self.noise)
        check_axis(self.channel_axis)

    @property
    def moves(self) -> bool:
        return self.draws > 1

    def check(self, facts: Facts) -> None:
        if self.similarity == "ssim":
            shape = image_shape("SSIM", facts.shapes)
            axis = channel_axis_of("SSIM", shape, self.channel_axis, facts.channel_axis)
            if min(shape[:axis] + shape[axis + 1 :]) < WINDOW:
                raise InputError(f"SSIM compares windows of {WINDOW}×{WINDOW} pixels; a sample has the shape {shape}")

    def check_explainer(self, name: str, explain: Explainer) -> None:
        try:
            found = layers_of(copy_of(explain).graph)
        except (ArtifactError, UnsupportedOperation) as error:
            raise InputError(f"metric {self.name!r} changes weights, and {name!r} has none: {error}") from error
        if not found:
            raise InputError(f"metric {self.name!r}: the model of {name!r} has no dense layer or convolution")

    def score(self, work: Work, method: str) -> Numpy:
        noise = (float(self.noise), self.draws) if self.draws > 1 else (0.0, 1)
        own, *found = work.get(Randomized(self.order, *noise), method)
        similar = np.stack([self._similarity(work, own, other) for other in found])
        known = np.isfinite(similar)
        count = known.sum(axis=0)
        result: Numpy = np.where(known, similar, 0.0).sum(axis=0) / np.where(count > 0, count, np.nan)
        return result

    def _similarity(self, work: Work, own: list[Numpy], other: list[Numpy]) -> Numpy:
        if self.absolute:
            own, other = [np.abs(part) for part in own], [np.abs(part) for part in other]
        if self.similarity == "spearman":
            return spearman(work.features.summed(own), work.features.summed(other))
        (shape,) = work.states.shapes
        axis = channel_axis_of("SSIM", shape, self.channel_axis, work.states.backend.channel_axis)
        first, second = (_of_largest(np.asarray(p, np.float64).sum(axis=axis + 1)) for (p,) in (own, other))
        return ssim(first, second, span=1.0 if self.absolute else 2.0)


def _of_largest(maps: Numpy) -> Numpy:
    """Maps (n, H, W), each over its largest absolute entry; NaN where all are 0."""
    largest = np.abs(maps).max(axis=(1, 2), keepdims=True)
    found: Numpy = maps / np.where(largest > 0, largest, np.nan)
    return found


@dataclass(frozen=True)
class Randomized(Demand):
    """A method's attributions of the samples, of the model itself and for each stage of the randomization.

    noise, draws: of the samples that each explanation is the mean of, if draws > 1.
    """

    order: str
    noise: float
    draws: int

    def run(self, work: Work, method: str) -> list[list[Numpy]]:
        explain = work.compiled[method]
        with LOCK:
            known = copy_of(explain)
            original = explain.weights()
            layers = layers_of(known.graph)
            found = [work.attributions[method] if self.draws == 1 else self._explained(work, method, explain)]
            try:
                known.set_weights(original)
                for values in reversed(layers):
                    known.set_weights({value: _permuted(original[value], value) for value in values})
                    found.append(self._explained(work, method, known))
                    if self.order == "independent":
                        known.set_weights({value: original[value] for value in values})
            finally:
                known.set_weights(original)
        return found

    def _explained(self, work: Work, method: str, by: Explainer) -> list[Numpy]:
        if self.draws == 1:
            return work.explain(method, None, np.arange(len(work)), by=by)
        near: list[Numpy] = work.get(Blurred(self.noise, self.draws))
        flat = [part.reshape(-1, *part.shape[2:]) for part in near]
        parts = work.explain(method, flat, np.repeat(np.arange(len(work)), self.draws), by=by)
        return [np.asarray(part, np.float64).reshape(len(work), self.draws, *part.shape[1:]).mean(1) for part in parts]


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

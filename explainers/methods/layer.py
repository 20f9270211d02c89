"""Methods that look at a layer inside the model: give them ``wrt="path.of.the.layer"``."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import ClassVar

from ..errors import InputError
from ..ops import Ops
from ..random_numbers import UInt64
from ..rules import GUIDED_BACKPROP, RuleSet
from .base import Array, Cam, Method, ModelShapes, Numpy, Shapes, at_least
from .gradient import Quadrature, between

__all__ = ["GradCam", "GuidedGradCam", "InternalInfluence", "LayerConductance"]


class AlongInputs(Method, data=False):
    """A method that evaluates points between the baseline and the inputs, and attributes to a layer's values there."""

    steps: int
    baseline: ClassVar[str] = "point"
    single: ClassVar[bool] = False
    effort: ClassVar[tuple[str, ...]] = ("steps",)

    @property
    def moves_inputs(self) -> bool:
        return True

    def fitted(self, model: ModelShapes) -> Method:
        if not model.inputs:
            raise InputError(
                f"{self.name} goes from a baseline to the inputs, and no input of the model is floating-point. For "
                "tokens, explain the part of the model behind the embedding, or take 'integrated_gradients' with "
                "wrt= the layer"
            )
        return self

    def count(self, shapes: Shapes) -> int:
        return self.steps


@dataclass(frozen=True)
class LayerConductance(AlongInputs):
    """Σ_k ∂s/∂y(x_k)·(y(x_k⁺) − y(x_k⁻)): how much of the change of s flows through each unit y of a layer.

    Dhamdhere, Sundararajan and Yan 2018, "How Important Is a Neuron?", eq. 2, with the change of y between the two
    ends of each of ``steps`` equal stretches from the baseline to x, and the derivative in its middle. Where all
    paths lead through the layer, the sum over its units converges to s(x) − s(b).

    Parameters
    ----------
    steps: number of stretches; each costs one derivative and two evaluations up to the layer.
    """

    steps: int = 50

    name: ClassVar[str] = "layer_conductance"

    def __post_init__(self) -> None:
        at_least("steps", self.steps, 1)

    def placeholders(self, shapes: Shapes) -> dict[str, tuple[str, tuple[int, ...], str]]:
        return {"alpha": ("rows", (), "float"), "half": ("rows", (), "float")}

    def rows(self, steps: Numpy, seeds: UInt64) -> dict[str, Numpy]:
        half = 0.5 / self.steps
        return {"alpha": (2 * steps + 1) * half, "half": half + 0.0 * steps}

    def endpoint(self, which: str) -> dict[str, float | int]:
        return {"alpha": 1.0 if which == "input" else 0.0, "half": 0.0}

    def expand(self, ops: Ops, x: list[Array], b: list[Array], args: Mapping[str, Array]) -> list[Array]:
        return between(ops, x, b, args["alpha"])

    def ends(
        self, ops: Ops, x: list[Array], b: list[Array], args: Mapping[str, Array]
    ) -> tuple[list[Array], list[Array]]:
        alpha, half = args["alpha"], args["half"]
        return between(ops, x, b, alpha + half), between(ops, x, b, alpha - half)

    def contribute(
        self, ops: Ops, message: list[Array], x: list[Array], b: list[Array], args: Mapping[str, Array]
    ) -> list[Array]:
        return [m * (after - before) for m, after, before in zip(message, x, b, strict=True)]


@dataclass(frozen=True)
class InternalInfluence(Quadrature, AlongInputs):
    """Σ_k w_k·∂s/∂y(b+α_k(x−b)): the mean derivative with respect to each unit y of a layer, from the baseline to x.

    Leino, Sen, Datta, Fredrikson and Li 2018, "Influence-Directed Explanations for Deep Convolutional Networks",
    eq. 1, with the distribution of interest on the line from b to x.

    Parameters
    ----------
    steps, quadrature: as for :class:`IntegratedGradients`.
    """

    steps: int = 50
    quadrature: str = "gauss_legendre"

    name: ClassVar[str] = "internal_influence"
    effort: ClassVar[tuple[str, ...]] = ("steps", "quadrature")

    def contribute(
        self, ops: Ops, message: list[Array], x: list[Array], b: list[Array], args: Mapping[str, Array]
    ) -> list[Array]:
        return [ops.scale_rows(m, args["weight"]) for m in message]


@dataclass(frozen=True)
class GradCam(Method):
    """max(0, Σ_c ᾱ_c·A_c), with ᾱ_c the mean of ∂s/∂A_c over the places: where a layer's channels speak for s.

    Selvaraju et al. 2017, "Grad-CAM: Visual Explanations from Deep Networks via Gradient-based Localization", eq. 1
    and 2. Give the layer as ``wrt=``: one value of a channel axis and one or more axes of places. The result has
    one number for each place, (N, \\*places).

    Parameters
    ----------
    relu: False also keeps negative values, evidence against the target.
    logits: explain the input of the model's last softmax or sigmoid, as the paper does.
    upsample: True interpolates the map linearly to the input's places; a shape, to that shape.
    channel_axis: of a sample of the layer. ``None``: 0 on torch, −1 on TensorFlow.
    """

    relu: bool = True
    logits: bool = False
    upsample: bool | tuple[int, ...] = False
    channel_axis: int | None = None

    name: ClassVar[str] = "grad_cam"
    takes_lengths: ClassVar[bool] = False

    @property
    def explains_logits(self) -> bool:
        return self.logits

    def fitted(self, model: ModelShapes) -> GradCam:
        axis = model.channel_axis if self.channel_axis is None else self.channel_axis
        shape, *more = model.attributed
        if more or len(shape) < 2 or not -len(shape) <= axis < len(shape):
            raise InputError(
                f"grad_cam takes one layer with an axis of channels and one of places; wrt= has {len(more) + 1} of "
                f"shapes {list(model.attributed)}. Give wrt= a convolution's output, and channel_axis= if it is not "
                f"{axis}"
            )
        size = self.upsample
        if size is True:
            size = _places_of_inputs(model, len(shape) - 1)
        if size is not False and len(size) != len(shape) - 1:
            raise InputError(f"upsample={size} has {len(size)} axes, the places of the layer {len(shape) - 1}")
        return replace(self, channel_axis=axis, upsample=size)

    def result_shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        axis = (self.channel_axis or 0) % len(shape)
        return self.upsample if isinstance(self.upsample, tuple) else (*shape[:axis], *shape[axis + 1 :])

    def contribute(
        self, ops: Ops, message: list[Array], x: list[Array], b: list[Array], args: Mapping[str, Array]
    ) -> list[Array]:
        rank = len(ops.sample_shape(x[0]))
        axis = (self.channel_axis or 0) % rank + 1
        places = tuple(a for a in range(1, rank + 1) if a != axis)
        size = 1
        for a in places:
            size *= ops.sample_shape(x[0])[a - 1]
        weights = ops.reduce_sum(message[0], places) / size
        found = ops.sum_axis(weights * x[0], axis)
        if self.relu:
            found = ops.maximum(found, ops.zeros_like(found))
        return [stretched(ops, found, self.upsample) if isinstance(self.upsample, tuple) else found]


@dataclass(frozen=True)
class GuidedGradCam(Method):
    """Guided backpropagation times the map of :class:`GradCam`, interpolated to the input (Selvaraju et al. 2017, 3.2).

    Parameters
    ----------
    layer: path of the layer whose map is taken.
    logits: as for :class:`GradCam`. channel_axis: of a sample of the layer and of the input; as there.
    """

    layer: str = ""
    logits: bool = False
    channel_axis: int | None = None

    name: ClassVar[str] = "guided_grad_cam"
    takes_lengths: ClassVar[bool] = False
    rules: ClassVar[RuleSet | None] = GUIDED_BACKPROP

    @property
    def explains_logits(self) -> bool:
        return self.logits

    @property
    def cam(self) -> Cam:
        return Cam(self.layer, GradCam(channel_axis=self.channel_axis), self.channel_axis or 0)

    def fitted(self, model: ModelShapes) -> GuidedGradCam:
        if not self.layer or model.of_layer:
            raise InputError(
                "guided_grad_cam explains the inputs by the map of a layer: GuidedGradCam(layer='path.of.the.layer')"
            )
        for shape in model.attributed:
            if len(shape) < 2:
                raise InputError(
                    f"guided_grad_cam takes inputs with an axis of channels and one of places; got samples of {shape}"
                )
        return replace(self, channel_axis=model.channel_axis if self.channel_axis is None else self.channel_axis)


def _places_of_inputs(model: ModelShapes, axes: int) -> tuple[int, ...]:
    """The shape of the places of the only input with this number of axes of places."""
    fitting = [shape for shape in model.inputs if len(shape) == axes + 1]
    if len(fitting) != 1:
        raise InputError(
            f"upsample=True needs one input of {axes + 1} axes, channels and places; the inputs have the shapes "
            f"{list(model.inputs)}. Give upsample= the shape of the map"
        )
    axis = model.channel_axis % (axes + 1)
    return (*fitting[0][:axis], *fitting[0][axis + 1 :])


def stretched(ops: Ops, array: Array, shape: tuple[int, ...]) -> Array:
    """(R, \\*places) interpolated linearly to ``shape``, with pixels as areas: corners are not aligned."""
    for axis, (size, wanted) in enumerate(zip(ops.sample_shape(array), shape, strict=True), 1):
        if size == wanted:
            continue
        old, new = (ops.cast_like(ops.arange(n, array), array) for n in (size, wanted))
        at = (new + 0.5) * (size / wanted) - 0.5
        at = ops.minimum(ops.at_least(at, 0.0), ops.zeros_like(at) + (size - 1))
        weights = ops.at_least(1 - ops.absolute(old[:, None] - at[None, :]), 0.0)
        moved = ops.move_axis(array, axis, len(shape))
        array = ops.move_axis(ops.matmul(moved, weights), len(shape), axis)
    return array

"""Methods as values.

>>> from explainers import methods
>>> methods.resolve("smoothgrad")
SmoothGrad(samples=50, noise=0.15, kind='mean')
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from .. import stored
from ..errors import UnknownNameError
from .base import Method
from .deeplift import DeepLift, DeepLiftShap
from .gradient import (
    Deconvnet,
    Gradient,
    GradientShap,
    GuidedBackprop,
    InputXGradient,
    IntegratedGradients,
    Saliency,
    SmoothGrad,
    Zero,
)
from .layer import GradCam, GuidedGradCam, InternalInfluence, LayerConductance
from .lrp import ELRP, LRP
from .occlusion import ISM, FeatureAblation, Occlusion
from .permutation import FeaturePermutation
from .perturbation import Perturbation
from .rise import Rise
from .shapley import ExactShapley, ShapleySampling
from .surrogate import KernelShap, Lime

METHODS: Mapping[str, Method] = MappingProxyType({kind.name: kind() for kind in stored.kinds(Method).values()})
DEEPEXPLAIN: Mapping[str, Method] = MappingProxyType(
    {"grad*input": InputXGradient(), "intgrad": IntegratedGradients(steps=100, quadrature="right")}
)


def resolve(method: str | Method | type[Method]) -> Method:
    """The method of this name; a method value is returned as it is."""
    if isinstance(method, Method):
        return method
    if isinstance(method, type) and issubclass(method, Method):
        return method()
    known = {**METHODS, **DEEPEXPLAIN}
    if not isinstance(method, str) or method not in known:
        raise UnknownNameError.among("method", method, known)
    return known[method]


__all__ = [
    "ELRP",
    "ISM",
    "LRP",
    "Deconvnet",
    "DeepLift",
    "DeepLiftShap",
    "ExactShapley",
    "FeatureAblation",
    "FeaturePermutation",
    "GradCam",
    "Gradient",
    "GradientShap",
    "GuidedBackprop",
    "GuidedGradCam",
    "InputXGradient",
    "IntegratedGradients",
    "InternalInfluence",
    "KernelShap",
    "LayerConductance",
    "Lime",
    "Method",
    "Occlusion",
    "Perturbation",
    "Rise",
    "Saliency",
    "ShapleySampling",
    "SmoothGrad",
    "Zero",
    "resolve",
]  # fmt: skip

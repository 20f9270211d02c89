"""Metrics of robustness: how much does an explanation change with a small change of the sample?"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from ..methods.base import one_of
from ..spec import Numpy
from .base import Metric, Work, positive, whole
from .noise import Neighbours, Outputs, Reexplained

LEAST = 1e-3  # of a relative change of a sample or an output, which are divided by


@dataclass(frozen=True)
class Near(Metric):
    """Base: neighbours within ``radius`` of each element, drawn uniformly, ``draws`` for each sample."""

    radius: float = 0.02
    draws: int = 10

    higher: ClassVar[bool] = False
    signed: ClassVar[bool] = False
    bounds: ClassVar[tuple[float, float]] = (0.0, math.inf)
    reexplains: ClassVar[bool] = True

    def __post_init__(self) -> None:
        positive("radius", self.radius)
        whole("draws", self.draws, 1)

    @property
    def moves(self) -> bool:
        return True

    def _changes(self, work: Work, method: str) -> tuple[Numpy, Numpy]:
        """φ of each sample, (n, 1, E), and its change at the neighbours, (n, D, E), of all inputs' elements."""
        near = work.get(Reexplained(float(self.radius), self.draws), method)
        own = _flat([part[:, None] for part in work.attributions[method]])
        return own, _flat(near) - own

    def _moved(self, work: Work) -> tuple[Numpy, Numpy]:
        """x, (n, 1, E), and x' − x, (n, D, E)."""
        own = _flat([part[:, None] for part in work.samples()])
        return own, _flat(work.get(Neighbours(float(self.radius), self.draws))) - own


@dataclass(frozen=True)
class Sensitivity(Near):
    """The largest change of the explanation at neighbours, ‖φ(x′) − φ(x)‖/‖φ(x)‖. Lower is better.

    Yeh et al. 2019, "On the (In)fidelity and Sensitivity of Explanations", definition 3.1, relative to ‖φ(x)‖.

    Parameters
    ----------
    radius, draws: of the neighbours: each element moves by at most ``radius``.
    reduce: ``"max"`` or ``"mean"`` over the neighbours.
    """

    reduce: str = "max"

    name: ClassVar[str] = "sensitivity"
    undefined: ClassVar[str] = "the attribution is 0 everywhere"

    def __post_init__(self) -> None:
        super().__post_init__()
        one_of("reduce", self.reduce, ("max", "mean"))

    def score(self, work: Work, method: str) -> Numpy:
        own, change = self._changes(work, method)
        size = np.linalg.norm(own, axis=2)
        ratio = np.linalg.norm(change, axis=2) / np.where(size > 0, size, np.nan)
        result: Numpy = ratio.max(axis=1) if self.reduce == "max" else ratio.mean(axis=1)
        return result


@dataclass(frozen=True)
class LocalLipschitz(Near):
    """The largest ‖φ(x′) − φ(x)‖/‖x′ − x‖ at neighbours. Lower is better.

    Alvarez-Melis and Jaakkola 2018, "On the Robustness of Interpretability Methods", eq. 2, over random neighbours.

    Parameters
    ----------
    radius, draws: of the neighbours: each element moves by at most ``radius``.
    """

    name: ClassVar[str] = "local_lipschitz"

    def score(self, work: Work, method: str) -> Numpy:
        ratio = np.linalg.norm(self._changes(work, method)[1], axis=2) / np.linalg.norm(self._moved(work)[1], axis=2)
        result: Numpy = ratio.max(axis=1)
        return result


@dataclass(frozen=True)
class RelativeInputStability(Near):
    """The largest relative change of the explanation over that of the input, at neighbours of the same prediction.

    max ‖(φ(x′) − φ(x))/φ(x)‖ / max(‖(x′ − x)/x‖, 1e-3), Agarwal et al. 2022, "Rethinking Stability for
    Attribution-based Explanations", eq. 2. Elements that are 0 at the sample are left out of a quotient. Lower is
    better.

    Parameters
    ----------
    radius, draws: of the neighbours: each element moves by at most ``radius``.
    """

    name: ClassVar[str] = "relative_input_stability"
    undefined: ClassVar[str] = "the attribution is 0 everywhere, or all neighbours are predicted otherwise"

    def score(self, work: Work, method: str) -> Numpy:
        change = _relative(*self._moved(work))
        return _stability(self, work, method, np.maximum(change, LEAST))


@dataclass(frozen=True)
class RelativeOutputStability(Near):
    """The largest relative change of the explanation over the change of the outputs, at the same neighbours.

    max ‖(φ(x′) − φ(x))/φ(x)‖ / max(‖f(x′) − f(x)‖, 1e-3), eq. 5 of the paper of :class:`RelativeInputStability`. Lower
    is better.

    Parameters
    ----------
    radius, draws: of the neighbours: each element moves by at most ``radius``.
    """

    name: ClassVar[str] = "relative_output_stability"
    undefined: ClassVar[str] = RelativeInputStability.undefined

    def score(self, work: Work, method: str) -> Numpy:
        own, near = work.get(Outputs(float(self.radius), self.draws))
        change = np.linalg.norm((near - own[:, None]).reshape(*near.shape[:2], -1), axis=2)
        return _stability(self, work, method, np.maximum(change, LEAST))


def _stability(metric: Near, work: Work, method: str, change: Numpy) -> Numpy:
    own, near = work.get(Outputs(float(metric.radius), metric.draws))
    phi, moved = metric._changes(work, method)
    ratio = _relative(phi, moved) / change
    if own.ndim > 1:
        classes = [array.reshape(*array.shape[:k], -1).argmax(axis=-1) for k, array in ((1, own), (2, near))]
        ratio = np.where(classes[1] == classes[0][:, None], ratio, -np.inf)
    ratio = np.where(np.any(phi != 0, axis=2), ratio, -np.inf)
    largest = ratio.max(axis=1)
    result: Numpy = np.where(np.isneginf(largest), np.nan, largest)
    return result


def _relative(own: Numpy, change: Numpy) -> Numpy:
    """‖change/own‖, (n, D), over the elements where ``own`` is not 0."""
    known = own != 0
    quotient = np.where(known, change, 0.0) / np.where(known, own, 1.0)
    result: Numpy = np.linalg.norm(quotient, axis=2)
    return result


def _flat(parts: list[Numpy]) -> Numpy:
    """Arrays (n, D, …) as one, (n, D, E)."""
    return np.concatenate([np.asarray(part, np.float64).reshape(*part.shape[:2], -1) for part in parts], axis=2)

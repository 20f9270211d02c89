"""Noisy linear imputation of removed pixels, for :class:`.ROAD`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from ..spec import Numpy
from .base import Demand, Work
from .images import channel_axis_of
from .removal import Ranks

NOISE = 0x404  # the stream of random numbers
STRAIGHT, DIAGONAL = 1 / 6, 1 / 12  # weights of a pixel's neighbours
TOLERANCE = 1e-5  # of the residual, relative to the right side
LEFT = 0.75  # of the images: when no more are unsolved, the others are put aside
MOST = 1000  # steps of conjugate gradients


@dataclass(frozen=True)
class Imputed(Demand):
    """s with shares of the most important pixels imputed, (n, K)."""

    shares: tuple[float, ...]
    noise: float
    channel_axis: int | None

    of_attribution: ClassVar[bool] = True

    def run(self, work: Work, method: str) -> Numpy:
        ranks: Numpy = work.get(Ranks(), method)
        count = ranks.shape[1]
        numbers = np.array([min(max(round(share * count), 1), count - 1) for share in self.shares])
        sample, stage = (part.ravel() for part in np.indices((len(work), len(numbers))))
        states = work.states
        dtype = states.packages.traced.signature.inputs[states.places[0]].dtype
        (shape,) = states.shapes
        axis = channel_axis_of("ROAD", shape, self.channel_axis, states.backend.channel_axis)

        def points(row: Numpy, x: list[Any], b: list[Any]) -> list[Any]:
            removed = ranks[sample[row]] < numbers[stage[row]][:, None]
            (flags,) = work.features.elements(removed, sample[row])
            keys = work.keys(stage[row], sample[row], NOISE)
            noise = np.stack([np.random.Generator(np.random.Philox(int(key))).standard_normal(shape) for key in keys])
            images = states.backend.numpy(x[0]).astype(np.float64)
            pixels = np.asarray(np.moveaxis(flags, axis + 1, 1).any(axis=1))
            filled = imputed(np.moveaxis(images, axis + 1, 1), pixels)
            filled = np.moveaxis(filled, 1, axis + 1) + self.noise * noise * flags
            return [states.packages.to_device(filled, dtype)]

        found: Numpy = work.values(sample, points).reshape(len(work), -1)
        return found


def imputed(images: Numpy, removed: Numpy) -> Numpy:
    """Images (R, C, H, W) whose removed pixels (R, H, W) are each the weighted mean of their eight neighbours.

    The mean is over the neighbours inside the image, of which removed ones count with what is imputed there: the
    solution of a sparse linear system, by conjugate gradients.
    """
    free = removed[:, None].astype(images.dtype)
    known = images * (1 - free)
    total = _around(np.ones((1, 1, *images.shape[2:]), images.dtype))
    right = free * _around(known)
    x = free * _blurred(known, 1 - free)
    residual = right - free * (total * x - _around(x))
    step = residual / total
    energy = _dot(residual, step)
    least = TOLERANCE**2 * np.maximum(_dot(right, right), np.finfo(images.dtype).tiny)
    index = np.arange(len(images))
    result: Numpy = known.copy()
    for _ in range(MOST):
        unsolved = _dot(residual, residual) > least  # an image that is done stays as it is, whatever the others need
        left = unsolved.any(axis=(1, 2, 3))
        if left.sum() <= LEFT * len(left):
            result[index[~left]] += x[~left]
            index, parts = index[left], (x, residual, step, free, energy, least, unsolved)
            x, residual, step, free, energy, least, unsolved = (part[left] for part in parts)
            if not len(index):
                break
        image = free * (total * step - _around(step))
        size = np.where(unsolved, energy / np.maximum(_dot(step, image), np.finfo(images.dtype).tiny), 0.0)
        x += size * step
        residual -= size * image
        before, scaled = energy, residual / total
        energy = _dot(residual, scaled)
        step = scaled + energy / np.maximum(before, np.finfo(images.dtype).tiny) * step
    result[index] += x
    return result


def _around(images: Numpy) -> Numpy:
    """The weighted sum of each pixel's eight neighbours, 0 outside of the image."""
    rows = np.zeros_like(images)
    rows[:, :, 1:] += images[:, :, :-1]
    rows[:, :, :-1] += images[:, :, 1:]
    beside = np.zeros_like(images)
    beside[..., 1:] += images[..., :-1]
    beside[..., :-1] += images[..., 1:]
    result = STRAIGHT * (rows + beside)
    result[..., 1:] += DIAGONAL * rows[..., :-1]
    result[..., :-1] += DIAGONAL * rows[..., 1:]
    return result


def _blurred(known: Numpy, weight: Numpy) -> Numpy:
    """A first guess: means of what is known, over larger and larger neighbourhoods where nothing is known."""
    guess, found = np.zeros_like(known), np.zeros_like(weight)
    values, weights, width = known, np.broadcast_to(weight, weight.shape), 1
    while not found.all() and width <= max(known.shape[2:]):
        values, weights = (_box(array, width) for array in (values, weights))
        new = (weights > 0) & (found == 0)
        guess = np.where(new, values / np.where(weights > 0, weights, 1.0), guess)
        found = np.where(new, 1.0, found)
        width *= 2
    return guess


def _box(array: Numpy, width: int) -> Numpy:
    """Sums over squares of side 2·width + 1."""
    for axis in (2, 3):
        padded = [(0, 0)] * 4
        padded[axis] = (width + 1, width)
        total = np.cumsum(np.pad(array, padded), axis=axis)
        size = array.shape[axis]
        upper = np.take(total, np.arange(2 * width + 1, 2 * width + 1 + size), axis=axis)
        array = upper - np.take(total, np.arange(size), axis=axis)
    return array


def _dot(a: Numpy, b: Numpy) -> Numpy:
    """(R, C, 1, 1)"""
    found: Numpy = np.einsum("rchw,rchw->rc", a, b)[:, :, None, None]
    return found

"""What metrics ask of images: where their channels are, and how much two of them look alike."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ..errors import InputError
from ..spec import Numpy

WINDOW = 7  # pixels of the sides of windows that are compared


def check_axis(given: int | None) -> None:
    if given not in (None, 0, 2, -1):
        raise InputError(f"channel_axis must be 0 or 2, or None; got {given!r}")


def image_shape(what: str, shapes: Sequence[tuple[int, ...]]) -> tuple[int, ...]:
    """The shape of the samples of the only attributed input."""
    if len(shapes) != 1:
        raise InputError(f"{what} takes one attributed input, images; there are {len(shapes)}")
    return shapes[0]


def channel_axis_of(what: str, shape: tuple[int, ...], given: int | None, usual: int) -> int:
    """The axis of the channels of images of this shape. Raises InputError for samples that are no images."""
    if len(shape) != 3:
        raise InputError(f"{what} takes images, of shape (C, H, W) or (H, W, C); a sample has {shape}")
    axis = usual if given is None else given
    return axis % 3


def ssim(a: Numpy, b: Numpy, span: float) -> Numpy:
    """The mean structural similarity of pairs of images (n, H, W), (n,); ``span``: between their possible values.

    Wang et al. 2004, "Image Quality Assessment: From Error Visibility to Structural Similarity", eq. 13, with
    K₁ = 0.01, K₂ = 0.03, and the mean, variance and covariance of each window of 7 × 7 pixels inside the image. It is
    made for images ≥ 0: an image and its negative may be alike, since the signs of means and covariance cancel out.
    """
    first, second = (0.01 * span) ** 2, (0.03 * span) ** 2
    mean_a, mean_b = _windows(a), _windows(b)
    unbiased = WINDOW**2 / (WINDOW**2 - 1)
    variances = unbiased * (_windows(a * a) - mean_a**2 + _windows(b * b) - mean_b**2)
    covariance = unbiased * (_windows(a * b) - mean_a * mean_b)
    alike = (2 * mean_a * mean_b + first) * (2 * covariance + second)
    found: Numpy = (alike / ((mean_a**2 + mean_b**2 + first) * (variances + second))).mean(axis=(1, 2))
    return found


def _windows(images: Numpy) -> Numpy:
    """The means of all windows of images, (n, H − 6, W − 6)."""
    for axis in (1, 2):
        images = np.lib.stride_tricks.sliding_window_view(images, WINDOW, axis).mean(axis=-1)
    return images

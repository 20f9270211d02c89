"""Images: attributions summed over channels, drawn over the image in grey."""

from __future__ import annotations

from typing import Any

import numpy as np

from ..errors import InputError
from ..spec import Numpy
from . import canvas
from .view import Panel, View, centred

USUAL = (1, 3, 4)
SIDE = 1.7  # inches of the longer side


def axis_of_channels(shape: tuple[int, ...], view: View) -> int | None:
    """The axis of channels: 0, 2, or None for a sample (height, width)."""
    if len(shape) == 2:
        return None
    if len(shape) != 3:
        raise InputError(f"an image has the shape (height, width) or these and channels; a sample has {shape}")
    if view.channels is not None:
        return 0 if view.channels == "first" else 2
    may_be_first, may_be_last = shape[0] in USUAL, shape[2] in USUAL
    if may_be_first != may_be_last:
        return 0 if may_be_first else 2
    if may_be_first:
        raise InputError(
            f"a sample of shape {shape} may have its channels first or last: say channels='first' or 'last'"
        )
    raise InputError(
        f"a sample of shape {shape} has 1, 3 or 4 channels neither first nor last. Say channels='first' or 'last' to "
        "sum over that axis whatever its length, or kind='curves' or 'bars'"
    )


def drawn_scores(panel: Panel, view: View) -> Numpy:
    """The drawn scores, (height, width)."""
    axis = axis_of_channels(panel.scores.shape, view)
    scores = centred(panel)
    return scores if axis is None else scores.sum(axis=axis)


def size(panel: Panel, view: View) -> tuple[float, float]:
    height, width = drawn_scores(panel, view).shape
    longer = max(height, width)
    return max(0.25, SIDE * width / longer), max(0.25, SIDE * height / longer)


def draw(axes: Any, panel: Panel, view: View, scale: float) -> None:
    """Draw the scores in colour over the image in light grey; smaller scores are fainter."""
    scores = drawn_scores(panel, view)
    if panel.values is not None:
        axes.imshow(_grey(panel.values, view), cmap="gray", vmin=-6.0, vmax=1.0, aspect="auto")
    overlay = canvas.colours(scores, scale)
    strength = np.abs(np.where(np.isfinite(scores), scores, 0.0)) / scale
    overlay[..., 3] = np.clip(1.6 * np.sqrt(strength), 0, 0.92) if panel.values is not None else 1.0
    axes.imshow(overlay, aspect="auto", interpolation="nearest")
    draw_hatching(axes, ~np.isfinite(scores))
    canvas.style_axes(axes)


def draw_hatching(axes: Any, mask: Numpy) -> None:
    """Draw the cells of ``mask`` hatched in grey."""
    from matplotlib.collections import PatchCollection
    from matplotlib.patches import Rectangle

    cells = [Rectangle((x - 0.5, y - 0.5), 1, 1) for y, x in np.argwhere(mask)]
    if cells:
        axes.add_collection(PatchCollection(cells, **canvas.HATCH))


def draw_image(axes: Any, panel: Panel, view: View) -> None:
    """Draw the image itself, in colour if it has three or four channels."""
    assert panel.values is not None
    axis = axis_of_channels(panel.values.shape, view)
    values = _unit(panel.values)
    if axis is not None and values.shape[axis] in (3, 4):
        axes.imshow(np.moveaxis(values, axis, -1)[..., :3], aspect="auto", interpolation="nearest")
    else:
        axes.imshow(values if axis is None else values.mean(axis=axis), cmap="gray", vmin=0, vmax=1, aspect="auto")
    canvas.style_axes(axes)


def _grey(values: Numpy, view: View) -> Numpy:
    axis = axis_of_channels(values.shape, view)
    return _unit(values if axis is None else values.mean(axis=axis))


def _unit(values: Numpy) -> Numpy:
    """The values scaled to [0, 1]; non-finite values become 0."""
    finite_values = np.where(np.isfinite(values), values, np.nan)
    low, high = (np.nanmin(finite_values), np.nanmax(finite_values)) if np.isfinite(finite_values).any() else (0.0, 0.0)
    if low >= 0 and high <= 1 and high > 0.5:
        low, high = 0.0, 1.0  # pixels that are already in [0, 1]
    return np.nan_to_num((finite_values - low) / ((high - low) or 1.0), nan=0.0)

"""Signals over time: a curve for each channel, on a background coloured by its attribution."""

from __future__ import annotations

from typing import Any

import numpy as np

from ..errors import InputError
from ..spec import Numpy
from . import canvas
from .view import Panel, View, centred

CHANNELS = 8
BAND = 0.8  # inches


def oriented(array: Numpy, view: View) -> Numpy:
    """The array as (channels, time); the longer axis is taken as time unless ``view.channels`` is set."""
    if array.ndim == 1:
        return array[None]
    if array.ndim != 2:
        raise InputError(
            f"curves need samples of shape (time,), (time, channels) or (channels, time); got {array.shape}"
        )
    last = array.shape[0] >= array.shape[1] if view.channels is None else view.channels == "last"
    return array.T if last else array


def _drawn_channels(panel: Panel, view: View) -> Numpy:
    """The drawn channels: those with the largest Σ|attribution|, in their original order."""
    scores = oriented(panel.scores, view)
    if len(scores) <= CHANNELS:
        return np.arange(len(scores))
    weight = np.abs(np.nan_to_num(scores, nan=0.0, posinf=0.0, neginf=0.0)).sum(axis=1)
    return np.sort(np.argsort(-weight, kind="stable")[:CHANNELS])


def drawn_scores(panel: Panel, view: View) -> Numpy:
    return oriented(centred(panel), view)[_drawn_channels(panel, view)]


def size(panel: Panel, view: View) -> tuple[float, float]:
    channels, time = drawn_scores(panel, view).shape
    return float(np.clip(time / 40, 3.2, 9.0)), BAND * (1.25 if channels == 1 else channels)


def draw(axes: Any, panel: Panel, view: View, scale: float) -> None:
    """Draw each channel in its own band, its signal scaled from its smallest value to its largest."""
    from matplotlib.patches import Rectangle

    scores, channel_indices = drawn_scores(panel, view), _drawn_channels(panel, view)
    signals = scores if panel.values is None else oriented(panel.values, view)[channel_indices]
    channels, time = scores.shape
    for band in range(channels):
        top = float(band)
        ink = canvas.colours(scores[band : band + 1], scale)
        axes.imshow(ink, extent=(-0.5, time - 0.5, top + 1, top), aspect="auto", interpolation="nearest")
        for place in np.flatnonzero(~np.isfinite(scores[band])):
            axes.add_patch(Rectangle((place - 0.5, top), 1, 1, **canvas.HATCH))
        axes.plot(np.arange(time), top + 0.9 - 0.8 * _unit(signals[band]), color=canvas.INK, linewidth=1,
                  marker="." if time == 1 else None)  # fmt: skip
        if band:
            axes.axhline(top, color="#bbbbbb", linewidth=0.6)
    axes.set_xlim(-0.5, time - 0.5)
    if time <= 10:
        axes.set_xticks(range(time))
    axes.set_ylim(channels, 0)
    names = _names(oriented(panel.scores, view).shape[0], view)
    axes.set_yticks(np.arange(channels) + 0.5, labels=[canvas.short_label(names[k], 14) for k in channel_indices])
    axes.set_xlabel("step" if panel.values is not None else "step (the curve is the attribution)", fontsize=8)
    if len(names) > channels:
        axes.set_ylabel(f"{channels} of {len(names)} channels", fontsize=8)
    canvas.style_axes(axes, ticks=True)
    if len(names) == 1 and view.names is None:
        axes.set_yticks([])
        axes.set_ylabel("signal" if panel.values is not None else "attribution", fontsize=8)


def _names(count: int, view: View) -> list[str]:
    if view.names is None:
        return [f"channel {i}" for i in range(count)]
    if len(view.names) != count:
        raise InputError(f"names has {len(view.names)} names; the signal has {count} channels")
    return [str(name) for name in view.names]


def _unit(signal: Numpy) -> Numpy:
    finite = signal[np.isfinite(signal)]
    low, high = (finite.min(), finite.max()) if len(finite) else (0.0, 0.0)
    if high == low:
        return np.where(np.isfinite(signal), 0.5, np.nan)
    return np.where(np.isfinite(signal), (signal - low) / (high - low), np.nan)

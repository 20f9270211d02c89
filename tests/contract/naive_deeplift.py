"""DeepLIFT again, one sample and one reference at a time, from Shrikumar et al. 2017, in numpy.

A net is a list of layers (see naive_lrp), names of activations, and ``("pool", channels)``.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from .naive_lrp import Array, Layer, _windows

ACTIVATIONS = {
    "relu": lambda x: np.maximum(x, 0),
    "elu": lambda x: np.where(x > 0, x, np.expm1(np.minimum(x, 0))),
    "tanh": np.tanh,
    "sigmoid": lambda x: 1 / (1 + np.exp(-x)),
}


def ratio(a: Array, b: Array, slope: Any = 0.0) -> Array:
    """a/b, ``slope`` where b is 0."""
    return np.divide(a, b, out=np.zeros_like(a) + slope, where=abs(b) > 1e-12)


def derivative(step: str, x: Array) -> Array:
    f = ACTIVATIONS[step]
    return (f(x + 1e-6) - f(x - 1e-6)) / 2e-6


def values(net: list[Any], x: Array) -> list[Array]:
    """What comes out of each step, the input first."""
    found = [x]
    for step in net:
        if isinstance(step, Layer):
            x = step.forward(x)
        else:
            x = ACTIVATIONS[step](x) if isinstance(step, str) else _windows(x, step[1]).max(-1).ravel()
        found.append(x)
    return found


def rescale(net: list[Any], x: Array, r: Array, target: int) -> Array:
    """Sections 3.5.1 and 3.5.2: m = W·m behind layers, m·Δy/Δx at activations."""
    at_x, at_r = values(net, x), values(net, r)
    m = np.eye(len(at_x[-1]))[target]
    for place in reversed(range(len(net))):
        step, change = net[place], at_x[place] - at_r[place]
        if isinstance(step, Layer):
            m = step.weights @ m
        elif isinstance(step, str):
            m = m * ratio(at_x[place + 1] - at_r[place + 1], change)
        else:
            m = pool(at_x[place], at_r[place], step[1], m)
    return m * (x - r)


def pool(x: Array, r: Array, channels: int, m: Array) -> Array:
    """With M = max(y, y_r): m·(M − y_r) to the largest of x, m·(y − M) to the largest of the reference."""
    given = np.zeros(len(x))
    for window, message in zip(_windows(np.arange(len(x)), channels).reshape(-1, 4), m, strict=True):
        y, y_r = x[window].max(), r[window].max()
        given[window[x[window].argmax()]] += message * (max(y, y_r) - y_r)
        given[window[r[window].argmax()]] += message * (y - max(y, y_r))
    return ratio(given, x - r)


def revealcancel(net: list[Any], x: Array, r: Array, target: int, only_dense: bool = False) -> Array:
    """Sections 3.5.1 and 3.5.3. ``only_dense``: Rescale behind convolutions."""
    at_x, at_r = values(net, x), values(net, r)
    up, down = np.maximum(x - r, 0), np.minimum(x - r, 0)
    slopes: list[Any] = []
    for place, step in enumerate(net):
        if isinstance(step, Layer):
            change = (at_x[place] - at_r[place])[:, None] * step.weights
            up, down = np.where(change > 0, change, 0).sum(0), np.where(change < 0, change, 0).sum(0)
            slopes.append(None)
            continue
        f, base = ACTIVATIONS[step], at_r[place]
        if only_dense and net[place - 1].kind == "conv":
            slope = ratio(at_x[place + 1] - at_r[place + 1], at_x[place] - base)
            made = up * slope, down * slope
        else:
            made = (
                (f(base + up) - f(base) + f(base + down + up) - f(base + down)) / 2,
                (f(base + down) - f(base) + f(base + up + down) - f(base + up)) / 2,
            )
        slope = derivative(step, (at_x[place] + base) / 2)  # where there is no rise, or no fall
        slopes.append((ratio(made[0], up, slope), ratio(made[1], down, slope)))
        up, down = made
    rising = falling = np.eye(len(at_x[-1]))[target]
    for place in reversed(range(len(net))):
        if isinstance(net[place], Layer):
            w = net[place].weights
            sign = np.sign(at_x[place] - at_r[place])[:, None] * np.sign(w)
            both = (w * np.where(sign > 0, rising, np.where(sign < 0, falling, (rising + falling) / 2))).sum(1)
            rising = falling = both
        else:
            rising, falling = rising * slopes[place][0], falling * slopes[place][1]
    change = x - r
    return np.where(change > 0, rising, falling) * change


def genomics(net: list[Any], x: Array, r: Array, target: int) -> Array:
    return revealcancel(net, x, r, target, only_dense=True)

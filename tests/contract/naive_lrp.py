"""Relevance propagation again, sample by sample, on matrices of contributions, in numpy.

A layer is a matrix W (inputs, outputs) with biases b (outputs,) and the connections M that it has, zero
weights included: a convolution is written out as such a matrix.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

Array = np.ndarray
EPSILON = 1e-6


def stabilized(z: Array, epsilon: float = EPSILON, size: Array | None = None) -> Array:
    largest = abs(z if size is None else size).max()
    return np.where(z >= 0, z + epsilon * largest, z - epsilon * largest)


@dataclass
class Layer:
    weights: Array
    bias: Array
    connected: Array
    kind: str = "dense"

    def forward(self, x: Array) -> Array:
        return x @ self.weights + self.bias


def dense(weights: Array, bias: Array) -> Layer:
    return Layer(weights, bias, np.ones_like(weights))


def convolution(kernel: Array, bias: Array, size: int, padding: int) -> Layer:
    """A kernel (out, in, k, k) over images (in, size, size), stride 1, both flattened."""
    outs, ins, k, _ = kernel.shape
    wide = size + 2 * padding - k + 1
    weights = np.zeros((ins, size, size, outs, wide, wide))
    connected = np.zeros_like(weights)
    for i in range(wide):
        for j in range(wide):
            for p in range(k):
                for q in range(k):
                    row, column = i + p - padding, j + q - padding
                    if 0 <= row < size and 0 <= column < size:
                        weights[:, row, column, :, i, j] = kernel[:, :, p, q].T
                        connected[:, row, column, :, i, j] = 1
    shape = (ins * size * size, outs * wide * wide)
    return Layer(weights.reshape(shape), np.repeat(bias, wide * wide), connected.reshape(shape), "conv")


# --- one rule, one function ------------------------------------------------------------------


def epsilon(layer: Layer, x: Array, relevance: Array, value: float = EPSILON) -> Array:
    c = x[:, None] * layer.weights
    return (c / stabilized(c.sum(0) + layer.bias, value)) @ relevance


def alpha_beta(layer: Layer, x: Array, relevance: Array, alpha: float = 2, beta: float = 1) -> Array:
    c = x[:, None] * layer.weights
    up, down = np.clip(c, 0, None), np.clip(c, None, 0)
    rising = up / stabilized(up.sum(0) + np.clip(layer.bias, 0, None))
    falling = down / stabilized(down.sum(0) + np.clip(layer.bias, None, 0))
    return (alpha * rising - beta * falling) @ relevance


def z_plus(layer: Layer, x: Array, relevance: Array) -> Array:
    return alpha_beta(layer, x, relevance, 1, 0)


def gamma(layer: Layer, x: Array, relevance: Array, value: float = 0.25) -> Array:
    c, b = x[:, None] * layer.weights, layer.bias
    z = c.sum(0) + b
    c = np.where(z >= 0, c + value * np.clip(c, 0, None), c + value * np.clip(c, None, 0))
    b = np.where(z >= 0, b + value * np.clip(b, 0, None), b + value * np.clip(b, None, 0))
    return (c / stabilized(c.sum(0) + b)) @ relevance


def flat(layer: Layer, x: Array, relevance: Array) -> Array:
    return (layer.connected / layer.connected.sum(0)) @ relevance


def w_square(layer: Layer, x: Array, relevance: Array) -> Array:
    squares = layer.weights**2
    return (squares / squares.sum(0)) @ relevance


def z_box(layer: Layer, x: Array, relevance: Array, low: Array, high: Array) -> Array:
    w = layer.weights
    up, down = np.clip(w, 0, None), np.clip(w, None, 0)
    c = x[:, None] * w - low[:, None] * up - high[:, None] * down
    return (c / stabilized(c.sum(0))) @ relevance


# --- whole networks --------------------------------------------------------------------------

Rule = Callable[[Layer, Array, Array], Array]


def chain(steps: list[Any], x: Array, target: int, rules: list[Rule]) -> tuple[Array, float]:
    """Relevance of ``x`` through layers, ``"relu"`` and ``("pool", channels)``; the layers' rules in order."""
    trail: list[tuple[Any, Array]] = []
    for step in steps:
        trail.append((step, x))
        x = _forward(step, x)
    relevance = np.where(np.arange(len(x)) == target, x, 0)
    score, left = float(x[target]), list(rules)
    for step, value in reversed(trail):
        if isinstance(step, Layer):
            relevance = left.pop()(step, value, relevance)
        elif step != "relu":
            relevance = pool_back(value, step[1], relevance)
    assert not left
    return relevance, score


def _forward(step: Any, x: Array) -> Array:
    if isinstance(step, Layer):
        return step.forward(x)
    return np.maximum(x, 0) if step == "relu" else _windows(x, step[1]).max(-1).ravel()


def _windows(x: Array, channels: int) -> Array:
    """(channels, rows, columns, 4): the 2×2 windows of square images."""
    size = int((len(x) // channels) ** 0.5)
    cut = x.reshape(channels, size // 2, 2, size // 2, 2)
    return cut.transpose(0, 1, 3, 2, 4).reshape(channels, size // 2, size // 2, 4)


def pool_back(x: Array, channels: int, relevance: Array) -> Array:
    places = _windows(np.arange(len(x)), channels).reshape(-1, 4)
    result = np.zeros(len(x))
    for window, r in zip(places, relevance, strict=True):
        result[window[x[window].argmax()]] += r
    return result


# --- an attention block ----------------------------------------------------------------------


def linear(x: Array, w: Array, relevance: Array) -> Array:
    """ε for x @ w, all tokens of a sample together."""
    z = x @ w
    return x * ((relevance / stabilized(z)) @ w.T)


def add(a: Array, b: Array, relevance: Array) -> tuple[Array, Array]:
    share = relevance / stabilized(a + b)
    return a * share, b * share


def matmul(a: Array, b: Array, relevance: Array) -> tuple[Array, Array]:
    share = relevance / stabilized(a @ b) / 2
    return a * (share @ b.T), b * (a.T @ share)


def softmax(x: Array) -> Array:
    e = np.exp(x - x.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


def norm_back(x: Array, relevance: Array) -> Array:
    """LayerNorm without weights: the division by the deviation passes all, x − mean by ε."""
    mean = x.mean(-1, keepdims=True)
    share = relevance / stabilized(x - mean)
    to_mean = (-mean * share).sum(-1, keepdims=True)
    return x * share + x / x.shape[-1] * (to_mean / stabilized(mean))


def block(x: Array, w: dict[str, Array], target: int) -> tuple[Array, float]:
    """LayerNorm, attention, residual, gated MLP, residual, mean over tokens, head; one sample (T, D)."""
    scale = np.sqrt(((x - x.mean(-1, keepdims=True)) ** 2).mean(-1, keepdims=True) + 1e-5)
    h = (x - x.mean(-1, keepdims=True)) / scale
    q, k, v = h @ w["q"], h @ w["k"], h @ w["v"]
    scores = q @ k.T
    a = softmax(scores * 0.5)
    mixed = a @ v
    y = x + mixed
    pre, up = y @ w["gate"], y @ w["up"]
    gated = pre / (1 + np.exp(-pre)) * up
    out = y + gated @ w["down"]
    logits = out.mean(0) @ w["head"]

    r = np.where(np.arange(len(logits)) == target, logits, 0)
    r = linear(out.mean(0), w["head"], r)
    r = out / len(out) * (r / stabilized(out.mean(0)))
    r_y, r_down = add(y, gated @ w["down"], r)
    half = linear(gated, w["down"], r_down) / 2
    r_y = r_y + linear(y, w["gate"], half) + linear(y, w["up"], half)
    r_x, r_mixed = add(x, mixed, r_y)
    r_a, r_v = matmul(a, v, r_mixed)
    r_scores = scores * 0.5 * (r_a - a * r_a.sum(-1, keepdims=True))
    r_q, r_k = matmul(q, k.T, r_scores)
    r_h = linear(h, w["q"], r_q) + linear(h, w["k"], r_k.T) + linear(h, w["v"], r_v)
    return r_x + norm_back(x, r_h), float(logits[target])

"""Networks of one layer, ReLU and a dense layer; the first is also a matrix, found by probing."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import numpy as np

from .naive_lrp import Layer, dense

SAMPLES, CLASSES = 3, 3
Array = np.ndarray


def probed(run: Callable[[Array], Array], run_connected: Callable[[Array], Array], shape: tuple[int, ...]) -> Layer:
    """The map ``run`` as a matrix between flat arrays: what it makes of each unit vector."""
    units = np.eye(int(np.prod(shape))).reshape(-1, *shape)
    bias = run(np.zeros((1, *shape))).reshape(-1)
    weights = run(units).reshape(len(units), -1) - bias
    return Layer(weights, bias, (run_connected(units).reshape(len(units), -1) > 0).astype(float))


# --- torch -----------------------------------------------------------------------------------

TORCH: dict[str, tuple[tuple[int, ...], str, tuple[Any, ...], dict[str, Any]]] = {
    "dense": ((6,), "Linear", (6, 8), {}),
    "conv": ((2, 5, 5), "Conv2d", (2, 4, 3), {}),
    "padded": ((2, 5, 4), "Conv2d", (2, 4, 3), {"padding": (1, 2)}),
    "strided": ((2, 6, 7), "Conv2d", (2, 4, 3), {"stride": 2, "padding": 1}),
    "grouped": ((4, 5, 5), "Conv2d", (4, 6, 3), {"groups": 2, "padding": 1}),
    "depthwise": ((3, 4, 4), "Conv2d", (3, 6, 2), {"groups": 3}),
    "dilated": ((2, 6, 6), "Conv2d", (2, 3, 2), {"dilation": 2, "bias": False}),
    "line": ((3, 7), "Conv1d", (3, 4, 3), {"padding": "same"}),
    "volume": ((2, 3, 3, 4), "Conv3d", (2, 3, 2), {"padding": 1}),
    "transposed": ((3, 3, 3), "ConvTranspose2d", (3, 4, 3), {"stride": 2, "padding": 1, "groups": 1}),
}


def in_torch(name: str) -> tuple[Any, list[Any], tuple[int, ...]]:
    """The model, its layers as matrices, and the shape of a sample."""
    import torch

    shape, kind, args, options = TORCH[name]
    torch.manual_seed(len(name))
    layer = getattr(torch.nn, kind)(*args, **options).double()
    if layer.bias is not None:
        layer.bias.data.uniform_(-0.5, 0.5)
    ones = copy.deepcopy(layer)
    for part in ones.parameters():
        part.data[:] = float(part.ndim > 1)

    def runner(module: Any) -> Callable[[Array], Array]:
        def run(x: Array) -> Array:
            with torch.no_grad():
                made: Array = module(torch.as_tensor(x)).numpy()
            return made

        return run

    first = probed(runner(layer), runner(ones), shape)
    head = torch.nn.Linear(first.weights.shape[1], CLASSES).double()
    model = torch.nn.Sequential(layer, torch.nn.ReLU(), torch.nn.Flatten(), head)
    last = dense(head.weight.detach().numpy().T, head.bias.detach().numpy())
    return model, [first, "relu", last], shape


# --- Keras -----------------------------------------------------------------------------------

KERAS: dict[str, tuple[tuple[int, ...], str, tuple[Any, ...], dict[str, Any]]] = {
    "dense": ((6,), "Dense", (8,), {}),
    "tokens": ((3, 4), "Dense", (5,), {}),
    "same": ((5, 5, 2), "Conv2D", (4, 3), {"padding": "same"}),
    "strided": ((6, 7, 2), "Conv2D", (4, 3), {"padding": "same", "strides": 2}),
    "dilated": ((6, 6, 2), "Conv2D", (3, 2), {"dilation_rate": 2, "use_bias": False}),
    "depthwise": ((4, 4, 3), "DepthwiseConv2D", (3,), {"padding": "same", "depth_multiplier": 2}),
    "line": ((7, 3), "Conv1D", (4, 3), {"padding": "same"}),
    "transposed": ((3, 3, 3), "Conv2DTranspose", (4, 3), {"padding": "same", "strides": 2}),
    "einsum": ((3, 4), "EinsumDense", ("abc,cd->abd",), {"output_shape": (3, 5), "bias_axes": "d"}),
}


def in_keras(name: str) -> tuple[Any, list[Any], tuple[int, ...]]:
    """The model, its layers as matrices, and the shape of a sample."""
    import keras

    shape, kind, args, options = KERAS[name]
    keras.utils.set_random_seed(len(name))
    made = [getattr(keras.layers, kind)(*args, **options, dtype="float64") for _ in range(2)]
    layer, ones = made
    for each in made:
        each.build((None, *shape))
    for weight, one in zip(layer.weights, ones.weights, strict=True):
        if len(weight.shape) == 1:
            weight.assign(np.random.default_rng(2).uniform(-0.5, 0.5, weight.shape))
        one.assign(np.full(weight.shape, float(len(weight.shape) > 1)))
    first = probed(lambda x: np.asarray(layer(x)), lambda x: np.asarray(ones(x)), shape)
    given = keras.Input(shape, dtype="float64")
    flat = keras.layers.Flatten(dtype="float64")(keras.layers.ReLU(dtype="float64")(layer(given)))
    head = keras.layers.Dense(CLASSES, dtype="float64", bias_initializer="random_normal")
    model = keras.Model(given, head(flat))
    last = dense(np.asarray(head.kernel), np.asarray(head.bias))
    return model, [first, "relu", last], shape

"""Influence once more, slowly: derivatives sample by sample, by the frameworks' own automatic differentiation."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

Numpy = npt.NDArray[Any]


def torch_derivatives(model: Any, x: Any, y: Any, loss: Callable[[Any, Any], Any]) -> Numpy:
    """∂ℓ/∂θ of each sample over the trained weights, (N, P). ``loss``: of a batch, summed."""
    rows = []
    weights = [p for p in model.parameters() if p.requires_grad]
    for i in range(len(y)):
        parts = x if isinstance(x, tuple) else (x,)
        value = loss(model(*(part[i : i + 1] for part in parts)), y[i : i + 1]).sum()
        found = torch.autograd.grad(value, weights, allow_unused=True)
        rows.append(
            torch.cat(
                [torch.zeros(p.numel()) if g is None else g.reshape(-1) for g, p in zip(found, weights, strict=True)]
            )
        )
    return torch.stack(rows).numpy()


def keras_derivatives(model: Any, x: Any, y: Any, loss: Callable[[Any, Any], Any]) -> Numpy:
    import tensorflow as tf

    rows = []
    for i in range(len(y)):
        with tf.GradientTape() as tape:
            value = tf.reduce_sum(loss(model(x[i : i + 1], training=False), y[i : i + 1]))
        found = tape.gradient(value, model.trainable_variables)
        pairs = zip(found, model.trainable_variables, strict=True)
        rows.append(np.concatenate([
            np.zeros(int(np.prod(v.shape))) if g is None else tf.convert_to_tensor(g).numpy().ravel() for g, v in pairs
        ]))  # fmt: skip
    return np.stack(rows)


def jacobian(model: Any, x: Numpy) -> Numpy:
    """∂f/∂θ of every output, (N, C, P)."""
    weights = {name: weight.detach() for name, weight in model.named_parameters()}

    def run(weights: Any, sample: Any) -> Any:
        return torch.func.functional_call(model, weights, (sample[None],))[0]

    found = torch.func.vmap(torch.func.jacrev(run), (None, 0))(weights, torch.from_numpy(x))
    return torch.cat([part.reshape(*part.shape[:2], -1) for part in found.values()], 2).numpy()


def gauss_newton(model: Any, x: Numpy, hessian: Callable[[Numpy], Numpy]) -> Numpy:
    """The mean of Jᵀ·H·J, (P, P). ``hessian``: of the loss in the outputs (N, C) → (N, C, C)."""
    j = jacobian(model, x)
    f = model(torch.from_numpy(x)).detach().numpy()
    return np.einsum("nci,ncd,ndj->ij", j, hessian(f), j) / len(x)


def softmax_hessian(f: Numpy) -> Numpy:
    p = np.exp(f - f.max(1, keepdims=True))
    p /= p.sum(1, keepdims=True)
    return p[:, :, None] * np.eye(p.shape[1]) - p[:, :, None] * p[:, None]

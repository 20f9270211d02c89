"""Guided backpropagation and deconvnet against the textbook: hooks on nn.ReLU modules, each used once."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from explainers import Explainer


def net() -> nn.Sequential:
    torch.manual_seed(1)
    model = nn.Sequential(
        nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Conv2d(4, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(16, 6), nn.ReLU(),
        nn.Linear(6, 3),
    )  # fmt: skip
    return model.double()


def guided(module: nn.Module, grad_in: Any, grad_out: Any) -> tuple[Tensor]:
    return (grad_in[0].clamp(min=0),)


def deconvolved(module: nn.Module, grad_in: Any, grad_out: Any) -> tuple[Tensor]:
    return (grad_out[0].clamp(min=0),)


def by_hooks(model: nn.Module, x: np.ndarray, target: int, hook: Callable[..., Any]) -> np.ndarray:
    handles = [m.register_full_backward_hook(hook) for m in model.modules() if isinstance(m, nn.ReLU)]
    leaf = torch.tensor(x, requires_grad=True)
    model(leaf)[:, target].sum().backward()
    for handle in handles:
        handle.remove()
    model.zero_grad()
    return leaf.grad.numpy()


@pytest.mark.parametrize(("method", "hook"), [("guided_backprop", guided), ("deconvnet", deconvolved)])
def test_equals_hooks(method: str, hook: Callable[..., Any]) -> None:
    model = net()
    x = np.random.default_rng(0).normal(size=(5, 1, 6, 6))
    got = Explainer.compile(model, method, inputs=x)(x, target=2)
    want = by_hooks(model, x, 2, hook)
    np.testing.assert_allclose(got, want, atol=1e-10 * abs(want).max())


@pytest.mark.parametrize(("method", "rule"), [
    ("guided_backprop", lambda m, z: m * (z > 0) * (m > 0)), ("deconvnet", lambda m, z: m * (m > 0)),
    ("gradient", lambda m, z: m * (z > 0)), ("zero", lambda m, z: m * 0),
])  # fmt: skip
def test_equals_an_mlp_by_hand(method: str, rule: Callable[..., Any]) -> None:
    """Two layers in numpy: z = Wx + c, f = V·relu(z)."""
    torch.manual_seed(2)
    model = nn.Sequential(nn.Linear(4, 9), nn.ReLU(), nn.Linear(9, 2)).double()
    weights, bias, head, _ = (p.detach().numpy() for p in model.parameters())
    x = np.random.default_rng(0).normal(size=(6, 4))
    message = rule(np.tile(head[1], (6, 1)), x @ weights.T + bias) @ weights
    np.testing.assert_allclose(Explainer.compile(model, method, inputs=x)(x, target=1), message, atol=1e-12)


def test_zero_is_the_gradient_of_a_linear_net() -> None:
    model = nn.Sequential(nn.Linear(4, 3), nn.Flatten(), nn.Linear(3, 2)).double()
    x = np.ones((2, 4))
    want = Explainer.compile(model, "gradient", inputs=x)(x, target=0)
    np.testing.assert_array_equal(Explainer.compile(model, "zero", inputs=x)(x, target=0), want)

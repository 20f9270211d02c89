"""Infidelity and sensitivity against captum.metrics, on the perturbations that this library draws."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from captum.metrics import infidelity, sensitivity_max
from torch import nn

from explainers import Explainer, evaluate, metrics
from explainers.metrics import noise, removal

DRAWS, SIZE, RADIUS, SCALE = 6, 3, 0.1, 0.2
TARGET = 1
torch.manual_seed(0)
NETWORK = nn.Sequential(nn.Linear(8, 12), nn.Tanh(), nn.Linear(12, 3)).eval().requires_grad_(False)
X = torch.randn(4, 8)


def gradients(x: torch.Tensor, target: Any = TARGET) -> torch.Tensor:
    x = x.detach().requires_grad_()
    with torch.enable_grad():
        return torch.autograd.grad(NETWORK(x)[:, target].sum(), x)[0]


def work(monkeypatch: pytest.MonkeyPatch, metric: Any, demand: Any) -> tuple[np.ndarray, Any]:
    """The scores of the gradient by a metric, and the work of the chunk."""
    kept = []
    own = type(demand).run

    def run(self: Any, work: Any, method: str) -> Any:
        kept.append(work)
        return own(self, work, method)

    monkeypatch.setattr(type(demand), "run", run)
    explain = Explainer.compile(NETWORK, "gradient", inputs=X)
    found = evaluate(explain, X, metrics=metric, target=TARGET, controls=())
    return found.of(metric.label, "gradient"), kept[0]


def test_infidelity_of_removal(monkeypatch: pytest.MonkeyPatch) -> None:
    metric = metrics.Infidelity(size=SIZE, draws=DRAWS, of="gradients")
    score, chunk = work(monkeypatch, metric, removal.Subsets(SIZE, DRAWS))
    keys = chunk.keys(np.tile(np.arange(DRAWS), len(X)), np.repeat(np.arange(len(X)), DRAWS), removal.SUBSETS + SIZE)
    removed = torch.tensor(removal.random_sets(keys, 8, SIZE))

    def perturb(inputs: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        change = inputs * removed
        return change, inputs - change

    wanted = infidelity(
        NETWORK, perturb, X, gradients(X), target=TARGET, n_perturb_samples=DRAWS, max_examples_per_batch=len(X) * DRAWS
    )
    np.testing.assert_allclose(score, wanted, rtol=1e-4)


def test_infidelity_of_noise(monkeypatch: pytest.MonkeyPatch) -> None:
    metric = metrics.Infidelity(noise=SCALE, draws=DRAWS)
    score, chunk = work(monkeypatch, metric, noise.Noisy(SCALE, DRAWS))
    keys = chunk.keys(np.tile(np.arange(DRAWS), len(X)), np.repeat(np.arange(len(X)), DRAWS), noise.NOISE)
    (drawn,) = noise._draws(chunk, keys, normal=True)
    assert float(drawn.std()) == pytest.approx(1, abs=0.2)

    def perturb(inputs: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return SCALE * drawn, inputs - SCALE * drawn

    wanted = infidelity(
        NETWORK, perturb, X, gradients(X), target=TARGET, n_perturb_samples=DRAWS, max_examples_per_batch=len(X) * DRAWS
    )
    np.testing.assert_allclose(score, wanted, rtol=1e-4)


def test_sensitivity(monkeypatch: pytest.MonkeyPatch) -> None:
    metric = metrics.Sensitivity(radius=RADIUS, draws=DRAWS)
    score, chunk = work(monkeypatch, metric, noise.Neighbours(RADIUS, DRAWS))
    (near,) = chunk.get(noise.Neighbours(RADIUS, DRAWS))
    assert np.abs(near - X.numpy()[:, None]).max() <= RADIUS + 1e-6
    # captum divides by the norm over each sample, too
    wanted = sensitivity_max(
        lambda x: (gradients(x[0]),), X, lambda inputs: (torch.tensor(near).reshape(-1, 8),), n_perturb_samples=DRAWS,
        max_examples_per_batch=len(X) * DRAWS,
    )  # fmt: skip
    np.testing.assert_allclose(score, wanted, rtol=1e-4)

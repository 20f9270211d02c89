"""The explainers that the tests serve."""

from __future__ import annotations

import functools
import threading
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from explainers import Explainer, TensorSpec, methods

QUARTERS = np.kron([[0, 1], [2, 3]], np.ones((4, 4), int))


class TwoInputs(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.image, self.numbers = nn.Linear(12, 5), nn.Linear(3, 5)

    def forward(self, image: Tensor, numbers: Tensor) -> Tensor:
        return torch.tanh(self.image(image.flatten(1))) * self.numbers(numbers)


def _seeded(model: Any) -> Any:
    torch.manual_seed(0)
    torch.set_num_threads(1)
    return model()


@functools.cache
def cnn() -> nn.Module:
    model: nn.Module = _seeded(
        lambda: nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(144, 10))
    ).eval()
    return model


@functools.cache
def two_inputs() -> nn.Module:
    model: nn.Module = _seeded(TwoInputs)
    return model


@functools.cache
def explainers() -> dict[str, Explainer]:
    """Seven explainers of two torch models."""
    x = torch.zeros(1, 1, 8, 8)
    shapley = methods.ShapleySampling(permutations=6, groups=QUARTERS)
    explainer_by_name = {
        "saliency": Explainer.compile(cnn(), "saliency", inputs=x),
        "ig": Explainer.compile(cnn(), "integrated_gradients", inputs=x),
        "shapley": Explainer.compile(cnn(), shapley, inputs=x),
        "ablation": Explainer.compile(cnn(), methods.FeatureAblation(groups=QUARTERS), inputs=x),
        "shap": Explainer.compile(cnn(), methods.GradientShap(samples=8), inputs=x),
        "smooth": Explainer.compile(cnn(), methods.SmoothGrad(samples=8), inputs=x),
        "two": Explainer.compile(
            two_inputs(), "integrated_gradients",
            inputs={"image": torch.zeros(1, 3, 4), "numbers": torch.zeros(1, 3)},
        ),
    }  # fmt: skip
    return explainer_by_name


def one(method: Any) -> Explainer:
    return Explainer.compile(cnn(), method, inputs=torch.zeros(1, 1, 8, 8))


class Gate:
    """A numpy model that blocks while it is shut, raises at −1 and returns a non-finite output at −2."""

    def __init__(self) -> None:
        self.open = threading.Event()
        self.open.set()
        self.rows = 0

    def __call__(self, x: np.ndarray) -> np.ndarray:
        self.open.wait(20)
        self.rows += len(x)
        if (x[:, 0] == -1).any():
            raise ValueError("the model broke")
        y = np.stack([x.sum(1), x[:, 0] * x[:, 1]], 1)
        y[x[:, 0] == -2] = np.nan
        found: np.ndarray = y.astype(np.float32)
        return found

    def explainer(self, method: Any = "feature_ablation", **options: Any) -> Explainer:
        spec = TensorSpec((None, 4), "float32", "x")
        return Explainer.compile(self, method, inputs=spec, **options)


def images(count: int, seed: int = 0) -> np.ndarray:
    array: np.ndarray = np.random.default_rng(seed).random((count, 1, 8, 8), dtype=np.float32)
    return array

"""Rows on windows equal whole rows in networks of layers drawn at random, whatever their strides and borders."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from torch import Tensor, nn  # noqa: E402
from torch.nn import functional as F  # noqa: E402

from explainers import Explainer, methods  # noqa: E402
from explainers.program import incremental, regions  # noqa: E402

pytestmark = pytest.mark.slow
CHANNELS, LARGEST = 4, 2500  # places of an image


class Function(nn.Module):
    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x)


class Joined(nn.Module):
    """Two branches, added where both have a place."""

    def __init__(self, first: nn.Module, second: nn.Module) -> None:
        super().__init__()
        self.first, self.second = first, second

    def forward(self, x: Tensor) -> Tensor:
        a, b = self.first(x), self.second(x)
        height, width = min(a.shape[2], b.shape[2]), min(a.shape[3], b.shape[3])
        return a[:, :, :height, :width] + b[:, :, :height, :width]


def convolution(rng: random.Random) -> nn.Module:
    pick = rng.choice
    return nn.Conv2d(
        CHANNELS, CHANNELS, (pick([1, 2, 3, 5]), pick([1, 2, 3])), (pick([1, 1, 2]), pick([1, 1, 3])),
        (pick([0, 1, 2]), pick([0, 1, 3])), (pick([1, 1, 2]), pick([1, 1, 3])), groups=pick([1, 1, 2]),
    )  # fmt: skip


def transposed(rng: random.Random) -> nn.Module:
    pick = rng.choice
    kernel, stride, dilation = (pick([1, 2, 3]), pick([2, 3])), (pick([1, 2]), pick([1, 2, 3])), (1, pick([1, 2]))
    return nn.ConvTranspose2d(CHANNELS, CHANNELS, kernel, stride, pick([0, 1]), dilation=dilation)


def max_pool(rng: random.Random) -> nn.Module:
    pick = rng.choice
    return nn.MaxPool2d(pick([2, 3]), pick([1, 2, 3]), pick([0, 1]), pick([1, 2]), ceil_mode=pick([True, False]))


def average_pool(rng: random.Random) -> nn.Module:
    pick = rng.choice
    return nn.AvgPool2d(pick([2, 3]), pick([1, 2]), pick([0, 1]), pick([True, False]), pick([True, False]))


def moved(rng: random.Random) -> nn.Module:
    start, stop, step = rng.choice([0, 1]), rng.choice([-1, None]), rng.choice([1, 2])
    kinds: list[nn.Module] = [
        Function(lambda x: x[:, :, start:stop, ::step]),
        Function(lambda x: torch.cat([x[:, 2:], x[:, :2]], 1)),
        Function(lambda x: x.transpose(2, 3)),
        nn.ZeroPad2d(tuple(rng.choice([-1, 0, 1, 2]) for _ in range(4))),
        nn.Upsample(scale_factor=rng.choice([2, (1, 2), (3, 1)]), mode=rng.choice(["nearest", "nearest-exact"])),
        nn.ChannelShuffle(2),
    ]
    return rng.choice(kinds)


def pointwise(rng: random.Random) -> nn.Module:
    kinds: list[nn.Module] = [
        nn.ReLU(), nn.GELU(), nn.PReLU(CHANNELS), nn.Softmax(1), nn.BatchNorm2d(CHANNELS), nn.Hardswish(),
        Function(lambda x: x * torch.sigmoid(x) + x.abs()), Function(lambda x: F.normalize(x, dim=1)),
        Function(lambda x: x.permute(0, 2, 3, 1).softmax(-1).permute(0, 3, 1, 2) * x),
    ]  # fmt: skip
    return rng.choice(kinds)


def over_all(rng: random.Random) -> nn.Module:
    squeeze = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Conv2d(CHANNELS, CHANNELS, 1), nn.Sigmoid())
    kinds: list[nn.Module] = [
        Function(lambda x: x + x.mean((2, 3), keepdim=True) - x.mean(3, keepdim=True)), nn.GroupNorm(2, CHANNELS),
        Joined(nn.Identity(), squeeze), nn.CircularPad2d(1), nn.AdaptiveAvgPool2d((4, 3)), nn.ReflectionPad2d(1),
    ]  # fmt: skip
    return rng.choice(kinds)


def joined(rng: random.Random) -> nn.Module:
    return Joined(layer(rng, 0.0), layer(rng, 0.0))


def layer(rng: random.Random, nested: float = 1.0) -> nn.Module:
    kinds = [convolution, transposed, max_pool, average_pool, moved, pointwise, over_all, joined]
    return rng.choices(kinds, [5, 1, 2, 1, 4, 3, 1, 2 * nested])[0](rng)


def network(rng: random.Random, x: Tensor) -> nn.Module:
    """Layers that fit one another, and one of several heads."""
    layers: list[nn.Module] = []
    for _ in range(rng.randrange(2, 7)):
        found = layer(rng).double().eval()
        try:
            y = found(x)
        except (RuntimeError, IndexError):  # smaller than its window
            continue
        if y.ndim == 4 and min(y.shape) > 0 and y.shape[2] * y.shape[3] <= LARGEST:
            layers.append(found)
            x = y
    heads = [
        lambda: nn.Sequential(Function(lambda x: x.tanh().mean((2, 3))), nn.Linear(CHANNELS, 2)),
        lambda: nn.Sequential(nn.Flatten(), nn.Linear(x[0].numel(), 2)),
        lambda: nn.Sequential(Function(lambda x: x.amax((2, 3))), nn.Linear(CHANNELS, 2)),
        lambda: Function(lambda x: x.sum((1, 2))),
    ]
    return nn.Sequential(*layers, rng.choice(heads)().double()).eval()


@pytest.mark.parametrize("seed", range(80))
def test_random_networks(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    rng = random.Random(seed)
    torch.manual_seed(seed)
    monkeypatch.setattr(incremental, "GAIN", 0.0)
    monkeypatch.setattr(regions, "MOST", rng.choice([0.5, 1.0]))
    x = torch.randn(2, CHANNELS, rng.choice([9, 13, 16]), rng.choice([8, 11, 16]), dtype=torch.float64)
    with torch.no_grad():
        model = network(rng, x)
    window = rng.choice([CHANNELS, 2]), rng.randrange(1, 4), rng.randrange(1, 4)
    occlusion = methods.Occlusion(window, tuple(rng.randrange(1, size + 1) for size in window))
    method: Any = rng.choice([occlusion, occlusion, "feature_ablation"])
    found, whole = (
        np.asarray(Explainer.compile(model, method, inputs=x, incremental=given)(x, target="max"))
        for given in ("auto", False)
    )
    scale = max(1e-3, float(abs(whole).max()), float(model(x).detach().abs().max()))
    np.testing.assert_allclose(found, whole, atol=1e-11 * scale, rtol=0)

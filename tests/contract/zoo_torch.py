"""The zoo's torch members."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .zoo import Data, Member


class Classifier(nn.Module):
    """``body`` gives logits and is trained; ``last`` is what the user's model ends in."""

    def __init__(self, body: nn.Module, last: nn.Module) -> None:
        super().__init__()
        self.body, self.last = body, last

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.body(x))


def cnn() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(1, 8, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(8, 16, 3, padding=1), nn.ReLU(),
        nn.MaxPool2d(2), nn.Flatten(), nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 10),
    )  # fmt: skip


class Attention(nn.Module):
    """Self-attention with two heads, written out."""

    def __init__(self, width: int, causal: bool) -> None:
        super().__init__()
        self.causal = causal
        self.into = nn.Linear(width, 3 * width, bias=not causal)
        self.out = nn.Linear(width, width, bias=not causal)

    def forward(self, x: Tensor) -> Tensor:
        rows, tokens, width = x.shape
        q, k, v = self.into(x).reshape(rows, tokens, 3, 2, width // 2).permute(2, 0, 3, 1, 4)
        seen = F.scaled_dot_product_attention(q, k, v, is_causal=self.causal)
        return self.out(seen.transpose(1, 2).reshape(rows, tokens, width))


class Block(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.first, self.attention = nn.LayerNorm(width), Attention(width, causal=False)
        self.second = nn.LayerNorm(width)
        self.mlp = nn.Sequential(nn.Linear(width, 2 * width), nn.GELU(), nn.Linear(2 * width, width))

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attention(self.first(x))
        return x + self.mlp(self.second(x))


class ViT(nn.Module):
    """Patches of 2×2, two blocks, the mean over tokens."""

    def __init__(self, width: int = 16) -> None:
        super().__init__()
        self.patches = nn.Conv2d(1, width, 2, stride=2)
        self.places = nn.Parameter(0.1 * torch.randn(16, width))
        self.blocks = nn.Sequential(Block(width), Block(width), nn.LayerNorm(width))
        self.head = nn.Linear(width, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.patches(x).flatten(2).transpose(1, 2) + self.places
        return self.head(self.blocks(x).mean(1))


class RMSNorm(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))

    def forward(self, x: Tensor) -> Tensor:
        return self.weight * x * torch.rsqrt(x.square().mean(-1, keepdim=True) + 1e-6)


class DecoderBlock(nn.Module):
    """As in LLaMA: RMSNorm, causal attention, an MLP gated by SiLU, no biases."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.first, self.attention = RMSNorm(width), Attention(width, causal=True)
        self.second = RMSNorm(width)
        self.gate, self.up = (nn.Linear(width, 2 * width, bias=False) for _ in range(2))
        self.down = nn.Linear(2 * width, width, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attention(self.first(x))
        h = self.second(x)
        return x + self.down(F.silu(self.gate(h)) * self.up(h))


class Decoder(nn.Module):
    """The next letter after the last position; letters come one-hot. Without them, every value is near zero."""

    def __init__(self, width: int = 16, tokens: int = 10) -> None:
        super().__init__()
        self.embed = nn.Linear(4, width, bias=False)
        self.places = nn.Parameter(0.02 * torch.randn(tokens, width))
        self.blocks = nn.Sequential(DecoderBlock(width), DecoderBlock(width), RMSNorm(width))
        self.head = nn.Linear(width, 4, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.blocks(self.embed(x) + self.places)[:, -1])


class Recurrent(nn.Module):
    """An image read row by row."""

    def __init__(self, kind: type[nn.Module]) -> None:
        super().__init__()
        self.cell = kind(8, 24, batch_first=True)
        self.head = nn.Linear(24, 10)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.cell(x)[0][:, -1])


class Residual(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(1, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8), nn.ReLU())
        self.branches = nn.ModuleList(
            nn.Sequential(
                nn.Conv2d(8, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8), nn.ReLU(),
                nn.Conv2d(8, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8),
            )
            for _ in range(2)
        )  # fmt: skip
        self.head = nn.Linear(32, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        for branch in self.branches:
            x = F.relu(x + branch(x))
        return self.head(F.avg_pool2d(x, 4).flatten(1))


def instance_norm() -> nn.Module:
    """Of a constant image each map is near constant: norms divide by almost nothing."""
    return nn.Sequential(
        nn.Conv2d(1, 8, 3), nn.InstanceNorm2d(8, affine=True), nn.ReLU(), nn.Conv2d(8, 12, 3),
        nn.InstanceNorm2d(12, affine=True), nn.ReLU(), nn.AvgPool2d(2), nn.Flatten(), nn.Linear(48, 10),
    )  # fmt: skip


class Normalised(nn.Module):
    """An embedding of length 1 before the head. No biases: of zeros the embedding is zero."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Sequential(
            nn.Flatten(), nn.Linear(64, 32, bias=False), nn.Tanh(), nn.Linear(32, 12, bias=False)
        )
        self.head = nn.Linear(12, 10)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(8 * F.normalize(self.embed(x), dim=-1))


def built(body: Callable[[], nn.Module], last: Callable[[], nn.Module]) -> Callable[[str], nn.Module]:
    def build(dtype: str) -> nn.Module:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            return Classifier(body(), last()).to(getattr(torch, dtype)).eval()

    return build


def training(epochs: int, rate: float) -> Callable[[Any, Data], None]:
    def train(model: Any, data: Data) -> None:
        generator = torch.Generator().manual_seed(1)
        x, labels = torch.tensor(data.x), torch.tensor(data.labels)
        optimizer = torch.optim.Adam(model.parameters(), rate)
        model.train()
        for epoch in range(epochs):
            if epoch == epochs * 2 // 3:
                for group in optimizer.param_groups:
                    group["lr"] = rate / 5
            for rows in torch.randperm(len(x), generator=generator).split(64):
                optimizer.zero_grad()
                F.cross_entropy(model.body(x[rows]), labels[rows]).backward()
                optimizer.step()
        model.eval()

    return train


def weights(model: Any) -> Any:
    return copy.deepcopy(model.state_dict())


def load(model: Any, state: Any, scale: float) -> None:
    model.load_state_dict(state)
    head = [module for module in model.modules() if isinstance(module, nn.Linear)][-1]
    with torch.no_grad():
        for parameter in head.parameters():
            parameter *= scale


def outputs(model: Any, x: np.ndarray) -> np.ndarray:
    with torch.no_grad():
        return model(torch.tensor(x)).numpy()


def gradient(model: Any, x: np.ndarray, target: np.ndarray) -> np.ndarray:
    """By autograd, of each sample's target."""
    point = torch.tensor(x, requires_grad=True)
    model(point)[torch.arange(len(x)), torch.tensor(target)].sum().backward()
    return point.grad.numpy()


def log_softmax() -> nn.Module:
    return nn.LogSoftmax(-1)


def softmax() -> nn.Module:
    return nn.Softmax(-1)


def member(
    name: str,
    data: str,
    body: Callable[[], nn.Module],
    last: Callable[[], nn.Module] = nn.Identity,
    epochs: int = 20,
    rate: float = 4e-3,
) -> Member:
    return Member(name, "torch", data, built(body, last), training(epochs, rate))


MEMBERS = [
    member("cnn_log_softmax", "images", cnn, log_softmax, 20),
    member("cnn_softmax", "images", cnn, softmax, 30),
    member("vit", "images", ViT),
    member("gru", "rows", lambda: Recurrent(nn.GRU), rate=1e-2),
    member("lstm", "rows", lambda: Recurrent(nn.LSTM), softmax, rate=1e-2),
    member("decoder", "dna", Decoder, softmax, 40),
    member("residual", "images", Residual, epochs=10),
    member("instance_norm", "images", instance_norm, softmax),
    member("normalised", "images", Normalised, epochs=30),
]

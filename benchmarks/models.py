"""The timed models, with random weights."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

MODELS = ("mlp", "cnn", "dilated", "bert", "resnet50")
LARGE_BATCH = {"dilated": 4, "bert": 4, "resnet50": 4}  # elsewhere 32


@dataclass(frozen=True)
class Subject:
    """A model, and f as a function of the attributed value (the input, or the output of a layer)."""

    title: str
    model: nn.Module
    inputs: Callable[[int], tuple[Tensor, ...]]
    wrt: str | None = None
    attributed: Callable[..., Tensor] | None = None  # inputs → attributed value
    rest: Callable[..., Tensor] | None = None  # (attributed, *inputs) → f

    def point(self, *inputs: Tensor) -> Tensor:
        """The attributed value as a tensor."""
        with torch.no_grad():
            return inputs[0] if self.attributed is None else self.attributed(*inputs)

    def f(self, point: Tensor, *inputs: Tensor) -> Tensor:
        result: Tensor = self.model(point) if self.rest is None else self.rest(point, *inputs)
        return result


class LeNet(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Conv2d(1, 6, 5, padding=2), nn.Conv2d(6, 16, 5)
        self.c, self.d, self.e = nn.Linear(400, 120), nn.Linear(120, 84), nn.Linear(84, 10)
        self.p1, self.p2 = nn.MaxPool2d(2), nn.MaxPool2d(2)
        self.r1, self.r2, self.r3, self.r4 = nn.ReLU(), nn.ReLU(), nn.ReLU(), nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        x = self.p1(self.r1(self.a(x)))
        x = self.p2(self.r2(self.b(x))).flatten(1)
        return self.e(self.r4(self.d(self.r3(self.c(x)))))


class Dilated(nn.Module):
    """A dilated residual 1-D CNN over one-hot sequence, as used for base-resolution genomics."""

    def __init__(self, width: int = 64, layers: int = 8) -> None:
        super().__init__()
        self.stem = nn.Conv1d(4, width, 21, padding=10)
        self.body = nn.ModuleList(nn.Conv1d(width, width, 3, padding=2**i, dilation=2**i) for i in range(1, layers + 1))
        self.head = nn.Linear(width, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.stem(x))
        for conv in self.body:
            x = x + F.relu(conv(x))
        return self.head(x.mean(2))


class Bottleneck(nn.Module):
    def __init__(self, inside: int, width: int, stride: int) -> None:
        super().__init__()
        out = width * 4
        self.a, self.na = nn.Conv2d(inside, width, 1, bias=False), nn.BatchNorm2d(width)
        self.b, self.nb = nn.Conv2d(width, width, 3, stride, 1, bias=False), nn.BatchNorm2d(width)
        self.c, self.nc = nn.Conv2d(width, out, 1, bias=False), nn.BatchNorm2d(out)
        short = nn.Sequential(nn.Conv2d(inside, out, 1, stride, bias=False), nn.BatchNorm2d(out))
        self.short = short if stride != 1 or inside != out else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu(self.nb(self.b(F.relu(self.na(self.a(x))))))
        return F.relu(self.nc(self.c(y)) + self.short(x))


def resnet50() -> nn.Module:
    blocks: list[nn.Module] = [
        nn.Conv2d(3, 64, 7, 2, 3, bias=False),
        nn.BatchNorm2d(64),
        nn.ReLU(),
        nn.MaxPool2d(3, 2, 1),
    ]
    inside = 64
    for width, count, stride in ((64, 3, 1), (128, 4, 2), (256, 6, 2), (512, 3, 2)):
        for place in range(count):
            blocks.append(Bottleneck(inside, width, stride if place == 0 else 1))
            inside = width * 4
    return nn.Sequential(*blocks, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(2048, 1000))


def mlp() -> nn.Module:
    return nn.Sequential(
        nn.Linear(784, 1024), nn.ReLU(), nn.Linear(1024, 1024), nn.ReLU(), nn.Linear(1024, 10)
    )  # fmt: skip


def bert() -> Subject:
    from transformers import BertConfig, BertForSequenceClassification

    config = BertConfig(
        hidden_size=384, num_hidden_layers=6, num_attention_heads=6, intermediate_size=1536, num_labels=2
    )
    model = BertForSequenceClassification(config)

    def inputs(count: int) -> tuple[Tensor, ...]:
        return torch.randint(0, 30000, (count, 64)), torch.ones(count, 64, dtype=torch.long)

    return Subject(
        "BERT, 6 layers, 64×384", model, inputs, "bert.embeddings.word_embeddings",
        lambda ids, mask: model.bert.embeddings.word_embeddings(ids),
        lambda point, ids, mask: model(inputs_embeds=point, attention_mask=mask).logits,
    )  # fmt: skip


def subject(name: str) -> Subject:
    torch.manual_seed(0)
    subjects: dict[str, Callable[[], Any]] = {
        "mlp": lambda: Subject("MLP 784-1024-1024-10", mlp(), lambda n: (torch.randn(n, 784),)),
        "cnn": lambda: Subject("LeNet 28×28", LeNet(), lambda n: (torch.randn(n, 1, 28, 28),)),
        "dilated": lambda: Subject("dilated CNN 4×2114", Dilated(), lambda n: (torch.randn(n, 4, 2114),)),
        "bert": bert,
        "resnet50": lambda: Subject("ResNet-50 224²", resnet50(), lambda n: (torch.randn(n, 3, 224, 224),)),
    }
    result: Subject = subjects[name]()
    result.model.eval().requires_grad_(False)
    return result

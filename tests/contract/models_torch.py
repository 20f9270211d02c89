"""Small torch models, deterministic, left in training mode on purpose: explaining must not depend on it."""

from __future__ import annotations

import itertools
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .cases import Case, Input


def seeded(kind: type[nn.Module], *args: Any) -> Any:
    """A builder ``dtype → model`` with reproducible weights and non-trivial running statistics."""

    def build(dtype: str) -> nn.Module:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(7)
            model = kind(*args)
            for module in model.modules():
                if isinstance(module, nn.modules.batchnorm._BatchNorm):
                    module.running_mean.normal_()
                    module.running_var.uniform_(0.5, 2.0)
                    nn.init.uniform_(module.weight, 0.5, 1.5)
        return model.to(getattr(torch, dtype))

    return build


class MLP(nn.Module):
    def __init__(self, sizes: tuple[int, ...] = (5, 7, 6, 3)) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for before, after in itertools.pairwise(sizes):
            layers += [nn.Linear(before, after), nn.ReLU()]
        self.layers = nn.Sequential(*layers[:-1])

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(x)


class CNN(nn.Module):
    """Functional ReLU and max pooling, which module hooks never see."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(1, 3, 3, padding=1)
        self.second = nn.Conv2d(3, 4, 3)
        self.head = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = F.max_pool2d(F.relu(self.first(x)), 2)
        x = F.relu(self.second(x))
        return self.head(F.max_pool2d(x, 2).flatten(1))


class Residual(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(2, 4, 3, padding=1)
        self.norm1 = nn.BatchNorm2d(4)
        self.conv = nn.Conv2d(4, 4, 3, padding=1, bias=False)
        self.norm2 = nn.BatchNorm2d(4)
        self.dropout = nn.Dropout(0.5)
        self.head = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.norm1(self.stem(x)))
        x = F.relu(x + self.norm2(self.conv(x)))
        return self.head(self.dropout(F.adaptive_avg_pool2d(x, 1).flatten(1)))


class Reused(nn.Module):
    """One linear layer and one ReLU, each run three times."""

    def __init__(self) -> None:
        super().__init__()
        self.block = nn.Linear(5, 5)
        self.relu = nn.ReLU()
        self.head = nn.Linear(5, 2)

    def forward(self, x: Tensor) -> Tensor:
        for _ in range(3):
            x = self.relu(self.block(x))
        return self.head(x)


class TwoInputs(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.left = nn.Linear(4, 5)
        self.right = nn.Linear(3, 5)
        self.head = nn.Linear(5, 2)

    def forward(self, left: Tensor, right: Tensor) -> Tensor:
        return self.head(torch.tanh(self.left(left)) * F.relu(self.right(right)))


class MaskedMean(nn.Module):
    """A float sequence and an integer mask."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Linear(3, 6)
        self.head = nn.Linear(6, 2)

    def forward(self, sequence: Tensor, mask: Tensor) -> Tensor:
        weight = mask.to(sequence.dtype)[..., None]
        hidden = F.silu(self.inner(sequence)) * weight
        return self.head(hidden.sum(1) / weight.sum(1))


class Tokens(nn.Module):
    """Embeddings, attention under a mask, pooling."""

    def __init__(self) -> None:
        super().__init__()
        self.embeddings = nn.Embedding(11, 6)
        self.query = nn.Linear(6, 6)
        self.key = nn.Linear(6, 6)
        self.head = nn.Linear(6, 3)

    def forward(self, ids: Tensor, attention_mask: Tensor) -> Tensor:
        x = self.embeddings(ids)
        scores = self.query(x) @ self.key(x).transpose(1, 2) / 6**0.5
        hidden = scores.masked_fill(attention_mask[:, None, :] == 0, -1e4).softmax(-1) @ x
        return self.head(F.relu(hidden).mean(1))


class Recurrent(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.lstm = nn.LSTM(3, 4, batch_first=True)
        self.head = nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.lstm(x)[0][:, -1])


class Mixture(nn.Module):
    """GELU, SiLU, softmax, LayerNorm and nn.MultiheadAttention."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(8)
        self.attention = nn.MultiheadAttention(8, 2, batch_first=True)
        self.up = nn.Linear(8, 12)
        self.gate = nn.Linear(8, 12)
        self.down = nn.Linear(12, 8)

    def forward(self, x: Tensor) -> Tensor:
        h = self.norm(x)
        x = x + self.attention(h, h, h)[0]
        h = self.norm(x)
        x = x + self.down(F.gelu(self.up(h)) * F.silu(self.gate(h)))
        return x.mean(1).softmax(-1)


class Spatial(nn.Module):
    """An output of two axes: targets are pairs."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Linear(3, 4)

    def forward(self, x: Tensor) -> Tensor:
        return torch.tanh(self.inner(x))


class Scalar(nn.Module):
    """One number a sample, without a further axis."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        return F.softplus(self.inner(x)).sum(-1)


class Pair(NamedTuple):
    hidden: Tensor
    logits: Tensor


class Returning(nn.Module):
    """Returns its two tensors in a container of the kind asked for."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind = kind
        self.inner = nn.Linear(4, 5)
        self.head = nn.Linear(5, 3)

    def forward(self, x: Tensor) -> Any:
        hidden = F.relu(self.inner(x))
        logits = self.head(hidden)
        if self.kind == "dict":
            return {"hidden": hidden, "logits": logits}
        if self.kind == "namedtuple":
            return Pair(hidden, logits)
        return hidden, logits


def bert(dtype: str) -> nn.Module:
    from transformers import BertConfig, BertForSequenceClassification

    torch.manual_seed(3)
    config = BertConfig(
        vocab_size=23, hidden_size=16, num_hidden_layers=2, num_attention_heads=2,
        intermediate_size=24, max_position_embeddings=12, num_labels=3,
    )  # fmt: skip
    return BertForSequenceClassification(config).to(getattr(torch, dtype))


def vit(dtype: str) -> nn.Module:
    from transformers import ViTConfig, ViTForImageClassification

    torch.manual_seed(4)
    config = ViTConfig(
        hidden_size=12, num_hidden_layers=2, num_attention_heads=2, intermediate_size=16,
        image_size=6, patch_size=3, num_channels=1, num_labels=3,
    )  # fmt: skip
    return ViTForImageClassification(config).to(getattr(torch, dtype))


def _case(name: str, build: Any, *inputs: Input, **options: Any) -> Case:
    return Case(name, "torch", build, inputs, **options)


TOKENS = (Input((5,), "ids", 11, "ids"), Input((5,), "mask", name="attention_mask"))
BERT = (Input((6,), "ids", 23, "input_ids"), Input((6,), "mask", name="attention_mask"))

CASES = [
    _case("mlp", seeded(MLP), Input((5,))),
    _case("cnn", seeded(CNN), Input((1, 8, 8))),
    _case("residual", seeded(Residual), Input((2, 5, 5))),
    _case("reused", seeded(Reused), Input((5,))),
    _case("two_inputs", seeded(TwoInputs), Input((4,), name="left"), Input((3,), name="right")),
    _case("float_and_mask", seeded(MaskedMean), Input((4, 3)), Input((4,), "mask")),
    _case("tokens", seeded(Tokens), *TOKENS, wrt="embeddings", layer=lambda m: m.embeddings),
    _case(
        "bert", bert, *BERT, wrt="bert.embeddings", output="logits", by_name=True,
        layer=lambda m: m.bert.embeddings, pick=lambda r: r.logits,
    ),
    _case("vit", vit, Input((1, 6, 6)), output=0, pick=lambda r: r.logits),
    _case("lstm", seeded(Recurrent), Input((4, 3))),
    _case("mixture", seeded(Mixture), Input((3, 8))),
    _case("spatial", seeded(Spatial), Input((2, 3))),
    _case("scalar", seeded(Scalar), Input((4,))),
    _case("dict", seeded(Returning, "dict"), Input((4,)), output="logits", pick=lambda r: r["logits"]),
    _case("tuple", seeded(Returning, "tuple"), Input((4,)), output=1, pick=lambda r: r[1]),
    _case("namedtuple", seeded(Returning, "namedtuple"), Input((4,)), output="hidden", pick=lambda r: r.hidden),
]  # fmt: skip

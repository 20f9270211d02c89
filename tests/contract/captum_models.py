"""The nets that Captum's tests explain: their weights are facts, the code is ours; a seed stands for random ones."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from itertools import pairwise

import torch
from torch import Tensor, nn


def linear(weight: Sequence[Sequence[float]] | Tensor, bias: Sequence[float] | None = None) -> nn.Linear:
    """A dense layer of these weights, (outputs, inputs)."""
    rows = torch.as_tensor(weight, dtype=torch.float32)
    layer = nn.Linear(rows.shape[1], rows.shape[0], bias=bias is not None)
    layer.weight.data = rows.clone()
    if bias is not None:
        layer.bias.data = torch.tensor(bias, dtype=torch.float32)
    return layer


def all_of(value: float, outputs: int, inputs: int) -> Tensor:
    return torch.full((outputs, inputs), value)


class Together(nn.Module):
    """Hands several tensors on, so that they have a name as one layer."""

    def forward(self, *parts: Tensor) -> tuple[Tensor, ...]:
        return tuple(part * 1.0 for part in parts)


class Joined(nn.Module):
    def forward(self, *parts: Tensor) -> Tensor:
        return torch.cat(parts, dim=1)


class TwoReLUs(nn.Module):
    def __init__(self, inplace: bool = False) -> None:
        super().__init__()
        self.relu1, self.relu2 = nn.ReLU(inplace), nn.ReLU(inplace)

    def forward(self, first: Tensor, second: Tensor) -> tuple[Tensor, Tensor]:
        return self.relu1(first), self.relu2(second)


class Layers(nn.Module):
    """The identity, four sums of all three inputs with the biases −10, 1, 1, 1, ReLU, and two sums of these.

    ``pair``: the four sums are computed twice, and go through two ReLUs of one module.
    """

    def __init__(self, inplace: bool = False, pair: bool = False) -> None:
        super().__init__()
        self.pair = pair
        self.linear0 = linear(torch.eye(3), [0, 0, 0])
        self.linear1 = linear(all_of(1, 4, 3), [-10, 1, 1, 1])
        if pair:
            self.linear1_alt = linear(all_of(1, 4, 3), [-10, 1, 1, 1])
            self.before, self.multi_relu = Together(), TwoReLUs(inplace)
        else:
            self.relu = nn.ReLU(inplace)
        self.linear2 = linear(all_of(1, 2, 4), [-1, 1])

    def forward(self, x: Tensor) -> Tensor:
        sums = self.linear1(self.linear0(x))
        if not self.pair:
            return self.linear2(self.relu(sums))
        first, second = self.multi_relu(*self.before(sums, self.linear1_alt(x)))
        return self.linear2(first + second)


def frozen(kind: Callable[[], nn.Module]) -> nn.Module:
    """A net whose weights ask for no derivative."""
    return kind().requires_grad_(False)


class LayersOfTwo(Layers):
    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        return super().forward(x + y)


class LayersAndOnes(Layers):
    """Further outputs that depend on nothing."""

    def __init__(self, ones: int) -> None:
        super().__init__()
        self.ones = ones

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([super().forward(x), torch.ones_like(x[:, :1]).repeat(1, self.ones)], dim=1)


class LayersOfThree(nn.Module):
    def __init__(self, scale: float = 1) -> None:
        super().__init__()
        self.scale, self.model = scale, Layers()

    def forward(self, x1: Tensor, x2: Tensor, x3: Tensor) -> Tensor:
        return self.model(self.scale * (x1 + x2 + x3))


class LayersOfBooleans(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.mod = Layers()

    def forward(self, x: Tensor) -> Tensor:
        return self.mod(x.float() * 10.0)


class OneConv(nn.Module):
    def __init__(self, inplace: bool = False) -> None:
        super().__init__()
        self.conv1, self.relu1, self.relu2 = nn.Conv2d(1, 2, 3), nn.ReLU(inplace), nn.ReLU(inplace)
        self.conv1.weight.data = torch.ones(2, 1, 3, 3)
        self.conv1.bias.data = torch.tensor([-50.0, -75.0])
        self.fc1 = linear([[1, 1, 1, 1, 1, -1, -1, -1]] * 4, [0] * 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.relu2(self.fc1(self.relu1(self.conv1(x)).flatten(1)))


class OneConvOfTwo(OneConv):
    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        return super().forward(x + y)


class UpToOne(nn.Module):
    """min(x, 1)."""

    def forward(self, x: Tensor) -> Tensor:
        return 1 - torch.relu(1 - x)


class UpToOneAsFloat(UpToOne):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x).float()


class UpToOneOfSum(nn.Module):
    def forward(self, x1: Tensor, x2: Tensor) -> Tensor:
        return 1 - torch.relu(1 - (x1 + x2))[:, 1]


class FirstExample(nn.Module):
    def forward(self, x1: Tensor, x2: Tensor) -> Tensor:
        return torch.relu(torch.relu(x1) - 1 - torch.relu(x2))


class SecondExample(nn.Module):
    def forward(self, x1: Tensor, x2: Tensor) -> Tensor:
        return torch.relu(torch.relu(x1 - 1) - torch.relu(x2))


class SecondExampleAsFloat(SecondExample):
    def forward(self, x1: Tensor, x2: Tensor) -> Tensor:
        return super().forward(x1, x2).float()


class Divided(nn.Module):
    def __init__(self, place: int) -> None:
        super().__init__()
        self.place = place

    def forward(self, x1: Tensor, x2: Tensor, by: Tensor) -> Tensor:
        return torch.relu(torch.relu(x1 - 1) - torch.relu(x2) / by)[:, self.place]


class Weighted(nn.Module):
    def forward(self, x1: Tensor, x2: Tensor) -> Tensor:
        return torch.relu(2 * torch.relu(x1 - 1) - 3 * torch.relu(x2))[:, 1]


class LinearOfTwo(nn.Module):
    def __init__(self, *weights: float) -> None:
        super().__init__()
        self.linear = linear([weights], [0.5])

    def forward(self, x1: Tensor, x2: Tensor) -> Tensor:
        return self.linear(torch.cat([x1, x2], dim=1))


class ActivationsOfTwo(nn.Module):
    """2·φ(x₁) + 2·φ(x₂ − 3/2)."""

    def __init__(self, kind: type[nn.Module]) -> None:
        super().__init__()
        self.first, self.second = kind(), kind()

    def forward(self, x1: Tensor, x2: Tensor) -> Tensor:
        return 2 * self.first(x1) + 2 * self.second(x2 - 1.5)


class LinearReLULinear(nn.Module):
    def __init__(self, inplace: bool = False, factor: float = 1) -> None:
        super().__init__()
        self.l1, self.l2, self.l3 = linear([[3, 1, 0]]), linear([[2, 3, 0]]), linear([[1, 1]])
        self.factor, self.joined, self.relu = factor, Joined(), nn.ReLU(inplace)

    def forward(self, x1: Tensor, x2: Tensor) -> Tensor:
        return self.l3(self.relu(self.joined(self.l1(x1), self.factor * self.l2(x2))))


class LinearPoolLinear(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.lin1, self.pool1, self.lin2 = linear(torch.eye(4)), nn.MaxPool1d(4), linear([[1]])

    def forward(self, x: Tensor) -> Tensor:
        return self.lin2(self.pool1(self.lin1(x.unsqueeze(1)))[:, 0, :])


class PoolReLU(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.maxpool, self.relu = nn.MaxPool1d(3), nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        return self.relu(self.maxpool(x)).sum(dim=1)


class ConvNet(nn.Module):
    """Two convolutions of random weights, and dense layers of ones: the softmax at the end is a constant."""

    def __init__(self, axes: int = 2) -> None:
        super().__init__()
        torch.manual_seed(1234)
        conv = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}[axes]
        pool = {1: nn.MaxPool1d, 2: nn.MaxPool2d, 3: nn.MaxPool3d}[axes]
        self.conv1, self.relu1, self.pool1 = conv(1, 2, 3), nn.ReLU(), pool(2)
        self.conv2, self.relu2, self.pool2 = conv(2, 4, 3), nn.ReLU(), pool(2)
        self.fc1, self.relu3, self.fc2, self.softmax = nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 10), nn.Softmax(1)
        self.fc1.weight.data, self.fc2.weight.data = torch.ones(8, 4), torch.ones(10, 8)

    def forward(self, x: Tensor) -> Tensor:
        x = self.pool1(self.relu1(self.conv1(x)))
        x = self.pool2(self.relu2(self.conv2(x)))
        return self.softmax(self.fc2(self.relu3(self.fc1(x.flatten(1)))))


def dense(*sizes: int, last: type[nn.Module], ones: bool = False, bias: bool = True) -> nn.Module:
    """Dense layers of these sizes with ReLU between them, random or of ones."""
    torch.manual_seed(1234)
    layers: list[nn.Module] = []
    for inputs, outputs in pairwise(sizes):
        layers += [nn.Linear(inputs, outputs, bias=bias), nn.ReLU()]
        if ones:
            layers[-2].weight.data = torch.ones(outputs, inputs)
    return nn.Sequential(*layers[:-1], nn.Softmax(1) if last is nn.Softmax else last())


class TwoLinear(nn.Module):
    """Two dense layers without bias, as Captum's tests of LRP have them; ``odd``: the first weight."""

    def __init__(
        self, first: float = 2, second: float = 3, kind: Callable[[], nn.Module] = nn.ReLU, odd: float | None = None
    ):
        super().__init__()
        self.linear, self.act, self.linear2 = linear(all_of(first, 3, 3)), kind(), linear(all_of(second, 1, 3))
        if odd is not None:
            self.linear.weight.data[0, 0] = odd

    def forward(self, x: Tensor) -> Tensor:
        return self.linear2(self.act(self.linear(x)))


class TwoEmbeddings(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner_embedding, self.inner_embedding2 = nn.Embedding(30, 100), nn.Embedding(30, 100)

    def forward(self, ids: Tensor, others: Tensor) -> Tensor:
        return self.inner_embedding(ids) + self.inner_embedding2(others)


class Embeddings(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(1234)
        self.embedding1, self.embedding2 = nn.Embedding(30, 100), TwoEmbeddings()
        self.linear1, self.relu, self.linear2 = linear(all_of(1, 256, 100)), nn.ReLU(), linear(all_of(1, 1, 256), [0.5])

    def forward(self, ids: Tensor, others: Tensor, more: Tensor) -> Tensor:
        embeddings = self.embedding1(ids) + self.embedding2(others, more)
        return self.linear2(self.relu(self.linear1(embeddings))).sum(1)


class Skip(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = linear(all_of(5, 2, 2))

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(x) + x


def linear_pool() -> nn.Module:
    return nn.Sequential(linear(all_of(2, 2, 2)), nn.MaxPool1d(2))


MODELS: dict[str, Callable[[], nn.Module]] = {
    "layers": Layers,
    "layers inplace": partial(Layers, inplace=True),
    "layers frozen": partial(frozen, Layers),
    "layers pair": partial(Layers, pair=True),
    "layers of two": LayersOfTwo,
    "layers and a one": partial(LayersAndOnes, 1),
    "layers and ones": partial(LayersAndOnes, 2),
    "layers of booleans": LayersOfBooleans,
    **{f"layers of three × {scale}": partial(LayersOfThree, scale) for scale in (0.5, 1, 3, 4, 5)},
    "conv": OneConv,
    "conv frozen": partial(frozen, OneConv),
    "conv of two": OneConvOfTwo,
    "conv of two inplace": partial(OneConvOfTwo, inplace=True),
    "up to one": UpToOne,
    "up to one as float": UpToOneAsFloat,
    "up to one of sum": UpToOneOfSum,
    "first example": FirstExample,
    "second example": SecondExample,
    "second example as float": SecondExampleAsFloat,
    "divided[0]": partial(Divided, 0),
    "divided[1]": partial(Divided, 1),
    "weighted": Weighted,
    "embeddings": Embeddings,
    "linear of two": partial(LinearOfTwo, 0.3, -0.2, 0.1, 0.25, -0.35, 0.05, 0.15),
    "linear of seven and none": partial(LinearOfTwo, -8 / 23, 0.1, -0.3, -2 / 23, 0.2, 0.3, -8 / 23),
    "relu of two": partial(ActivationsOfTwo, nn.ReLU),
    "tanh of two": partial(ActivationsOfTwo, nn.Tanh),
    "linear relu linear": LinearReLULinear,
    "linear relu linear inplace": partial(LinearReLULinear, inplace=True),
    "linear relu linear × 3": partial(LinearReLULinear, factor=3),
    "linear pool linear": LinearPoolLinear,
    "pool relu": PoolReLU,
    **{f"conv net {axes}d": partial(ConvNet, axes) for axes in (1, 2, 3)},
    "softmax 5": partial(dense, 5, 20, 20, 10, last=nn.Softmax),
    "softmax 40": partial(dense, 40, 20, 20, 10, last=nn.Softmax),
    "sigmoid 20": partial(dense, 20, 5, 1, last=nn.Sigmoid),
    "sigmoid of ones": partial(dense, 20, 5, 1, last=nn.Sigmoid, ones=True, bias=False),
    "softmax 20 of ones": partial(dense, 20, 20, 20, 10, last=nn.Softmax, ones=True),
    "softmax 40 of ones": partial(dense, 40, 20, 20, 10, last=nn.Softmax, ones=True),
    "two linear": TwoLinear,
    "two linear inplace": partial(TwoLinear, kind=partial(nn.ReLU, True)),
    "two linear odd": partial(TwoLinear, odd=-2),
    "two linear tanh": partial(TwoLinear, 0.1, 0.1, nn.Tanh),
    "skip": Skip,
    "linear pool": linear_pool,
    "pool 2d": partial(nn.MaxPool2d, 2),
    "pool 3d": partial(nn.MaxPool3d, 2),
}

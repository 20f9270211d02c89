"""Rows computed on windows equal whole rows: every kind of operation, every method with a box, every kind of call."""

from __future__ import annotations

import io
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from torch import Tensor, nn  # noqa: E402
from torch.nn import functional as F  # noqa: E402

from explainers import Explainer, References, methods  # noqa: E402
from explainers.errors import InputError  # noqa: E402
from explainers.program import incremental, regions  # noqa: E402
from tests.contract import zoo  # noqa: E402


@pytest.fixture(autouse=True)
def always(monkeypatch: pytest.MonkeyPatch) -> None:
    """Small models, too, where it does not pay."""
    monkeypatch.setattr(incremental, "GAIN", 0.0)
    monkeypatch.setattr(regions, "MOST", 1.0)


class Net(nn.Module):
    """Layers one after the other, a mean over all places, and a dense layer."""

    def __init__(self, *layers: Any, channels: int = 6) -> None:
        super().__init__()
        self.layers = nn.ModuleList(part for part in layers if isinstance(part, nn.Module))
        self.parts = layers
        self.head = nn.Linear(channels, 3)

    def forward(self, x: Tensor) -> Tensor:
        for part in self.parts:
            x = part(x)
        return self.head(torch.tanh(x).flatten(2).mean(2)) if x.ndim > 2 else self.head(x)


class Skip(nn.Module):
    """x joined with a branch whose windows are wider."""

    def __init__(self, branch: nn.Module, join: Callable[[Tensor, Tensor], Tensor]) -> None:
        super().__init__()
        self.branch, self.join = branch, join

    def forward(self, x: Tensor) -> Tensor:
        return self.join(x, self.branch(x))


class Places(nn.Module):
    """A learnt number for each place, another for each channel, and a mask."""

    def __init__(self, channels: int, *sizes: int) -> None:
        super().__init__()
        self.places = nn.Parameter(torch.randn(sizes))
        self.channels = nn.Parameter(torch.randn(channels, *[1] * len(sizes)))
        self.register_buffer("mask", torch.rand(1, 1, *sizes) > 0.2)

    def forward(self, x: Tensor) -> Tensor:
        return torch.where(self.mask, x * self.channels + self.places, -x.abs())


class Attention(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(width, 2, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        rows = x.flatten(2).transpose(1, 2)
        return (rows + self.attention(rows, rows, rows)[0]).transpose(1, 2).reshape(x.shape)


def cat(x: Tensor, y: Tensor) -> Tensor:
    return torch.cat([x, y, x], 1)


class NormOfChannels(nn.LayerNorm):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.movedim(1, -1)).movedim(-1, 1)


def conv(*args: Any, **options: Any) -> nn.Module:
    return nn.Conv2d(*args, **options)


SIZE = 16
IMAGES: dict[str, Callable[[], Net]] = {
    "strides that skip": lambda: Net(conv(2, 6, 2, stride=3), nn.ReLU(), conv(6, 6, 1, stride=2)),
    "wide padding": lambda: Net(conv(2, 6, 5, padding=4), nn.GELU(), conv(6, 6, 3, padding=(2, 0))),
    "grouped and dilated": lambda: Net(conv(2, 6, 3, dilation=2, padding=2, groups=2), conv(6, 6, (1, 3), groups=3)),
    "same": lambda: Net(conv(2, 6, (4, 3), padding="same"), nn.SiLU(), conv(6, 6, 3, padding="valid")),
    "circular": lambda: Net(conv(2, 6, 3, padding=1, padding_mode="circular"), nn.ReLU(), conv(6, 6, 3)),
    "reflected": lambda: Net(conv(2, 6, 3, padding=1), nn.ReflectionPad2d(1), conv(6, 6, 3)),
    "max pools": lambda: Net(conv(2, 6, 3), nn.MaxPool2d(2, 1, dilation=2), nn.MaxPool2d(3, 2, 1)),
    "padded pool of negative numbers": lambda: Net(conv(2, 6, 3), lambda x: -x.exp(), nn.MaxPool2d(3, 2, 1)),
    "pool with a part of a window": lambda: Net(conv(2, 6, 3), nn.MaxPool2d(4, ceil_mode=True)),
    "pool that returns places": lambda: Net(conv(2, 6, 3), lambda x: F.max_pool2d(x, 2, return_indices=True)[0]),
    "pool whose places count": lambda: Net(
        conv(2, 6, 3), lambda x: sum(part.to(x.dtype) for part in F.max_pool2d(x, 2, return_indices=True))
    ),
    "average pools": lambda: Net(conv(2, 6, 3), nn.AvgPool2d(2), nn.AvgPool2d(3, 1, 1)),
    "average pools of what is there": lambda: Net(
        conv(2, 6, 3), nn.AvgPool2d(3, 1, 1, count_include_pad=False), nn.AvgPool2d(2, divisor_override=3)
    ),
    "adaptive": lambda: Net(conv(2, 6, 3, padding=1), nn.AdaptiveAvgPool2d(8), nn.AdaptiveAvgPool2d((8, 8))),
    "adaptive along one axis": lambda: Net(conv(2, 6, 3), nn.AdaptiveAvgPool2d((1, SIZE - 2)), conv(6, 6, (1, 3))),
    "mean of channels": lambda: Net(
        conv(2, 6, 3), lambda x: x - x.mean(1, keepdim=True) * x.sum(1)[:, None], conv(6, 6, 3)
    ),
    "uneven adaptive": lambda: Net(conv(2, 6, 3), nn.AdaptiveAvgPool2d((4, 3)), nn.AdaptiveMaxPool2d(2)),
    "batch norm": lambda: Net(conv(2, 6, 3), nn.BatchNorm2d(6), nn.Dropout(), nn.PReLU(6)),
    "residual": lambda: Net(
        conv(2, 6, 3, padding=1), Skip(conv(6, 6, 3, padding=1), torch.add), nn.ReLU(), conv(6, 6, 3)
    ),
    "residual with a stride": lambda: Net(
        Skip(conv(2, 2, 3, stride=1, padding=1), lambda x, y: x[:, :, ::2, 1::2] * y[:, :, ::2, 1::2]), conv(2, 6, 2)
    ),
    "concatenated": lambda: Net(Skip(conv(2, 2, 3, padding=1), cat), conv(6, 6, 3)),
    "split": lambda: Net(conv(2, 12, 3), nn.GLU(1), nn.ChannelShuffle(3), lambda x: torch.cat(x.chunk(2, 1)[::-1], 1)),
    "slices and padding": lambda: Net(
        lambda x: F.pad(x, (3, 0, -1, 2), value=0.7)[:, :, 1:-1, ::2], conv(2, 6, 3), lambda x: x[:, :, :, 0]
    ),
    "upsampled": lambda: Net(conv(2, 6, 3, stride=2), nn.Upsample(scale_factor=(2, 3)), conv(6, 6, 3)),
    "bilinear": lambda: Net(conv(2, 6, 3), nn.Upsample(scale_factor=2, mode="bilinear"), conv(6, 6, 3)),
    "transposed": lambda: Net(
        nn.ConvTranspose2d(2, 6, 3, 2, 1, output_padding=1), nn.ReLU(), nn.ConvTranspose2d(6, 6, 2)
    ),
    "transposed with gaps": lambda: Net(
        nn.ConvTranspose2d(2, 6, 2, (3, 1), dilation=(1, 2)), nn.ConvTranspose2d(6, 6, 1, 4, groups=2), conv(6, 6, 2)
    ),
    "places": lambda: Net(conv(2, 6, 3, padding=1), Places(6, SIZE, SIZE), conv(6, 6, 3)),
    "channels last": lambda: Net(conv(2, 6, 3), NormOfChannels(6), conv(6, 6, 3), lambda x: x.softmax(1)),
    "norm over places": lambda: Net(conv(2, 6, 3), nn.GroupNorm(2, 6), conv(6, 6, 3)),
    "norm over a row": lambda: Net(conv(2, 6, 3, padding=1), nn.LayerNorm(SIZE), conv(6, 6, 3)),
    "attention": lambda: Net(conv(2, 6, 3, stride=2), Attention(6), conv(6, 6, 2)),
    "mean over rows": lambda: Net(conv(2, 6, 3), nn.ReLU(), lambda x: x.mean(2) + x.sum(-2), nn.Conv1d(6, 6, 3)),
    "positive places counted": lambda: Net(conv(2, 6, 3), lambda x: x * (x > 0).sum(2, keepdim=True) / 9),
    "bytes summed": lambda: Net(conv(2, 6, 3), lambda x: x * (3 * x.abs()).to(torch.uint8).sum(2, keepdim=True)),
    "maximum": lambda: Net(conv(2, 6, 3), lambda x: x.amax((2, 3))),
    "flat": lambda: Net(conv(2, 6, 3), nn.Flatten(), nn.Linear(6 * (SIZE - 2) ** 2, 6)),
    "reshaped": lambda: Net(
        conv(2, 6, 3),
        lambda x: x.view(-1, 2, 3, SIZE - 2, SIZE - 2).transpose(1, 2).reshape(-1, 6, SIZE - 2, SIZE - 2),
        conv(6, 6, 3),
    ),
    "one place at a time": lambda: Net(
        lambda x: x.permute(0, 2, 3, 1), nn.Linear(2, 6), lambda x: x.permute(0, 3, 1, 2).exp()
    ),
}
NEVER = {"circular"}  # whose windows may wrap, from the first operation on
WHOLE = {
    "average pools of what is there",
    "pool whose places count",
    "circular",
    "reflected",
    "uneven adaptive",
    "bilinear",
    "norm over places",
    "attention",
    "maximum",
    "flat",
}


def built(make: Callable[[], nn.Module], seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    model = make().double().eval()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_(), module.running_var.uniform_(0.5, 2)
            nn.init.normal_(module.weight), nn.init.normal_(module.bias)
    return model


def rules(explain: Explainer) -> set[str]:
    return {row.rule for row in explain.coverage if row.op != "aten.sym_size.int"}


def agree(
    model: nn.Module, method: Any, x: Any, atol: float = 1e-12, calls: Any = None, windows: bool = True, **options: Any
) -> Explainer:  # fmt: skip
    """Compile it on windows and whole, compare calls, and return the first."""
    examples = x if isinstance(x, tuple) else (x,)
    explain = Explainer.compile(model, method, inputs=x, **options)
    whole = Explainer.compile(model, method, inputs=x, incremental=False, **options)
    assert rules(whole) == {"forward only"}
    assert ("windows" in rules(explain)) is windows
    for call in calls or ({"target": 1}, {"target": "all"}):
        got, want = (np.asarray(each(*examples, **call)) for each in (explain, whole))
        assert abs(want).max() > 1e-7
        np.testing.assert_allclose(got, want, atol=atol * max(1, abs(want).max()), rtol=0)
    return explain


@pytest.mark.parametrize("name", IMAGES)
def test_images(name: str) -> None:
    x = torch.randn(2, 2, SIZE, SIZE, dtype=torch.float64)
    calls = [{"target": 1}, {"target": "all", "batch_size": 13}]
    method = methods.Occlusion((2, 3, 2), (2, 3, 2))
    explain = agree(built(IMAGES[name]), method, x, calls=calls, windows=name not in NEVER)
    last = {"aten.view.default", "aten.mean.dim", "aten.linear.default", "aten.tanh.default"}
    inside = [row for row in explain.coverage if row.op not in last and row.rule != "once per sample"]
    assert name in WHOLE or {row.rule for row in inside} == {"windows"}


def one_hot(count: int, length: int) -> Tensor:
    letters = torch.from_numpy(np.random.default_rng(3).integers(0, 4, (count, length)))
    return F.one_hot(letters, 4).transpose(1, 2).double()


class Dilated(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv1d(4, 8, 5, padding=2)
        self.body = nn.ModuleList(nn.Conv1d(8, 8, 3, padding=2**i, dilation=2**i) for i in range(5))
        self.pool, self.head = nn.MaxPool1d(2), nn.Linear(8, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.stem(x))
        for layer in self.body:
            x = x + F.gelu(layer(x))
        return self.head(F.avg_pool1d(self.pool(x), 2).mean(2))


class Volumes(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Conv3d(1, 3, 3, padding=1), nn.Conv3d(3, 3, 2)
        self.pool, self.head = nn.MaxPool3d(2), nn.Linear(3, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.b(self.pool(F.relu(F.avg_pool3d(self.a(x), 2, 1))))
        return self.head(x.mean((2, 3, 4)))


class Words(nn.Module):
    """A convolutional classifier of tokens, with a place for each."""

    def __init__(self) -> None:
        super().__init__()
        self.table, self.places = nn.Embedding(30, 6), nn.Parameter(torch.randn(20, 6))
        self.conv, self.head = nn.Conv1d(6, 8, 3), nn.Linear(8, 3)

    def forward(self, ids: Tensor) -> Tensor:
        x = self.table(ids) + self.places
        return self.head(torch.tanh(self.conv(x.transpose(1, 2))).sum(2))


@pytest.mark.parametrize(
    "method", ["ism", "feature_ablation", methods.Occlusion((4, 5), (4, 2)), methods.Occlusion((1, 3))]
)
def test_sequences(method: Any) -> None:
    agree(built(Dilated), method, one_hot(3, 40))


def test_volumes() -> None:
    agree(built(Volumes), methods.Occlusion((1, 2, 3, 2), 1), torch.randn(2, 1, 7, 8, 6, dtype=torch.float64))


def test_tokens() -> None:
    agree(built(Words), "feature_ablation", torch.randint(0, 30, (3, 20)), baseline=0)
    agree(built(Words), methods.Occlusion(3, 2), torch.randint(0, 30, (3, 20)), baseline=7)


def test_groups_of_any_shape() -> None:
    x = torch.randn(2, 2, SIZE, SIZE, dtype=torch.float64)
    tiles = np.arange(SIZE)[:, None] // 4 * 6 + np.arange(SIZE) // 3
    odd = np.random.default_rng(0).permutation(np.arange(SIZE**2) // SIZE).reshape(SIZE, SIZE)
    odd[:, 6:] = odd[:, 5:6]
    agree(built(IMAGES["residual"]), methods.FeatureAblation(tiles[None]), x)
    model = built(IMAGES["residual"])
    whole = Explainer.compile(model, methods.FeatureAblation(odd[None]), inputs=x)  # features all over the image
    assert "windows" not in rules(whole)
    at_the_call = Explainer.compile(model, "feature_ablation", inputs=x)  # whose kernel is another one
    groups = np.broadcast_to(tiles, (2, 2, SIZE, SIZE)).copy()
    want = Explainer.compile(model, methods.FeatureAblation(tiles[None]), inputs=x, incremental=False)(x, target=0)
    np.testing.assert_allclose(at_the_call(x, target=0, groups=groups), want, atol=1e-12)


def test_baselines_of_every_kind() -> None:
    x = torch.randn(3, 2, SIZE, SIZE, dtype=torch.float64)
    model, method = built(IMAGES["residual"]), methods.Occlusion((2, 3, 3), (2, 3, 3))
    rng = np.random.default_rng(0)
    kinds = [
        0.5,
        rng.normal(size=(2, SIZE, SIZE)),
        References(rng.normal(size=(3, 1, 2, SIZE, SIZE)), per_sample=True),
        References(rng.normal(size=(4, 2, SIZE, SIZE))),
        References(rng.normal(size=(3, 4, 2, SIZE, SIZE)) * 1e6, per_sample=True),
    ]
    for baseline in kinds:
        agree(model, method, x, calls=[{"target": [0, 1, 2], "baseline": baseline}])


def test_a_second_input_and_one_that_is_not_attributed() -> None:
    class Two(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b, self.head = nn.Conv2d(2, 4, 3, padding=1), nn.Conv2d(4, 4, 3), nn.Linear(4, 2)

        def forward(self, x: Tensor, places: Tensor, each: Tensor) -> Tensor:
            x = F.relu(self.a(x) + places[:, None]) * each[:, :, None, None]
            return self.head(self.b(x).mean((2, 3)) + each)

    given = [torch.randn(3, *shape, dtype=torch.float64) for shape in ((2, SIZE, SIZE), (SIZE, SIZE), (4,))]
    agree(built(Two), methods.Occlusion((2, 3, 3)), tuple(given), wrt="x")
    both = Explainer.compile(built(Two), methods.Occlusion(((2, 3, 3), 3)), inputs=tuple(given), wrt=("x", "places"))
    assert "windows" not in rules(both)  # rows that change one of several inputs are computed whole


def test_layers_and_outputs() -> None:
    model = built(IMAGES["residual"])
    x = torch.randn(2, 2, SIZE, SIZE, dtype=torch.float64)
    agree(model, methods.Occlusion((6, 3, 3), (6, 2, 2)), x, wrt="layers.0")
    agree(
        model, methods.Occlusion((2, 3, 3)), x, output="layers.1", calls=[{"target": (2, 5, 7)}, {"target": (0, 0, 0)}]
    )


def test_files_and_engines() -> None:
    x = torch.randn(2, 2, SIZE, SIZE, dtype=torch.float64)
    explain = agree(built(IMAGES["transposed"]), methods.Occlusion(3), x)
    again = agree(built(IMAGES["transposed"]), methods.Occlusion(3), x, engine="inductor", batch_size=32)
    held = io.BytesIO()
    explain.save(held)
    loaded = Explainer.load(io.BytesIO(held.getvalue()))
    assert str(loaded.coverage) == str(explain.coverage)
    np.testing.assert_array_equal(loaded(x, target=0), explain(x, target=0))
    np.testing.assert_allclose(again(x, target=0), explain(x, target=0), atol=1e-12)
    whole = io.BytesIO()
    Explainer.compile(built(IMAGES["transposed"]), methods.Occlusion(3), inputs=x, incremental=False).save(whole)
    assert rules(Explainer.load(io.BytesIO(whole.getvalue()))) == {"forward only"}


def test_weights_that_change() -> None:
    x = torch.randn(1, 2, SIZE, SIZE, dtype=torch.float64)
    model = built(IMAGES["residual"])
    explain = Explainer.compile(model, methods.Occlusion(3), inputs=x)
    explain(x, target=0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(1.5)
    fresh = Explainer.compile(model, methods.Occlusion(3), inputs=x, incremental=False)
    np.testing.assert_allclose(explain(x, target=0), fresh(x, target=0), atol=1e-12)


@pytest.mark.parametrize("label", ["torch-cnn_softmax", "torch-residual"])
@pytest.mark.parametrize("scale", [1, 30])
def test_trained_networks(label: str, scale: float) -> None:
    """float32, as users have it, with a sharp softmax: within rounding of the output, not of the sum."""
    model, x = zoo.network(label, "float32", scale), torch.as_tensor(zoo.data(label).x[:4])
    method = methods.Occlusion(2 if x.ndim == 4 else (x.shape[1], 3))
    explain = Explainer.compile(model, method, inputs=x)
    whole = Explainer.compile(model, method, inputs=x, incremental=False)
    assert "windows" in rules(explain)
    got, want = (np.asarray(each(x, target="all"), np.float64) for each in (explain, whole))
    assert abs(want).max() > 1e-3
    np.testing.assert_allclose(got, want, atol=1e-5 * max(1, abs(np.asarray(model(x).detach())).max()), rtol=0)


def test_only_where_it_pays(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    x = torch.randn(1, 3, 64, 64)
    convolutional = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 8, 3), nn.Flatten(), nn.Linear(28800, 2))
    dense = nn.Sequential(nn.Conv2d(3, 2, 3), nn.Flatten(), nn.Linear(7688, 2000))
    for model, windows in ((convolutional, True), (dense, False)):
        explain = Explainer.compile(model.eval(), methods.Occlusion((3, 8, 8), (3, 8, 8)), inputs=x)
        assert ("windows" in rules(explain)) is windows
    few = Explainer.compile(convolutional, methods.Occlusion((3, 32, 32), (3, 32, 32)), inputs=x)
    assert "windows" not in rules(few)  # of four rows, a sample's own activations would be a fifth of the work
    with pytest.raises(InputError, match="incremental must be 'auto' or False; got 'yes'"):
        Explainer.compile(convolutional, "occlusion", inputs=x, incremental="yes")


def test_infinities_stay_where_they_are() -> None:
    """A mask of −inf outside of the windows is not subtracted from itself."""

    class Masked(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv1d(2, 3, 3, padding=1)

        def forward(self, x: Tensor) -> Tensor:
            scores = self.conv(x).masked_fill(torch.arange(20) > 17, -math.inf)
            return scores.exp().mean(2)

    agree(built(Masked), methods.Occlusion((2, 3)), torch.randn(2, 2, 20, dtype=torch.float64))


def test_a_large_value_that_leaves_a_mean_of_small_ones() -> None:
    """In single precision (1e7 + 0.3) − 1e7 is not 0.3, and the sigmoid behind would show it."""

    class Bright(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return torch.sigmoid(F.relu(x).mean((2, 3)) * 3 - 1)

    x = torch.rand(2, 2, SIZE, SIZE)
    x[:, :, 5, 5] = 1e9
    found, whole = (
        Explainer.compile(Bright(), methods.Occlusion((2, 2, 2), (2, 2, 2)), inputs=x, incremental=incremental)
        for incremental in ("auto", False)
    )
    assert rules(found) == {"windows", "whole"}
    got, want = (np.asarray(each(x, target=1)) for each in (found, whole))
    assert abs(want).max() > 0.1
    np.testing.assert_allclose(got, want, atol=1e-6)


def test_small_packages_are_computed_whole() -> None:
    x = torch.randn(1, 2, SIZE, SIZE)
    model = built(IMAGES["residual"]).float()
    explain = Explainer.compile(model, methods.Occlusion(3), inputs=x, batch_size=4)
    assert rules(explain) == {"forward only"}

"""Operations of torch, each as a small branch between two dense layers; several branches make one net."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

FEATURES, CLASSES = 10, 3


@dataclass(frozen=True)
class Operation:
    """``make()`` → what is run on a tensor of ``shape`` (without batch axis), a module or a function."""

    shape: tuple[int, ...]
    make: Callable[[], Callable[[Tensor], Tensor]]


class Branch(nn.Module):
    """dense → operation → dense."""

    def __init__(self, operation: Operation) -> None:
        super().__init__()
        self.shape = operation.shape
        self.spread = nn.Linear(FEATURES, int(torch.Size(operation.shape).numel()))
        self.operation = operation.make()
        self.head = nn.Linear(self.middle(torch.zeros(1, FEATURES)).shape[1], CLASSES)

    def middle(self, x: Tensor) -> Tensor:
        return self.operation(self.spread(x).unflatten(1, self.shape)).reshape(x.shape[0], -1)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.middle(x))


class Net(nn.Module):
    """The sum of its branches."""

    def __init__(self, operations: Sequence[Operation]) -> None:
        super().__init__()
        self.branches = nn.ModuleList(map(Branch, operations))

    def forward(self, x: Tensor) -> Tensor:
        return sum(branch(x) for branch in self.branches)  # type: ignore[return-value]


def net(operations: Sequence[Operation], dtype: str) -> nn.Module:
    """Reproducible weights; norms with weights, biases and running statistics of no special value."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(2)
        made = Net(operations)
        for name, parameter in made.named_parameters():
            if parameter.ndim == 1 and "operation" in name:
                nn.init.uniform_(parameter, 0.5, 1.5)
        for name, buffer in made.named_buffers():
            if buffer.is_floating_point() and "running" in name:
                nn.init.uniform_(buffer, 0.5, 1.5)
    return made.to(getattr(torch, dtype)).eval()


class Recurrent(nn.Module):
    """All outputs of a recurrent module, which takes (batch, time, …) or (time, batch, …)."""

    def __init__(self, kind: Callable[..., nn.Module], **options: Any) -> None:
        super().__init__()
        self.batch_first = options.get("batch_first", False)
        self.inner = kind(3, 4, **options)

    def forward(self, x: Tensor) -> Tensor:
        return self.inner(x)[0] if self.batch_first else self.inner(x.transpose(0, 1))[0].transpose(0, 1)


class Cell(nn.Module):
    def __init__(self, kind: Callable[..., nn.Module]) -> None:
        super().__init__()
        self.inner = kind(3, 4)

    def forward(self, x: Tensor) -> Tensor:
        state: Any = None
        for step in x.unbind(1):
            state = self.inner(step, state)
        return state[0] if isinstance(state, tuple) else state


class Attention(nn.Module):
    def __init__(self, **options: Any) -> None:
        super().__init__()
        self.batch_first = options.get("batch_first", False)
        self.inner = nn.MultiheadAttention(6, 2, **options)

    def forward(self, x: Tensor) -> Tensor:
        x = x if self.batch_first else x.transpose(0, 1)
        x = self.inner(x, x, x, need_weights=False)[0]
        return x if self.batch_first else x.transpose(0, 1)


class Decoder(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.TransformerDecoderLayer(6, 2, 8, dropout=0.0, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        return self.inner(x[:, :2], x[:, 2:])


def encoder(**options: Any) -> nn.Module:
    return nn.TransformerEncoderLayer(6, 2, 8, dropout=0.0, **{"batch_first": True, **options})


class TimeFirst(nn.Module):
    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x: Tensor) -> Tensor:
        return self.inner(x.transpose(0, 1)).transpose(0, 1)


class Pairwise(nn.Module):
    """A function of the two halves of the first axis."""

    def __init__(self, function: Callable[[Tensor, Tensor], Tensor]) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        return self.function(*x.chunk(2, 1))


class Bilinear(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Bilinear(2, 2, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.inner(*x.chunk(2, 1))


def each(shape: tuple[int, ...], **functions: Callable[[Tensor], Tensor]) -> dict[str, Operation]:
    return {name: Operation(shape, lambda f=f: f) for name, f in functions.items()}  # type: ignore[misc]


def pairs(shape: tuple[int, ...], **functions: Callable[[Tensor, Tensor], Tensor]) -> dict[str, Operation]:
    return {name: Operation(shape, lambda f=f: Pairwise(f)) for name, f in functions.items()}  # type: ignore[misc]


def modules(shape: tuple[int, ...], **makers: Callable[[], nn.Module]) -> dict[str, Operation]:
    return {name: Operation(shape, make) for name, make in makers.items()}


VECTOR, MATRIX, LINE, IMAGE, VOLUME, SEQUENCE = (4,), (4, 6), (4, 9), (4, 6, 6), (2, 4, 5, 4), (5, 3)
KEEP = torch.tensor([True, False, True, True])
ORDER = torch.tensor([2, 0, 3, 1])
STEPPED = {"stride": 2, "padding": 1}

OPERATIONS: dict[str, dict[str, Operation]] = {
    "activations": {
        **each(
            VECTOR, relu=F.relu, relu6=F.relu6, leaky_relu=F.leaky_relu, elu=F.elu, celu=F.celu, selu=F.selu,
            gelu=F.gelu, gelu_tanh=lambda x: F.gelu(x, approximate="tanh"), silu=F.silu, mish=F.mish,
            softplus=F.softplus, softsign=F.softsign, sigmoid=torch.sigmoid, logsigmoid=F.logsigmoid, tanh=torch.tanh,
            hardtanh=F.hardtanh, hardsigmoid=F.hardsigmoid, hardswish=F.hardswish, hardshrink=F.hardshrink,
            softshrink=F.softshrink, tanhshrink=F.tanhshrink, threshold=lambda x: F.threshold(x, 0.1, -0.3),
            rrelu=F.rrelu, glu=lambda x: F.glu(x, 1),
        ),
        **modules(VECTOR, prelu=nn.PReLU),
    },
    "functions": each(
        VECTOR, exp=torch.exp, log=lambda x: torch.log(x + 10), log1p=lambda x: torch.log1p(x + 9),
        expm1=torch.expm1, sqrt=lambda x: torch.sqrt(x + 10), rsqrt=lambda x: torch.rsqrt(x + 10),
        reciprocal=lambda x: 1 / (x + 10), abs=torch.abs, square=torch.square, by_itself=lambda x: x * x,
        pow_2=lambda x: x**2, pow_3=lambda x: x**3, pow_half=lambda x: (x + 10) ** 1.5, base=lambda x: 2**x,
        sin=torch.sin, cos=torch.cos, atan=torch.atan, asinh=torch.asinh, sinh=torch.sinh, cosh=torch.cosh,
        erf=torch.erf, clamp=lambda x: x.clamp(-0.2, 0.3), clamp_min=lambda x: x.clamp(min=0.1),
        neg=lambda x: -x, quadratic=lambda x: x * x + 3 * x * torch.tanh(x) - 1,
    ),
    "softmax": each(
        MATRIX, softmax=lambda x: x.softmax(-1), softmax_axis=lambda x: x.softmax(1), softmin=lambda x: F.softmin(x, 2),
        log_softmax=lambda x: x.log_softmax(-1), logsumexp=lambda x: x.logsumexp(2),
        masked_softmax=lambda x: x.masked_fill(~KEEP[:, None], -torch.inf).softmax(1),
        attention=lambda x: F.scaled_dot_product_attention(x, x.flip(2), x * 2),
        causal=lambda x: F.scaled_dot_product_attention(x, x + 1, x, is_causal=True),
    ),
    "norms": {
        **modules(
            IMAGE, batch=lambda: nn.BatchNorm2d(4), group=lambda: nn.GroupNorm(2, 4),
            instance=lambda: nn.InstanceNorm2d(4, affine=True),
            instance_tracked=lambda: nn.InstanceNorm2d(4, affine=True, track_running_stats=True),
        ),
        **modules(
            MATRIX, layer=lambda: nn.LayerNorm(6), layer_of_two=lambda: nn.LayerNorm((4, 6)),
            rms=lambda: nn.RMSNorm(6), instance1d=lambda: nn.InstanceNorm1d(4), batch1d=lambda: nn.BatchNorm1d(4),
        ),
        **each(
            MATRIX, normalize=lambda x: F.normalize(x, dim=2), norm=lambda x: x.norm(dim=2),
            norm1=lambda x: x.norm(p=1, dim=2), var=lambda x: x.var(2), std=lambda x: x.std((1, 2)),
            response=lambda x: F.local_response_norm(x, 3),
        ),
    },
    "convolutions": {
        **modules(
            LINE, conv1d=lambda: nn.Conv1d(4, 5, 3), conv1d_same=lambda: nn.Conv1d(4, 5, 3, padding="same"),
            transposed1d=lambda: nn.ConvTranspose1d(4, 3, 3, stride=2),
        ),
        **modules(
            IMAGE, conv2d=lambda: nn.Conv2d(4, 5, 3, **STEPPED), dilated=lambda: nn.Conv2d(4, 5, 2, dilation=2),
            depthwise=lambda: nn.Conv2d(4, 8, 3, groups=4),
            grouped=lambda: nn.Conv2d(4, 6, (1, 3), groups=2, bias=False),
            reflected=lambda: nn.Conv2d(4, 3, 3, padding=1, padding_mode="reflect"),
            circular=lambda: nn.Conv2d(4, 3, 3, padding=1, padding_mode="circular"),
            transposed2d=lambda: nn.ConvTranspose2d(4, 6, 3, **STEPPED, groups=2, output_padding=1),
        ),
        **modules(
            VOLUME, conv3d=lambda: nn.Conv3d(2, 3, 2, **STEPPED), transposed3d=lambda: nn.ConvTranspose3d(2, 3, 2),
        ),
    },
    "pools": {
        **each(
            LINE, max1d=lambda x: F.max_pool1d(x, 3, 2), average1d=lambda x: F.avg_pool1d(x, 3, 2),
            adaptive_average1d=lambda x: F.adaptive_avg_pool1d(x, 2),
            adaptive_max1d=lambda x: F.adaptive_max_pool1d(x, 2),
        ),
        **each(
            IMAGE, max2d=lambda x: F.max_pool2d(x, 2), max_overlapping=lambda x: F.max_pool2d(x, 3, 1, 1),
            max_dilated=lambda x: F.max_pool2d(x, 2, 2, dilation=2),
            max_ceil=lambda x: F.max_pool2d(x, 4, 3, ceil_mode=True),
            average2d=lambda x: F.avg_pool2d(x, 3, 2, 1, count_include_pad=False), lp=lambda x: F.lp_pool2d(x, 2, 2),
            adaptive_average2d=lambda x: F.adaptive_avg_pool2d(x, (3, 2)), global_average=lambda x: x.mean((2, 3)),
            adaptive_max2d=lambda x: F.adaptive_max_pool2d(x, (4, 2)), global_max=lambda x: x.amax((2, 3)),
        ),
        **each(
            VOLUME, max3d=lambda x: F.max_pool3d(x, 2, (1, 2, 1)), average3d=lambda x: F.avg_pool3d(x, 2),
            adaptive_average3d=lambda x: F.adaptive_avg_pool3d(x, 2),
            adaptive_max3d=lambda x: F.adaptive_max_pool3d(x, 1),
        ),
    },
    "extremes": {
        **each(
            MATRIX, amax=lambda x: x.amax(2), amin=lambda x: x.amin(1), max=lambda x: x.max(2)[0],
            min=lambda x: x.min(1)[0], amax_kept=lambda x: x - x.amax(2, keepdim=True),
        ),
        **pairs(VECTOR, maximum=torch.maximum, minimum=torch.minimum, fmax=torch.fmax),
    },
    "shapes": {
        **each(
            IMAGE, nearest=lambda x: F.interpolate(x, scale_factor=2),
            bilinear=lambda x: F.interpolate(x, size=(4, 9), mode="bilinear"),
            bicubic=lambda x: F.interpolate(x, size=(4, 9), mode="bicubic", align_corners=True),
            shuffle=lambda x: F.pixel_shuffle(x, 2), unshuffle=lambda x: F.pixel_unshuffle(x, 2),
            pad=lambda x: F.pad(x, (1, 2, 0, 1), value=0.7),
            pad_reflected=lambda x: F.pad(x, (1, 2, 2, 1), mode="reflect"),
            pad_repeated=lambda x: F.pad(x, (1, 2, 0, 1), mode="replicate"), crop=lambda x: F.pad(x, (-1, -2, 0, 1)),
            unfold=lambda x: F.unfold(x, 3), flip=lambda x: x.flip(1, 3), roll=lambda x: x.roll(2, 3),
        ),
        **each(VOLUME, trilinear=lambda x: F.interpolate(x, size=(5, 3, 3), mode="trilinear")),
        **each(
            MATRIX, cumsum=lambda x: x.cumsum(2), chosen=lambda x: x[:, ORDER], triangle=lambda x: x.tril(),
            joined=lambda x: torch.cat([x[:, :2], x[:, 1:] * 2], 1), stacked=lambda x: torch.stack(x.unbind(1), 2),
            repeated=lambda x: x.repeat(1, 2, 1), where=lambda x: torch.where(KEEP[:, None], x, -2 * x),
            masked=lambda x: x.masked_fill(KEEP[:, None], 0.5), expanded=lambda x: x[:, :, :1].expand(-1, -1, 3),
            mean=lambda x: x.mean(1), sum=lambda x: x.sum((1, 2)), diagonal=lambda x: x.diagonal(0, 1, 2),
            einsum=lambda x: torch.einsum("nij,i->nj", x, ORDER.to(x)),
        ),
    },
    "products": {
        **pairs(
            VECTOR, mul=torch.mul, div=lambda x, y: x / (y + 10), over_square=lambda x, y: x / (1 + y * y),
            squared_difference=lambda x, y: (x - y) ** 2, distance=F.pairwise_distance,
            power=lambda x, y: (x + 10) ** y,
            hypot=lambda x, y: (x * x + y * y + 1).sqrt(), gate=lambda x, y: F.silu(x) * y,
            lerp=lambda x, y: x.lerp(y, 0.3),
            addcmul=lambda x, y: torch.addcmul(x, x, y, value=2), where=lambda x, y: torch.where(KEEP[:2], x, y),
            triple=lambda x, y: x * y * (x + y), fmod=lambda x, y: torch.fmod(x, y.abs() + 1), atan2=torch.atan2,
        ),
        **pairs(
            MATRIX, matmul=lambda x, y: x @ y.transpose(1, 2), einsum=lambda x, y: torch.einsum("nij,nkj->nik", x, y),
            cosine=lambda x, y: F.cosine_similarity(x, y, dim=2), outer=lambda x, y: x[..., None] * y[:, :, None],
            broadcast=lambda x, y: torch.mul(*torch.broadcast_tensors(x, y.mean(2, keepdim=True))),
        ),
        **modules(VECTOR, bilinear=Bilinear),
    },
    "recurrent": modules(
        SEQUENCE,
        lstm=lambda: Recurrent(nn.LSTM, batch_first=True, bidirectional=True),
        lstm_time_first=lambda: Recurrent(nn.LSTM, num_layers=2),
        lstm_projected=lambda: Recurrent(nn.LSTM, batch_first=True, proj_size=2),
        gru=lambda: Recurrent(nn.GRU, batch_first=True),
        gru_time_first=lambda: Recurrent(nn.GRU, bidirectional=True),
        rnn=lambda: Recurrent(nn.RNN, batch_first=True, bidirectional=True),
        rnn_relu=lambda: Recurrent(nn.RNN, nonlinearity="relu"),
        lstm_cell=lambda: Cell(nn.LSTMCell),
        gru_cell=lambda: Cell(nn.GRUCell),
    ),
    "attention": modules(
        MATRIX,
        multihead=lambda: Attention(batch_first=True),
        multihead_time_first=Attention,
        multihead_bias=lambda: Attention(batch_first=True, add_bias_kv=True, add_zero_attn=True),
        encoder=encoder,
        encoder_norm_first=lambda: encoder(norm_first=True, activation="gelu"),
        encoder_time_first=lambda: TimeFirst(encoder(batch_first=False)),
        decoder=Decoder,
        stack=lambda: nn.TransformerEncoder(encoder(), 2, enable_nested_tensor=False),
    ),
}  # fmt: skip

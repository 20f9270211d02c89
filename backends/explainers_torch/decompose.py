"""Decompositions of composite operations into ones that rules know: a table for torch.export."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch._decomp import decompositions

aten = torch.ops.aten


def _affine(y: Tensor, weight: Tensor | None, bias: Tensor | None) -> Tensor:
    y = y if weight is None else y * weight
    return y if bias is None else y + bias


def _column(vector: Tensor | None, x: Tensor) -> Tensor | None:
    """One number per channel, reshaped to broadcast against (N, C, …)."""
    return None if vector is None else vector.reshape(-1, *([1] * (x.ndim - 2)))


def _standardized(x: Tensor, axes: list[int], eps: float) -> tuple[Tensor, Tensor, Tensor]:
    """(x − mean)·rsqrt(var + eps), the mean and the rsqrt."""
    mean = x.mean(axes, keepdim=True)
    centred = x - mean
    scale = torch.rsqrt((centred * centred).mean(axes, keepdim=True) + eps)
    return centred * scale, mean, scale


def _last(shape: Sequence[int]) -> list[int]:
    return list(range(-len(shape), 0))


def layer_norm(
    x: Tensor, shape: list[int], weight: Tensor | None = None, bias: Tensor | None = None, eps: float = 1e-5,
    cudnn_enable: bool = True,
) -> Tensor:  # fmt: skip
    return _affine(_standardized(x, _last(shape), eps)[0], weight, bias)


def native_layer_norm(
    x: Tensor, shape: list[int], weight: Tensor | None, bias: Tensor | None, eps: float
) -> tuple[Tensor, Tensor, Tensor]:
    y, mean, scale = _standardized(x, _last(shape), eps)
    return _affine(y, weight, bias), mean, scale


def rms_norm(x: Tensor, shape: list[int], weight: Tensor | None = None, eps: float | None = None) -> Tensor:
    eps = torch.finfo(x.dtype).eps if eps is None else eps
    return _affine(x * torch.rsqrt((x * x).mean(_last(shape), keepdim=True) + eps), weight, None)


def group_norm(
    x: Tensor, groups: int, weight: Tensor | None = None, bias: Tensor | None = None, eps: float = 1e-5,
    cudnn_enabled: bool = True,
) -> Tensor:  # fmt: skip
    channels, rest = x.shape[1], x.shape[2:]
    grouped = x.reshape(x.shape[0], groups, channels // groups, *rest)
    y = _standardized(grouped, list(range(2, grouped.ndim)), eps)[0].reshape(x.shape)
    column = (channels, *([1] * len(rest)))
    return _affine(
        y, None if weight is None else weight.reshape(column), None if bias is None else bias.reshape(column)
    )


def native_group_norm(
    x: Tensor, weight: Tensor | None, bias: Tensor | None, n: Any, c: Any, hxw: Any, groups: int, eps: float
) -> tuple[Tensor, Tensor, Tensor]:
    y = group_norm(x, groups, weight, bias, eps)
    nothing = x.new_zeros((x.shape[0], groups))
    return y, nothing, nothing


def instance_norm(
    x: Tensor, weight: Tensor | None, bias: Tensor | None, running_mean: Tensor | None, running_var: Tensor | None,
    use_input_stats: bool, momentum: float, eps: float, cudnn_enabled: bool,
) -> Tensor:  # fmt: skip
    column = (-1, *([1] * (x.ndim - 2)))
    if use_input_stats or running_mean is None or running_var is None:
        y = _standardized(x, list(range(2, x.ndim)), eps)[0]
    else:
        y = (x - running_mean.reshape(column)) * torch.rsqrt(running_var + eps).reshape(column)
    return _affine(
        y, None if weight is None else weight.reshape(column), None if bias is None else bias.reshape(column)
    )


def attention(
    q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None, dropout_p: float = 0.0, is_causal: bool = False,
    scale: float | None = None, enable_gqa: bool = False,
) -> Tensor:  # fmt: skip
    if enable_gqa:
        k = k.repeat_interleave(q.shape[-3] // k.shape[-3], -3)
        v = v.repeat_interleave(q.shape[-3] // v.shape[-3], -3)
    scores = torch.matmul(q, k.transpose(-2, -1)) * (1 / math.sqrt(q.shape[-1]) if scale is None else scale)
    if is_causal:
        mask = torch.ones(q.shape[-2], k.shape[-2], dtype=torch.bool, device=q.device).tril()
    if mask is not None and mask.dtype is torch.bool:
        scores = scores.masked_fill(~mask, -math.inf)
    elif mask is not None:
        scores = scores + mask
    if mask is None or is_causal:
        return torch.matmul(torch.softmax(scores, -1), v)
    return torch.matmul(aten._safe_softmax(scores, -1), v)  # a query without any visible key gets 0


def _variance(x: Tensor, dim: Any, correction: Any, keepdim: bool) -> tuple[Tensor, Tensor]:
    axes = list(range(x.ndim)) if dim is None or dim == [] else [dim] if isinstance(dim, int) else list(dim)
    count = math.prod(x.shape[axis] for axis in axes)
    centred = x - x.mean(axes, keepdim=True)
    freedom = count - (1 if correction is None else correction)
    return (centred * centred).sum(axes, keepdim=keepdim) / freedom, x.mean(axes, keepdim=keepdim)


def var(x: Tensor, dim: Any = None, *, correction: Any = None, keepdim: bool = False) -> Tensor:
    return _variance(x, dim, correction, keepdim)[0]


def var_dim(x: Tensor, dim: Any, unbiased: bool = True, keepdim: bool = False) -> Tensor:
    return _variance(x, dim, int(unbiased), keepdim)[0]


def std(x: Tensor, dim: Any = None, *, correction: Any = None, keepdim: bool = False) -> Tensor:
    return torch.sqrt(_variance(x, dim, correction, keepdim)[0])


def std_dim(x: Tensor, dim: Any, unbiased: bool = True, keepdim: bool = False) -> Tensor:
    return torch.sqrt(_variance(x, dim, int(unbiased), keepdim)[0])


def var_mean(x: Tensor, dim: Any = None, *, correction: Any = None, keepdim: bool = False) -> tuple[Tensor, Tensor]:
    return _variance(x, dim, correction, keepdim)


def vector_norm(x: Tensor, order: float = 2, dim: Any = None, keepdim: bool = False, *, dtype: Any = None) -> Tensor:
    x = x if dtype is None else x.to(dtype)
    axes = list(range(x.ndim)) if dim is None else [dim] if isinstance(dim, int) else list(dim)
    if order == 2:
        return torch.sqrt((x * x).sum(axes, keepdim=keepdim))
    if order == 1:
        return x.abs().sum(axes, keepdim=keepdim)
    if order == math.inf:
        return x.abs().amax(axes, keepdim=keepdim)
    return x.abs().pow(order).sum(axes, keepdim=keepdim).pow(1 / order)


def norm(x: Tensor, order: Any, dim: Any, keepdim: bool = False) -> Tensor:
    return vector_norm(x, 2 if order is None else order, dim, keepdim)


def pairwise_distance(x: Tensor, y: Tensor, order: float = 2, eps: float = 1e-6, keepdim: bool = False) -> Tensor:
    return vector_norm(x - y + eps, order, -1, keepdim)


def cosine_similarity(x: Tensor, y: Tensor, dim: int = 1, eps: float = 1e-8) -> Tensor:
    x, y = torch.broadcast_tensors(x, y)
    x_norm, y_norm = (vector_norm(v, 2, dim, True).clamp(min=eps) for v in (x, y))
    return (x / x_norm * (y / y_norm)).sum(dim)


def bilinear(x: Tensor, y: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """Σ_ij x_i W_oij y_j + b_o."""
    return _affine((torch.einsum("...i,oij->...oj", x, weight) * y.unsqueeze(-2)).sum(-1), None, bias)


def rrelu(
    x: Tensor, lower: float = 1 / 8, upper: float = 1 / 3, training: bool = False, generator: Any = None
) -> Tensor:
    """In inference the mean slope; in training random numbers, which are reported as an error."""
    if training:
        return torch.where(x < 0, x * torch.empty_like(x).uniform_(lower, upper), x)
    return torch.nn.functional.leaky_relu(x, (lower + upper) / 2)


def pad(x: Tensor, amounts: list[int], mode: str = "constant", value: float | None = None) -> Tensor:
    """Circular padding by gathering; torch's own decomposition writes in place."""
    if mode == "constant":
        return aten.constant_pad_nd(x, amounts, 0 if value is None else value)
    if mode != "circular":
        kind = "reflection" if mode == "reflect" else "replication"
        return getattr(aten, f"{kind}_pad{len(amounts) // 2}d")(x, amounts)
    for i in range(0, len(amounts), 2):
        size = x.shape[-1 - i // 2]
        wrapped = torch.arange(-amounts[i], size + amounts[i + 1], device=x.device) % size
        x = x.index_select(-1 - i // 2, wrapped)
    return x


def glu(x: Tensor, dim: int = -1) -> Tensor:
    value, gate = x.chunk(2, dim)
    return value * torch.sigmoid(gate)


def max_pool1d(
    x: Tensor, kernel: list[int], stride: Any = (), padding: Any = 0, dilation: Any = 1, ceil_mode: bool = False
) -> Tensor:
    one = [v if isinstance(v, int) else v[0] for v in (kernel, stride or kernel, padding, dilation)]
    y = aten.max_pool2d_with_indices(x.unsqueeze(-2), [1, one[0]], [1, one[1]], [0, one[2]], [1, one[3]], ceil_mode)[0]
    return y.squeeze(-2)


def max_pool2d(x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
    return aten.max_pool2d_with_indices(x, *args, **kwargs)[0]


def max_pool3d(x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
    return aten.max_pool3d_with_indices(x, *args, **kwargs)[0]


def _gates(
    x: Tensor, h: Tensor, w_ih: Tensor, w_hh: Tensor, b_ih: Tensor | None = None, b_hh: Tensor | None = None
) -> Tensor:
    return torch.nn.functional.linear(x, w_ih, b_ih) + torch.nn.functional.linear(h, w_hh, b_hh)


def lstm(
    x: Tensor, states: Sequence[Tensor], weights: Sequence[Tensor], has_biases: bool, layers: int, dropout: float,
    train: bool, bidirectional: bool, batch_first: bool,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    """Step by step. torch's own decomposition takes one operation of oneDNN for arrays that need no derivative."""
    given = decompositions.gather_params(weights, has_biases, states[0].size(2) != states[1].size(2))
    y, ends = decompositions._rnn_helper(
        x, list(zip(*states[:2], strict=True)), given, has_biases, layers, dropout, train, bidirectional, batch_first,
        decompositions.one_layer_lstm,
    )  # fmt: skip
    hidden, cells = zip(*ends, strict=True)
    return y, torch.stack(hidden, 0), torch.stack(cells, 0)


def lstm_cell(
    x: Tensor, state: Sequence[Tensor], w_ih: Tensor, w_hh: Tensor, b_ih: Tensor | None = None,
    b_hh: Tensor | None = None,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    h, c = state
    i, f, g, o = _gates(x, h, w_ih, w_hh, b_ih, b_hh).chunk(4, 1)
    c = torch.sigmoid(f) * c + torch.sigmoid(i) * torch.tanh(g)
    return torch.sigmoid(o) * torch.tanh(c), c


def gru_cell(
    x: Tensor, h: Tensor, w_ih: Tensor, w_hh: Tensor, b_ih: Tensor | None = None, b_hh: Tensor | None = None
) -> Tensor:
    reset, update, new = torch.nn.functional.linear(x, w_ih, b_ih).chunk(3, 1)
    reset_h, update_h, new_h = torch.nn.functional.linear(h, w_hh, b_hh).chunk(3, 1)
    z = torch.sigmoid(update + update_h)
    n = torch.tanh(new + torch.sigmoid(reset + reset_h) * new_h)
    return n + z * (h - n)


def rnn_tanh_cell(x: Tensor, h: Tensor, *weights: Any) -> Tensor:
    return torch.tanh(_gates(x, h, *weights))


def rnn_relu_cell(x: Tensor, h: Tensor, *weights: Any) -> Tensor:
    return torch.relu(_gates(x, h, *weights))


def _table() -> dict[Any, Callable[..., Any]]:
    table: dict[Any, Callable[..., Any]] = {
        aten.layer_norm.default: layer_norm,
        aten.native_layer_norm.default: native_layer_norm,
        aten.rms_norm.default: rms_norm,
        aten.group_norm.default: group_norm,
        aten.native_group_norm.default: native_group_norm,
        aten.instance_norm.default: instance_norm,
        aten.scaled_dot_product_attention.default: attention,
        aten.var.correction: var,
        aten.var.dim: var_dim,
        aten.std.correction: std,
        aten.std.dim: std_dim,
        aten.var_mean.correction: var_mean,
        aten.linalg_vector_norm.default: vector_norm,
        aten.norm.ScalarOpt_dim: norm,
        aten.pairwise_distance.default: pairwise_distance,
        aten.cosine_similarity.default: cosine_similarity,
        aten.bilinear.default: bilinear,
        aten.glu.default: glu,
        aten.max_pool1d.default: max_pool1d,
        aten.max_pool2d.default: max_pool2d,
        aten.max_pool3d.default: max_pool3d,
        aten.lstm.input: lstm,
        aten.gru.input: decompositions.gru_impl,
        aten.rnn_tanh.input: decompositions.rnn_tanh_input,
        aten.rnn_relu.input: decompositions.rnn_relu_input,
        aten.lstm_cell.default: lstm_cell,
        aten.gru_cell.default: gru_cell,
        aten.rnn_tanh_cell.default: rnn_tanh_cell,
        aten.rnn_relu_cell.default: rnn_relu_cell,
    }
    return table


ALWAYS: dict[Any, Callable[..., Any]] = {
    aten.pad.default: pad,
    aten.rrelu.default: rrelu,
    aten.affine_grid_generator.default: decompositions.affine_grid_generator,
}
COMPOSITE = _table()
TABLE = {**COMPOSITE, **ALWAYS}  # for rules that need elementary operations

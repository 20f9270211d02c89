"""Which places of its operands each ATen operation's result depends on, and the operation on windows of them."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from explainers.graph import EachPlace, Locality, Node, Repeating, Sliding, Spreading, Summing

from .operands import Operand, evaluate

_aten = torch.ops.aten
Arguments = dict[str, Any]
Shape = Sequence[int | None]


def locality(name: str, fx: torch.fx.Node, shapes: Sequence[Shape], result: Shape) -> Locality | None:
    """The fact about an operation with operands of ``shapes`` and a ``result``; None if its places depend on all.

    A dimension of None is the batch, which must be the first.
    """
    known = FACTS.get(name)
    if known is None or not shapes or not shapes[0] or not result or result[0] is not None:
        return None
    arguments = _arguments(fx)
    data = shapes[_data_operand(fx, arguments)]
    if not data or data[0] is not None or None in data[1:] or None in result[1:]:
        return None
    return known(arguments, data, result)


def _arguments(fx: torch.fx.Node) -> Arguments:
    schema = fx.target._schema.arguments  # type: ignore[union-attr]
    found = {a.name: a.default_value for a in schema if a.has_default_value()}
    found.update((a.name, value) for a, value in zip(schema, fx.args, strict=False))
    return found | dict(fx.kwargs)


def _data_operand(fx: torch.fx.Node, arguments: Arguments) -> int:
    """The place of the samples among the tensors: the indices of an embedding, else the first."""
    return 1 if "indices" in arguments and "weight" in arguments else 0


def _numbers(given: Any, count: int) -> tuple[int, ...]:
    """One number for each of ``count`` axes."""
    values = [given] if isinstance(given, int) else list(given)
    return tuple(int(v) for v in (values * count if len(values) == 1 else values))


# --- facts -----------------------------------------------------------------------------------


def _kept(*dropped: int, rank: int) -> tuple[int | None, ...]:
    return tuple(None if axis in dropped else axis for axis in range(rank))


def _conv(a: Arguments, data: Shape, result: Shape) -> Locality | None:
    count = len(data) - 2
    axes = tuple(range(2, len(data)))
    kernel = tuple(int(size) for size in a["weight"].meta["val"].shape[2:])
    if len(kernel) != count or len(result) != len(data):
        return None
    stride, dilation = _numbers(a["stride"], count), _numbers(a["dilation"], count)
    if isinstance(a["padding"], str):
        same = a["padding"] == "same"
        before = tuple(d * (k - 1) // 2 if same else 0 for d, k in zip(dilation, kernel, strict=True))
    else:
        before = _numbers(a["padding"], count)
    if a.get("transposed"):
        return Spreading(axes, kernel, stride, dilation, before)
    return Sliding(axes, kernel, stride, dilation, before, mixes=True)


def _conv_transpose(a: Arguments, data: Shape, result: Shape) -> Locality | None:
    return _conv({**a, "transposed": True}, data, result)


def _max_pool(a: Arguments, data: Shape, result: Shape) -> Locality | None:
    return _pool(a, data, result, -math.inf)


def _avg_pool(a: Arguments, data: Shape, result: Shape) -> Locality | None:
    padded = any(_numbers(a["padding"], 1))
    if a["ceil_mode"] or (padded and not a["count_include_pad"]):
        return None  # windows at the border divide by another number
    return _pool(a, data, result, 0.0)


def _pool(a: Arguments, data: Shape, result: Shape, fill: float) -> Locality:
    kernel = a["kernel_size"]
    count = len(data) - 2 if isinstance(kernel, int) else max(len(kernel), len(data) - 2)
    axes = tuple(range(len(data) - count, len(data)))
    kernel = _numbers(kernel, count)
    stride = _numbers(a["stride"], count) if a["stride"] not in ([], (), None) else kernel
    return Sliding(axes, kernel, stride, _numbers(a.get("dilation", 1), count), _numbers(a["padding"], count), fill)


def _adaptive_avg_pool(a: Arguments, data: Shape, result: Shape) -> Locality | None:
    axes = tuple(axis for axis in range(1, len(data)) if data[axis] != result[axis])
    if not axes:
        return EachPlace(tuple(range(len(data))))
    if all(result[axis] == 1 for axis in axes):
        return Summing(axes, mean=True, keeps=True)
    kernel = tuple(_size(data, axis) // _size(result, axis) for axis in axes)
    if any(k * _size(result, axis) != data[axis] for k, axis in zip(kernel, axes, strict=True)):
        return None
    return Sliding(axes, kernel, kernel, (1,) * len(axes), (0,) * len(axes))


def _size(shape: Shape, axis: int) -> int:
    size = shape[axis]
    assert size is not None
    return size


def _constant_pad(a: Arguments, data: Shape, result: Shape) -> Locality | None:
    axes = [len(data) - 1 - i for i in range(len(a["pad"]) // 2)]
    before = a["pad"][::2]
    if 0 in axes:
        return None
    ones = (1,) * len(axes)
    return Sliding(tuple(axes), ones, ones, ones, tuple(before), fill=float(a["value"]))


def _slice(a: Arguments, data: Shape, result: Shape) -> Locality | None:
    axis = a["dim"] % len(data)
    if axis == 0:
        return EachPlace(tuple(range(len(data)))) if data == result else None
    start = a["start"] or 0
    if not isinstance(start, int) or not isinstance(a["step"], int):
        return None
    start = max(start + _size(data, axis), 0) if start < 0 else start
    return Sliding((axis,), (1,), (a["step"],), (1,), (-start,))


def _without_axis(a: Arguments, data: Shape, result: Shape) -> Locality | None:
    """``select``, ``unbind``: one place of an axis, which is dropped."""
    axis = a["dim"] % len(data)
    return EachPlace(tuple(i for i in range(len(data)) if i != axis)) if axis else None


def _along(a: Arguments, data: Shape, result: Shape) -> Locality | None:
    """Operations along one axis, ``dim``, that keep the places of all others."""
    axis = a["dim"] % len(data)
    return EachPlace(_kept(axis, rank=len(data))) if axis else None


def _cat(a: Arguments, data: Shape, result: Shape) -> Locality | None:
    axis = a["dim"] % len(data)
    return EachPlace(_kept(axis, rank=len(data)), broadcast=True) if axis else None


def _linear(a: Arguments, data: Shape, result: Shape) -> Locality | None:
    return EachPlace(_kept(len(data) - 1, rank=len(data)))


def _matmul(a: Arguments, data: Shape, result: Shape) -> Locality | None:
    other = a["other"].meta["val"]
    return EachPlace(_kept(len(data) - 1, rank=len(data))) if other.ndim == 2 and len(data) > 2 else None


def _batch_norm(a: Arguments, data: Shape, result: Shape) -> Locality | None:
    return None if a.get("training") else EachPlace(_kept(1, rank=len(data)))


def _norm_over_last(a: Arguments, data: Shape, result: Shape) -> Locality | None:
    rank = len(data)
    return EachPlace(_kept(*range(rank - len(a["normalized_shape"]), rank), rank=rank))


def _of_channels(a: Arguments, data: Shape, result: Shape) -> Locality | None:
    return EachPlace(_kept(1, rank=len(data)))


def _embedding(a: Arguments, data: Shape, result: Shape) -> Locality | None:
    return EachPlace((*range(len(data)), None), operand=1)


def _permute(a: Arguments, data: Shape, result: Shape) -> Locality | None:
    source = tuple(axis % len(data) for axis in a["dims"])
    return EachPlace(source) if source[0] == 0 else None


def _transpose(a: Arguments, data: Shape, result: Shape) -> Locality | None:
    first, second = a["dim0"] % len(data), a["dim1"] % len(data)
    if 0 in (first, second):
        return None
    swapped = {first: second, second: first}
    return EachPlace(tuple(swapped.get(axis, axis) for axis in range(len(data))))


def _reshaped(a: Arguments, data: Shape, result: Shape) -> Locality | None:
    """The axes of the same size with equally many entries before them keep their places."""
    before = {(math.prod(map(int, filter(None, data[:i]))), size): i for i, size in enumerate(data) if i and size != 1}
    source = [before.get((math.prod(map(int, filter(None, result[:i]))), size)) for i, size in enumerate(result)]
    return EachPlace((0, *source[1:]))


def _upsampled(a: Arguments, data: Shape, result: Shape) -> Locality | None:
    axes = tuple(range(2, len(data)))
    times = tuple(_size(result, axis) // _size(data, axis) for axis in axes)
    exact = all(t >= 1 and t * _size(data, axis) == result[axis] for t, axis in zip(times, axes, strict=True))
    return Repeating(axes, times) if exact else None


def _summed(mean: bool) -> Callable[[Arguments, Shape, Shape], Locality | None]:
    def fact(a: Arguments, data: Shape, result: Shape) -> Locality | None:
        given = a.get("dim")
        if given is None or given == [] or a.get("dtype") is not None:
            return None
        axes = tuple(axis % len(data) for axis in ([given] if isinstance(given, int) else given))
        return None if 0 in axes else Summing(axes, mean, bool(a["keepdim"]))

    return fact


FACTS: dict[str, Callable[[Arguments, Shape, Shape], Locality | None]] = {
    **dict.fromkeys(("conv1d", "conv2d", "conv3d", "convolution"), _conv),
    **dict.fromkeys(("conv_transpose1d", "conv_transpose2d", "conv_transpose3d"), _conv_transpose),
    **dict.fromkeys(("max_pool1d", "max_pool2d", "max_pool3d"), _max_pool),
    **dict.fromkeys(("max_pool2d_with_indices", "max_pool3d_with_indices"), _max_pool),
    **dict.fromkeys(("avg_pool1d", "avg_pool2d", "avg_pool3d"), _avg_pool),
    **dict.fromkeys(("adaptive_avg_pool1d", "adaptive_avg_pool2d", "adaptive_avg_pool3d"), _adaptive_avg_pool),
    **dict.fromkeys(("_adaptive_avg_pool2d", "_adaptive_avg_pool3d"), _adaptive_avg_pool),
    **dict.fromkeys(("batch_norm", "_native_batch_norm_legit_no_training"), _batch_norm),
    **dict.fromkeys(("layer_norm", "native_layer_norm", "rms_norm", "_fused_rms_norm"), _norm_over_last),
    **dict.fromkeys(("softmax", "_softmax", "_safe_softmax", "log_softmax", "_log_softmax", "glu"), _along),
    **dict.fromkeys(("split", "split_with_sizes", "chunk"), _along),
    **dict.fromkeys(("select", "unbind"), _without_axis),
    **dict.fromkeys(("view", "_unsafe_view", "reshape", "flatten", "unflatten", "squeeze", "unsqueeze"), _reshaped),
    **dict.fromkeys(("upsample_nearest1d", "upsample_nearest2d", "upsample_nearest3d"), _upsampled),
    **dict.fromkeys(("_upsample_nearest_exact1d", "_upsample_nearest_exact2d"), _upsampled),
    "constant_pad_nd": _constant_pad,
    "slice": _slice,
    "cat": _cat,
    "linear": _linear,
    "matmul": _matmul,
    "channel_shuffle": _of_channels,
    "prelu": _of_channels,
    "embedding": _embedding,
    "permute": _permute,
    "transpose": _transpose,
    "mean": _summed(mean=True),
    "sum": _summed(mean=False),
}


# --- on windows ------------------------------------------------------------------------------


def evaluate_window(node: Node, arrays: Sequence[Any], shape: tuple[int, ...]) -> tuple[Any, ...]:
    """Run the node on a window of its operands, without padding. ``shape``: of the first result's samples."""
    fact, x = node.attributes.locality, arrays[0]
    if isinstance(fact, Repeating):
        for axis, times in zip(fact.axes, fact.times, strict=True):
            x = torch.repeat_interleave(x, times, axis) if times > 1 else x
        return (x,)
    if isinstance(fact, Spreading):
        return (_convolved(node, arrays, transposed=True),)
    if isinstance(fact, Sliding):
        return (_slid(node, fact, arrays),)
    if isinstance(fact, Summing) and "adaptive" in node.op:
        return (x.mean(fact.axes, keepdim=True),)
    if isinstance(fact, EachPlace) and "adaptive" in node.op:  # to the size that it has
        return (x,)
    if node.payload[0] in _RESHAPES:
        return (x.reshape(x.shape[0], *shape),)
    return evaluate(node, arrays)


_RESHAPES = {
    _aten.view.default, _aten._unsafe_view.default, _aten.reshape.default, _aten.flatten.using_ints,
    _aten.unflatten.int, _aten.squeeze.default, _aten.squeeze.dim, _aten.squeeze.dims, _aten.unsqueeze.default,
}  # fmt: skip


def _slid(node: Node, fact: Sliding, arrays: Sequence[Any]) -> Tensor:
    x: Tensor = arrays[0]
    name = node.payload[0]._schema.name
    if "conv" in name:
        return _convolved(node, arrays)
    if "pool" not in name:  # padding and slices: the window was read from the padded or sliced operand
        steps = dict(zip(fact.axes, fact.stride, strict=True))
        return x[tuple(slice(None, None, steps.get(axis, 1)) for axis in range(x.ndim))]
    count = len(fact.axes)
    flat, kernel, stride, dilation = x, list(fact.kernel), list(fact.stride), list(fact.dilation)
    if count == 1:  # as images of one row: memory stays with the channels last
        flat, kernel, stride, dilation = x.unsqueeze(-2), [1, *kernel], [1, *stride], [1, *dilation]
    three = len(kernel) == 3
    if "max" in name:
        pool = torch.max_pool3d if three else torch.max_pool2d
        y: Tensor = pool(flat, kernel, stride, 0, dilation)
    else:
        divisor = given_arguments(node).get("divisor_override")
        average = torch.nn.functional.avg_pool3d if three else torch.nn.functional.avg_pool2d
        y = average(flat, kernel, stride, divisor_override=divisor)
    return y.squeeze(-2) if count == 1 else y


def _convolved(node: Node, arrays: Sequence[Any], transposed: bool = False) -> Tensor:
    given = given_arguments(node, arrays)
    x, weight, fact = given["input"], given["weight"], node.attributes.locality
    assert isinstance(fact, (Sliding, Spreading))
    stride, dilation = list(fact.stride), list(fact.dilation)
    flat = x.ndim == 3
    if flat:  # as images of one row: memory stays with the channels last
        x, weight, stride, dilation = x.unsqueeze(2), weight.unsqueeze(2), [1, *stride], [1, *dilation]
    nothing = [0] * len(stride)
    y = _aten.convolution.default(
        x, weight, given["bias"], stride, nothing, dilation, transposed, nothing, given["groups"]
    )
    result: Tensor = y.squeeze(2) if flat else y
    return result


def given_arguments(node: Node, arrays: Sequence[Any] = ()) -> Arguments:
    """The operation's arguments by name, with ``arrays`` in the place of its operands."""
    target, template, leaves = node.payload
    filled = [(arrays[leaf.place] if arrays else None) if isinstance(leaf, Operand) else leaf for leaf in leaves]
    args, kwargs = pytree.tree_unflatten(filled, template)
    schema = target._schema.arguments
    found = {a.name: a.default_value for a in schema if a.has_default_value()}
    found.update((a.name, value) for a, value in zip(schema, args, strict=False))
    return found | kwargs


def patches(
    base: Tensor, sample: Tensor, axes: Sequence[int], starts: Sequence[Tensor], widths: Sequence[int],
    margins: Sequence[tuple[int, int]], fill: float, window: Tensor | None, at: Sequence[Tensor],
) -> Tensor:  # fmt: skip
    """Each row's box of its sample, with the row's own window in it; the other axes lie innermost in memory."""
    rest = [axis for axis in range(1, base.ndim) if axis not in axes]
    order = [0, *axes, *rest]
    source = base.permute(order)
    if any(map(any, margins)):
        amounts = [0] * (2 * len(rest)) + [m for pair in reversed(margins) for m in pair]
        source = torch.constant_pad_nd(source, amounts, fill)
    sizes = source.shape[1 : 1 + len(axes)]
    rows = sample.shape[0]
    index = _flat(
        [sample.unsqueeze(1), *(_range(s + m[0], w) for s, m, w in zip(starts, margins, widths, strict=True))], sizes
    )
    flat = source.reshape(-1, math.prod(source.shape[1 + len(axes) :]))
    if window is not None:
        own = window.permute(order)
        inner = own.shape[1 : 1 + len(axes)]
        places = [_range(s - a, w) for s, a, w in zip(starts, at, widths, strict=True)]
        inside = _all([(p >= 0) & (p < size) for p, size in zip(places, inner, strict=True)])
        number = torch.arange(rows, device=base.device).unsqueeze(1)
        index = torch.where(inside, _flat([number, *places], inner) + flat.shape[0], index)
        flat = torch.cat([flat, own.reshape(-1, flat.shape[1])])
    shaped = flat.index_select(0, index).reshape(rows, *widths, *source.shape[1 + len(axes) :])
    return shaped.permute([order.index(axis) for axis in range(base.ndim)])


def _range(start: Tensor, width: int) -> Tensor:
    """(R, width): ``start`` and the places that follow."""
    return start.unsqueeze(1) + torch.arange(width, device=start.device)


def _flat(places: Sequence[Tensor], sizes: Sequence[int]) -> Tensor:
    """The number of each place of a box, (R·Π widths,), in an array whose axes after the first have ``sizes``."""
    total: Tensor = torch.zeros((), dtype=torch.int64, device=places[0].device)
    for i, place in enumerate(places):
        total = total + (place * math.prod(sizes[i:])).reshape(_spread(place, i, len(places)))
    return total.reshape(-1)


def _all(flags: Sequence[Tensor]) -> Tensor:
    inside = torch.ones((), dtype=torch.bool, device=flags[0].device)
    for i, flag in enumerate(flags):
        inside = inside & flag.reshape(_spread(flag, i + 1, len(flags) + 1))
    return inside.reshape(-1)


def _spread(place: Tensor, axis: int, count: int) -> list[int]:
    """(R, width) with the width along axis ``axis`` of ``count``; the numbers of the rows, axis 0, stay (R, 1 …)."""
    return [place.shape[0], *(place.shape[1] if i == axis else 1 for i in range(1, count))]

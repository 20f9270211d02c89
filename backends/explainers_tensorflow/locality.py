"""Which places of its operands each TensorFlow operation's result depends on.

Axes, paddings and other compile-time arguments are operands in TensorFlow. They are read where they are constant; an
operation with one that is computed has no fact, unless the static shapes say the same.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from explainers.graph import EachPlace, Locality, Output, Repeating, Sliding, Spreading, Summing
from explainers.spec import Numpy

from . import roles

Shape = tuple[int | None, ...]
Kept = tuple[int | None, ...]


class Call:
    """An operation, its operands' and its first result's shapes. ``place``: of the operand that holds the samples."""

    def __init__(self, op: tf.Operation, operands: Sequence[Output], result: Output, place: int) -> None:
        self.op, self.place = op, place
        self.shapes = [operand.shape for operand in operands]
        self.data, self.result = self.shapes[place], result.shape
        self.rank = len(self.data)
        self.floating = operands[place].floating

    def attr(self, name: str, default: Any = None) -> Any:
        return self.op.get_attr(name) if name in self.op.node_def.attr else default

    def constant(self, place: int) -> Numpy | None:
        """The value of an operand, if it is known."""
        return tf.get_static_value(self.op.inputs[place])

    def axis(self, place: int) -> int | None:
        """An operand that names an axis of the samples."""
        given = self.constant(place)
        return None if given is None or given.size != 1 else int(given.reshape(())) % self.rank

    def axes(self, place: int) -> tuple[int, ...] | None:
        given = self.constant(place)
        return None if given is None else tuple(sorted({int(axis) % self.rank for axis in given.reshape(-1)}))

    def size(self, axis: int) -> int:
        size = self.data[axis]
        assert size is not None
        return size

    def kept(self, *dropped: int) -> Kept:
        return tuple(None if axis in dropped else axis for axis in range(self.rank))


def locality(op: tf.Operation, operands: Sequence[Output], result: Output) -> Locality | None:
    """The fact about an operation; None if its places depend on all, or if nothing is known about it."""
    known = _elementwise if roles.elementwise(op.type) and op.type not in FACTS else FACTS.get(op.type)
    places = [place for place, operand in enumerate(operands) if operand.batch_axis == 0]
    if known is None or not places or result.batch_axis != 0:
        return None
    data = operands[places[0]].shape
    if None in data[1:] or None in result.shape[1:] or 0 in (*data, *result.shape):
        return None
    return known(Call(op, operands, result, places[0]))


# --- windows that slide ----------------------------------------------------------------------


def channels_first(call: Call) -> bool:
    layout = call.attr("data_format", b"").decode()
    return layout == "CHANNELS_FIRST" or layout.startswith("NC")


def spatial(call: Call) -> tuple[int, ...]:
    """The axes of the samples that a convolution or a pool slides along."""
    return tuple(range(2, call.rank)) if channels_first(call) else tuple(range(1, call.rank - 1))


def _along(call: Call, name: str, axes: Sequence[int]) -> tuple[int, ...]:
    given = call.attr(name) or [1] * call.rank
    return tuple(int(given[axis]) for axis in axes)


def _padding(
    call: Call, axes: Sequence[int], kernel: Sequence[int], stride: Sequence[int], dilation: Sequence[int],
    whole: Shape, steps: Shape,
) -> tuple[tuple[int, int], ...]:  # fmt: skip
    """The padding before and behind each of ``axes``. ``whole``: the sizes that are padded; ``steps``: of windows."""
    kind = call.attr("padding").decode()
    explicit = call.attr("explicit_paddings") or []
    pairs = []
    for axis, k, s, d in zip(axes, kernel, stride, dilation, strict=True):
        if kind == "EXPLICIT":
            pairs.append((int(explicit[2 * axis]), int(explicit[2 * axis + 1])))
        elif kind == "SAME":
            total = max(((steps[axis] or 0) - 1) * s + d * (k - 1) + 1 - (whole[axis] or 0), 0)
            pairs.append((total // 2, total - total // 2))
        else:
            pairs.append((0, 0))
    return tuple(pairs)


def _conv(call: Call) -> Locality | None:
    axes, kernel = spatial(call), call.shapes[1][: call.rank - 2]
    if call.place != 0 or call.attr("batch_dims", 1) != 1 or None in call.shapes[1]:
        return None
    sizes = tuple(size or 0 for size in kernel)
    stride, dilation = _along(call, "strides", axes), _along(call, "dilations", axes)
    pads = _padding(call, axes, sizes, stride, dilation, call.data, call.result)
    return Sliding(axes, sizes, stride, dilation, tuple(before for before, _ in pads), mixes=True)


def _conv_transpose(call: Call) -> Locality | None:
    axes = spatial(call)
    if len(call.shapes) < 3 or call.shapes[2][:1] != (None,) or None in (*call.shapes[1], *call.shapes[2][1:]):
        return None
    sizes = tuple(size or 0 for size in call.shapes[1][: len(axes)])
    stride, dilation = _along(call, "strides", axes), _along(call, "dilations", axes)
    pads = _padding(call, axes, sizes, stride, dilation, call.result, call.shapes[2])
    return Spreading(axes, sizes, stride, dilation, tuple(before for before, _ in pads), operand=2)


def _pool(call: Call, kernel: Sequence[int], stride: Sequence[int], average: bool) -> Locality | None:
    """``kernel``, ``stride``: for each axis of the samples."""
    axes = spatial(call)
    others = [axis for axis in range(call.rank) if axis not in axes]
    if not call.floating or any(kernel[axis] != 1 or stride[axis] != 1 for axis in others):
        return None
    sizes, steps, ones = [kernel[axis] for axis in axes], [stride[axis] for axis in axes], [1] * len(axes)
    pads = _padding(call, axes, sizes, steps, ones, call.data, call.result)
    if average and any(map(any, pads)):
        return None  # windows at the border divide by another number
    before = tuple(before for before, _ in pads)
    return Sliding(axes, tuple(sizes), tuple(steps), tuple(ones), before, 0.0 if average else -math.inf)


def _max_pool(call: Call) -> Locality | None:
    return _pool(call, call.attr("ksize"), call.attr("strides"), average=False)


def _max_pool_of_operands(call: Call) -> Locality | None:
    kernel, stride = call.constant(1), call.constant(2)
    if kernel is None or stride is None:
        return None
    return _pool(call, kernel.tolist(), stride.tolist(), average=False)


def _average_pool(call: Call) -> Locality | None:
    return _pool(call, call.attr("ksize"), call.attr("strides"), average=True)


def _pad(call: Call) -> Locality | None:
    pads, value = call.constant(1), call.constant(2) if len(call.shapes) > 2 else np.zeros(())
    if pads is None or value is None or pads[0].any():
        return None
    axes = tuple(axis for axis in range(call.rank) if pads[axis].any())
    ones = (1,) * len(axes)
    if not axes:
        return EachPlace(call.kept())
    return Sliding(axes, ones, ones, ones, tuple(int(pads[axis][0]) for axis in axes), fill=float(value))


def _sliced(call: Call, slices: dict[int, slice]) -> Locality | None:
    """``slices`` along some axes, the others being whole."""
    if any(part.step < 1 for part in slices.values()):
        return None
    if not slices:
        return EachPlace(call.kept())
    axes = tuple(slices)
    ones = (1,) * len(axes)
    steps, before = tuple(part.step for part in slices.values()), tuple(-part.start for part in slices.values())
    return Sliding(axes, ones, steps, ones, before)


def _slice(call: Call) -> Locality | None:
    begin = call.constant(1)
    if begin is None or begin[0] != 0:
        return None
    cut = [axis for axis in range(1, call.rank) if call.data[axis] != call.result[axis]]
    return _sliced(call, {axis: slice(int(begin[axis]), None, 1) for axis in cut})


def _strided_slice(call: Call) -> Locality | None:
    """Slices alone, or places that are picked and axes that are new alone."""
    begin, end, step = (call.constant(place) for place in (1, 2, 3))
    if begin is None or end is None or step is None:
        return None
    masks = {name: call.attr(f"{name}_mask") for name in ("begin", "end", "ellipsis", "new_axis", "shrink_axis")}
    has = {name: [bool(mask >> i & 1) for i in range(len(begin))] for name, mask in masks.items()}
    new = sum(n and not e for n, e in zip(has["new_axis"], has["ellipsis"], strict=True))
    missing = call.rank - (len(begin) - new - sum(has["ellipsis"]))
    source: list[int | None] = []
    slices: dict[int, slice] = {}
    axis = 0
    for i in range(len(begin)):
        if has["ellipsis"][i]:
            source += range(axis, axis + missing)
            axis += missing
        elif has["new_axis"][i]:
            source.append(None)
        elif has["shrink_axis"][i]:
            axis += 1
        else:
            start = None if has["begin"][i] else int(begin[i])
            stop = None if has["end"][i] else int(end[i])
            if axis == 0:
                if start or stop not in (None, np.iinfo(end.dtype).max) or step[i] != 1:
                    return None
            else:
                part = slice(*slice(start, stop, int(step[i])).indices(call.size(axis)))
                if part != slice(0, call.size(axis), 1):
                    slices[axis] = part
            source.append(axis)
            axis += 1
    source += range(axis, call.rank)
    if source == list(range(call.rank)):
        return _sliced(call, slices)
    return None if slices or source[:1] != [0] else EachPlace(tuple(source))


# --- the same places -------------------------------------------------------------------------


def _identities(call: Call) -> Locality | None:
    """Several tensors as they are, under a derivative of the model's own."""
    if any(shape != call.data for shape in call.shapes[: len(call.op.inputs)]):
        return None
    return EachPlace(call.kept(), broadcast=True)


def _elementwise(call: Call) -> Locality | None:
    return EachPlace(tuple(range(len(call.result))), broadcast=True)


def _bias(call: Call) -> Locality | None:
    if channels_first(call):
        return EachPlace(call.kept(1))
    return EachPlace(call.kept(), broadcast=True)


def _over_last(call: Call) -> Locality | None:
    return EachPlace(call.kept(call.rank - 1))


def _norm(call: Call) -> Locality | None:
    channel = 1 if channels_first(call) else call.rank - 1
    return None if call.attr("is_training") or call.place != 0 else EachPlace(call.kept(channel))


def _over(*places: int) -> Callable[[Call], Locality | None]:
    """Operations along one axis, or several, that an operand names; the result has them, too."""

    def fact(call: Call) -> Locality | None:
        axes = call.axes(places[0])
        if axes is None or 0 in axes:
            return None
        return EachPlace(call.kept(*axes), operand=call.place)

    return fact


def _concat(place: int) -> Callable[[Call], Locality | None]:
    def fact(call: Call) -> Locality | None:
        axis = call.axis(place)
        return EachPlace(call.kept(axis), broadcast=True) if axis else None

    return fact


def _unpack(call: Call) -> Locality | None:
    axis = call.attr("axis") % call.rank
    return EachPlace(tuple(i for i in range(call.rank) if i != axis)) if axis else None


def _transpose(call: Call) -> Locality | None:
    order = call.constant(1)
    if order is None or order[0] != 0:
        return None
    return EachPlace(tuple(int(axis) % call.rank for axis in order))


def _reshaped(call: Call) -> Locality | None:
    """The axes of the same size with equally many entries before them keep their places."""
    before = {_place(call.data, i): i for i, size in enumerate(call.data) if i and size != 1}
    source = [before.get(_place(call.result, i)) for i in range(len(call.result))]
    return EachPlace((0, *source[1:]))


def _place(shape: Shape, axis: int) -> tuple[int, int | None]:
    return math.prod(size or 1 for size in shape[1:axis]), shape[axis]


def _expanded(call: Call) -> Locality | None:
    """Along axes that change their size, each entry of the result may come from any of the operand."""
    if len(call.result) != call.rank:
        return None
    return EachPlace(call.kept(*(axis for axis in range(call.rank) if call.data[axis] != call.result[axis])))


def _one_hot(call: Call) -> Locality | None:
    axis = call.attr("axis") % len(call.result)
    return EachPlace((*range(axis), None, *range(axis, call.rank))) if axis else None


def _gather(call: Call) -> Locality | None:
    """Rows of a table by ids, or constant places along an axis."""
    axis = 0 if len(call.shapes) < 3 else call.constant(2)
    if axis is None or call.attr("batch_dims", 0) or None in call.shapes[1 - call.place]:
        return None
    if call.place == 1:
        return EachPlace((*range(call.rank), *[None] * (len(call.shapes[0]) - 1)), operand=1) if axis == 0 else None
    along, added = int(axis) % call.rank, len(call.shapes[1])
    return EachPlace((*range(along), *[None] * added, *range(along + 1, call.rank))) if along else None


def _matrix_product(call: Call) -> Locality | None:
    """A product of the last axis, or the last but one, with a constant matrix."""
    if len(call.shapes) != 2 or call.rank < 3:
        return None
    other = call.shapes[1 - call.place]
    turned = call.attr("adj_x" if call.place == 0 else "adj_y") or call.attr("grad_x") or call.attr("grad_y")
    if turned or not 2 <= len(other) <= call.rank or any(size != 1 for size in other[:-2]):
        return None
    return EachPlace(call.kept(call.rank - 1 - call.place), operand=call.place)


def _einsum(call: Call) -> Locality | None:
    terms, _, result = call.attr("equation").decode().replace(" ", "").partition("->")
    names = terms.split(",")
    own, others = names[call.place], "".join(names[: call.place] + names[call.place + 1 :])
    if "." in terms or not result or result[0] != own[0] or own[0] in others or len(set(own)) != len(own):
        return None
    source = tuple(own.index(name) if name in own and name not in others else None for name in result)
    return EachPlace(source, operand=call.place)


# --- sums and repetitions --------------------------------------------------------------------


def _summed(mean: bool) -> Callable[[Call], Locality | None]:
    def fact(call: Call) -> Locality | None:
        axes = call.axes(1)
        if axes is None or 0 in axes or (mean and not call.floating):
            return None
        return Summing(axes, mean, bool(call.attr("keep_dims"))) if axes else EachPlace(call.kept())

    return fact


def _reduced(call: Call) -> Locality | None:
    """Over axes that are whole in a window, such as the channels."""
    axes = call.axes(1)
    if axes is None or 0 in axes:
        return None
    kept = call.kept(*axes)
    return EachPlace(kept if call.attr("keep_dims") else tuple(axis for axis in kept if axis is not None))


def _resized(call: Call) -> Locality | None:
    """The nearest neighbour, where that repeats each place as often; TensorFlow rounds in single precision."""
    align, middle = call.attr("align_corners"), call.attr("half_pixel_centers")
    for axis in (1, 2):
        size, wanted = call.size(axis), call.result[axis] or 0
        scale = np.float32((size - 1) / (wanted - 1)) if align and wanted > 1 else np.float32(size) / np.float32(wanted)
        place = (np.arange(wanted, dtype=np.float32) + np.float32(0.5 if middle else 0)) * scale
        read = np.clip(np.round(place) if align else np.floor(place), 0, size - 1)
        if wanted % size or (read != np.arange(wanted) // (wanted // size)).any():
            return None
    return Repeating((1, 2), tuple((call.result[axis] or 0) // call.size(axis) for axis in (1, 2)))


FACTS: dict[str, Callable[[Call], Locality | None]] = {
    **dict.fromkeys(("Conv", "Conv2D", "Conv3D", "DepthwiseConv2dNative"), _conv),
    **dict.fromkeys(("Conv2DBackpropInput", "Conv3DBackpropInputV2"), _conv_transpose),
    "DepthwiseConv2dNativeBackpropInput": _conv_transpose,
    **dict.fromkeys(("MaxPool", "MaxPool3D"), _max_pool),
    "MaxPoolV2": _max_pool_of_operands,
    **dict.fromkeys(("AvgPool", "AvgPool3D"), _average_pool),
    **dict.fromkeys(("Pad", "PadV2"), _pad),
    "Slice": _slice,
    "StridedSlice": _strided_slice,
    **dict.fromkeys(("BiasAdd", "BiasAddV1"), _bias),
    **dict.fromkeys(("Softmax", "LogSoftmax", "LRN"), _over_last),
    **dict.fromkeys(("FusedBatchNorm", "FusedBatchNormV2", "FusedBatchNormV3"), _norm),
    **dict.fromkeys(("Cumsum", "Cumprod", "CumulativeLogsumexp", "ReverseV2"), _over(1)),
    "Roll": _over(2),
    "Split": _over(0),
    "SplitV": _over(2),
    "Concat": _concat(0),
    "ConcatV2": _concat(-1),
    "Unpack": _unpack,
    "Transpose": _transpose,
    **dict.fromkeys(("Reshape", "Squeeze", "ExpandDims"), _reshaped),
    **dict.fromkeys(("Tile", "BroadcastTo"), _expanded),
    "OneHot": _one_hot,
    **dict.fromkeys(("Gather", "GatherV2"), _gather),
    **dict.fromkeys(("BatchMatMul", "BatchMatMulV2", "BatchMatMulV3"), _matrix_product),
    "Einsum": _einsum,
    "Mean": _summed(mean=True),
    "Sum": _summed(mean=False),
    **dict.fromkeys(("Max", "Min", "Prod", "All", "Any", "EuclideanNorm"), _reduced),
    "ResizeNearestNeighbor": _resized,
    "IdentityN": _identities,
}

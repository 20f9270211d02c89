"""Derivatives towards weights, of each sample apart."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import unset_fake_temporarily

from explainers.graph import Function, Node, Sliding, Spreading

from . import roles
from .locality import given_arguments
from .operands import evaluate

_aten = torch.ops.aten
NORMS = {
    "_native_batch_norm_legit_no_training", "batch_norm", "native_layer_norm", "layer_norm", "native_group_norm",
    "group_norm", "instance_norm", "rms_norm", "_fused_rms_norm",
}  # fmt: skip


def weight_factors(node: Node, arrays: Sequence[Any], message: Tensor) -> tuple[Tensor, Tensor, int]:
    fact = node.attributes.locality
    if node.function is Function.EMBEDDING:
        return _rows_of(node, arrays, message), message, 1
    if node.function is Function.DENSE:
        (place,) = (i for i in range(len(arrays)) if i not in (node.attributes.weight, node.attributes.bias))
        return arrays[place], message, 1
    given = given_arguments(node, arrays)
    x, groups = given["input"], given["groups"]
    if isinstance(fact, Spreading):
        return _places(x), _patches(message, fact, x.shape[2:]), groups
    assert isinstance(fact, Sliding)
    return _patches(x, fact, message.shape[2:]), _places(message), groups


def _rows_of(node: Node, arrays: Sequence[Any], like: Tensor) -> Tensor:
    """The rows of the table that ids pick, one-hot; none for the id of padding, whose row is not trained."""
    given = given_arguments(node, arrays)
    chosen = one_hot(given["indices"], arrays[0].shape[0], like)
    padding = given["padding_idx"]
    if padding == -1:
        return chosen
    kept = torch.arange(arrays[0].shape[0], device=like.device) != padding % arrays[0].shape[0]
    return chosen * kept.to(like.dtype)


def _places(array: Tensor) -> Tensor:
    """(N, C, …) → (N, T, C)."""
    return array.flatten(2).transpose(1, 2)


def _patches(x: Tensor, fact: Sliding | Spreading, result: Sequence[int]) -> Tensor:
    """What each place of the result sees: (N, C, …) → (N, T, C·kernel)."""
    return _unfolded(x, fact, result).transpose(1, 2)


def _unfolded(x: Tensor, fact: Sliding | Spreading, result: Sequence[int]) -> Tensor:
    """(N, C, …) → (N, C·kernel, T); but for images by a convolution with filters of one 1."""
    count, rank = math.prod(fact.kernel), len(fact.kernel)
    wide = padded(x, fact, result)
    if rank == 2:
        return torch.nn.functional.unfold(wide, fact.kernel, fact.dilation, 0, fact.stride)
    filters = torch.eye(count, dtype=x.dtype, device=x.device).reshape(count, 1, *fact.kernel)
    apart = wide.reshape(x.shape[0] * x.shape[1], 1, *wide.shape[2:])
    nothing = [0] * rank
    seen = _aten.convolution.default(
        apart, filters, None, list(fact.stride), nothing, list(fact.dilation), False, nothing, 1
    )
    return seen.reshape(x.shape[0], x.shape[1] * count, math.prod(result))


def padded(x: Tensor, fact: Sliding | Spreading, result: Sequence[int]) -> Tensor:
    """x with the zeros that a convolution reads around it."""
    pads: list[int] = []
    sizes = zip(x.shape[2:], result, fact.kernel, fact.stride, fact.dilation, fact.before, strict=True)
    for size, steps, kernel, stride, dilation, before in reversed(list(sizes)):
        pads += [before, max((steps - 1) * stride + dilation * (kernel - 1) + 1 - size - before, 0)]
    return torch.constant_pad_nd(x, pads) if any(pads) else x


def weight_gradients(
    node: Node, arrays: Sequence[Any], place: int, axes: Sequence[int | None], message: Tensor, axis: int
) -> Tensor:
    if node.payload[0]._schema.name.removeprefix("aten::") in NORMS:
        return _of_norm(node, arrays, place, message, axis)
    if node.payload[0] in (_aten.prelu.default, _aten._prelu_kernel.default) and place == 1:
        product = message * arrays[0].clamp(max=0)
        kept = range(product.ndim) if arrays[1].ndim > 1 else range(1, 2) if arrays[1].numel() > 1 else ()
        summed = [i for i in range(product.ndim) if i != axis and (i not in kept or 1 in arrays[1].shape[i : i + 1])]
        return _summed(product, summed).reshape(product.shape[axis], *arrays[1].shape)
    moving = [i for i, along in enumerate(axes) if along is not None]

    def one(part: Tensor, *samples: Tensor) -> Tensor:
        operands = list(arrays)
        for i, sample in zip(moving, samples, strict=True):
            along = axes[i]
            assert along is not None
            operands[i] = sample.unsqueeze(along)

        def run(weight: Tensor) -> Tensor:
            operands[place] = weight
            result: Tensor = evaluate(node, operands)[0]
            return result

        pullback = torch.func.vjp(run, arrays[place])[1]
        result: Tensor = pullback(part.unsqueeze(axis))[0]
        return result

    samples = [arrays[i] for i in moving]
    found: Tensor = torch.func.vmap(one, in_dims=(axis, *(axes[i] for i in moving)))(message, *samples)
    return found


def _of_norm(node: Node, arrays: Sequence[Any], place: int, message: Tensor, axis: int) -> Tensor:
    """Of γ·x̂ + β: the sums of message·x̂ or of the message over all axes but the samples' and those of the weight."""
    names = list(given_arguments(node, list(range(len(arrays)))).items())
    known = {value: name for name, value in names if isinstance(value, int) and name in ("input", "weight", "bias")}
    product = message
    if known[place] == "weight":
        plain = list(arrays)
        for i, name in known.items():
            if name != "input":
                plain[i] = torch.ones_like(arrays[i]) if name == "weight" else torch.zeros_like(arrays[i])
        product = message * evaluate(node, plain)[0]
    rank = arrays[place].ndim
    trailing = "layer" in node.op or "rms" in node.op
    kept = range(message.ndim - rank, message.ndim) if trailing else range(1, 1 + rank)
    summed = [i for i in range(message.ndim) if i != axis and i not in kept]
    return _summed(product, summed).movedim(axis, 0).reshape(product.shape[axis], *arrays[place].shape)


def _summed(array: Tensor, axes: Sequence[int]) -> Tensor:
    return array.sum(list(axes), keepdim=True) if axes else array


def run_each(
    node: Node, arrays: Sequence[Any], places: Sequence[int], models: int
) -> tuple[tuple[Tensor, ...], Callable[[Sequence[Any]], Sequence[Any]]] | None:
    if isinstance(node.attributes.locality, Sliding) and node.function is Function.CONV:
        run = _convolved_each
    elif node.payload[0] is _aten._native_batch_norm_legit_no_training.default:
        run = normed_each
    else:
        return None
    operands = list(arrays)
    with torch.enable_grad():
        for place in places:
            operands[place] = operands[place].detach().requires_grad_(True)
        attached = run(node, operands, models)

    def pullback(messages: Sequence[Tensor | None]) -> Sequence[Tensor | None]:
        if messages[0] is None:
            return [None] * len(places)
        inputs = [operands[place] for place in places]
        return torch.autograd.grad([attached], inputs, [messages[0]], retain_graph=True, allow_unused=True)

    nothing = [attached.new_zeros(0) for _ in node.outputs[1:]]  # statistics of training, which nothing uses
    return (attached.detach(), *nothing), pullback


def _convolved_each(node: Node, arrays: Sequence[Any], models: int) -> Tensor:
    """Convolutions as products of the weights with what each place sees, (M, N, G, R, L) × (M, N, G, L, T)."""
    given, fact = given_arguments(node, arrays), node.attributes.locality
    assert isinstance(fact, Sliding)
    weight, groups = given["weight"], given["groups"]
    result = tuple(int(size or 0) for size in node.outputs[0].shape[2:])
    inner, outputs = math.prod(weight.shape[2:]), weight.shape[1]
    seen = _unfolded(given["input"], fact, result).reshape(models, -1, groups, inner, math.prod(result))
    y = torch.matmul(weight.reshape(models, 1, groups, outputs // groups, inner), seen)
    if given["bias"] is not None:
        y = y + given["bias"].reshape(models, 1, groups, outputs // groups, 1)
    return y.reshape(-1, outputs, *result)


def normed_each(node: Node, arrays: Sequence[Any], models: int) -> Tensor:
    """Batch normalization in inference, of each model."""
    given = given_arguments(node, arrays)
    x = given["input"]
    scale = torch.rsqrt(given["running_var"] + given["eps"])
    if given["weight"] is not None:
        scale = scale * given["weight"]
    shift = -given["running_mean"] * scale
    if given["bias"] is not None:
        shift = shift + given["bias"]
    shape = (models, 1, x.shape[1], *(1,) * (x.ndim - 2))
    apart = x.reshape(models, -1, *x.shape[1:])
    return (apart * scale.reshape(shape) + shift.reshape(shape)).reshape(x.shape)


def pull_each(node: Node, arrays: Sequence[Any], place: int, messages: Sequence[Tensor | None]) -> Tensor:
    name = node.payload[0]._schema.name.removeprefix("aten::")
    if name == "embedding" and messages[0] is not None:
        chosen = _rows_of(node, arrays, messages[0]).reshape(-1, arrays[0].shape[0])  # (T, V)
        flat = messages[0].reshape(messages[0].shape[0], chosen.shape[0], -1)
        return torch.matmul(chosen.t(), flat)
    if name in roles.COPIES:
        return _copied_from(node, arrays, place, messages)
    if name == "_weight_norm":
        return _of_weight_norm(node, arrays, place, messages[0])
    arrived = [i for i, message in enumerate(messages) if message is not None]

    def run(weight: Tensor) -> tuple[Tensor, ...]:
        results = evaluate(node, [weight if i == place else array for i, array in enumerate(arrays)])
        return tuple(results[i] for i in arrived)

    pullback = torch.func.vjp(run, arrays[place])[1]
    found: Tensor = torch.func.vmap(lambda *parts: pullback(parts)[0])(*(messages[i] for i in arrived))
    return found


def _copied_from(node: Node, arrays: Sequence[Any], place: int, messages: Sequence[Tensor | None]) -> Tensor:
    """Of an operation that copies entries: each message goes to the entry that it was copied from."""
    weight = arrays[place]
    with unset_fake_temporarily():  # sizes of weights are known while a program is traced
        number = torch.arange(weight.numel(), dtype=torch.float64).reshape(tuple(weight.shape))
        first, second = (_numbered(node, arrays, place, given) for given in (number + 1, 2 * number + 3))
        copied = [b == 2 * a + 1 for a, b in zip(first, second, strict=True)]  # not so what an operation fills in
        origins = [torch.where(c, a - 1, -1.0).long() for a, c in zip(first, copied, strict=True)]
    found = None
    for origin, message in zip(origins, messages, strict=True):
        if message is None:
            continue
        own = (origin >= 0).nonzero().reshape(-1)
        flat = message.reshape(message.shape[0], -1).index_select(1, own.to(message.device))
        blank = message.new_zeros((message.shape[0], weight.numel()))
        part = blank.index_add(1, origin[own].to(message.device), flat)
        found = part if found is None else found + part
    assert found is not None
    return found.reshape(found.shape[0], *weight.shape)


def _numbered(node: Node, arrays: Sequence[Any], place: int, numbers: Tensor) -> list[Tensor]:
    """The results of a node, flat, with ``numbers`` as the operand at ``place``, and −1 as the others."""
    operands = []
    for i, array in enumerate(arrays):
        if isinstance(array, Tensor):
            array = numbers if i == place else torch.full(tuple(array.shape), -1.0, dtype=torch.float64)
        operands.append(array)
    return [result.reshape(-1) for result in evaluate(node, operands)]


def _of_weight_norm(node: Node, arrays: Sequence[Any], place: int, message: Any) -> Tensor:
    """Of w = g·v/‖v‖: towards g, v·m/‖v‖; towards v, (m − v·(v·m)/‖v‖²)·g/‖v‖."""
    given = given_arguments(node, arrays)
    v, g, kept = given["v"], given["g"], given["dim"]
    axes = [i for i in range(v.ndim) if i != kept % v.ndim]
    length = torch.linalg.vector_norm(v, dim=axes, keepdim=True)
    inner = (v * message).sum([i + 1 for i in axes], keepdim=True)
    if place == 1:
        return inner / length
    result: Tensor = (message - v * inner / length**2) * (g / length)
    return result


def split_batch(array: Tensor, axis: int, before: int, behind: int) -> Tensor:
    sizes = array.shape
    if sizes[axis] == 1:
        return array.reshape(*sizes[:axis], 1, 1, 1, *sizes[axis + 1 :])
    count = sizes[axis] // (before * behind)
    return array.reshape(*sizes[:axis], before, count, behind, *sizes[axis + 1 :])


def one_hot(ids: Tensor, count: int, like: Tensor) -> Tensor:
    found = ids.unsqueeze(-1) == torch.arange(count, device=ids.device)
    return found.to(like.dtype)

"""Operations whose derivative cannot be differentiated again as they are, by others that give the same."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from explainers.graph import Function, Node, Sliding, Spreading

from . import decompose
from .locality import given_arguments
from .operands import evaluate as evaluate_as_it_is
from .operands import filled_in
from .weights import normed_each, padded

_aten = torch.ops.aten


def evaluate(node: Node, arrays: Sequence[Any]) -> tuple[Any, ...]:
    """Run the node's operation in a way whose derivative can be differentiated."""
    fact = node.attributes.locality
    if node.function is Function.CONV and isinstance(fact, (Sliding, Spreading)):
        return (_convolution(node, arrays, fact),)
    if node.payload[0] is _aten._native_batch_norm_legit_no_training.default:
        y = normed_each(node, arrays, 1)
        return (y, *(y.new_zeros(0) for _ in node.outputs[1:]))  # statistics of training, which nothing uses
    apart = decompose.COMPOSITE.get(node.payload[0])
    if apart is None:
        return evaluate_as_it_is(node, arrays)
    args, kwargs = filled_in(node, arrays)
    result = apart(*args, **kwargs)
    return tuple(result) if isinstance(result, (tuple, list)) else (result,)


def _convolution(node: Node, arrays: Sequence[Any], fact: Sliding | Spreading) -> Tensor:
    given, nothing = given_arguments(node, arrays), [0] * len(fact.axes)
    steps = list(fact.stride), list(fact.dilation)
    if isinstance(fact, Spreading):
        pads, added = list(fact.before), given["output_padding"]
        added = [added] * len(nothing) if isinstance(added, int) else list(added) * (len(nothing) // len(added))
        y = Convolution.apply(given["input"], given["weight"], *steps, pads, added, True, given["groups"])
    else:
        x = padded(given["input"], fact, [int(size or 0) for size in node.outputs[0].shape[2:]])
        y = Convolution.apply(x, given["weight"], *steps, nothing, nothing, False, given["groups"])
    bias = given["bias"]
    return y if bias is None else y + bias.reshape(-1, *(1 for _ in nothing))


class Convolution(torch.autograd.Function):
    """A convolution whose derivative towards x is a convolution, too: the transposed one, and the other way round."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, stride: list[int], dilation: list[int], padding: list[int],
        added: list[int], transposed: bool, groups: int,
    ) -> Tensor:  # fmt: skip
        ctx.save_for_backward(weight)
        ctx.given = stride, dilation, padding, transposed, groups
        ctx.sizes = [int(size) for size in x.shape[2:]]
        y: Tensor = _aten.convolution.default(x, weight, None, stride, padding, dilation, transposed, added, groups)
        return y

    @staticmethod
    def backward(ctx: Any, message: Tensor) -> Any:
        (weight,) = ctx.saved_tensors
        stride, dilation, padding, transposed, groups = ctx.given
        if ctx.needs_input_grad[1]:
            raise RuntimeError("a convolution with filters that depend on the input")
        added = [0] * len(stride)
        if not transposed:  # places behind the last one that a filter covers
            facts = zip(ctx.sizes, message.shape[2:], weight.shape[2:], stride, dilation, padding, strict=True)
            added = [n - ((y - 1) * s - 2 * p + d * (k - 1) + 1) for n, y, k, s, d, p in facts]
        back = Convolution.apply(message, weight, stride, dilation, padding, added, not transposed, groups)
        return back, *(None for _ in range(7))

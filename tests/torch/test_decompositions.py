"""What rules see in the place of an operation computes what the operation does, at the edges of numbers, too."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from explainers_torch import decompose, watch

aten = torch.ops.aten
DTYPES = (torch.float32, torch.float64)


def _random(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(sum(shape)), dtype=torch.float64)


def _steep(*shape: int) -> Tensor:
    return torch.where(_random(*shape) > 0, 1e4, -1e4).to(torch.float64)


EDGES: dict[str, Callable[..., Tensor]] = {
    "random": _random,
    "zeros": lambda *shape: torch.zeros(*shape, dtype=torch.float64),
    "constant rows": lambda *shape: (
        torch.full(shape, 3.0, dtype=torch.float64) * torch.arange(1, shape[0] + 1).reshape(-1, *[1] * (len(shape) - 1))
    ),
    "±1e4": _steep,
    "tiny": lambda *shape: _random(*shape) * 1e-12,
    "one large entry": lambda *shape: torch.zeros(*shape, dtype=torch.float64).index_fill(-1, torch.tensor([0]), 1e4),
}
W = _random  # weights stay of ordinary size

Make = Callable[[Callable[..., Tensor]], tuple[Any, ...]]
CASES: dict[Any, list[Make]] = {
    aten.layer_norm.default: [lambda x: (x(4, 6), [6], W(6), W(6)), lambda x: (x(4, 3, 6), [3, 6])],
    aten.native_layer_norm.default: [lambda x: (x(4, 6), [6], W(6), W(6), 1e-5)],
    aten.rms_norm.default: [lambda x: (x(4, 6), [6], W(6)), lambda x: (x(4, 6), [6], None, 1e-3)],
    aten.group_norm.default: [lambda x: (x(4, 6, 5), 3, W(6), W(6)), lambda x: (x(4, 6, 2, 2), 2)],
    aten.native_group_norm.default: [lambda x: (x(4, 6, 5), W(6), W(6), 4, 6, 5, 3, 1e-5)],
    aten.instance_norm.default: [
        lambda x: (x(4, 3, 6), W(3), W(3), None, None, True, 0.1, 1e-5, False),
        lambda x: (x(4, 3, 6), None, None, W(3), W(3).abs() + 0.1, False, 0.1, 1e-5, False),
    ],
    aten.scaled_dot_product_attention.default: [
        lambda x: (x(2, 2, 4, 3), x(2, 2, 5, 3), x(2, 2, 5, 3)),
        lambda x: (x(2, 2, 4, 3), x(2, 2, 4, 3), x(2, 2, 4, 3), None, 0.0, True),
        lambda x: (x(2, 2, 4, 3), x(2, 2, 5, 3), x(2, 2, 5, 3), _random(4, 5) > 0.3),
        lambda x: (x(2, 2, 4, 3), x(2, 2, 5, 3), x(2, 2, 5, 3), torch.zeros(4, 5, dtype=torch.bool)),
        lambda x: (x(2, 2, 4, 3), x(2, 2, 5, 3), x(2, 2, 5, 3), torch.full((4, 5), -math.inf, dtype=torch.float64)),
    ],
    aten.var.correction: [lambda x: (x(4, 6), [1]), lambda x: (x(4, 6),)],
    aten.var.dim: [lambda x: (x(4, 6), [1], True, True)],
    aten.std.correction: [lambda x: (x(4, 6), [1])],
    aten.std.dim: [lambda x: (x(4, 6), [1], False)],
    aten.var_mean.correction: [lambda x: (x(4, 6), [1])],
    aten.linalg_vector_norm.default: [
        *(lambda x, order=order: (x(4, 6), order, [1]) for order in (2, 1, 3, math.inf)), lambda x: (x(4, 6),),
    ],
    aten.norm.ScalarOpt_dim: [lambda x: (x(4, 6), 2, [1], True)],
    aten.pairwise_distance.default: [lambda x: (x(4, 6), W(4, 6)), lambda x: (x(4, 6), x(4, 6), 1.0)],
    aten.cosine_similarity.default: [lambda x: (x(4, 6), W(4, 6)), lambda x: (x(4, 6), x(1, 6), 1, 1e-3)],
    aten.bilinear.default: [lambda x: (x(4, 6), x(4, 3), W(2, 6, 3), W(2))],
    aten.glu.default: [lambda x: (x(4, 6),), lambda x: (x(4, 6, 2), 1)],
    aten.max_pool1d.default: [lambda x: (x(4, 2, 8), [3], [2], [1])],
    aten.max_pool2d.default: [lambda x: (x(4, 2, 6, 6), [2, 2], [2, 2])],
    aten.max_pool3d.default: [lambda x: (x(4, 2, 4, 4, 4), [2, 2, 2])],
    aten.pad.default: [
        *(lambda x, mode=mode: (x(4, 2, 6), [2, 1], mode) for mode in ("constant", "reflect", "replicate", "circular")),
        lambda x: (x(4, 2, 6, 5), [1, 2, 2, 1], "circular"),
    ],
    aten.rrelu.default: [lambda x: (x(4, 6), 0.1, 0.3, False)],
    aten.affine_grid_generator.default: [lambda x: (x(4, 2, 3), [4, 2, 5, 6], False)],
    **{
        cell: [
            lambda x, gates=gates, tuples=tuples: (
                x(4, 3), [x(4, 2), x(4, 2)] if tuples else x(4, 2),
                W(2 * gates, 3), W(2 * gates, 2), W(2 * gates), W(2 * gates),
            )
        ]
        for cell, gates, tuples in (
            (aten.lstm_cell.default, 4, True), (aten.gru_cell.default, 3, False),
            (aten.rnn_tanh_cell.default, 1, False), (aten.rnn_relu_cell.default, 1, False),
        )
    },
    **{
        layer: [
            lambda x, gates=gates, tuples=tuples: (
                x(4, 5, 3), [x(1, 4, 2), x(1, 4, 2)] if tuples else x(1, 4, 2),
                [W(2 * gates, 3), W(2 * gates, 2), W(2 * gates), W(2 * gates)], True, 1, 0.0, False, False, True,
            )
        ]
        for layer, gates, tuples in (
            (aten.lstm.input, 4, True), (aten.gru.input, 3, False),
            (aten.rnn_tanh.input, 1, False), (aten.rnn_relu.input, 1, False),
        )
    },
}  # fmt: skip


def cast(value: Any, dtype: torch.dtype) -> Any:
    if isinstance(value, (list, tuple)):
        return type(value)(cast(entry, dtype) for entry in value)
    return value.to(dtype) if isinstance(value, Tensor) and value.is_floating_point() else value


# torch multiplies x before it takes the mean off, and loses what x is larger than its spread, at least √1e-5
AT_ONCE = (aten.group_norm.default, aten.native_group_norm.default, aten.instance_norm.default)


def same(got: Any, wanted: Any, dtype: torch.dtype, lost: float = 0.0) -> None:
    got, wanted = (found if isinstance(found, (tuple, list)) else (found,) for found in (got, wanted))
    eps = torch.finfo(dtype).eps
    for one, other in zip(got, wanted, strict=True):
        size = float(other.abs().nan_to_num(0, 0, 0).max())
        torch.testing.assert_close(one, other, rtol=64 * eps, atol=eps * (64 * max(size, 1e-3) + lost), equal_nan=True)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("edge", EDGES)
@pytest.mark.parametrize("op", CASES, ids=str)
def test_a_decomposition_is_its_operation(op: Any, edge: str, dtype: torch.dtype) -> None:
    for make in CASES[op]:
        arguments = cast(make(EDGES[edge]), dtype)
        got, wanted = decompose.TABLE[op](*arguments), op(*arguments)
        if op is aten.native_group_norm.default:  # of its mean and scale nothing is used
            got, wanted = got[0], wanted[0]
        same(got, wanted, dtype, 4 * float(arguments[0].abs().max()) / 1e-5**0.5 if op in AT_ONCE else 0.0)


def test_every_decomposition_has_a_case() -> None:
    assert set(CASES) == set(decompose.TABLE)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("edge", EDGES)
@pytest.mark.parametrize("p", [2.0, 1.0, 3.0])
def test_distances(edge: str, p: float, dtype: torch.dtype) -> None:
    """Against torch's own, whose way depends on how many rows there are; its derivative at distance 0 is 0."""
    x, y = cast((EDGES[edge](3, 6), W(4, 6)), dtype)
    for a, b in ((x, y), (x, x)):
        leaf = a.clone().requires_grad_()
        found = watch.cdist(leaf, b, p)
        same(found, torch.cdist(a, b, p, compute_mode="donot_use_mm_for_euclid_dist"), dtype)
        if p == 2:
            found.sum().backward()
            assert leaf.grad is not None
            assert leaf.grad.isfinite().all()


def test_a_query_that_sees_no_key_gets_nothing() -> None:
    q, k, v = _random(1, 4, 3), _random(1, 5, 3), _random(1, 5, 3)
    keep = torch.ones(4, 5, dtype=torch.bool)
    keep[2] = False
    found = decompose.TABLE[aten.scaled_dot_product_attention.default](q, k, v, keep)
    assert (found[0, 2] == 0).all()
    assert found.isfinite().all()


ONCE = {  # one use of each, for samples (N, 4, 6)
    aten.layer_norm.default: lambda x: torch.layer_norm(x, (6,)),
    aten.rms_norm.default: lambda x: torch.nn.functional.rms_norm(x, (6,)),
    aten.group_norm.default: lambda x: torch.nn.functional.group_norm(x, 2),
    aten.instance_norm.default: torch.nn.functional.instance_norm,
    aten.scaled_dot_product_attention.default: lambda x: torch.nn.functional.scaled_dot_product_attention(x, x, x),
    aten.std.correction: lambda x: torch.std(x, 1, correction=1),
    aten.cosine_similarity.default: lambda x: torch.cosine_similarity(x, x + 1),
    aten.glu.default: torch.nn.functional.glu,
    aten.max_pool1d.default: lambda x: torch.nn.functional.max_pool1d(x, 2),
    aten.max_pool2d.default: lambda x: torch.nn.functional.max_pool2d(x[:, None], 2),
}


@pytest.mark.filterwarnings("ignore::FutureWarning")  # torch uses what it has deprecated itself
@pytest.mark.parametrize("operation", ONCE, ids=str)
def test_what_is_taken_apart_for_rules_shows_in_the_plain_trace(operation: Any) -> None:
    """A plain trace without such operations serves rules, too."""

    class Once(torch.nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return ONCE[operation](x)

    shapes = ({0: torch.export.Dim("batch", min=1, max=2**31 - 1)},)
    exported = torch.export.export(Once(), (torch.zeros(3, 4, 6),), dynamic_shapes=shapes, strict=False)
    assert operation in {node.target for node in exported.run_decompositions(decompose.ALWAYS).graph.nodes}
    apart = {node.target for node in exported.run_decompositions(decompose.TABLE).graph.nodes}
    assert not apart & decompose.COMPOSITE.keys()

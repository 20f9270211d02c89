"""Operations recorded on fake tensors, and their graph as TorchScript: the same numbers at any size."""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, fx
from torch._dynamo.source import ConstantSource
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.fx.experimental.symbolic_shapes import DimDynamic, ShapeEnv, StatelessSymbolicContext

from explainers_torch.record import record
from explainers_torch.script import scripted

ROWS = 6


def recorded(function: Callable[..., Any], *shapes: tuple[int, ...]) -> tuple[fx.Graph, dict[str, Tensor]]:
    """The graph of a function of tensors whose first axes vary, each by itself."""
    mode = FakeTensorMode(shape_env=ShapeEnv(), allow_non_fake_inputs=True)
    arguments = []
    for place, shape in enumerate(shapes):
        context: Any = StatelessSymbolicContext(
            dynamic_sizes=[DimDynamic.DYNAMIC, *[DimDynamic.STATIC] * (len(shape) - 1)]
        )
        real = torch.zeros((ROWS + place, *shape[1:]))
        arguments.append(mode.from_tensor(real, symbolic_context=context, source=ConstantSource(f"x{place}")))
    with mode, torch.no_grad():
        return record(lambda *xs: function(*xs), arguments, mode, {})


def check(function: Callable[..., Any], *shapes: tuple[int, ...]) -> fx.Graph:
    graph, constants = recorded(function, *shapes)
    module, plain = scripted(graph, constants), fx.GraphModule(constants, graph)
    generator = torch.Generator().manual_seed(0)
    for rows in (2, 3, ROWS, 9, 17):
        xs = [torch.randn((rows + place, *shape[1:]), generator=generator) for place, shape in enumerate(shapes)]
        expected = function(*xs)
        for found in (plain(*xs), module(*xs)):
            for a, b in zip(found, expected, strict=True):
                assert a.shape == b.shape
                assert a.dtype == b.dtype
                assert torch.equal(torch.nan_to_num(a), torch.nan_to_num(b))
    return graph


def sizes(x: Tensor, y: Tensor) -> tuple[Tensor, ...]:
    n, m = x.shape[0], y.shape[0]
    return (
        x * (n / 2), x + n // 2 - m % 3, torch.arange((n + m) // 2) * n**2, x.new_zeros(n * m - 1, 2),
        y[: m - 1] * torch.sym_max(n, 4), torch.ones(n + 1) * torch.sym_float(m), x.reshape(-1, 2).repeat(m, 1),
        x / (1 / m),
    )  # fmt: skip


def constants(x: Tensor) -> tuple[Tensor, ...]:
    table = torch.tensor([1.0, -2.0, float("nan")])
    masked = torch.where(x > 0, x, -torch.inf)
    return x + table, masked, torch.full_like(x, float("nan")), x.double() * 0.1, x.to(torch.complex64) * 2j, x.bool()


def several(x: Tensor) -> tuple[Tensor, ...]:
    values, places = torch.sort(x, 1, descending=True)
    first, second = x.split([1, 3], 1)
    return values, places, first + second, torch.cat(x.unbind(1)), torch.einsum("ni,nj->nij", x, x)


def chosen(x: Tensor) -> tuple[Tensor, ...]:
    """Sizes that depend on the numbers."""
    places, columns = torch.nonzero(x[:, :2] > 0).unbind(1)
    picked = x[x > 0]
    return places * 2 + columns, x[places], torch.ones(picked.shape[0] * 2), torch.zeros(places.shape[0], 3)


def written(x: Tensor) -> tuple[Tensor, ...]:
    a = x * 2
    b = x * 2
    b.unsqueeze_(1)
    a.add_(1)
    c = b * 2
    b.squeeze_(1).t_()
    return a, c * c.ndim, b * 2, x * 2


@pytest.mark.parametrize(
    ("function", "shapes"),
    [(sizes, [(0, 4), (0, 4)]), (constants, [(0, 3)]), (several, [(0, 4)]), (chosen, [(0, 4)]), (written, [(0, 4)])],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_the_graph_and_its_script_compute_what_the_function_does(function: Any, shapes: Any) -> None:
    check(function, *shapes)


def repeated(x: Tensor) -> tuple[Tensor, ...]:
    """The same operations on arrays that differ in strides, place in memory, dtype, or conjugation only."""
    outs: list[Tensor] = []
    square = x[:4, :4]
    cases = square, square.t(), square.t().contiguous(), square.double(), x[1:5, :4], square.to(torch.complex64)
    for y in (*cases, square.to(torch.complex64).conj()):
        for _ in range(2):
            z = y.exp()
            outs += [z, z.t(), z.unsqueeze(1).expand(4, 3, 4), z.flatten(), y + y.t(), y.sum(0)]
    return tuple(outs)


def test_what_is_remembered_of_an_operation_depends_on_all_of_its_arguments() -> None:
    graph, held = recorded(lambda x: repeated(x[:, :]), (0, 4))
    kinds: dict[str, tuple[Any, ...]] = {}

    class Kinds(fx.Interpreter):
        def run_node(self, n: fx.Node) -> Any:
            value = super().run_node(n)
            if isinstance(value, Tensor):
                kinds[n.name] = value.shape, value.stride(), value.storage_offset(), value.dtype, value.is_conj()
            return value

    Kinds(fx.GraphModule(held, graph)).run(torch.randn(ROWS, 4))
    assert len(kinds) > 60
    for node in graph.nodes:
        if node.name in kinds:
            val = node.meta["val"]
            sizes_and_steps = [[getattr(size, "node", None) for size in axis] for axis in (val.shape, val.stride())]
            known = [
                tuple(s if n is None else n.hint for s, n in zip(axis, nodes, strict=True))
                for axis, nodes in zip((val.shape, val.stride()), sizes_and_steps, strict=True)
            ]
            assert (*known, int(val.storage_offset()), val.dtype, val.is_conj()) == kinds[node.name], node.format_node()


def test_an_operation_is_run_once_for_arguments_of_one_kind() -> None:
    ran: list[Any] = []

    class Counted(FakeTensorMode):
        def dispatch(self, func: Any, *rest: Any, **named: Any) -> Any:
            ran.append(func)
            return super().dispatch(func, *rest, **named)

    mode = Counted(shape_env=ShapeEnv(), allow_non_fake_inputs=True)
    x = mode.from_tensor(torch.zeros(3, 4), static_shapes=True)

    def layers(x: Tensor) -> list[Tensor]:
        for _ in range(10):
            x = torch.tanh(x @ x.t() @ x)
        return [x]

    with mode, torch.no_grad():
        graph, _ = record(layers, [x], mode, {})
    assert sum(node.target is torch.ops.aten.tanh.default for node in graph.nodes) == 10
    assert ran.count(torch.ops.aten.tanh.default) == 1
    assert ran.count(torch.ops.aten.mm.default) == 2


def test_copies_of_a_result_are_written_to_one_by_one() -> None:
    """Otherwise autograd would take the value that an operation saved for one that was changed since."""
    mode = FakeTensorMode(shape_env=ShapeEnv(), allow_non_fake_inputs=True)
    x = mode.from_tensor(torch.zeros(3, 4), static_shapes=True)
    versions: list[int] = []

    def function(x: Tensor) -> list[Tensor]:
        a, b, c = x * 2, x * 2, x * 2
        b.add_(1)
        c.add_(1).add_(2)
        versions.extend(y._version for y in (a, b, c, x * 2))
        return [a, b, c]

    with mode, torch.no_grad():
        record(function, [x], mode, {})
    assert versions == [0, 1, 2, 0]


def test_sizes_are_written_from_those_of_the_arguments() -> None:
    graph, _ = recorded(lambda x: [x.exp().reshape(-1).reshape(x.shape[0] * 2, -1)], (0, 4))
    targets = [node.target for node in graph.nodes if node.op == "call_function"]
    assert targets.count(torch.ops.aten.sym_size.int) == 1
    assert operator.mul in targets

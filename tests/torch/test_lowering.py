"""Exported programs are taken apart node by node: as torch's own pass writes them, and nothing is written in place."""

from __future__ import annotations

import warnings
from collections import Counter
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from explainers import Explainer
from explainers_torch import decompose
from explainers_torch.lower import Lowered, lowered

ATEN = torch.ops.aten
SAME_ENTRIES = {ATEN.clone.default, ATEN.view.default, ATEN._unsafe_view.default, ATEN.detach.default}  # as strides are


class InPlace(nn.Module):
    """Chains of operations in place, on arrays that other operations have read before."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm, self.head = nn.Conv2d(2, 4, 3), nn.BatchNorm2d(4), nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        h = self.conv(x)
        before = torch.sigmoid(h)
        F.relu_(self.norm(h).mul_(1.5).add_(before))
        y = self.norm(h)
        z = y.clamp_(min=0.1)
        y = y + z.sub_(before * 0.5)
        return self.head(y.mean((2, 3)))


class ThroughView(nn.Module):
    """Writes through a view, which only the framework's own pass can follow."""

    def forward(self, x: Tensor) -> Tensor:
        h = x * 2
        part = h[:, 1:]
        h.mul_(3)
        h[:, 0] = 0.5
        return (part.square() + h[:, 1:]).sum(1, keepdim=True)


class SeenThroughView(nn.Module):
    """A view that was taken before shows what was written later."""

    def forward(self, x: Tensor) -> Tensor:
        h = x * 1.3
        part = h[:, 1:]
        h.mul_(3)
        return (part.square() * h[:, :-1]).sum(1, keepdim=True)


class Itself(nn.Module):
    """``dropout`` returns its operand itself in inference, which is then written to."""

    def __init__(self) -> None:
        super().__init__()
        self.drop = nn.Dropout(0.5)

    def forward(self, x: Tensor) -> Tensor:
        h = x * 1.3
        other = self.drop(h)
        other.mul_(2)
        return (h * other + x).sum(1, keepdim=True)


class Casts(nn.Module):
    """In place the dtype stays; the same operation out of place would return a wider one."""

    def forward(self, x: Tensor) -> Tensor:
        h = x * 1.3
        h.mul_(torch.ones((), dtype=torch.float64, device=x.device).expand(1, 1))
        return (h.half().float() * 3).sum(1, keepdim=True)


class Parts(nn.Module):
    """Operations with several results, of which some are taken apart."""

    def forward(self, x: Tensor) -> Tensor:
        first, second = x.chunk(2, 1)
        variance, mean = torch.var_mean(x, 1, keepdim=True)
        values, _ = torch.sort(first, 1)
        return F.glu(x, 1).sum(1, keepdim=True) + (values * second).sum(1, keepdim=True) / (1 + variance) + mean


MODELS = {
    "in place": (InPlace(), (3, 2, 6, 6), True), "through a view": (ThroughView(), (3, 4), False),
    "seen through a view": (SeenThroughView(), (3, 4), False), "itself": (Itself(), (3, 4), True),
    "casts": (Casts(), (3, 4), None), "parts": (Parts(), (3, 4), True),
    "attention": (nn.TransformerEncoderLayer(8, 2, 16, batch_first=True), (3, 5, 8), None),
}  # fmt: skip


def exported(model: nn.Module, shape: tuple[int, ...]) -> torch.export.ExportedProgram:
    batch = torch.export.Dim("batch", min=1, max=100)
    model.eval().requires_grad_(False)
    return torch.export.export(model, (torch.zeros(shape),), dynamic_shapes=({0: batch},), strict=False)


def operations(program: Any) -> Counter[Any]:
    return Counter(
        node.target
        for node in program.graph.nodes
        if node.op == "call_function" and node.target not in SAME_ENTRIES and "_assert" not in str(node.target)
    )


def run(found: Lowered | torch.export.ExportedProgram, x: Tensor) -> Tensor:
    """The result of a program, node by node, at real values."""
    values: dict[Any, Any] = {}
    specs = {spec.arg.name: spec for spec in found.graph_signature.input_specs}
    for node in found.graph.nodes:
        if node.op == "placeholder":
            target = specs[node.name].target
            held = {**found.state_dict, **found.constants}
            values[node] = x if target is None else held[target]
        elif node.op == "call_function":
            args, kwargs = torch.fx.map_arg((node.args, node.kwargs), values.__getitem__)
            target = ATEN.reshape.default if node.target is ATEN.view.default else node.target
            values[node] = target(*args, **kwargs)
    names = [spec.arg.name for spec in found.graph_signature.output_specs]
    (result,) = (value for node, value in values.items() if node.name == names[-1])
    return result  # type: ignore[no-any-return]


@pytest.mark.parametrize("table", [decompose.ALWAYS, decompose.TABLE], ids=["as written", "elementary"])
@pytest.mark.parametrize("name", MODELS)
def test_a_lowered_program_is_what_the_framework_makes_of_it(name: str, table: dict[Any, Any]) -> None:
    model, shape, expected = MODELS[name]
    program = exported(model, shape)
    found = lowered(program, table)
    if expected is not None:
        assert (found is not None) is expected
    if found is None:
        return
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the framework's own
        other = program.run_decompositions(table)
    assert not any(node.target._schema.is_mutable for node in found.graph.nodes if hasattr(node.target, "_schema"))
    x = torch.randn((5, *shape[1:]), generator=torch.Generator().manual_seed(0))
    assert torch.allclose(run(found, x), model(x), atol=1e-5)
    if name != "itself":  # the framework's own pass copies what dropout returns
        assert operations(found) == operations(other)
        assert torch.allclose(run(found, x), run(other, x), atol=1e-6)
    inputs = [[node.name for node in p.graph.nodes if node.op == "placeholder"] for p in (found, program)]
    assert inputs[0] == inputs[1]


@pytest.mark.parametrize("name", MODELS)
def test_gradients_of_models_that_write_in_place(name: str) -> None:
    model, shape, _ = MODELS[name]
    model.eval().requires_grad_(False)
    x = torch.randn((4, *shape[1:]), generator=torch.Generator().manual_seed(1))
    at = x.clone().requires_grad_()
    model(at).flatten(1)[:, 0].sum().backward()
    target = (0, 0) if name == "attention" else 0
    found = Explainer.compile(model, "gradient", inputs=x)(x, target=target)
    assert torch.allclose(torch.as_tensor(found), at.grad, atol=1e-5)


def test_where_a_node_comes_from_is_kept() -> None:
    model = nn.Sequential(nn.Linear(4, 4), nn.LayerNorm(4), nn.ReLU())
    found = lowered(exported(model, (3, 4)), decompose.TABLE)
    assert found is not None
    paths = {path for node in found.graph.nodes for path, _ in (node.meta.get("nn_module_stack") or {}).values()}
    assert {"0", "1", "2"} <= paths
    standardizing = [node for node in found.graph.nodes if node.target is ATEN.rsqrt.default]
    assert [[*node.meta["nn_module_stack"].values()][-1][0] for node in standardizing] == ["1"]


def test_the_statistics_of_a_batch_are_left_to_the_framework() -> None:
    program = exported(nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4, track_running_stats=False)), (3, 4))
    assert lowered(program, decompose.ALWAYS) is None

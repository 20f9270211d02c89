"""What explainers that are compiled together share on torch, and that nothing of it outlives the call or goes stale."""

from __future__ import annotations

import copy
import gc
import threading
import weakref
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from explainers import Explainer, TensorSpec, methods
from explainers.errors import UnsupportedOperation
from explainers_torch import trace

METHODS = ["gradient", "deeplift", "integrated_gradients", "lrp"]


class Tempered(nn.Module):
    """Has most of what a trace depends on: a plain attribute, a submodule, a mode, and hooks."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.temperature = 1.0
        self.norm = nn.LayerNorm(6)
        self.layer = nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 3))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.layer(self.norm(x)) / self.temperature


class Square(torch.autograd.Function):
    """x², with a derivative of its own: three times the real one."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor) -> torch.Tensor:
        ctx.save_for_backward(x)
        return x * x

    @staticmethod
    def backward(ctx: Any, message: torch.Tensor) -> torch.Tensor:
        return 6 * ctx.saved_tensors[0] * message


class Own(nn.Module):
    def __init__(self, scale: float) -> None:
        super().__init__()
        self.scale = scale

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.scale * Square.apply(x)


def sample(rows: int = 4) -> torch.Tensor:
    return torch.randn(rows, 6, generator=torch.Generator().manual_seed(1))


def compiled(model: nn.Module, chosen: Any = METHODS, **options: Any) -> Any:
    return Explainer.compile(model, chosen, inputs=sample(), **options)


@pytest.fixture
def exports(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Each call of torch.export."""
    found: list[Any] = []
    export = torch.export.export

    def counted(*args: Any, **kwargs: Any) -> Any:
        found.append(args)
        return export(*args, **kwargs)

    monkeypatch.setattr(torch.export, "export", counted)
    return found


def test_one_export_serves_both_kinds_of_graph(exports: list[Any]) -> None:
    gradient, deeplift, *_ = compiled(Tempered())
    assert len(exports) == 1
    assert len(list(deeplift.graph)) > len(list(gradient.graph))  # the norm is taken apart for rules only
    compiled(Tempered(), "gradient")
    assert len(exports) == 2


def test_a_graph_with_nothing_to_take_apart_serves_rules_too(monkeypatch: pytest.MonkeyPatch) -> None:
    rounds: list[Any] = []
    lowered = trace.lowered

    def counted(program: Any, table: Any) -> Any:
        rounds.append(table)
        return lowered(program, table)

    monkeypatch.setattr(trace, "lowered", counted)
    x = sample()
    gradient, deeplift = compiled(nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3)), ["gradient", "deeplift"])
    assert len(rounds) == 1
    assert gradient.graph.nodes == deeplift.graph.nodes
    weights = deeplift._plan.traced.weights
    assert weights is not gradient._plan.traced.weights
    change = (deeplift.predict(x) - deeplift.predict(0 * x))[:, 1]
    torch.testing.assert_close(deeplift(x, target=1).sum(1), change)
    compiled(Tempered(), ["gradient", "deeplift"])
    assert len(rounds) == 3


@pytest.mark.parametrize("order", [("gradient", "deeplift"), ("deeplift", "gradient")])
def test_recurrent_layers_are_exported_step_by_step_for_rules_only(exports: list[Any], order: tuple[str, str]) -> None:
    class Last(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.GRU(6, 4, batch_first=True)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.layer(x)[0][:, -1]

    explainers = Explainer.compile(Last(), order, inputs=torch.zeros(2, 3, 6))
    nodes = {explain.method.name: len(list(explain.graph)) for explain in explainers}
    assert len(exports) == 2
    assert nodes["deeplift"] > 2 * nodes["gradient"]


def change_attribute(model: Any) -> None:
    model.temperature = 2.0


def replace_submodule(model: Any) -> None:
    model.layer[1] = nn.ReLU()


def add_hook(model: Any) -> None:
    model.layer.register_forward_hook(lambda module, args, result: 3 * result)


def patch_forward(model: Any) -> None:
    model.forward = lambda x: x[:, :3] ** 2


def replace_parameter(model: Any) -> None:
    model.layer[0].weight = nn.Parameter(torch.ones(8, 6))


@pytest.mark.parametrize(
    "change",
    [change_attribute, replace_submodule, add_hook, patch_forward, replace_parameter],
    ids=lambda c: c.__name__,
)
def test_a_changed_model_is_traced_as_it_is_now(change: Any) -> None:
    """Whatever changes between two calls of compile is seen, also by the same methods and signature."""
    model, x = Tempered(), sample()
    before = [explain(x, target=1) for explain in compiled(model)]
    change(model)
    fresh = copy.deepcopy(model)
    for old, explain, name in zip(before, compiled(model), METHODS, strict=True):
        want = compiled(fresh, name)(x, target=1)
        assert torch.equal(explain(x, target=1), want), name
        assert not torch.equal(old, want), name


def test_the_mode_is_evaluation_whatever_it_was_before() -> None:
    torch.manual_seed(0)
    model, x = nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.Dropout(), nn.Linear(8, 3)), sample()
    in_training = [explain(x, target=1) for explain in compiled(model.train())]
    assert model.training
    assert model[2].training
    for got, explain in zip(in_training, compiled(model.eval()), strict=True):
        assert torch.equal(got, explain(x, target=1))


def test_weights_trained_in_place_are_seen_by_all_and_refresh_is_each_ones_own() -> None:
    model, x = Tempered(), sample()
    explainers = compiled(model)
    with torch.no_grad():
        model.layer[0].weight.mul_(2)
    for explain, name in zip(explainers, METHODS, strict=True):
        assert torch.equal(explain(x, target=1), compiled(model, name)(x, target=1)), name
    before = [explain(x, target=1) for explain in explainers]
    outputs = model(x).detach()
    model.layer[2].weight = nn.Parameter(torch.randn(3, 8))
    explainers[0].refresh()
    assert not torch.allclose(explainers[0].predict(x), outputs)
    torch.testing.assert_close(explainers[2].predict(x), outputs)  # of the same graph, compiled only now
    assert not torch.equal(explainers[0](x, target=1), before[0])
    for explain, old in zip(explainers[1:], before[1:], strict=True):
        assert torch.equal(explain(x, target=1), old)
        assert torch.equal(explain.refresh()(x, target=1), compiled(model, explain.method)(x, target=1))


def test_nothing_outlives_the_call() -> None:
    model = Tempered()
    model_ref, explainers = weakref.ref(model), compiled(model)
    graph = weakref.ref(explainers[0]._plan.traced.graph)
    del model, explainers
    gc.collect()
    assert model_ref() is None
    assert graph() is None


def test_the_model_is_unchanged() -> None:
    model = Tempered()
    before = {name: dict(module.__dict__) for name, module in model.named_modules()}
    compiled(model)
    with pytest.raises(UnsupportedOperation, match="method 1 of 0 … 1, 'deeplift': "):
        compiled(nn.Sequential(model, Own(1.0)), ["gradient", "deeplift"])
    for name, module in model.named_modules():
        assert module.__dict__.keys() == before[name].keys()
        assert all(module.__dict__[key] is value for key, value in before[name].items())


@pytest.mark.parametrize("order", [["gradient", "lrp"], ["lrp", "gradient"]])
def test_functions_with_their_own_backward(order: list[str]) -> None:
    """Operations refer to them by number, and another trace in between numbers its own."""
    model, x = nn.Sequential(nn.Linear(6, 3), Own(2.0)), sample()
    kept: dict[Any, Any] = {}
    signature = trace.signature(model, (x,), {})
    for elementary in (name == "lrp" for name in order):
        found = trace.trace(model, signature, None, None, elementary, kept)
        trace.trace(nn.Sequential(Own(5.0), Own(7.0)), signature, None, None)
        (node,) = (node for node in found.graph if node.op.endswith(".apply"))
        assert torch.equal(node.payload[0]([x])[0], x * x)
    explain, again = Explainer.compile(model, ["gradient", "saliency"], inputs=x)
    z = (x @ model[0].weight.T + model[0].bias)[:, 1:2]
    torch.testing.assert_close(explain(x, target=1), (12 * z * model[0].weight[1]).detach())
    torch.testing.assert_close(again(x, target=1), (12 * z * model[0].weight[1]).detach().abs())


def test_axes_that_vary() -> None:
    """Conditions on sizes are those of each kind of graph alone."""

    class Mean(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            torch.manual_seed(0)
            self.norm, self.out = nn.LayerNorm(6), nn.Linear(6, 3)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.out(self.norm(x).mean(1))

    model, inputs = Mean(), TensorSpec((None, "length", 6), "float32")
    x = torch.randn(2, 5, 6)
    together = Explainer.compile(model, ["gradient", "input_x_gradient"], inputs=inputs)
    for explain in together:
        alone = Explainer.compile(model, explain.method, inputs=inputs)
        assert explain.signature == alone.signature
        assert torch.equal(explain(x, target=1), alone(x, target=1))
        assert torch.equal(explain(x[:, :1], target=1), alone(x[:, :1], target=1))


def test_many_threads_compile_one_model() -> None:
    model, x = Tempered(), sample()
    want = [explain(x, target=1) for explain in compiled(model)]
    with ThreadPoolExecutor(4) as pool:
        for explainers in pool.map(lambda _: compiled(model), range(6)):
            for explain, expected in zip(explainers, want, strict=True):
                assert torch.equal(explain(x, target=1), expected)


@pytest.mark.filterwarnings("ignore")  # filters belong to the process, and torch.export warns
def test_calls_go_on_while_another_thread_traces() -> None:
    """As in a service that compiles another model: torch.export breaks the wrapper of scripted modules meanwhile."""
    model, x = Tempered(), sample()
    explain = Explainer.compile(model, "gradient", inputs=x)
    expected, done = explain(x, target=1), threading.Event()

    def trace() -> None:
        for _ in range(2):
            compiled(Tempered(), ["gradient"])
        done.set()

    tracing = threading.Thread(target=trace)
    tracing.start()
    calls = 0
    while not done.is_set():
        assert torch.equal(explain(x, target=1), expected)
        calls += 1
    tracing.join()
    assert calls > 10


def test_threads_compile_different_functions_with_own_backwards() -> None:
    x = sample()
    scales = [1.0, 2.0, 3.0, 4.0] * 2
    with ThreadPoolExecutor(4) as pool:
        found = pool.map(lambda scale: Explainer.compile(Own(scale), ["gradient", "saliency"], inputs=x), scales)
        for scale, explainers in zip(scales, found, strict=True):
            for explain in explainers:
                mask = torch.zeros(6)
                mask[2] = 1
                want = 6 * scale * x * mask
                got = explain(x, target=2)
                torch.testing.assert_close(got, want if explain.method.name == "gradient" else want.abs())


def test_files_of_explainers_compiled_together(tmp_path: Any) -> None:
    model, x = Tempered(), sample()
    for place, explain in enumerate(compiled(model, [*METHODS, methods.Occlusion(window=2)])):
        path = tmp_path / f"{place}.explainer"
        explain.save(path)
        np.testing.assert_array_equal(Explainer.load(path)(x, target=1), explain(x, target=1))

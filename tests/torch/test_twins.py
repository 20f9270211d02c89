"""The user's own model is never touched, whatever it holds; its tensors are found again."""

from __future__ import annotations

import threading
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from explainers import Explainer
from explainers.errors import TraceError

X = torch.randn(4, 6, generator=torch.Generator().manual_seed(1))


class Keeps(nn.Module):
    """Puts what it computes wherever modules put such things."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(6, 5), nn.Linear(5, 3)
        self.maps: list[Tensor] = []
        self.by_name: dict[str, Tensor] = {}
        self.last: Tensor | None = None

    def forward(self, x: Tensor) -> Tensor:
        h = torch.tanh(self.a(x))
        self.maps.append(h)
        self.by_name["h"] = h
        self.last = h
        return self.b(h)


class Locked(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.lock, self.numbers = nn.Linear(6, 3), threading.Lock(), (i for i in range(3))

    def forward(self, x: Tensor) -> Tensor:
        with self.lock:
            return self.a(x)


class Hidden(nn.Module):
    """Modules in a list and a tuple, one shared, one bound method put onto an instance."""

    def __init__(self) -> None:
        super().__init__()
        self.shared = nn.Linear(6, 6)
        self.layers = [self.shared, nn.Dropout(0.5)]
        self.pair = (nn.Linear(6, 3), "name")
        self.call = self.inner

    def inner(self, x: Tensor) -> Tensor:
        return self.pair[0](self.layers[1](torch.tanh(self.layers[0](self.shared(x)))))

    def forward(self, x: Tensor) -> Tensor:
        return self.call(x)


@pytest.mark.parametrize("kind", [Keeps, Locked, Hidden])
def test_whatever_a_module_holds(kind: type[nn.Module]) -> None:
    torch.manual_seed(0)
    model = kind().train()
    model(X)
    before = {name: id(value) for name, value in vars(model).items()}
    held = list(getattr(model, "maps", []))
    explain = Explainer.compile(model, "gradient", inputs=X)
    assert {name: id(value) for name, value in vars(model).items()} == before
    assert model.training
    assert list(map(id, getattr(model, "maps", []))) == list(map(id, held))
    assert type(getattr(model, "by_name", {}).get("h", X)) is Tensor
    model.eval()
    for hidden in getattr(model, "layers", []):
        hidden.eval()
    leaf = X.clone().requires_grad_()
    want = torch.autograd.grad(model(leaf)[:, 1].sum(), leaf)[0]
    torch.testing.assert_close(explain(X, target=1), want)


class Recorder:
    def __init__(self) -> None:
        self.seen: dict[str, Any] = {}

    def __call__(self, module: nn.Module, given: Any, out: Tensor) -> None:
        self.seen["features"] = out

    def method(self, module: nn.Module, given: Any, out: Tensor) -> None:
        self.seen["features"] = out


STORE: dict[str, Tensor] = {}


def into_global(module: nn.Module, given: Any, out: Tensor) -> None:
    STORE["features"] = out


@pytest.mark.parametrize("how", ["closure", "object", "method", "global", "list"])
def test_hooks_keep_what_they_had(how: str) -> None:
    model, store, recorder, several = nn.Sequential(nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 3)), {}, Recorder(), []
    hooks: dict[str, Any] = {
        "closure": lambda module, given, out: store.__setitem__("features", out),
        "object": recorder,
        "method": recorder.method,
        "global": into_global,
        "list": lambda module, given, out: several.append(out),
    }
    model[1].register_forward_hook(hooks[how])
    model(X)
    kept = {"closure": store, "object": recorder.seen, "method": recorder.seen, "global": STORE}.get(how, several)
    before = list(kept) if how == "list" else dict(kept)
    Explainer.compile(model, "gradient", inputs=X)
    assert len(kept) == len(before) == 1
    now, then = (kept[0], before[0]) if how == "list" else (kept["features"], before["features"])
    assert now is then


def test_a_hook_that_changes_the_output_is_part_of_the_model() -> None:
    model = nn.Sequential(nn.Linear(6, 5), nn.Linear(5, 3))
    model[0].register_forward_hook(lambda module, given, out: torch.tanh(out))
    leaf = X.clone().requires_grad_()
    want = torch.autograd.grad(model(leaf)[:, 1].sum(), leaf)[0]
    torch.testing.assert_close(Explainer.compile(model, "gradient")(X, target=1), want)


class Scaled(nn.Module):
    """A plain tensor, and one in a module below."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.scale = nn.Linear(6, 3), torch.ones(6)

    def forward(self, x: Tensor) -> Tensor:
        return self.a(x * self.scale)


def test_plain_tensors_are_read_anew() -> None:
    model = nn.Sequential(Scaled(), nn.Tanh())
    explain = Explainer.compile(model, "gradient", inputs=X)
    model[0].scale = model[0].scale * 3
    leaf = X.clone().requires_grad_()
    want = torch.autograd.grad(model(leaf)[:, 1].sum(), leaf)[0]
    torch.testing.assert_close(explain.refresh()(X, target=1), want)


class Tabular(nn.Module):
    def __init__(self, first: torch.dtype) -> None:
        super().__init__()
        self.kinds, self.head = nn.Embedding(9, 6).to(first), nn.Linear(6, 3)

    def forward(self, ids: Tensor, x: Tensor) -> Tensor:
        return self.head(self.kinds(ids).float().mean(1) + x)


@pytest.mark.parametrize("first", [torch.bfloat16, torch.float16])
def test_the_first_parameter_does_not_fix_every_input(first: torch.dtype) -> None:
    torch.manual_seed(0)
    model, ids, x = Tabular(first).eval(), torch.randint(0, 9, (4, 5)), 100 + X
    for given in (x, x.numpy(), x.double().numpy()):
        explain = Explainer.compile(model, "gradient")
        explain(ids, given, target=1)
        assert [spec.dtype for spec in explain.signature.inputs] == ["int64", "float32"]
        np.testing.assert_array_equal(explain.predict(ids, given), model(ids, x).detach())


def test_one_dtype_is_every_inputs() -> None:
    explain = Explainer.compile(nn.Linear(6, 3).double(), "gradient", inputs=X)
    assert [spec.dtype for spec in explain.signature.inputs] == ["float64"]


@pytest.mark.parametrize("make", [torch.jit.script, lambda model: torch.jit.trace(model, X)])
@pytest.mark.parametrize("method", ["gradient", "exact_shapley"])
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_torchscript_is_named_as_the_cause(make: Any, method: str) -> None:
    with pytest.raises(TraceError, match="is TorchScript"):
        Explainer.compile(make(nn.Linear(6, 3)), method)(X, target=1)

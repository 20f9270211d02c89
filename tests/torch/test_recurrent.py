"""Recurrent layers stay one operation, however long the sequences: the layer's own numbers, and autograd's."""

from __future__ import annotations

import io
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from explainers import Explainer
from explainers_torch import recurrent

KINDS: dict[str, tuple[type[nn.RNNBase], dict[str, Any]]] = {
    "lstm": (nn.LSTM, {}),
    "lstm_projected": (nn.LSTM, {"proj_size": 3}),
    "gru": (nn.GRU, {}),
    "rnn_tanh": (nn.RNN, {}),
    "rnn_relu": (nn.RNN, {"nonlinearity": "relu"}),
}
pytestmark = pytest.mark.filterwarnings("ignore:LSTM with projections is not supported with oneDNN")


class Classifier(nn.Module):
    """On all outputs and last states; the initial state depends on the input."""

    def __init__(self, kind: str, length: int = 5, **options: Any) -> None:
        super().__init__()
        torch.manual_seed(0)
        cls, own = KINDS[kind]
        self.time_first = not options.get("batch_first", False)
        self.layer = cls(4, 5, **own, **options)
        cells = self.layer.num_layers * (2 if self.layer.bidirectional else 1)
        sizes = [self.layer.proj_size or 5] + [5] * (cls is nn.LSTM)
        self.first = nn.ModuleList(nn.Linear(4, size * cells) for size in sizes)
        self.cells = cells
        out = sizes[0] * (2 if self.layer.bidirectional else 1)
        self.head = nn.Linear(out * length + cells * sum(sizes), 3)

    def forward(self, x: Tensor) -> Tensor:
        states = [torch.tanh(f(x[:, 0])).unflatten(1, (self.cells, -1)).transpose(0, 1) for f in self.first]
        given = x.transpose(0, 1) if self.time_first else x
        y, last = self.layer(given, tuple(states) if len(states) == 2 else states[0])
        parts = [y.transpose(0, 1) if self.time_first else y]
        parts += [state.transpose(0, 1) for state in (last if isinstance(last, tuple) else (last,))]
        return self.head(torch.cat([part.flatten(1) for part in parts], 1))


def by_autograd(model: nn.Module, x: Tensor, target: int) -> np.ndarray:
    x = x.clone().requires_grad_()
    model(x)[:, target].sum().backward()
    assert x.grad is not None
    return x.grad.numpy()


def data(length: int = 5, rows: int = 3, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(rows, length, 4, generator=torch.Generator().manual_seed(1)).to(dtype)


class OneOperation(TorchFunctionMode):
    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return recurrent.LAYERS.get(func, func)(*args, **(kwargs or {}))


@pytest.mark.parametrize("layers", [1, 2])
@pytest.mark.parametrize("bidirectional", [False, True], ids=["forwards", "both ways"])
@pytest.mark.parametrize("plain", [False, True], ids=["time first, no biases", "batch first, biases"])
@pytest.mark.parametrize("kind", KINDS)
def test_gradients_are_those_of_autograd(kind: str, plain: bool, bidirectional: bool, layers: int) -> None:
    options = {"bias": plain, "batch_first": plain, "bidirectional": bidirectional, "num_layers": layers}
    model, x = Classifier(kind, **options).double().eval(), data()
    wanted = by_autograd(model, x, 2)
    with OneOperation():
        found = by_autograd(model, x, 2)
    np.testing.assert_allclose(found, wanted, rtol=1e-10, atol=1e-12)
    assert abs(found[:, 0]).max() > 1e-3  # through the initial state


@pytest.mark.parametrize("kind", KINDS)
def test_one_program_for_any_number_of_rows(kind: str) -> None:
    model, x = Classifier(kind, bidirectional=True, num_layers=2).double().eval(), data()
    explain = Explainer.compile(model, "gradient", inputs=x)
    for rows in (x, x[:1], torch.cat([x, -x])):
        np.testing.assert_allclose(explain(rows, target=2), by_autograd(model, rows, 2), rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("kind", ["lstm", "gru"])
@pytest.mark.parametrize("engine", ["eager", pytest.param("inductor", marks=pytest.mark.slow)])
def test_all_engines(engine: str, kind: str) -> None:
    model = Classifier(kind, bidirectional=True, batch_first=True).eval()
    x = data(dtype=torch.float32)
    explain = Explainer.compile(model, "gradient", inputs=x, engine=engine)
    np.testing.assert_allclose(explain(x, target=0), by_autograd(model, x, 0), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(
    ("method", "kind"), [("gradient", "lstm"), ("guided_backprop", "rnn_relu"), ("shapley_sampling", "gru")]
)
def test_programs_do_not_grow_with_the_length(method: str, kind: str) -> None:
    sizes = []
    for length in (4, 40):
        model, x = Classifier(kind, length, batch_first=True).eval(), data(length, dtype=torch.float32)
        explain = Explainer.compile(model, method, inputs=x)
        assert [str(node.op) for node in explain.graph].count(f"explainers_recurrent.{kind}.default") == 1
        sizes.append((len(explain.graph.nodes), len(code(explain).splitlines())))
    assert sizes[0] == sizes[1]


def code(explain: Explainer) -> str:
    """All TorchScript of a file."""
    buffer = io.BytesIO()
    explain.save(buffer)
    script = zipfile.ZipFile(buffer).read("program.pt")
    inner = zipfile.ZipFile(io.BytesIO(script))
    return "\n".join(inner.read(name).decode() for name in inner.namelist() if name.endswith(".py"))


def test_files_need_nothing_of_this_library(tmp_path: Path) -> None:
    model, x = Classifier("gru", batch_first=True).eval(), data(dtype=torch.float32)
    explain = Explainer.compile(model, "gradient", inputs=x)
    explain.save(tmp_path / "gru.xpl")
    (tmp_path / "program.pt").write_bytes(zipfile.ZipFile(tmp_path / "gru.xpl").read("program.pt"))
    script = (
        "import sys, torch\n"
        f"found = torch.jit.load({str(tmp_path / 'program.pt')!r})\n"
        "names = [name for name, _ in found.named_children() if 'forward' not in name]\n"
        "outs = getattr(found, names[0])(torch.ones(2, 5, 4), torch.ones(2, 3), torch.zeros(()))\n"
        "assert not {'explainers', 'explainers_torch'} & set(sys.modules)\n"
        "print(*outs[1].flatten().tolist())\n"
    )
    ran = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=120, cwd=tmp_path)
    assert ran.returncode == 0, ran.stderr
    ones = torch.ones(2, 5, 4)
    wanted = sum(by_autograd(model, ones, target) for target in range(3))
    np.testing.assert_allclose([float(word) for word in ran.stdout.split()], wanted.ravel(), rtol=1e-4, atol=1e-6)


def test_dropout_between_layers_does_nothing() -> None:
    """In inference, dropout between the layers does nothing."""
    model = Classifier("lstm", batch_first=True, num_layers=2, dropout=0.5)
    x = data(dtype=torch.float32)
    explain = Explainer.compile(model, "gradient", inputs=x)
    np.testing.assert_allclose(explain(x, target=1), by_autograd(model.eval(), x, 1), rtol=1e-4, atol=1e-6)


def test_the_derivative_of_a_relu_at_zero() -> None:
    model = Classifier("rnn_relu", batch_first=True).eval()
    with torch.no_grad():
        for weight in model.layer.parameters():
            weight.zero_()
    x = data(dtype=torch.float32)
    explain = Explainer.compile(model, "gradient", inputs=x)
    np.testing.assert_allclose(explain(x, target=1), by_autograd(model, x, 1), rtol=1e-5, atol=1e-7)


def test_operations_alone_are_the_framework_s() -> None:
    for kind in ("lstm", "gru", "rnn_tanh", "rnn_relu"):
        cls, own = KINDS[kind]
        layer = cls(4, 5, batch_first=True, **own)
        states = [torch.randn(1, 3, 5) for _ in range(2 if kind == "lstm" else 1)]
        weights = [weight.detach() for weight in layer.parameters()]
        with torch.no_grad():
            y, last = layer(data(dtype=torch.float32), tuple(states) if len(states) == 2 else states[0])
            found = recurrent._FORWARD[kind](data(dtype=torch.float32), states, weights, True, 1, False, True)
        for one, other in zip(found, [y, *(last if isinstance(last, tuple) else (last,))], strict=True):
            np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-6)


def test_long_compiling_is_told(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    model, x = Classifier("rnn_tanh", 3, batch_first=True).eval(), data(3, dtype=torch.float32)
    for method, told in (("gradient", False), ("deeplift", True)):
        monkeypatch.setattr("explainers.explainer.plan.LONG", 0)
        Explainer.compile(model, method, inputs=x)
        found = [record.getMessage() for record in caplog.records if record.name == "explainers.explainer.plan"]
        assert [f"Compiling '{method}' may take about" in text for text in found] == [True] * told


class Hyper(nn.Module):
    """A recurrent layer whose weights depend on the second input."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layer, self.head = nn.RNN(4, 5, batch_first=True), nn.Linear(5, 3)

    def forward(self, x: Tensor, scale: Tensor) -> Tensor:
        weights = [w.detach() for w in self.layer.parameters()]
        weights[0] = weights[0] * scale.mean()
        first = torch.zeros(1, x.shape[0], 5, dtype=x.dtype)
        y, _ = torch.rnn_tanh(x, first, weights, True, 1, 0.0, False, False, True)
        return self.head(y[:, -1])


def test_weights_that_depend_on_an_input_have_a_derivative() -> None:
    model, x, scale = Hyper().eval(), data(dtype=torch.float32), torch.ones(3, 1)
    explain = Explainer.compile(model, "gradient", inputs=(x, scale), interacting=True)
    found = explain(x, scale, target=1)
    leaf = scale.clone().requires_grad_()
    (wanted,) = torch.autograd.grad(model(x, leaf)[:, 1].sum(), leaf)
    assert abs(wanted).max() > 1e-4
    np.testing.assert_allclose(found[1], wanted, rtol=1e-3, atol=1e-8)

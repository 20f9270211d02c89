"""Models that cannot be traced: methods that only need outputs call them, with engine="eager"."""

from __future__ import annotations

import copy
import dataclasses
import time
import warnings
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from explainers import Explainer, TensorSpec, methods
from explainers.errors import ArtifactError, InputError, TargetError, TraceError, UnknownNameError

from ..contract import naive_removal
from ..contract.naive import numbered
from ..contract.state import fingerprint


def trained() -> nn.Sequential:
    """A classifier with BatchNorm and dropout, trained until it is confident; left in training mode."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(6, 7), nn.BatchNorm1d(7), nn.ReLU(), nn.Dropout(0.2), nn.Linear(7, 3))
        x = torch.randn(300, 6)
        labels = torch.stack([x[:, 0] * x[:, 1], x[:, 2], x[:, 3] - x[:, 4]], 1).argmax(1)
        optimizer = torch.optim.Adam(model.parameters(), 0.05)
        for _ in range(120):
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(x), labels).backward()
            optimizer.step()
        model.zero_grad()
    return model


NET = trained()
X = torch.randn(4, 6, generator=torch.Generator().manual_seed(3))
TARGET = [1, 0, 2, 1]


class Branches(nn.Module):
    """Takes another path for some samples, with numpy in it."""

    def __init__(self) -> None:
        super().__init__()
        self.net = copy.deepcopy(NET)

    def forward(self, x: Tensor) -> Tensor:
        rows = [
            self.net(row[None])[0] if float(row.sum()) > 0 else torch.from_numpy(np.tanh(row[:3].numpy())) for row in x
        ]
        return torch.stack(rows)


def quiet(make: Callable[[], Any]) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return make()


def quantized(model: nn.Module) -> nn.Module:
    """Statically, with observed ranges."""
    import torch.ao.quantization as quantization

    wrapped = quantization.QuantWrapper(copy.deepcopy(model).eval())
    wrapped.qconfig = quantization.get_default_qconfig("x86")
    quantization.prepare(wrapped, inplace=True)
    wrapped(torch.randn(100, 6, generator=torch.Generator().manual_seed(5)))
    return quantization.convert(wrapped)


PLAIN = nn.Sequential(nn.Linear(6, 7), nn.ReLU(), nn.Linear(7, 3))
with torch.no_grad():
    PLAIN[0].weight.copy_(NET[0].weight)
    PLAIN[2].weight.copy_(NET[4].weight)

MODELS: dict[str, Callable[[], Any]] = {
    "scripted": lambda: torch.jit.script(copy.deepcopy(NET)),
    "traced": lambda: torch.jit.trace(copy.deepcopy(NET).eval(), X),
    "frozen": lambda: torch.jit.freeze(torch.jit.script(copy.deepcopy(NET).eval())),
    "branches": Branches,
    "quantized": lambda: quantized(PLAIN),
    "scripted inside": lambda: nn.Sequential(torch.jit.script(copy.deepcopy(NET)), nn.Linear(3, 3)),
    "data parallel": lambda: nn.DataParallel(copy.deepcopy(NET)),
    "compiled": lambda: torch.compile(copy.deepcopy(NET), backend="eager"),
    "exported": lambda: torch.export.export(
        copy.deepcopy(NET).eval(), (X,), dynamic_shapes=({0: torch.export.Dim("batch")},)
    ),
}
METHODS: dict[str, Any] = {
    "exact_shapley": naive_removal.exact_shapley,
    "occlusion": partial(naive_removal.occlusion, window=2, stride=1, aggregate="mean"),
}


def built(name: str) -> Any:
    return quiet(MODELS[name])


def outputs(model: Any, x: Tensor) -> np.ndarray:
    """f(x), row by row, of a copy in evaluation mode."""
    if isinstance(model, torch.export.ExportedProgram):
        model = model.module()
    elif not isinstance(model, torch.jit.ScriptModule) or hasattr(model, "training"):
        model = copy.deepcopy(model).eval()
    with torch.no_grad():
        return np.concatenate([model(row[None]).numpy() for row in x])


def expected(model: Any, method: str, x: Tensor, target: list[int]) -> np.ndarray:
    rows = []
    for row, place in zip(x, target, strict=True):

        def value(parts: list[np.ndarray], place: int = place) -> float:
            return float(outputs(model, torch.as_tensor(parts[0], dtype=torch.float32))[0, place])

        sample = [row[None].numpy()]
        extra = (numbered(sample),) if method == "exact_shapley" else ()
        rows.append(METHODS[method](value, sample, [np.zeros_like(sample[0])], *extra)[0])
    return np.concatenate(rows)


def method_of(name: str) -> Any:
    return methods.Occlusion(window=2) if name == "occlusion" else name


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("name", MODELS)
def test_equals_the_naive_form(name: str, method: str) -> None:
    model = built(name)
    explain = Explainer.compile(model, method_of(method), engine="eager")
    got = explain(X, target=TARGET)
    want = expected(model, method, X, TARGET)
    assert abs(want).max() > 0.1
    np.testing.assert_allclose(got, want, atol=1e-5 * abs(want).max())
    assert isinstance(got, Tensor)
    np.testing.assert_allclose(explain.predict(X), outputs(model, X), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", ["scripted", "branches", "frozen"])
def test_what_is_promised_of_every_explainer(name: str) -> None:
    """One trace; any package size, neighbours and threads; the caller's type, dtype and device."""
    explain = Explainer.compile(built(name), "kernel_shap", engine="eager", inputs=X)
    whole = explain(X, target=TARGET, seed=[4, 5, 6, 7])
    for size in (1, 3, 64):
        np.testing.assert_allclose(explain(X, target=TARGET, seed=[4, 5, 6, 7], batch_size=size), whole, atol=1e-5)
    np.testing.assert_allclose(explain(X[1:2], target=0, seed=[5]), whole[1:2], atol=1e-5)
    with ThreadPoolExecutor(4) as pool:
        for got in pool.map(lambda _: explain(X, target=TARGET, seed=[4, 5, 6, 7]), range(12)):
            assert torch.equal(got, whole)
    assert explain.stats.traces <= 2
    assert not whole.requires_grad
    wide = explain(X.double().numpy(), target=TARGET, seed=[4, 5, 6, 7])
    assert wide.dtype == np.float64
    np.testing.assert_allclose(wide, whole, atol=1e-5)
    assert explain(X.to(torch.bfloat16), target=TARGET).dtype is torch.bfloat16


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("name", ["scripted", "branches", "scripted inside", "data parallel", "compiled"])
def test_the_model_is_untouched(name: str, training: bool) -> None:
    model = built(name)
    model.train(training)
    if name != "scripted":
        before = fingerprint("torch", model)
    modes = [module.training for module in model.modules()]
    state = {key: value.clone() for key, value in model.state_dict().items()}
    explain = Explainer.compile(model, "exact_shapley", engine="eager")
    explain(X, target=1)
    with pytest.raises(TargetError):
        explain(X, target=7)
    assert [module.training for module in model.modules()] == modes
    assert all(torch.equal(value, state[key]) for key, value in model.state_dict().items())
    if name != "scripted":
        assert fingerprint("torch", model) == before


# --- models that change while they run ---------------------------------------------------------


class Keeps(nn.Module):
    """Collects values, counts its calls, and writes into a buffer that its output does not depend on."""

    def __init__(self) -> None:
        super().__init__()
        self.net = copy.deepcopy(NET)
        self.maps: list[Tensor] = []
        self.calls = 0
        self.register_buffer("largest", torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        h = self.net(x)
        self.maps.append(h)
        self.calls += 1
        self.last = h
        if float(h.max()) > float(self.largest):
            self.largest.copy_(h.max())
        return self.last * len(self.maps) * self.calls


def test_a_model_that_keeps_values_is_as_new_at_each_call() -> None:
    model = Keeps().eval()
    explain = Explainer.compile(model, "exact_shapley", engine="eager")
    np.testing.assert_allclose(explain(X, target=TARGET), expected(NET, "exact_shapley", X, TARGET), atol=1e-5)
    assert model.maps == []
    assert model.calls == 0
    assert not hasattr(model, "last")
    assert float(model.largest) == 0
    assert explain._plan.traced.memory.model.maps == []
    explain.refresh()(X, target=TARGET)
    assert float(model.largest) == 0


def test_a_model_that_keeps_values_under_threads() -> None:
    class Holds(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = copy.deepcopy(NET)

        def forward(self, x: Tensor) -> Tensor:
            self.held = x
            time.sleep(0.001)
            return self.net(self.held)

    explain = Explainer.compile(Holds(), "feature_ablation", engine="eager", inputs=X)
    want = [explain(X + place, target=1) for place in range(8)]
    with ThreadPoolExecutor(8) as pool:
        got = list(pool.map(lambda place: explain(X + place, target=1), range(8)))
    assert all(map(torch.equal, got, want))


def test_a_model_that_writes_into_its_input_does_no_harm() -> None:
    def writes(x: Tensor) -> Tensor:
        assert float(x.sum()) == float(x.sum())
        return NET(x.mul_(2))

    explain = Explainer.compile(writes, "exact_shapley", backend="torch", engine="eager")
    given = X.clone()
    explain.predict(given)
    explain(given, target=1)
    assert torch.equal(given, X)


def test_new_weights_are_seen() -> None:
    """Those that are written in place at once, as in a traced model; others after refresh."""
    model = Branches()
    explain = Explainer.compile(model, "exact_shapley", engine="eager", inputs=X)
    with torch.no_grad():
        model.net[4].weight.mul_(2)
    np.testing.assert_allclose(explain(X, target=1), expected(model, "exact_shapley", X, [1] * 4), atol=1e-5)
    model.net[4] = nn.Linear(7, 3)
    explain.refresh()
    np.testing.assert_allclose(explain(X, target=1), expected(model, "exact_shapley", X, [1] * 4), atol=1e-5)
    assert explain.stats.traces <= 2


def test_models_that_are_not_repeatable() -> None:
    def noisy(x: Tensor) -> Tensor:
        return NET(x + torch.rand_like(x))

    with pytest.raises(InputError, match="different outputs for the same samples: it draws random numbers"):
        Explainer.compile(noisy, "occlusion", backend="torch", engine="eager", inputs=X)
    with pytest.raises(TraceError, match="draws random numbers in inference") as told:
        Explainer.compile(noisy, "occlusion", backend="torch", inputs=X)
    assert "engine='eager'" not in str(told.value)  # that would not help


def dynamic() -> nn.Module:
    """Quantized with the range of each batch, so that its samples affect each other."""
    import torch.ao.quantization as quantization

    return quiet(lambda: quantization.quantize_dynamic(copy.deepcopy(PLAIN).eval(), {nn.Linear}, torch.qint8))


def test_samples_that_see_one_another_are_called_one_by_one() -> None:
    model = dynamic()
    with pytest.raises(InputError, match=r"unlike dynamic quantization\), or compile with batch_size=1"):
        Explainer.compile(model, "exact_shapley", engine="eager", inputs=X)
    explain = Explainer.compile(model, "exact_shapley", engine="eager", batch_size=1)
    want = expected(model, "exact_shapley", X, TARGET)
    np.testing.assert_allclose(explain(X, target=TARGET), want, atol=1e-5)
    assert abs(expected(PLAIN, "exact_shapley", X, TARGET) - want).max() > 1e-4  # it is quantized
    with pytest.raises(InputError, match="batch_size=8: the samples of a batch see one another"):
        explain(X, target=1, batch_size=8)
    with pytest.raises(InputError, match="batch_size=2: the samples"):
        explain.predict(X, batch_size=2)


def test_quantized_models_take_wide_samples() -> None:
    """They declare no dtype, and fail in float64."""
    model = built("quantized")
    explain = Explainer.compile(model, "exact_shapley", engine="eager")
    got = explain(X.double().numpy(), target=TARGET)
    assert got.dtype == np.float64
    np.testing.assert_allclose(got, explain(X, target=TARGET), atol=1e-6)


# --- arguments and results -----------------------------------------------------------------------


class Several(nn.Module):
    """Ids and floats, a flag, and a dict of outputs, one without the batch."""

    def __init__(self) -> None:
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(1)
            self.table, self.a, self.b = nn.Embedding(9, 4), nn.Linear(4, 3), nn.Linear(6, 3)

    def forward(self, ids: Tensor, x: Tensor, *, double: bool = False) -> dict[str, Any]:
        y = self.a(self.table(ids).sum(1)) + self.b(x)
        if float(y.sum()) == 1e9:
            y = y * 0
        return {"logits": y * 2 if double else y, "labels": y.argmax(1), "scale": torch.ones(2), "notes": "none"}


def test_several_inputs_and_outputs_by_name() -> None:
    model, ids = Several(), torch.randint(1, 9, (4, 5), generator=torch.Generator().manual_seed(2))
    traced = Several()
    traced.forward = lambda ids, x: model.a(model.table(ids).sum(1)) + model.b(x)  # type: ignore[method-assign]
    with pytest.raises(TargetError, match=r"pick one with output=: 'logits': float32\[batch, 3\], 'labels'"):
        Explainer.compile(model, "occlusion", engine="eager")(ids, X, target=1)
    for output in ("labels", "scale"):
        with pytest.raises(InputError, match=r"cannot be explained: it must be floating-point with the batch"):
            Explainer.compile(model, "occlusion", engine="eager", output=output)(ids, X, target=1)
    explain = Explainer.compile(
        model, methods.ShapleySampling(permutations=4), engine="eager", output="logits", wrt=["ids", "x"]
    )
    zero = {"ids": 0, "x": 0.0}
    got = explain(ids=ids, x=X, double=True, target=1, seed=3, baseline=zero)
    assert set(got) == {"ids", "x"}
    known = Explainer.compile(traced, methods.ShapleySampling(permutations=4), wrt=["ids", "x"])
    want = known(ids=ids, x=X, target=1, seed=3, baseline=zero)
    for name in want:
        np.testing.assert_allclose(got[name], 2 * want[name], atol=1e-5)
    masked = explain(ids=ids, x=X, double=True, target=1, seed=3, baseline={"ids": 8, "x": 0.0})
    assert abs(masked["ids"] - got["ids"]).max() > 0.01


@dataclasses.dataclass
class Scores:
    logits: Tensor
    hidden: Tensor


def test_the_keys_of_outputs_are_those_of_a_traced_model() -> None:
    forms: list[Any] = [lambda y: (y, y + 1), lambda y: {"a": y, "b": [y, y + 1]}, lambda y: [y, None, y]]
    for form in forms:
        messages = []
        for engine in ("eager", "auto"):
            with pytest.raises(TargetError, match="the model has several outputs; pick one") as told:
                Explainer.compile(
                    lambda x, form=form: form(PLAIN(x)), "occlusion", backend="torch", engine=engine, inputs=X
                )
            messages.append(str(told.value))
        assert messages[0] == messages[1]
    explain = Explainer.compile(
        lambda x: Scores(PLAIN(x), x), "occlusion", backend="torch", engine="eager", output="logits"
    )
    np.testing.assert_allclose(explain(X, target=1), Explainer.compile(PLAIN, "occlusion")(X, target=1), atol=1e-6)


FUNCTIONS: dict[str, Callable[[], Any]] = {
    "returns numpy": lambda: lambda x: NET(x).numpy(),
    "partial": lambda: partial(lambda net, x: net(x), NET),
    "method": lambda: NET.forward,
    "of a scripted model": lambda: (lambda model: lambda x: model(x))(built("scripted")),
}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_functions(name: str) -> None:
    """The modules that a function refers to are in evaluation mode, too."""
    explain = Explainer.compile(FUNCTIONS[name](), "exact_shapley", backend="torch", engine="eager")
    np.testing.assert_allclose(explain(X, target=TARGET), expected(NET, "exact_shapley", X, TARGET), atol=1e-5)
    assert NET.training


@pytest.mark.filterwarnings("ignore:torch.quantize_per_tensor:UserWarning")
def test_quantized_outputs_are_read_as_numbers() -> None:
    def coarse(x: Tensor) -> Tensor:
        return torch.quantize_per_tensor(PLAIN(x), 0.01, 0, torch.qint32)

    explain = Explainer.compile(coarse, "exact_shapley", backend="torch", engine="eager")
    got = explain(X, target=TARGET)
    np.testing.assert_allclose(got, expected(PLAIN, "exact_shapley", X, TARGET), atol=0.02)
    np.testing.assert_allclose(explain.predict(X), coarse(X).dequantize(), atol=1e-6)


def test_sizes_that_vary() -> None:
    class Longest(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return torch.stack([row[: int(row.argmax()) + 1].sum()[None] for row in x])

    explain = Explainer.compile(Longest(), "exact_shapley", engine="eager", inputs=TensorSpec((None, None), name="x"))
    for size in (3, 5):
        got = explain(X[:, :size])
        fixed = Explainer.compile(Longest(), "exact_shapley", engine="eager")(X[:, :size])
        np.testing.assert_allclose(got, fixed, atol=1e-6)
    assert explain.stats.traces <= 2


def test_dtypes() -> None:
    model = built("scripted")
    before = [p.dtype for p in model.parameters()]
    explain = Explainer.compile(model, "exact_shapley", engine="eager", dtype="float64")
    np.testing.assert_allclose(explain(X, target=TARGET), expected(NET, "exact_shapley", X, TARGET), atol=1e-5)
    assert [spec.dtype for spec in explain.signature.inputs] == ["float64"]
    assert [p.dtype for p in model.parameters()] == before
    wrapped = nn.Sequential(model, nn.Linear(3, 3))
    Explainer.compile(wrapped, "exact_shapley", engine="eager", dtype="float64", inputs=X)
    assert {p.dtype for p in wrapped.parameters()} == {torch.float32}


# --- what cannot be done, and says so -------------------------------------------------------------


@pytest.mark.parametrize("name", ["scripted", "branches"])
def test_the_error_leads_to_the_engine(name: str) -> None:
    with pytest.raises(TraceError, match=r"cannot be traced.*(.|\n)*'occlusion' needs only outputs: engine='eager'"):
        Explainer.compile(built(name), "occlusion", inputs=X)
    with pytest.raises(TraceError, match=r"(.|\n)*'deeplift' needs the trace.*engine='eager'.*'occlusion', 'feature_"):
        Explainer.compile(built(name), "deeplift", inputs=X)
    with pytest.raises(TraceError, match="'gradient' needs the trace"):  # the engine alone does not help
        Explainer.compile(built(name), "gradient", inputs=X, engine="eager")


def test_layers_files_and_engines() -> None:
    model = Branches()
    for options in ({"wrt": "net.0"}, {"output": "net.0"}):
        with pytest.raises(UnknownNameError, match="called as it is, so that its layers cannot be seen"):
            Explainer.compile(model, "occlusion", engine="eager", inputs=X, **options)
    explain = Explainer.compile(model, "occlusion", engine="eager", inputs=X)
    with pytest.raises(ArtifactError, match="engine='eager' calls the model as it is, and a file holds compiled"):
        explain.save("never.explainer")
    assert explain.engine == "eager"
    assert explain.backend == "torch"
    assert [row.rule for row in explain.coverage] == ["forward only"]
    assert "test_calls.py" in explain.graph.nodes[-1].source


def test_models_that_cannot_be_called() -> None:
    def compiled(function: Any) -> None:
        Explainer.compile(function, "occlusion", backend="torch", engine="eager", inputs=X)

    with pytest.raises(TraceError, match=r"raised RuntimeError for one sample \(inputs of shape \(1, 6\)\): mat1"):
        compiled(nn.Linear(5, 3))
    with pytest.raises(TraceError, match=r"for 3 samples, though not for one .*a number in place of the batch size"):
        compiled(lambda x: PLAIN(x).reshape(1, 3))
    with pytest.raises(TraceError, match=r"squeeze\(\) drops the batch axis of a single sample"):
        compiled(lambda x: PLAIN(x)[:, 0].squeeze())
    with pytest.raises(TraceError, match="the model returns no tensor"):
        compiled(lambda x: None)
    with pytest.raises(TraceError, match="returned 1 tensors for one sample, and 3 for 3"):
        compiled(lambda x: list(PLAIN(x)))


def test_outputs_that_differ_from_call_to_call() -> None:
    def odd(x: Tensor) -> Any:
        y = PLAIN(x)
        if 30 < float(x.max()) < 40:
            return y[:1]
        return (y, y) if float(x.max()) > 50 else y[:, :2] if float(x.max()) > 40 else y

    explain = Explainer.compile(odd, "occlusion", backend="torch", engine="eager", inputs=X)
    with pytest.raises(TraceError, match="returned 0, 1 in this call, and 0 before"):
        explain(X + 60, target=1)
    with pytest.raises(TraceError, match=r"returned '0' of shape \(\d+, 2\) for \d+ samples"):
        explain(X * 0 + 45, target=1)
    with pytest.raises(TraceError, match=r"returned '0' of shape \(1, 3\) for \d+ samples, which is no float32\[batch"):
        explain(X * 0 + 35, target=1)


def test_a_call_that_fails_leaves_everything_as_it_was() -> None:
    model = Keeps().eval()

    def fails(module: nn.Module, args: Any) -> None:
        if float(args[0].max()) > 50:
            raise RuntimeError("too large")

    model.net.register_forward_pre_hook(fails)
    explain = Explainer.compile(model, "exact_shapley", engine="eager", inputs=X)
    with pytest.raises(RuntimeError, match="too large"):
        explain(X * 0 + 60, target=1)
    assert model.maps == []
    np.testing.assert_allclose(explain(X, target=TARGET), expected(NET, "exact_shapley", X, TARGET), atol=1e-5)

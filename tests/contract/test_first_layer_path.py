"""Integrated gradients with a first layer that is computed once for each sample: the numbers of the program without."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from explainers import Explainer, methods
from explainers.program import first_layer
from explainers.program.walk import Program

from .test_first_layer import BACKENDS, assert_equal, network, pair, samples, trained

METHODS: dict[str, Any] = {
    "plain": methods.IntegratedGradients(6),
    "mean gradient": methods.IntegratedGradients(6, multiply=False),
    "tolerance": methods.IntegratedGradients(8, tolerance=0.05),
    "trapezoid": methods.IntegratedGradients(5, quadrature="trapezoid"),
}


@pytest.fixture(autouse=True)
def _small_models_too(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("LEAST_PATH_WORK", "LEAST_TERMS"):
        monkeypatch.setattr(first_layer, name, 0)


def assert_alike(model: Any, method: Any, x: np.ndarray, monkeypatch: pytest.MonkeyPatch) -> Explainer:
    """One baseline and one for each sample, any packages, any target."""
    dtype = str(x.dtype)
    b = np.random.default_rng(2).normal(size=x.shape).astype(dtype)
    reused, plain = pair(model, method, x, monkeypatch)
    assert type(reused._plan.packages.program) is first_layer.PathBehindFirstLayer
    for baseline in (0.0, b[0], b):
        for target in (1, "max"):
            want = plain(x, target=target, baseline=baseline)
            assert_equal(reused(x, target=target, baseline=baseline), want, dtype)
    for size in (1, 7, 64):
        assert_equal(reused(x, target=0, baseline=b, batch_size=size), plain(x, target=0, baseline=b), dtype)
    return reused


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("backend", BACKENDS)
def test_trained_dense(backend: str, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """In double precision: where a ReLU bends, a rounding of single precision decides on which side a step lies."""
    x = samples(5, "float64")
    explain = assert_alike(network(backend, "float64", trained("float64")), METHODS[name], x, monkeypatch)
    assert explain.stats.traces == 1


def smooth(backend: str, dtype: str) -> Any:
    """A convolution, after a scale and a shift of the input, and a smooth activation."""
    rng = np.random.default_rng(3)
    kernel, bias = rng.normal(size=(3, 3, 1, 4)).astype(dtype), rng.normal(size=4).astype(dtype)
    last = rng.normal(size=(4 * 36, 3)).astype(dtype) / 8
    if backend == "torch":
        torch = pytest.importorskip("torch")

        class Net(torch.nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.conv, self.last = torch.nn.Conv2d(1, 4, 3), torch.nn.Linear(144, 3)

            def forward(self, x: Any) -> Any:
                return self.last(self.conv((x.unsqueeze(1) - 0.25) / 0.5).tanh().flatten(1)).softmax(1)

        net = Net().to(getattr(torch, dtype)).eval()
        with torch.no_grad():
            net.conv.weight.copy_(torch.from_numpy(kernel.transpose(3, 2, 0, 1).copy()))
            net.conv.bias.copy_(torch.from_numpy(bias))
            net.last.weight.copy_(torch.from_numpy(last.T.copy()))
        return net
    pytest.importorskip("tensorflow")
    import keras

    layers = keras.layers
    net = keras.Sequential(
        [
            layers.Input((8, 8), dtype=dtype), layers.Rescaling(2.0, -0.5, dtype=dtype),
            layers.Reshape((8, 8, 1), dtype=dtype), layers.Conv2D(4, 3, activation="tanh", dtype=dtype),
            layers.Flatten(dtype=dtype), layers.Dense(3, activation="softmax", dtype=dtype),
        ]
    )  # fmt: skip
    net.set_weights([kernel, bias, last, np.zeros(3, dtype)])
    return net


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("backend", BACKENDS)
def test_convolution(backend: str, dtype: str, monkeypatch: pytest.MonkeyPatch) -> None:
    assert_alike(smooth(backend, dtype), methods.IntegratedGradients(6), samples(5, dtype), monkeypatch)


def test_hypothetical_contributions(monkeypatch: pytest.MonkeyPatch) -> None:
    torch = pytest.importorskip("torch")
    torch.manual_seed(0)
    net = torch.nn.Sequential(torch.nn.Conv1d(4, 8, 5), torch.nn.Tanh(), torch.nn.Flatten(), torch.nn.Linear(64, 1))
    x = np.eye(4, dtype=np.float32)[np.random.default_rng(0).integers(4, size=(3, 12))].transpose(0, 2, 1).copy()
    reused, plain = pair(net.eval(), methods.IntegratedGradients(5, hypothetical=True), x, monkeypatch)
    b = np.full_like(x, 0.25)
    b[1] = 0.5
    assert_equal(reused(x, target=0, baseline=b), plain(x, target=0, baseline=b), "float32")


@pytest.mark.parametrize("large", ["x", "b"])
def test_large_differences(large: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Points whose entries differ by 10⁶: no further from the numbers of double precision than without the reuse."""
    torch = pytest.importorskip("torch")
    torch.manual_seed(0)
    net = torch.nn.Sequential(torch.nn.Linear(64, 32), torch.nn.Tanh(), torch.nn.Linear(32, 2)).eval()
    x, b = (np.random.default_rng(seed).normal(size=(4, 64)).astype(np.float32) for seed in (1, 2))
    (x if large == "x" else b)[:, :8] *= 1e6
    with torch.no_grad():
        net[0].weight[:, :8] *= 1e-6
    method = methods.IntegratedGradients(8)
    found = [explain(x, target=0, baseline=b) for explain in pair(net, method, x, monkeypatch)]
    exact = pair(net.double(), method, x.astype(np.float64), monkeypatch)[1](
        x.astype(np.float64), target=0, baseline=b.astype(np.float64)
    )
    errors = [abs(each - exact).max() / abs(exact).max() for each in found]
    assert errors[0] <= max(2 * errors[1], 1e-6)


def test_where_rows_are_needed() -> None:
    """A skip connection around the layer, two attributed inputs, every output, and other methods keep the rows."""
    torch = pytest.importorskip("torch")

    class Net(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.last = torch.nn.Linear(64, 64), torch.nn.Linear(64, 3)

        def forward(self, x: Any, y: Any = None) -> Any:
            hidden = self.first(x).tanh()
            return self.last(hidden + (x if y is None else y))

    net, x = Net().eval(), np.random.default_rng(0).normal(size=(3, 64)).astype(np.float32)
    method = methods.IntegratedGradients(5)
    assert type(Explainer.compile(net, method, inputs=x)._plan.packages.program) is Program
    both = Explainer.compile(net, method, inputs=(x, x))
    assert type(both._plan.packages.program) is Program
    one = Explainer.compile(net, method, inputs=(x, x), wrt=0)
    assert type(one._plan.packages.program) is first_layer.PathBehindFirstLayer
    y = x[::-1].copy()
    (want, _), got = both(x, y, target=1, baseline=(0.5, 0.0)), one(x, y, target=1, baseline=0.5)
    assert got.shape == want.shape
    layer = Explainer.compile(net, method, inputs=x, wrt="first", every_output=True)
    assert type(layer._plan.packages.program) is not first_layer.PathBehindFirstLayer
    for other in (methods.GradientShap(5), methods.SmoothGrad(5)):
        kept = Explainer.compile(net, other, inputs=(x, x), wrt=0)
        assert type(kept._plan.packages.program) is Program


@pytest.mark.parametrize("method", [methods.IntegratedGradients(5), methods.ExactShapley(np.arange(64) // 16)])
def test_rows_that_start_at_a_layer(method: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first layer is then the one behind ``wrt``."""
    torch = pytest.importorskip("torch")
    for name in ("LEAST_WORK", "SETUP"):
        monkeypatch.setattr(first_layer, name, 0)
    net = torch.nn.Sequential(torch.nn.Linear(6, 64), torch.nn.Tanh(), torch.nn.Linear(64, 16), torch.nn.Tanh())
    x = np.random.default_rng(0).normal(size=(3, 6))
    reused, plain = pair(net.double().eval(), method, x, monkeypatch, wrt="1")
    assert_equal(reused(x, target=1, baseline=0.5), plain(x, target=1, baseline=0.5), "float64")


def test_other_inputs_follow_their_samples(monkeypatch: pytest.MonkeyPatch) -> None:
    torch = pytest.importorskip("torch")

    class Net(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.last = torch.nn.Linear(64, 16), torch.nn.Linear(16, 3)

        def forward(self, x: Any, y: Any) -> Any:
            return self.last(torch.tanh(self.first(x) * y.unsqueeze(1))).view(x.size(0), 3)

    x = np.random.default_rng(0).normal(size=(3, 64)).astype(np.float64)
    y = np.array([1.0, -2.0, 0.5])
    explainers = []
    for enabled in (True, False):
        monkeypatch.setattr(first_layer, "ENABLED", enabled)
        torch.manual_seed(0)
        net = Net().double().eval()
        explainers.append(Explainer.compile(net, methods.IntegratedGradients(5), inputs=(x, y), wrt=0))
    kinds = [type(explain._plan.packages.program) is Program for explain in explainers]
    assert kinds == [False, True]
    got, want = (explain(x, y, target=1, baseline=0.5) for explain in explainers)
    assert_equal(got, want, "float64")


def test_weights_and_files(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """The arguments are those of the program without: files of both load, whatever is chosen here."""
    x = samples(4, "float64")
    model = network("torch", "float64", trained("float64"))
    explainers = pair(model, METHODS["plain"], x, monkeypatch)
    assert explainers[0].placeholders == explainers[1].placeholders
    for place, explain in enumerate(explainers):
        explain.save(tmp_path / f"{place}.explainer")
    for enabled in (True, False):
        monkeypatch.setattr(first_layer, "ENABLED", enabled)
        for place, explain in enumerate(explainers):
            np.testing.assert_array_equal(
                Explainer.load(tmp_path / f"{place}.explainer")(x, target=0), explain(x, target=0)
            )
    model[1].weight.data.mul_(0.5)
    model[1].bias.data.add_(0.25)
    for explain in explainers:
        explain.refresh()
    assert_equal(*(explain(x, target=0) for explain in explainers), "float64")

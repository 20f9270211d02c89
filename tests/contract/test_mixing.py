"""Models whose samples see one another: refused with the operation that mixes them, or each call as one batch."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from explainers import Explainer, Scheduler
from explainers.errors import InputError

X = np.random.default_rng(0).normal(size=(4, 6)).astype(np.float32)


def torch_models() -> dict[str, tuple[Any, str]]:
    import torch
    from torch import nn

    torch.manual_seed(0)

    class Between(nn.Module):
        def __init__(self, function: Any) -> None:
            super().__init__()
            self.a, self.b, self.function = nn.Linear(6, 5), nn.Linear(5, 3), function

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.b(self.function(self.a(x)))

    def graph(h: torch.Tensor) -> torch.Tensor:
        """A graph network over the samples as nodes."""
        return torch.relu(torch.softmax(h @ h.T, -1) @ h)

    return {
        "centred": (Between(lambda h: torch.tanh(h - h.mean(0, keepdim=True))), "aten.sub"),
        "batch norm": (nn.Sequential(nn.Linear(6, 5), nn.BatchNorm1d(5, track_running_stats=False)), "batch_norm"),
        "graph": (Between(graph), "aten.matmul"),
        "neighbour": (Between(lambda h: h + h.roll(1, 0)), "aten.roll"),
        "running sum": (Between(lambda h: h.cumsum(0)), "aten.cumsum"),
        "contrast": (Between(lambda h: h / h.norm(dim=0, keepdim=True)), "aten.div"),
    }


NAMES = ("centred", "batch norm", "graph", "neighbour", "running sum", "contrast")


@pytest.mark.parametrize("method", ["gradient", "integrated_gradients", "deeplift", "exact_shapley"])
@pytest.mark.parametrize("name", NAMES)
def test_the_first_operation_that_mixes_is_named(name: str, method: str) -> None:
    model, operation = torch_models()[name]
    if (name, method) == ("running sum", "deeplift"):
        method = "gradient"
    with pytest.raises(InputError, match=f"see one another in this model.*{operation}"):
        Explainer.compile(model.eval(), method, inputs=X)


def test_on_keras_too() -> None:
    import keras

    centre = keras.layers.Lambda(lambda t: t - keras.ops.mean(t, axis=0, keepdims=True), name="centre")
    model = keras.Sequential([keras.Input((6,)), keras.layers.Dense(5), centre, keras.layers.Dense(3)])
    with pytest.raises(InputError, match=r"see one another in this model.*centre"):
        Explainer.compile(model, "gradient", inputs=X)


def clipping(backend: str, alone: bool) -> Any:
    """A model whose derivative is divided by a norm, of each sample or of the batch."""
    if backend == "torch":
        import torch

        class Clip(torch.autograd.Function):
            @staticmethod
            def forward(ctx: Any, x: Any) -> Any:
                return x.view_as(x)

            @staticmethod
            def backward(ctx: Any, g: Any) -> Any:
                return g / (g.norm(dim=1, keepdim=True) if alone else g.norm()).clamp(min=0.1)

        class Clipping(torch.nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.a, self.b = torch.nn.Linear(6, 5), torch.nn.Linear(5, 3)

            def forward(self, x: torch.Tensor) -> torch.Tensor:
                return self.b(Clip.apply(self.a(x)))

        return Clipping().eval()
    import keras
    import tensorflow as tf

    class Clip(keras.layers.Layer):  # type: ignore[no-redef]
        def call(self, x: Any) -> Any:
            return tf.custom_gradient(
                lambda x: (tf.identity(x), lambda g: tf.clip_by_norm(g, 0.1, axes=[1] if alone else None))
            )(x)

    return keras.Sequential([keras.Input((6,)), keras.layers.Dense(5), Clip(name="clip"), keras.layers.Dense(3)])


@pytest.mark.parametrize("backend", ["torch", "tensorflow"])
def test_a_derivative_of_the_models_own_that_mixes_is_named(backend: str) -> None:
    named = r"in a derivative of this model.*(Clip\.apply|custom_gradient.*'clip')"
    for method in ("gradient", "integrated_gradients"):
        with pytest.raises(InputError, match=named):
            Explainer.compile(clipping(backend, False), method, inputs=X)
    Explainer.compile(clipping(backend, False), "feature_ablation", inputs=X)
    together = Explainer.compile(clipping(backend, False), "gradient", inputs=X, interacting=True)
    assert np.isfinite(np.asarray(together(X, target=0))).all()
    explain = Explainer.compile(clipping(backend, True), "gradient", inputs=X)
    whole = np.asarray(explain(X, target=0))
    np.testing.assert_allclose(np.concatenate([explain(X[i : i + 1], target=0) for i in range(4)]), whole, rtol=1e-5)


def test_an_output_with_the_batch_twice_is_named() -> None:
    import torch

    class Similar(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x @ x.T

    with pytest.raises(InputError, match="has the batch along 2 axes"):
        Explainer.compile(Similar(), "gradient", inputs=X)


def test_mixing_that_does_not_reach_the_output_is_none() -> None:
    import torch

    class Net(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            h = x - x.mean(0)
            return torch.tanh(h + x.mean(0)) + 0 * h.sum()

    Explainer.compile(Net(), "gradient", inputs=X)(X, target=1)


@pytest.mark.parametrize("method", ["gradient", "input_x_gradient"])
@pytest.mark.parametrize("name", ["centred", "graph", "running sum"])
def test_interacting_samples_have_the_derivative_of_all(name: str, method: str, tmp_path: Path) -> None:
    import torch

    model = torch_models()[name][0].eval()
    explain = Explainer.compile(model, method, interacting=True)
    leaf = torch.tensor(X, requires_grad=True)
    (want,) = torch.autograd.grad(model(leaf)[:, 1].sum(), leaf)
    want = want.numpy() * (X if method == "input_x_gradient" else 1)
    np.testing.assert_allclose(explain(X, target=1), want, rtol=1e-4, atol=1e-6)
    explain.save(tmp_path / "a.explainer")
    loaded = Explainer.load(tmp_path / "a.explainer")
    assert loaded.interacting
    np.testing.assert_allclose(loaded(X, target=1), want, rtol=1e-4, atol=1e-6)


def test_where_interacting_makes_no_sense() -> None:
    model = torch_models()["centred"][0].eval()
    for options, text in (
        ({"method": "integrated_gradients"}, "one evaluation a sample"),
        ({"method": "deeplift"}, "one evaluation a sample"),
        ({"method": "gradient", "engine": "inductor"}, "pads them"),
        ({"method": "gradient", "batch_size": 2}, "leave out batch_size"),
    ):
        with pytest.raises(InputError, match=text):
            Explainer.compile(model, inputs=X, interacting=True, **options)
    explain = Explainer.compile(model, "gradient", inputs=X, interacting=True)
    with pytest.raises(InputError, match="leave out batch_size"):
        explain(X, target=1, batch_size=2)
    with Scheduler() as scheduler, pytest.raises(InputError, match="unmixed"):
        scheduler.submit(explain, X, target=1)

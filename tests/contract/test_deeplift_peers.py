"""DeepLIFT beside naive versions, Captum and SHAP; and nets that those get wrong."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from explainers import Explainer, References, methods

from . import naive_deeplift as naive
from .naive_lrp import convolution, dense
from .subjects import subject

Array = np.ndarray
N, B = 4, 3


def draw(*shape: int, seed: int = 0) -> tuple[Array, Array, Array]:
    """Inputs, a reference for each, and a set of references."""
    generator = np.random.default_rng(seed)
    return tuple(generator.normal(size=(count, *shape)) for count in (N, N, B))  # type: ignore[return-value]


def close(got: Array, want: Array, relative: float) -> None:
    assert got.shape == want.shape
    assert abs(want).max() > 1e-3
    assert abs(got - want).max() <= relative * abs(want).max()


# --- naive versions --------------------------------------------------------------------------


def linear(module: Any) -> Any:
    return dense(module.weight.detach().numpy().T, module.bias.detach().numpy())


def plain_net(kind: str) -> tuple[Any, tuple[int, ...], list[Any]]:
    """A model with its naive twin: the model, a sample's shape, the twin."""
    if kind == "keras":
        model = subject("tensorflow-sequential", "float64").model
        first, second, third = (dense(*(w.numpy() for w in layer.weights)) for layer in model.layers if layer.weights)
        return model, (5,), [first, "relu", second, "relu", third]
    import torch
    from torch import nn

    torch.manual_seed(1)
    if kind == "mlp":
        model = nn.Sequential(
            nn.Linear(6, 9), nn.ReLU(), nn.Linear(9, 8), nn.Tanh(), nn.Linear(8, 7), nn.ELU(), nn.Linear(7, 3)
        ).double()
        layers = [linear(m) for m in model if isinstance(m, nn.Linear)]
        return model, (6,), [layers[0], "relu", layers[1], "tanh", layers[2], "elu", layers[3]]
    pool = [nn.MaxPool2d(2)] if kind == "pooled" else []
    width = 3 * 4 if pool else 3 * 16
    model = nn.Sequential(
        nn.Conv2d(2, 3, 3, padding=1), nn.ReLU(), *pool, nn.Flatten(), nn.Linear(width, 6), nn.ReLU(), nn.Linear(6, 3)
    ).double()
    first = convolution(model[0].weight.detach().numpy(), model[0].bias.detach().numpy(), 4, 1)
    head = [linear(m) for m in model if isinstance(m, nn.Linear)]
    return model, (2, 4, 4), [first, "relu", *([("pool", 3)] if pool else []), head[0], "relu", head[1]]


PLAIN = [
    ("mlp", "rescale"), ("mlp", "revealcancel"), ("cnn", "rescale"), ("cnn", "revealcancel"), ("cnn", "genomics"),
    ("pooled", "rescale"), ("keras", "rescale"), ("keras", "revealcancel"), ("keras", "genomics"),
]  # fmt: skip


@pytest.mark.parametrize(("kind", "rule"), PLAIN)
def test_equals_the_naive_version(kind: str, rule: str) -> None:
    model, shape, twin = plain_net(kind)
    x, r, table = draw(*shape)
    target = [0, 2, 1, 1]
    again: Callable[..., Array] = getattr(naive, rule)
    got = Explainer.compile(model, methods.DeepLift(rule=rule), inputs=x)(x, target=target, baseline=r)
    want = [again(twin, a.ravel(), b.ravel(), t) for a, b, t in zip(x, r, target, strict=True)]
    close(got.reshape(N, -1), np.stack(want), 1e-9)
    explain = Explainer.compile(model, methods.DeepLiftShap(rule=rule), inputs=x, baseline=References(table))
    each = [[again(twin, a.ravel(), b.ravel(), t) for b in table] for a, t in zip(x, target, strict=True)]
    close(explain(x, target=target).reshape(N, -1), np.mean(each, 1), 1e-9)


def test_the_rules_differ() -> None:
    """A control: agreeing with each naive rule says something."""
    _, shape, twin = plain_net("cnn")
    x, r, _ = draw(*shape)
    rules = [naive.rescale, naive.revealcancel, naive.genomics]
    found = [rule(twin, x[0].ravel(), r[0].ravel(), 1) for rule in rules]
    for i in range(3):
        assert abs(found[i] - found[i - 1]).max() > 1e-2 * abs(found[i]).max()


# --- peers -----------------------------------------------------------------------------------


def modules(kind: str) -> tuple[Any, tuple[int, ...]]:
    """A net whose modules run once each, so that peers see all of it."""
    import torch
    from torch import nn

    torch.manual_seed(2)
    nets: dict[str, tuple[list[Any], tuple[int, ...]]] = {
        "relu": ([nn.Linear(6, 9), nn.ReLU(), nn.Linear(9, 7), nn.ReLU(), nn.Linear(7, 3)], (6,)),
        "smooth": (
            [nn.Linear(6, 9), nn.ELU(), nn.Linear(9, 7), nn.Sigmoid(), nn.Linear(7, 5), nn.Tanh(), nn.Linear(5, 3)],
            (6,),
        ),
        "conv": (
            [nn.Conv2d(1, 3, 3), nn.ReLU(), nn.Conv2d(3, 2, 3), nn.ELU(), nn.Flatten(), nn.Linear(8, 3)],
            (1, 6, 6),
        ),
        "pool": (
            [nn.MaxPool2d(2), nn.Conv2d(1, 3, 2), nn.ReLU(), nn.Flatten(), nn.Linear(12, 5), nn.ELU(), nn.Linear(5, 3)],
            (1, 6, 6),
        ),
        "relu, pool": ([nn.Conv2d(1, 3, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(12, 3)], (1, 6, 6)),
    }
    layers, shape = nets[kind]
    return nn.Sequential(*layers).double(), shape


def captum(name: str, model: Any, x: Array, r: Array, target: list[int]) -> Array:
    import torch
    from captum import attr

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = getattr(attr, name)(model).attribute(torch.tensor(x), torch.tensor(r), target=torch.tensor(target))
    return found.detach().numpy()


@pytest.mark.parametrize("kind", ["relu", "smooth", "conv", "pool"])
def test_agrees_with_captum(kind: str) -> None:
    model, shape = modules(kind)
    x, r, table = draw(*shape)
    target = [0, 2, 1, 1]
    alone = kind == "pool"  # Captum's max pool is right for one row, and behind no other layer
    rows = [slice(i, i + 1) for i in range(N)] if alone else [slice(None)]
    want = np.concatenate([captum("DeepLift", model, x[i], r[i], target[i]) for i in rows])
    close(Explainer.compile(model, "deeplift", inputs=x)(x, target=target, baseline=r), want, 1e-5)
    if alone:
        return
    want = np.concatenate([captum("DeepLiftShap", model, x[i], table, target[i]) for i in rows])
    explain = Explainer.compile(model, "deeplift_shap", inputs=x)
    close(explain(x, target=target, baseline=References(table)), want, 1e-5)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", ["relu", "smooth", "conv"])
def test_agrees_with_shap(kind: str) -> None:
    shap = pytest.importorskip("shap")
    import torch

    model, shape = modules(kind)
    x, _, table = draw(*shape)
    values = shap.DeepExplainer(model, torch.tensor(table)).shap_values(torch.tensor(x), check_additivity=False)
    explain = Explainer.compile(model, "deeplift_shap", inputs=x)
    for target in range(3):
        close(explain(x, target=target, baseline=References(table)), values[..., target], 1e-5)


# --- what peers get wrong --------------------------------------------------------------------


def functional(model: Any) -> Any:
    """The same weights, with torch.relu where the model has modules."""
    import torch

    class Functional(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second, self.third = model[0], model[2], model[4]

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.third(torch.relu(self.second(torch.relu(self.first(x)))))

    return Functional()


def reusing(model: Any) -> Any:
    """The same weights, one ReLU module for all."""
    import torch

    relu = torch.nn.ReLU()
    return torch.nn.Sequential(model[0], relu, model[2], relu, model[4])


@pytest.mark.parametrize("write", [functional, reusing])
def test_however_the_model_is_written(write: Callable[[Any], Any]) -> None:
    model, shape = modules("relu")
    other = write(model)
    x, r, _ = draw(*shape)
    target = [0, 2, 1, 1]
    want = Explainer.compile(model, "deeplift", inputs=x)(x, target=target, baseline=r)
    close(Explainer.compile(other, "deeplift", inputs=x)(x, target=target, baseline=r), want, 1e-12)
    if write is functional:  # a control: Captum then explains by gradients
        assert abs(captum("DeepLift", other, x, r, target) - want).max() > 1e-2 * abs(want).max()
    else:
        with pytest.raises(Exception, match=r"(?i)reuse|more than one|already|multiple|attribute"):
            captum("DeepLift", other, x, r, target)


@pytest.mark.parametrize("rule", ["rescale", "revealcancel"])
@pytest.mark.parametrize("last", ["pool", "softmax"])
def test_a_row_alone_is_what_it_is_in_a_batch(last: str, rule: str) -> None:
    import torch

    model, shape = modules("relu, pool")
    if last == "softmax":
        model = torch.nn.Sequential(*model, torch.nn.Softmax(1))
    x, r, _ = draw(*shape)
    target = [0, 2, 1, 1]
    explain = Explainer.compile(model, methods.DeepLift(rule=rule), inputs=x)
    whole = explain.explanation(x, target=target, baseline=r)
    assert whole.largest_gap < 1e-9
    alone = [explain(x[i : i + 1], target=target[i], baseline=r[i : i + 1]) for i in range(N)]
    close(whole.attributions, np.concatenate(alone), 1e-12)


def test_control_captum_is_incomplete_behind_max_pools_and_mixes_rows_at_softmax() -> None:
    import torch

    model, shape = modules("relu, pool")
    x, r, _ = draw(*shape)
    change = (model(torch.tensor(x)) - model(torch.tensor(r)))[:, 1].detach().numpy()
    found = captum("DeepLift", model, x, r, [1] * N)
    assert abs(found.sum((1, 2, 3)) - change).max() > 0.1 * abs(change).max()
    model, shape = modules("smooth")
    model = torch.nn.Sequential(*model, torch.nn.Softmax(1))
    x, r, _ = draw(*shape)
    rows = [captum("DeepLift", model, x[i : i + 1], r[i : i + 1], [1]) for i in range(N)]
    batch = captum("DeepLift", model, x, r, [1] * N)
    assert abs(batch - np.concatenate(rows)).max() > 1e-3 * abs(batch).max()

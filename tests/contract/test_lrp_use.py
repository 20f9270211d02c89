"""LRP and elrp as they are called: DeepExplain's definition, other libraries, coverage, refresh, bad input."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from explainers import Explainer, errors, methods
from explainers.graph import Role
from explainers.methods.lrp import ELRP, LRP, AlphaBeta, Composite, Epsilon, Flat, Gamma, Pass, ZBox, ZPlus

from .subjects import assert_close, subject
from .test_coverage import with_sort

# --- elrp ------------------------------------------------------------------------------------

ACTIVATIONS: dict[str, Callable[[Any], Any]] = {
    "tanh": np.tanh,
    "sigmoid": lambda x: 1 / (1 + np.exp(-x)),
    "softplus": lambda x: np.log1p(np.exp(x)),
    "silu": lambda x: x / (1 + np.exp(-x)),
    "relu": lambda x: np.maximum(x, 0),
}
FIRST, SECOND = (np.random.default_rng(seed).normal(size=shape) for seed, shape in ((0, (4, 6)), (1, (6, 3))))


def perceptron(backend: str, activation: str) -> Any:
    if backend == "tensorflow":
        import tensorflow as tf

        spec = tf.TensorSpec((None, 4), tf.float64)
        return tf.function(lambda x: getattr(tf.nn, activation)(x @ FIRST - 0.2) @ SECOND, input_signature=[spec])
    import torch
    import torch.nn.functional as F

    class Net(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return getattr(F, activation)(x @ torch.tensor(FIRST) - 0.2) @ torch.tensor(SECOND)

    return Net()


@pytest.mark.parametrize("backend", ["torch", "tensorflow"])
@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("epsilon", [1e-4, 0.3])
def test_elrp_is_deepexplains(backend: str, activation: str, epsilon: float) -> None:
    """x · W₁·diag(f(z)/(z + ε·sign z))·w₂, sign(0) = 1."""
    x = np.random.default_rng(2).normal(size=(5, 4))
    z = x @ FIRST - 0.2
    ratio = ACTIVATIONS[activation](z) / (z + epsilon * np.where(z >= 0, 1, -1))
    want = x * ((ratio * SECOND[:, 1]) @ FIRST.T)
    got = Explainer.compile(perceptron(backend, activation), ELRP(epsilon), inputs=x)(x, target=1)
    assert_close([got], [want], 1e-10)


@pytest.mark.parametrize("label", ["torch-cnn", "torch-residual", "tensorflow-cnn", "tensorflow-functional"])
def test_elrp_is_gradient_times_input_where_all_activations_are_relu(label: str) -> None:
    """Ancona et al. 2018, proposition 1: f(z)/z is the derivative of ReLU."""
    found = subject(label, "float64")
    arrays = found.case.draw(3, "float64")
    want = found.case.explain(found.compile("input_x_gradient"), arrays, target=1)
    exact = Explainer.compile(found.model, ELRP(0), inputs=arrays[0])
    assert_close(found.case.explain(exact, arrays, target=1), want, 1e-12)
    near = found.case.explain(found.compile("elrp"), arrays, target=1)
    assert_close(near, want, 1e-2)
    assert abs(near[0] - want[0]).max() > 0


def test_elrp_takes_powers_and_roots_by_their_derivative() -> None:
    """What is no activation, such as the inside of a norm, whoever wrote it."""
    import torch

    class Norm(torch.nn.Module):
        def __init__(self, fused: bool) -> None:
            super().__init__()
            self.fused = fused

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            if self.fused:
                return torch.tanh(torch.nn.functional.layer_norm(x, (4,)))
            centred = x - x.mean(-1, keepdim=True)
            return torch.tanh(centred / torch.sqrt(centred.pow(2).mean(-1, keepdim=True) + 1e-5))

    x = np.random.default_rng(2).normal(size=(5, 4))
    fused, written = (Explainer.compile(Norm(fused), "elrp", inputs=x)(x, target=1) for fused in (True, False))
    assert_close([written], [fused], 1e-9)


# --- other libraries -------------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("rule", ["epsilon", "gamma", "z_plus"])
def test_captum_agrees_where_it_defines_the_rule_alike(rule: str) -> None:
    """Modules used once, x ≥ 0, a target with s > 0, ε too small to matter; γ and z⁺ on layers without bias."""
    pytest.importorskip("captum")
    import torch
    from captum.attr import LRP as CaptumLRP
    from captum.attr._utils.lrp_rules import Alpha1_Beta0_Rule, EpsilonRule, GammaRule
    from torch import nn

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.convolutions = nn.Sequential(
                nn.Conv2d(2, 4, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(4, 4, 2), nn.ReLU()
            )
            self.head = nn.Linear(36, 3)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.head(self.convolutions(x).flatten(1))

    torch.manual_seed(3)
    model = Net().double()
    x = np.abs(np.random.default_rng(4).normal(size=(4, 2, 8, 8)))
    tensor = torch.tensor(x)
    model.head.bias.data += 1.0
    for place in (0, 3) if rule != "epsilon" else ():
        model.convolutions[place].bias.data[:] = 0
    target = model(tensor).argmax(1)
    assert model(tensor).max(1)[0].min() > 0
    ours, theirs = {
        "epsilon": (Epsilon(1e-12), lambda: EpsilonRule(1e-12)),
        "gamma": (Gamma(0.25, 1e-12), lambda: GammaRule(gamma=0.25)),
        "z_plus": (ZPlus(epsilon=1e-12), Alpha1_Beta0_Rule),
    }[rule]
    got = Explainer.compile(model, LRP(Composite([("conv", ours)], Epsilon(1e-12))), inputs=x)(x, target=target)
    for place in (0, 3):
        model.convolutions[place].rule = theirs()
    model.head.rule = EpsilonRule(1e-12)
    want = CaptumLRP(model).attribute(tensor, target=target).detach().numpy()
    assert_close([np.asarray(got)], [want], 1e-5)


# --- coverage --------------------------------------------------------------------------------


def test_coverage_shows_the_rules_and_what_conserves() -> None:
    from torch import nn

    model = nn.Sequential(
        nn.Conv2d(1, 3, 3, bias=False), nn.ReLU(), nn.Conv2d(3, 3, 3), nn.BatchNorm2d(3), nn.ReLU(), nn.MaxPool2d(2),
        nn.Flatten(), nn.Linear(12, 4, bias=False), nn.Softmax(-1),
    )  # fmt: skip
    x = np.zeros((1, 1, 8, 8), np.float32)
    coverage = Explainer.compile(model, LRP("epsilon_plus_flat"), inputs=x).coverage
    found = {(row.role, row.rule.partition("(")[0], row.exactness) for row in coverage if row.exactness}
    assert found == {
        ("linear", "Flat", "conserving"),
        ("linear", "ZPlus", "exact"),  # its bias takes a share
        ("linear", "Epsilon", "exact"),  # the norm
        ("linear", "Epsilon", "conserving"),  # the dense layer
        ("univariate", "unchanged", "conserving"),
        ("max_pool", "winner", "conserving"),
        ("linear", "copied", "conserving"),
        ("composite", "softmax", "exact"),
    }
    assert "ZPlus(alpha=1.0, beta=0.0" in str(coverage)


def test_an_operation_without_a_rule_is_named_and_the_coverage_still_prints() -> None:
    x = np.random.default_rng(3).normal(size=(3, 4))
    with pytest.raises(errors.UnsupportedOperation, match=r"rule set 'lrp'.*aten\.sort.*coverage") as caught:
        Explainer.compile(with_sort(), "lrp", inputs=x)
    assert [row.op for row in caught.value.coverage.unsupported] == ["aten.sort.default"]
    assert "Epsilon" in str(caught.value.coverage)


# --- refresh ---------------------------------------------------------------------------------

COMPOSITES = [LRP(), LRP("epsilon_gamma_box", low=-4, high=4), ELRP()]


@pytest.mark.parametrize("method", COMPOSITES, ids=["lrp", "box", "elrp"])
def test_refresh_is_a_fresh_compile_on_torch(method: Any) -> None:
    import torch

    from .subjects import case

    model, (x,) = case("torch-cnn").build("float64"), case("torch-cnn").draw(3, "float64")
    explain = Explainer.compile(model, method, inputs=x)
    before = explain(x, target=1)
    with torch.no_grad():
        model.first.weight *= -1
        model.second.bias += 0.5
    explain.refresh()
    want = Explainer.compile(model, method, inputs=x)(x, target=1)
    assert explain.stats.traces == 1
    assert abs(want - before).max() > 1e-3 * abs(before).max()
    assert_close([explain(x, target=1)], [want], 1e-12)


@pytest.mark.parametrize("method", COMPOSITES, ids=["lrp", "box", "elrp"])
def test_refresh_is_a_fresh_compile_on_tensorflow(method: Any) -> None:
    from .subjects import case

    model, (x,) = case("tensorflow-cnn").build("float64"), case("tensorflow-cnn").draw(3, "float64")
    explain = Explainer.compile(model, method, inputs=x)
    before = explain(x, target=1)
    model.layers[0].kernel.assign(-model.layers[0].kernel)
    explain.refresh()
    want = Explainer.compile(model, method, inputs=x)(x, target=1)
    assert explain.stats.traces == 1
    assert abs(want - before).max() > 1e-3 * abs(before).max()
    assert_close([explain(x, target=1)], [want], 1e-12)


def test_relevance_at_a_layer() -> None:
    """With wrt= a layer, depths count from there, and Σ R at it is Σ R in front of a layer without bias."""
    found = subject("torch-cnn", "float64")
    (x,) = found.case.draw(3, "float64")
    method = LRP(Composite([(0, Flat())]))
    explain = Explainer.compile(found.model, method, inputs=x, wrt="second")
    assert explain(x, target=1).shape == (3, 4, 2, 2)
    (row,) = [row for row in explain.coverage if row.rule == "Flat()"]
    assert row.count == 1
    assert "linear" in row.op or "addmm" in row.op


@pytest.mark.parametrize("method", ["lrp", "elrp", "deeplift", "guided_backprop"])
def test_torchs_other_names_of_an_operation_are_the_same_operation(method: str) -> None:
    import torch

    weight = torch.tensor(FIRST)

    class Net(torch.nn.Module):
        def __init__(self, other: bool) -> None:
            super().__init__()
            self.other = other

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            if self.other:
                y = torch.tensordot(x, weight, dims=1)
                z = torch.divide(torch.multiply(y, torch.tanh(y)), torch.subtract(torch.absolute(y), -1))
                return torch.concatenate([z, torch.negative(torch.mv(x, weight[:, 0]))[:, None]], 1)
            y = x @ weight
            return torch.cat([y * torch.tanh(y) / (abs(y) - -1), -(x @ weight[:, 0])[:, None]], 1)

    x = np.random.default_rng(2).normal(size=(5, 4))
    other, usual = (Explainer.compile(Net(other), method, inputs=x) for other in (True, False))
    for target in (1, 6):
        assert_close([other(x, target=target)], [usual(x, target=target)], 1e-9)


# --- bad input -------------------------------------------------------------------------------

MADE: list[tuple[Callable[[], Any], str]] = [
    (lambda: LRP("epsilon_gamma_box"), r"z\^B needs the bounds.*low= and high="),
    (lambda: LRP("epsilon_gamma_box", low=0), r"z\^B needs the bounds.*got high=None"),
    (lambda: LRP("epsilon_gamma_box", low=1, high=0), "low must be at most high"),
    (lambda: LRP("epsilon_gamma_box", low="a", high=0), r"as numbers; got low='a'"),
    (lambda: LRP("epsilon_gamma_box", low=np.nan, high=0), "as numbers"),
    (lambda: ZBox(np.zeros((3, 224, 224)), 1), "at most 64 entries, such as one per channel"),
    (lambda: LRP(low=0, high=1), "'epsilon_plus' takes no bounds"),
    (lambda: LRP(Composite(), low=0), "has its bounds in its ZBox"),
    (lambda: LRP("epsilon_plus_flatt"), "Did you mean 'epsilon_plus_flat'"),
    (lambda: LRP(Gamma()), "composite must be a Composite or one of epsilon_plus"),
    (lambda: LRP(None), "composite must be a Composite"),
    (lambda: AlphaBeta(2, 2), "only if alpha − beta = 1; got 2 and 2"),
    (lambda: AlphaBeta("2", 1), "alpha must be a number ≥ 0; got '2'"),
    (lambda: Epsilon(-1), "epsilon must be a number ≥ 0; got -1"),
    (lambda: Epsilon(float("nan")), "epsilon must be a number"),
    (lambda: Gamma(True), "gamma must be a number"),
    (lambda: ELRP(-1e-4), "epsilon must be a number ≥ 0"),
    (lambda: Composite("conv"), "a list of pairs of where and a rule"),
    (lambda: Composite([Gamma()]), "a pair of where and a rule"),
    (lambda: Composite([("conv", Gamma)]), r"'conv' needs a rule such as Epsilon\(\)"),
    (lambda: Composite([("conv", "gamma")]), "needs a rule"),
    (lambda: Composite([(1.5, Gamma())]), "starts with a Role, a text or a depth; got 1.5"),
    (lambda: Composite([("conv", Pass())]), "not to dense or conv"),
    (lambda: Composite([(Role.UNIVARIATE, Gamma())]), "have the role linear"),
    (lambda: Composite(default=None), "needs a rule"),
]


@pytest.mark.parametrize(("make", "message"), MADE, ids=range(len(MADE)))
def test_what_does_not_fit_is_refused_when_made(make: Callable[[], Any], message: str) -> None:
    with pytest.raises(errors.ExplainersError, match=message):
        make()


COMPILED: list[tuple[Composite, str]] = [
    (Composite([("frist", Gamma())]), r"unknown module pattern 'frist'.*Did you mean 'first'"),
    (Composite([("head*", Gamma()), ("*.conv", Flat())]), r"module pattern '\*\.conv'.*Known: first, head, second"),
    (Composite([(3, Gamma())]), "no dense or conv layer is at depth 3: there are 3 depths, from 0"),
    (Composite([(-4, Gamma())]), "at depth -4"),
    (Composite([(0, ZBox(np.zeros((3, 1, 1)), 1))]), r"shape \(3, 1, 1\), the layer.s input has shape \(1, 8, 8\)"),
]  # fmt: skip


@pytest.mark.parametrize("label", ["torch-cnn"])
@pytest.mark.parametrize(("composite", "message"), COMPILED, ids=range(len(COMPILED)))
def test_what_does_not_fit_the_model_is_refused_when_compiled(label: str, composite: Composite, message: str) -> None:
    found = subject(label, "float32")
    (x,) = found.case.draw(2, "float32")
    with pytest.raises(errors.ExplainersError, match=message):
        Explainer.compile(found.model, LRP(composite), inputs=x)(x, target=0)


def test_a_pattern_that_no_keras_layer_goes_by() -> None:
    found = subject("tensorflow-cnn", "float32")
    (x,) = found.case.draw(2, "float32")
    names = [layer.name for layer in found.model.layers]
    with pytest.raises(errors.UnknownNameError, match=rf"Known: {names[0]}.*No layer that Gamma"):
        Explainer.compile(found.model, LRP(Composite([("missing*", Gamma())])), inputs=x)
    assert Explainer.compile(found.model, LRP(Composite([(names[0], Gamma())])), inputs=x)(x, target=0).shape == x.shape


def test_methods_go_by_name() -> None:
    assert methods.resolve("lrp") == methods.LRP() == LRP("epsilon_plus")
    assert methods.resolve("elrp") == methods.ELRP(1e-4)

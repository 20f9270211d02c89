"""Relevance propagation against naive_lrp.py, its sums, its composites, and what it refuses."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from explainers import Explainer
from explainers.graph import Role
from explainers.methods.lrp import LRP, AlphaBeta, Composite, Epsilon, Flat, Gamma, Pass, WSquare, ZBox, ZPlus

from . import naive_lrp as naive
from .nets_lrp import KERAS, SAMPLES, TORCH, in_keras, in_torch
from .subjects import assert_close, case

LOW, HIGH = -4.0, 5.0


def boxed(layer: Any, x: np.ndarray, relevance: np.ndarray) -> np.ndarray:
    return naive.z_box(layer, x, relevance, np.full_like(x, LOW), np.full_like(x, HIGH))


RULES: dict[str, tuple[Any, Any]] = {
    "epsilon": (Epsilon(), naive.epsilon),
    "large_epsilon": (Epsilon(0.25), lambda *a: naive.epsilon(*a, 0.25)),
    "gamma": (Gamma(0.4), lambda *a: naive.gamma(*a, 0.4)),
    "alpha_beta": (AlphaBeta(), naive.alpha_beta),
    "alpha_3": (AlphaBeta(3, 2), lambda *a: naive.alpha_beta(*a, 3, 2)),
    "z_plus": (ZPlus(), naive.z_plus),
    "flat": (Flat(), naive.flat),
    "w_square": (WSquare(), naive.w_square),
    "z_box": (ZBox(LOW, HIGH), boxed),
}


IN_EVERY_RULE = ("dense", "strided")
ON_EVERY_LAYER = ("gamma", "flat", "z_box")


def grid(layers: Any) -> list[Any]:
    return [
        pytest.param(
            layer, rule, id=f"{layer}-{rule}",
            marks=[] if layer in IN_EVERY_RULE or rule in ON_EVERY_LAYER else [pytest.mark.slow],
        )
        for layer in layers
        for rule in RULES
    ]  # fmt: skip


def check_rule(
    made: tuple[Any, list[Any], tuple[int, ...]], rule: str, everywhere: bool, relative: float = 1e-9
) -> None:
    """Both layers by the rule, or the first alone; x of both signs."""
    model, steps, shape = made
    chosen, function = RULES[rule]
    composite = Composite(default=chosen) if everywhere else Composite([(0, chosen)])
    x = np.random.default_rng(1).normal(size=(SAMPLES, *shape))
    explain = Explainer.compile(model, LRP(composite), inputs=x)
    targets = [2, 0, 1]
    got = explain(x, target=targets)
    second = function if everywhere else naive.epsilon
    rows = [naive.chain(steps, row.ravel(), t, [function, second])[0] for row, t in zip(x, targets, strict=True)]
    assert_close([got], [np.stack(rows).reshape(x.shape)], relative)


@pytest.mark.parametrize(("layer", "rule"), grid(TORCH))
def test_rule_equals_naive_on_torch(layer: str, rule: str) -> None:
    check_rule(in_torch(layer), rule, everywhere=layer in IN_EVERY_RULE)


@pytest.mark.parametrize(("layer", "rule"), [p for p in grid(KERAS) if p.id != "dilated-large_epsilon"])
def test_rule_equals_naive_on_tensorflow(layer: str, rule: str) -> None:
    """TensorFlow cuts a sample into rows for a dilated convolution; s in ε·s is then the largest of each."""
    check_rule(in_keras(layer), rule, layer in IN_EVERY_RULE, 1e-5 if layer == "dilated" else 1e-9)


def test_the_rules_tell_each_other_apart() -> None:
    """A control: no two of the naive rules are alike on the nets above, so agreeing with each says something."""
    _, (first, _, last), shape = in_torch("strided")
    x = np.random.default_rng(1).normal(size=shape).ravel()
    found = [naive.chain([first, "relu", last], x, 2, [rule, naive.epsilon])[0] for _, rule in RULES.values()]
    for i, one in enumerate(found):
        assert all(abs(one - other).max() > 1e-3 * abs(one).max() for other in found[:i])


# --- composites ------------------------------------------------------------------------------


def deep_in_torch() -> tuple[Any, list[Any]]:
    """conv, pool, conv, two dense layers, and the same as matrices."""
    import torch
    from torch import nn

    torch.manual_seed(4)
    parts = {
        "features": nn.Sequential(nn.Conv2d(2, 4, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(4, 3, 2)),
        "head": nn.Sequential(nn.ReLU(), nn.Flatten(), nn.Linear(27, 6), nn.ReLU(), nn.Linear(6, 3)),
    }
    model = nn.Sequential()
    for name, part in parts.items():
        model.add_module(name, part)
    model.double()
    for parameter in model.parameters():
        parameter.data += 0.1 * torch.randn_like(parameter)
    first, second, third, fourth = [m for m in model.modules() if hasattr(m, "weight")]
    array = lambda t: t.detach().numpy()  # noqa: E731
    steps = [
        naive.convolution(array(first.weight), array(first.bias), 8, 1), "relu", ("pool", 4),
        naive.convolution(array(second.weight), array(second.bias), 4, 0), "relu",
        naive.dense(array(third.weight).T, array(third.bias)), "relu",
        naive.dense(array(fourth.weight).T, array(fourth.bias)),
    ]  # fmt: skip
    return model, steps


EPSILON, PLUS, GAMMA = naive.epsilon, naive.z_plus, naive.gamma
COMPOSITES: dict[str, tuple[LRP, list[Any]]] = {
    "epsilon_plus": (LRP(), [PLUS, PLUS, EPSILON, EPSILON]),
    "epsilon_plus_flat": (LRP("epsilon_plus_flat"), [naive.flat, PLUS, EPSILON, EPSILON]),
    "epsilon_gamma_box": (LRP("epsilon_gamma_box", low=LOW, high=HIGH), [boxed, GAMMA, EPSILON, EPSILON]),
    "alpha_beta": (LRP("alpha_beta"), [naive.alpha_beta, naive.alpha_beta, EPSILON, EPSILON]),
    "epsilon": (LRP("epsilon"), [EPSILON] * 4),
    "by_role": (LRP(Composite([("dense", Gamma()), (Role.LINEAR, ZPlus())])), [PLUS, PLUS, GAMMA, GAMMA]),
    "by_pattern": (
        LRP(Composite([("features.0", WSquare()), ("features*", Gamma()), ("*.4", ZPlus())])),
        [naive.w_square, GAMMA, EPSILON, PLUS],
    ),
    "by_depth": (
        LRP(Composite([(0, Flat()), (2, ZPlus()), (-1, Gamma()), ("conv", AlphaBeta())])),
        [naive.flat, naive.alpha_beta, PLUS, GAMMA],
    ),
    "the_first_that_fits": (LRP(Composite([("conv", ZPlus()), (0, Flat())])), [PLUS, PLUS, EPSILON, EPSILON]),
}


@pytest.mark.parametrize("name", COMPOSITES)
def test_composite_equals_naive(name: str) -> None:
    method, rules = COMPOSITES[name]
    model, steps = deep_in_torch()
    x = np.random.default_rng(2).normal(size=(SAMPLES, 2, 8, 8))
    explain = Explainer.compile(model, method, inputs=x)
    got = explain(x, target=[0, 1, 2])
    rows = [naive.chain(steps, row.ravel(), t, rules)[0] for t, row in enumerate(x)]
    assert_close([got], [np.stack(rows).reshape(x.shape)], 1e-9)


def test_bounds_for_each_channel() -> None:
    model, steps = deep_in_torch()
    x = np.random.default_rng(2).normal(size=(SAMPLES, 2, 8, 8))
    low, high = np.array([-5.0, -4.0]).reshape(2, 1, 1), np.array([4.0, 6.0]).reshape(2, 1, 1)
    got = Explainer.compile(model, LRP("epsilon_gamma_box", low=low, high=high), inputs=x)(x, target=1)
    wide = [np.broadcast_to(b, x.shape[1:]).ravel() for b in (low, high)]
    rules = [lambda *a: naive.z_box(*a, *wide), GAMMA, EPSILON, EPSILON]
    rows = [naive.chain(steps, row.ravel(), 1, rules)[0] for row in x]
    assert_close([got], [np.stack(rows).reshape(x.shape)], 1e-9)


def test_logits_are_explained_in_place_of_the_softmax() -> None:
    import torch

    model, steps = deep_in_torch()
    x = np.random.default_rng(2).normal(size=(SAMPLES, 2, 8, 8))
    softened = torch.nn.Sequential(model, torch.nn.Softmax(-1))
    got = Explainer.compile(softened, LRP(logits=True), inputs=x)(x, target=1)
    rows = [naive.chain(steps, row.ravel(), 1, [PLUS, PLUS, EPSILON, EPSILON])[0] for row in x]
    assert_close([got], [np.stack(rows).reshape(x.shape)], 1e-9)


def test_methods_are_values() -> None:
    def made() -> LRP:
        return LRP(Composite([(0, ZBox(np.zeros((2, 1, 1)), [[[1.0]], [[2.0]]])), ("conv", Gamma(0.5))]))

    assert made() == made()
    assert hash(made()) == hash(made())
    assert made() != LRP(Composite([("conv", Gamma(0.5))]))
    assert eval(repr(made().composite)) == made().composite
    assert LRP("epsilon_gamma_box", low=np.zeros(3), high=1.0) == LRP("epsilon_gamma_box", low=[0, 0, 0], high=1)


# --- attention, norms, gates -----------------------------------------------------------------

TOKENS, WIDTH = 5, 4


def block_weights() -> dict[str, np.ndarray]:
    generator = np.random.default_rng(8)
    shapes = {"q": (4, 4), "k": (4, 4), "v": (4, 4), "gate": (4, 6), "up": (4, 6), "down": (6, 4), "head": (4, 3)}
    return {name: generator.normal(size=shape) for name, shape in shapes.items()}


def block_in_torch(fused: bool = False) -> Any:
    import torch
    import torch.nn.functional as F

    class Block(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            for name, weight in block_weights().items():
                self.register_parameter(name, torch.nn.Parameter(torch.tensor(weight)))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            h = F.layer_norm(x, (WIDTH,))
            q, k, v = h @ self.q, h @ self.k, h @ self.v
            by_hand = (q @ k.transpose(1, 2) * 0.5).softmax(-1) @ v
            y = x + (F.scaled_dot_product_attention(q, k, v) if fused else by_hand)
            return (y + (F.silu(y @ self.gate) * (y @ self.up)) @ self.down).mean(1) @ self.head

    return Block()


def block_in_tensorflow() -> Any:
    import tensorflow as tf

    w = {name: tf.constant(weight) for name, weight in block_weights().items()}

    @tf.function(input_signature=[tf.TensorSpec((None, TOKENS, WIDTH), tf.float64)])
    def block(x: Any) -> Any:
        centred = x - tf.reduce_mean(x, -1, keepdims=True)
        h = centred * tf.math.rsqrt(tf.reduce_mean(tf.square(centred), -1, keepdims=True) + 1e-5)
        q, k, v = h @ w["q"], h @ w["k"], h @ w["v"]
        y = x + tf.nn.softmax(tf.matmul(q, k, transpose_b=True) * 0.5) @ v
        return tf.reduce_mean(y + (tf.nn.silu(y @ w["gate"]) * (y @ w["up"])) @ w["down"], 1) @ w["head"]

    return block


BLOCKS: dict[str, Any] = {
    "torch": block_in_torch,
    "torch-fused": lambda: block_in_torch(fused=True),
    "tensorflow": block_in_tensorflow,
}


@pytest.mark.parametrize("name", BLOCKS)
def test_attention_block_equals_naive(name: str) -> None:
    x = np.random.default_rng(3).normal(size=(SAMPLES, TOKENS, WIDTH))
    got = Explainer.compile(BLOCKS[name](), LRP(), inputs=x)(x, target=[0, 1, 2])
    rows = [naive.block(row, block_weights(), t)[0] for t, row in enumerate(x)]
    # TensorFlow folds tokens into rows, and a fused attention scales q and k: other s in ε·s
    assert_close([got], [np.stack(rows)], 1e-9 if name == "torch" else 1e-4)


def test_a_gate_for_each_channel_rescales_and_gets_nothing() -> None:
    """Squeeze and excitation: all relevance to what is rescaled, none by way of the gate."""
    import torch

    class Gated(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return (x * torch.sigmoid(x.mean((2, 3), keepdim=True))).flatten(1)

    x = np.random.default_rng(3).normal(size=(2, 3, 2, 2))
    got = Explainer.compile(Gated(), "lrp", inputs=x)(x, target=5)
    want = np.zeros((2, 12))
    want[:, 5] = (x / (1 + np.exp(-x.mean((2, 3), keepdims=True)))).reshape(2, 12)[:, 5]
    assert_close([got], [want.reshape(x.shape)], 1e-9)


def test_batch_norm_by_epsilon_and_passed() -> None:
    import torch
    from torch import nn

    torch.manual_seed(0)
    model = nn.Sequential(nn.BatchNorm1d(4), nn.ReLU(), nn.Linear(4, 3)).double()
    model[0].running_mean.normal_()
    model[0].running_var.uniform_(0.5, 2)
    x = np.random.default_rng(5).normal(size=(SAMPLES, 4))
    scale = 1 / np.sqrt(model[0].running_var.numpy() + 1e-5)
    norm = naive.dense(np.diag(scale), -model[0].running_mean.numpy() * scale)
    last = naive.dense(model[2].weight.detach().numpy().T, model[2].bias.detach().numpy())
    got = Explainer.compile(model, "lrp", inputs=x)(x, target=1)
    rows = [naive.chain([norm, "relu", last], row, 1, [EPSILON, EPSILON])[0] for row in x]
    assert_close([got], [np.stack(rows)], 1e-9)
    passed = Explainer.compile(model, LRP(Composite([("0", Pass())])), inputs=x)(x, target=1)
    hidden = np.maximum(norm.forward(x), 0)
    assert_close([passed], [np.stack([naive.chain([last], row, 1, [EPSILON])[0] for row in hidden])], 1e-9)


# --- what goes in comes out ------------------------------------------------------------------

CONSERVING = {
    "torch": [
        "mlp",
        "cnn",
        "residual",
        "reused",
        "two_inputs",
        "float_and_mask",
        "lstm",
        "spatial",
        "scalar",
        "tuple",
    ],
    "tensorflow": ["sequential", "cnn", "functional", "subclassed", "two_inputs", "tokens", "lstm", "unrolled_lstm"],
}
CONSTANT = ("bias", "beta", "moving_mean", "running_mean")


def without_constants(backend: str, model: Any) -> Any:
    """The model with all biases and running means at 0."""
    if backend == "torch":
        for name, tensor in model.state_dict().items():
            if any(word in name for word in CONSTANT):
                tensor.zero_()
        return model
    for weight in model.weights:
        if weight.name in CONSTANT:
            weight.assign(np.zeros(weight.shape))
    return model


ON_EVERY_NET, ON_EVERY_COMPOSITE = "epsilon_plus", ("cnn", "two_inputs")


@pytest.mark.parametrize(
    ("label", "composite"),
    [
        pytest.param(
            f"{backend}-{name}", composite, id=f"{backend}-{name}-{composite}",
            marks=[] if composite == ON_EVERY_NET or name in ON_EVERY_COMPOSITE else [pytest.mark.slow],
        )
        for backend, names in CONSERVING.items()
        for name in names
        for composite in ("epsilon", "epsilon_plus", "epsilon_plus_flat", "epsilon_gamma_box")
    ],
)  # fmt: skip
def test_relevance_is_conserved(label: str, composite: str) -> None:
    """Σ R = the explained output where no constant takes part, but for what ε takes."""
    found = case(label)
    model = without_constants(found.backend, found.build("float64"))
    bounds = {"low": LOW, "high": HIGH} if composite == "epsilon_gamma_box" else {}
    arrays = found.draw(4, "float64", seed=1)
    explain = Explainer.compile(model, LRP(composite, **bounds), inputs=found.given(arrays), **found.options())
    target = {"torch-spatial": (1, 2), "torch-scalar": None}.get(label, 1)
    if found.by_name:
        result = explain.explanation(**found.named(arrays), target=target)
    else:
        result = explain.explanation(*arrays, target=target)
    got = result.attributions
    parts = list(got) if isinstance(got, tuple) else list(got.values()) if isinstance(got, dict) else [got]
    outputs = result.outputs if target is None else result.outputs[(slice(None), *np.atleast_1d(target))]
    sums = sum(part.reshape(4, -1).sum(1) for part in parts)
    assert abs(outputs).max() > 1e-3
    np.testing.assert_allclose(sums, outputs, atol=5e-4 * abs(outputs).max())

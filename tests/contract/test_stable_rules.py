"""DeepLIFT at operations whose values differ by orders of magnitude between input and reference."""

from __future__ import annotations

import functools
import math
from typing import Any

import numpy as np
import pytest

from explainers import Explainer, References, methods

SLOW = pytest.mark.slow
BACKENDS = ["torch", "tensorflow"]
RULES = ["rescale", "revealcancel"]
GAP = {"float32": 2e-4, "float64": 1e-8}
CONSTANT = 4  # the sample whose entries are all the same
LARGEST = 30  # attributions by the largest change of the output
SIZE = 6
COMPETING = ("softmax", "log softmax", "softmax by hand, shifted")  # shares of two logits near 20,000 cancel
HEAD = np.array([1.5, -2.0, 0.5, 1.0, -0.7, 0.3])


def of_torch() -> dict[str, Any]:
    import torch
    import torch.nn.functional as F

    def by_hand(x: Any, shift: bool = False) -> Any:
        e = torch.exp(x - x.amax(1, keepdim=True) if shift else x)
        return e / e.sum(1, keepdim=True)

    return {
        "normalize": lambda x: F.normalize(x, dim=1),
        "normalize without floor": lambda x: x / torch.sqrt((x * x).sum(1, keepdim=True) + 1e-24),
        "cosine": lambda x: x * F.cosine_similarity(x, torch.tensor(HEAD).to(x)[None], dim=1)[:, None],
        "layer norm": lambda x: F.layer_norm(x, (SIZE,)),
        "instance norm": lambda x: F.instance_norm(x[:, None])[:, 0],
        "rms norm": lambda x: F.rms_norm(x, (SIZE,), eps=1e-12),
        "softmax": lambda x: (1000 * x).softmax(1),
        "log softmax": lambda x: (1000 * x).log_softmax(1),
        "log sum exp": lambda x: 30 * x - (30 * x).logsumexp(1, keepdim=True),
        "log sum of a matrix": lambda x: x * (x[:, :, None] * x[:, None]).logsumexp((1, 2))[:, None],
        "softmax by hand": lambda x: by_hand(12 * x),
        "softmax by hand, shifted": lambda x: by_hand(1000 * x, shift=True),
        "softmax of two": lambda x: 1 / (1 + torch.exp(-40 * x)),
        "masked softmax": lambda x: (5 * x).masked_fill(torch.arange(SIZE) < 2, -math.inf).softmax(1),
        "gate": lambda x: x * torch.sigmoid(30 * x.mean(1, keepdim=True)),
    }


def of_tensorflow() -> dict[str, Any]:
    import tensorflow as tf

    def by_hand(x: Any) -> Any:
        e = tf.exp(x)
        return e / tf.reduce_sum(e, 1, keepdims=True)

    def standardized(x: Any) -> Any:
        mean, variance = tf.nn.moments(x, [1], keepdims=True)
        return tf.nn.batch_normalization(x, mean, variance, None, None, 1e-5)

    def fixed(floor: float) -> Any:
        return lambda x: x / tf.maximum(tf.norm(x, axis=1, keepdims=True), tf.constant(floor, x.dtype))

    return {
        "normalize": fixed(1e-12),
        "l2 normalize": lambda x: tf.math.l2_normalize(x, 1),
        "standardized": standardized,
        "rms norm": lambda x: x * tf.math.rsqrt(tf.reduce_mean(x * x, 1, keepdims=True) + 1e-12),
        "softmax": lambda x: tf.nn.softmax(1000 * x),
        "log softmax": lambda x: tf.nn.log_softmax(1000 * x),
        "log sum exp": lambda x: 30 * x - tf.reduce_logsumexp(30 * x, 1, keepdims=True),
        "softmax by hand": lambda x: by_hand(12 * x),
        "gate": lambda x: x * tf.sigmoid(30 * tf.reduce_mean(x, 1, keepdims=True)),
    }


@functools.cache
def functions(backend: str) -> dict[str, Any]:
    return of_torch() if backend == "torch" else of_tensorflow()


@functools.cache
def net(backend: str, dtype: str) -> Any:
    """Σ head·f(x) for every function f, (N, functions)."""
    if backend == "torch":
        import torch

        class Net(torch.nn.Module):
            def forward(self, x: torch.Tensor) -> torch.Tensor:
                return torch.stack([f(x) @ torch.tensor(HEAD).to(x) for f in functions("torch").values()], 1)

        return Net()
    import tensorflow as tf

    def run(x: Any) -> Any:
        parts = [tf.linalg.matvec(f(x), tf.constant(HEAD, x.dtype)) for f in functions("tensorflow").values()]
        return tf.stack(parts, 1)

    return tf.function(run, input_signature=[tf.TensorSpec((None, SIZE), dtype)])


def outputs(backend: str, dtype: str, x: np.ndarray) -> np.ndarray:
    if backend == "torch":
        import torch

        return net(backend, dtype)(torch.tensor(x)).numpy().astype(np.float64)
    return net(backend, dtype)(x).numpy().astype(np.float64)


@functools.cache
def compiled(backend: str, dtype: str, rule: str, shap: bool = False) -> Explainer:
    x = np.zeros((1, SIZE), dtype)
    method = (methods.DeepLiftShap if shap else methods.DeepLift)(rule=rule)
    return Explainer.compile(net(backend, dtype), method, inputs=x, engine="eager" if backend == "torch" else "auto")


def points(dtype: str) -> np.ndarray:
    """Ordinary ones, a tiny one, one of large entries, one with zeros, a constant one."""
    x = np.random.default_rng(0).normal(size=(6, SIZE))
    x[1] *= 1e-3
    x[2] *= 20
    x[3, ::2] = 0
    x[CONSTANT] = 0.7
    return x.astype(dtype)


def references(x: np.ndarray) -> dict[str, np.ndarray]:
    other = np.random.default_rng(1).normal(size=x.shape).astype(x.dtype)
    return {"zero": np.zeros_like(x), "other": other, "constant": np.full_like(x, 0.05), "itself": x.copy()}


def each(explain: Explainer, x: np.ndarray, count: int, **options: Any) -> np.ndarray:
    """Attributions of every function at every sample, (functions, N, …), in one call."""
    target = np.repeat(np.arange(count), len(x))
    options = {name: np.tile(r, (count, 1)) if isinstance(r, np.ndarray) else r for name, r in options.items()}
    return explain(np.tile(x, (count, 1)), target=target, **options).reshape(count, *x.shape)


@pytest.mark.parametrize(
    ("dtype", "rule", "backend"),
    [
        pytest.param(
            dtype,
            rule,
            backend,
            marks=[SLOW] if rule == "revealcancel" and (dtype, backend) != ("float32", "tensorflow") else [],
        )
        for dtype in GAP
        for rule in RULES
        for backend in BACKENDS
    ],
)
def test_complete_and_bounded_whatever_the_magnitudes(backend: str, rule: str, dtype: str) -> None:
    """The constant sample is complete, too; a norm's slope there is 1/√ε, and so are what its entries cancel."""
    x = points(dtype)
    wrong = []
    for name, r in references(x).items():
        change = (outputs(backend, dtype, x) - outputs(backend, dtype, r)).T
        got = each(compiled(backend, dtype, rule), x, len(change), baseline=r).astype(np.float64)
        rounding = 4 * np.finfo(dtype).eps * abs(got).sum(2)
        gaps = abs(got.sum(2) - change) / (GAP[dtype] * np.maximum(abs(change), 1e-3) + rounding)
        ratios = abs(np.delete(got, CONSTANT, 1)).max((1, 2)) / np.maximum(abs(change).max(1), 1e-3)
        for function, gap, ratio in zip(functions(backend), gaps.max(1), ratios, strict=True):
            if not gap <= 1 or not (ratio <= LARGEST or function in COMPETING):
                wrong.append(f"{function} from {name}: gap {gap:.1e} of what is allowed, ratio {ratio:.1e}")
    assert wrong == []


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("rule", ["rescale", pytest.param("revealcancel", marks=SLOW)])
def test_a_grid_is_the_mean_of_its_pairs(backend: str, rule: str) -> None:
    x, count = points("float64"), len(functions(backend))
    table = np.stack([np.zeros(SIZE), np.full(SIZE, 0.3), np.random.default_rng(2).normal(size=SIZE)])
    one, grid = compiled(backend, "float64", rule), compiled(backend, "float64", rule, shap=True)
    want = np.mean([each(one, x, count, baseline=np.broadcast_to(r, x.shape)) for r in table], 0)
    got = each(grid, x, count, baseline=References(table))
    assert (abs(got - want) <= 1e-9 * abs(want).max((1, 2), keepdims=True)).all()


@pytest.mark.parametrize("backend", BACKENDS)
def test_multipliers_become_the_gradient(backend: str) -> None:
    """As the reference nears the input: m → ∂f/∂x midway, down to differences of rounding."""
    x = np.random.default_rng(3).normal(size=(4, SIZE)) * 0.05 + 0.1
    count = len(functions(backend))
    explain = compiled(backend, "float64", "rescale")
    gradient = Explainer.compile(net(backend, "float64"), "gradient", inputs=x)
    for step in (1e-6, 1e-9, 1e-15):
        r = x + step * np.random.default_rng(4).choice([-1.0, 1.0], x.shape)
        want = each(gradient, (x + r) / 2, count)
        got = each(explain, x, count, baseline=r) / (x - r)
        size = abs(want).max((1, 2), keepdims=True)
        rounding = 1e-11  # of 1 in a softmax that is sure, times 1000
        np.testing.assert_array_less(abs(got - want) / (size + 1e4 * rounding), 1e-4, err_msg=f"at {step}")


def logarithmic_mean(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    same = a == b
    return np.where(same, a, (a - b) / np.where(same, 1, np.log(a) - np.log(b)))


def test_the_softmax_rule_is_its_formula() -> None:
    """softmax = exp ∘ (x − L): Δy_i = k_i·(Δx_i − ΔL) and ΔL = Σ w_j·Δx_j, in numpy and long doubles."""
    x, r = np.random.default_rng(5).normal(size=(2, 1, SIZE)).astype(np.longdouble) * 12
    e, e_r = np.exp(x), np.exp(r)
    y, y_r = e / e.sum(), e_r / e_r.sum()
    w = logarithmic_mean(e, e_r) / logarithmic_mean(e.sum(keepdims=True), e_r.sum(keepdims=True))
    k = logarithmic_mean(y, y_r)
    m = HEAD * k
    want = (m - w * m.sum()) * (x - r)
    np.testing.assert_allclose(float(want.sum()), float((HEAD * (y - y_r)).sum()), rtol=1e-12)
    import torch

    class Net(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x.softmax(1) @ torch.tensor(HEAD)

    got = Explainer.compile(Net(), "deeplift")(x.astype(float), baseline=r.astype(float))
    np.testing.assert_allclose(got, want.astype(float), rtol=1e-9, atol=1e-12 * abs(got).max())


def test_a_normaliser_takes_conditioned_shares() -> None:
    """u·v with v_r = 1000·v: v·Δu + u_r·Δv counts 1000/1001, v_r·Δu + u·Δv the rest."""
    import torch

    class Net(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return (x[:, :2] * torch.rsqrt(x[:, 2:])).sum(1)  # the factor is broadcast

    x, r = np.array([[3.0, 5.0, 1.0]]), np.array([[2.0, -1.0, 1e-6]])
    (a, b, _), v, v_r = x[0], 1.0, 1e3
    mine = v_r / (v + v_r)
    to_u = mine * v + (1 - mine) * v_r
    to_v = mine * (r[0, 0] + r[0, 1]) + (1 - mine) * (a + b)
    want = [[to_u * (a - 2), to_u * (b + 1), to_v * (v - v_r)]]
    got = Explainer.compile(Net(), "deeplift")(x, baseline=r)
    np.testing.assert_allclose(got, want, rtol=1e-10)


@pytest.mark.parametrize("method", ["gradient", "deeplift", "lrp", "integrated_gradients"])
def test_a_query_that_sees_no_key_gives_nothing(method: str) -> None:
    import torch
    import torch.nn.functional as F

    class Attend(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.q, self.k, self.head = torch.nn.Linear(4, 4), torch.nn.Linear(4, 4), torch.nn.Linear(4, 3)

        def forward(self, x: torch.Tensor, keep: torch.Tensor) -> torch.Tensor:
            mask = keep[:, None, :] & keep[:, :, None]
            y = F.scaled_dot_product_attention(self.q(x), self.k(x), x, attn_mask=mask)
            return self.head((y * keep[..., None]).sum(1))

    torch.manual_seed(0)
    model, x = Attend().eval(), torch.randn(3, 2, 4)
    keep = torch.tensor([[True, True], [True, False], [False, False]])
    explain = Explainer.compile(model, method)
    got = explain(x, keep, target=1)
    assert got.isfinite().all()
    assert (got[2] == 0).all()
    assert (got[1, 1] == 0).all()
    if method == "deeplift":
        with torch.no_grad():
            change = (model(x, keep) - model(x * 0, keep))[:, 1]
        np.testing.assert_allclose(got.sum((1, 2)), change, atol=1e-5)

"""Methods against dense matrices: exact where they are exact, and what they are where they approximate."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from explainers.errors import InputError, UnknownNameError
from explainers.influence import (
    EKFAC,
    KFAC,
    METHODS,
    TRAK,
    Arnoldi,
    ConjugateGradient,
    GaussNewton,
    GradientSimilarity,
    HarmonicMean,
    Influence,
    LiSSA,
    Nystroem,
    TracIn,
)

from .naive import gauss_newton, softmax_hessian, torch_derivatives

pytestmark = pytest.mark.usefixtures("doubles")
RNG = np.random.default_rng(0)
X, Y = RNG.standard_normal((40, 6)), RNG.integers(0, 3, 40)


def network() -> nn.Sequential:
    return nn.Sequential(nn.Linear(6, 5), nn.Tanh(), nn.Linear(5, 3)).eval()


def derivatives(model: Any) -> Any:
    return torch_derivatives(
        model, torch.from_numpy(X), torch.from_numpy(Y), lambda f, y: nn.functional.cross_entropy(f, y)
    )


def fitted(model: Any, method: Any, loss: Any = "cross_entropy", y: Any = Y) -> Any:
    return Influence.compile(model, loss, method, inputs=X[:2]).fit((X, y))


COUNT = 53  # weights of the network
EXACT = [
    GaussNewton(), ConjugateGradient(tolerance=1e-11), ConjugateGradient(preconditioner=None, tolerance=1e-11),
    Nystroem(rank=COUNT), Arnoldi(rank=COUNT, steps=COUNT), LiSSA(depth=600, samples=40, damping=0.05),
]  # fmt: skip


@pytest.mark.parametrize("method", EXACT, ids=lambda m: m.name)
def test_equals_the_dense_inverse(method: Any) -> None:
    model = network()
    h, g = gauss_newton(model, X, softmax_hessian), derivatives(model)
    damping = method.damping or 0.1 * np.trace(h) / len(h)
    wanted = g[:7] @ np.linalg.solve(h + damping * np.eye(len(h)), g.T)
    own = fitted(model, method)
    np.testing.assert_allclose(own((X[:7], Y[:7])), wanted, atol=1e-8 * abs(wanted).max())
    if method.name in ("gauss_newton", "arnoldi"):
        np.testing.assert_allclose(own.self_influence()[:7], np.diag(wanted), rtol=1e-8)


def test_the_space_of_samples_and_that_of_weights_agree() -> None:
    """Woodbury's identity: with few samples the inverse is taken in their space."""
    model = network()
    few = Influence.compile(model, method=GaussNewton(damping=0.05), inputs=X[:2]).fit((X[:4], Y[:4]))
    assert "rows" in few.state
    h, g = gauss_newton(model, X[:4], softmax_hessian), derivatives(model)
    wanted = g[:7] @ np.linalg.solve(h + 0.05 * np.eye(len(h)), g[:4].T)
    np.testing.assert_allclose(few((X[:7], Y[:7])), wanted, atol=1e-8 * abs(wanted).max())


def test_trace_of_the_curvature() -> None:
    model = network()
    h = gauss_newton(model, X, softmax_hessian)
    compiled = Influence.compile(model, inputs=X[:2])
    run, samples = compiled._run, compiled.samples((X, Y), "training data")
    found = EKFAC(draws=None).fit(run, samples)
    assert sum(found[f"values_{place}"].sum() for place in range(2)) == pytest.approx(np.trace(h), rel=1e-12)
    drawn = [EKFAC(draws=1, seed=seed).fit(run, samples) for seed in range(30)]
    traces = [sum(state[f"values_{place}"].sum() for place in range(2)) for state in drawn]
    assert np.mean(traces) == pytest.approx(np.trace(h), abs=4 * np.std(traces) / 30**0.5)


@pytest.mark.parametrize("method", [GaussNewton, EKFAC, KFAC, ConjugateGradient])
def test_ridge_leave_one_out(method: Any) -> None:
    """Of a linear model with squared errors, leaving a sample out changes an output by the influence over 1 − h."""
    y, ridge = X @ np.arange(6.0) + RNG.standard_normal(40), 0.3
    design = np.c_[X, np.ones(40)]
    matrix = design.T @ design / 40 + ridge * np.eye(7)
    weights = np.linalg.solve(matrix, design.T @ y / 40)
    model = nn.Linear(6, 1)
    with torch.no_grad():
        model.weight.copy_(torch.from_numpy(weights[None, :6]))
        model.bias.copy_(torch.from_numpy(weights[6:]))
    tests, targets = RNG.standard_normal((3, 6)), RNG.standard_normal(3)
    values = {"tolerance": 1e-13} if method is ConjugateGradient else {}
    scores = fitted(model, method(damping=ridge, **values), "squared_error", y)((tests, targets))
    leverage = np.einsum("ni,ij,nj->n", design, np.linalg.inv(matrix), design) / 40
    points = np.c_[tests, np.ones(3)]
    change = scores / (points @ weights - targets)[:, None] / 40 / (1 - leverage)
    wanted = []
    for i in range(40):
        rest = np.arange(40) != i
        inner = design[rest].T @ design[rest] / 40 + ridge * np.eye(7)
        wanted.append(points @ (np.linalg.solve(inner, design[rest].T @ y[rest] / 40) - weights))
    np.testing.assert_allclose(change, np.array(wanted).T, atol=1e-10)


def logistic(weights: Any, ridge: float) -> np.ndarray:
    """The weights at which Σ w·loss/n + ridge/2·|θ|² is smallest, by Newton's method."""
    design, labels, theta = np.c_[X, np.ones(40)], (Y > 0).astype(float), np.zeros(7)
    for _ in range(50):
        p = 1 / (1 + np.exp(-design @ theta))
        gradient = design.T @ (weights * (p - labels)) / 40 + ridge * theta
        hessian = (design * (weights * p * (1 - p))[:, None]).T @ design / 40 + ridge * np.eye(7)
        theta -= np.linalg.solve(hessian, gradient)
    return theta


def test_logistic_regression_is_the_derivative_of_training() -> None:
    """Weighing a sample more by ε changes a test's loss by −ε·influence/n: the difference falls linearly with ε."""
    ridge, model = 0.05, nn.Linear(6, 1)
    theta = logistic(np.ones(40), ridge)
    with torch.no_grad():
        model.weight.copy_(torch.from_numpy(theta[None, :6]))
        model.bias.copy_(torch.from_numpy(theta[6:]))
    labels = (Y > 0).astype(float)
    scores = fitted(model, GaussNewton(damping=ridge), "binary_cross_entropy", labels)((X[:5], labels[:5]))

    def losses(theta: Any) -> Any:
        f = np.c_[X[:5], np.ones(5)] @ theta
        return np.log1p(np.exp(-f * (2 * labels[:5] - 1)))

    errors = []
    for step in (1e-1, 1e-2, 1e-3):
        slopes = []
        for i in range(40):
            weights = np.ones(40)
            weights[i] += step
            slopes.append((losses(logistic(weights, ridge)) - losses(theta)) / step * -40)
        errors.append(abs(np.array(slopes).T - scores).max() / abs(scores).max())
    assert errors[0] < 0.1
    assert errors[1] < 0.15 * errors[0]
    assert errors[2] < 0.15 * errors[1]
    left_out = []
    for i in range(40):
        weights = np.ones(40)
        weights[i] = 0
        left_out.append(losses(logistic(weights, ridge)) - losses(theta))
    assert np.corrcoef(np.array(left_out).T.ravel(), scores.ravel() / 40)[0, 1] >= 0.99


def test_kfac_is_exact_for_deep_linear_networks() -> None:
    """With squared errors each layer's block is the product of two covariances."""
    model, y = nn.Sequential(nn.Linear(6, 4), nn.Linear(4, 3)).eval(), RNG.standard_normal((40, 3))
    h = gauss_newton(model, X, lambda f: np.broadcast_to(np.eye(3), (len(f), 3, 3)))
    state = fitted(model, KFAC(draws=None), "squared_error", y).state
    sizes = [28, 15]
    orders = [np.r_[np.arange(6 * 4).reshape(4, 6).T.ravel(), np.arange(24, 28)],
              28 + np.r_[np.arange(12).reshape(3, 4).T.ravel(), np.arange(12, 15)]]  # fmt: skip
    for place, size in enumerate(sizes):
        q, r, values = (state[f"{name}_{place}"][0] for name in ("left", "right", "values"))
        basis = np.kron(q, r)
        own = (basis * values.ravel()) @ basis.T
        np.testing.assert_allclose(own, h[np.ix_(orders[place], orders[place])], atol=1e-10)
        assert own.shape == (size, size)


def test_ekfac_is_exact_for_scalar_logistic_regression_of_one_hot_inputs() -> None:
    x, labels = np.eye(6)[RNG.integers(0, 6, 40)], RNG.integers(0, 2, 40).astype(float)
    model = nn.Linear(6, 1, bias=False)
    compiled = Influence.compile(model, "binary_cross_entropy", EKFAC(damping=0.01), inputs=x[:2])
    p = 1 / (1 + np.exp(-x @ model.weight.detach().numpy().T))
    h = (x * p * (1 - p)).T @ x / 40
    g = x * (p - labels[:, None])
    wanted = g[:5] @ np.linalg.solve(h + 0.01 * np.eye(6), g.T)
    np.testing.assert_allclose(compiled.fit((x, labels))((x[:5], labels[:5])), wanted, atol=1e-10)


def test_harmonic_mean() -> None:
    model = network()
    g, found = derivatives(model), fitted(model, HarmonicMean())((X[:7], Y[:7]))
    wanted = np.zeros((7, 40))
    for block in (slice(0, 35), slice(35, 53)):
        own = g[:, block]
        damping = 0.1 * (own**2).sum() / len(own) / own.shape[1]
        inverse = np.mean([np.linalg.inv(np.outer(v, v) + damping * np.eye(len(v))) for v in own], axis=0)
        wanted += own[:7] @ inverse @ own.T
    np.testing.assert_allclose(found, wanted, atol=1e-8 * abs(wanted).max())


def test_cosine_tracin_and_trak() -> None:
    model = network()
    g = derivatives(model)
    product, lengths = g[:7] @ g.T, np.sqrt((g**2).sum(1))
    tests = X[:7], Y[:7]
    np.testing.assert_allclose(fitted(model, GradientSimilarity())(tests), product, atol=1e-12)
    np.testing.assert_allclose(
        fitted(model, GradientSimilarity(cosine=True))(tests), product / lengths[:7, None] / lengths, atol=1e-12
    )
    other = network()
    method = TracIn([other.state_dict(), model.state_dict()], [0.5, 0.1])
    own = fitted(model, method)
    h = derivatives(other)
    np.testing.assert_allclose(own(tests), 0.5 * h[:7] @ h.T + 0.1 * product, atol=1e-12)
    np.testing.assert_allclose(own.self_influence(), 0.5 * (h**2).sum(1) + 0.1 * (g**2).sum(1), atol=1e-12)
    np.testing.assert_allclose(fitted(model, GradientSimilarity())(tests), product, atol=1e-12)  # weights are back
    wide = fitted(model, TRAK(dimension=32**2, damping=1e6))(tests) * 1e6  # (ΦᵀΦ/n + λ)⁻¹ is 1/λ then
    assert np.corrcoef(wide.ravel(), product.ravel())[0, 1] > 0.9


def test_parameters_that_change_after_the_fit() -> None:
    model = network()
    for method in (EKFAC(), Nystroem(rank=10), HarmonicMean()):
        damping = 0.5 if method.name != "harmonic_mean" else 0.2
        found = fitted(model, method).replace(damping=damping)((X[:3], Y[:3]))
        wanted = fitted(model, replace(method, damping=damping))((X[:3], Y[:3]))
        np.testing.assert_allclose(found, wanted, rtol=1e-3, atol=1e-3 * abs(wanted).max())
    with pytest.raises(UnknownNameError, match="draws"):
        fitted(model, EKFAC()).replace(draws=2)


def test_bad_parameters() -> None:
    with pytest.raises(InputError, match="draws must be at least 1"):
        EKFAC(draws=0)
    with pytest.raises(InputError, match="damping must be a number"):
        EKFAC(damping=-1.0)
    with pytest.raises(InputError, match="larger than 0"):
        Nystroem(damping=0.0)
    with pytest.raises(InputError, match="square number"):
        TRAK(dimension=1000)
    with pytest.raises(InputError, match="needs checkpoints"):
        TracIn()
    with pytest.raises(UnknownNameError, match="ekfac"):
        Influence.compile(network(), method="ekfak", inputs=X[:2])
    with pytest.raises(InputError, match="more steps="):
        fitted(network(), ConjugateGradient(preconditioner=None, steps=2, damping=1e-6))((X[:2], Y[:2]))
    with pytest.raises(InputError, match="without bound"):
        fitted(network(), LiSSA(scale=1e-4, depth=300))((X[:2], Y[:2]))
    with pytest.raises(InputError, match="lacks the weights"):
        fitted(network(), TracIn([{"other": np.zeros(3)}]))
    assert set(METHODS) == {kind.name for kind in METHODS.values()}

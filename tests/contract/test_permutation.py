"""feature_permutation: exact with all references, its error, importance, and backgrounds of every kind."""

from __future__ import annotations

import io

import numpy as np
import pytest

from explainers import Explainer, References, methods
from explainers.errors import InputError

X = np.random.default_rng(0).normal(size=(12, 4))
BACKGROUND = np.random.default_rng(1).normal(size=(7, 4))


def f(x: np.ndarray) -> np.ndarray:
    return np.stack([x[:, 0] * x[:, 1] + np.exp(x[:, 2] / 3), x[:, 3] ** 3], axis=1)


def exact(x: np.ndarray, background: np.ndarray, output: int) -> np.ndarray:
    """The mean over all other samples, feature by feature."""
    effects = np.zeros(x.shape)
    for i, sample in enumerate(x):
        for feature in range(x.shape[1]):
            rows = np.repeat(sample[None], len(background), axis=0)
            rows[:, feature] = background[:, feature]
            effects[i, feature] = f(sample[None])[0, output] - f(rows)[:, output].mean()
    return effects


@pytest.mark.parametrize("batch_size", [None, 5])
def test_exact_with_every_reference_once(batch_size: int | None) -> None:
    explain = Explainer.compile(f, methods.FeaturePermutation(repeats=7), inputs=X, baseline=References(BACKGROUND))
    np.testing.assert_allclose(explain(X, target=0, batch_size=batch_size), exact(X, BACKGROUND, 0), atol=1e-12)
    both = explain(X, target="all", batch_size=batch_size)
    np.testing.assert_allclose(both[1], exact(X, BACKGROUND, 1), atol=1e-12)
    of_batch = Explainer.compile(f, methods.FeaturePermutation(repeats=len(X)), inputs=X)
    np.testing.assert_allclose(of_batch(X, target=0), exact(X, X, 0), atol=1e-12)


def test_draws_are_uniform_and_the_error_is_right() -> None:
    explain = Explainer.compile(f, methods.FeaturePermutation(repeats=3), inputs=X, baseline=References(BACKGROUND))
    found = [explain.explanation(X, target=0, seed=seed) for seed in range(400)]
    draws = np.stack([e.attributions for e in found])
    truth = exact(X, BACKGROUND, 0)
    spread = draws.std(axis=0)
    assert (abs(draws.mean(axis=0) - truth) < 5 * spread / 20 + 1e-12).all()
    claimed = np.sqrt(np.mean([e.standard_error**2 for e in found], axis=0))[:, :3]
    assert (claimed >= 0.9 * spread[:, :3]).all()  # drawn without replacement, the error is smaller than claimed
    assert (claimed <= 1.6 * spread[:, :3]).all()
    assert not draws[..., 3].any()


def test_importance() -> None:
    explain = Explainer.compile(f, methods.FeaturePermutation(repeats=12), inputs=X)
    explanation = explain.explanation(X, target=0)
    found = explanation.importance()
    np.testing.assert_allclose(found.mean, exact(X, X, 0).mean(axis=0), atol=1e-12)
    np.testing.assert_allclose(found.standard_error, exact(X, X, 0).std(axis=0, ddof=1) / np.sqrt(12), atol=1e-12)
    absolute = explanation.importance(absolute=True)
    np.testing.assert_allclose(absolute.mean, abs(exact(X, X, 0)).mean(axis=0), atol=1e-12)
    assert explain.explanation(X, target="all").importance().mean.shape == (2, 4)
    with pytest.raises(InputError, match="there are none"):
        explain.explanation(X[:0], target=0).importance()


def test_breimans_importance_of_a_loss() -> None:
    """The rise of the loss when a column is permuted: nothing for a column that the model does not use."""
    y = 2 * X[:, 0]

    def loss(x: np.ndarray, y: np.ndarray) -> np.ndarray:
        return (2 * x[:, 0] - y) ** 2

    explain = Explainer.compile(loss, methods.FeaturePermutation(repeats=12), inputs={"x": X, "y": y}, wrt="x")
    importance = explain.explanation({"x": X, "y": y}).importance().mean
    expected = -np.mean([(2 * X[j, 0] - y[i]) ** 2 for i in range(12) for j in range(12)])
    np.testing.assert_allclose(importance, [expected, 0, 0, 0], atol=1e-12)


def test_groups_files_and_own_sets() -> None:
    groups = np.array([5, 5, 2, 9])
    method = methods.FeaturePermutation(repeats=7, groups=groups)
    explain = Explainer.compile(f, method, inputs=X, baseline=References(BACKGROUND))
    found = explain(X, target=0)
    assert np.array_equal(found[:, 0], found[:, 1])
    rows = np.repeat(X[:1], 7, axis=0)
    rows[:, :2] = BACKGROUND[:, :2]
    np.testing.assert_allclose(found[0, 0], f(X[:1])[0, 0] - f(rows)[:, 0].mean(), atol=1e-12)
    own = References(np.stack([BACKGROUND] * len(X)), per_sample=True)
    np.testing.assert_allclose(explain(X, target=0, baseline=own), found, atol=1e-12)
    more = explain.replace(repeats=14)(X, target=0)  # each reference twice
    np.testing.assert_allclose(more, found, atol=1e-12)


def test_saved_with_the_batch_as_baseline() -> None:
    torch = pytest.importorskip("torch")
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(4, 6), torch.nn.Tanh(), torch.nn.Linear(6, 2)).double()
    explain = Explainer.compile(model, "feature_permutation", inputs=X)
    buffer = io.BytesIO()
    explain.save(buffer)
    loaded = Explainer.load(buffer.getvalue())
    np.testing.assert_allclose(loaded(X, target=1, seed=3), explain(X, target=1, seed=3), atol=1e-12)


def test_tables() -> None:
    pandas = pytest.importorskip("pandas")
    frame = pandas.DataFrame(X, columns=list("abcd"))
    explain = Explainer.compile(lambda t: f(t.to_numpy()), methods.FeaturePermutation(repeats=12), inputs=frame)
    found = explain(frame, target=0)
    assert list(found.columns) == list("abcd")
    np.testing.assert_allclose(found.to_numpy(), exact(X, X, 0), atol=1e-12)


def test_wrong_arguments() -> None:
    with pytest.raises(InputError, match="repeats must be a whole number ≥ 1"):
        methods.FeaturePermutation(repeats=0)
    explain = Explainer.compile(f, "feature_permutation", inputs=X)
    with pytest.raises(InputError, match="'feature_permutation' has no groups of features at a call"):
        explain(X, target=0, groups=np.zeros((12, 4), int))

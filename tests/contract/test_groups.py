"""Groups that come with a call: a map of features for each sample, differing in count."""

from __future__ import annotations

import io
import itertools
import math
import threading
import tracemalloc
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from explainers import Explainer, References, methods
from explainers.errors import InputError
from explainers.methods.groups import SampleGroups
from explainers.scheduler import Scheduler

COUNTS = (3, 5, 4, 4, 2, 1)
N, SHAPE = len(COUNTS), (2, 4, 5)
X = np.random.default_rng(0).normal(size=(N, *SHAPE))
SUPERPIXELS = np.stack([np.random.default_rng(i).permutation(np.arange(20) % n).reshape(1, 4, 5) * 7 + 100
                        for i, n in enumerate(COUNTS)])  # fmt: skip
BACKGROUND = References(np.random.default_rng(9).normal(size=(3, *SHAPE)))
METHODS: dict[str, Any] = {
    "feature_ablation": methods.FeatureAblation(),
    "shapley_sampling": methods.ShapleySampling(permutations=4),
    "exact_shapley": methods.ExactShapley(),
    "kernel_shap": methods.KernelShap(samples=12),
    "lime": methods.Lime(samples=20),
}


def network(x: np.ndarray) -> np.ndarray:
    """Sharp and far from additive."""
    weights = np.random.default_rng(3).normal(size=(2, 40, 6))
    hidden = np.tanh(x.reshape(len(x), -1) @ weights[0]) * (x.reshape(len(x), -1) @ weights[1])
    return np.stack([hidden[:, :3].prod(axis=1), np.exp(hidden[:, 3:].sum(axis=1) / 8)], axis=1)


def model(backend: str) -> Any:
    if backend == "numpy":
        return network
    if backend == "torch":
        import torch

        torch.manual_seed(0)
        layers = [torch.nn.Conv2d(2, 4, 3, padding=1), torch.nn.GELU(), torch.nn.Flatten(), torch.nn.Linear(80, 2)]
        return torch.nn.Sequential(*layers).double().eval()
    import keras

    keras.utils.set_random_seed(0)
    layers = [keras.layers.Input(SHAPE), keras.layers.Flatten(), keras.layers.Dense(8, "gelu"), keras.layers.Dense(2)]
    return keras.Sequential(layers)


def shapley(f: Any, x: np.ndarray, groups: np.ndarray) -> np.ndarray:
    """By all 2^G coalitions, against zeros; ``x``: one sample, ``groups``: broadcastable to it."""
    ids = np.unique(groups)
    groups = np.broadcast_to(groups, x.shape)

    def value(kept: tuple[int, ...]) -> float:
        return float(f(np.where(np.isin(groups, kept), x, 0.0)[None])[0, 1])

    found = np.zeros(x.shape)
    for i in ids:
        others = [k for k in ids if k != i]
        share = 0.0
        for size in range(len(others) + 1):
            weight = math.factorial(size) * math.factorial(len(others) - size) / math.factorial(len(ids))
            for kept in itertools.combinations(others, size):
                share += weight * (value((*kept, i)) - value(kept))
        found[groups == i] = share
    return found


def test_superpixels_by_brute_force() -> None:
    expected = np.stack([shapley(network, x, g) for x, g in zip(X, SUPERPIXELS, strict=True)])
    for name in ("exact_shapley", "kernel_shap"):
        method = METHODS[name] if name == "exact_shapley" else methods.KernelShap(samples=64)
        found = Explainer.compile(network, method)(X, target=1, groups=SUPERPIXELS)
        np.testing.assert_allclose(found, expected, rtol=1e-6, atol=1e-9 * abs(expected).max())


@pytest.mark.parametrize("backend", ["numpy", "torch", "tensorflow"])
@pytest.mark.parametrize("name", METHODS)
def test_as_an_explainer_compiled_for_each_map(name: str, backend: str) -> None:
    """Also with packages that samples share, and references."""
    net, method = model(backend), METHODS[name]
    x = X if backend != "tensorflow" else X.astype("float32")
    explain = Explainer.compile(net, method, inputs=x)
    found = explain.explanation(x, target=1, groups=SUPERPIXELS, baseline=BACKGROUND, seed=range(N))
    small = explain(x, target=1, groups=SUPERPIXELS, baseline=BACKGROUND, seed=range(N), batch_size=3)
    tolerance = 1e-9 if backend != "tensorflow" else 1e-5
    scale = abs(found.attributions).max()
    np.testing.assert_allclose(small, found.attributions, atol=tolerance * scale)
    for i in range(N):
        one = Explainer.compile(net, replace(method, groups=SUPERPIXELS[i]), inputs=x, baseline=BACKGROUND)
        alone = one.explanation(x[i : i + 1], target=1, seed=[i])
        np.testing.assert_allclose(found.attributions[i], alone.attributions[0], atol=tolerance * scale)
        assert found.evaluations[i] == alone.evaluations[0]
        if found.completeness_gap is not None:
            assert abs(found.completeness_gap[i]) < 10 * tolerance * scale
        if found.standard_error is not None and COUNTS[i] > 1:
            np.testing.assert_allclose(found.standard_error[i], alone.standard_error[0], atol=1e-3 * scale)


@pytest.mark.parametrize("name", METHODS)
def test_no_further_traces(name: str) -> None:
    explain = Explainer.compile(model("torch"), METHODS[name], inputs=X)
    explain(X, target=0, groups=SUPERPIXELS)
    if name == "feature_ablation":
        explain(X, target=0)
    traces = explain.stats.traces
    assert traces == (2 if name == "feature_ablation" else 1)
    for seed in range(3):
        maps = np.random.default_rng(seed).integers(0, 4 + seed, size=(N, 1, 4, 5))
        explain(X, target=1, groups=maps, baseline=BACKGROUND, batch_size=7)
        explain(X[:2], target="max", groups=maps[:2], baseline=1.5)
    assert explain.stats.traces == traces


def test_draws_do_not_depend_on_other_samples() -> None:
    explain = Explainer.compile(network, methods.ShapleySampling(permutations=2))
    order = np.array([4, 0, 3, 1, 5, 2])
    found = explain(X, target=1, groups=SUPERPIXELS, seed=range(N))
    shuffled = explain(X[order], target=1, groups=SUPERPIXELS[order], seed=order)
    assert np.array_equal(shuffled, found[order])
    apart = [explain(X[i : i + 1], target=1, groups=SUPERPIXELS[i : i + 1], seed=[i]) for i in range(N)]
    assert np.array_equal(np.concatenate(apart), found)


def test_packages_hold_samples_with_different_counts() -> None:
    sizes = []

    def watched(x: np.ndarray) -> np.ndarray:
        sizes.append(len(x))
        return network(x)

    explain = Explainer.compile(watched, "feature_ablation", inputs=X, batch_size=64)
    sizes.clear()
    explain(X, target=1, groups=SUPERPIXELS)
    assert sizes == [N + sum(COUNTS)]


def test_all_outputs_several_inputs_and_shared_ids() -> None:
    rng = np.random.default_rng(5)
    a, b = rng.normal(size=(4, 3)), rng.normal(size=(4, 2, 2))

    def f(a: np.ndarray, b: np.ndarray) -> np.ndarray:
        return np.stack([a.prod(axis=1) * b.sum(axis=(1, 2)), np.exp(a[:, 0] - b[:, 0, 0])], axis=1)

    groups_a = np.array([[0, 0, 1], [5, 6, 7], [0, 0, 0], [3, 1, 3]])
    groups_b = np.array([[[0, 2]], [[5, 5]], [[0, 0]], [[1, 9]]])  # the same along the last but one axis
    explain = Explainer.compile(f, "exact_shapley", inputs={"a": a, "b": b})
    found = explain({"a": a, "b": b}, target="all", groups={"b": groups_b, "a": groups_a})
    assert found["a"].shape == (2, 4, 3)
    for i in range(4):
        maps = (groups_a[i], np.broadcast_to(groups_b[i], (2, 2)))
        one = Explainer.compile(f, methods.ExactShapley(groups=maps), inputs=(a, b))
        alone = one(a[i : i + 1], b[i : i + 1], target="all")
        for part, expected in zip((found["a"], found["b"]), alone, strict=True):
            np.testing.assert_allclose(part[:, i], expected[:, 0], atol=1e-12)
    detailed = explain.explanation(a, b, target=0, groups=(groups_a, groups_b))
    assert abs(detailed.completeness_gap).max() < 1e-12
    assert detailed.groups is not None
    assert detailed.groups[0].tolist() == [[0, 0, 1], [0, 1, 2], [0, 0, 0], [1, 0, 1]]


def test_words_of_token_ids() -> None:
    """Deleting a word of a sum of embeddings changes the sum by its tokens' embeddings."""
    table = np.random.default_rng(1).normal(size=(50, 3))
    ids = np.random.default_rng(2).integers(1, 50, size=(3, 6))
    words = np.array([[0, 0, 1, 2, 2, 3], [0, 1, 2, 3, 4, 5], [0, 0, 0, 0, 0, 0]])
    explain = Explainer.compile(lambda ids: table[ids].sum(axis=1), "feature_ablation", inputs=ids, baseline=0)
    found = explain(ids, target=2, groups=words)
    change = table[ids, 2] - table[0, 2]
    expected = np.stack([np.bincount(w, c)[w] for w, c in zip(words, change, strict=True)])
    np.testing.assert_allclose(found, expected, atol=1e-12)


def test_saved_and_loaded() -> None:
    for name in ("feature_ablation", "kernel_shap"):
        explain = Explainer.compile(model("torch"), METHODS[name], inputs=X)
        buffer = io.BytesIO()
        explain.save(buffer)
        loaded = Explainer.load(buffer.getvalue())
        expected = explain(X, target=1, groups=SUPERPIXELS)
        np.testing.assert_allclose(loaded(X, target=1, groups=SUPERPIXELS), expected, atol=1e-12)
        assert loaded.stats.traces == 0


def test_threads_and_a_scheduler() -> None:
    explain = Explainer.compile(model("torch"), "feature_ablation", inputs=X)
    expected = explain(X, target=1, groups=SUPERPIXELS)
    plain = explain(X, target=1)
    found: list[Any] = [None] * 4

    def work(i: int) -> None:
        found[i] = [explain(X, target=1, groups=SUPERPIXELS) if i % 2 else explain(X, target=1) for _ in range(5)]

    threads = [threading.Thread(target=work, args=(i,)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for i, results in enumerate(found):
        for result in results:
            np.testing.assert_allclose(result, expected if i % 2 else plain, atol=1e-12)
    with Scheduler() as scheduler:
        futures = [scheduler.submit(explain, X[i : i + 1], target=1, groups=SUPERPIXELS[i : i + 1]) for i in range(N)]
        futures.append(scheduler.submit(explain, X[:1], target=1))
        for i, future in enumerate(futures):
            np.testing.assert_allclose(future.result().attributions[0], (*expected, plain[0])[i], atol=1e-12)


def test_progress_counts_rows_of_every_sample() -> None:
    seen: list[tuple[int, int]] = []
    explain = Explainer.compile(network, "exact_shapley", inputs=X, batch_size=8)
    explain(X, target=1, groups=SUPERPIXELS, progress=lambda done, total: seen.append((done, total)))
    assert seen[-1] == (sum(2**n for n in COUNTS),) * 2


def test_nan_and_no_samples() -> None:
    explain = Explainer.compile(network, "kernel_shap", inputs=X)
    assert explain(X[:0], target=1, groups=SUPERPIXELS[:0]).shape == (0, *SHAPE)
    assert explain(X, target=1, groups=SUPERPIXELS[:1]).shape == X.shape  # one map for all
    with pytest.raises(InputError, match="sample 1 of 6"):
        explain(np.where(np.arange(N).reshape(-1, 1, 1, 1) == 1, np.nan, X), target=1, groups=SUPERPIXELS)


@pytest.mark.parametrize(
    ("method", "groups", "message"),
    [
        ("occlusion", SUPERPIXELS, "'occlusion' has no groups of features at a call; these have: 'feature_ablation'"),
        (methods.KernelShap(groups=SUPERPIXELS[0]), SUPERPIXELS, "compiled with groups for all samples"),
        ("lime", SUPERPIXELS[:4], r"have the shape \(4, 1, 4, 5\); for 6 samples they need \(N, 2, 4, 5\) with N = 6"),
        ("lime", SUPERPIXELS[:, 0], r"have the shape \(6, 4, 5\)"),
        ("lime", SUPERPIXELS.astype(float), "integer feature ids; got dtype float64"),
        ("lime", np.zeros((N, 0, 0, 0), int), r"have the shape \(6, 0, 0, 0\)"),
        ("lime", [[0, 1], [0]], "differ in shape from sample to sample"),
        ("lime", (SUPERPIXELS, SUPERPIXELS), "2 group maps for 1 attributed"),
        ("exact_shapley", np.arange(40).reshape(1, *SHAPE).repeat(N, 0), "sample 0 of 6 has 40 groups: exact Shapley"),
        (methods.KernelShap(2), SUPERPIXELS, "sample 0 of 6 has 3 groups: .*too few"),
    ],
)
def test_bad_groups(method: Any, groups: Any, message: str) -> None:
    explain = Explainer.compile(network, method, inputs=X)
    with pytest.raises(InputError, match=message):
        explain(X, target=1, groups=groups)


def test_ids_of_any_kind_and_size() -> None:
    large = np.arange(3, dtype=np.uint64)[None] + np.uint64(2**60)
    groups = SampleGroups.of([large, np.array([[3, -4]])], [(3,), (2,)])
    assert groups.counts.tolist() == [5]
    assert [m.tolist() for m in groups.maps] == [[[2, 3, 4]], [[1, 0]]]
    generator = np.random.default_rng(0)
    for most in (3, 20, 200, 10**12):
        ids = generator.integers(-most if most > 3 else 0, most, size=(40, 7))
        found = SampleGroups.of([ids], [(7,)])
        for row, numbers, count in zip(ids, found.maps[0], found.counts, strict=True):
            assert np.array_equal(np.unique(row, return_inverse=True)[1], numbers)
            assert count == len(np.unique(row))


def test_the_largest_id_costs_nothing() -> None:
    tracemalloc.start()
    SampleGroups.of([np.array([[0, 1, 2, 65_535]] * 1000)], [(4,)])
    assert tracemalloc.get_traced_memory()[1] < 10**6
    tracemalloc.stop()

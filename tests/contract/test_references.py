"""References of each sample's own, and arrays whose meaning would hang on a coincidence of sizes."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import pytest

from explainers import Explainer, References, genomics, methods
from explainers.errors import BaselineError, InputError, TargetError
from explainers.scheduler import Scheduler

N, B = 5, 3
X = np.random.default_rng(0).normal(size=(N, 4))
OWN = np.random.default_rng(1).normal(size=(N, B, 4))
METHODS: dict[str, methods.Method] = {
    "deeplift_shap": methods.DeepLiftShap(),
    "gradient_shap": methods.GradientShap(samples=6),
    "shapley_sampling": methods.ShapleySampling(permutations=2),
    "exact_shapley": methods.ExactShapley(),
    "kernel_shap": methods.KernelShap(samples=12),
    "lime": methods.Lime(samples=12),
    "feature_ablation": methods.FeatureAblation(),
}


def model(backend: str) -> Any:
    if backend == "torch":
        import torch

        torch.manual_seed(0)
        layers = [torch.nn.Linear(4, 8), torch.nn.ReLU(), torch.nn.Linear(8, 3)]
        return torch.nn.Sequential(*layers).double().eval()
    weights = np.random.default_rng(2).normal(size=(4, 3))
    return lambda x: np.tanh(x @ weights)


def backend_of(name: str) -> str:
    return "torch" if METHODS[name].rule_set is not None else "numpy"


def takes_sets(name: str) -> bool:
    return METHODS[name].baseline in ("either", "references")


SETS = [name for name in METHODS if takes_sets(name)]


@pytest.mark.parametrize("name", SETS)
@pytest.mark.parametrize("batch_size", [None, 4])
def test_each_sample_has_its_own_set(name: str, batch_size: int | None) -> None:
    """What each sample gets alone, from its own references, with its own seed."""
    explain = Explainer.compile(model(backend_of(name)), METHODS[name], inputs=X, batch_size=batch_size)
    seeds = list(range(10, 10 + N))
    found = explain.explanation(X, target=1, baseline=References(OWN, per_sample=True), seed=seeds)
    for i in range(N):
        alone = explain.explanation(X[i : i + 1], target=1, baseline=References(OWN[i]), seed=[seeds[i]])
        np.testing.assert_allclose(found.attributions[i : i + 1], alone.attributions, rtol=1e-9, atol=1e-12)
        if alone.baseline_outputs is not None:
            np.testing.assert_allclose(found.baseline_outputs[i : i + 1], alone.baseline_outputs, atol=1e-12)
        if alone.standard_error is not None:
            np.testing.assert_allclose(found.standard_error[i : i + 1], alone.standard_error, atol=1e-12)
    shared = explain(X, target=1, baseline=References(OWN[0]), seed=seeds)
    assert abs(shared - found.attributions).max() > 1e-3


@pytest.mark.parametrize("name", ["deeplift_shap", "gradient_shap", "shapley_sampling"])
def test_a_scheduler_joins_calls_with_sets_of_their_own(name: str) -> None:
    explain = Explainer.compile(model("torch"), METHODS[name], inputs=X)
    given = References(OWN, per_sample=True)
    with Scheduler() as scheduler:
        waiting = [
            scheduler.submit(
                explain, X[i : i + 2], target=1, baseline=References(OWN[i : i + 2], True), seed=[i, i + 1]
            )
            for i in range(N - 1)
        ]
        for i, future in enumerate(waiting):
            want = explain(X, target=1, baseline=given, seed=list(range(N)))[i : i + 2]
            np.testing.assert_allclose(future.result().attributions, want, atol=1e-12)


def test_shuffles_of_each_sample() -> None:
    """A function may make a set for each sample, as dinucleotide shuffles are made."""

    def shuffles(x: Any) -> References:
        generator = np.random.default_rng(3)
        return References(np.stack([[generator.permutation(row) for _ in range(B)] for row in x]), per_sample=True)

    explain = Explainer.compile(model("torch"), "deeplift_shap", inputs=X, baseline=shuffles)
    want = explain(X, target=1, baseline=shuffles(X))
    np.testing.assert_array_equal(explain(X, target=1), want)
    plain = Explainer.compile(model("torch"), "deeplift", inputs=X)
    each = [plain(X, target=1, baseline=shuffles(X).array[:, b]) for b in range(B)]
    np.testing.assert_allclose(want, np.mean(each, axis=0), atol=1e-12)


@pytest.mark.parametrize("name", SETS)
def test_as_many_rows_as_samples_are_refused(name: str) -> None:
    explain = Explainer.compile(model(backend_of(name)), METHODS[name], inputs=X)
    words = (
        r"array of 5 rows for 5 samples may be either.*References\(array\).*References\(array\[:, None\], per_sample"
    )
    with pytest.raises(BaselineError, match=words):
        explain(X, target=1, baseline=OWN[:, 0])
    one_each = explain(X, target=1, baseline=References(OWN[:, :1], per_sample=True))
    for i in range(N):
        alone = explain(X[i : i + 1], target=1, baseline=OWN[i, 0], seed=0)
        if not METHODS[name].sampled:
            np.testing.assert_allclose(one_each[i : i + 1], alone, atol=1e-12)


@pytest.mark.parametrize("name", ["deeplift", "integrated_gradients"])
def test_where_one_meaning_is_possible_nothing_is_asked(name: str) -> None:
    explain = Explainer.compile(model("torch"), name, inputs=X)
    found = explain(X, target=1, baseline=OWN[:, 0])
    alone = [explain(X[i : i + 1], target=1, baseline=OWN[i, 0]) for i in range(N)]
    np.testing.assert_allclose(found, np.concatenate(alone), atol=1e-12)


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (OWN[:4], r"shape \(4, 3, 4\) for .*expected \(5, 'B', 4\)"),
        (OWN[:, :0], "with B ≥ 1"),
        (OWN[:, 0], r"expected \(5, 'B', 4\)"),
        (OWN[..., :3], r"expected \(5, 'B', 4\)"),
    ],
)
def test_sets_that_do_not_fit(given: Any, words: str) -> None:
    explain = Explainer.compile(model("numpy"), "kernel_shap", inputs=X)
    with pytest.raises(BaselineError, match=words):
        explain(X, target=1, baseline=References(given, per_sample=True))


# --- targets ---------------------------------------------------------------------------------


@pytest.mark.parametrize("given", [[0.0, 1.0, 0.0], [2.0, 1.0, 0.0], np.float32([1, 1, 1])], ids=str)
def test_whole_floats_of_as_many_samples_as_outputs(given: Any) -> None:
    """Labels that came as floats, or weights for all? It cannot be known."""
    explain = Explainer.compile(model("numpy"), "exact_shapley", inputs=X)
    with pytest.raises(TargetError, match=r"may be weights of the output.*or an index for each of 3 samples"):
        explain(X[:3], target=given)
    labels = explain(X[:3], target=np.asarray(given).astype(int))
    each = [explain(X[i : i + 1], target=int(label)) for i, label in enumerate(given)]
    np.testing.assert_allclose(labels, np.concatenate(each))
    weights = explain(X[:3], target=np.tile(given, (3, 1)))
    np.testing.assert_allclose(explain(X[:4], target=given)[:3], weights)  # other sizes: weights


def test_weights_that_are_no_indices_need_no_word() -> None:
    explain = Explainer.compile(model("numpy"), "exact_shapley", inputs=X)
    for given in ([0.5, 0.25, 0.25], [-1.0, 1.0, 0.0], [0.0, 3.0, 0.0], [False, True, False]):
        want = sum(float(w) * explain(X[:3], target=i) for i, w in enumerate(given))
        np.testing.assert_allclose(explain(X[:3], target=np.array(given)), want, atol=1e-12)


def test_pairs_of_integers_where_samples_are_as_many_as_rows_of_the_output() -> None:
    weights = np.random.default_rng(2).normal(size=(4, 8))
    explain = Explainer.compile(lambda x: np.tanh(x @ weights).reshape(-1, 4, 2), "exact_shapley", inputs=X)
    pairs = np.array([[0, 1], [1, 1], [2, 0], [3, 1]])
    with pytest.raises(TargetError, match="may be weights of the output"):
        explain(X[:4], target=pairs)
    each = [explain(X[i : i + 1], target=tuple(pair)) for i, pair in enumerate(pairs.tolist())]
    np.testing.assert_allclose(explain(X[:4], target=[tuple(p) for p in pairs.tolist()]), np.concatenate(each))


# --- references that are the default, and what looks into them ---------------------------------


@pytest.mark.parametrize("name", ["deeplift_shap", "kernel_shap"])
def test_a_default_of_so_many_samples_is_for_so_many(name: str) -> None:
    """It is checked at each call: another number of samples has no such sets."""
    own = References(OWN, per_sample=True)
    explain = Explainer.compile(model(backend_of(name)), METHODS[name], inputs=X, baseline=own)
    np.testing.assert_array_equal(explain(X, target=1, seed=0), explain(X, target=1, seed=0, baseline=own))
    with pytest.raises(BaselineError, match=r"expected \(3, 'B', 4\)"):
        explain(X[:3], target=1)


def test_an_audit_takes_the_first_of_each_sample() -> None:
    explain = Explainer.compile(model("torch"), "deeplift_shap", inputs=X)
    found = explain.audit(X, target=1, baseline=References(OWN, per_sample=True))
    assert len(found) > 2
    assert found[0].largest < 1e-12


def test_files_keep_them_and_older_files_load() -> None:
    """References as they were written before there were sets of each sample's own."""
    from explainers.file.encoding import decode, encode

    for given in (References(OWN, per_sample=True), References(OWN[0])):
        arrays: dict[str, Any] = {}
        told = encode(given, arrays, "baseline")
        again = decode(told, arrays)
        assert again.per_sample == given.per_sample
        np.testing.assert_array_equal(again.array, given.array)
    assert set(told["fields"]) == {"array"}


# --- dinucleotide shuffles -------------------------------------------------------------------


@pytest.mark.parametrize("method", ["deeplift_shap", "gradient_shap", "shapley_sampling"])
def test_shuffles_as_the_baseline(method: str) -> None:
    """A value that makes each sample's own references of it, in calls and in files."""
    torch = pytest.importorskip("torch")
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Conv1d(4, 3, 3), torch.nn.ReLU(), torch.nn.Flatten(), torch.nn.Linear(30, 2))
    letters = np.random.default_rng(0).integers(0, 4, (3, 12))
    x = np.eye(4, dtype=np.float32)[letters].transpose(0, 2, 1)
    shuffles = genomics.DinucleotideShuffles(5, seed=3)
    explain = Explainer.compile(model, method, inputs=x, baseline=shuffles)
    table = genomics.dinucleotide_shuffle(x, 5, seed=3)
    assert table.shape == (3, 5, 4, 12)
    expected = explain(x, target=1, baseline=References(table, per_sample=True))
    assert (explain(x, target=1) == expected).all()
    of_torch = explain(torch.tensor(x), target=1)
    assert isinstance(of_torch, torch.Tensor)
    assert (of_torch.numpy() == expected).all()
    assert isinstance(genomics.dinucleotide_shuffle(torch.tensor(x), 2), torch.Tensor)
    file = io.BytesIO()
    explain.save(file)
    assert (Explainer.load(file.getvalue())(x, target=1) == expected).all()


def test_shuffles_of_several_inputs_are_refused() -> None:
    with pytest.raises(InputError, match="one input; 2 are attributed"):
        genomics.DinucleotideShuffles()((np.zeros((1, 4, 9)), np.zeros((1, 4, 9))))

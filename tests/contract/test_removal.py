"""Forward-only methods: against naive ones, against peers, their errors, their rows, and what they keep."""

from __future__ import annotations

import tracemalloc
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from explainers import Explainer, References, errors, methods

from . import naive_removal as naive
from .naive import sample_seed, uniform

RNG = np.random.default_rng(4)
FIRST, SECOND = RNG.normal(size=(12, 8)), RNG.normal(size=(8, 3))
GROUPS = np.array([[0, 0, 1, 5], [5, 2, 2, 9], [9, 9, 3, 3]])  # six features; ids with gaps
NUMBERS = np.unique(GROUPS, return_inverse=True)[1].reshape(GROUPS.shape)
X, B = RNG.normal(size=(4, 3, 4)), RNG.normal(size=(4, 3, 4))
TARGET = [0, 2, 1, 1]


def one_each(b: Any) -> References:
    """One baseline for each sample, said so that it is no set for all."""
    return References(b[:, None], per_sample=True)


def model(x: np.ndarray) -> np.ndarray:
    """A small net on samples (3, 4)."""
    hidden = np.tanh(x.reshape(len(x), -1) @ FIRST)
    return np.maximum(hidden @ SECOND, 0) + hidden[:, :3]


def value_of(sample: int) -> Callable[[list[np.ndarray]], float]:
    return lambda points: float(model(points[0])[0, TARGET[sample]])


def compiled(method: Any, **options: Any) -> Explainer:
    return Explainer.compile(model, method, inputs=X, **options)


# --- against naive ones ------------------------------------------------------------------------


@pytest.mark.parametrize("aggregate", ["mean", "mean_per_element", "sum"])
@pytest.mark.parametrize(("window", "stride"), [(1, 1), (2, 1), (2, 2), (3, 2), (4, 3)])
def test_occlusion(window: int, stride: int, aggregate: str) -> None:
    explain = compiled(methods.Occlusion(window, stride, aggregate), batch_size=7)
    got = explain(X, target=TARGET, baseline=one_each(B))
    for i in range(4):
        (want,) = naive.occlusion(value_of(i), [X[i : i + 1]], [B[i : i + 1]], window, stride, aggregate)
        np.testing.assert_allclose(got[i : i + 1], want, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("size", [1, 7, 64, 1000])
@pytest.mark.parametrize("name", naive.TWINS)
def test_coalitions(name: str, size: int) -> None:
    method, again = naive.TWINS[name][0](GROUPS), naive.TWINS[name][1]
    got = compiled(method, batch_size=size)(X, target=TARGET, baseline=one_each(B), seed=3)
    for i in range(4):
        seed = sample_seed(3, i)
        (want,) = again(value_of(i), [X[i : i + 1]], [B[i : i + 1]], [NUMBERS], seed)
        np.testing.assert_allclose(got[i : i + 1], want, rtol=1e-9, atol=1e-12)


def test_the_naive_kernel_agrees_with_the_naive_exact() -> None:
    arguments = value_of(0), [X[:1]], [B[:1]], [NUMBERS]
    (a,), (b,) = naive.kernel_shap(*arguments), naive.exact_shapley(*arguments)
    np.testing.assert_allclose(a, b, atol=1e-5)


def test_rise() -> None:
    got = compiled(methods.Rise(20, grid=2, probability=0.4), batch_size=7)(X, target=TARGET, baseline=B, seed=3)

    def uniforms(key: int, shape: tuple[int, ...]) -> np.ndarray:
        return np.array([uniform(key, element) for element in range(int(np.prod(shape)))]).reshape(shape)

    for i in range(4):
        want = naive.rise(value_of(i), X[i : i + 1], B[i : i + 1], 20, 2, 0.4, sample_seed(3, i), uniforms)
        np.testing.assert_allclose(got[i : i + 1], want, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("axis", [0, -1])
def test_ism(axis: int) -> None:
    x = np.eye(3)[RNG.integers(3, size=(4, 4))].transpose(0, 2, 1)  # (letters, positions)
    calls: list[int] = []

    def counted(x: np.ndarray) -> np.ndarray:
        calls.append(len(x))
        return model(x if axis == 0 else x.transpose(0, 2, 1))

    given = x if axis == 0 else np.ascontiguousarray(x.transpose(0, 2, 1))
    explain = Explainer.compile(counted, methods.ISM(axis), inputs=given, batch_size=5)
    calls.clear()
    got = explain(given, target=TARGET)
    assert sum(calls) == 4 * (1 + 4 * 2)  # no letter is written over itself
    for i in range(4):
        want = naive.ism(value_of(i), x[i : i + 1])[0]
        np.testing.assert_allclose(got[i] if axis == 0 else got[i].T, want, rtol=1e-9, atol=1e-12)


def test_several_inputs_share_features() -> None:
    def both(x: np.ndarray, y: np.ndarray) -> np.ndarray:
        return model(np.concatenate([x, y], axis=1))

    parts = (X[:, :1], X[:, 1:])
    got = Explainer.compile(both, methods.ExactShapley((GROUPS[:1], GROUPS[1:])), inputs=parts)(*parts, target=TARGET)
    want = compiled(methods.ExactShapley(GROUPS))(X, target=TARGET)
    np.testing.assert_allclose(np.concatenate(got, axis=1), want, rtol=1e-9)


# --- known answers -----------------------------------------------------------------------------


def test_known_answers() -> None:
    minimum = Explainer.compile(lambda x: x.min(1), "exact_shapley")
    np.testing.assert_allclose(minimum(np.array([[2.0, -2.0], [4.0, 2.0]])), [[0, -2], [1, 1]])
    net = Explainer.compile(
        lambda x: np.maximum(np.maximum(x[:, 0] - 1, 0) - np.maximum(x[:, 1], 0), 0), methods.Occlusion()
    )
    np.testing.assert_allclose(net(np.array([[3.0, 1.0]])), [[1, -1]])
    method = methods.Occlusion(window=2, aggregate="mean_per_element")
    whole = Explainer.compile(lambda x: np.maximum(np.maximum(x[:, 0] - 1, 0) - np.maximum(x[:, 1], 0), 0), method)
    np.testing.assert_allclose(whole(np.array([[3.0, 1.0]])), [[0.5, 0.5]])


def pairs(x: np.ndarray) -> np.ndarray:
    """Pairwise interactions only."""
    matrix = np.random.default_rng(8).normal(size=(6, 6))
    return ((x @ matrix) * x).sum(1) + x.sum(1)


def test_one_antithetic_pair_is_exact_for_pairwise_interactions() -> None:
    x, b = RNG.normal(size=(2, 3, 6))
    exact = Explainer.compile(pairs, "exact_shapley", inputs=x)(x, baseline=one_each(b))
    pair = Explainer.compile(pairs, methods.ShapleySampling(2), inputs=x)
    np.testing.assert_allclose(pair(x, baseline=one_each(b), seed=5), exact, atol=1e-12)
    plain = Explainer.compile(pairs, methods.ShapleySampling(2, antithetic=False), inputs=x)
    assert abs(plain(x, baseline=one_each(b), seed=5) - exact).max() > 0.01


@pytest.mark.parametrize("antithetic", [True, False])
def test_the_standard_error_of_shapley_sampling_is_that_of_its_draws(antithetic: bool) -> None:
    """The spread of the draws, of n − 1 degrees of freedom: a few draws tell n from n − 1."""
    explain = compiled(methods.ShapleySampling(6, antithetic, groups=GROUPS))
    found = explain.explanation(X, target=TARGET, baseline=one_each(B), seed=3)
    for i in range(len(X)):
        arguments = value_of(i), [X[i : i + 1]], [B[i : i + 1]], [NUMBERS], 6, antithetic, sample_seed(3, i)
        (want,) = naive.shapley_sampling(*arguments)[1]
        np.testing.assert_allclose(found.standard_error[i], want[0], rtol=1e-9)


@pytest.mark.parametrize("name", ["exact_shapley", "kernel_shap", "shapley_sampling", "shapley_sampling-plain"])
def test_efficiency(name: str) -> None:
    found = compiled(naive.TWINS[name][0](GROUPS)).explanation(X, target=TARGET, baseline=one_each(B))
    assert found.largest_gap < 1e-10
    np.testing.assert_allclose(found.outputs, model(X))
    np.testing.assert_allclose(found.baseline_outputs, model(B))
    ones = [int(np.flatnonzero(GROUPS.ravel() == group)[0]) for group in np.unique(GROUPS)]
    change = (model(X) - model(B))[range(4), TARGET]
    np.testing.assert_allclose(found.attributions.reshape(4, -1)[:, ones].sum(1), change)


def test_features_that_do_nothing_get_nothing() -> None:
    explain = Explainer.compile(lambda x: np.sin(x[:, 0] * x[:, 2]), methods.ShapleySampling(3), inputs=X[0])
    assert (explain(X[0], seed=1)[:, [1, 3]] == 0).all()


def test_one_feature_has_it_all() -> None:
    one = np.zeros((1, 1), int)
    for method in (methods.ShapleySampling(groups=one), methods.ExactShapley(one), methods.KernelShap(groups=one)):
        found = compiled(method).explanation(X, target=TARGET)
        np.testing.assert_allclose(found.attributions[:, 0, 0], (model(X) - model(0 * X))[range(4), TARGET])
        assert found.evaluations.tolist() == [2] * 4


# --- sampling ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "method",
    [
        methods.ShapleySampling(60, groups=GROUPS), methods.ShapleySampling(30, antithetic=False, groups=GROUPS),
        methods.KernelShap(44, groups=GROUPS), methods.KernelShap(44, paired=False, groups=GROUPS),
    ],
)  # fmt: skip
def test_standard_errors_are_calibrated(method: Any) -> None:
    """The 95 % interval covers the exact value in 90–99 % of 500 repeats."""
    exact = compiled(methods.ExactShapley(GROUPS))(X[:1], target=0)
    found = compiled(method).explanation(np.repeat(X[:1], 500, axis=0), target=0, seed=11)
    off = abs(found.attributions - exact) / found.standard_error
    assert off.max(axis=(1, 2)).min() < 4
    assert 0.90 <= (off < 1.96).mean() <= 0.99
    spread = found.attributions.std(axis=0)
    assert (abs(found.attributions.mean(axis=0) - exact[0]) < 5 * spread / 500**0.5).all()


def test_lime_and_rise_report_their_spread() -> None:
    many = np.repeat(X[:1], 400, axis=0)
    for method in (methods.Lime(60, groups=GROUPS), methods.Rise(40, grid=2)):
        found = compiled(method).explanation(many, target=0, seed=2)
        ratio = found.attributions.std(axis=0) / np.sqrt((found.standard_error**2).mean(axis=0))
        assert (abs(ratio - 1) < 0.25).all()


SAMPLED = [
    methods.ShapleySampling(3, groups=GROUPS), methods.KernelShap(40, groups=GROUPS), methods.Lime(20, groups=GROUPS),
    methods.Rise(12, grid=2),
]  # fmt: skip


@pytest.mark.parametrize("method", SAMPLED, ids=lambda m: m.name)
def test_draws_do_not_depend_on_batching_or_order(method: Any) -> None:
    """Each row that the model sees is bitwise the same at package sizes 1, 7 and 64, in any order of samples."""
    seen: list[np.ndarray] = []

    def recorded(x: np.ndarray) -> np.ndarray:
        seen.append(x.copy())
        return model(x)

    explain = Explainer.compile(recorded, method, inputs=X)
    rows, results = [], []
    seeds = np.array([5, 6, 7, 8])
    for order in ([0, 1, 2, 3], [2, 0, 3, 1]):
        for size in (1, 7, 64):
            seen.clear()
            result = explain(X[order], target=[TARGET[i] for i in order], seed=seeds[order], batch_size=size)
            results.append(result[np.argsort(order)])
            rows.append(np.unique(np.concatenate(seen), axis=0))
    for other in rows[1:]:
        np.testing.assert_array_equal(other, rows[0])
    for other in results[1:]:
        np.testing.assert_allclose(other, results[0], rtol=1e-9, atol=1e-12)


def test_tolerance_stops_samples_one_by_one() -> None:
    x = np.concatenate([X, np.zeros((1, 3, 4))])  # nothing to find out about the last
    target = [*TARGET, 0]
    method = methods.ShapleySampling(4, groups=GROUPS, tolerance=0.02)
    found = compiled(method, batch_size=16).explanation(x, target=target, seed=1)
    assert found.standard_error.max() <= 0.02
    assert found.evaluations[4] == 2 + 4 * 5
    assert len(set(found.evaluations.tolist())) > 1
    exact = compiled(methods.ExactShapley(GROUPS))(x, target=target)
    assert abs(found.attributions - exact).max() < 5 * 0.02
    for i in range(5):  # a sample that stops late draws what it draws alone
        alone = compiled(method).explanation(x[i : i + 1], target=target[i : i + 1], seed=[1], batch_size=3)
        again = compiled(method).explanation(x, target=target, seed=[1] * 5).attributions[i : i + 1]
        np.testing.assert_allclose(alone.attributions, again, rtol=1e-9, atol=1e-12)


def test_max_evaluations() -> None:
    bounded = methods.ShapleySampling(1000, groups=GROUPS, max_evaluations=50)
    found = compiled(bounded).explanation(X, target=TARGET)
    assert found.evaluations.tolist() == [2 + 4 * 10] * 4
    assert found.largest_gap < 1e-10
    strict = methods.ShapleySampling(2, groups=GROUPS, tolerance=1e-6, max_evaluations=300)
    with pytest.raises(errors.NotConverged, match=r"standard error of sample 0 of 4 is .* after 292 evaluations"):
        compiled(strict)(X, target=TARGET)
    with pytest.raises(errors.NotConverged, match="less than the 12 that a sample needs"):
        compiled(methods.ShapleySampling(groups=GROUPS, max_evaluations=5))(X, target=TARGET)


# --- targets, baselines, rows ------------------------------------------------------------------

EACH = [
    methods.FeatureAblation(GROUPS), methods.Occlusion(2), methods.ExactShapley(GROUPS),
    methods.ShapleySampling(5, groups=GROUPS), methods.KernelShap(44, groups=GROUPS), methods.Lime(20, groups=GROUPS),
]  # fmt: skip


@pytest.mark.parametrize("method", EACH, ids=lambda m: m.name)
@pytest.mark.parametrize("size", [1, 5, 64])
def test_references_are_averaged(method: Any, size: int) -> None:
    """The marginal expectation: s of a row is its mean over the references."""
    references = RNG.normal(size=(3, 3, 4))
    explain = compiled(method, batch_size=size)
    found = explain.explanation(X, target=TARGET, baseline=References(references), seed=2)
    each = [explain(X, target=TARGET, baseline=reference, seed=2) for reference in references]
    np.testing.assert_allclose(found.attributions, np.mean(each, axis=0), rtol=1e-8, atol=1e-12)
    rows = explain.explanation(X, target=TARGET, seed=2).evaluations
    assert found.evaluations.tolist() == (1 + (rows - 1) * 3).tolist()
    if method.complete:
        np.testing.assert_allclose(found.baseline_outputs, np.broadcast_to(model(references).mean(0), (4, 3)))


@pytest.mark.parametrize("method", EACH, ids=lambda m: m.name)
def test_all_outputs_from_the_same_evaluations(method: Any) -> None:
    calls: list[int] = []

    def counted(x: np.ndarray) -> np.ndarray:
        calls.append(len(x))
        return model(x)

    explain = Explainer.compile(counted, method, inputs=X, batch_size=16)
    calls.clear()
    everything = explain(X, target="all", baseline=one_each(B))
    assert sum(calls) == 4 * explain.explanation(X, target=0, baseline=one_each(B)).evaluations[0]
    for output in range(3):
        np.testing.assert_allclose(everything[output], explain(X, target=output, baseline=one_each(B)), rtol=1e-9)


@pytest.mark.parametrize("method", [*EACH, methods.Rise(9, 2)], ids=lambda m: m.name)
def test_the_largest_output(method: Any) -> None:
    explain = compiled(method, batch_size=6)
    b = B if method.baseline == "point" else one_each(B)
    found = explain.explanation(X, target="max", baseline=b)
    best = model(X).argmax(1).tolist()
    again = explain.explanation(X, target=best, baseline=b)
    np.testing.assert_allclose(found.attributions, again.attributions, rtol=1e-9, atol=1e-12)
    assert found.evaluations.tolist() == again.evaluations.tolist()  # the endpoint is evaluated once
    np.testing.assert_array_equal(found.target.argmax(1), best)


# --- peers -------------------------------------------------------------------------------------


def torch_net() -> Any:
    torch = pytest.importorskip("torch")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        net = torch.nn.Sequential(
            torch.nn.Conv2d(2, 3, 3, padding=1), torch.nn.ReLU(), torch.nn.Flatten(), torch.nn.Linear(3 * 30, 4)
        )
    return net.double().eval()


def test_agrees_with_captum() -> None:
    torch = pytest.importorskip("torch")
    attr = pytest.importorskip("captum.attr")
    net = torch_net()
    generator = torch.Generator().manual_seed(0)
    x, b = torch.randn(2, 3, 2, 5, 6, dtype=torch.float64, generator=generator)
    groups = torch.arange(6).reshape(1, 2, 3).repeat_interleave(3, 1)[:, :5].repeat_interleave(2, 2)

    def ours(method: Any) -> Any:
        return Explainer.compile(net, method, inputs=x)(x, target=2, baseline=one_each(b))

    window, stride = (2, 3, 2), (1, 2, 2)
    occlusion = attr.Occlusion(net).attribute(
        x, sliding_window_shapes=window, strides=stride, baselines=b, target=2, perturbations_per_eval=4
    )
    torch.testing.assert_close(ours(methods.Occlusion(window, stride)), occlusion.double(), rtol=1e-5, atol=1e-6)
    ablation = attr.FeatureAblation(net).attribute(x, baselines=b, target=2, feature_mask=groups)
    torch.testing.assert_close(ours(methods.FeatureAblation(groups.numpy())), ablation.double(), rtol=1e-5, atol=1e-6)
    exact = attr.ShapleyValues(net).attribute(x, baselines=b, target=2, feature_mask=groups)
    torch.testing.assert_close(ours(methods.ExactShapley(groups.numpy())), exact.double(), rtol=1e-5, atol=1e-6)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        sampler = attr.ShapleyValueSampling(net)
        sampled = sampler.attribute(x, baselines=b, target=2, feature_mask=groups, n_samples=400)
    found = Explainer.compile(net, methods.ShapleySampling(400, antithetic=False, groups=groups.numpy()), inputs=x)
    mine = found.explanation(x, target=2, baseline=one_each(b))
    assert (abs(mine.attributions - sampled) < 6 * torch.as_tensor(mine.standard_error) + 1e-9).all()


def test_agrees_with_shap() -> None:
    shap = pytest.importorskip("shap")
    background = RNG.normal(size=(5, 6))
    x = RNG.normal(size=(2, 6))

    def net(rows: np.ndarray) -> np.ndarray:
        return np.tanh(rows @ FIRST[:6]) @ SECOND[:, 0]

    exact = shap.explainers.Exact(net, shap.maskers.Independent(background, max_samples=5))(x).values
    kernel = shap.KernelExplainer(net, background).shap_values(x, nsamples=2**6, silent=True)
    for method in (methods.ExactShapley(), methods.KernelShap()):
        ours = Explainer.compile(net, method, inputs=x, baseline=References(background))(x)
        np.testing.assert_allclose(ours, exact, rtol=1e-5, atol=1e-8)
        np.testing.assert_allclose(ours, kernel, rtol=1e-5, atol=1e-6)


# --- bad input -----------------------------------------------------------------------------------


def total(x: np.ndarray) -> np.ndarray:
    return x.reshape(len(x), -1).sum(axis=1)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: compiled(methods.Occlusion((4, 4))), r"window \(4, 4\) is larger than a sample, \(3, 4\)"),
        (lambda: compiled(methods.Occlusion(5)), "window 5 is larger than every axis"),
        (lambda: compiled(methods.Occlusion((2, 2, 2))), "has 3 sizes"),
        (lambda: compiled(methods.Occlusion(2, stride=(1, 3))), "leave gaps"),
        (lambda: methods.Occlusion(2, stride=0), "stride must hold whole numbers ≥ 1"),
        (lambda: methods.Occlusion(2, stride=-1), "stride must hold whole numbers ≥ 1"),
        (lambda: methods.Occlusion(1.5), "window must hold whole numbers"),
        (lambda: methods.Occlusion(aggregate="max"), "aggregate must be one of"),
        (lambda: compiled(methods.FeatureAblation(np.zeros((2, 4), int))), "do not broadcast"),
        (lambda: compiled(methods.ShapleySampling(groups=np.zeros((3, 4)))), "integer feature ids"),
        (lambda: compiled(methods.ShapleySampling(groups=(GROUPS, GROUPS))), "2 group maps for 1"),
        (lambda: Explainer.compile(total, "exact_shapley")(np.zeros((1, 3, 7))), "2^21 evaluations"),
        (
            lambda: Explainer.compile(total, methods.ExactShapley(np.arange(21)), inputs=np.zeros((1, 21))),
            "2^21 evaluations",
        ),
        (lambda: methods.ShapleySampling(0), "permutations must be a whole number ≥ 1"),
        (lambda: methods.ShapleySampling(tolerance=0), "tolerance must be above 0"),
        (lambda: compiled(methods.KernelShap(4))(X, target=0), "too few for 12 features"),
        (lambda: compiled(methods.KernelShap(4, groups=np.arange(12).reshape(3, 4))), "too few for 12 features"),
        (lambda: methods.Lime(kernel_width=0), "kernel_width"),
        (lambda: methods.Rise(probability=1), "probability"),
        (lambda: compiled(methods.Rise(axes=(0, 5))), "do not all exist"),
        (lambda: compiled(methods.ISM())(X, target=0), "one-hot"),
        (lambda: Explainer.compile(total, "ism", inputs=np.zeros((1, 3, 3))), "alphabet_axis"),
        (lambda: Explainer.compile(total, "ism", inputs=np.zeros((1, 3))), "samples that are one-hot sequences"),
        (lambda: compiled("rise")(X, target="all"), "not possible"),
    ],
)
def test_bad_input(make: Callable[[], Any], message: str) -> None:
    with pytest.raises(errors.InputError, match=message.replace("^", r"\^")):
        make()


def test_rise_has_one_baseline_for_each_sample() -> None:
    with pytest.raises(errors.BaselineError, match="method 'rise' takes one baseline for each sample, not References"):
        compiled("rise", baseline=References(B))(X, target=0)


def test_a_callable_that_returns_the_wrong_number_of_rows() -> None:
    with pytest.raises(errors.ExplainersError, match=r"rows|samples"):
        Explainer.compile(lambda x: x.sum(1)[:1], methods.Occlusion(), inputs=X[0])(X[0])


def test_nan_from_the_model_names_the_sample() -> None:
    explain = Explainer.compile(lambda x: np.where(x[:, 0] == 9, np.nan, x[:, 0]), methods.Occlusion(), inputs=X[0])
    x = X[0].copy()
    x[1, 0] = 9
    with pytest.raises(errors.NonFiniteError, match="perturbations"):
        explain(x)


def test_a_model_that_writes_to_its_input_does_no_harm() -> None:
    def writes(x: np.ndarray) -> np.ndarray:
        x *= 2
        return x.sum(axis=1)

    x = X[0].copy()
    for method in (methods.Occlusion(), methods.ShapleySampling(2), methods.FeatureAblation()):
        got = Explainer.compile(writes, method, inputs=x)(x)
        np.testing.assert_array_equal(x, X[0])
        np.testing.assert_allclose(got, 2 * x)


# --- memory ------------------------------------------------------------------------------------


def test_memory_is_flat_in_samples_and_steps() -> None:
    """10 and 10,000 samples, 2 and 200 permutations: what is held beyond inputs and outputs stays the same."""
    weights = RNG.normal(size=(16, 1))

    def peak(samples: int, permutations: int) -> float:
        x = np.ones((samples, 16))
        explain = Explainer.compile(
            lambda rows: np.tanh(rows @ weights)[:, 0], methods.ShapleySampling(permutations), inputs=x, batch_size=256
        )
        explain(x[:1])
        tracemalloc.start()
        try:
            explain(x)
            return tracemalloc.get_traced_memory()[1] - 3 * x.nbytes
        finally:
            tracemalloc.stop()

    small = peak(10, 2)
    assert peak(10_000, 2) - small < 5e6
    assert peak(10, 2000) - small < 5e6


def test_warming_up_needs_no_real_samples() -> None:
    """Zeros are no one-hot sequences, and a user's generator must not be given them."""
    net = torch_net()
    shape = (2, 5, 6)

    def never(x: Any, attribution: Any) -> Any:
        raise AssertionError("called")

    for method in (methods.Perturbation(never, never), methods.ShapleySampling(2), methods.Occlusion(2)):
        Explainer.compile(net, method, inputs=np.zeros((1, *shape))).warmup([1, 3])
    torch = pytest.importorskip("torch")
    Explainer.compile(torch.nn.Flatten(), methods.ISM(), inputs=np.zeros((1, 4, 6))).warmup(2)

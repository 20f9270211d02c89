"""The nine invariants of DESIGN.md, for every method × backend. Each test is named after its number."""

from __future__ import annotations

import gc
import math
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest

from explainers import Explainer, References, errors, methods

from .state import fingerprint, hook_count, operation_count
from .subjects import (
    CASE_NAMES,
    ENGINES,
    METHODS,
    ONE_OF_EACH,
    QUADRATURES,
    SMALLEST,
    Subject,
    assert_close,
    methods_of,
    subject,
)

EVERY = [
    pytest.param(
        SMALLEST[backend], method, id=f"{backend}-{method}",
        marks=[] if method in (*ONE_OF_EACH, "deeplift-revealcancel") else [pytest.mark.slow],  # other variants
    )
    for backend in CASE_NAMES
    for method in methods_of(backend)
]  # fmt: skip
LARGER = {
    "torch-tokens": (),
    "tensorflow-functional": (),
    "torch-residual": (pytest.mark.slow,),
    "tensorflow-tokens": (pytest.mark.slow,),
}
SEVERAL = EVERY + [
    pytest.param(label, method, id=f"{label}-{method}", marks=marks)
    for label, marks in LARGER.items()
    for method in ONE_OF_EACH
]
BATCH = {"float64": 1e-10, "float32": 1e-5}


def call(found: Subject, explain: Explainer, method: str, arrays: list, seed: Any = 3, **options: Any) -> list:
    """One call with targets, baselines and seed that depend on ``seed`` alone."""
    x = found.reference.points(arrays)
    generator = np.random.default_rng(seed if isinstance(seed, int) else 0)
    target = [int(t) for t in generator.integers(0, 2, len(arrays[0]))]
    given, _ = found.baselines(method, x, seed=5)
    options = {"target": target, "baseline": given, "seed": seed, **options}
    return found.case.explain(explain, arrays, **options)


def random_call(found: Subject, explain: Explainer, method: str, generator: np.random.Generator, top: int = 20) -> list:
    """A call with everything random: batch size, inputs, targets, baselines, seed, package size."""
    count = int(generator.integers(1, top))
    seed = int(generator.integers(2**31))
    arrays = found.case.draw(count, found.dtype, seed)
    return call(found, explain, method, arrays, seed)


# --- 1. traced once --------------------------------------------------------------------------


@pytest.mark.parametrize(("label", "method"), SEVERAL)
def test_1_traced_once(label: str, method: str) -> None:
    found = subject(label, "float32")
    explain = found.compile(method)
    first = explain.stats.traces
    rules = METHODS[method].rule_set
    compares = rules is not None and rules.contrast
    assert (
        1 <= first <= 2 + compares
    )  # the program; with a layer, what computes its output; the reference's activations
    generator = np.random.default_rng(0)
    for _ in range(12):
        random_call(found, explain, method, generator)
    assert explain.stats.traces == first
    assert explain.stats.calls == 12


@pytest.mark.parametrize(("backend", "engine"), [("torch", "inductor"), ("tensorflow", "xla")])
def test_1_static_engines_trace_once_for_each_power_of_two(backend: str, engine: str) -> None:
    found = subject(SMALLEST[backend], "float32")
    explain = found.compile("gradient", engine=engine, batch_size=8)
    generator = np.random.default_rng(1)
    for _ in range(30):
        random_call(found, explain, "gradient", generator, top=30)
    assert explain.stats.traces <= math.log2(8) + 1
    before = explain.stats.traces
    for _ in range(30):
        random_call(found, explain, "gradient", generator, top=30)
    assert explain.stats.traces == before
    assert explain.stats.padded_rows > 0


# --- 2. no growth ----------------------------------------------------------------------------


@pytest.mark.parametrize(("label", "method"), EVERY)
def test_2_no_growth(label: str, method: str) -> None:
    found = subject(label, "float32")
    explain = found.compile(method)
    generator = np.random.default_rng(2)
    for _ in range(5):
        random_call(found, explain, method, generator, top=9)
    before = sizes(found, explain)
    for _ in range(1000):
        random_call(found, explain, method, generator, top=9)
    assert sizes(found, explain) == before


def sizes(found: Subject, explain: Explainer) -> dict[str, int]:
    """What must not grow: operations, hooks, traces, kernels, and containers that the explainer holds."""
    backend = found.case.backend
    gc.collect()
    return {
        "operations": operation_count(backend, explain.native),
        "hooks": hook_count(found.model) if backend == "torch" else 0,
        "traces": explain.stats.traces,
        "shapes": len(explain.stats.compiled_shapes),
        "held": held(explain),
    }


def held(explain: Explainer) -> int:
    """Entries of all containers reachable from the explainer through the library's own objects."""
    seen: set[int] = set()
    total = 0
    stack: list[Any] = [explain]
    while stack:
        thing = stack.pop()
        if id(thing) in seen:
            continue
        seen.add(id(thing))
        if isinstance(thing, (dict, list, tuple, set)):
            total += len(thing)
            stack += [*thing.keys(), *thing.values()] if isinstance(thing, dict) else list(thing)
        elif type(thing).__module__.partition(".")[0].startswith("explainers"):
            stack += list(vars(thing).values()) if hasattr(thing, "__dict__") else []
    return total


def test_2_control_growth_is_seen() -> None:
    """The measure counts what an explainer holds: one more entry is one more."""
    found = subject("numpy-mlp", "float32")
    explain = found.compile("feature_ablation")
    before = held(explain)
    explain.stats.compiled_shapes.append("one more")
    assert held(explain) == before + 1


# --- 3. batch invariance ---------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize(("label", "method"), SEVERAL)
def test_3_batch_invariance(label: str, method: str, dtype: str) -> None:
    found = subject(label, dtype)
    explain = found.compile(method)
    check_batch_invariance(found, explain, method)


@pytest.mark.parametrize(("backend", "engine"), [("torch", "inductor"), ("tensorflow", "xla")])
@pytest.mark.parametrize("method", ["gradient", "integrated_gradients-right", "gradient_shap"])
def test_3_batch_invariance_with_padding(backend: str, engine: str, method: str) -> None:
    found = subject(SMALLEST[backend], "float32")
    explain = found.compile(method, engine=engine, batch_size=4)
    check_batch_invariance(found, explain, method, sizes=(1, 3))
    assert explain.stats.padded_rows > 0


def check_batch_invariance(found: Subject, explain: Explainer, method: str, sizes: tuple = (1, 2, 5, 64)) -> None:
    """Each row alone, and in every package size, as it is in the batch of seven."""
    count = 7
    arrays = found.case.draw(count, found.dtype, seed=4)
    seeds = [100 + i for i in range(count)]
    target = [i % 2 for i in range(count)]
    x = found.reference.points(arrays)
    given, baselines = found.baselines(method, x)
    options = {"target": target, "baseline": given, "seed": seeds}
    whole = found.case.explain(explain, arrays, **options)
    for size in sizes:
        again = found.case.explain(explain, arrays, **options, batch_size=size)
        assert_close(again, whole, BATCH[found.dtype])
    for i in range(count):
        one = [a[i : i + 1] for a in arrays]
        own = given if given is None or METHODS[method].baseline == "references" else _own(baselines, i)
        alone = found.case.explain(explain, one, target=target[i], baseline=own, seed=[seeds[i]])
        assert_close(alone, [w[i : i + 1] for w in whole], BATCH[found.dtype])


def _own(baselines: list, i: int) -> Any:
    rows = tuple(b[i : i + 1] for b in baselines)
    return rows if len(rows) > 1 else rows[0]


@pytest.mark.parametrize("label", ["torch-residual", "tensorflow-functional"])
def test_3_neighbours_do_not_matter(label: str) -> None:
    """Other samples beside it, even wild ones: the same attribution."""
    found = subject(label, "float64")
    explain = found.compile("integrated_gradients-midpoint", batch_size=8)
    (x,) = found.case.draw(3, "float64", seed=8)
    wild = np.concatenate([x[:1], x[1:] * 1e3])
    calm = explain(x, target=1)[:1]
    assert_close([explain(wild, target=1)[:1]], [calm], 1e-10)


# --- 4. the model is untouched ---------------------------------------------------------------


@pytest.mark.parametrize("engine", ["first", "eager"])
@pytest.mark.parametrize(("label", "method"), SEVERAL)
def test_4_model_untouched(label: str, method: str, engine: str) -> None:
    found = subject(label, "float32")
    backend = found.case.backend
    if engine == "eager" and found.case.wrt is not None and METHODS[method].rule_set is None:
        pytest.skip("the model is called as it is, and its layers cannot be seen")
    before = fingerprint(backend, found.model)
    explain = found.compile(method, engine=ENGINES[backend][0] if engine == "first" else "eager")
    arrays = found.case.draw(3, "float32")
    call(found, explain, method, arrays)
    assert fingerprint(backend, found.model) == before
    with pytest.raises(errors.TargetError):
        call(found, explain, method, arrays, target=99)
    assert fingerprint(backend, found.model) == before


@pytest.mark.parametrize("label", ["torch-bert", "torch-lstm", "torch-mixture", "tensorflow-attention"])
def test_4_larger_models_untouched(label: str) -> None:
    found = subject(label, "float32")
    before = fingerprint(found.case.backend, found.model)
    explain = found.compile("integrated_gradients-left")
    call(found, explain, "integrated_gradients-left", found.case.draw(2, "float32"))
    assert fingerprint(found.case.backend, found.model) == before


@pytest.mark.parametrize("training", [True, False])
def test_4_mode_does_not_matter_and_stays(training: bool) -> None:
    from .models_torch import Residual, seeded

    model = seeded(Residual)("float64").train(training)
    model.conv.train(not training)  # a mixed mode has to come back too
    x = np.random.default_rng(0).normal(size=(3, 2, 5, 5))
    got = Explainer.compile(model, "gradient", inputs=x)(x, target=1)
    assert model.training is training
    assert model.conv.training is not training
    want = Explainer.compile(seeded(Residual)("float64").eval(), "gradient", inputs=x)(x, target=1)
    assert_close([got], [want], 1e-12)


def test_4_refresh_takes_new_weights_without_a_trace() -> None:
    import torch

    from .models_torch import MLP, seeded

    model = seeded(MLP)("float64")
    x = np.random.default_rng(0).normal(size=(3, 5))
    explain = Explainer.compile(model, "gradient", inputs=x)
    explain(x, target=0)
    with torch.no_grad():
        model.layers[0].weight = torch.nn.Parameter(model.layers[0].weight * 2)
        model.layers[2].bias += 1
    explain.refresh()
    want = Explainer.compile(model, "gradient", inputs=x)(x, target=0)
    assert explain.stats.traces == 1
    assert_close([explain(x, target=0)], [want], 1e-12)


# --- 5. re-entrant ---------------------------------------------------------------------------


@pytest.mark.parametrize(("label", "method"), EVERY)
def test_5_threads_get_what_one_thread_gets(label: str, method: str) -> None:
    """8 threads × 100 calls (over 20 different ones) on one explainer."""
    found = subject(label, "float32")
    explain = found.compile(method)
    check_threads(found, explain, method, each=100)


@pytest.mark.parametrize(("backend", "engine"), [(b, e) for b in ("torch", "tensorflow") for e in ENGINES[b][1:]])
def test_5_threads_on_other_engines(backend: str, engine: str) -> None:
    found = subject(SMALLEST[backend], "float32")
    explain = found.compile("integrated_gradients-midpoint", engine=engine, batch_size=16)
    check_threads(found, explain, "integrated_gradients-midpoint", each=25)


def check_threads(found: Subject, explain: Explainer, method: str, each: int) -> None:
    jobs = [(found.case.draw(1 + i % 5, found.dtype, seed=i), i) for i in range(20)]
    serial = [call(found, explain, method, arrays, seed) for arrays, seed in jobs]
    ready = threading.Barrier(8)

    def work(thread: int) -> list[int]:
        ready.wait()
        wrong = []
        for n in range(each):
            i = (n * 7 + thread) % len(jobs)
            got = call(found, explain, method, *jobs[i])
            wrong += [i] if any(not np.array_equal(g, w) for g, w in zip(got, serial[i], strict=True)) else []
        return wrong

    calls = explain.stats.calls
    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(work, range(8))) == [[]] * 8
    assert explain.stats.calls == calls + 8 * each


def test_5_first_calls_from_many_threads_trace_once() -> None:
    found = subject("torch-mlp", "float32")
    explain = Explainer.compile(found.model, "gradient")  # traced at the first call
    arrays = found.case.draw(3, "float32")
    with ThreadPoolExecutor(8) as pool:
        results = list(pool.map(lambda _: explain(*arrays, target=1), range(8)))
    assert explain.stats.traces == 1
    assert all(np.array_equal(r, results[0]) for r in results)


# --- 6. seeded -------------------------------------------------------------------------------

SAMPLED = [p for p in EVERY if METHODS[p.values[1]].sampled]


@pytest.mark.parametrize(("label", "method"), SAMPLED)
def test_6_seeded(label: str, method: str) -> None:
    found = subject(label, "float64")
    arrays = found.case.draw(6, "float64")
    explain = found.compile(method)
    first = call(found, explain, method, arrays, 3, target=1)
    again = found.compile(method, batch_size=5)
    assert_close(call(found, again, method, arrays, 3, target=1), first, 1e-10)
    other = call(found, explain, method, arrays, 4, target=1)
    assert abs(other[0] - first[0]).max() > 1e-6


@pytest.mark.parametrize("label", ["torch-two_inputs", "tensorflow-two_inputs"])
@pytest.mark.parametrize("method", [name for name in METHODS if METHODS[name].sampled])
def test_6_samples_draw_independently(label: str, method: str) -> None:
    """The same sample six times under one seed: six different draws. With seeds of its own, by its seed."""
    found = subject(label, "float64")
    arrays = [np.repeat(a, 6, axis=0) for a in found.case.draw(1, "float64")]
    explain = found.compile(method)
    x = found.reference.points(arrays)
    references = References(tuple(np.random.default_rng(0).normal(size=(11, *a.shape[1:])) for a in x))
    baseline = references if METHODS[method].baseline == "references" else None
    shared, _ = found.case.explain(explain, arrays, target=1, seed=0, baseline=baseline)
    assert len(np.unique(shared.round(12), axis=0)) == 6
    own, _ = found.case.explain(explain, arrays, target=1, seed=[1, 2, 3, 3, 2, 1], baseline=baseline)
    assert_close([own[::-1]], [own], 1e-10)
    assert abs(own[0] - own[1]).max() > 1e-6


@pytest.mark.parametrize(("label", "method"), SAMPLED)
def test_6_order_does_not_matter(label: str, method: str) -> None:
    found = subject(label, "float64")
    arrays = found.case.draw(6, "float64")
    explain = found.compile(method, batch_size=4)
    order = np.array([4, 0, 5, 2, 1, 3])
    seeds = np.arange(6) + 50
    given, _ = found.baselines(method, found.reference.points(arrays))
    shared = given if METHODS[method].baseline in ("references", "none") else 0.5
    straight = call(found, explain, method, arrays, seeds.tolist(), target=1, baseline=shared)
    mixed = call(found, explain, method, [a[order] for a in arrays], seeds[order].tolist(), target=1, baseline=shared)
    assert_close(mixed, [s[order] for s in straight], 1e-10)


# --- 7. complete -----------------------------------------------------------------------------


@pytest.mark.parametrize("label", ["torch-mixture", "torch-bert", "torch-lstm", "tensorflow-attention"])
def test_7_complete_on_smooth_models(label: str) -> None:
    found = subject(label, "float64")
    method = methods.IntegratedGradients(steps=64)
    arrays = found.case.draw(3, "float64")
    explain = Explainer.compile(found.model, method, inputs=found.case.given(arrays), **found.case.options())
    x = found.reference.points(arrays)
    baseline, b = found.baselines("integrated_gradients-left", x)  # not 0, where LayerNorm is steep
    result = explain.explanation(found.case.given(arrays), target=1, baseline=baseline)
    assert result.largest_gap < 1e-4
    high = found.reference.output(x, arrays)[:, 1]
    low = found.reference.output(b, arrays)[:, 1]
    parts = result.attributions if isinstance(result.attributions, tuple) else (result.attributions,)
    total = sum(p.reshape(3, -1).sum(1) for p in parts)
    assert abs(total - (high - low)).max() < 1e-4 * abs(high - low).max()
    np.testing.assert_allclose(result.completeness_gap, total - (high - low), atol=1e-9)


@pytest.mark.parametrize("steps", [1, 2, 5])
def test_7_exact_on_linear_models(steps: int) -> None:
    import torch

    torch.manual_seed(0)
    model = torch.nn.Linear(4, 3).double()
    x, b = np.random.default_rng(0).normal(size=(2, 5, 4))
    for quadrature in QUADRATURES:
        if quadrature == "trapezoid" and steps == 1:
            continue  # has two ends
        method = methods.IntegratedGradients(steps=steps, quadrature=quadrature)
        result = Explainer.compile(model, method, inputs=x).explanation(x, target=2, baseline=b)
        want = (x - b) * model.weight[2].detach().numpy()
        np.testing.assert_allclose(result.attributions, want, rtol=1e-12)
        assert abs(result.completeness_gap).max() < 1e-12


@pytest.mark.parametrize("label", ["torch-mixture", "tensorflow-attention"])
def test_7_tolerance_is_reached_by_each_sample(label: str) -> None:
    found = subject(label, "float64")
    (x,) = arrays = found.case.draw(6, "float64")
    x *= np.array([0.01, 0.1, 1, 3, 6, 10])[:, None, None]
    method = methods.IntegratedGradients(steps=2, tolerance=1e-3)
    explain = Explainer.compile(found.model, method, inputs=x, batch_size=7)
    result = explain.explanation(*arrays, target=1)
    change = (result.outputs - result.baseline_outputs)[:, 1]
    assert (abs(result.completeness_gap) <= 1e-3 * abs(change) + 1e-12).all()
    assert result.evaluations.min() < result.evaluations.max()  # the finished left the packages


# --- 8. nothing silent -----------------------------------------------------------------------


@pytest.mark.parametrize(("label", "method"), EVERY)
@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_8_nonfinite_inputs_raise(label: str, method: str, bad: float) -> None:
    found = subject(label, "float32")
    explain = found.compile(method)
    arrays = found.case.draw(4, "float32")
    arrays[0][2, 1] = bad
    kind = "NaN" if np.isnan(bad) else "infinity"
    with pytest.raises(errors.NonFiniteError, match=rf"input '\w+': {kind} in sample 2 of 4.*allow_nonfinite=True"):
        call(found, explain, method, arrays)
    with np.errstate(invalid="ignore"):  # of the numpy model itself
        call(found, explain, method, arrays, allow_nonfinite=True)


@pytest.mark.parametrize("backend", ["torch", "numpy"])
def test_8_nonfinite_results_raise(backend: str) -> None:
    """The input is fine, the model is not: a square root's derivative at 0, a logarithm of 0."""
    if backend == "torch":
        import torch

        class Root(torch.nn.Module):
            def forward(self, x: torch.Tensor) -> torch.Tensor:
                return x.sqrt().sum(-1)

        explain = Explainer.compile(Root(), "gradient")
    else:

        def logarithm(x: np.ndarray) -> np.ndarray:
            with np.errstate(divide="ignore"):
                return np.log(x).sum(-1)

        explain = Explainer.compile(logarithm, "feature_ablation")
    x = np.ones((3, 2), np.float32)
    if backend == "torch":
        x[1, 0] = 0
    with pytest.raises(errors.NonFiniteError, match=r"infinity in|not finite"):
        explain(x)
    explain(x, allow_nonfinite=True)


def test_8_not_converged_raises() -> None:
    found = subject("torch-cnn", "float64")
    (x,) = found.case.draw(2, "float64")
    method = methods.IntegratedGradients(steps=2, tolerance=1e-12, max_steps=8)
    explain = Explainer.compile(found.model, method, inputs=x)
    with pytest.raises(errors.NotConverged, match=r"sample 0 of 2 is off by .* after 8 steps; tolerance=1e-12"):
        explain(x, target=1)

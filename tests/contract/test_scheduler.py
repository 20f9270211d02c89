"""Calls that share packages: the results of each are those that it gets alone."""

from __future__ import annotations

import itertools
import threading
import time
from concurrent.futures import CancelledError
from typing import Any

import numpy as np
import pytest

from explainers import Explainer, References, Scheduler, errors, methods

from .subjects import CASE_NAMES, METHODS, ONE_OF_EACH, SMALLEST, Subject, methods_of, subject

SLOW = pytest.mark.slow
EVERY = [
    pytest.param(SMALLEST[backend], method, id=f"{backend}-{method}")
    for backend in CASE_NAMES
    for method in methods_of(backend, ONE_OF_EACH)
]
LARGER = [
    pytest.param(label, method, id=f"{label}-{method}", marks=SLOW)
    for label in ("torch-two_inputs", "torch-tokens", "torch-bert", "tensorflow-functional", "tensorflow-tokens")
    for method in ONE_OF_EACH
]
STATIC = [
    pytest.param(SMALLEST[backend], method, id=f"{backend}-{engine}-{method}", marks=SLOW)
    for backend, engine in (("torch", "inductor"), ("tensorflow", "xla"))
    for method in ("saliency", "integrated_gradients-gauss_legendre", "deeplift_shap", "occlusion-mean")
]
KERNEL = [("kernel_shap", methods.KernelShap(40)), ("lime", methods.Lime(40)), ("rise", methods.Rise(40, grid=2))]


class Mixed:
    """Calls of different sizes, targets, baselines, seeds and efforts of one explainer."""

    def __init__(self, found: Subject, explain: Explainer, count: int = 14) -> None:
        self.calls: list[tuple[Explainer, list[Any], dict[str, Any]]] = []
        generator = np.random.default_rng(0)
        for i in range(count):
            arrays = found.case.draw(int(generator.integers(1, 5)), found.dtype, i)
            options: dict[str, Any] = {"target": "max" if i % 3 == 1 else self._targets(found, arrays)}
            if explain.method.baseline != "none":
                options["baseline"] = self._baseline(found, explain, arrays, i)
            if explain.method.sampled:
                options["seed"] = i
            self.calls.append((self._other_effort(explain, i), arrays, options))

    @staticmethod
    def _targets(found: Subject, arrays: list[Any]) -> Any:
        x = found.reference.points(arrays)
        return found.target(found.reference.output(x, arrays))

    @staticmethod
    def _baseline(found: Subject, explain: Explainer, arrays: list[Any], i: int) -> Any:
        """The default, one for all samples, or one for each; or references of several numbers."""
        x = found.reference.points(arrays)
        generator = np.random.default_rng(i)
        count = 1 + i % 3 if explain.method.baseline == "references" else len(x[0]) if i % 4 == 2 else 1
        parts = [generator.normal(size=(count, *a.shape[1:])).astype(a.dtype) for a in x]
        if explain.method.baseline == "references":
            if i % 2:
                return None
            return References(tuple(parts) if len(parts) > 1 else parts[0])
        if i % 4 == 0:
            return None
        if i % 4 == 2 and explain.method.baseline == "either":
            sets = [part[:, None] for part in parts]
            return References(tuple(sets) if len(sets) > 1 else sets[0], per_sample=True)
        parts = parts if i % 4 == 2 else [part[0] for part in parts]
        return tuple(parts) if len(parts) > 1 else parts[0]

    @staticmethod
    def _other_effort(explain: Explainer, i: int) -> Explainer:
        for name, values in (("steps", (3, 9, 30)), ("permutations", (2, 4, 10)), ("samples", (20, 31, 44))):
            if name in explain.method.effort and i % 2:
                return explain.replace(**{name: values[i % 3]})
        return explain

    def alone(self) -> list[Any]:
        return [explain.explanation(*arrays, **options) for explain, arrays, options in self.calls]

    def together(self, **settings: Any) -> tuple[list[Any], Scheduler]:
        with Scheduler(max_wait=0.02, **settings) as scheduler:
            futures = [scheduler.submit(explain, *arrays, **options) for explain, arrays, options in self.calls]
            return [future.result(120) for future in futures], scheduler


def default_references(found: Subject, method: str) -> dict[str, Any]:
    if METHODS[method].baseline != "references":
        return {}
    return {"baseline": found.baselines(method, found.reference.points(found.case.draw(3, found.dtype)))[0]}


def assert_same(got: list[Any], wanted: list[Any], tolerance: float) -> None:
    def flat(value: Any) -> list[np.ndarray]:
        return [np.asarray(part) for part in (value if isinstance(value, tuple) else (value,))]

    for one, other in zip(got, wanted, strict=True):
        for a, b in zip(flat(one.attributions), flat(other.attributions), strict=True):
            assert a.dtype == b.dtype
            np.testing.assert_allclose(a, b, rtol=0, atol=tolerance * max(1e-6, float(np.abs(b).max(initial=0))))
        np.testing.assert_allclose(one.outputs, other.outputs, rtol=tolerance, atol=tolerance)
        np.testing.assert_array_equal(one.evaluations, other.evaluations)
        np.testing.assert_array_equal(one.target, other.target)
        assert (one.standard_error is None) == (other.standard_error is None)


@pytest.mark.parametrize(("label", "method"), EVERY + LARGER)
def test_each_call_gets_what_it_gets_alone(label: str, method: str) -> None:
    found = subject(label, "float64")
    explain = found.compile(method, **default_references(found, method))
    mixed = Mixed(found, explain)
    wanted = mixed.alone()
    traces = explain.stats.traces
    got, scheduler = mixed.together()
    assert_same(got, wanted, 1e-9)
    assert explain.stats.traces == traces
    assert scheduler.stats.waiting_rows == scheduler.stats.waiting_calls == 0
    got, one_by_one = mixed.together(batching=False)
    assert_same(got, wanted, 1e-9)
    assert scheduler.stats.packages < one_by_one.stats.packages


@pytest.mark.parametrize(("label", "method"), STATIC)
def test_static_engines(label: str, method: str) -> None:
    found = subject(label, "float64")
    engine = {"torch": "inductor", "tensorflow": "xla"}[found.case.backend]
    explain = found.compile(method, engine=engine, batch_size=16)
    mixed = Mixed(found, explain, 6)
    got, _ = mixed.together()
    assert_same(got, mixed.alone(), 1e-9)


@pytest.mark.parametrize(("name", "method"), KERNEL, ids=[name for name, _ in KERNEL])
@pytest.mark.parametrize("backend", CASE_NAMES)
def test_methods_of_many_evaluations(backend: str, name: str, method: Any) -> None:
    found = subject(SMALLEST[backend], "float64")
    inputs = found.case.given(found.case.draw(2, "float64"))
    explain = Explainer.compile(found.model, method, inputs=inputs, **found.case.options())
    mixed = Mixed(found, explain, 8)
    got, scheduler = mixed.together()
    assert_same(got, mixed.alone(), 1e-9)
    assert scheduler.stats.rows > 0


# --- packages --------------------------------------------------------------------------------


def simple(method: Any = "saliency", **options: Any) -> tuple[Explainer, np.ndarray]:
    weights = np.linspace(-1, 1, 12).reshape(4, 3)
    explain = Explainer.compile(lambda x: np.tanh(x @ weights), method, inputs=np.zeros((1, 4)), **options)
    return explain, np.random.default_rng(0).normal(size=(6, 4))


def held(scheduler: Scheduler, explain: Explainer) -> threading.Event:
    """Keep the device busy until the event is set."""
    event = threading.Event()
    scheduler.run(explain, event.wait)
    return event


def test_calls_share_packages() -> None:
    explain, x = simple("occlusion", batch_size=64)
    with Scheduler() as scheduler:
        release = held(scheduler, explain)
        futures = [scheduler.submit(explain, x[:1], target=i % 3) for i in range(12)]
        release.set()
        for i, future in enumerate(futures):
            np.testing.assert_allclose(future.result(10).attributions, explain(x[:1], target=i % 3), rtol=1e-12)
    assert scheduler.stats.rows == 12 * 5
    assert scheduler.stats.packages == 1


def test_a_short_call_overtakes_a_long_one() -> None:
    explain, x = simple(methods.ShapleySampling(20000), batch_size=32)
    with Scheduler() as scheduler:
        long = scheduler.submit(explain, x, target=0)
        time.sleep(0.05)
        short = scheduler.submit(explain.replace(permutations=4), x[:1], target=1)
        short.result(10)
        assert not long.done()
        long.cancel()
    assert scheduler.stats.waiting_rows == 0


@pytest.mark.parametrize("same", [True, False], ids=["one-explainer", "two"])
def test_a_short_call_runs_next_and_alone(same: bool) -> None:
    running, go = threading.Event(), threading.Event()
    packages: list[tuple[str, int]] = []

    def model(name: str) -> Any:
        def function(x: np.ndarray) -> np.ndarray:
            packages.append((name, len(x)))
            running.set()
            go.wait(10)
            return x.sum(1)

        return function

    go.set()
    x = np.random.default_rng(0).normal(size=(6, 4))
    explain = Explainer.compile(model("long"), methods.ShapleySampling(20_000), inputs=x, batch_size=64)
    short = explain if same else Explainer.compile(model("short"), "shapley_sampling", inputs=x, batch_size=64)
    short = short.replace(permutations=1)
    go.clear()
    running.clear()
    packages.clear()
    with Scheduler() as scheduler:
        long = scheduler.submit(explain, x)
        assert running.wait(10)
        future = scheduler.submit(short, x[:1])
        go.set()
        rows = int(future.result(10).evaluations[0])
        assert packages[1] == ("long" if same else "short", rows)
        assert not long.done()
        long.cancel()


@pytest.mark.parametrize("same", [True, False], ids=["one-explainer", "two"])
def test_no_call_starves_under_a_stream_of_short_ones(same: bool) -> None:
    explain, x = simple(methods.ShapleySampling(200), batch_size=64)
    short = (explain if same else simple("shapley_sampling", batch_size=64)[0]).replace(permutations=4)
    done, calls = threading.Event(), itertools.count()
    with Scheduler() as scheduler:

        def again(_: Any = None) -> None:
            if not done.is_set() and next(calls) < 5000:
                scheduler.submit(short, x[:1], target=0).add_done_callback(again)

        for _ in range(4):
            again()
        rows = scheduler.submit(explain, x, target=1).result(30).evaluations.sum()
        done.set()
        assert next(calls) < 5000
        assert scheduler.stats.packages < 8 * rows / 64


def test_variants_share_a_package() -> None:
    explain, x = simple(methods.ShapleySampling(2), batch_size=64)
    with Scheduler() as scheduler:
        release = held(scheduler, explain)
        futures = [scheduler.submit(explain.replace(permutations=p), x[:1], target=0) for p in (2, 4, 6)]
        release.set()
        assert [int(f.result(10).evaluations[0]) for f in futures] == [2 + 3 * p for p in (2, 4, 6)]
    assert scheduler.stats.packages == 1


# --- what goes wrong ---------------------------------------------------------------------------


def test_a_full_queue_refuses_and_recovers() -> None:
    explain, x = simple("occlusion")
    with Scheduler(queue_rows=20) as scheduler:
        release = held(scheduler, explain)
        first = scheduler.submit(explain, x[:1], target=0)
        with pytest.raises(errors.QueueFull, match="the queue holds 20"):
            scheduler.submit(explain, x, target=0)
        release.set()
        first.result(10)
        assert scheduler.submit(explain, x, target=0).result(10).attributions.shape == (6, 4)  # alone it is taken


def test_bad_calls_are_refused_at_the_door() -> None:
    explain, x = simple("occlusion")
    with Scheduler() as scheduler:
        with pytest.raises(errors.TargetError):
            scheduler.submit(explain, x, target=7)
        with pytest.raises(errors.InputError):
            scheduler.submit(explain, x[:, :2], target=0)
        with pytest.raises(errors.UnknownNameError, match="permutations"):
            explain.replace(permutations=3)
        assert scheduler.stats.waiting_rows == 0
    with pytest.raises(RuntimeError, match="closed"):
        scheduler.submit(explain, x, target=0)


def test_a_failing_call_harms_no_other() -> None:
    """A package with a NaN for one call, and a model that raises for one sample."""

    def model(x: np.ndarray) -> np.ndarray:
        if (x == 5.0).all(axis=1).any():
            raise ValueError("five")
        return np.where((x == 7.0).all(axis=1, keepdims=True), np.nan, x.sum(axis=1, keepdims=True))

    explain = Explainer.compile(model, "feature_ablation", inputs=np.zeros((1, 3)))
    rows = np.arange(9, dtype=float)[:, None] * np.ones((9, 3))
    with Scheduler() as scheduler:
        release = held(scheduler, explain)
        futures = [scheduler.submit(explain, rows[i : i + 1]) for i in range(9)]
        release.set()
        for i, future in enumerate(futures):
            if i == 5:
                with pytest.raises(ValueError, match="five"):
                    future.result(10)
            elif i == 7:
                with pytest.raises(errors.NonFiniteError):
                    future.result(10)
            else:
                np.testing.assert_allclose(future.result(10).attributions, rows[i : i + 1])
    assert scheduler.stats.waiting_calls == scheduler.stats.waiting_rows == 0


def test_out_of_memory_makes_packages_smaller(monkeypatch: pytest.MonkeyPatch) -> None:
    sizes: list[int] = []

    def model(x: np.ndarray) -> np.ndarray:
        sizes.append(len(x))
        if len(x) > 12:
            raise MemoryError
        return np.tanh(x)

    explain = Explainer.compile(model, "occlusion", inputs=np.zeros((1, 4)), batch_size=64)
    x = np.random.default_rng(0).normal(size=(1, 4))
    wanted = explain(x, target=1)
    backend = type(explain.request(x, target=1).packages.backend)
    monkeypatch.setattr(backend, "is_out_of_memory", lambda self, error: isinstance(error, MemoryError))
    with Scheduler() as scheduler:
        for _ in range(2):
            release = held(scheduler, explain)
            futures = [scheduler.submit(explain, x, target=1) for _ in range(5)]
            release.set()
            for future in futures:
                np.testing.assert_allclose(future.result(10).attributions, wanted)
    assert [size for size in sizes if size > 12] == [25]  # once


def test_a_cancelled_call_leaves() -> None:
    explain, x = simple(methods.ShapleySampling(200000), batch_size=16)
    with Scheduler(queue_rows=10**8) as scheduler:
        future = scheduler.submit(explain, x, target=0)
        time.sleep(0.05)
        assert future.cancel()
        assert scheduler.submit(explain.replace(permutations=2), x, target=1).result(10) is not None
        with pytest.raises(CancelledError):
            future.result(10)
        assert scheduler.stats.waiting_rows == 0


def test_a_call_that_is_late() -> None:
    explain, x = simple(methods.ShapleySampling(200000), batch_size=16)
    with Scheduler() as scheduler, pytest.raises(TimeoutError, match="within its timeout"):
        scheduler.submit(explain, x, target=0, timeout=0.05).result(10)
    assert scheduler.stats.waiting_rows == 0


def test_closing_finishes_what_was_taken() -> None:
    explain, x = simple(methods.ShapleySampling(200), batch_size=16)
    scheduler = Scheduler()
    futures = [scheduler.submit(explain, x, target=0) for _ in range(5)]
    scheduler.close()
    assert all(future.done() and future.exception() is None for future in futures)
    scheduler = Scheduler(queue_rows=10**8)
    futures = [scheduler.submit(explain.replace(permutations=200000), x, target=0) for _ in range(3)]
    scheduler.close(drain=False)
    assert all(future.cancelled() for future in futures)


def test_perturbation_is_not_for_schedulers() -> None:
    method = methods.Perturbation(lambda x, a: iter([x]), lambda values, x: x)
    explain, x = simple(method)
    with Scheduler() as scheduler, pytest.raises(errors.InputError, match="on the host"):
        scheduler.submit(explain, x, target=0)


# --- running estimates -------------------------------------------------------------------------


@pytest.mark.parametrize(
    "method",
    [methods.ShapleySampling(400), methods.Rise(2000, grid=2), methods.SmoothGrad(400), methods.GradientShap(400)],
    ids=["shapley", "rise", "smoothgrad", "gradient_shap"],
)  # fmt: skip
def test_estimates_come_nearer(method: Any) -> None:
    backend = "torch" if method.rules else "numpy"
    found = subject(SMALLEST[backend], "float64")
    arrays = found.case.draw(2, "float64")
    explain = Explainer.compile(found.model, method, inputs=found.case.given(arrays), batch_size=64)
    seen: list[Any] = []
    with Scheduler() as scheduler:
        options: dict[str, Any] = {"baseline": References(arrays[0])} if method.baseline == "references" else {}
        final = scheduler.submit(
            explain, *arrays, target=0, watch=lambda run: seen.append(run.estimate()), **options
        ).result(60)
    seen = [estimate for estimate in seen if estimate is not None]
    assert len(seen) > 5
    evaluations = np.array([estimate.evaluations for estimate in seen])
    assert (np.diff(evaluations, axis=0) >= 0).all()
    early = next(e for e in seen if e.evaluations[0] > 150)
    gap = np.abs(early.attributions[0][0] - final.attributions[0])
    assert (gap <= 6 * np.nan_to_num(early.standard_errors[0][0], nan=np.inf) + 1e-9).all()
    last = seen[-1]
    assert np.abs(last.attributions[0][0] - final.attributions[0]).max() < 1e-9


def test_methods_without_estimates() -> None:
    explain, x = simple("occlusion", batch_size=4)
    seen: list[Any] = []
    with Scheduler() as scheduler:
        scheduler.submit(explain, x, target=0, watch=lambda run: seen.append(run.estimate())).result(10)
    assert seen
    assert not any(seen)

"""Perturbations that users' generators make on the host: order, packages, workers, and what goes wrong there."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

from explainers import Explainer, errors, methods

X = np.random.default_rng(0).uniform(0.1, 0.4, size=(6, 5))
MARKED = X + np.where(np.arange(6) == 3, 0.5, 0.0)[:, None]  # sample 3 makes generators fail


def model(x: np.ndarray) -> np.ndarray:
    return np.stack([(x**2).sum(1), x[:, 0] - x[:, 1]], axis=1)


def each_to_zero(x: np.ndarray, attribution: Any) -> Iterator[np.ndarray]:
    for i in range(len(x)):
        changed = x.copy()
        changed[i] = 0
        yield changed


def effects(values: np.ndarray, x: np.ndarray) -> np.ndarray:
    return values[0] - values[1:]


def raises(x: np.ndarray, attribution: Any) -> Iterator[np.ndarray]:
    yield x
    if x[0] > 0.5:
        raise KeyError("no such pixel")
    yield x


def hangs(x: np.ndarray, attribution: Any) -> Iterator[np.ndarray]:
    yield x
    if x[0] > 0.5:
        time.sleep(60)


def is_killed(x: np.ndarray, attribution: Any) -> Iterator[np.ndarray]:
    yield x
    if x[0] > 0.5:
        os.kill(os.getpid(), signal.SIGKILL)


class Either:
    """Endless, or, at marked samples, what is given."""

    def __init__(self, generate: Callable[..., Any]) -> None:
        self.generate = generate

    def __call__(self, x: np.ndarray, attribution: Any) -> Iterator[np.ndarray]:
        if x[0] > 0.5:
            yield from self.generate(x, attribution)
        while True:
            yield x


def mean(values: np.ndarray, x: np.ndarray) -> np.ndarray:
    return np.full(x.shape, values.mean())


@pytest.mark.parametrize("size", [1, 4, 1000])
@pytest.mark.parametrize("workers", [1, 3])
def test_it_is_feature_ablation_by_hand(workers: int, size: int) -> None:
    explain = Explainer.compile(model, methods.Perturbation(each_to_zero, effects, workers), inputs=X, batch_size=size)
    ablation = Explainer.compile(model, "feature_ablation", inputs=X)
    for target in ([0, 1, 0, 1, 1, 0], "max", "all"):
        np.testing.assert_allclose(explain(X, target=target), ablation(X, target=target), atol=1e-14)
    found = explain.explanation(X, target=0)
    assert found.evaluations.tolist() == [6] * 6
    np.testing.assert_allclose(found.outputs, model(X))


def test_processes() -> None:
    explain = Explainer.compile(model, methods.Perturbation(each_to_zero, effects, 2, processes=True), inputs=X)
    np.testing.assert_allclose(explain(X, target=0), X**2, atol=1e-14)


@pytest.mark.parametrize("backend", ["torch", "tensorflow"])
def test_on_frameworks(backend: str) -> None:
    pytest.importorskip(backend)
    net: Any
    if backend == "torch":
        import torch

        net = torch.nn.Tanh()
        given: Any = torch.tensor(X)
    else:
        import tensorflow as tf

        net = tf.function(tf.tanh)
        given = tf.constant(X)
    for size in (2, 64):
        explain = Explainer.compile(net, methods.Perturbation(each_to_zero, effects), inputs=given, batch_size=size)
        got = np.asarray(explain(given, target=1))
        assert type(explain(given, target=1)) is type(given)
        want = np.zeros_like(X)
        want[:, 1] = np.tanh(X[:, 1])
        np.testing.assert_allclose(got, want, atol=1e-12)


def test_steps_of_a_sample_stay_in_order_while_samples_overlap() -> None:
    seen: list[int] = []

    def counting(x: np.ndarray, attribution: Any) -> Iterator[np.ndarray]:
        for step in range(40):
            seen.append(int(x[0]))
            time.sleep(0.001)
            yield np.array([x[0], float(step)])

    def in_order(values: np.ndarray, x: np.ndarray) -> np.ndarray:
        assert values[1:].tolist() == [float(step) for step in range(40)]
        return x

    x = np.stack([np.arange(4.0), np.zeros(4)], axis=1)
    explain = Explainer.compile(lambda rows: rows[:, 1], methods.Perturbation(counting, in_order, 2), batch_size=16)
    np.testing.assert_array_equal(explain(x), x)
    switches = int((np.diff(seen) != 0).sum())
    assert switches > 10


def test_packages_take_rows_of_any_sample() -> None:
    calls: list[int] = []

    def counted(x: np.ndarray) -> np.ndarray:
        calls.append(len(x))
        return model(x)

    explain = Explainer.compile(counted, methods.Perturbation(each_to_zero, effects), inputs=X, batch_size=8)
    calls.clear()
    explain(X, target=0)
    assert calls == [8, 8, 8, 8, 4]


def test_a_slow_model_holds_the_workers_back() -> None:
    made = 0

    def endless(x: np.ndarray, attribution: Any) -> Iterator[np.ndarray]:
        nonlocal made
        for _ in range(400):
            made += 1
            yield x

    ahead = []

    def slow(x: np.ndarray) -> np.ndarray:
        time.sleep(0.02)
        ahead.append(made - 4 * len(ahead))
        return x.sum(1)

    explain = Explainer.compile(slow, methods.Perturbation(endless, mean, 1), inputs=X[:1], batch_size=4)
    made = 0
    ahead.clear()
    explain(X[:1])
    assert max(ahead) <= 4 * (4 + 2)


def test_the_generator_is_given_the_attribution() -> None:
    order: list[list[int]] = []

    def by_rank(x: np.ndarray, attribution: np.ndarray) -> Iterator[np.ndarray]:
        order.append(np.argsort(-attribution).tolist())
        for i in order[-1]:
            changed = x.copy()
            changed[i] = 0
            yield changed

    explain = Explainer.compile(model, methods.Perturbation(by_rank, mean, 1), inputs=X)
    explain(X, target=0, attribution=-X)
    assert order == np.argsort(X, axis=1).tolist()
    with pytest.raises(errors.InputError, match="attribution has shape"):
        explain(X, target=0, attribution=X[:2])
    with pytest.raises(errors.InputError, match="is only for the method Perturbation"):
        Explainer.compile(model, "feature_ablation")(X, target=0, attribution=X)


def test_several_inputs() -> None:
    def both(x: Any, attribution: Any) -> Iterator[Any]:
        left, right = x
        yield np.zeros_like(left), right
        yield left, np.zeros_like(right)

    def halves(values: np.ndarray, x: Any) -> Any:
        return np.full(3, values[0] - values[1]), np.full(2, values[0] - values[2])

    explain = Explainer.compile(lambda x, y: x.sum(1) + y.sum(1), methods.Perturbation(both, halves))
    left, right = explain(X[:, :3], X[:, 3:])
    np.testing.assert_allclose(left, np.repeat(X[:, :3].sum(1)[:, None], 3, 1))
    np.testing.assert_allclose(right, np.repeat(X[:, 3:].sum(1)[:, None], 2, 1))


# --- what goes wrong -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("generate", "processes", "message"),
    [
        (raises, False, "generate failed at sample 3 of 6"),
        (raises, True, "no such pixel"),
        (hangs, False, "sample 3 of 6 took more than 0.5 seconds"),
        (hangs, True, "sample 3 of 6 took more than 0.5 seconds"),
        (is_killed, True, r"worker at sample 3 of 6 ended unexpectedly \(exit code -9\)"),
    ],
)
def test_a_worker_that_fails_names_its_sample(generate: Callable[..., Any], processes: bool, message: str) -> None:
    method = methods.Perturbation(generate, mean, processes=processes, timeout=0.5)
    explain = Explainer.compile(model, method, inputs=X)
    with pytest.raises(errors.PerturbationError, match=message):
        explain(MARKED, target=0)
    np.testing.assert_allclose(explain(X, target=0)[:, 0], (X**2).sum(1))  # the next call works


@pytest.mark.parametrize(("generate", "processes"), [(hangs, False), (is_killed, True)])
def test_a_failure_is_seen_while_others_go_on(generate: Callable[..., Any], processes: bool) -> None:
    """Sample 3 fails; another one's generator never ends."""
    method = methods.Perturbation(Either(generate), mean, workers=2, processes=processes, timeout=0.5)
    with pytest.raises(errors.PerturbationError, match="sample 1 of 2"):
        Explainer.compile(model, method, inputs=X)(MARKED[[0, 3]], target=0)


def test_an_interrupted_call_stops_its_workers() -> None:
    def interrupted(x: np.ndarray) -> np.ndarray:
        if len(x) == 3:
            raise KeyboardInterrupt
        return x.sum(1)

    def endless(x: np.ndarray, attribution: Any) -> Iterator[np.ndarray]:
        while True:
            yield x

    explain = Explainer.compile(interrupted, methods.Perturbation(endless, mean), inputs=X[:1], batch_size=3)
    before = set(threading.enumerate())
    with pytest.raises(KeyboardInterrupt):
        explain(X)
    deadline = time.monotonic() + 5
    while set(threading.enumerate()) - before:
        assert time.monotonic() < deadline, "the workers go on"
        time.sleep(0.02)


@pytest.mark.parametrize(
    ("generate", "reduce", "error", "message"),
    [
        (
            lambda x, a: [x[:2]],
            mean,
            errors.InputError,
            r"yielded at sample 0 of 6 has shape \(2,\); a sample has \(5,\)",
        ),
        (lambda x, a: [x * np.nan], mean, errors.InputError, "not finite"),
        (lambda x, a: ["text"], mean, errors.InputError, "yielded at sample 0"),
        (lambda x, a: [x], lambda v, x: x[:2], errors.InputError, r"reduce returned at sample 0 of 6 has shape \(2,\)"),
        (lambda x, a: [x], lambda v, x: 1 / 0, errors.PerturbationError, "reduce failed at sample 0 of 6"),
        (lambda x, a: None, mean, errors.PerturbationError, "not iterable"),
    ],
)
def test_bad_functions(generate: Any, reduce: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        Explainer.compile(model, methods.Perturbation(generate, reduce, 1), inputs=X)(X, target=0)


def test_bad_parameters() -> None:
    with pytest.raises(errors.InputError, match="generate must be a function"):
        methods.Perturbation(None, mean)  # type: ignore[arg-type]
    with pytest.raises(errors.InputError, match="workers must be"):
        methods.Perturbation(each_to_zero, mean, workers=0)
    with pytest.raises(errors.InputError, match="timeout must be"):
        methods.Perturbation(each_to_zero, mean, timeout=0)
    local = methods.Perturbation(lambda x, a: [x], mean, processes=True)
    with pytest.raises(errors.PerturbationError, match="cannot be sent to a process"):
        Explainer.compile(model, local, inputs=X)(X, target=0)

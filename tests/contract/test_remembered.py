"""What an explainer remembers of one call is used for the next only where it holds: each call equals a first one."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from explainers import Explainer, References, TensorSpec, methods
from explainers.errors import BaselineError, InputError, NonFiniteError, TargetError
from explainers.random_numbers import sample_seeds
from explainers.spec import all_finite

from .test_invariants import held

FEATURES = 6
GRADIENTS = ["gradient", "integrated_gradients", "deeplift"]
REMOVALS = [
    methods.FeatureAblation(), methods.Occlusion(2), methods.ShapleySampling(4), methods.KernelShap(40),
    methods.KernelShap(31, paired=False), methods.Lime(40),
]  # fmt: skip
Calls = list[tuple[tuple[Any, ...], dict[str, Any]]]


def data(count: int = 256, dtype: Any = np.float32) -> tuple[np.ndarray, np.ndarray]:
    generator = np.random.default_rng(0)
    x = generator.standard_normal((count, FEATURES)).astype(dtype)
    return x, (x[:, 0] * x[:, 1] > 0).astype(np.int64) + (x[:, 2] > 1)


@pytest.fixture(scope="module")
def network() -> torch.nn.Module:
    """A trained network: three classes of products and thresholds, sharp outputs."""
    torch.manual_seed(0)
    net = torch.nn.Sequential(torch.nn.Linear(FEATURES, 24), torch.nn.ReLU(), torch.nn.Linear(24, 3))
    x, y = map(torch.from_numpy, data())
    optimizer = torch.optim.Adam(net.parameters(), 0.02)
    for _ in range(200):
        loss = torch.nn.functional.cross_entropy(net(x), y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert loss.item() < 0.3
    return net.eval().requires_grad_(False)


@pytest.fixture(scope="module")
def predict(network: torch.nn.Module) -> Callable[[np.ndarray], np.ndarray]:
    w, b, v, c = (p.double().numpy() for p in network.parameters())

    def probabilities(rows: np.ndarray) -> np.ndarray:
        logits = np.maximum(rows @ w.T + b, 0) @ v.T + c
        powers = np.exp(logits - logits.max(1, keepdims=True))
        return powers / powers.sum(1, keepdims=True)

    return probabilities


def same(found: Any, wanted: Any) -> None:
    assert type(found) is type(wanted)
    assert found.dtype == wanted.dtype
    np.testing.assert_array_equal(np.asarray(found), np.asarray(wanted))


def check_each_as_first(compiled: Explainer, calls: Calls) -> None:
    """Calls of one explainer, each twice, return what the first call of another one returns, to the last bit.

    ``compiled``: is not called; the others share its compiled code, and remember nothing.
    """
    explain = compiled.replace()
    for arguments, options in calls:
        wanted = compiled.replace()(*arguments, **options)
        for _ in range(2):
            same(explain(*arguments, **options), wanted)


# --- kinds of inputs -------------------------------------------------------------------------


@pytest.mark.parametrize("method", GRADIENTS)
def test_calls_of_other_kinds(network: torch.nn.Module, method: str) -> None:
    x = data()[0]
    tensor = torch.from_numpy(x)
    inputs = [
        x[:1], tensor[:1], x[:1].astype(np.float64), tensor[:3], x[:3].tolist(), x[:3], tensor[:3].double(),
        tensor[:3].clone().requires_grad_(), tensor[:3].half(), torch.from_numpy(x[:3].T.copy()).T, x[:6:2],
        np.asfortranarray(x[:3]), x[:3].astype(">f4"), np.ma.masked_array(x[:3]), x[:0], torch.nn.Parameter(tensor[:3]),
    ]  # fmt: skip
    calls: Calls = [((value,), {"target": 1}) for value in inputs]
    check_each_as_first(Explainer.compile(network, method, inputs=x[:1]), calls)


def test_results_follow_the_form_of_the_inputs(network: torch.nn.Module) -> None:
    x = data()[0][:2]
    explain = Explainer.compile(network, "gradient", inputs=x)
    (name,) = explain.signature.names
    plain = explain(x, target=1)
    for _ in range(2):
        assert isinstance(explain({name: x}, target=1), dict)
        assert isinstance(explain(**{name: x}, target=1), dict)
        assert isinstance(explain((x,), target=1), np.ndarray)
        assert isinstance(explain(pd.DataFrame(x), target=1), pd.DataFrame)
        assert isinstance(explain(torch.from_numpy(x), target=1), torch.Tensor)
        same(explain(x, target=1), plain)


@pytest.mark.parametrize("kind", ["numpy", "torch"])
def test_bad_inputs_after_good_ones(network: torch.nn.Module, kind: str) -> None:
    x = data()[0][:3]
    explain = Explainer.compile(network, "deeplift", inputs=x)

    def of(array: np.ndarray) -> Any:
        return torch.from_numpy(array) if kind == "torch" else array

    wanted = explain(of(x), target=1)
    bad: list[tuple[Any, str]] = [
        (of(x[:, :5].copy()), "has shape"), (of(x[0].copy()), "batch axis is missing"),
        (of(x.astype(np.int64)), "has dtype int64"), (np.ma.masked_array(x, x > 1), "masked"),
        (of(x[None].copy()), "has shape"), (None, "is not an array"),
    ]  # fmt: skip
    for value, message in bad:
        for _ in range(2):
            with pytest.raises(InputError, match=message):
                explain(value, target=1)
            same(explain(of(x), target=1), wanted)


@pytest.mark.parametrize("wrong", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("kind", ["numpy", "torch"])
def test_values_are_checked_at_each_call(network: torch.nn.Module, kind: str, wrong: float) -> None:
    x = data()[0][:3].copy()
    given: Any = torch.from_numpy(x) if kind == "torch" else x  # shares the memory
    explain = Explainer.compile(network, "gradient", inputs=x)
    wanted = explain(given, target=1)
    kept = x[2, 4]
    for _ in range(2):
        x[2, 4] = wrong
        with pytest.raises(NonFiniteError, match="sample 2 of 3"):
            explain(given, target=1)
        assert len(explain(given, target=1, allow_nonfinite=True)) == 3
        x[2, 4] = kept
        same(explain(given, target=1), wanted)
    x[0] = -x[0]  # the same object with other values
    same(explain(given, target=1), Explainer.compile(network, "gradient", inputs=x)(given, target=1))
    x[0, 0] = 1e30  # finite, though its square is not
    assert np.isfinite(np.asarray(explain(given, target=1))).all()


def test_ids_are_checked_at_each_call() -> None:
    class Words(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.table, self.head = torch.nn.Embedding(5, 4), torch.nn.Linear(4, 2)

        def forward(self, ids: torch.Tensor) -> torch.Tensor:
            return self.head(self.table(ids).mean(1).tanh())

    ids = torch.tensor([[0, 1, 4]])
    explain = Explainer.compile(Words().eval(), "integrated_gradients", inputs=ids, wrt="table")
    wanted = explain(ids, target=1)
    for _ in range(2):
        with pytest.raises(InputError, match="holds the id 7"):
            explain(torch.tensor([[0, 1, 7]]), target=1)
        same(explain(ids, target=1), wanted)
    same(explain(ids.int(), target=1), wanted)
    with pytest.raises(InputError, match="holds the id 1099511627776"):
        explain(np.array([[0, 1, 2**40]], np.uint64), target=1)


# --- targets, baselines, seeds, sizes ---------------------------------------------------------


@pytest.mark.parametrize("method", GRADIENTS)
def test_targets_of_other_kinds(network: torch.nn.Module, method: str) -> None:
    x = data()[0][:3]
    targets: list[Any] = [1, 2, [0, 1, 2], np.array([2, 2, 0]), "max", np.float32([0.5, -1, 2]), np.int64(1), (2,)]
    check_each_as_first(
        Explainer.compile(network, method, inputs=x), [((x,), {"target": target}) for target in targets]
    )
    explain = Explainer.compile(network, method, inputs=x)
    explain(x, target=1)
    for wrong in (3, -1, 1.5, [0, 1], [0, 1, 3], None, "most"):
        for _ in range(2):
            with pytest.raises(TargetError):
                explain(x, target=wrong)
    target = np.array([0, 1, 2])
    first = explain(x, target=target)
    target[:] = 1  # the same object with other values
    same(explain(x, target=target), explain(x, target=1))
    assert not np.array_equal(first, explain(x, target=target))
    target[0] = 3
    with pytest.raises(TargetError, match="position 0"):
        explain(x, target=target)


@pytest.mark.parametrize("method", ["integrated_gradients", "deeplift", *REMOVALS[2:4]])
def test_baselines_of_other_kinds(network: torch.nn.Module, method: Any) -> None:
    x = data()[0]
    each = x[10:13] if isinstance(method, str) else lambda batch: x[10:13]
    baselines: list[Any] = [None, 0.0, 0.5, x[7], each, None, np.float64(1), x[7].astype(np.float64), None]
    calls: Calls = [((x[:3],), {"target": 1, "baseline": baseline}) for baseline in baselines]
    check_each_as_first(Explainer.compile(network, method, inputs=x[:1], baseline=x[5]), calls)
    explain = Explainer.compile(network, method, inputs=x[:1], baseline=x[5])
    given = x[7].copy()
    first = explain(x[:3], target=1, baseline=given)
    given[:] = x[8]  # the same object with other values
    second = explain(x[:3], target=1, baseline=given)
    assert not np.array_equal(first, second)
    same(second, explain(x[:3], target=1, baseline=x[8]))
    given[0] = np.nan
    for _ in range(2):
        with pytest.raises(BaselineError, match="NaN"):
            explain(x[:3], target=1, baseline=given)


@pytest.mark.parametrize(
    ("kind", "method"),
    [*(("numpy", method) for method in REMOVALS), ("torch", REMOVALS[0]), ("torch", REMOVALS[2])],
    ids=str,
)
def test_rows_of_other_calls(network: torch.nn.Module, predict: Any, kind: str, method: Any) -> None:
    """Sizes, seeds, targets, sets of references and groups in turn: the rows of one call are not those of the next."""
    x = data(dtype=np.float64 if kind == "numpy" else np.float32)[0]
    model = predict if kind == "numpy" else network
    groups = np.arange(FEATURES) // 2
    options: list[dict[str, Any]] = [
        {}, {"seed": 1}, {}, {"batch_size": 16}, {"seed": [5, 5, 6]}, {"baseline": lambda batch: x[20:23]},
        {"target": "max"},
        {"target": "all"}, {"baseline": References(x[30:34])}, {"seed": 1}, {"baseline": References(x[30:32])},
        {"target": [2, 0, 1]}, {"baseline": References(x[30:36].reshape(3, 2, FEATURES), per_sample=True)},
    ]  # fmt: skip
    calls: Calls = [((x[:3],), {"target": 1, **given}) for given in options]
    calls += [((x[:1],), {"target": 1}), ((x[3:6],), {"target": 1}), ((x[:40],), {"target": 1})]
    if method.takes_groups and not isinstance(method, methods.KernelShap | methods.Lime):
        calls.insert(1, ((x[:3],), {"target": 1, "groups": np.stack([groups, groups, groups[::-1]])}))
        calls.insert(3, ((x[:3],), {"target": 1, "groups": np.stack([groups, groups, groups * 0])}))
    check_each_as_first(Explainer.compile(model, method, inputs=x[:1], baseline=x[5]), calls)


def test_details_and_plain_calls_in_turn(predict: Any) -> None:
    x = data(dtype=np.float64)[0][:3]
    explain = Explainer.compile(predict, methods.ShapleySampling(6), inputs=x)
    for _ in range(3):
        plain, full = explain(x, target=1), explain.explanation(x, target=1)
        same(plain, full.attributions)
        np.testing.assert_allclose(full.outputs, predict(x), rtol=1e-12)
        assert full.largest_gap < 1e-9
        assert (full.evaluations == 2 + 6 * (FEATURES - 1)).all()


def test_a_seed_beyond_64_bits_is_refused_again(predict: Any) -> None:
    x = data(dtype=np.float64)[0][:2]
    explain = Explainer.compile(predict, methods.ShapleySampling(4), inputs=x)
    for _ in range(2):
        explain(x, target=1, seed=3)
        with pytest.raises(InputError, match="seed must be an int"):
            explain(x, target=1, seed=2**70)
    np.testing.assert_array_equal(sample_seeds(3, 5), sample_seeds(np.int64(3), 5))
    np.testing.assert_array_equal(sample_seeds(None, 5000)[:5], sample_seeds(0, 5))


# --- weights, threads, growth -----------------------------------------------------------------


@pytest.mark.parametrize("method", GRADIENTS)
def test_new_weights(method: str) -> None:
    torch.manual_seed(1)
    net = torch.nn.Sequential(torch.nn.Linear(FEATURES, 8), torch.nn.Tanh(), torch.nn.Linear(8, 2)).eval()
    x = data()[0][:2]
    explain = Explainer.compile(net, method, inputs=x)
    before = explain(x, target=1)
    with torch.no_grad():
        for parameter in net.parameters():  # in place, which needs no refresh
            parameter.mul_(-1.5)
    same(explain(x, target=1), Explainer.compile(net, method, inputs=x)(x, target=1))
    net[0].weight = torch.nn.Parameter(net[0].weight.detach() * 0.3)
    explain.refresh()
    after = explain(x, target=1)
    same(after, Explainer.compile(net, method, inputs=x)(x, target=1))
    assert not np.array_equal(after, before)


def test_new_weights_of_a_model_with_a_varying_axis() -> None:
    class Sequences(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.head = torch.nn.Linear(4, 2)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.head(x.tanh()).square().mean(1)

    net, x = Sequences().eval(), np.random.default_rng(0).standard_normal((2, 7, 4)).astype(np.float32)
    explain = Explainer.compile(net, "deeplift", inputs=TensorSpec((None, None, 4)), baseline=1.0)
    before = explain(x, target=1)
    weight = torch.nn.Parameter(net.head.weight.detach() * -0.5)
    with torch.no_grad():
        while weight._version < net.head.weight._version:
            weight.mul_(1)  # written to as often as the old one: the counts of writes do not tell them apart
    net.head.weight = weight
    explain.refresh()
    after = explain(x, target=1)
    same(after, Explainer.compile(net, "deeplift", inputs=TensorSpec((None, None, 4)), baseline=1.0)(x, target=1))
    assert not np.array_equal(after, before)


def test_threads_with_calls_of_different_kinds(network: torch.nn.Module, predict: Any) -> None:
    x = data()[0]
    wide = x.astype(np.float64)
    mixed: list[tuple[Explainer, Any, dict[str, Any]]] = []
    for method in GRADIENTS:
        explain = Explainer.compile(network, method, inputs=x[:1])
        mixed += [
            (explain, given, {"target": t}) for given in (x[:1], torch.from_numpy(x[:3]), wide[:2]) for t in (0, 2)
        ]
    for method in REMOVALS[2:4]:
        explain = Explainer.compile(predict, method, inputs=wide[:1])
        mixed += [(explain, wide[:n], {"target": 1, "seed": seed}) for n in (1, 3) for seed in (0, 1)]
    wanted = [explain(given, **options) for explain, given, options in mixed]
    failures: list[BaseException] = []

    def work(first: int) -> None:
        try:
            for turn in range(5 * len(mixed)):
                place = (first * 7 + turn * 5) % len(mixed)
                explain, given, options = mixed[place]
                same(explain(given, **options), wanted[place])
        except BaseException as error:  # told below, on the test's thread
            failures.append(error)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures, failures[0]


@pytest.mark.parametrize("method", [*GRADIENTS, *REMOVALS], ids=str)
def test_nothing_grows_with_kinds_of_calls(network: torch.nn.Module, method: Any) -> None:
    x = data()[0]
    explain = Explainer.compile(network, method, inputs=x[:1])

    def calls(numbers: range) -> None:
        for number in numbers:
            part = x[number : number + 1 + number % 20]
            explain(torch.from_numpy(part) if number % 3 else part, target=number % 3, seed=number)

    calls(range(4))
    before = held(explain)
    calls(range(4, 120))
    assert held(explain) == before


# --- finite numbers ---------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [np.float16, np.float32, np.float64])
def test_all_finite(kind: Any) -> None:
    for count in (0, 1, 3, 8, 33, 1000, 2**13, 2**13 + 1):
        array = np.full(count, np.finfo(kind).max)
        assert all_finite(array)
        assert all_finite(array[::2])
        for place in {0, count // 2, count - 1} if count else ():
            for wrong in (np.nan, np.inf, -np.inf):
                changed = array.copy()
                changed[place] = wrong
                assert not all_finite(changed)
                assert not all_finite(changed.reshape(1, -1))

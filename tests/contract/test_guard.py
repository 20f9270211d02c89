"""Attributions that do not add up never pass in silence: rules broken on purpose, and those of before."""

from __future__ import annotations

import dataclasses
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from explainers import Explainer, References, methods
from explainers.errors import IncompleteError, IncompleteWarning, NonFiniteError
from explainers.graph import Function
from explainers.methods import deeplift
from explainers.methods.lrp import LRP, Composite, Epsilon

from . import zoo

X = np.random.default_rng(0).normal(size=(5, 6)).astype(np.float32)
REFERENCES = References(np.random.default_rng(1).normal(size=(3, 6)).astype(np.float32))


def model(backend: str, bias: bool = True) -> Any:
    if backend == "torch":
        import torch

        torch.manual_seed(0)
        layers = [torch.nn.Linear(6, 20, bias=bias), torch.nn.ReLU(), torch.nn.Linear(20, 3, bias=bias)]
        return torch.nn.Sequential(*layers).eval()
    import keras

    keras.utils.set_random_seed(0)
    layers = [keras.layers.Dense(20, "relu", use_bias=bias), keras.layers.Dense(3, use_bias=bias)]
    return keras.Sequential([keras.Input((6,)), *layers])


def unbent(ops: Any, at: Any) -> Any:
    """A ReLU passed as if it were nothing."""
    return [at.message[0]]


def old_softmax(ops: Any, at: Any) -> Any:
    """exp times 1/Σexp, with one shift for both points, in halves: the rule before logarithmic means."""
    axis, (x,), (r,), (m,) = at.node.attributes.axis, at.x, at.x_r, at.message
    shift = ops.reduce_max(x, axis)
    e, e_r = ops.exp(x - shift), ops.exp(r - shift)
    total, total_r = ops.reduce_sum(e, axis), ops.reduce_sum(e_r, axis)
    to_e = m * (1 / total + 1 / total_r) * 0.5
    to_factor = ops.reduce_sum(m * (e + e_r) * 0.5, axis)
    to_e = to_e - to_factor / (total * total_r)
    same = ops.equal(x, r)
    return [to_e * ops.where(same, e, (e - e_r) / ops.where(same, ops.ones_like(x), x - r))]


@pytest.fixture
def broken(monkeypatch: pytest.MonkeyPatch) -> None:
    with_unbent = {
        name: dataclasses.replace(rules, functions={**rules.functions, Function.RELU: unbent})
        for name, rules in deeplift.RULES.items()
        if name != "revealcancel"
    }
    monkeypatch.setattr(deeplift, "RULES", {**deeplift.RULES, **with_unbent})


def gaps(explain: Explainer, **options: Any) -> np.ndarray:
    """In thousandths of the change that the model itself tells."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", IncompleteWarning)
        got = np.asarray(explain(X, target=1, **options), np.float64)
    low = options.get("baseline", np.zeros_like(X))
    low = low.array if isinstance(low, References) else low
    change = np.asarray(explain.predict(X))[:, 1] - np.asarray(explain.predict(low))[:, 1].mean()
    return abs(got.reshape(len(X), -1).sum(1) - change) / (1e-3 * abs(change))


@pytest.mark.parametrize("method", ["deeplift", "deeplift_shap", "deeplift_genomics"])
@pytest.mark.parametrize("backend", ["torch", "tensorflow"])
def test_a_broken_rule_is_told(backend: str, method: str, broken: None) -> None:
    chosen = methods.DeepLift(rule="genomics") if method == "deeplift_genomics" else method
    options: dict[str, Any] = {"baseline": REFERENCES} if method == "deeplift_shap" else {}
    explain = Explainer.compile(model(backend), chosen, inputs=X)
    which = gaps(explain, **options) > 1
    assert which.sum() >= 3
    before = explain.stats.incomplete
    with pytest.warns(IncompleteWarning, match=rf"{which.sum()} of 5 samples do not add up.*explain\.audit") as seen:
        explain(X, target=1, **options)
    assert len(seen) == 1  # once for a call
    assert seen[0].filename == __file__  # where the user called
    assert explain.stats.incomplete == before + which.sum()
    with pytest.warns(IncompleteWarning) as seen:
        found = explain.explanation(X, target=1, batch_size=2, **options)
    assert len(seen) == 1
    assert seen[0].filename == __file__
    np.testing.assert_array_equal(found.incomplete, which)


@pytest.mark.parametrize("backend", ["torch", "tensorflow"])
def test_strict_raises(backend: str, broken: None, tmp_path: Path) -> None:
    explain = Explainer.compile(model(backend), "deeplift", inputs=X, strict=True)
    with pytest.raises(IncompleteError, match="of 5 samples do not add up"):
        explain(X, target=1)
    with pytest.raises(IncompleteError, match="of 5 samples do not add up"):
        explain.explanation(X, target=1)
    assert explain.stats.incomplete > 0
    explain(X * 0, target=1)  # nothing changes, nothing is lost
    explain.save(tmp_path / "strict.explainer")
    with pytest.raises(IncompleteError, match="of 5 samples do not add up"):
        Explainer.load(tmp_path / "strict.explainer")(X, target=1)


def test_a_file_carries_it(broken: None, tmp_path: Path) -> None:
    Explainer.compile(model("torch"), "deeplift", inputs=X).save(tmp_path / "net.explainer")
    loaded = Explainer.load(tmp_path / "net.explainer")
    with pytest.warns(IncompleteWarning):
        loaded(X, target=1)
    assert loaded.stats.incomplete == (gaps(loaded) > 1).sum()


def test_the_scheduler_tells_it(broken: None) -> None:
    from explainers import Scheduler

    explain = Explainer.compile(model("torch"), "deeplift", inputs=X)
    with Scheduler() as scheduler, pytest.warns(IncompleteWarning):
        found = scheduler.submit(explain, X, target=1).result()
    np.testing.assert_array_equal(found.incomplete, gaps(explain) > 1)


def test_a_served_model_tells_it(broken: None) -> None:
    from tests.serve.live import live

    explain = Explainer.compile(model("torch"), "deeplift", inputs=X)
    strict = Explainer.compile(model("torch"), "deeplift", inputs=X, strict=True)
    which = gaps(explain) > 1
    numbers = np.flatnonzero(which).tolist()
    with live(
        {"net": explain, "strict": strict, "plain": Explainer.compile(model("torch"), "gradient", inputs=X)}
    ) as c:
        answer = c.explain("net", X, target=1)
        assert answer.headers["X-Explainers-Incomplete"] == str(len(numbers))
        assert answer.json()["incomplete"] == numbers
        full = c.explain("net", X, target=1, format="full").json()["explanations"]
        assert [element["incomplete"] for element in full] == which.tolist()
        tensor = {"name": explain.signature.inputs[0].name, "shape": [5, 6], "datatype": "FP32"}
        body = {"inputs": [{**tensor, "data": X.ravel().tolist()}], "parameters": {"target": 1}}
        answer = c.infer("net", **body)
        assert answer.headers["X-Explainers-Incomplete"] == str(len(numbers))
        assert answer.json()["parameters"] == {"incomplete": numbers}
        assert f'explainers_incomplete_total{{model="net"}} {explain.stats.incomplete}' in c.get("/metrics").text
        refused = c.explain("strict", X, target=1)
        assert refused.status_code == 422
        assert "do not add up" in refused.json()["error"]
        answer = c.explain("plain", X, target=1)
        assert "X-Explainers-Incomplete" not in answer.headers
        assert "incomplete" not in answer.json()
        full = c.explain("plain", X, target=1, format="full").json()["explanations"]
        assert [element["incomplete"] for element in full] == [None] * 5


def test_commands_tell_it(broken: None, tmp_path: Path) -> None:
    from tests.test_cli import run

    explain = Explainer.compile(model("torch"), "deeplift", inputs=X)
    explain.save(tmp_path / "net.explainer")
    np.save(tmp_path / "x.npy", X)
    text = f"warning: the attributions of {(gaps(explain) > 1).sum()} samples do not add up"
    status, said = run(tmp_path, "run", "net.explainer", "x.npy", "--target", "1", "--block", "2", "-o", "out.npy")
    assert status == 0
    assert said.count(text) == 1
    status, said = run(tmp_path, "report", "net.explainer", "x.npy", "--target", "1", "-o", "page.html")
    assert status == 0
    assert said.count(text) == 1


def test_the_old_softmax_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """On the ordinary Keras classifier from zeros, where it is off by up to 10⁴ and more."""
    rules = deeplift.RULES["rescale"]
    old = dataclasses.replace(rules, functions={**rules.functions, Function.SOFTMAX: old_softmax})
    monkeypatch.setattr(deeplift, "RULES", {"rescale": old})
    x = zoo.data("tensorflow-cnn").held_out
    explain = Explainer.compile(zoo.network("tensorflow-cnn"), "deeplift", inputs=x)
    with pytest.warns(IncompleteWarning, match="of 32 samples do not add up"):
        explain(x, target="max")
    assert explain.stats.incomplete >= 10


def test_relevance_that_is_lost_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where every operation conserves it: no biases, no softmax."""

    @dataclasses.dataclass(frozen=True)
    class Half(Epsilon):
        def __call__(self, ops: Any, at: Any) -> Any:
            return [None if m is None else 0.5 * m for m in super().__call__(ops, at)]

    whole = Explainer.compile(model("torch", bias=False), LRP(Composite([])), inputs=X)
    found = whole.explanation(X, target=1)
    np.testing.assert_array_equal(found.incomplete, np.zeros(5, bool))
    half = Explainer.compile(model("torch", bias=False), LRP(Composite([], Half())), inputs=X)
    with pytest.warns(IncompleteWarning, match="5 of 5 samples do not add up"):
        half(X, target=1)
    biased = Explainer.compile(model("torch"), LRP(Composite([], Half())), inputs=X)
    assert biased.explanation(X, target=1).incomplete is None  # nothing is promised
    absorbing = Explainer.compile(model("torch", bias=False), LRP(Composite([], Epsilon(0.25))), inputs=X)
    assert absorbing.explanation(X, target=1).incomplete is None


@pytest.mark.parametrize("method", ["gradient", "integrated_gradients", "occlusion", "shapley_sampling", "elrp"])
def test_other_methods_promise_nothing_by_rule(method: str) -> None:
    assert Explainer.compile(model("torch"), method, inputs=X).explanation(X, target=1).incomplete is None


def test_what_the_caller_lets_pass_is_not_promised() -> None:
    import torch

    class Net(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.cumprod(x, 1)

    explain = Explainer.compile(Net(), methods.DeepLift(unsupported="gradient"), inputs=X)
    assert explain.coverage.approximate
    assert explain.explanation(X, target=1).incomplete is None


def test_nan_is_incomplete_and_a_change_that_is_none_is_an_error() -> None:
    """NaN in place of attributions of a finite output is told; so is what rounding does not explain."""
    import torch

    from explainers.explainer.completeness import check
    from explainers.run.call import Ends

    explain = Explainer.compile(model("torch"), "deeplift", inputs=X)
    request = explain.request(np.repeat(X[:1], 7, 0), target=1)
    (chunk,) = request.packages.run(request.call)
    wanted = np.array([1, 1, 1, 1, 0.998, 1.0009, 1e-9], np.float32)
    totals = np.array([1, np.nan, np.inf, 1, 1, 1, 0], np.float32)
    outputs = np.zeros((7, 3), np.float32)
    outputs[:, 1] = wanted
    chunk.attributions = [torch.tensor(totals[:, None])]
    chunk.ends = Ends(torch.tensor(outputs), torch.zeros(1, 3))
    found = check(request.packages, request.call, [chunk])
    np.testing.assert_array_equal(found.which, [False, True, True, False, True, False, True])
    assert found.count == 4
    outputs[3, 1] = np.nan
    chunk.ends = Ends(torch.tensor(outputs), torch.zeros(1, 3))
    with pytest.raises(NonFiniteError, match="the change of the output: NaN in sample 3 of 7"):
        check(request.packages, request.call, [chunk])


@pytest.mark.parametrize("ahead", [0, 2])
def test_a_stream_warns_once_of_all_its_samples(ahead: int, broken: None) -> None:
    x = np.random.default_rng(0).normal(size=(40, 6)).astype(np.float32)
    explain = Explainer.compile(model("torch"), "deeplift", inputs=x[:1])
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        list(explain.stream(x, target=1, block=8, ahead=ahead))
    (warning,) = [w for w in seen if issubclass(w.category, IncompleteWarning)]
    assert f"attributions of {explain.stats.incomplete} samples do not add up" in str(warning.message)
    assert explain.stats.incomplete > 8

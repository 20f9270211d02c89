"""KServe's V1 protocol: requests, answers, and refusals."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from explainers import Explainer, References, methods

from .live import Live, live
from .nets import cnn, explainers, images

X = images(3)


def test_the_models(server: Live) -> None:
    assert server.get("/v1/models").json() == {"models": list(explainers())}
    result = server.get("/v1/models/ig").json()
    assert result["ready"]
    assert result["inputs"] == [{"name": "input", "dtype": "float32", "shape": [-1, 1, 8, 8]}]
    assert result["parameters"] == [
        "target", "baseline", "seed", "timeout", "format", "steps", "quadrature", "tolerance", "max_steps",
    ]  # fmt: skip


def test_a_prediction(server: Live) -> None:
    answer = server.post("/v1/models/saliency:predict", json={"instances": X.tolist()})
    import torch

    np.testing.assert_allclose(answer.json()["predictions"], cnn()(torch.from_numpy(X)).detach(), rtol=1e-5)


def test_no_request_compiles() -> None:
    explain = Explainer.compile(cnn(), "integrated_gradients", inputs=X)
    with live({"ig": explain}) as server:
        traces, shapes = explain.stats.traces, list(explain.stats.compiled_shapes)
        server.post("/v1/models/ig:predict", json={"instances": X.tolist()}).raise_for_status()
        server.explain("ig", X, target=1, steps=200).raise_for_status()
        assert (explain.stats.traces, explain.stats.compiled_shapes) == (traces, shapes)


def test_what_cannot_explain_zeros_is_served(caplog: pytest.LogCaptureFixture) -> None:
    import torch

    class Log(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.log(x.abs().sum(1, keepdim=True))

    method = methods.IntegratedGradients(tolerance=1e-3)
    explain = Explainer.compile(Log(), method, inputs=torch.ones(1, 2), baseline=1.0)
    with live({"log": explain}) as server:
        assert "no warmup of 'log'" in caplog.text
        answer = server.explain("log", np.array([[2.0, 3.0]]), target=0).raise_for_status().json()
    np.testing.assert_allclose(np.sum(answer["explanations"]), np.log(2.5), rtol=2e-3)


ASKED: list[tuple[str, dict[str, Any], dict[str, Any]]] = [
    ("saliency", {"target": 3}, {"target": 3}),
    ("saliency", {"target": [3, 1, 0]}, {"target": [3, 1, 0]}),
    ("saliency", {"target": "max"}, {"target": "max"}),
    ("saliency", {"target": [0.5] + [0.0] * 8 + [-1.5]}, {"target": np.array([0.5] + [0.0] * 8 + [-1.5])}),
    ("ig", {"target": 1, "baseline": 0.5}, {"target": 1, "baseline": 0.5}),
    ("ig", {"target": 1, "baseline": X[0].tolist()}, {"target": 1, "baseline": X[0]}),
    ("ig", {"target": 1, "baseline": X[::-1].tolist()}, {"target": 1, "baseline": X[::-1]}),
    ("ig", {"target": 1, "baseline": {"input": 0.25}}, {"target": 1, "baseline": 0.25}),
    ("shap", {"target": 1, "baseline": {"references": X.tolist()}, "seed": 5},
     {"target": 1, "baseline": References(X), "seed": 5}),
    ("shap", {"target": 1, "baseline": {"references": [X.tolist()] * len(X), "per_sample": True}, "seed": 5},
     {"target": 1, "baseline": References(X), "seed": 5}),
    ("smooth", {"target": 1, "seed": [4, 5, 6]}, {"target": 1, "seed": [4, 5, 6]}),
    ("shapley", {"target": "max", "seed": 9}, {"target": "max", "seed": 9}),
]  # fmt: skip


@pytest.mark.parametrize(("name", "parameters", "arguments"), ASKED)
def test_what_comes_is_what_the_explainer_returns(
    server: Live, name: str, parameters: dict[str, Any], arguments: dict[str, Any]
) -> None:
    answer = server.explain(name, X, **parameters).json()
    scores = explainers()[name].explanation(X, **arguments)
    assert set(answer) == {"predictions", "explanations"}
    np.testing.assert_allclose(answer["explanations"], scores.attributions, rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(answer["predictions"], scores.outputs, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("effort", [{"steps": 7}, {"steps": 16, "quadrature": "midpoint"}, {"tolerance": 0.01}])
def test_effort(server: Live, effort: dict[str, Any]) -> None:
    traces = explainers()["ig"].stats.traces
    answer = server.explain("ig", X, target=2, **effort).json()
    expected = explainers()["ig"].replace(**effort)(X, target=2)
    np.testing.assert_allclose(answer["explanations"], expected, rtol=1e-4, atol=1e-6)
    assert explainers()["ig"].stats.traces == traces


def test_all_outputs(server: Live) -> None:
    answer = server.explain("ablation", X, target="all").json()
    expected = explainers()["ablation"](X, target="all")
    np.testing.assert_allclose(answer["explanations"], np.moveaxis(expected, 1, 0), rtol=1e-4, atol=1e-6)
    full = server.explain("ablation", X, target="all", format="full").json()["explanations"]
    assert [element["outputIndex"] for element in full[2]] == [[k] for k in range(10)]
    np.testing.assert_allclose(full[2][4]["featureAttributions"]["input"], expected[4, 2], rtol=1e-4, atol=1e-6)


def test_the_full_form(server: Live) -> None:
    answer = server.explain("ig", X, target=[1, 2, 3], format="full").json()
    scores = explainers()["ig"].explanation(X, target=[1, 2, 3])
    for number, element in enumerate(answer["explanations"]):
        target = number + 1
        assert element["outputIndex"] == [target]
        assert element["outputName"]
        assert element["instanceOutputValue"] == pytest.approx(scores.outputs[number, target], rel=1e-5)
        assert element["baselineOutputValue"] == pytest.approx(scores.baseline_outputs[number, target], rel=1e-5)
        assert 0 <= element["approximationError"] < 0.05
        assert element["evaluations"] == 50
        np.testing.assert_allclose(element["featureAttributions"]["input"], scores.attributions[number], rtol=1e-4)


def test_the_standard_error_of_a_sampling_method(server: Live) -> None:
    (element,) = server.explain("smooth", X[:1], target=1, format="full").json()["explanations"]
    expected = explainers()["smooth"].explanation(X[:1], target=1).standard_error
    np.testing.assert_allclose(element["standardError"]["input"], expected[0], rtol=1e-4, atol=1e-7)
    assert element["baselineOutputValue"] is None


def test_several_inputs(server: Live) -> None:
    rng = np.random.default_rng(1)
    image, numbers = rng.random((2, 3, 4), dtype=np.float32), rng.random((2, 3), dtype=np.float32)
    instances = [{"image": i.tolist(), "numbers": n.tolist()} for i, n in zip(image, numbers, strict=True)]
    answer = server.explain("two", instances, target=1).json()
    expected = explainers()["two"](image, numbers, target=1)
    for number, element in enumerate(answer["explanations"]):
        np.testing.assert_allclose(element["image"], expected[0][number], rtol=1e-4, atol=1e-6)
        np.testing.assert_allclose(element["numbers"], expected[1][number], rtol=1e-4, atol=1e-6)


ONE = X[:1].tolist()
RAGGED = [X[0].tolist(), X[1, :, :7].tolist()]
BAD: list[tuple[str, Any, dict[str, Any], int, str]] = [
    ("saliency", [], {}, 400, "'instances' must be a list of one instance or more"),
    ("saliency", "abc", {}, 400, "'instances' must be a list"),
    ("saliency", {"a": 1}, {}, 400, "'instances' must be a list"),
    ("saliency", RAGGED, {"target": 1}, 400, "instances[1][0]: expected a list of 8 like the first; got a list of 7"),
    ("saliency", X[:, 0].tolist(), {"target": 1}, 400, "of shape [1, 8, 8] for each instance; got [8, 8]"),
    ("saliency", [[[["x"] * 8] * 8]], {"target": 1}, 400, "instances[0][0][0][0]: expected a number; got a string"),
    ("saliency", [[[[None] * 8] * 8]], {"target": 1}, 400, "got null"),
    ("saliency", [[[[True] * 8] * 8]], {"target": 1}, 400, "got true or false"),
    ("saliency", [[[[1e300] * 8] * 8]], {"target": 1}, 422, "infinity in instance 0"),
    ("saliency", [[[[10**40] * 8] * 8]], {"target": 1}, 422, "infinity in instance 0"),
    ("saliency", ONE, {}, 400, "no target given"),
    ("saliency", ONE, {"target": 10}, 400, "target 10 at position 0 is out of range"),
    ("saliency", ONE, {"target": -1}, 400, "target -1"),
    ("saliency", ONE, {"target": [1, 2]}, 400, "2 targets for 1 instances"),
    ("saliency", ONE, {"target": 10**30}, 400, "target"),
    ("saliency", ONE, {"target": 1.5}, 400, "neither integers nor a mask"),
    ("saliency", ONE, {"target": [[1], [2, 3]]}, 400, "target[1]: expected a list of 1 like the first"),
    ("saliency", ONE, {"target": {"a": 1}}, 400, "target: expected a number; got an object"),
    ("saliency", ONE, {"target": "largest"}, 400, "unknown target 'largest'"),
    ("saliency", ONE, {"target": "all"}, 400, "needs a forward-only method"),
    ("saliency", ONE, {"target": 1, "baseline": 0}, 400, "has no baseline"),
    ("saliency", ONE, {"target": 1, "steps": 5}, 400, "unknown parameter 'steps'"),
    ("ig", ONE, {"target": 1, "stepz": 5}, 400, "Did you mean 'steps'? Known: baseline, format, max_steps"),
    ("ig", ONE, {"target": 1, "steps": 0}, 400, "steps must be a whole number ≥ 1; got 0"),
    ("ig", ONE, {"target": 1, "steps": -3}, 400, "steps"),
    ("ig", ONE, {"target": 1, "steps": "5"}, 400, "steps"),
    ("ig", ONE, {"target": 1, "steps": True}, 400, "steps"),
    ("ig", ONE, {"target": 1, "steps": 5000}, 400, "steps may be at most 4096; got 5000"),
    ("ig", ONE * 10, {"target": 1, "steps": 4000}, 413, "10 instances take 40000 evaluations of the model; 20000"),
    ("ig", ONE, {"target": 1, "quadrature": "simpson"}, 400, "quadrature must be one of"),
    ("ig", ONE, {"target": 1, "tolerance": "x"}, 400, "tolerance"),
    ("ig", ONE, {"target": 1, "tolerance": 1e-30, "max_steps": 64}, 422, "Raise max_steps or tolerance"),
    ("ig", ONE, {"target": 1, "baseline": "black"}, 400, "baseline: expected a number; got a string"),
    ("ig", ONE, {"target": 1, "baseline": [1, 2]}, 400, "baseline of shape [2]"),
    ("ig", ONE, {"target": 1, "baseline": {"other": 1}}, 400, "the attributed inputs are ['input']"),
    ("ig", ONE, {"target": 1, "baseline": {"references": ONE}}, 400, 'not {"references": […]}'),
    ("shap", ONE, {"target": 1, "baseline": {"references": 3}}, 400, '{"references": […]} of shape []'),
    ("shap", ONE, {"target": 1, "baseline": {"references": [ONE], "per_sample": "yes"}}, 400, "true or false"),
    ("shap", ONE, {"target": 1, "baseline": {"references": ONE, "more": 1}}, 400, "got ['more', 'references']"),
    ("smooth", ONE, {"target": 1, "seed": 1.5}, 400, "seed must be an integer"),
    ("smooth", ONE, {"target": 1, "seed": [1, 2]}, 400, "seed must be an int, or 1 ints"),
    ("smooth", ONE, {"target": 1, "samples": 10**12}, 400, "samples may be at most 20000"),
    ("smooth", ONE, {"target": 1, "timeout": 0}, 400, "timeout must be seconds above 0"),
    ("smooth", ONE, {"target": 1, "timeout": 1e9}, 400, "timeout"),
    ("smooth", ONE, {"target": 1, "format": "xml"}, 400, "unknown format 'xml'. Known: full, raw"),
    ("shapley", ONE, {"target": 1, "antithetic": 1}, 400, "antithetic"),
    ("shapley", ONE, {"target": 1, "permutations": 20000}, 413, "evaluations of the model"),
    ("ablation", ONE * 2000, {"target": "all"}, 413, "numbers"),
    ("two", ONE, {"target": 1}, 400, "instances[0]: an object with the inputs image, numbers expected"),
    ("two", [{"image": 1}], {"target": 1}, 400, "the fields ['image'] given; the inputs are image, numbers"),
    ("nope", ONE, {"target": 1}, 404, "unknown model 'nope'"),
]  # fmt: skip


@pytest.mark.parametrize(("name", "instances", "parameters", "status", "reason"), BAD)
def test_bad_input_is_refused_with_the_reason(
    server: Live, name: str, instances: Any, parameters: dict[str, Any], status: int, reason: str
) -> None:
    answer = server.explain(name, instances, **parameters)
    assert answer.status_code == status, answer.text
    assert list(answer.json()) == ["error"]
    assert reason in answer.json()["error"]


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (b"", "the body is not JSON"),
        (b"{", "the body is not JSON"),
        (b"[1, 2]", "the body must be a JSON object; got a list of 2"),
        (b'{"instances": [NaN]}', "the body is not JSON"),
        (b'{"instances": [1e999]}', "the body is not JSON"),
        (b'{"instances": [[1]], "signature_name": "x"}', "unknown field 'signature_name'"),
        (b'{"instances": [[1]], "parameters": 5}', "got [1]"),
        (b"[" * 100_000, "the body is not JSON"),
        (b'{"instances": ' + b"[" * 900 + b"1" + b"]" * 900 + b"}", "expected"),
        ("\udcff".encode("utf-8", "surrogateescape"), "the body is not JSON"),
    ],
)
def test_bodies_that_are_no_request(server: Live, body: bytes, reason: str) -> None:
    answer = server.post("/v1/models/saliency:explain", content=body, headers={"Content-Type": "application/json"})
    assert answer.status_code == 400
    assert reason in answer.json()["error"]


def test_predictions_take_no_other_parameters(server: Live) -> None:
    body = {"instances": ONE, "parameters": {"target": 1}}
    answer = server.post("/v1/models/saliency:predict", json=body)
    assert answer.status_code == 400
    assert "takes only the parameter 'timeout'" in answer.json()["error"]


def test_a_body_of_mebibytes_is_explained_off_the_event_loop(server: Live) -> None:
    x = images(300)
    answer = server.explain("saliency", x, target="max")
    np.testing.assert_allclose(
        answer.json()["explanations"], explainers()["saliency"](x, target="max"), rtol=1e-4, atol=1e-6
    )


@pytest.fixture(scope="module")
def of_ids() -> Iterator[Live]:
    """Models of int64, int32 and floating-point inputs."""
    import torch

    class Bag(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.e = torch.nn.Embedding(10, 2)

        def forward(self, ids: torch.Tensor) -> torch.Tensor:
            return self.e(ids).sum(1)

    made = {d: Explainer.compile(Bag(), "gradient", inputs=np.zeros((1, 2), d), wrt="e") for d in ("int64", "int32")}
    made["float32"] = Explainer.compile(torch.nn.Linear(2, 2), "gradient", inputs=torch.zeros(1, 2))
    with live(made) as server:
        yield server


@pytest.mark.parametrize("name", ["int64", "int32"])
@pytest.mark.parametrize("value", [2**63, 2**64 - 1, 2**64, 10**30, -(2**63) - 1, 9.3e18])
def test_integers_that_do_not_fit_are_refused(of_ids: Live, name: str, value: float) -> None:
    tensor = {"name": "ids", "shape": [1, 2], "datatype": "UINT64", "data": [value, 1]}
    v2 = {"inputs": [tensor], "parameters": {"target": 0}}
    for answer in (of_ids.explain(name, [[value, 1]], target=0), of_ids.post(f"/v2/models/{name}/infer", json=v2)):
        assert answer.status_code == 400, answer.text
        assert any(words in answer.json()["error"] for words in ("holds", "whole numbers", "datatype"))


def test_integers_of_half_the_size_do_not_wrap(of_ids: Live) -> None:
    answer = of_ids.explain("int32", [[1, 2**32 + 1]], target=0)
    assert answer.status_code == 400
    assert "holds 4294967297 at [0, 1]; the model takes int32" in answer.json()["error"]
    assert of_ids.explain("int32", [[1, 3]], target=0).json()["explanations"] == [[[1, 0], [1, 0]]]


@pytest.mark.parametrize("value", [2**63, 2**64, 10**30])
def test_large_integers_are_numbers_where_numbers_are_taken(of_ids: Live, value: int) -> None:
    answer = of_ids.explain("float32", [[value, 1]], target=0)
    assert answer.status_code == 200
    for parameters in ({"target": value}, {"target": [value]}):
        assert of_ids.explain("float32", [[1, 1]], **parameters).status_code == 400

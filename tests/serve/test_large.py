"""Bodies that are large, deep or wide, and what is echoed of them."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import orjson
import pytest

from explainers import errors
from explainers.serve import large
from explainers.serve.arrays import array_of, parse

from .live import Live
from .nets import explainers, images

X = images(1)
TYPE = {"Content-Type": "application/json"}
LONG = "a" * 100_000
MIB = 2**20


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Bodies of any size count as large, and slices end after a few numbers."""
    monkeypatch.setattr(large, "LARGE_BODY", 0)
    monkeypatch.setattr("explainers.serve.arrays.LARGE_BODY", 0)
    monkeypatch.setattr(large, "LARGE_ARRAY", 4)
    monkeypatch.setattr(large, "SLICE", 32)


def read(text: str) -> Any:
    """A body's value with every large array read."""

    def arrays(value: Any) -> Any:
        if isinstance(value, large.LargeArray):
            return array_of(value, "it").tolist()
        if isinstance(value, dict):
            return {name: arrays(entry) for name, entry in value.items()}
        return [arrays(entry) for entry in value] if isinstance(value, list) else value

    return arrays(parse(text.encode()))


@pytest.mark.parametrize(
    "text",
    [
        '{"a": [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12]}',
        '{"a":[[1,2],[3,4],[5,6]],"b":[0.5,-1e-3,2],"c":"[1,2,3,4,5]"}',
        '{ "a" : \n[ [ [ 1 , 2 ] , [ 3 , 4 ] ] ]\t, "b": {"c": [[1],[2],[3],[4]] } }',
        '{"a": [{"b": [1, 2, 3, 4], "c": [[5, 6, 7]]}, {"b": [8, 9, 10, 11], "c": "x"}]}',
        '{"a": [[[[[[[1, 2, 3]]]]]]], "b": [12345678], "c": 123456789, "d": [true, 1, 2, 3, 4, 5]}',
        '{"\\"a": [1, 2, 3, 4], "b\\\\": [5, 6, 7, 8]}',
        '{"a": [9223372036854775807, 9223372036854775806], "b": [18446744073709551615, 1]}',
        '{"c": [1, "x", 2, 3, 4], "d": null}',
    ],
)
@pytest.mark.usefixtures("small")
def test_large_bodies_are_read_as_small_ones_are(text: str) -> None:
    assert read(text) == json.loads(text)


def test_slices_give_the_array_that_one_piece_gives(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    monkeypatch.setattr("explainers.serve.arrays.LARGE_BODY", 0)
    monkeypatch.setattr(large, "LARGE_ARRAY", 16)
    for shape in ((50,), (7, 5), (3, 1, 4, 5), (1, 1, 60), (40, 1)):
        for array in (rng.random(shape), rng.integers(-99, 99, shape)):
            for size in (32, 50, 100, 10_000):
                monkeypatch.setattr(large, "SLICE", size)
                found = array_of(parse(b'{"x":' + orjson.dumps(array.tolist()) + b"}")["x"], "x")
                np.testing.assert_array_equal(found, array)
                assert found.dtype == array.dtype


@pytest.mark.parametrize(
    "array",
    [
        "[1, 2, 3, 4", "[1, 2, , 3, 4]", "[[1, 2], [3]]", "[1, 2, 3, 4]]", "[[1, 2, 3, 4]", "[[1, 2], 3, [4, 5]]",
        "[[], [], []]", "[[1, 2], []]", "[1, 2, 3, 4,]", "[1 2, 3, 4]", "[1[, 2, 3, 4]]", "[[1, 2]3, [4, 5]]",
        "[[0, ]1, [2, 3]]", "[1-, 2, 3, 4]", "[01, 2, 3, 4]", "[1, 2, 3, 4] [5]", "[1.e, 2, 3, 4]", "[--1, 2, 3]",
        "[[[1, 2]], [3, 4]]", "[1, [2], 3, 4]", "[1, 2, 3, 123456789012345678901234567890",
        "[" * 40 + "1, 2, 3" + "]" * 40,
    ],
)  # fmt: skip
@pytest.mark.usefixtures("small")
def test_irregular_arrays_are_refused_wherever_slices_end(array: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for size in (8, 12, 1000):
        monkeypatch.setattr(large, "SLICE", size)
        with pytest.raises(errors.InputError):
            read(f'{{"a": {array}, "b": 1}}')


@pytest.mark.usefixtures("small")
def test_an_array_within_a_string_is_not_cut_out() -> None:
    with pytest.raises(errors.InputError, match="not JSON"):
        read('{"a": "b:[1, 2, 3, 4, 5]c"}')


WIDE = {
    "brackets": b"[" * 16 * MIB,
    "deep": b"[" * 8 * MIB + b"]" * 8 * MIB,
    "empty lists": b"[" + b"[]," * (5 * MIB) + b"[]]",
    "lists of one": b"[" + b"[0]," * (4 * MIB) + b"[0]]",
    "objects": b"[" + b"{}," * (5 * MIB) + b"{}]",
    "keys": b"[{" + b",".join(b'"%x":0' % number for number in range(MIB)) + b"}]",
    "strings": b"[" + b'"",' * (2 * MIB) + b'""]',
    "deep and wide": b"[" + (b"[" * 500 + b"]" * 500 + b",") * 10_000 + b"0]",
    "null": b"[" + b"null," * (5 * MIB) + b"null]",
    "one number": b"[" + b"1" * (16 * MIB) + b"]",
    "no number": b"[" + b" " * (16 * MIB) + b"]",
}


@pytest.mark.parametrize("name", WIDE)
def test_what_would_cost_too_much_is_refused_before_it_is_parsed(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    entries = []
    loads = orjson.loads
    monkeypatch.setattr(
        orjson, "loads", lambda text: entries.append(bytes(text).count(b"[") + bytes(text).count(b"{")) or loads(text)
    )
    with pytest.raises(errors.InputError) as failure:
        array_of(parse(b'{"instances":' + WIDE[name] + b"}")["instances"], "instances")
    assert len(str(failure.value)) < 300
    assert max(entries, default=0) <= 2**18


def test_a_large_request_is_answered(server: Live) -> None:
    x = images(500)
    body = orjson.dumps({"instances": x.tolist(), "parameters": {"target": [number % 10 for number in range(500)]}})
    assert len(body) > large.LARGE_BODY
    answer = server.post("/v1/models/saliency:explain", content=body, headers=TYPE).raise_for_status().json()
    expected = explainers()["saliency"](x, target=np.arange(500) % 10)
    np.testing.assert_allclose(answer["explanations"], expected, rtol=1e-4, atol=1e-6)
    tensor = {"name": "input", "shape": list(x.shape), "datatype": "FP32", "data": x.ravel().tolist()}
    body = orjson.dumps({"inputs": [tensor], "parameters": {"target": "max"}, "outputs": [{"name": "attributions"}]})
    answer = server.post("/v2/models/saliency/infer", content=body, headers=TYPE).raise_for_status().json()
    np.testing.assert_allclose(
        answer["outputs"][0]["data"], explainers()["saliency"](x, target="max").ravel(), rtol=1e-4, atol=1e-6
    )


# --- what is echoed ------------------------------------------------------------------------------

ONE = X.tolist()
TENSOR: dict[str, Any] = {"name": "input", "shape": [1, 1, 8, 8], "datatype": "FP32", "data": X.ravel().tolist()}
PARAMETERS: list[dict[str, Any]] = [
    {LONG: 1}, {"target": LONG}, {"format": LONG}, {"format": [0] * 9999}, {"format": [[LONG] * 9]},
    {"quadrature": LONG}, {"quadrature": [1] * 9999}, {"steps": LONG}, {"baseline": {LONG: 1}},
    {"baseline": {LONG: "x"}},
    {"baseline": {"references": 1, LONG: 1}}, {"timeout": [0] * 9999}, {"timeout": LONG}, {"seed": LONG},
    {"baseline": {"references": {LONG: 1}}},
]  # fmt: skip
BODIES: list[tuple[str, dict[str, Any]]] = [
    *[("/v1/models/ig:explain", {"instances": ONE, "parameters": {"target": 1} | given}) for given in PARAMETERS],
    ("/v1/models/ig:explain", {LONG: 1}),
    ("/v1/models/two:explain", {"instances": [{LONG: 1}]}),
    ("/v1/models/two:explain", {"instances": [{str(number): 1 for number in range(9999)}]}),
    ("/v1/models/" + "a" * 9999 + ":explain", {"instances": ONE}),
    ("/v2/models/ig/infer", {LONG: 1}),
    ("/v2/models/ig/infer", {"inputs": [TENSOR | {"name": LONG}]}),
    ("/v2/models/ig/infer", {"inputs": [TENSOR | {"datatype": LONG}]}),
    ("/v2/models/ig/infer", {"inputs": [TENSOR | {"datatype": [1] * 9999}]}),
    ("/v2/models/ig/infer", {"inputs": [TENSOR | {"shape": [1] * 9999}]}),
    ("/v2/models/ig/infer", {"inputs": [TENSOR | {"parameters": {"binary_data_size": LONG}}]}),
    ("/v2/models/ig/infer", {"inputs": [TENSOR], "outputs": [{"name": LONG}]}),
]


@pytest.mark.parametrize("number", range(len(BODIES)))
def test_what_is_echoed_is_short(server: Live, number: int) -> None:
    path, body = BODIES[number]
    answer = server.post(path, json=body)
    assert answer.status_code in (400, 404)
    message = answer.json()["error"]
    assert len(message) < 500
    assert "a" * 102 not in message
    if LONG in json.dumps(body):
        assert "aaaa" in message or "got a string" in message


@pytest.mark.parametrize(
    "shape", [[0] + [2**39] * 31, [2**39] * 31 + [0], [2**39] * 32, [0, 2**39, 2**39], [2**39, 0], [10**300, 0]]
)
def test_shapes_whose_product_is_absurd(server: Live, shape: list[int]) -> None:
    binary = {key: TENSOR[key] for key in ("name", "datatype")} | {"parameters": {"binary_data_size": 0}}
    for tensor in (TENSOR | {"data": []}, TENSOR, binary):
        answer = server.infer("ig", inputs=[tensor | {"shape": shape}], parameters={"target": 1})
        assert answer.status_code == 400, answer.text
        assert len(answer.json()["error"]) < 600


def test_integers_are_refused_where_they_would_be_rounded(server: Live) -> None:
    for value in (2**53 + 1, -(2**53) - 1, 2**63 - 1, 2**64 - 1):
        given = X.astype(object)
        given[0, 0, 3, 3] = value
        for floats in (X.astype(object), np.ones_like(given)):  # among floating-point numbers, and among integers
            floats[0, 0, 3, 3] = value
            tensor = TENSOR | {"data": floats.ravel().tolist()}
            requests = [
                ("/v1/models/ig:explain", {"instances": floats.tolist(), "parameters": {"target": 1}}),
                ("/v1/models/ig:explain", {"instances": ONE, "parameters": {"target": 1, "baseline": floats.tolist()}}),
                ("/v2/models/ig/infer", {"inputs": [tensor], "parameters": {"target": 1}}),
            ]
            for path, body in requests:
                answer = server.post(path, json=body)
                assert answer.status_code == 400
                assert f"the integer {value} would be rounded" in answer.json()["error"]
    exact = {"instances": ONE, "parameters": {"target": 1, "baseline": 2**53}}
    assert server.post("/v1/models/ig:explain", json=exact).status_code == 200

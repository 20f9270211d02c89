"""The Open Inference Protocol V2, with tensors in JSON and in binary."""

from __future__ import annotations

import json
import struct
from typing import Any

import httpx
import numpy as np
import pytest

from .live import Live
from .nets import explainers, images

X = images(3)


def tensor(x: np.ndarray = X, **others: Any) -> dict[str, Any]:
    return {"name": "input", "shape": list(x.shape), "datatype": "FP32", "data": x.ravel().tolist()} | others


def binary(
    server: Live, name: str, head: dict[str, Any], *arrays: np.ndarray, length: str | None = None
) -> httpx.Response:
    text = json.dumps(head).encode()
    body = b"".join([text, *(array.tobytes() for array in arrays)])
    headers = {
        "Inference-Header-Content-Length": length or str(len(text)), "Content-Type": "application/octet-stream"
    }  # fmt: skip
    return server.post(f"/v2/models/{name}/infer", content=body, headers=headers)


def decoded(answer: httpx.Response) -> dict[str, np.ndarray]:
    """The outputs of a response by name, binary or not."""
    length = int(answer.headers.get("Inference-Header-Content-Length", len(answer.content)))
    rest = answer.content[length:]
    result = {}
    for output in json.loads(answer.content[:length])["outputs"]:
        size = output.get("parameters", {}).get("binary_data_size")
        if size is None:
            array = np.array(output["data"], "float32")
        else:
            array, rest = np.frombuffer(rest[:size], "<f4"), rest[size:]
        result[output["name"]] = array.reshape(output["shape"])
    assert not rest
    return result


def test_metadata_and_health(server: Live) -> None:
    assert server.get("/v2").json()["extensions"] == ["binary_tensor_data"]
    for path in ("/v2/health/live", "/v2/health/ready", "/v2/models/ig/ready", "/healthz"):
        assert server.get(path).status_code == 200
    result = server.get("/v2/models/smooth").json()
    assert result["inputs"] == [{"name": "input", "datatype": "FP32", "shape": [-1, 1, 8, 8]}]
    assert [output["name"] for output in result["outputs"]] == ["outputs", "attributions", "standard_error"]
    names = [output["name"] for output in server.get("/v2/models/two").json()["outputs"]]
    assert names == ["outputs", "attributions.image", "attributions.numbers"]


def test_tensors_in_json(server: Live) -> None:
    answer = server.infer("ig", id="seven", model_name="ig", inputs=[tensor()], parameters={"target": 2, "steps": 9})
    assert answer.json()["id"] == "seven"
    assert answer.json()["model_name"] == "ig"
    found, want = decoded(answer), explainers()["ig"].replace(steps=9).explanation(X, target=2)
    np.testing.assert_allclose(found["attributions"], want.attributions, rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(found["outputs"], want.outputs, rtol=1e-4, atol=1e-6)


def test_tensors_in_binary(server: Live) -> None:
    sent = tensor(parameters={"binary_data_size": X.nbytes})
    del sent["data"]
    head = {"inputs": [sent], "parameters": {"target": [3, 2, 1], "seed": 4, "binary_data_output": True}}
    result = decoded(binary(server, "smooth", head, X))
    expected = explainers()["smooth"].explanation(X, target=[3, 2, 1], seed=4)
    np.testing.assert_allclose(result["attributions"], expected.attributions, rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(result["standard_error"], expected.standard_error, rtol=1e-4, atol=1e-6)
    head["outputs"] = [{"name": "attributions"}, {"name": "outputs", "parameters": {"binary_data": False}}]
    assert list(decoded(binary(server, "smooth", head, X))) == ["attributions", "outputs"]


def test_several_inputs_binary_and_not(server: Live) -> None:
    rng = np.random.default_rng(1)
    image, numbers = rng.random((2, 3, 4)), rng.random((2, 3), dtype=np.float32)
    options = [
        {"name": "numbers", "shape": [2, 3], "datatype": "FP32", "data": numbers.tolist()},
        {"name": "image", "shape": [2, 3, 4], "datatype": "FP64", "parameters": {"binary_data_size": image.nbytes}},
    ]
    answer = binary(server, "two", {"inputs": options, "parameters": {"target": 1}}, image)
    expected = explainers()["two"](image, numbers, target=1)
    result = {output["name"]: np.array(output["data"]) for output in answer.json()["outputs"]}
    np.testing.assert_allclose(result["attributions.image"], expected[0].ravel(), rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(result["attributions.numbers"], expected[1].ravel(), rtol=1e-4, atol=1e-6)


def test_half_precision(server: Live) -> None:
    half = X.astype(np.float16)
    sent = {"name": "input", "shape": [3, 1, 8, 8], "datatype": "FP16", "parameters": {"binary_data_size": half.nbytes}}
    result = decoded(binary(server, "saliency", {"inputs": [sent], "parameters": {"target": 1}}, half))
    expected = explainers()["saliency"](half.astype(np.float32), target=1)
    np.testing.assert_allclose(result["attributions"], expected, rtol=1e-4, atol=1e-6)


BAD: list[tuple[dict[str, Any], str]] = [
    ({}, "'inputs' must be a list of tensors"),
    ({"inputs": 3}, "'inputs' must be a list of tensors"),
    ({"inputs": []}, "no value for input 'input'"),
    ({"inputs": [3]}, "'inputs' must be a list of tensors"),
    ({"inputs": [tensor(name=5)]}, "inputs[0]: a name that no other input has"),
    ({"inputs": [tensor(), tensor()]}, "inputs[1]: a name that no other input has"),
    ({"inputs": [tensor(name="x")]}, "unknown input 'x'"),
    ({"inputs": [tensor(shape=[3, 64])]}, "has shape [3, 64], the model takes [N, 1, 8, 8]"),
    ({"inputs": [tensor(shape=[])]}, "192 numbers given, the shape [] has 1"),
    ({"inputs": [tensor(shape=[-1, 64])]}, "shape must be a list of whole numbers ≥ 0"),
    ({"inputs": [tensor(shape="3")]}, "shape must be a list"),
    ({"inputs": [tensor(shape=[2, 1, 8, 8])]}, "192 numbers given, the shape [2, 1, 8, 8] has 128"),
    ({"inputs": [tensor(shape=[0, 1, 8, 8], data=[])]}, "one instance or more"),
    ({"inputs": [tensor(shape=[10**11] * 9)]}, "192 numbers given"),
    ({"inputs": [tensor(datatype="BYTES")]}, "unknown datatype 'BYTES' of inputs[0] ('input')"),
    ({"inputs": [tensor(datatype=["FP32"])]}, "unknown datatype"),
    ({"inputs": [tensor(datatype="INT32")]}, "a number is not of the datatype INT32"),
    ({"inputs": [tensor(np.ones((1, 1, 8, 8), int), datatype="INT64")]}, "has dtype int64, the model takes float32"),
    ({"inputs": [tensor(data=None)]}, "inputs[0] ('input'): data: expected a number; got null"),
    ({"inputs": [tensor(data="abc")]}, "data: expected a number; got a string"),
    ({"inputs": [tensor(data=[[1, 2], [3]])]}, "data[1]: expected a list of 2 like the first; got a list of 1"),
    ({"inputs": [tensor(parameters={"binary_data_size": 768})]}, "768 bytes announced, 0 there"),
    ({"inputs": [tensor(parameters={"binary_data_size": 5})]}, "768 bytes are the shape"),
    ({"inputs": [tensor(parameters=5)]}, "parameters must be a JSON object"),
    ({"inputs": [tensor()], "outputs": [{"name": "y"}]}, "unknown output 'y'. Known: attributions, outputs"),
    ({"inputs": [tensor()], "outputs": "y"}, "'outputs' must be a list of objects"),
    ({"inputs": [tensor()], "parameters": {"target": 1, "format": "full"}}, "unknown parameter 'format'"),
    ({"inputs": [tensor()], "parameters": {"target": 1, "binary_data_output": 1}}, "must be true or false"),
    ({"inputs": [tensor()], "parameters": {"target": 77}}, "out of range"),
    ({"inputs": [tensor()], "parameters": [1]}, "parameters must be a JSON object"),
    ({"inputs": [tensor()], "raw": 1}, "unknown field 'raw'"),
    ({"inputs": [tensor()], "id": 5}, "id must be a string"),
]


@pytest.mark.parametrize(("body", "reason"), BAD)
def test_bad_input_is_refused_with_the_reason(server: Live, body: dict[str, Any], reason: str) -> None:
    answer = server.infer("saliency", **body)
    assert answer.status_code == 400, answer.text
    assert list(answer.json()) == ["error"]
    assert reason in answer.json()["error"]


@pytest.mark.parametrize("length", ["-1", "x", "999999", "1.5", "９", "1"])
def test_a_wrong_header_length(server: Live, length: str) -> None:
    headers = {b"Inference-Header-Content-Length": length.encode(), b"Content-Type": b"application/octet-stream"}
    answer = server.post("/v2/models/saliency/infer", content=b'{"inputs": []}', headers=headers)
    assert answer.status_code == 400


def test_bytes_too_few_too_many_and_not_finite(server: Live) -> None:
    head = {"inputs": [tensor(parameters={"binary_data_size": X.nbytes}) | {"data": None}]}
    assert "768 bytes announced, 764 there" in binary(server, "saliency", head, X.ravel()[1:]).json()["error"]
    answer = binary(server, "saliency", head, X, X[:1])
    assert "256 bytes follow the last binary tensor" in answer.json()["error"]
    bad = X.copy()
    bad[1, 0, 3, 3] = struct.unpack("<f", b"\x00\x00\xc0\x7f")[0]
    answer = binary(server, "saliency", head | {"parameters": {"target": 1}}, bad)
    assert answer.status_code == 422
    assert "NaN in instance 1" in answer.json()["error"]


def test_an_unknown_model(server: Live) -> None:
    for path in ("/v2/models/x", "/v2/models/x/ready", "/v1/models/x"):
        assert server.get(path).status_code == 404
    assert server.infer("x", inputs=[tensor()]).status_code == 404

"""Requests with KServe's client: run with the server's URL and the name of a model of one (1, 8, 8) input."""

import asyncio
import sys

import numpy as np
from kserve import InferenceRESTClient, InferInput, InferRequest, RESTConfig

url, model = sys.argv[1:3]
x = np.random.default_rng(0).random((2, 1, 8, 8), dtype=np.float32)


async def first() -> np.ndarray:
    client = InferenceRESTClient(RESTConfig(protocol="v1"))
    assert await client.is_model_ready(url, model)
    request = {"instances": x.tolist(), "parameters": {"target": 3}}
    answer = await client.explain(url, data=request, model_name=model)
    print("v1 explain", {name: np.shape(value) for name, value in answer.items()})
    outputs = await client.infer(url, data={"instances": x.tolist()}, model_name=model)
    print("v1 predict", np.shape(outputs["predictions"]))
    try:
        await client.explain(url, data=request | {"parameters": {"target": 33}}, model_name=model)
    except Exception as error:
        print("v1", type(error).__name__, str(error)[:80])
    else:
        raise AssertionError("a target out of range was taken")
    return np.array(answer["explanations"])


async def second(binary: bool) -> np.ndarray:
    client = InferenceRESTClient(RESTConfig(protocol="v2"))
    assert await client.is_server_live(url)
    assert await client.is_server_ready(url)
    assert await client.is_model_ready(url, model)
    tensor = InferInput("input", list(x.shape), "FP32")
    tensor.set_data_from_numpy(x, binary_data=binary)
    request = InferRequest(model, [tensor], parameters={"target": 3, "binary_data_output": binary})
    answer = await client.infer(url, request, model_name=model)
    result = {output.name: output.as_numpy() for output in answer.outputs}
    print("v2", "binary" if binary else "json", {name: array.shape for name, array in result.items()})
    return result["attributions"]


async def main() -> None:
    expected = await first()
    for binary in (True, False):
        np.testing.assert_allclose(await second(binary), expected, rtol=1e-4, atol=1e-7)


asyncio.run(main())

"""Requests with tritonclient: run with the server's address and the name of a model of one (1, 8, 8) input."""

import sys

import numpy as np
import tritonclient.http as triton
from tritonclient.utils import InferenceServerException

address, model = sys.argv[1].removeprefix("http://"), sys.argv[2]
client = triton.InferenceServerClient(address)
assert client.is_server_live()
assert client.is_server_ready()
assert client.is_model_ready(model)
print(client.get_server_metadata())
print(client.get_model_metadata(model))
x = np.random.default_rng(0).random((2, 1, 8, 8), dtype=np.float32)
found = []
for binary in (True, False):
    given = triton.InferInput("input", list(x.shape), "FP32")
    given.set_data_from_numpy(x, binary_data=binary)
    wanted = [triton.InferRequestedOutput(name, binary_data=binary) for name in ("attributions", "outputs")]
    for outputs in (wanted, None):
        answer = client.infer(model, [given], outputs=outputs, parameters={"target": 3}, request_id="one")
        assert answer.get_response()["id"] == "one"
        found.append(answer.as_numpy("attributions"))
        print("binary" if binary else "json", found[-1].shape, answer.as_numpy("outputs")[0, :3])
for other in found:
    np.testing.assert_allclose(other, found[0], rtol=1e-4, atol=1e-7)
try:
    client.infer(model, [given], parameters={"targets": 3})
except InferenceServerException as error:
    status = error.status()
    print(error)
assert status == "400"

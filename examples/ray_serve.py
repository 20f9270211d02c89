"""Explainers on Ray Serve: replicas that come and go with the load, on one machine or many.

pip install 'explainers[torch,ray]' httpx
python examples/ray_serve.py           # or: serve run examples.ray_serve:application
"""

import httpx
import torch
from ray import serve

from explainers import Explainer
from explainers.serve.ray import deployment


def load() -> dict[str, Explainer]:
    """What each replica serves; with saved explainers: ``{"digits": Explainer.load("digits.explainer")}``."""
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.Tanh(), torch.nn.Linear(8, 3))
    return {"iris": Explainer.compile(model, "integrated_gradients", inputs=torch.zeros(1, 4)).warmup([1, 8])}


application = deployment(load, max_replicas=2, ongoing=32, queued=128)

if __name__ == "__main__":
    serve.start(http_options={"host": "127.0.0.1"})
    serve.run(application)
    body = {"instances": [[5.1, 3.5, 1.4, 0.2]], "parameters": {"target": 0}}
    answer = httpx.post("http://127.0.0.1:8000/v1/models/iris:explain", json=body).json()
    print(answer)
    want = load()["iris"](torch.tensor(body["instances"]), target=0)
    assert torch.allclose(torch.tensor(answer["explanations"]), want, rtol=1e-4)
    refused = httpx.post("http://127.0.0.1:8000/v1/models/iris:explain", json={"instances": [[1]]})
    print(refused.status_code, refused.json())
    serve.shutdown()

"""Explainers on Ray Serve, whose replicas are started and stopped with the load, on one machine or several.

pip install 'explainers[torch,ray]' httpx
python examples/ray_serve.py           # or: serve run examples.ray_serve:application
"""

import httpx
import torch
from ray import serve

from explainers import Explainer
from explainers.serve.ray import deployment


def load() -> dict[str, Explainer]:
    """The explainers of each replica; with saved explainers: ``{"digits": Explainer.load("digits.explainer")}``."""
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
    expected = load()["iris"](torch.tensor(body["instances"]), target=0)
    assert torch.allclose(torch.tensor(answer["explanations"]), expected, rtol=1e-4)
    refusal = httpx.post("http://127.0.0.1:8000/v1/models/iris:explain", json={"instances": [[1]]})
    print(refusal.status_code, refusal.json())
    serve.shutdown()

"""Requests with groups of their own, and instances whose size differs from request to request."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
import torch

from explainers import Explainer, TensorSpec, methods

from .live import Live, live
from .nets import images, one

X = images(3)
REGIONS = np.stack([np.kron(np.arange(k * k).reshape(1, k, k), np.ones((8 // k, 8 // k), int)) for k in (1, 2, 4)])


def texts() -> Explainer:
    torch.manual_seed(0)
    embedding = torch.nn.EmbeddingBag(30, 4)
    model = torch.nn.Sequential(embedding, torch.nn.Tanh(), torch.nn.Linear(4, 3))
    return Explainer.compile(model, methods.ShapleySampling(4), inputs=TensorSpec((None, None), "int64"), baseline=0)


@pytest.fixture(scope="module")
def explainers() -> dict[str, Explainer]:
    return {"regions": one(methods.KernelShap(samples=64)), "texts": texts(), "whole": one("saliency")}


@pytest.fixture(scope="module")
def server(explainers: dict[str, Explainer]) -> Iterator[Live]:
    with live(explainers) as client:
        yield client


def test_superpixels(server: Live, explainers: dict[str, Explainer]) -> None:
    assert "groups" in server.get("/v1/models/regions").json()["parameters"]
    assert "groups" not in server.get("/v1/models/whole").json()["parameters"]
    answer = server.explain("regions", X, target=1, groups=REGIONS.tolist()).json()
    expected = explainers["regions"](X, target=1, groups=REGIONS)
    np.testing.assert_allclose(answer["explanations"], expected, rtol=1e-5, atol=1e-6)


def test_texts_of_any_length(server: Live, explainers: dict[str, Explainer]) -> None:
    assert server.get("/v1/models/texts").json()["inputs"] == [{"name": "input", "dtype": "int64", "shape": [-1, -1]}]
    traces = explainers["texts"].stats.traces
    for length in (2, 7, 40):
        ids = np.random.default_rng(length).integers(1, 30, size=(2, length))
        words = np.arange(length)[None].repeat(2, 0) // 2
        answer = server.explain("texts", ids, target=2, groups=words.tolist()).json()
        expected = explainers["texts"](ids, target=2, groups=words)
        np.testing.assert_allclose(answer["explanations"], expected, rtol=1e-5, atol=1e-6)
    assert explainers["texts"].stats.traces == traces


@pytest.mark.parametrize(
    ("name", "groups", "message"),
    [
        ("whole", REGIONS.tolist(), "unknown parameter 'groups'"),
        ("regions", REGIONS[:2].tolist(), "for 3 instances they need"),
        ("regions", "words", "groups: expected a number; got a string"),
        ("regions", (REGIONS + 0.5).tolist(), "integer feature ids"),
    ],
)
def test_wrong_groups(server: Live, name: str, groups: object, message: str) -> None:
    answer = server.explain(name, X, target=1, groups=groups)
    assert answer.status_code == 400
    assert message in answer.json()["error"]

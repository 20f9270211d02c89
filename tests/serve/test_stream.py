"""Server-sent events: running estimates, then the result."""

from __future__ import annotations

import asyncio
import json
import time
from concurrent.futures import Future
from typing import Any

import numpy as np

from explainers import methods
from explainers.run.base import Estimate
from explainers.serve.parameters import Arguments
from explainers.serve.service import Job, Service
from explainers.serve.settings import Settings
from explainers.serve.stream import Events

from .live import Live, live
from .nets import QUARTERS, Gate, explainers, images


def events(text: str) -> list[tuple[str, Any]]:
    result = []
    for block in text.strip().split("\n\n"):
        kind, data = block.split("\n")
        result.append((kind.removeprefix("event: "), json.loads(data.removeprefix("data: "))))
    return result


def test_the_last_event_is_the_result(server: Live) -> None:
    x = images(2)
    answer = server.explain("shapley", x, stream=True, target=1, seed=3)
    assert answer.headers["content-type"].startswith("text/event-stream")
    kind, data = events(answer.text)[-1]
    assert kind == "result"
    expected = explainers()["shapley"](x, target=1, seed=3)
    np.testing.assert_allclose(data["explanations"], expected, rtol=1e-4, atol=1e-6)


def test_errors_before_and_on_the_way(server: Live, gate: Gate) -> None:
    assert server.explain("shapley", images(1), stream=True, target=99).status_code == 400
    with live({"gate": gate.explainer()}) as other:
        answer = other.explain("gate", [[-2.0, 1, 1, 1]], stream=True, target=0)
        assert answer.status_code == 200
        ((kind, data),) = events(answer.text)
        assert kind == "error"
        assert data["status"] == 422
        assert "error" in data


class StubRun:
    """A run of two samples of which the first has an estimate."""

    def __init__(self, number: float) -> None:
        self.number = number

    def estimate(self) -> Any:
        values = np.full((2, 1, 8, 8), self.number)
        values[1] = np.nan
        return Estimate(0, 2, [values], [values / 10], np.array([5, 0]))


def test_estimates_are_few_and_a_slow_client_gets_the_last() -> None:
    explain = explainers()["shapley"]
    service = Service({"shapley": explain}, Settings(stream_interval=0.05))
    x = images(2)
    job = Job(service.model("shapley"), [x], Arguments(target=1))

    class Connected:
        async def receive(self) -> Any:
            await asyncio.sleep(60)

    async def collect() -> list[tuple[str, Any]]:
        stream = Events(service, job)
        future: Future[Any] = Future()
        loop = asyncio.get_running_loop()

        def device() -> None:
            end = time.monotonic() + 0.5
            number = 0.0
            while time.monotonic() < end:
                number += 1
                stream.watch(StubRun(number))
                time.sleep(0.001)
            future.set_result(explain.explanation(x, target=1))

        working = loop.run_in_executor(None, device)
        result = []
        async for block in stream.of(Connected(), future):  # type: ignore[arg-type]
            result += events(block.decode())
            await asyncio.sleep(0.12)  # a slow client
        await working
        return result

    result = asyncio.run(collect())
    service.scheduler.close()
    assert [kind for kind, _ in result][-1] == "result"
    estimates = [data for kind, data in result if kind == "estimate"]
    assert 2 <= len(estimates) <= 6
    assert estimates[0]["attributions"]["input"][1][0][0][0] is None  # NaN: none yet
    assert estimates[0]["evaluations"] == [5, 0]
    numbers = [data["attributions"]["input"][0][0][0][0] for data in estimates]
    assert numbers[-1] > 4 * len(estimates)  # the slow client skipped those in between


def test_estimates_come_near_to_the_result() -> None:
    import torch

    from explainers import Explainer

    from .nets import cnn

    method = methods.ShapleySampling(permutations=4000, groups=QUARTERS)
    explain = Explainer.compile(cnn(), method, inputs=torch.zeros(1, 1, 8, 8), batch_size=64)
    with live({"long": explain}, stream_interval=0.02) as server:
        found = events(server.explain("long", images(1), stream=True, target=1).text)
    assert len(found) > 2
    last, result = found[-2][1], found[-1][1]
    error = np.array(last["standardError"]["input"], float)
    off = np.abs(np.array(last["attributions"]["input"], float) - np.array(result["explanations"]))
    assert (off <= 6 * error + 1e-6).all()

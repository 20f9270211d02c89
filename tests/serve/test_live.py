"""Many clients at once: every client gets its own answer, also while the server stops."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

from .live import Live, live
from .nets import explainers, images

ROOT = Path(__file__).parent.parent.parent


def request_of(number: int) -> tuple[str, np.ndarray, dict[str, Any]]:
    """A request that is different for each number."""
    rng = np.random.default_rng(number)
    x = images(int(rng.integers(1, 9)), seed=number)
    name = ["saliency", "ig", "shapley", "smooth", "shap", "ablation"][number % 6]
    parameters: dict[str, Any] = {"target": rng.integers(0, 10, len(x)).tolist()}
    if name == "ig":
        parameters |= {"steps": int(rng.integers(4, 40)), "baseline": float(rng.random())}
    if name in ("shapley", "smooth", "shap"):
        parameters["seed"] = number
    return name, x, parameters


def offline(number: int) -> np.ndarray:
    name, x, arguments = request_of(number)
    explain = explainers()[name]
    steps = arguments.pop("steps", None)
    result: np.ndarray = (explain.replace(steps=steps) if steps else explain)(x, **arguments)
    return result


def test_mixed_requests_get_what_each_gets_alone(server: Live) -> None:
    expected = [offline(number) for number in range(120)]
    traces = {name: explain.stats.traces for name, explain in explainers().items()}

    def ask(number: int) -> np.ndarray:
        name, x, parameters = request_of(number)
        if number % 3:
            return np.array(server.explain(name, x, **parameters).json()["explanations"])
        tensor = {"name": "input", "shape": x.shape, "datatype": "FP32", "data": x.ravel().tolist()}
        outputs = server.infer(name, inputs=[tensor], parameters=parameters).json()["outputs"]
        (found,) = (output for output in outputs if output["name"] == "attributions")
        return np.array(found["data"]).reshape(found["shape"])

    with ThreadPoolExecutor(24) as pool:
        answers = list(pool.map(ask, range(120)))
    for want, answer in zip(expected, answers, strict=True):
        np.testing.assert_allclose(answer, want, rtol=1e-3, atol=2e-6)
    stats = server.service.scheduler.stats
    assert stats.waiting_rows == 0
    assert {name: explain.stats.traces for name, explain in explainers().items()} == traces


def connect(url: str, count: int) -> None:
    """Open ``count`` connections at once and send a request over each."""
    host, _, port = url.removeprefix("http://").rpartition(":")

    async def one(start: asyncio.Event) -> bytes:
        reader, writer = await asyncio.open_connection(host, int(port))
        await start.wait()
        body = b'{"instances": ' + str(images(1).tolist()).encode() + b', "parameters": {"target": 1}}'
        writer.write(
            b"POST /v1/models/saliency:explain HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\n"
            b"Connection: close\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body)
        )
        answer = await reader.read()
        writer.close()
        return answer

    async def everyone() -> list[bytes]:
        start = asyncio.Event()
        tasks = [asyncio.ensure_future(one(start)) for _ in range(count)]
        await asyncio.sleep(0.2)
        start.set()
        return await asyncio.gather(*tasks)

    answers = asyncio.run(everyone())
    assert [answer[:15] for answer in answers] == [b"HTTP/1.1 200 OK"] * count
    result = [json.loads(answer.partition(b"\r\n\r\n")[2])["explanations"] for answer in answers]
    np.testing.assert_allclose(result, np.broadcast_to(result[0], np.shape(result)), rtol=1e-4, atol=1e-6)


def test_two_hundred_connections(server: Live) -> None:
    connect(server.url, 200)


@pytest.mark.slow
def test_a_thousand_connections() -> None:
    with live(explainers()) as server:
        connect(server.url, 1000)


def test_idle_connections_keep_nobody_waiting(server: Live) -> None:
    port = int(server.url.rpartition(":")[2])
    idle = [socket.create_connection(("127.0.0.1", port)) for _ in range(100)]
    try:
        assert server.explain("saliency", images(1), target=1).status_code == 200
    finally:
        for connection in idle:
            connection.close()


# --- a process of its own --------------------------------------------------------------------

SCRIPT = """
import sys
from explainers import serve
from tests.serve.nets import one
serve.run({"ig": one("integrated_gradients")}, port=int(sys.argv[1]), log_level="warning")
"""


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


def started(port: int) -> subprocess.Popen[bytes]:
    """A server in a separate process, ready to answer."""
    path = os.pathsep.join([str(ROOT), str(ROOT / "backends"), os.environ.get("PYTHONPATH", "")])
    process = subprocess.Popen(
        [sys.executable, "-c", SCRIPT, str(port)], cwd=ROOT, env={**os.environ, "PYTHONPATH": path}
    )
    for _ in range(600):
        try:
            if httpx.get(f"http://127.0.0.1:{port}/v2/health/ready").status_code == 200:
                return process
        except httpx.HTTPError:
            assert process.poll() is None, "the server did not start"
        time.sleep(0.05)
    process.kill()
    raise AssertionError("the server did not start in time")


def test_sigterm_under_load_answers_what_was_accepted() -> None:
    port = free_port()
    process = started(port)
    url = f"http://127.0.0.1:{port}/v1/models/ig:explain"
    sent, answered, wrong = [0], [0], []
    stopped = threading.Event()
    body = {"instances": images(4).tolist(), "parameters": {"target": 1, "steps": 200}}

    def client() -> None:
        while not stopped.is_set():
            try:
                with httpx.Client(timeout=30) as own:  # a connection for each request
                    sent[0] += 1
                    answer = own.post(url, json=body)
            except httpx.ConnectError:
                return  # the server no longer accepts connections
            except httpx.TransportError as error:
                wrong.append(error)
                return
            if answer.status_code == 200:
                answered[0] += 1
            else:
                wrong.append(answer.text)

    try:
        threads = [threading.Thread(target=client) for _ in range(8)]
        for thread in threads:
            thread.start()
        start = time.monotonic()
        while answered[0] <= 8 and not wrong and time.monotonic() - start < 60:
            time.sleep(0.05)
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) in (0, -signal.SIGTERM)
    finally:
        stopped.set()
        process.kill()
    for thread in threads:
        thread.join()
    assert answered[0] > 8
    lost = (httpx.ReadError, httpx.WriteError, httpx.RemoteProtocolError)
    assert all(isinstance(error, lost) for error in wrong), wrong
    assert len(wrong) <= 1, wrong  # a connection that waited in the system's backlog, not yet accepted

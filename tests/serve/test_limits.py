"""Keys, limits, failures, and clients that misbehave."""

from __future__ import annotations

import json
import logging
import socket
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

from explainers import Explainer, errors, methods
from explainers.serve import Settings, app, read_keys, run

from .live import Live, live, until
from .nets import Gate, cnn, explainers, images

ONE = [[1.0, 2.0, 3.0, 4.0]]


@pytest.fixture
def gated(gate: Gate) -> Iterator[Live]:
    """A server of a model that can be blocked, with room for twenty evaluations in the queue."""
    with live({"gate": gate.explainer()}, queue_rows=20, timeout=20, body_timeout=0.5) as client:
        gate.rows = 0
        yield client


def waiting(server: Live) -> int:
    return server.service.scheduler.stats.waiting_rows


# --- keys ------------------------------------------------------------------------------------


def test_keys(tmp_path: Path) -> None:
    file = tmp_path / "keys"
    file.write_text("# ours\nfirst\n\n  second  \n", encoding="utf-8")
    assert read_keys(file) == ("first", "second")
    with live({"saliency": explainers()["saliency"]}, keys=read_keys(file)) as server:
        for headers in ({}, {"Authorization": "Bearer third"}, {"Authorization": "Basic first"},
                        {"Authorization": "Bearer"}, {"Authorization": "Bearer fïrst".encode()}):  # fmt: skip
            for path in ("/v1/models", "/metrics", "/openapi.json", "/v2"):
                answer = server.get(path, headers=headers)
                assert answer.status_code == 401
                assert answer.headers["WWW-Authenticate"] == "Bearer"
                assert "a key is needed" in answer.json()["error"]
            assert server.get("/v2/health/ready", headers=headers).status_code == 200
        for key in ("first", "second"):
            server.headers["Authorization"] = f"Bearer {key}"
            assert server.get("/v1/models").status_code == 200
            assert server.explain("saliency", images(1), target=1).status_code == 200


def test_other_machines_only_with_keys(tmp_path: Path) -> None:
    with pytest.raises(errors.InputError, match="can be reached from other machines"):
        run({"a": explainers()["saliency"]}, host="0.0.0.0")
    (tmp_path / "none").write_text("# nothing\n", encoding="utf-8")
    with pytest.raises(errors.InputError, match="holds no key"):
        run({"a": explainers()["saliency"]}, host="0.0.0.0", key_file=tmp_path / "none")


def test_only_the_hosts_that_are_named() -> None:
    with live({"a": explainers()["saliency"]}, hosts=("127.0.0.1",)) as server:
        assert server.get("/v1/models").status_code == 200
        assert server.get("/v1/models", headers={"Host": "evil.example"}).status_code == 421


def test_what_cannot_be_served(gate: Gate) -> None:
    with pytest.raises(errors.InputError, match="traced at its first call"):
        app({"a": Explainer.compile(cnn(), "saliency")})
    with pytest.raises(errors.InputError, match="none of / : "):
        app({"a/b": explainers()["saliency"]})
    with pytest.raises(errors.InputError, match="no explainer"):
        app({})
    with pytest.raises(errors.InputError, match="timeout must be above 0"):
        Settings(timeout=0)
    noisy = gate.explainer(methods.Perturbation(lambda x, rng: iter([x]), lambda *a: a[0]))
    with pytest.raises(errors.InputError, match="cannot be served"):
        app({"a": noisy})


# --- bodies ----------------------------------------------------------------------------------


def test_ten_megabytes_of_junk(server: Live) -> None:
    junk = np.random.default_rng(0).bytes(10 * 2**20)
    for content in (junk, iter([junk[: 2**20]] * 10)):
        try:
            answer = server.post("/v1/models/ig:explain", content=content, headers={"Content-Type": "application/json"})
        except httpx.HTTPError:  # the server closed the connection while we were still sending
            continue
        assert answer.status_code == 413
    fitting = server.post(
        "/v1/models/ig:explain", content=junk[: 3 * 2**20], headers={"Content-Type": "application/json"}
    )
    assert fitting.status_code == 400
    assert server.get("/healthz").status_code == 200


@pytest.mark.parametrize("kind", ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data", None])
def test_other_content_types(server: Live, kind: str | None) -> None:
    for path in ("/v1/models/ig:explain", "/v1/models/ig:predict", "/v2/models/ig/infer"):
        answer = server.post(path, content=b"{}", headers={"Content-Type": kind} if kind else {"Origin": "null"})
        assert answer.status_code == 415
        assert "application/json expected" in answer.json()["error"]


def test_other_verbs_and_paths(server: Live) -> None:
    assert server.get("/v1/models/ig:explain").status_code in (404, 405)
    assert server.post("/v1/models").status_code == 405
    answer = server.get("/v3")
    assert answer.status_code == 404
    assert answer.json() == {"error": "Not Found"}


def test_a_slow_client_is_given_up(gated: Live) -> None:
    with socket.create_connection(("127.0.0.1", int(gated.url.rpartition(":")[2]))) as connection:
        connection.sendall(
            b"POST /v1/models/gate:explain HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\n"
            b'Content-Length: 100\r\n\r\n{"instances"'
        )
        connection.settimeout(5)
        assert connection.recv(4096).startswith(b"HTTP/1.1 408")
    assert gated.explain("gate", ONE, target=0).status_code == 200


# --- ids, logs, metrics ----------------------------------------------------------------------


def test_request_ids(server: Live, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, "explainers.serve"):
        assert server.get("/v1/models", headers={"X-Request-Id": "mine-1"}).headers["X-Request-Id"] == "mine-1"
        made = server.get("/v1/models/nope", headers={"X-Request-Id": "a b\tc" * 99}).headers["X-Request-Id"]
        assert len(made) == 32
        until(lambda: len([r for r in caplog.records if r.message == "request"]) >= 2)
    records = {r.request_id: r for r in caplog.records if r.message == "request"}  # type: ignore[attr-defined]
    assert records["mine-1"].status == 200  # type: ignore[attr-defined]
    assert records[made].status == 404  # type: ignore[attr-defined]


def test_logs_are_json() -> None:
    from explainers.serve.logs import JsonFormatter

    record = logging.makeLogRecord({"name": "a", "levelname": "INFO", "msg": "hi %s", "args": ("you",), "status": 3})
    line = json.loads(JsonFormatter().format(record))
    assert line["message"] == "hi you"
    assert line["status"] == 3
    assert line["time"].endswith("Z")


def test_metrics(server: Live) -> None:
    before = server.get("/metrics").text
    server.explain("saliency", images(2), target=1)
    server.explain("made-up-name", images(2), target=1)
    text = server.get("/metrics").text
    assert 'explainers_requests_total{model="saliency",status="200",verb="explain"}' in text
    assert 'explainers_request_seconds_bucket{le="0.005",model="saliency",verb="explain"}' in text
    assert 'explainers_traces{model="ig"} ' in text
    assert "explainers_queue_rows 0.0" in text
    assert "made-up-name" not in text

    def number(name: str, page: str) -> float:
        return next(float(line.split()[-1]) for line in page.splitlines() if line.startswith(name + " "))

    assert number("explainers_package_rows_total", text) >= number("explainers_package_rows_total", before) + 2
    assert 0 < number("explainers_package_fill", text) <= 1


# --- queue, timeouts, clients that leave ------------------------------------------------------


def test_a_full_queue_says_when_to_come_back_and_recovers(gated: Live, gate: Gate) -> None:
    gate.open.clear()
    with ThreadPoolExecutor(2) as pool:
        first = pool.submit(gated.explain, "gate", ONE * 3, target=0)
        until(lambda: waiting(gated) == 15)
        refused = gated.explain("gate", ONE * 2, target=0)
        assert refused.status_code == 503
        assert 1 <= int(refused.headers["Retry-After"]) <= 60
        assert "15 rows are waiting and 10 more do not fit" in refused.json()["error"]
        assert gated.infer(
            "gate", inputs=[{"name": "x", "shape": [2, 4], "datatype": "FP32", "data": ONE * 2}],
            parameters={"target": 0},
        ).status_code == 503  # fmt: skip
        gate.open.set()
        assert first.result().status_code == 200
    assert gated.explain("gate", ONE * 2, target=0).status_code == 200
    assert waiting(gated) == 0


def test_a_timeout(gated: Live, gate: Gate) -> None:
    gate.open.clear()
    threading.Timer(0.5, gate.open.set).start()
    answer = gated.explain("gate", ONE, target=0, timeout=0.1)
    assert answer.status_code == 504
    until(lambda: waiting(gated) == 0)


@pytest.mark.parametrize("stream", [False, True])
def test_a_client_that_leaves_takes_its_rows_along(gated: Live, gate: Gate, stream: bool) -> None:
    gate.open.clear()
    first = threading.Thread(target=lambda: gated.explain("gate", ONE, target=0))
    first.start()
    until(lambda: waiting(gated) == 5)
    with httpx.Client(base_url=gated.url, timeout=0.3) as leaver:
        path = f"/v1/models/gate:explain{'?stream=true' if stream else ''}"
        with pytest.raises(httpx.ReadTimeout), leaver.stream(
            "POST", path, json={"instances": ONE * 3, "parameters": {"target": 1}}
        ) as answer:  # fmt: skip
            answer.read()
    time.sleep(0.1)
    gate.open.set()
    first.join()
    until(lambda: waiting(gated) == 0)
    assert gate.rows <= 5
    assert gated.explain("gate", ONE, target=0).status_code == 200


# --- failures --------------------------------------------------------------------------------


def test_a_failure_of_the_model_hits_its_own_request_only(gated: Live, gate: Gate) -> None:
    gate.open.clear()
    bad, nan = [[-1.0, 2, 3, 4]], [[-2.0, 2, 3, 4]]
    with ThreadPoolExecutor(3) as pool:
        answers = [pool.submit(gated.explain, "gate", x, target=0) for x in (ONE, bad, nan)]
        until(lambda: waiting(gated) == 15)
        gate.open.set()
        fine, broken, not_finite = (answer.result() for answer in answers)
    assert fine.status_code == 200
    assert broken.status_code == 500
    assert broken.headers["X-Request-Id"] in broken.json()["error"]
    assert "the model broke" not in broken.text
    assert not_finite.status_code == 422
    assert "not finite" in not_finite.json()["error"] or "NaN" in not_finite.json()["error"]
    np.testing.assert_allclose(fine.json()["predictions"], [[10, 2]])
    assert gated.explain("gate", ONE, target=0).status_code == 200


def test_predictions_that_are_not_finite(gated: Live) -> None:
    body: dict[str, Any] = {"instances": [[-2.0, 2, 3, 4]]}
    assert gated.post("/v1/models/gate:predict", json=body).status_code == 422
    assert gated.post("/v1/models/gate:predict", json={"instances": ONE}).json() == {"predictions": [[10, 2]]}

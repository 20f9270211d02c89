"""Clients that attack: headers, hosts, half-sent requests, answers that nobody reads, bodies that cost too much."""

from __future__ import annotations

import json
import signal
import socket
import threading
import time
from collections.abc import Iterator

import pytest

from explainers.serve import protocol

from .live import Live, live, until
from .nets import explainers, images
from .test_live import free_port, started


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> Iterator[Live]:
    """A server that waits half a second for headers, and a second for a client to read."""
    monkeypatch.setattr(protocol, "HEAD_SECONDS", 0.5)
    monkeypatch.setattr(protocol, "CHECK", 0.1)
    with live({"saliency": explainers()["saliency"]}, keys=("key",)) as client:
        yield client


def connected(server: Live | int) -> socket.socket:
    port = server if isinstance(server, int) else int(server.url.rpartition(":")[2])
    connection = socket.create_connection(("127.0.0.1", port))
    connection.settimeout(10)
    return connection


def answer_to(server: Live, *parts: bytes) -> bytes:
    """What the server sends until it closes the connection."""
    with connected(server) as connection:
        received = b""
        try:
            for part in parts:
                connection.sendall(part)
        except OSError:  # closed while we were still sending
            pass
        try:
            while part := connection.recv(1 << 16):
                received += part
        except ConnectionError:
            pass
        return received


def refuses(connection: socket.socket, more: bytes) -> bool:
    """Whether the connection is closed and takes no more."""
    time.sleep(0.05)
    try:
        connection.sendall(more)
    except OSError:
        return True
    return False


def closed(connection: socket.socket) -> bool:
    """Whether the server closes the connection without an answer."""
    try:
        return connection.recv(1000) == b""
    except ConnectionError:
        return True


# --- headers -----------------------------------------------------------------------------------

START = b"GET /v1/models HTTP/1.1\r\nHost: a\r\n"
CHUNKED = (
    b"POST /v1/models/saliency:explain HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer key\r\n"
    b"Content-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n"
)


@pytest.mark.parametrize(
    "parts",
    [
        [START, b"X: " + b"a" * 100_000],
        [START, b"X: " + b"a" * 40_000 + b"\r\n\r\n"],
        [START, *[b"X-%d: 1\r\n" % number for number in range(200)]],
        [START, b"".join(b"X-%d: 1\r\n" % number for number in range(101)) + b"\r\n"],
        [b"GET /" + b"a" * 100_000],
        [b"GET /" + b"a" * 40_000 + b" HTTP/1.1\r\nHost: a\r\n\r\n"],
        [CHUNKED, b"0\r\n", b"X: " + b"a" * 400_000],  # trailers
        [CHUNKED, *[b"1;" + b"a" * 1000 + b"\r\n \r\n"] * 400],  # extensions of chunks
    ],
    ids=["one", "one whole", "many", "many whole", "address", "address whole", "trailers", "chunk extensions"],
)
def test_headers_of_any_size(impatient: Live, parts: list[bytes]) -> None:
    answer = answer_to(impatient, *parts)
    assert answer.startswith(b"HTTP/1.1 431 "), answer
    assert "may have" in json.loads(answer.partition(b"\r\n\r\n")[2])["error"]


def test_headers_within_the_limit(impatient: Live) -> None:
    headers = {f"X-{number}": "a" * 300 for number in range(80)} | {"Authorization": "Bearer key"}
    assert impatient.get("/v1/models", headers=headers).status_code == 200


@pytest.mark.parametrize(
    "sent", [b"", b"\r\n", b"GET / HT", START + b"X: a", CHUNKED.replace(b"key", b"other") + b"1\r\n "]
)
def test_headers_and_unread_bodies_that_never_end(impatient: Live, sent: bytes) -> None:
    with connected(impatient) as connection:
        connection.sendall(sent)
        if b"\r\n\r\n" in sent:
            assert connection.recv(1000).startswith(b"HTTP/1.1 401")
        until(lambda: refuses(connection, b"a" if sent.strip() else b"\r\n"))
    until(lambda: not impatient.connections())


def test_requests_that_wait_on_one_connection(server: Live) -> None:
    with connected(server) as connection:
        connection.sendall(START + b"\r\n" + (START + b"\r\n") * 20)
        received = b""
        while received.count(b"HTTP/1.1 200") < 21:
            received += connection.recv(1 << 16)
    answer = answer_to(server, (START + b"\r\n") * 10_000)
    assert b"requests may wait on one connection" in answer
    assert server.get("/healthz").status_code == 200


@pytest.mark.parametrize("host", ["a\r\nHost: b", "", "a b", "a, b", "user@a", "a/b", "[::1", "a:b", None])
def test_hosts_that_can_be_read_in_two_ways(server: Live, host: str | None) -> None:
    field = "" if host is None else f"Host: {host}\r\n"
    answer = answer_to(server, f"GET /healthz HTTP/1.1\r\n{field}Connection: close\r\n\r\n".encode())
    assert answer.startswith(b"HTTP/1.1 400")
    assert b"the header host" in answer


@pytest.mark.parametrize("host", ["a", "a.b-c:80", "127.0.0.1:8080", "[::1]", "[::1]:80"])
def test_hosts(server: Live, host: str) -> None:
    assert server.get("/healthz", headers={"Host": host}).status_code == 200


def test_other_headers_that_are_given_twice(server: Live) -> None:
    for name in (b"Authorization", b"Content-Type", b"Inference-Header-Content-Length"):
        answer = server.post("/v1/models/saliency:explain", content=b"{}", headers=[(name, b"1"), (name, b"2")])
        assert answer.status_code == 400
        assert f"the header {name.decode().lower()} is given 2 times" in answer.json()["error"]


@pytest.mark.parametrize("length", ["9" * 20, "9" * 5000, "-1", "+5", "0x10", "5, 5", "٥"])
def test_absurd_lengths(server: Live, length: str) -> None:
    start = "POST /v1/models/saliency:explain HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\n"
    answer = answer_to(server, f"{start}Content-Length: {length}\r\n\r\n{{}}".encode())
    assert answer.startswith(b"HTTP/1.1 400")
    headers = {"Inference-Header-Content-Length": length.encode()}
    inferred = server.post("/v2/models/saliency/infer", content=b"{}", headers=headers)  # type: ignore[arg-type]
    assert inferred.status_code == 400
    assert len(inferred.text) < 300


# --- answers that nobody reads -------------------------------------------------------------------


def test_an_answer_that_nobody_reads(impatient: Live) -> None:
    body = json.dumps({"instances": images(20_000).round(2).tolist(), "parameters": {"target": 1}}).encode()
    with socket.socket() as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        connection.connect(("127.0.0.1", int(impatient.url.rpartition(":")[2])))
        connection.sendall(CHUNKED.replace(b"Transfer-Encoding: chunked", b"Content-Length: %d" % len(body)) + body)
        until(lambda: any(c.transport.get_write_buffer_size() for c in impatient.connections()), 60)
        until(lambda: not impatient.connections(), 10)


# --- the end -----------------------------------------------------------------------------------

HALF = (
    b"POST /v1/models/ig:explain HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
    b"Content-Length: 1000\r\n\r\n{"
)


def test_sigterm_is_not_held_by_requests_that_do_not_end() -> None:
    """Half a body, a body in drops, half a header, half a second request, nothing: none holds the end for long."""
    port = free_port()
    process = started(port)
    connections = [connected(port) for _ in range(5)]
    half, drops, header, second, _ = connections
    half.sendall(HALF)
    drops.sendall(HALF)
    header.sendall(START)
    second.sendall(START.replace(b": a", b": localhost") + b"\r\n")
    received = b""
    while not received.endswith(b"}"):
        received += second.recv(1000)
    second.sendall(START)
    stopped = threading.Event()

    def drip() -> None:
        while not stopped.wait(0.1):
            try:
                drops.sendall(b" ")
            except OSError:
                return

    thread = threading.Thread(target=drip)
    thread.start()
    try:
        process.send_signal(signal.SIGTERM)
        process.wait(15)  # a body may take 30 s, and the shutdown 65 s
        assert all(map(closed, connections))
    finally:
        stopped.set()
        thread.join()
        process.kill()
        for connection in connections:
            connection.close()


def test_sigterm_waits_for_a_body_that_is_on_its_way() -> None:
    port = free_port()
    process = started(port)
    body = json.dumps({"instances": images(1).tolist(), "parameters": {"target": 1}}).encode()
    try:
        with connected(port) as connection:
            connection.sendall(HALF[:-1].replace(b"1000", b"%d" % len(body)) + body[:100])
            time.sleep(0.2)
            process.send_signal(signal.SIGTERM)
            time.sleep(1)
            connection.sendall(body[100:])
            assert connection.recv(1000).startswith(b"HTTP/1.1 200")
        process.wait(15)
    finally:
        process.kill()

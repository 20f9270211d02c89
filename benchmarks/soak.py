"""A server under a mixed load, a part of which is hostile: errors of honest clients, memory and descriptors over time.

``python -m benchmarks.soak [--minutes 10] [--clients 16] [--hostile 0.05]`` prints Markdown: one line for each tenth
of the time, and which hostile requests were sent and how they were answered. Every honest answer is compared with
attributions that were computed beforehand.
"""

from __future__ import annotations

import argparse
import collections
import contextlib
import http.client
import itertools
import socket
import threading
import time
from collections.abc import Callable, Iterator

import numpy as np
import orjson
import psutil

from .serve import PoolRequest, ask, is_correct, offline, pool, quantiles, running_server

MIB = 2**20
PATH = "/v1/models/saliency:explain"
START = f"POST {PATH} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n".encode()


# --- hostile clients -----------------------------------------------------------------------------


def bodies() -> dict[str, bytes]:
    """Bodies that cost a parser much, or ask for too much."""
    one = np.zeros((1, 1, 28, 28)).tolist()
    return {
        "brackets": b'{"instances":' + b"[" * 16 * MIB,
        "empty lists": b'{"instances":[' + b"[]," * (5 * MIB) + b"[]]}",
        "keys": b'{"instances":[{' + b",".join(b'"%x":0' % number for number in range(MIB)) + b"}]}",
        "numbers": b'{"instances":[' + b"0," * (4 * MIB) + b"0]}",
        "long name": orjson.dumps({"a" * MIB: 1}),
        "rounded integer": orjson.dumps({"instances": one, "parameters": {"target": 2**53 + 1, "baseline": 2**53 + 1}}),
        "too many steps": orjson.dumps({"instances": one, "parameters": {"target": 1, "samples": 10**12}}),
        "junk": np.random.default_rng(0).bytes(MIB),
    }


def sent(port: int, *parts: bytes, wait: float = 1.0) -> str:
    """The status of the answer to what is sent raw, or how the connection ended."""
    with socket.create_connection(("127.0.0.1", port), timeout=30) as connection:
        connection.settimeout(wait)
        with contextlib.suppress(OSError):
            for part in parts:
                connection.sendall(part)
        try:
            return connection.recv(100)[9:12].decode() or "closed"
        except TimeoutError:
            return "left"
        except OSError:
            return "closed"


def posted(port: int, body: bytes) -> str:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    try:
        return str(ask(connection, "POST", PATH, body)[0])
    except OSError:
        return "closed"
    finally:
        connection.close()


def attacks(port: int) -> dict[str, Callable[[], str]]:
    """One hostile request each, by name; what it returns is how the server took it."""
    raw = {
        "large header": [START, b"X: ", *[b"a" * MIB] * 20],
        "many headers": [START, *[b"X-%d: 1\r\n" % number for number in range(10_000)]],
        "half a header": [START + b"X: a"],
        "half a body": [START + b"Content-Length: 1000\r\n\r\n{"],
        "absurd length": [START + b"Content-Length: " + b"9" * 5000 + b"\r\n\r\n{}"],
        "two hosts": [START + b"Host: b\r\nContent-Length: 2\r\n\r\n{}"],
        "waiting requests": [b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n" * 10_000],
        "no HTTP": [b"\x16\x03\x01" * 1000],
    }
    return {
        **{name: lambda parts=parts: sent(port, *parts) for name, parts in raw.items()},
        **{name: lambda body=body: posted(port, body) for name, body in bodies().items()},
    }


# --- the load ------------------------------------------------------------------------------------


class Load:
    """Clients that send honest and hostile requests in turn until they are stopped."""

    def __init__(self, port: int, requests: list[PoolRequest], clients: int, hostile: float) -> None:
        self.port, self.requests, self.hostile = port, requests, hostile
        self.attacks = attacks(port)
        self.names = itertools.cycle(self.attacks)
        self.stopped, self.lock = threading.Event(), threading.Lock()
        self.seconds: list[float] = []  # of honest requests, since the last line
        self.wrong: collections.Counter[str] = collections.Counter()
        self.outcomes: collections.Counter[tuple[str, str]] = collections.Counter()
        self.threads = [threading.Thread(target=self.client, args=(number,)) for number in range(clients)]

    def client(self, number: int) -> None:
        rng = np.random.default_rng(number)
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=120)
        while not self.stopped.is_set():
            if rng.random() < self.hostile:
                with self.lock:
                    name = next(self.names)
                outcome = self.attacks[name]()
                with self.lock:
                    self.outcomes[name, outcome] += 1
            else:
                self.honest(connection, self.requests[int(rng.integers(len(self.requests)))])

    def honest(self, connection: http.client.HTTPConnection, request: PoolRequest) -> None:
        start = time.perf_counter()
        try:
            status, body = ask(connection, "POST", f"/v1/models/{request.name}:explain", request.body)
            fault = "" if status == 200 and is_correct(request, body) else f"{status}: {body[:100]!r}"
        except (OSError, http.client.HTTPException) as error:
            fault = repr(error)
            connection.close()
        with self.lock:
            self.seconds.append(time.perf_counter() - start)
            if fault:
                self.wrong[fault] += 1

    @contextlib.contextmanager
    def running(self) -> Iterator[None]:
        for thread in self.threads:
            thread.start()
        try:
            yield
        finally:
            self.stopped.set()
            for thread in self.threads:
                thread.join()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument("--clients", type=int, default=16)
    parser.add_argument("--hostile", type=float, default=0.05)
    arguments = parser.parse_args()
    requests = pool()
    offline(requests)
    with running_server("batched") as (port, process):
        load = Load(port, requests, arguments.clients, arguments.hostile)
        print(
            "| minutes | honest requests | errors | p50 / p99 ms | RSS MiB | descriptors |\n|---|---|---|---|---|---|"
        )
        total, start = 0, time.perf_counter()
        with load.running():
            for _ in range(10):
                time.sleep(arguments.minutes * 6)
                with load.lock:
                    seconds, load.seconds = load.seconds, []
                total += len(seconds)
                middle, high = quantiles(seconds)
                print(
                    f"| {(time.perf_counter() - start) / 60:.1f} | {total} | {sum(load.wrong.values())} "
                    f"| {middle:.0f} / {high:.0f} | {process.memory_info().rss / MIB:.0f} | {process.num_fds()} |",
                    flush=True,
                )
        print_ends(process, load)


def print_ends(process: psutil.Process, load: Load) -> None:
    """Print what is left when the clients are gone, and how hostile requests ended."""
    time.sleep(12)  # half-sent headers are dropped after 10 s
    print(f"\nidle: {process.memory_info().rss / MIB:.0f} MiB, {process.num_fds()} descriptors\n")
    print("| hostile request | outcome | times |\n|---|---|---|")
    for (name, outcome), count in sorted(load.outcomes.items()):
        print(f"| {name} | {outcome} | {count} |")
    for fault, count in load.wrong.most_common(10):
        print(f"\nwrong, {count} times: {fault}")


if __name__ == "__main__":
    main()

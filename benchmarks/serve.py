"""A server under load, compared with a server without batching, offline batches, and a handler that calls Captum.

``python -m benchmarks.serve [--seconds 60] [--clients 32]`` prints Markdown. Server and clients are separate processes
that communicate over loopback; every answer is compared with attributions that were computed beforehand.
"""

from __future__ import annotations

import argparse
import http.client
import json
import multiprocessing
import socket
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import orjson
import psutil
import torch

from explainers import Explainer, methods

from .models import LeNet

PATCHES = np.kron(np.arange(16).reshape(4, 4), np.ones((7, 7), int))[None]  # features of 7 × 7 pixels
POOL = 240
PROCESSES = 4  # of clients
PERMUTATIONS = 10


def model() -> torch.nn.Module:
    torch.manual_seed(0)
    torch.set_num_threads(1)
    return LeNet().eval()


def explainers() -> dict[str, Explainer]:
    example = torch.zeros(1, 1, 28, 28)
    shapley = methods.ShapleySampling(permutations=PERMUTATIONS, groups=PATCHES)
    chosen_methods = {"saliency": "saliency", "integrated_gradients": "integrated_gradients", "shapley": shapley}
    explainer_by_name = {
        name: Explainer.compile(model(), method, inputs=example) for name, method in chosen_methods.items()
    }
    for explain in explainer_by_name.values():
        explain.warmup([1, 8, 64])
    return explainer_by_name


# --- requests ----------------------------------------------------------------------------------


@dataclass
class PoolRequest:
    """A request with its expected answer."""

    name: str
    x: Any
    target: list[int]
    steps: int | None
    body: bytes
    expected: Any = None


def pool() -> list[PoolRequest]:
    """Requests to the three methods in turn, with 1–8 instances, random targets and 16–256 steps."""
    rng = np.random.default_rng(0)
    requests = []
    for number in range(POOL):
        x = rng.random((int(rng.integers(1, 9)), 1, 28, 28), dtype=np.float32).round(4)
        name = ("saliency", "integrated_gradients", "shapley")[number % 3]
        target = rng.integers(0, 10, len(x)).tolist()
        steps = int(rng.choice([16, 32, 64, 128, 256])) if name == "integrated_gradients" else None
        parameters = {"target": target, **({"steps": steps} if steps else {})}
        body = orjson.dumps({"instances": x.tolist(), "parameters": parameters})
        requests.append(PoolRequest(name, x, target, steps, body))
    return requests


def at(explain: Explainer, steps: int | None) -> Explainer:
    return explain.replace(steps=steps) if steps else explain


def offline(requests: list[PoolRequest]) -> tuple[float, float]:
    """Rows per second of wall time and of CPU time, with one batch for each method and number of steps.

    Also sets the expected answers of the requests.
    """
    explainer_by_name = explainers()
    for request in requests:
        request.expected = at(explainer_by_name[request.name], request.steps)(request.x, target=request.target)
    groups: dict[Any, list[PoolRequest]] = {}
    for request in requests:
        groups.setdefault((request.name, request.steps), []).append(request)
    batches = [
        (at(explainer_by_name[name], steps), np.concatenate([a.x for a in group]), [t for a in group for t in a.target])
        for (name, steps), group in groups.items()
    ]
    best_rate = best_cpu_rate = 0.0
    for _ in range(3):
        before = sum(e.stats.rows for e in explainer_by_name.values())
        start, cpu = time.perf_counter(), time.process_time()
        for explain, x, target in batches:
            explain.explanation(x, target=target)
        rows = sum(e.stats.rows for e in explainer_by_name.values()) - before
        best_rate = max(best_rate, rows / (time.perf_counter() - start))
        best_cpu_rate = max(best_cpu_rate, rows / (time.process_time() - cpu))
    return best_rate, best_cpu_rate


# --- servers -----------------------------------------------------------------------------------


def captum_app() -> Any:
    """A handler as one would write it without this library: it answers one request at a time."""
    import captum.attr
    from fastapi import FastAPI

    net = model()
    patches = torch.from_numpy(PATCHES)[None]
    app = FastAPI()

    def attributions(name: str, x: Any, parameters: dict[str, Any]) -> Any:
        target = torch.tensor(parameters["target"])
        if name == "saliency":
            return captum.attr.Saliency(net).attribute(x.requires_grad_(), target=target)
        if name == "integrated_gradients":
            return captum.attr.IntegratedGradients(net).attribute(x, target=target, n_steps=parameters["steps"])
        method = captum.attr.ShapleyValueSampling(net)
        return method.attribute(x, target=target, feature_mask=patches, n_samples=PERMUTATIONS)

    @app.post("/v1/models/{name}:explain")
    def explain(name: str, body: dict[str, Any]) -> Any:
        x = torch.tensor(body["instances"])
        scores = attributions(name, x, body["parameters"])
        with torch.no_grad():
            return {"predictions": net(x).tolist(), "explanations": scores.tolist()}

    return app


def serve(kind: str, port: int) -> None:
    """The server's process."""
    from explainers import serve as server

    if kind == "captum":
        import uvicorn

        uvicorn.run(captum_app(), port=port, log_level="error")
    else:
        server.run(explainers(), port=port, log_level="error", batching=kind == "batched", max_body=2**28)


@contextmanager
def running_server(kind: str) -> Iterator[tuple[int, psutil.Process]]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = int(free.getsockname()[1])
    process = multiprocessing.get_context("spawn").Process(target=serve, args=(kind, port))
    process.start()
    try:
        while True:
            try:
                ask(http.client.HTTPConnection("127.0.0.1", port), "GET", "/openapi.json", b"")
                break
            except OSError:
                if not process.is_alive():
                    raise RuntimeError(f"the server {kind} did not start") from None
                time.sleep(0.1)
        yield port, psutil.Process(process.pid)
    finally:
        process.terminate()
        process.join()


def ask(
    connection: http.client.HTTPConnection, verb: str, path: str, body: bytes, headers: dict[str, str] | None = None
) -> tuple[int, bytes]:
    connection.request(verb, path, body, headers or {"Content-Type": "application/json"})
    answer = connection.getresponse()
    return answer.status, answer.read()


def metric(port: int, name: str) -> float:
    _, text = ask(http.client.HTTPConnection("127.0.0.1", port), "GET", "/metrics", b"")
    return sum(float(line.split()[-1]) for line in text.decode().splitlines() if line.startswith(name))


# --- clients -----------------------------------------------------------------------------------


def clients(
    port: int, requests: list[PoolRequest], count: int, seconds: float, check: bool, out: Any, seed: int, start: Any
) -> None:
    """Run ``count`` clients in this process; put (method, seconds, whether correct) of each request into ``out``."""
    start.wait()
    results: list[tuple[str, float, bool]] = []

    def client(number: int) -> None:
        rng = np.random.default_rng(seed * 1000 + number)
        connection = http.client.HTTPConnection("127.0.0.1", port)
        end = time.perf_counter() + seconds
        while time.perf_counter() < end:
            request = requests[int(rng.integers(len(requests)))]
            start_time = time.perf_counter()
            status, body = ask(connection, "POST", f"/v1/models/{request.name}:explain", request.body)
            seconds_taken = time.perf_counter() - start_time
            results.append((request.name, seconds_taken, status == 200 and (not check or is_correct(request, body))))

    threads = [threading.Thread(target=client, args=(number,)) for number in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    out.put(results)


def is_correct(request: PoolRequest, body: bytes) -> bool:
    scores = np.array(orjson.loads(body)["explanations"], np.float32)
    expected = request.expected
    return scores.shape == expected.shape and bool(np.abs(scores - expected).max() <= 1e-4 * np.abs(expected).max())


def measure_load(kind: str, requests: list[PoolRequest], count: int, seconds: float) -> dict[str, Any]:
    """Throughput, latency, errors and memory of a server under the load of ``count`` clients."""
    context = multiprocessing.get_context("spawn")
    with running_server(kind) as (port, process):
        ours = kind != "captum"
        run(context, port, requests, count, min(3.0, seconds), False, lambda: None)  # warm
        memory = process.memory_info().rss

        def state() -> list[float]:
            cpu, rows, traces = sum(process.cpu_times()[:2]), "explainers_rows_total", "explainers_traces"
            return [time.perf_counter(), cpu, *(metric(port, name) if ours else 0 for name in (rows, traces))]

        results, before = run(context, port, requests, count, seconds, ours, state)
        duration, cpu, rows, retraces = (now - then for now, then in zip(state(), before, strict=True))
        names = sorted({name for name, *_ in results})
        return {
            "kind": kind, "requests": len(results) / duration, "errors": sum(not r for *_, r in results),
            "retraces": int(retraces), "rows": rows / duration if ours else None, "by_cpu": rows / cpu,
            "fill": metric(port, "explainers_package_fill ") if ours else None,
            "memory": (memory / 2**20, process.memory_info().rss / 2**20),
            "latency": {name: quantiles([s for n, s, _ in results if n == name]) for name in names},
        }  # fmt: skip


def run(
    context: Any, port: int, requests: list[PoolRequest], count: int, seconds: float, check: bool, state: Any
) -> tuple[list[Any], Any]:
    """The clients' results, and ``state()`` when they started."""
    out = context.Queue()
    shares = [count // PROCESSES + (number < count % PROCESSES) for number in range(PROCESSES)]
    start = context.Barrier(sum(map(bool, shares)) + 1)
    processes = [
        context.Process(target=clients, args=(port, requests, share, seconds, check, out, number, start))
        for number, share in enumerate(shares)
        if share
    ]
    for process in processes:
        process.start()
    start.wait()
    before = state()
    results = [entry for _ in processes for entry in out.get()]
    for process in processes:
        process.join()
    return results, before


def quantiles(seconds: list[float]) -> tuple[float, float]:
    """p50 and p99 in ms."""
    return tuple(1000 * float(q) for q in np.quantile(seconds, [0.5, 0.99]))  # type: ignore[return-value]


# --- small requests beside large ones ------------------------------------------------------------


def large(port: int, kind: str, stop: Any) -> None:
    """A client of 10,000-row requests."""
    rng = np.random.default_rng(1)
    connection = http.client.HTTPConnection("127.0.0.1", port)
    if kind == "steps":  # 40 instances of 250 steps
        x = rng.random((40, 1, 28, 28), dtype=np.float32).round(4)
        body = orjson.dumps({"instances": x.tolist(), "parameters": {"target": 1, "steps": 250}})
        path, headers = "/v1/models/integrated_gradients:explain", {"Content-Type": "application/json"}
    else:  # 10,000 instances, binary
        x = rng.random((10_000, 1, 28, 28), dtype=np.float32)
        tensor = {"name": "x", "shape": x.shape, "datatype": "FP32", "parameters": {"binary_data_size": x.nbytes}}
        head = json.dumps({"inputs": [tensor], "parameters": {"target": 1, "binary_data_output": True}}).encode()
        body, path = head + x.tobytes(), "/v2/models/saliency/infer"
        headers = {"Inference-Header-Content-Length": str(len(head)), "Content-Type": "application/octet-stream"}
    while not stop.is_set():
        status, answer = ask(connection, "POST", path, body, headers)
        if status != 200:
            print("a large request:", status, answer[:200], file=sys.stderr)
            return


def small(port: int, request: PoolRequest, seconds: float) -> list[float]:
    connection = http.client.HTTPConnection("127.0.0.1", port)
    latencies = []
    end = time.perf_counter() + seconds
    while time.perf_counter() < end:
        start = time.perf_counter()
        status, body = ask(connection, "POST", "/v1/models/saliency:explain", request.body)
        latencies.append(time.perf_counter() - start)
        assert status == 200, body[:300]
    return latencies


def beside(seconds: float) -> list[tuple[str, tuple[float, float]]]:
    """Latencies of one-row saliency requests: alone, and beside four clients of large ones."""
    context = multiprocessing.get_context("spawn")
    x = np.random.default_rng(2).random((1, 1, 28, 28), dtype=np.float32).round(4)
    request = PoolRequest(
        "saliency", x, [1], None, orjson.dumps({"instances": x.tolist(), "parameters": {"target": 1}})
    )
    with running_server("batched") as (port, _):
        small(port, request, 1)
        latencies = [("alone", quantiles(small(port, request, seconds)))]
        for kind, title in (("steps", "40 instances × 250 steps"), ("instances", "10,000 instances, binary")):
            stop = context.Event()
            large_clients = [context.Process(target=large, args=(port, kind, stop)) for _ in range(4)]
            for process in large_clients:
                process.start()
            time.sleep(4)
            latencies.append((f"beside 4 clients of {title}", quantiles(small(port, request, seconds))))
            stop.set()
            for process in large_clients:
                process.join()
    return latencies


# --- the report ----------------------------------------------------------------------------------


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--clients", type=int, default=32)
    parser.add_argument("--kinds", nargs="*", default=["batched", "unbatched", "captum"])
    parser.add_argument("--only", nargs="*", help="methods of the mix; by default all three")
    arguments = parser.parse_args()
    requests = [request for request in pool() if not arguments.only or request.name in arguments.only]
    rows, by_cpu = offline(requests)
    print(
        f"offline, one large batch of each kind: {rows:,.0f} rows/s, {by_cpu:,.0f} rows for a CPU second\n", flush=True
    )
    print("| server | requests/s | rows/s | of offline | by CPU | errors | retraces | fill | RSS MiB | p50 / p99 ms |")
    print("|---|---|---|---|---|---|---|---|---|---|")
    for kind in arguments.kinds:
        results = measure_load(kind, requests, arguments.clients, arguments.seconds)
        speed = "– | – | –"
        if results["rows"] is not None:
            speed = f"{results['rows']:,.0f} | {results['rows'] / rows:.2f} | {results['by_cpu'] / by_cpu:.2f}"
        fill = "–" if results["fill"] is None else f"{results['fill']:.2f}"
        latency = ", ".join(f"{name} {a:.0f} / {b:.0f}" for name, (a, b) in results["latency"].items())
        memory = f"{results['memory'][0]:.0f} → {results['memory'][1]:.0f}"
        print(
            f"| {kind} | {results['requests']:.1f} | {speed} | {results['errors']} | {results['retraces']} | {fill}"
            f" | {memory} | {latency} |",
            flush=True,
        )
    print("\n| one-row saliency | p50 ms | p99 ms |\n|---|---|---|")
    for title, (middle, high) in beside(min(arguments.seconds, 20)):
        print(f"| {title} | {middle:.2f} | {high:.2f} |", flush=True)


if __name__ == "__main__":
    main()

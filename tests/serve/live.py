"""A server in this process, on a free port."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Iterator, Mapping
from typing import Any

import httpx
import uvicorn

from explainers import Explainer
from explainers.serve import app
from explainers.serve.protocol import limited
from explainers.serve.service import Service


class Live(httpx.Client):
    """A client of the server; ``service`` is the server's Service."""

    service: Service
    url: str
    state: Any

    def connections(self) -> list[Any]:
        """The server's side of the connections, this client's included."""
        return list(self.state.connections)

    def explain(self, name: str, instances: Any, stream: bool = False, **parameters: Any) -> httpx.Response:
        body = {"instances": instances.tolist() if hasattr(instances, "tolist") else instances}
        return self.post(
            f"/v1/models/{name}:explain{'?stream=true' if stream else ''}", json=body | {"parameters": parameters}
        )

    def infer(self, name: str, **body: Any) -> httpx.Response:
        return self.post(f"/v2/models/{name}/infer", json=body)


@contextlib.contextmanager
def live(explainers: Mapping[str, Explainer], **settings: Any) -> Iterator[Live]:
    application = app(explainers, **settings)
    config = uvicorn.Config(
        application, "127.0.0.1", 0, http=limited(1.0), log_level="warning", timeout_graceful_shutdown=10
    )
    server = uvicorn.Server(config)
    server.install_signal_handlers = lambda: None  # type: ignore[attr-defined]
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        until(lambda: server.started or not thread.is_alive())
        port = server.servers[0].sockets[0].getsockname()[1]
        with Live(base_url=f"http://127.0.0.1:{port}", timeout=30) as client:
            client.service, client.url = application.state.service, f"http://127.0.0.1:{port}"
            client.state = server.server_state
            yield client
    finally:
        server.should_exit = True
        thread.join(20)


def until(condition: Any, seconds: float = 10) -> None:
    """Wait until the condition is true."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not come true"
        time.sleep(0.005)

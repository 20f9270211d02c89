"""The server process: uvicorn on one port."""

from __future__ import annotations

import asyncio
import gc
import ipaddress
import sys
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from types import FrameType
from typing import Any

import uvicorn

from ..errors import InputError
from ..explainer.api import Explainer
from .application import app
from .logs import to_stderr
from .protocol import limited
from .settings import Settings, read_keys

LOCAL = ("localhost", "127.0.0.1", "[::1]")
LINGER = 0.2  # seconds in which open connections are still read at shutdown
FIRST = 3.0  # seconds in which a connection may still send the first request for which it was opened, or a body's rest
SWITCH = 0.0005  # seconds after which Python switches threads, so that requests are read while packages run


def run(
    explainers: Mapping[str, Explainer],
    host: str = "127.0.0.1",
    port: int = 8080,
    *,
    key_file: str | Path | None = None,
    insecure: bool = False,
    log_level: str = "info",
    max_connections: int = 4096,
    settings: Settings | None = None,
    **options: Any,
) -> None:
    """Serve until SIGTERM or SIGINT; then finish the accepted requests and return.

    Parameters
    ----------
    explainers: by the name under which they are served.
    key_file: a file of bearer tokens, one per line. Without keys, ``host`` must be loopback, unless ``insecure``.
    max_connections: further connections get 503.
    settings, options: a :class:`Settings`, or its fields.

    Raises
    ------
    InputError: a host other than loopback without keys.
    """
    server = make_server(
        explainers, host, port, key_file=key_file, insecure=insecure, max_connections=max_connections,
        settings=settings or Settings(**options),
    )  # fmt: skip
    to_stderr(log_level)
    sys.setswitchinterval(SWITCH)
    server.run()


def make_server(
    explainers: Mapping[str, Explainer], host: str, port: int, *, key_file: str | Path | None,
    insecure: bool, max_connections: int, settings: Settings,
) -> Server:  # fmt: skip
    """The server with checked settings, not yet started."""
    if key_file is not None:
        settings = replace(settings, keys=(*settings.keys, *read_keys(key_file)))
    if not settings.keys and not is_loopback(host) and not insecure:
        raise InputError(
            f"host {host!r} can be reached from other machines: give keys (key_file=), or let anybody use the server: "
            "insecure=True"
        )
    if not settings.keys and not settings.hosts and is_loopback(host):
        # reject requests that web pages of other sites send to this machine
        settings = replace(settings, hosts=(*LOCAL, host.lower()))
    config = uvicorn.Config(
        app(explainers, settings), host, port, http=limited(settings.answer_timeout), ws="none",
        log_config=None, access_log=False, server_header=False, timeout_keep_alive=30,
        limit_concurrency=max_connections, timeout_graceful_shutdown=int(settings.timeout) + 5,
    )  # fmt: skip
    return Server(config)


class Server(uvicorn.Server):
    """A uvicorn server whose readiness probe fails once it receives a signal to stop."""

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        application: Any = self.config.app
        application.state.service.draining = True
        super().handle_exit(sig, frame)

    async def startup(self, sockets: Any = None) -> None:
        """Start, and leave what the process holds by now, frameworks and models, out of the garbage collector's rounds.

        A body with many lists starts several rounds, and each would pause the server for the time of all objects.
        """
        await super().startup(sockets)
        gc.collect()
        gc.freeze()

    async def shutdown(self, sockets: Any = None) -> None:
        """Stop listening, and read what open connections still send, but not for long; then close them."""
        await asyncio.sleep(0.001)  # a timer runs behind the sockets that are ready: all that wait are accepted first
        for listener in self.servers:
            listener.close()
        await asyncio.sleep(LINGER)
        patience = time.monotonic() + FIRST
        while self._incomplete() and time.monotonic() < patience:
            await asyncio.sleep(LINGER / 10)
        for connection in self._incomplete():
            connection.transport.abort()
        await super().shutdown(sockets)

    def _incomplete(self) -> list[Any]:
        """The connections that have not sent a whole request."""
        connections: set[Any] = self.server_state.connections
        return [connection for connection in connections if connection.incomplete]


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach ``host``."""
    if host.lower() == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False

"""Middleware around every request: its id, authorization, one log line, and metrics."""

from __future__ import annotations

import hmac
import logging
import re
import time
import uuid
from typing import Any

from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import ClientDisconnect
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from . import v2
from .arrays import dump
from .service import ClientGone, Refusal, Service

log = logging.getLogger("explainers.serve")
OPEN = ("/healthz", "/v2/health/live", "/v2/health/ready")  # paths that need no key
HOST = re.compile(r"[\w.-]+(:\d+)?|\[[0-9a-f:.]+\](:\d+)?", re.ASCII | re.IGNORECASE)
ONCE = ("host", "authorization", "content-type", "content-length", v2.HEADER.lower())
IDENTITY = re.compile(r"[\w.:/+=-]{1,128}", re.ASCII)


def refusal_response(error: Refusal) -> Response:
    """The response ``{"error": …}`` of both protocols."""
    return Response(dump({"error": str(error)}), error.status, error.headers, "application/json")


class Observe:
    """The outermost middleware: gives every response an id, a log line and a metric."""

    def __init__(self, app: ASGIApp, service: Service) -> None:
        self.app, self.service = app, service
        self.keys = [key.encode() for key in service.settings.keys]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        start = time.perf_counter()
        headers = Headers(scope=scope)
        given_identity = headers.get("x-request-id", "")
        identity = given_identity if IDENTITY.fullmatch(given_identity) else uuid.uuid4().hex
        status = 0

        async def send_with_identity(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                MutableHeaders(scope=message)["X-Request-Id"] = identity
            await send(message)

        try:
            answer = self._refusal(scope, headers)
            await (answer or self.app)(scope, receive, send_with_identity)
        except (ClientGone, ClientDisconnect):
            status = 499
        except Exception:
            log.exception("a request failed", extra={"request_id": identity, "path": scope["path"]})
            if not status:
                answer = refusal_response(
                    Refusal(500, f"internal server error; see request {identity} in the server's log")
                )
                await answer(scope, receive, send_with_identity)
        finally:
            self._record(scope, identity, status or 499, time.perf_counter() - start)

    def _refusal(self, scope: Scope, headers: Headers) -> Response | None:
        ambiguity = _ambiguity(scope, headers)
        if ambiguity:
            return refusal_response(Refusal(400, ambiguity))
        hosts = self.service.settings.hosts
        if hosts and re.sub(r":\d+$", "", headers.get("host", "")).lower() not in hosts:
            return refusal_response(Refusal(421, f"this server answers to the hosts {', '.join(hosts)}"))
        if not self.keys or scope["path"] in OPEN:
            return None
        kind, _, token = headers.get("authorization", "").partition(" ")
        matches = [hmac.compare_digest(token.strip().encode(), key) for key in self.keys]
        if kind.lower() == "bearer" and any(matches):
            return None
        return refusal_response(
            Refusal(401, "a key is needed: send Authorization: Bearer <key>", {"WWW-Authenticate": "Bearer"})
        )

    def _record(self, scope: Scope, identity: str, status: int, seconds: float) -> None:
        name = scope.get("path_params", {}).get("name", "")
        model = name if name in self.service.models else ""  # unknown names of models do not become metric labels
        verb = getattr(scope.get("endpoint"), "__name__", "none")
        self.service.metrics.count_answer(model, verb, status, seconds)
        if log.isEnabledFor(logging.INFO):
            fields: dict[str, Any] = {
                "request_id": identity, "method": scope["method"], "path": scope["path"], "model": model,
                "verb": verb, "status": status, "milliseconds": round(seconds * 1000, 3),
            }  # fmt: skip
            log.info("request", extra=fields)


def _ambiguity(scope: Scope, headers: Headers) -> str | None:
    """What two servers on a request's way could read differently in its headers."""
    names = [name for name, _ in scope["headers"]]
    for name in ONCE:
        if names.count(name.encode()) > 1:
            return f"the header {name} is given {names.count(name.encode())} times"
    host = headers.get("host")
    if host is None and scope["http_version"] == "1.1":
        return "the header host is missing"
    if host is not None and not HOST.fullmatch(host):
        return "the header host is neither a name nor an address, with or without a port"
    return None

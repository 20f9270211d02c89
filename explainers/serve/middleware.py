"""Around every request: its id, who may ask, one line of log, and the counts."""

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

from .arrays import dump
from .service import Gone, Refused, Service

log = logging.getLogger("explainers.serve")
OPEN = ("/healthz", "/v2/health/live", "/v2/health/ready")  # without a key
IDENTITY = re.compile(r"[\w.:/+=-]{1,128}", re.ASCII)


def refused(error: Refused) -> Response:
    """``{"error": …}``, as both protocols have it."""
    return Response(dump({"error": str(error)}), error.status, error.headers, "application/json")


class Observe:
    """Outermost: nothing leaves without a status, an id, a line of log and a count."""

    def __init__(self, app: ASGIApp, service: Service) -> None:
        self.app, self.service = app, service
        self.keys = [key.encode() for key in service.settings.keys]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        began = time.perf_counter()
        headers = Headers(scope=scope)
        given = headers.get("x-request-id", "")
        identity = given if IDENTITY.fullmatch(given) else uuid.uuid4().hex
        status = 0

        async def sent(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                MutableHeaders(scope=message)["X-Request-Id"] = identity
            await send(message)

        try:
            answer = self._refusal(scope, headers)
            await (answer(scope, receive, sent) if answer else self.app(scope, receive, sent))
        except (Gone, ClientDisconnect):
            status = 499
        except Exception:
            log.exception("a request failed", extra={"request_id": identity, "path": scope["path"]})
            if not status:
                answer = refused(Refused(500, f"an error of the server's own; its log has request {identity}"))
                await answer(scope, receive, sent)
        finally:
            self._record(scope, identity, status or 499, time.perf_counter() - began)

    def _refusal(self, scope: Scope, headers: Headers) -> Response | None:
        hosts = self.service.settings.hosts
        if hosts and re.sub(r":\d+$", "", headers.get("host", "")).lower() not in hosts:
            return refused(Refused(421, f"this server answers to the hosts {', '.join(hosts)}"))
        if not self.keys or scope["path"] in OPEN:
            return None
        kind, _, token = headers.get("authorization", "").partition(" ")
        matches = [hmac.compare_digest(token.strip().encode(), key) for key in self.keys]
        if kind.lower() == "bearer" and any(matches):
            return None
        return refused(
            Refused(401, "a key is needed: send Authorization: Bearer <key>", {"WWW-Authenticate": "Bearer"})
        )

    def _record(self, scope: Scope, identity: str, status: int, seconds: float) -> None:
        name = scope.get("path_params", {}).get("name", "")
        model = name if name in self.service.models else ""  # no label for what clients make up
        verb = getattr(scope.get("endpoint"), "__name__", "none")
        self.service.metrics.answered(model, verb, status, seconds)
        if log.isEnabledFor(logging.INFO):
            fields: dict[str, Any] = {
                "request_id": identity, "method": scope["method"], "path": scope["path"], "model": model,
                "verb": verb, "status": status, "milliseconds": round(seconds * 1000, 3),
            }  # fmt: skip
            log.info("request", extra=fields)

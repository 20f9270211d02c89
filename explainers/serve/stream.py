"""Server-sent events: running estimates of a call, then its result."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from concurrent.futures import Future
from typing import Any

from starlette.requests import Request

from ..explainer.explanation import Explanation
from ..run.base import Estimate, Run
from . import v1
from .arrays import dump
from .service import Job, Service, wait_for_disconnect


class Events:
    """The events of one request. A slow client gets only the latest estimate."""

    def __init__(self, service: Service, job: Job) -> None:
        self.service, self.job = service, job
        self.loop = asyncio.get_running_loop()
        self.changed = asyncio.Event()
        self.estimate: Estimate | None = None
        self.last = time.monotonic()

    def watch(self, run: Run) -> None:
        """Read the estimate of a running call; called on the device's thread."""
        now = time.monotonic()
        if now - self.last < self.service.settings.stream_interval:
            return
        self.last = now
        estimate = run.estimate()
        if estimate is not None:
            self.loop.call_soon_threadsafe(self._show, estimate)

    def _show(self, estimate: Estimate) -> None:
        self.estimate = estimate
        self.changed.set()

    async def of(self, request: Request, future: Future[Explanation]) -> AsyncIterator[bytes]:
        """Yield ``estimate`` events, and finally ``result`` or ``error``."""
        async_future = asyncio.wrap_future(future)
        disconnection = asyncio.ensure_future(wait_for_disconnect(request))
        try:
            while not (async_future.done() or disconnection.done()):
                change = asyncio.ensure_future(self.changed.wait())
                waiting: set[asyncio.Future[Any]] = {async_future, disconnection, change}
                await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
                change.cancel()
                if self.estimate and self.changed.is_set() and not async_future.done():
                    self.changed.clear()
                    estimate = v1.estimate(self.job.model, self.estimate)
                    yield await self._event("estimate", lambda estimate=estimate: dump(estimate))
            if async_future.done():
                yield await self._last(async_future)
        finally:
            disconnection.cancel()
            async_future.cancel()

    async def _last(self, future: asyncio.Future[Explanation]) -> bytes:
        try:
            explanation = self.service.check_outputs(future.result())
            return await self._event("result", lambda: v1.encode(self.job, explanation))
        except Exception as error:
            refusal = self.service.refusal(error)
            if refusal is None:
                raise
            return await self._event("error", lambda: dump({"error": str(refusal), "status": refusal.status}))

    async def _event(self, kind: str, data: Any) -> bytes:
        text: bytes = await self.service.off_loop(self.job.numbers, data)
        return b"event: " + kind.encode() + b"\ndata: " + text + b"\n\n"

"""Server-sent events: the running estimate of a call, then its result."""

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
from .service import Job, Service, disconnected


class Events:
    """The events of one request. Only the last estimate waits for a slow client."""

    def __init__(self, service: Service, job: Job) -> None:
        self.service, self.job = service, job
        self.loop = asyncio.get_running_loop()
        self.changed = asyncio.Event()
        self.estimate: Estimate | None = None
        self.last = time.monotonic()

    def watch(self, run: Run) -> None:
        """Take the estimate of a run in progress; called on the device's thread."""
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
        """``estimate`` events, at last ``result`` or ``error``."""
        wrapped = asyncio.wrap_future(future)
        gone = asyncio.ensure_future(disconnected(request))
        try:
            while not (wrapped.done() or gone.done()):
                news = asyncio.ensure_future(self.changed.wait())
                waiting: set[asyncio.Future[Any]] = {wrapped, gone, news}
                await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
                news.cancel()
                if self.estimate and self.changed.is_set() and not wrapped.done():
                    self.changed.clear()
                    found = v1.estimate(self.job.model, self.estimate)
                    yield await self._event("estimate", lambda found=found: dump(found))
            if wrapped.done():
                yield await self._last(wrapped)
        finally:
            gone.cancel()
            wrapped.cancel()

    async def _last(self, future: asyncio.Future[Explanation]) -> bytes:
        try:
            explanation = self.service.checked(future.result())
            return await self._event("result", lambda: v1.encode(self.job, explanation))
        except Exception as error:
            refusal = self.service.refusal(error)
            if refusal is None:
                raise
            return await self._event("error", lambda: dump({"error": str(refusal), "status": refusal.status}))

    async def _event(self, kind: str, data: Any) -> bytes:
        text: bytes = await self.service.off_loop(self.job.numbers, data)
        return b"event: " + kind.encode() + b"\ndata: " + text + b"\n\n"

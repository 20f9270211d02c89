"""Connections that cannot be held open or filled for nothing: limits that uvicorn leaves to a proxy in front."""

from __future__ import annotations

import time
from asyncio import TimerHandle, Transport
from typing import Any

from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol

from .arrays import dump

MOST_HEADERS = 100
HEAD_BYTES = 32 * 2**10  # of a request's address and headers
HEAD_SECONDS = 10.0  # within which an address and headers must arrive
MOST_WAITING = 32  # requests that may wait on one connection behind the one that is being answered
CHECK = 1.0  # seconds between two looks at a connection
ANSWER_SECONDS = 60.0  # within which a client must read what was sent to it


class LimitedProtocol(HttpToolsProtocol):
    """uvicorn's HTTP/1.1 with limits on headers (in number, bytes and seconds), on waiting requests and slow readers.

    A request over a limit is answered with 431 or 400 before the application sees it, and its connection is closed.
    """

    surplus = 0  # bytes of the present message that are not its body
    head_bytes = 0
    in_head = True
    status = 400  # of the answer to a request that breaks a limit
    head_since: float | None = None  # when a head began, or the rest of a body that nobody reads
    unread_since: float | None = None  # since when the client reads nothing of what waits for it
    checking: TimerHandle | None = None
    answer_seconds = ANSWER_SECONDS

    def connection_made(self, transport: Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self.head_since = time.monotonic()
        self.checking = self.loop.call_later(CHECK, self.check)

    def connection_lost(self, exc: Exception | None) -> None:
        if self.checking is not None:
            self.checking.cancel()
        super().connection_lost(exc)

    # --- size ----------------------------------------------------------------------------------

    def data_received(self, data: bytes) -> None:
        """Parse what came; refuse a message whose headers, trailers and chunk sizes outweigh its body by too much."""
        if self.transport.is_closing():
            return
        self.surplus += len(data)
        if self.head_since is None and self.in_head:
            self.head_since = time.monotonic()
        super().data_received(data)
        if self.surplus > HEAD_BYTES and not self.transport.is_closing():
            self.status = 431
            self.send_400_response(f"the headers of a request may have {HEAD_BYTES} bytes")

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self.in_head, self.head_bytes = True, 0
        if self.head_since is None:
            self.head_since = time.monotonic()

    def on_url(self, url: bytes) -> None:
        self._count_head(len(url))
        super().on_url(url)

    def on_header(self, name: bytes, value: bytes) -> None:
        if not self.in_head:
            return  # behind a body of chunks: nothing reads these
        self._count_head(len(name) + len(value))
        if len(self.headers) >= MOST_HEADERS:
            self._refuse(431, f"a request may have {MOST_HEADERS} headers")
        super().on_header(name, value)

    def _count_head(self, size: int) -> None:
        self.head_bytes += size
        if self.head_bytes > HEAD_BYTES:
            self._refuse(431, f"the headers of a request may have {HEAD_BYTES} bytes")

    def on_headers_complete(self) -> None:
        if len(self.pipeline) >= MOST_WAITING:
            self._refuse(400, f"{MOST_WAITING} requests may wait on one connection: read the answers")
        self.in_head, self.head_since = False, None
        super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        self.surplus = max(0, self.surplus - 2 * len(body))  # chunks may have frames as large as they are
        super().on_body(body)

    def on_message_complete(self) -> None:
        self.surplus, self.in_head = 0, True
        # after an answer that came before the end of the body, nothing else limits the wait for the next request
        self.head_since = time.monotonic() if self.cycle.response_complete else None
        super().on_message_complete()

    def _refuse(self, status: int, message: str) -> None:
        """Stop the parser, which then calls :meth:`send_400_response`."""
        self.status, self.message = status, message
        raise ValueError(message)

    def send_400_response(self, msg: str) -> None:
        content = dump({"error": getattr(self, "message", msg)})
        self.transport.write(
            STATUS_LINE[self.status] + b"content-type: application/json\r\nconnection: close\r\n"
            b"content-length: %d\r\n\r\n%b" % (len(content), content)
        )
        self.transport.close()

    # --- time ----------------------------------------------------------------------------------

    def on_response_complete(self) -> None:
        super().on_response_complete()
        if not self.in_head:  # answered before the body was there: it is read for a while, so that the client hears
            self.head_since = time.monotonic()

    def resume_writing(self) -> None:
        self.unread_since = None
        super().resume_writing()

    def timeout_keep_alive_handler(self) -> None:
        self.transport.abort()  # closing would wait for a client that has not read its answer for all that time

    def check(self) -> None:
        """Drop a client that is late with its headers, or with reading its answer; look again later."""
        now = time.monotonic()
        if self.answering:
            self.head_since = None if self.head_since is None else now  # we do not read as long as we answer
        late = self.head_since is not None and now - self.head_since > HEAD_SECONDS
        if not self.transport.get_write_buffer_size():
            self.unread_since = None
        elif self.unread_since is None:
            self.unread_since = now
        elif now - self.unread_since > self.answer_seconds:
            late = True
        if late:
            self.transport.abort()
        else:
            self.checking = self.loop.call_later(CHECK, self.check)

    @property
    def answering(self) -> bool:
        """Whether a request has come, wholly or in part, that is not answered yet."""
        cycle: Any = self.cycle
        return cycle is not None and not cycle.response_complete

    @property
    def incomplete(self) -> bool:
        """Whether it has not sent its first request, or not the whole body of a request that waits for an answer."""
        cycle: Any = self.cycle
        return cycle is None or (cycle.more_body and not cycle.response_complete)


def limited(answer_seconds: float) -> type[LimitedProtocol]:
    """The protocol with the seconds within which a client must read what was sent to it."""
    return type("Limited", (LimitedProtocol,), {"answer_seconds": answer_seconds})

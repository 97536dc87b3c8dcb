"""The dashboard's event stream: one snapshot a second, created once for all listeners."""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import orjson
from starlette.responses import Response, StreamingResponse
from starlette.types import Receive, Scope, Send

from shared.http.responses import Problem
from shared.runtime.lifecycle import wait_for_event

_EVERY_S = 1.0
_MAX_LISTENERS = 100
_TYPE = "text/event-stream"
_HEADERS = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}


class SnapshotStream:
    """Sends the results of `snapshot`. The streams end when `stop` is set."""

    def __init__(
        self, snapshot: Callable[[], Awaitable[dict[str, Any]]], stop: asyncio.Event
    ) -> None:
        self._snapshot = snapshot
        self._stop = stop
        self._listeners = 0
        self._encoded = b""
        self._encoded_at = float("-inf")
        self._encoding = asyncio.Lock()

    def open_response(self) -> Response:
        if self._listeners >= _MAX_LISTENERS:
            raise Problem(
                503,
                "Service Unavailable",
                detail="too many listeners",
                headers={"Retry-After": "10"},
            )
        # Counted before the stream starts, so that simultaneous requests cannot exceed the limit.
        self._listeners += 1
        return _EventStreamResponse(self._events(), on_close=self._listener_left)

    def head_response(self) -> Response:
        """Return a stream's headers only, so that a HEAD request does not wait for the end."""
        return Response(media_type=_TYPE, headers=_HEADERS)

    def _listener_left(self) -> None:
        self._listeners -= 1

    async def _events(self) -> AsyncIterator[bytes]:
        yield b"retry: 2000\n\n"
        while not self._stop.is_set():
            yield await self._latest_event()
            await wait_for_event(self._stop, _EVERY_S)

    async def _latest_event(self) -> bytes:
        async with self._encoding:
            if time.monotonic() - self._encoded_at >= _EVERY_S / 2:
                data = orjson.dumps(
                    await self._snapshot(), option=orjson.OPT_UTC_Z | orjson.OPT_NON_STR_KEYS
                )
                self._encoded, self._encoded_at = (
                    b"event: snapshot\ndata: " + data + b"\n\n",
                    time.monotonic(),
                )
            return self._encoded


class _EventStreamResponse(StreamingResponse):
    """Calls `on_close` when the stream ends for any reason."""

    def __init__(self, events: AsyncIterator[bytes], *, on_close: Callable[[], None]) -> None:
        super().__init__(events, media_type=_TYPE, headers=_HEADERS)
        self._on_close = on_close

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            self._on_close()

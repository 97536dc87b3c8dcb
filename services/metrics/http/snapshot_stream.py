"""The feed of the page: one snapshot a second, made once for all who listen."""

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
_LISTENERS = 100
_TYPE = "text/event-stream"
_HEADERS = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}


class SnapshotStream:
    """`snapshot` makes what is sent; the streams end when `stop` is set."""

    def __init__(
        self, snapshot: Callable[[], Awaitable[dict[str, Any]]], stop: asyncio.Event
    ) -> None:
        self._snapshot = snapshot
        self._stop = stop
        self._listeners = 0
        self._made = b""
        self._made_at = float("-inf")
        self._making = asyncio.Lock()

    def response(self) -> Response:
        if self._listeners >= _LISTENERS:
            raise Problem(
                503,
                "Service Unavailable",
                detail="too many listen already",
                headers={"Retry-After": "10"},
            )
        self._listeners += (
            1  # at once: of many that come together, none may see the same last place
        )
        return _Stream(self._events(), gone=self._gone)

    def head(self) -> Response:
        """What a stream begins with: who asks for no more would wait for its end."""
        return Response(media_type=_TYPE, headers=_HEADERS)

    def _gone(self) -> None:
        self._listeners -= 1

    async def _events(self) -> AsyncIterator[bytes]:
        yield b"retry: 2000\n\n"
        while not self._stop.is_set():
            yield await self._latest()
            await wait_for_event(self._stop, _EVERY_S)

    async def _latest(self) -> bytes:
        async with self._making:
            if time.monotonic() - self._made_at >= _EVERY_S / 2:
                data = orjson.dumps(
                    await self._snapshot(), option=orjson.OPT_UTC_Z | orjson.OPT_NON_STR_KEYS
                )
                self._made, self._made_at = (
                    b"event: snapshot\ndata: " + data + b"\n\n",
                    time.monotonic(),
                )
            return self._made


class _Stream(StreamingResponse):
    """Calls `gone` when it has ended, however that was."""

    def __init__(self, events: AsyncIterator[bytes], *, gone: Callable[[], None]) -> None:
        super().__init__(events, media_type=_TYPE, headers=_HEADERS)
        self._gone = gone

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            self._gone()

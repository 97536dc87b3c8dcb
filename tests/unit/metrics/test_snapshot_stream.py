"""The feed of the page over real sockets: how many may listen, and what HEAD is told."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import httpx
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from services.metrics.http.snapshot_stream import SnapshotStream
from shared.http.responses import JsonResponse, Problem
from shared.http.server import listen, serve
from tests.support.eventually import eventually

Connection = tuple[asyncio.StreamReader, asyncio.StreamWriter]


@asynccontextmanager
async def a_feed() -> AsyncIterator[int]:
    """The port where one is served at `/events`."""
    stop, listener = asyncio.Event(), listen("127.0.0.1", 0)

    async def snapshot() -> dict[str, Any]:
        return {"overview": 1}

    feed = SnapshotStream(snapshot, stop)

    async def events(request: Request) -> Response:
        return feed.head() if request.method == "HEAD" else feed.response()

    async def health(request: Request) -> Response:
        return JsonResponse({})

    async def refused(request: Request, error: Exception) -> Response:
        assert isinstance(error, Problem)
        return error.response()

    routes = [Route("/events", events), Route("/health", health)]
    serving = asyncio.create_task(
        serve(Starlette(routes=routes, exception_handlers={Problem: refused}), listener, stop)
    )
    try:
        yield listener.getsockname()[1]
    finally:
        stop.set()
        await serving


async def listening(port: int) -> tuple[int, Connection]:
    """The status, and the connection, which stays open."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(b"GET /events HTTP/1.1\r\nHost: x\r\n\r\n")
    return int((await reader.readline()).split()[1]), (reader, writer)


async def test_so_many_may_listen_also_when_they_come_together_and_others_when_they_have_gone() -> (
    None
):
    async with a_feed() as port:
        first = await asyncio.gather(*(listening(port) for _ in range(130)))
        assert Counter(status for status, _ in first) == {200: 100, 503: 30}
        for _, (_, writer) in first:
            writer.transport.abort()

        async def has_room() -> bool:
            status, (_, writer) = await listening(port)
            writer.transport.abort()
            return status == 200

        await eventually(has_room)


async def test_head_is_answered_at_once_and_the_connection_goes_on() -> None:
    async with (
        a_feed() as port,
        httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", timeout=5) as client,
    ):
        head = await client.head("/events")
        assert (head.status_code, head.headers["content-type"]) == (
            200,
            "text/event-stream; charset=utf-8",
        )
        assert (await client.get("/health")).status_code == 200

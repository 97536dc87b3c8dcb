"""The dashboard's event stream over real sockets: the limit of listeners, and HEAD."""

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
from shared.http.server import open_listener, serve_http
from tests.support.eventually import eventually

Connection = tuple[asyncio.StreamReader, asyncio.StreamWriter]


@asynccontextmanager
async def serve_stream() -> AsyncIterator[int]:
    """Yield the port of a server with a stream at `/events`."""
    stop, listener = asyncio.Event(), open_listener("127.0.0.1", 0)

    async def snapshot() -> dict[str, Any]:
        return {"overview": 1}

    stream = SnapshotStream(snapshot, stop)

    async def events(request: Request) -> Response:
        return stream.head_response() if request.method == "HEAD" else stream.open_response()

    async def health(request: Request) -> Response:
        return JsonResponse({})

    async def answer_problem(request: Request, error: Exception) -> Response:
        assert isinstance(error, Problem)
        return error.response()

    routes = [Route("/events", events), Route("/health", health)]
    serving = asyncio.create_task(
        serve_http(
            Starlette(routes=routes, exception_handlers={Problem: answer_problem}), listener, stop
        )
    )
    try:
        yield listener.getsockname()[1]
    finally:
        stop.set()
        await serving


async def open_stream(port: int) -> tuple[int, Connection]:
    """Return the status and the open connection."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(b"GET /events HTTP/1.1\r\nHost: x\r\n\r\n")
    return int((await reader.readline()).split()[1]), (reader, writer)


async def test_listeners_are_limited_and_closed_ones_make_room() -> None:
    async with serve_stream() as port:
        first = await asyncio.gather(*(open_stream(port) for _ in range(130)))
        assert Counter(status for status, _ in first) == {200: 100, 503: 30}
        for _, (_, writer) in first:
            writer.transport.abort()

        async def has_room() -> bool:
            status, (_, writer) = await open_stream(port)
            writer.transport.abort()
            return status == 200

        await eventually(has_room)


async def test_head_is_answered_without_a_stream() -> None:
    async with (
        serve_stream() as port,
        httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", timeout=5) as client,
    ):
        head = await client.head("/events")
        assert (head.status_code, head.headers["content-type"]) == (
            200,
            "text/event-stream; charset=utf-8",
        )
        assert (await client.get("/health")).status_code == 200

"""The HTTP server: security headers, limits, and connections that end early or upgrade."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import httpx
import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import FileResponse, HTMLResponse, Response
from starlette.routing import Route

from shared.http.responses import JsonResponse, Problem
from shared.http.server import (
    MAX_HEAD_BYTES,
    CorkedTransport,
    SecurityHeaders,
    open_listener,
    serve_http,
)


async def _json(request: Request) -> Response:
    return JsonResponse({"x": 1})


async def _refused(request: Request) -> Response:
    raise Problem(401, "Unauthorized")


async def _page(request: Request) -> Response:
    return HTMLResponse("<p>", headers={"Content-Security-Policy": "default-src 'self'"})


async def _plain_page(request: Request) -> Response:
    return HTMLResponse("<p>", headers={"Cache-Control": "no-cache"})


async def _file(request: Request) -> Response:
    return FileResponse(Path(__file__))


async def _problem(request: Request, error: Exception) -> Response:
    assert isinstance(error, Problem)
    return error.response()


NO_PAGE = "default-src 'none'; frame-ancestors 'none'; sandbox"


@pytest.mark.parametrize(
    ("path", "policy", "cached"),
    [
        ("/json", NO_PAGE, "no-store"),
        ("/refused", NO_PAGE, "no-store"),
        ("/nowhere", NO_PAGE, "no-store"),
        ("/page", "default-src 'self'", "no-store"),
        ("/plain-page", None, "no-cache"),
        ("/file", NO_PAGE, None),
    ],
)
async def test_each_response_has_its_security_headers_once(
    path: str, policy: str | None, cached: str | None
) -> None:
    handlers = {
        "json": _json,
        "refused": _refused,
        "page": _page,
        "plain-page": _plain_page,
        "file": _file,
    }
    routes = [Route(f"/{name}", handler) for name, handler in handlers.items()]
    app = SecurityHeaders(Starlette(routes=routes, exception_handlers={Problem: _problem}))
    async with httpx.AsyncClient(
        transport=httpx.ASGITransport(app), base_url="http://test"
    ) as client:
        headers = (await client.get(path)).headers
    assert headers.get_list("x-content-type-options") == ["nosniff"]
    assert headers.get_list("referrer-policy") == ["no-referrer"]
    assert headers.get_list("content-security-policy") == ([policy] if policy else [])
    assert headers.get_list("cache-control") == ([cached] if cached else [])


async def _length(request: Request) -> Response:
    return JsonResponse({"length": len(await request.body())})


@asynccontextmanager
async def connected_server() -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    """A connection to the real server."""
    listener, stop = open_listener("127.0.0.1", 0), asyncio.Event()
    handlers = {"": _length, "refused": _refusing, "patient": _patient}
    app = Starlette(
        routes=[Route(f"/{name}", handler, methods=["POST"]) for name, handler in handlers.items()]
    )
    serving = asyncio.create_task(serve_http(app, listener, stop, grace_s=1))
    reader, writer = await asyncio.open_connection(*listener.getsockname())
    try:
        yield reader, writer
    finally:
        writer.close()
        stop.set()
        await serving


HEAD = b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n"


@pytest.mark.parametrize(
    "begun",
    [HEAD + b"X-Long: ", HEAD + b"\r\n2\r\n{}\r\n0\r\nX-Long: ", HEAD + b"\r\n2;x="],
    ids=["header", "trailer", "chunk extension"],
)
async def test_endless_headers_close_the_connection(begun: bytes) -> None:
    async with connected_server() as (_, writer):
        writer.write(begun)
        with pytest.raises(ConnectionError):
            await _send(writer, 50 * MAX_HEAD_BYTES)


async def _send(writer: asyncio.StreamWriter, count: int) -> None:
    for _ in range(count // 10_000):
        writer.write(b"x" * 10_000)
        await writer.drain()
        await asyncio.sleep(0)


async def test_long_body_in_small_chunks_is_accepted() -> None:
    pieces = 2 * MAX_HEAD_BYTES // 8
    async with connected_server() as (reader, writer):
        for _ in range(2):  # the connection lives on
            writer.write(
                HEAD
                + b"X-Fair: "
                + b"x" * 10_000
                + b"\r\n\r\n"
                + b"1\r\nx\r\n" * pieces
                + b"0\r\n\r\n"
            )
            await writer.drain()
            head = await reader.readuntil(b"\r\n\r\n")
            assert head.startswith(b"HTTP/1.1 200")
            assert await reader.readuntil(b"}") == b'{"length":%d}' % pieces


async def _refusing(request: Request) -> Response:
    return JsonResponse({"length": "unread"}, 413)


LONG = b"POST /refused HTTP/1.1\r\nHost: x\r\nContent-Length: 1000000\r\n"


async def test_early_refusal_closes_the_connection() -> None:
    """The next bytes could be the body or a request, so the connection is closed."""
    async with connected_server() as (reader, writer):
        writer.write(LONG + b"Expect: 100-continue\r\n\r\n")
        head, body = (await asyncio.wait_for(reader.read(), 10)).split(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 413")
    assert b"\r\nconnection: close" in head
    assert body == b'{"length":"unread"}'


async def test_connection_survives_100_continue() -> None:
    async with connected_server() as (reader, writer):
        for _ in range(2):
            writer.write(
                b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 4\r\nExpect: 100-continue\r\n\r\n"
            )
            assert await reader.readuntil(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
            writer.write(b"body")
            assert b"connection" not in await reader.readuntil(b"\r\n\r\n")
            assert await reader.readuntil(b"}") == b'{"length":4}'


async def test_response_reaches_a_client_that_still_sends() -> None:
    """The client sends the whole body before it reads, as simple clients do."""
    async with connected_server() as (reader, writer):
        writer.write(LONG + b"\r\n")
        for _ in range(100):
            writer.write(b"x" * 10_000)
            await writer.drain()
            await asyncio.sleep(0)
        assert (await asyncio.wait_for(reader.read(), 10)).endswith(b'{"length":"unread"}')


async def _patient(request: Request) -> Response:
    """Responds some turns of the loop later, after the server has read everything."""
    for _ in range(20):
        await asyncio.sleep(0)
    return await _length(request)


@pytest.mark.parametrize("path", [b"/", b"/patient"], ids=["answered by then", "not yet answered"])
async def test_half_closed_connection_gets_its_response(path: bytes) -> None:
    async with connected_server() as (reader, writer):
        writer.write(b"POST " + path + b" HTTP/1.1\r\nHost: x\r\n" + BODIES["length"])
        writer.write_eof()
        assert (await asyncio.wait_for(reader.read(), 4)).endswith(b'{"length":4}')  # and closed


@pytest.mark.parametrize(
    "begun", [b"", HEAD, HEAD + b"\r\n4\r\nbo"], ids=["nothing", "head", "body"]
)
async def test_half_closed_incomplete_request_is_dropped(begun: bytes) -> None:
    async with connected_server() as (reader, writer):
        writer.write(begun)
        writer.write_eof()
        assert await asyncio.wait_for(reader.read(), 4) == b""


UPGRADE = (
    b"Host: x\r\nConnection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\n"
    b"HTTP2-Settings: AAMAAABk\r\n"
)
BODIES = {
    "length": b"Content-Length: 4\r\n\r\nbody",
    "chunks": b"Transfer-Encoding: chunked\r\n\r\n3\r\nbod\r\n1\r\ny\r\n0\r\n\r\n",
}


@pytest.mark.parametrize("body", BODIES.values(), ids=BODIES)
@pytest.mark.parametrize("piece", [1, 1_000], ids=["byte by byte", "at once"])
async def test_upgrade_request_is_answered_in_http_1(body: bytes, piece: int) -> None:
    request = b"POST / HTTP/1.1\r\n" + UPGRADE + body
    async with connected_server() as (reader, writer):
        for _ in range(2):  # the connection lives on
            for begin in range(0, len(request), piece):
                writer.write(request[begin : begin + piece])
                await asyncio.sleep(0)
            assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 200")
            assert await reader.readuntil(b"}") == b'{"length":4}'


async def test_pipelined_upgrade_is_answered_in_order() -> None:
    plain = b"POST / HTTP/1.1\r\nHost: x\r\n"
    async with connected_server() as (reader, writer):
        writer.write(
            plain
            + BODIES["length"]
            + b"POST / HTTP/1.1\r\n"
            + UPGRADE
            + BODIES["chunks"]
            + plain
            + b"\r\n"
        )
        answers = [(await reader.readuntil(b"}")).rsplit(b"\r\n", 1)[1] for _ in range(3)]
    assert answers == [b'{"length":4}', b'{"length":4}', b'{"length":0}']


@pytest.mark.parametrize(
    ("sent", "status"),
    [
        (b"HELO\r\n\r\n", 400),
        (b"POST / HTTP/1.1\r\nContent-Length: x\r\n\r\n", 400),
        (b"CONNECT elsewhere:443 HTTP/1.1\r\nHost: elsewhere:443\r\n\r\n", 400),
        (HEAD + b"X-Long: " + b"x" * MAX_HEAD_BYTES, 431),
    ],
    ids=["not HTTP", "no length", "no proxy", "long"],
)
async def test_invalid_request_gets_a_problem(sent: bytes, status: int) -> None:
    async with connected_server() as (reader, writer):
        writer.write(sent)
        head, body = (await asyncio.wait_for(reader.read(), 4)).split(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 %d " % status)
    fields = dict(line.split(b": ", 1) for line in head.split(b"\r\n")[1:])
    assert fields[b"content-type"] == b"application/problem+json"
    assert fields[b"x-content-type-options"] == b"nosniff"
    assert fields[b"connection"] == b"close"
    assert int(fields[b"content-length"]) == len(body)
    assert json.loads(body)["status"] == status


class _RecordingTransport(asyncio.Transport):
    """Records writes, and `None` for the close."""

    def __init__(self) -> None:
        super().__init__()
        self.written: list[bytes | None] = []
        self.gone = False

    def is_closing(self) -> bool:
        return self.gone

    def write(self, data: bytes | bytearray | memoryview) -> None:
        self.written.append(bytes(data))

    def close(self) -> None:
        self.written.append(None)


async def test_writes_of_one_turn_of_the_loop_are_joined() -> None:
    wire = _RecordingTransport()
    corked = CorkedTransport(wire)
    corked.write(b"head ")
    corked.write(b"body")
    assert wire.written == []
    await asyncio.sleep(0)
    corked.write(b"next")
    await asyncio.sleep(0)
    assert wire.written == [b"head body", b"next"]


async def test_large_writes_pass_and_close_flushes_the_rest() -> None:
    wire = _RecordingTransport()
    corked = CorkedTransport(wire)
    corked.write(b"x" * 100_000)
    assert wire.written == [b"x" * 100_000]
    corked.write(b"last")
    corked.close()
    await asyncio.sleep(0)
    assert wire.written[1:] == [b"last", None]


async def test_writes_to_a_closed_connection_are_dropped() -> None:
    wire = _RecordingTransport()
    CorkedTransport(wire).write(b"too late")
    wire.gone = True
    await asyncio.sleep(0)
    assert wire.written == []

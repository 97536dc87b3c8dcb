"""What every answer says to browsers and caches unless its handler has said it, and how long a head may be."""

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
async def test_each_answer_has_its_headers_once(
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
async def served() -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
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
async def test_nobody_sends_headers_without_end(begun: bytes) -> None:
    async with served() as (_, writer):
        writer.write(begun)
        with pytest.raises(ConnectionError):
            await _send(writer, 50 * MAX_HEAD_BYTES)


async def _send(writer: asyncio.StreamWriter, count: int) -> None:
    for _ in range(count // 10_000):
        writer.write(b"x" * 10_000)
        await writer.drain()
        await asyncio.sleep(0)


async def test_long_bodies_in_small_pieces_are_no_heads() -> None:
    pieces = 2 * MAX_HEAD_BYTES // 8
    async with served() as (reader, writer):
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


async def test_who_is_refused_before_sending_a_body_need_not_send_it() -> None:
    """What comes next on the connection could be the body or a request: it is closed, and says so."""
    async with served() as (reader, writer):
        writer.write(LONG + b"Expect: 100-continue\r\n\r\n")
        head, body = (await asyncio.wait_for(reader.read(), 10)).split(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 413")
    assert b"\r\nconnection: close" in head
    assert body == b'{"length":"unread"}'


async def test_who_is_told_to_send_a_body_and_does_keeps_the_connection() -> None:
    async with served() as (reader, writer):
        for _ in range(2):
            writer.write(
                b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 4\r\nExpect: 100-continue\r\n\r\n"
            )
            assert await reader.readuntil(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
            writer.write(b"body")
            assert b"connection" not in await reader.readuntil(b"\r\n\r\n")
            assert await reader.readuntil(b"}") == b'{"length":4}'


async def test_the_answer_reaches_who_is_still_sending() -> None:
    """All of the body is sent before the answer is read, as simple clients do."""
    async with served() as (reader, writer):
        writer.write(LONG + b"\r\n")
        for _ in range(100):
            writer.write(b"x" * 10_000)
            await writer.drain()
            await asyncio.sleep(0)
        assert (await asyncio.wait_for(reader.read(), 10)).endswith(b'{"length":"unread"}')


async def _patient(request: Request) -> Response:
    """Answers some turns of the loop later, in which the server hears of all that was sent."""
    for _ in range(20):
        await asyncio.sleep(0)
    return await _length(request)


@pytest.mark.parametrize("path", [b"/", b"/patient"], ids=["answered by then", "not yet answered"])
async def test_who_says_that_no_more_comes_is_answered(path: bytes) -> None:
    async with served() as (reader, writer):
        writer.write(b"POST " + path + b" HTTP/1.1\r\nHost: x\r\n" + BODIES["length"])
        writer.write_eof()
        assert (await asyncio.wait_for(reader.read(), 4)).endswith(b'{"length":4}')  # and closed


@pytest.mark.parametrize(
    "begun", [b"", HEAD, HEAD + b"\r\n4\r\nbo"], ids=["nothing", "head", "body"]
)
async def test_who_ends_in_the_midst_of_a_request_is_not_waited_for(begun: bytes) -> None:
    async with served() as (reader, writer):
        writer.write(begun)
        writer.write_eof()
        assert await asyncio.wait_for(reader.read(), 4) == b""


UPGRADE = b"Host: x\r\nConnection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABk\r\n"
BODIES = {
    "length": b"Content-Length: 4\r\n\r\nbody",
    "chunks": b"Transfer-Encoding: chunked\r\n\r\n3\r\nbod\r\n1\r\ny\r\n0\r\n\r\n",
}


@pytest.mark.parametrize("body", BODIES.values(), ids=BODIES)
@pytest.mark.parametrize("piece", [1, 1_000], ids=["byte by byte", "at once"])
async def test_who_would_rather_speak_another_protocol_is_answered_in_this_one(
    body: bytes, piece: int
) -> None:
    request = b"POST / HTTP/1.1\r\n" + UPGRADE + body
    async with served() as (reader, writer):
        for _ in range(2):  # the connection lives on
            for begin in range(0, len(request), piece):
                writer.write(request[begin : begin + piece])
                await asyncio.sleep(0)
            assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 200")
            assert await reader.readuntil(b"}") == b'{"length":4}'


async def test_an_upgrade_behind_another_request_waits_for_its_turn() -> None:
    plain = b"POST / HTTP/1.1\r\nHost: x\r\n"
    async with served() as (reader, writer):
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
    ("said", "status"),
    [
        (b"HELO\r\n\r\n", 400),
        (b"POST / HTTP/1.1\r\nContent-Length: x\r\n\r\n", 400),
        (b"CONNECT elsewhere:443 HTTP/1.1\r\nHost: elsewhere:443\r\n\r\n", 400),
        (HEAD + b"X-Long: " + b"x" * MAX_HEAD_BYTES, 431),
    ],
    ids=["not HTTP", "no length", "no proxy", "long"],
)
async def test_what_is_no_request_is_a_problem_too(said: bytes, status: int) -> None:
    async with served() as (reader, writer):
        writer.write(said)
        head, body = (await asyncio.wait_for(reader.read(), 4)).split(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 %d " % status)
    fields = dict(line.split(b": ", 1) for line in head.split(b"\r\n")[1:])
    assert fields[b"content-type"] == b"application/problem+json"
    assert fields[b"x-content-type-options"] == b"nosniff"
    assert fields[b"connection"] == b"close"
    assert int(fields[b"content-length"]) == len(body)
    assert json.loads(body)["status"] == status


class _Wire(asyncio.Transport):
    """Notes what is written, and when it is closed."""

    def __init__(self) -> None:
        super().__init__()
        self.said: list[bytes | None] = []
        self.gone = False

    def is_closing(self) -> bool:
        return self.gone

    def write(self, data: bytes | bytearray | memoryview) -> None:
        self.said.append(bytes(data))

    def close(self) -> None:
        self.said.append(None)


async def test_what_is_said_in_one_turn_of_the_loop_is_written_at_once() -> None:
    wire = _Wire()
    corked = CorkedTransport(wire)
    corked.write(b"head ")
    corked.write(b"body")
    assert wire.said == []
    await asyncio.sleep(0)
    corked.write(b"next")
    await asyncio.sleep(0)
    assert wire.said == [b"head body", b"next"]


async def test_nothing_is_lost_when_a_connection_closes_and_a_file_is_not_kept_in_memory() -> None:
    wire = _Wire()
    corked = CorkedTransport(wire)
    corked.write(b"x" * 100_000)
    assert wire.said == [b"x" * 100_000]
    corked.write(b"last")
    corked.close()
    await asyncio.sleep(0)
    assert wire.said[1:] == [b"last", None]


async def test_what_was_said_to_a_client_that_is_gone_is_dropped() -> None:
    wire = _Wire()
    CorkedTransport(wire).write(b"too late")
    wire.gone = True
    await asyncio.sleep(0)
    assert wire.said == []

"""HTTP that ingest and metrics share: RFC 9457 problems, JSON by orjson, and a server that stops when told to."""

import asyncio
import socket
from collections.abc import Awaitable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, cast

import httptools
import uvicorn
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from uvicorn.middleware.proxy_headers import ProxyHeadersMiddleware
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

from shared.domain.errors import Unavailable
from shared.http.responses import Problem

MAX_HEAD_BYTES = 65_536
"""Of a request: its path and headers. Judged as they come, so up to one more read (256 KB) may be taken."""
_KEEP_ALIVE_S = 75
"""Longer than clients and load balancers keep a connection (5 to 60 s, by default): who closes first must not be we, as
the next request may be on its way already, and would get no answer."""
_HELD_BYTES = 65_536
_LINGERS_S = 2.0
_NOT_KEPT = (b"cache-control", b"no-store")
_NO_PAGE = (b"content-security-policy", b"default-src 'none'; frame-ancestors 'none'; sandbox")
_ALWAYS = (
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
    _NOT_KEPT,
    _NO_PAGE,
)
_SPEAK_OF_IT = frozenset({b"etag", *(name for name, _ in _ALWAYS)})


class SecurityHeaders:
    """Adds to every answer what browsers and caches must not do with it, where the handler has said nothing of it.

    Pages (text/html) say themselves what they load. Files have an ETag and may be kept.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        def send_safely(message: Message) -> Awaitable[None]:
            if message["type"] == "http.response.start":
                message["headers"] = [*message["headers"], *_missing(dict(message["headers"]))]
            return send(message)

        await self._app(scope, receive, send_safely)


def _missing(said: Mapping[bytes, bytes]) -> Iterable[tuple[bytes, bytes]]:
    is_page = said.get(b"content-type", b"").startswith(b"text/html")
    if not is_page and _SPEAK_OF_IT.isdisjoint(said):  # nearly all answers
        return _ALWAYS
    has = {*said, *([_NOT_KEPT[0]] if b"etag" in said else []), *([_NO_PAGE[0]] if is_page else [])}
    return [pair for pair in _ALWAYS if pair[0] not in has]


def open_listener(host: str, port: int) -> socket.socket:
    """A listening socket, or `Unavailable` with one clear line when the port is taken."""
    listener = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
    except OSError as error:
        listener.close()
        raise Unavailable(
            f"cannot listen on {host}:{port}: {error.strerror}; choose another port"
        ) from None
    listener.listen(1024)
    return listener


class CorkedTransport:
    """A transport that writes once what it is given in one turn of the loop: an answer's head and its body, which
    uvicorn hands over one after the other, are one system call and one packet.

    To a client that is not done sending it closes in two steps: such data would make TCP take the answer back.
    """

    unread = False
    """The client was answered before it had sent all of its request."""

    def __init__(self, transport: asyncio.Transport) -> None:
        self._transport = transport
        self._loop = asyncio.get_running_loop()
        self._held = bytearray()
        self._closed = False

    def write(self, data: bytes) -> None:
        if not self._held:
            self._loop.call_soon(self._flush)
        self._held += data
        if len(self._held) > _HELD_BYTES:  # a file: its reader must hear that the client is slow
            self._flush()

    def close(self) -> None:
        self._flush()
        if self.unread and not self.is_closing() and self._transport.can_write_eof():
            self._transport.write_eof()
            self._transport.resume_reading()
            self._loop.call_later(_LINGERS_S, self._transport.close)
        else:
            self._transport.close()
        self._closed = True

    def is_closing(self) -> bool:
        return self._closed or self._transport.is_closing()

    def _flush(self) -> None:
        held, self._held = self._held, bytearray()
        if held and not self._transport.is_closing():  # the client may have gone since it was said
            self._transport.write(held)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)


def _closing_unread(app: ASGIApp, cycle: RequestResponseCycle) -> ASGIApp:
    """An app whose answer is the connection's last when the request has not come to its end: a client that waits for
    `100 Continue` may send its body or not, so what comes next could be either."""

    def answer(scope: Scope, receive: Receive, send: Send) -> Awaitable[None]:
        if not cycle.more_body:  # it came in one piece
            return app(scope, receive, send)

        def send_or_close(message: Message) -> Awaitable[None]:
            if message["type"] == "http.response.start" and cycle.more_body:
                cycle.keep_alive = False
                cast(CorkedTransport, cycle.transport).unread = True
            return send(message)

        return app(scope, receive, send_or_close)

    return answer


class _Protocol(HttpToolsProtocol):
    """uvicorn's protocol, whose parser would keep headers and trailers without end for whoever sends them, and would
    end at an Upgrade."""

    _bodiless = 0
    """Bytes since a head was whole, or a piece of a body came."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(
            cast(asyncio.Transport, CorkedTransport(cast(asyncio.Transport, transport)))
        )

    def data_received(self, data: bytes) -> None:
        if self.transport.is_closing():  # the rest of what is answered
            return
        self._unset_keepalive_if_required()
        self._bodiless += len(data)
        try:
            while data:
                data = self._parse(data)
        except httptools.HttpParserError as error:
            self._refuse(Problem(400, "Bad Request", detail=f"this is no HTTP: {error}"))
        if self._bodiless > MAX_HEAD_BYTES and not self.transport.is_closing():
            detail = f"path and headers are over {MAX_HEAD_BYTES} bytes"
            self._refuse(Problem(431, "Request Header Fields Too Large", detail=detail))

    def eof_received(self) -> bool:  # type: ignore[override]  # uvicorn knows one answer to it only
        """Whether the connection stays open: a client that has sent its request may say that no more comes.

        One that listens already has gone, as far as can be seen: streams end.
        """
        cycle: RequestResponseCycle | None = self.cycle
        if cycle is None or cycle.more_body or cycle.response_started:
            self.transport.close()  # not by asyncio, that knows nothing of what is held
            return False
        cycle.keep_alive = False
        return True

    def on_headers_complete(self) -> None:
        if self.parser.should_upgrade():  # it comes again
            return
        self._bodiless = 0
        super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        self._bodiless = 0
        super().on_body(body)

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: Any) -> None:
        super()._start_asgi_task(cycle, cast(Any, _closing_unread(app, cycle)))

    def on_message_complete(self) -> None:
        if not self.parser.should_upgrade():
            super().on_message_complete()

    def _refuse(self, problem: Problem) -> None:
        """The connection's last answer, to what cannot be handed to any application."""
        answer = problem.response()
        head = [b"HTTP/1.1 %d %s" % (problem.status, problem.title.encode()), b"connection: close"]
        head += [b"%s: %s" % field for field in (*answer.raw_headers, *_ALWAYS)]
        self.transport.write(b"\r\n".join([*head, b"", bytes(answer.body)]))
        self.transport.close()

    def _parse(self, data: bytes) -> bytes:
        """What is to be parsed next: something only behind a head that asks for an upgrade."""
        try:
            self.parser.feed_data(data)
        except httptools.HttpParserUpgrade as upgrade:
            return self._without_upgrade() + data[upgrade.args[0] :]
        return b""

    def _without_upgrade(self) -> bytes:
        """The head for another parser, as this one has ended before the body.

        An Upgrade may be ignored (RFC 9110, 7.8), and Java's client asks for one with every first request.
        """
        method, version = self.parser.get_method(), self.parser.get_http_version().encode()
        if method == b"CONNECT":
            raise httptools.HttpParserError("this is no proxy")
        self.parser = httptools.HttpRequestParser(self)
        self.parser.set_dangerous_leniencies(lenient_data_after_close=True)  # as uvicorn's own
        fields = (b"%s: %s\r\n" % field for field in self.headers if field[0] != b"upgrade")
        return b"".join([method, b" ", self.url, b" HTTP/", version, b"\r\n", *fields, b"\r\n"])


class _Server(uvicorn.Server):
    """uvicorn without its own signal handlers: the process's owner decides when it stops."""

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


def trust_local_proxy(app: ASGIApp) -> ASGIApp:
    """An app whose redirects name the scheme that a proxy on this machine was asked by (`X-Forwarded-Proto`)."""
    return cast(ASGIApp, ProxyHeadersMiddleware(cast(Any, app)))


async def serve_http(
    app: ASGIApp, listener: socket.socket, stop: asyncio.Event, *, grace_s: float = 10
) -> None:
    """Serve until `stop` is set, then finish open requests (at most `grace_s` seconds) and return."""
    config = uvicorn.Config(
        SecurityHeaders(app),
        log_config=None,
        access_log=False,
        lifespan="on",
        server_header=False,
        timeout_graceful_shutdown=int(grace_s),
        loop="none",
        http=_Protocol,
        ws="none",
        proxy_headers=False,
        timeout_keep_alive=_KEEP_ALIVE_S,
    )
    server = _Server(config)
    serving = asyncio.create_task(server.serve(sockets=[listener]), name="http")
    stopping = asyncio.create_task(stop.wait(), name="http-stop")
    await asyncio.wait({serving, stopping}, return_when=asyncio.FIRST_COMPLETED)
    stopping.cancel()
    server.should_exit = True
    await serving

"""The HTTP server of ingest and metrics: uvicorn with limits and security headers."""

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
"""Limit of a request's path and headers. It is checked for each read, so up to one more read (256
KB) may be accepted.
"""
_KEEP_ALIVE_S = 75
"""Longer than the keep-alive of clients and load balancers (5 to 60 s by default). The server must
not close first: the next request may be on its way already and would get no response.
"""
_MAX_HELD_BYTES = 65_536
_LINGER_S = 2.0
_NO_STORE = (b"cache-control", b"no-store")
_NO_CONTENT = (b"content-security-policy", b"default-src 'none'; frame-ancestors 'none'; sandbox")
_SECURITY_HEADERS = (
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
    _NO_STORE,
    _NO_CONTENT,
)
_RELATED_HEADERS = frozenset({b"etag", *(name for name, _ in _SECURITY_HEADERS)})


class SecurityHeaders:
    """Adds headers for browsers and caches to every response, unless the handler set them.

    Pages (text/html) declare themselves what they load. Files have an ETag and may be cached.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        def send_safely(message: Message) -> Awaitable[None]:
            if message["type"] == "http.response.start":
                message["headers"] = [
                    *message["headers"],
                    *_missing_headers(dict(message["headers"])),
                ]
            return send(message)

        await self._app(scope, receive, send_safely)


def _missing_headers(present: Mapping[bytes, bytes]) -> Iterable[tuple[bytes, bytes]]:
    is_page = present.get(b"content-type", b"").startswith(b"text/html")
    if not is_page and _RELATED_HEADERS.isdisjoint(present):  # nearly all responses
        return _SECURITY_HEADERS
    excluded = {*present}
    if b"etag" in present:
        excluded.add(_NO_STORE[0])
    if is_page:
        excluded.add(_NO_CONTENT[0])
    return [pair for pair in _SECURITY_HEADERS if pair[0] not in excluded]


def open_listener(host: str, port: int) -> socket.socket:
    """Open a listening socket. `Unavailable` with one clear line when the port is taken."""
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
    """A transport that joins the writes of one turn of the event loop.

    uvicorn writes a response's head and body one after the other; here they are one system call and
    one packet. The connection to a client that still sends is closed in two steps, because unread
    data would make TCP discard the response.
    """

    unread = False
    """The response was sent before the client had sent its whole request."""

    def __init__(self, transport: asyncio.Transport) -> None:
        self._transport = transport
        self._loop = asyncio.get_running_loop()
        self._held = bytearray()
        self._closed = False

    def write(self, data: bytes) -> None:
        if not self._held:
            self._loop.call_soon(self._flush)
        self._held += data
        if (
            len(self._held) > _MAX_HELD_BYTES
        ):  # a file: backpressure of a slow client must reach its reader
            self._flush()

    def close(self) -> None:
        self._flush()
        if self.unread and not self.is_closing() and self._transport.can_write_eof():
            self._transport.write_eof()
            self._transport.resume_reading()
            self._loop.call_later(_LINGER_S, self._transport.close)
        else:
            self._transport.close()
        self._closed = True

    def is_closing(self) -> bool:
        return self._closed or self._transport.is_closing()

    def _flush(self) -> None:
        held, self._held = self._held, bytearray()
        if held and not self._transport.is_closing():  # the client may be gone by now
            self._transport.write(held)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)


def _close_if_unread(app: ASGIApp, cycle: RequestResponseCycle) -> ASGIApp:
    """Close the connection after the response when the request has not been read to its end.

    A client that waits for `100 Continue` may send its body or not, so the next bytes could be
    either the body or a new request.
    """

    def answer(scope: Scope, receive: Receive, send: Send) -> Awaitable[None]:
        if not cycle.more_body:  # the request came in one piece
            return app(scope, receive, send)

        def send_or_close(message: Message) -> Awaitable[None]:
            if message["type"] == "http.response.start" and cycle.more_body:
                cycle.keep_alive = False
                cast(CorkedTransport, cycle.transport).unread = True
            return send(message)

        return app(scope, receive, send_or_close)

    return answer


class _Protocol(HttpToolsProtocol):
    """uvicorn's protocol with limits: its parser would keep headers and trailers without limit, and
    would stop at an Upgrade.
    """

    _bytes_without_body = 0
    """Bytes since the end of a head or the last piece of a body."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(
            cast(asyncio.Transport, CorkedTransport(cast(asyncio.Transport, transport)))
        )

    def data_received(self, data: bytes) -> None:
        if self.transport.is_closing():  # the rest of a request that has its response
            return
        self._unset_keepalive_if_required()
        self._bytes_without_body += len(data)
        try:
            while data:
                data = self._parse(data)
        except httptools.HttpParserError as error:
            self._refuse(Problem(400, "Bad Request", detail=f"this is no HTTP: {error}"))
        if self._bytes_without_body > MAX_HEAD_BYTES and not self.transport.is_closing():
            detail = f"path and headers are over {MAX_HEAD_BYTES} bytes"
            self._refuse(Problem(431, "Request Header Fields Too Large", detail=detail))

    def eof_received(self) -> bool:  # type: ignore[override]  # uvicorn always returns None
        """Return whether the connection stays open after the client has closed its sending side.

        During a response the client counts as gone, so that streams end.
        """
        cycle: RequestResponseCycle | None = self.cycle
        if cycle is None or cycle.more_body or cycle.response_started:
            self.transport.close()  # asyncio would drop the held bytes
            return False
        cycle.keep_alive = False
        return True

    def on_headers_complete(self) -> None:
        if self.parser.should_upgrade():  # the new parser reports it again
            return
        self._bytes_without_body = 0
        super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        self._bytes_without_body = 0
        super().on_body(body)

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: Any) -> None:
        super()._start_asgi_task(cycle, cast(Any, _close_if_unread(app, cycle)))

    def on_message_complete(self) -> None:
        if not self.parser.should_upgrade():
            super().on_message_complete()

    def _refuse(self, problem: Problem) -> None:
        """Send the connection's last response, to input that no application can get."""
        answer = problem.response()
        head = [b"HTTP/1.1 %d %s" % (problem.status, problem.title.encode()), b"connection: close"]
        head += [b"%s: %s" % field for field in (*answer.raw_headers, *_SECURITY_HEADERS)]
        self.transport.write(b"\r\n".join([*head, b"", bytes(answer.body)]))
        self.transport.close()

    def _parse(self, data: bytes) -> bytes:
        """Parse `data`. Returns the bytes to parse next, after a head that asks for an upgrade."""
        try:
            self.parser.feed_data(data)
        except httptools.HttpParserUpgrade as upgrade:
            return self._without_upgrade() + data[upgrade.args[0] :]
        return b""

    def _without_upgrade(self) -> bytes:
        """The head without its Upgrade, for a new parser: the old one stops before the body.

        An Upgrade may be ignored (RFC 9110, 7.8). Java's client asks for one with every first
        request.
        """
        method, version = self.parser.get_method(), self.parser.get_http_version().encode()
        if method == b"CONNECT":
            raise httptools.HttpParserError("this is no proxy")
        self.parser = httptools.HttpRequestParser(self)
        self.parser.set_dangerous_leniencies(lenient_data_after_close=True)  # as uvicorn's own
        fields = (b"%s: %s\r\n" % field for field in self.headers if field[0] != b"upgrade")
        return b"".join([method, b" ", self.url, b" HTTP/", version, b"\r\n", *fields, b"\r\n"])


class _Server(uvicorn.Server):
    """uvicorn without its own signal handlers: the process decides when it stops."""

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


def trust_local_proxy(app: ASGIApp) -> ASGIApp:
    """Trust `X-Forwarded-Proto` of a proxy on this machine, so that redirects use its scheme."""
    return cast(ASGIApp, ProxyHeadersMiddleware(cast(Any, app)))


async def serve_http(
    app: ASGIApp, listener: socket.socket, stop: asyncio.Event, *, grace_s: float = 10
) -> None:
    """Serve until `stop` is set, then finish open requests for at most `grace_s` seconds."""
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

"""ASGI middleware of ingest: the fast path of POST, request ids, and traces."""

import re
from collections.abc import Awaitable, Callable, Iterable
from random import getrandbits

import structlog
from starlette.datastructures import Headers
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from services.ingest.http.errors import EXCEPTION_HANDLERS
from shared.observability import tracing

_VALID_REQUEST_ID = re.compile(rb"[\x21-\x7e]{1,100}")


class FastPath:
    """Calls one handler directly for POSTs to one path, and the app for every other request.

    Starlette's routing and its three exception layers take longer than validating such a request.
    """

    def __init__(
        self, app: ASGIApp, *, path: str, handler: Callable[[Request], Awaitable[Response]]
    ) -> None:
        self._app = app
        self._path = path
        self._handler = handler

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["method"] != "POST" or scope["path"] != self._path:
            await self._app(scope, receive, send)
            return
        request = Request(scope, receive)
        try:
            response = await self._handler(request)
        except Exception as error:
            answer = next(
                handler for kind, handler in EXCEPTION_HANDLERS.items() if isinstance(error, kind)
            )
            response = await answer(request, error)
        await response(scope, receive, send)


class RequestId:
    """Gives every request an id for its logs and its response: the client's own if it is valid."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        given = dict(scope["headers"]).get(b"x-request-id", b"")
        request_id = given if _VALID_REQUEST_ID.fullmatch(given) else b"%032x" % getrandbits(128)
        answered = False

        def send_with_id(message: Message) -> Awaitable[None]:
            nonlocal answered
            if message["type"] == "http.response.start":
                answered = True
                message["headers"] = [*message["headers"], (b"x-request-id", request_id)]
            return send(message)

        # The binding ends with the task of the request.
        structlog.contextvars.bind_contextvars(request=request_id.decode())
        try:
            await self._app(scope, receive, send_with_id)
        except Exception:
            # Starlette raises exceptions again after the handler has logged and answered them.
            if not answered:
                raise


class TraceContext:
    """Starts a span for POSTs to some paths; everything they publish belongs to its trace."""

    def __init__(self, app: ASGIApp, *, paths: Iterable[str]) -> None:
        self._app = app
        self._attributes = {
            path: {"http.request.method": "POST", "url.path": path} for path in paths
        }

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if (
            scope["type"] != "http"
            or scope["method"] != "POST"
            or scope["path"] not in self._attributes
        ):
            await self._app(scope, receive, send)
            return
        attributes = self._attributes[scope["path"]]
        with tracing.start_trace("accept", _client_trace(scope), attributes=attributes):
            await self._app(scope, receive, send)


def _client_trace(scope: Scope) -> dict[str, str]:
    """Return the client's W3C trace headers. Several `tracestate` headers form one list."""
    if b"traceparent" not in dict(scope["headers"]):
        return {}
    headers = Headers(scope=scope)
    parents = headers.getlist(tracing.TRACEPARENT_HEADER)
    if len(parents) != 1:  # two parents contradict each other
        return {}
    return {
        tracing.TRACEPARENT_HEADER: parents[0],
        tracing.TRACESTATE_HEADER: ",".join(headers.getlist(tracing.TRACESTATE_HEADER)),
    }

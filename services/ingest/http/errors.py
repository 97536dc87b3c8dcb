"""Every refusal leaves as application/problem+json; what was not foreseen is logged whole and told in one word."""

import re
from collections.abc import Awaitable, Callable, Mapping
from random import getrandbits
from typing import Any

import structlog
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from services.ingest.submit.rules import NotJsonError, RefusedError
from shared.http.responses import Problem
from shared.observability.log import get_logger

log = get_logger(__name__)

_SANE_ID = re.compile(rb"[\x21-\x7e]{1,100}")


async def problem(request: Request, error: Exception) -> Response:
    assert isinstance(error, Problem)
    return error.response()


async def refused(request: Request, error: Exception) -> Response:
    assert isinstance(error, RefusedError)
    status, title = (
        (400, "Bad Request") if isinstance(error, NotJsonError) else (422, "Unprocessable Content")
    )
    return Problem(status, title, detail=str(error), errors=error.errors).response()


async def http_error(request: Request, error: Exception) -> Response:
    """Starlette's own: unknown paths and methods."""
    assert isinstance(error, HTTPException)
    return Problem(error.status_code, error.detail, headers=error.headers).response()


async def gone(request: Request, error: Exception) -> Response:
    """The client hung up before its request was whole: nobody reads this answer, and it is no fault of ours."""
    return Problem(400, "Bad Request", detail="the request was cut off").response()


async def unforeseen(request: Request, error: Exception) -> Response:
    log.error("an unforeseen fault", path=request.url.path, exc_info=error)
    return Problem(500, "Internal Server Error").response()


HANDLERS: Mapping[Any, Any] = {
    Problem: problem,
    RefusedError: refused,
    HTTPException: http_error,
    ClientDisconnect: gone,
    Exception: unforeseen,
}


class Straight:
    """ASGI middleware: POSTs to one path go straight to their handler, all else to the app.

    They come by the thousand, and Starlette's routing and its three layers that look for errors would take longer than
    all that is judged of them.
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
            answer = next(handler for kind, handler in HANDLERS.items() if isinstance(error, kind))
            response = await answer(request, error)
        await response(scope, receive, send)


class RequestId:
    """Gives every request an id (the caller's own, when it is a sane one) for the logs and the answer."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        given = dict(scope["headers"]).get(b"x-request-id", b"")
        request_id = given if _SANE_ID.fullmatch(given) else b"%032x" % getrandbits(128)
        answered = False

        def send_with_id(message: Message) -> Awaitable[None]:
            nonlocal answered
            if message["type"] == "http.response.start":
                answered = True
                message["headers"] = [*message["headers"], (b"x-request-id", request_id)]
            return send(message)

        structlog.contextvars.bind_contextvars(
            request=request_id.decode()
        )  # it ends with the request's own task
        try:
            await self._app(scope, receive, send_with_id)
        except Exception:
            # Starlette raises again what `unforeseen` has logged and answered, for servers that log themselves.
            if not answered:
                raise

"""Turns every exception of a handler into an application/problem+json response.

Unexpected exceptions are logged in full; the client sees only "Internal Server Error".
"""

from collections.abc import Mapping
from typing import Any

from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response

from services.ingest.http.rules import InvalidRequestError, NotJsonError
from shared.http.responses import Problem
from shared.observability.log import get_logger

log = get_logger(__name__)


async def _answer_problem(request: Request, error: Exception) -> Response:
    assert isinstance(error, Problem)
    return error.response()


async def _answer_invalid_request(request: Request, error: Exception) -> Response:
    assert isinstance(error, InvalidRequestError)
    status, title = (
        (400, "Bad Request") if isinstance(error, NotJsonError) else (422, "Unprocessable Content")
    )
    return Problem(status, title, detail=str(error), errors=error.errors).response()


async def _answer_http_exception(request: Request, error: Exception) -> Response:
    """Answer Starlette's own errors: unknown paths and methods."""
    assert isinstance(error, HTTPException)
    return Problem(error.status_code, error.detail, headers=error.headers).response()


async def _answer_disconnect(request: Request, error: Exception) -> Response:
    """Answer a client that disconnected before its request was complete; nothing is logged."""
    return Problem(400, "Bad Request", detail="the request was cut off").response()


async def _answer_unexpected(request: Request, error: Exception) -> Response:
    log.error("unhandled exception", path=request.url.path, exc_info=error)
    return Problem(500, "Internal Server Error").response()


EXCEPTION_HANDLERS: Mapping[Any, Any] = {
    Problem: _answer_problem,
    InvalidRequestError: _answer_invalid_request,
    HTTPException: _answer_http_exception,
    ClientDisconnect: _answer_disconnect,
    Exception: _answer_unexpected,
}

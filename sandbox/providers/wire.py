"""HTTP answers of the stand-ins, including those that no server should send."""

import asyncio
import socket
import struct
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

import orjson
from starlette.requests import Request
from starlette.responses import Response

from sandbox.providers.faults import ScriptedFault

_RESET_ON_CLOSE = struct.pack("ii", 1, 0)
"""SO_LINGER with no time to linger: closing sends a TCP reset."""

Handler = Callable[[Request], Awaitable[Response]]


def json_response(
    content: object, status: int = 200, headers: Mapping[str, str] | None = None
) -> Response:
    return Response(orjson.dumps(content), status, dict(headers or {}), "application/json")


class CutResponse(Response):
    """Sends the start of a response and then breaks the connection."""

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        await send(
            {
                "type": "http.response.start",
                "status": 200,
                "headers": [(b"content-length", b"1000")],
            }
        )
        await send({"type": "http.response.body", "body": b'{"id"', "more_body": True})
        raise ConnectionError("cut, as scripted")


class ResetResponse(Response):
    """Resets the TCP connection without an answer."""

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        # uvicorn's `receive` is a method of the object that holds the connection.
        transport = receive.__self__.transport
        connection = transport.get_extra_info("socket")
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET_ON_CLOSE)
        transport.abort()
        await receive()  # returns once the connection is gone


class SlowResponse(Response):
    """Sends an answer only after `seconds`, and one byte a second until then.

    The bytes before JSON are white space; other answers arrive in single bytes of their own.
    """

    def __init__(self, answer: Response, seconds: float) -> None:
        super().__init__(answer.body, answer.status_code)
        self.raw_headers = [pair for pair in answer.raw_headers if pair[0] != b"content-length"]
        self._seconds = seconds

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        start = {"status": self.status_code, "headers": self.raw_headers}
        await send({"type": "http.response.start", **start})
        is_json = self.headers.get("content-type", "").startswith("application/json")
        body, left = bytes(self.body), self._seconds
        while left > 0:
            first, body = (b" ", body) if is_json else (body[:1], body[1:])
            await send({"type": "http.response.body", "body": first, "more_body": True})
            await asyncio.sleep(min(1.0, left))
            left -= 1
        await send({"type": "http.response.body", "body": body})


def scripted_response(fault: ScriptedFault) -> Response:
    """Build the answer that a fault of kind `response` describes."""
    status = fault.status if isinstance(fault.status, int) else 200
    text = fault.body_text if fault.body_text is not None else fault.body
    body = text.encode() if isinstance(text, str) else orjson.dumps(fault.body)
    if not isinstance(text, str) and "body" not in fault.model_fields_set:
        body = b""
    headers = {name.lower(): value for name, value in fault.headers.items()}
    if fault.retry_after is not None:
        headers.setdefault("retry-after", f"{fault.retry_after:g}")
    is_page = body.lstrip().startswith(b"<")
    headers.setdefault("content-type", "text/html" if is_page else "application/json")
    return Response(body, status, headers)


def broken_response(fault: ScriptedFault) -> Response | None:
    """Return the answer of a fault that works the same at every stand-in, or None."""
    if fault.kind == "response":
        return scripted_response(fault)
    if fault.kind == "reset":
        return ResetResponse()
    return CutResponse() if fault.kind == "cut" else None


def delayed_response(answer: Response, fault: ScriptedFault | None) -> Response:
    """Return an answer, slowly if the fault is of kind `slow_body`."""
    if fault is not None and fault.kind == "slow_body":
        return SlowResponse(answer, fault.seconds)
    return answer


def with_standin_header(provider: str, handler: Handler) -> Handler:
    """Wrap a handler so that its responses carry the `x-standin` header."""

    async def with_label(request: Request) -> Response:
        response = await handler(request)
        response.headers["x-standin"] = provider
        return response

    return with_label

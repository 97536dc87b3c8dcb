"""Reads a request's body within its limits and decodes it."""

import asyncio
import re
from collections.abc import Sequence

import orjson
from starlette.requests import ClientDisconnect, Request

from services.ingest.http.rules import NotJsonError
from shared.http.responses import Problem

_CHARSET = re.compile(r'charset\s*=\s*"?([^";\s]+)', re.IGNORECASE)
_UTF_8 = ("utf-8", "utf8", "us-ascii")


async def read_json(request: Request, *, limit: int) -> object:
    """Return the decoded body.

    Refuses another media type (415), a body over `limit` bytes (413), and invalid JSON (400).
    """
    _, content = await read_body(request, limit=limit, types=("application/json",))
    try:
        body: object = orjson.loads(content)
    except orjson.JSONDecodeError as error:
        raise NotJsonError(str(error)) from None
    return body


async def read_body(
    request: Request, *, limit: int, types: Sequence[str], within_s: float | None = None
) -> tuple[str, bytes]:
    """Return the body's media type and content.

    Refuses a media type outside `types` (415), a body over `limit` bytes (413), and a body that
    takes longer than `within_s` seconds (408).
    """
    media_type, _, parameters = request.headers.get("content-type", "").partition(";")
    media_type = media_type.strip().lower()
    if media_type not in types:
        raise Problem(415, "Unsupported Media Type", detail=f"send {' or '.join(types)}")
    if parameters and (charset := _CHARSET.search(parameters)) and charset[1].lower() not in _UTF_8:
        raise Problem(415, "Unsupported Media Type", detail=f"send UTF-8, not {charset[1]}")
    if request.headers.get("content-encoding", "identity").lower() != "identity":
        raise Problem(
            415,
            "Unsupported Media Type",
            detail="send the body as it is, without a Content-Encoding",
            headers={"Accept-Encoding": "identity"},
        )
    if within_s is None:
        return media_type, await _read_content(request, limit)
    try:
        async with asyncio.timeout(within_s):
            return media_type, await _read_content(request, limit)
    except TimeoutError:
        # The connection closes: the rest of the body would be read as another request.
        detail, headers = f"the body did not come within {within_s:g} s", {"Connection": "close"}
        raise Problem(408, "Request Timeout", detail=detail, headers=headers) from None


async def _read_content(request: Request, limit: int) -> bytes:
    """Count bytes as they arrive; trust Content-Length only when it exceeds the limit."""
    stated = request.headers.get("content-length", "")
    if stated.isdecimal() and int(stated) > limit:
        raise _too_large(limit)
    chunks, length, more = list[bytes](), 0, True
    while more:
        message = await request.receive()
        if message["type"] == "http.disconnect":
            raise ClientDisconnect
        chunk = message.get("body", b"")
        chunks.append(chunk)
        length += len(chunk)
        if length > limit:
            raise _too_large(limit)
        more = message.get("more_body", False)
    return b"".join(chunks)


def _too_large(limit: int) -> Problem:
    return Problem(413, "Content Too Large", detail=f"the body is over {limit} bytes")

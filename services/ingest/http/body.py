"""A request's body, read within its limit and decoded."""

import asyncio
import re
from collections.abc import Sequence

import orjson
from starlette.requests import ClientDisconnect, Request

from services.ingest.submit.rules import NotJsonError
from shared.http.responses import Problem

_CHARSET = re.compile(r'charset\s*=\s*"?([^";\s]+)', re.IGNORECASE)
_UTF_8 = ("utf-8", "utf8", "us-ascii")


async def read_json(request: Request, *, limit: int) -> object:
    """The decoded body; a refusal when it is of another type (415), too long (413) or no JSON (400)."""
    _, content = await read_body(request, limit=limit, types=("application/json",))
    try:
        found: object = orjson.loads(content)
    except orjson.JSONDecodeError as error:
        raise NotJsonError(
            [{"field": "body", "detail": str(error)}], detail="the body is not JSON"
        ) from None
    return found


async def read_body(
    request: Request, *, limit: int, types: Sequence[str], within_s: float | None = None
) -> tuple[str, bytes]:
    """The body's media type and content; a problem when it is none of `types` (415), too long (413), too slow (408)."""
    media_type, _, parameters = request.headers.get("content-type", "").partition(";")
    media_type = media_type.strip().lower()
    if media_type not in types:
        raise Problem(415, "Unsupported Media Type", detail=f"send {' or '.join(types)}")
    if parameters and (charset := _CHARSET.search(parameters)) and charset[1].lower() not in _UTF_8:
        raise Problem(415, "Unsupported Media Type", detail=f"send UTF-8, not {charset[1]}")
    if request.headers.get("content-encoding", "identity").lower() != "identity":
        detail, plain = (
            "send the body as it is, without a Content-Encoding",
            {"Accept-Encoding": "identity"},
        )
        raise Problem(415, "Unsupported Media Type", detail=detail, headers=plain)
    if within_s is None:
        return media_type, await _read(request, limit)
    try:
        async with asyncio.timeout(within_s):
            return media_type, await _read(request, limit)
    except TimeoutError:
        # Whoever sends so slowly is not to go on: the rest of the body would be taken for another request.
        detail, closing = f"the body did not come within {within_s:g} s", {"Connection": "close"}
        raise Problem(408, "Request Timeout", detail=detail, headers=closing) from None


async def _read(request: Request, limit: int) -> bytes:
    """Counted as it comes: the length that a client states is believed only when it is too long."""
    stated = request.headers.get("content-length", "")
    if stated.isdecimal() and int(stated) > limit:
        raise _too_long(limit)
    pieces, length, more = list[bytes](), 0, True
    while more:
        message = await request.receive()
        if message["type"] == "http.disconnect":
            raise ClientDisconnect
        piece = message.get("body", b"")
        pieces.append(piece)
        length += len(piece)
        if length > limit:
            raise _too_long(limit)
        more = message.get("more_body", False)
    return b"".join(pieces)


def _too_long(limit: int) -> Problem:
    return Problem(413, "Content Too Large", detail=f"the body is over {limit} bytes")

"""A request's body, read within its limit and decoded."""

import orjson
from starlette.requests import Request

from shared.http import Problem


async def read_json(request: Request, *, limit: int) -> object:
    """The decoded body; a problem when it is of another type (415), too long (413) or no JSON (400)."""
    media_type = request.headers.get("content-type", "").split(";")[0].strip().lower()
    if media_type != "application/json":
        raise Problem(415, "Unsupported Media Type", detail="send application/json")
    content = await _read(request, limit)
    try:
        found: object = orjson.loads(content)
    except orjson.JSONDecodeError as error:
        fault = {"field": "body", "detail": str(error)}
        raise Problem(400, "Bad Request", detail="the body is not JSON", errors=[fault]) from None
    return found


async def _read(request: Request, limit: int) -> bytes:
    """Counted as it comes: the length that a client states is believed only when it is too long."""
    stated = request.headers.get("content-length", "")
    too_long = Problem(413, "Content Too Large", detail=f"the body is over {limit} bytes")
    if stated.isdecimal() and int(stated) > limit:
        raise too_long
    content = bytearray()
    async for chunk in request.stream():
        content += chunk
        if len(content) > limit:
            raise too_long
    return bytes(content)

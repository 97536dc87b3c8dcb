"""Relays the metrics service's responses, because operators read them at ingest's port."""

import asyncio

import httpx
from starlette.requests import Request
from starlette.responses import Response

from shared.http.responses import Problem

_DEADLINE_S = 5.0
_RELAYED_HEADERS = ("content-type", "cache-control", "vary", "retry-after")


class MetricsRelay:
    def __init__(self, http: httpx.AsyncClient, base_url: str) -> None:
        self._http = http
        self._base_url = base_url.rstrip("/")

    async def relay_request(self, request: Request) -> Response:
        """Relay the same path and query of the metrics service; 502 when it is unavailable."""
        # Unchanged: a header may hold any byte.
        accept = request.headers.get("accept", "*/*").encode("latin-1")
        url = httpx.URL(self._base_url + request.url.path, query=request.url.query.encode())
        try:
            async with asyncio.timeout(_DEADLINE_S):
                answer = await self._http.get(url, headers={b"Accept": accept})
        except (httpx.HTTPError, TimeoutError) as error:
            detail = f"the metrics service is unavailable: {type(error).__name__}"
            raise Problem(502, "Bad Gateway", detail=detail) from None
        headers = {
            name: answer.headers[name] for name in _RELAYED_HEADERS if name in answer.headers
        }
        return Response(answer.content, answer.status_code, headers=headers)

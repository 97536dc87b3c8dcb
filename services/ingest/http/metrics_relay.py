"""Relays the metrics service's answers, so that operators find them on ingest's port as they always did."""

import asyncio

import httpx
from starlette.requests import Request
from starlette.responses import Response

from shared.http.responses import Problem

_DEADLINE_S = 5.0
_PASSED_ON = ("content-type", "cache-control", "vary", "retry-after")


class MetricsRelay:
    def __init__(self, http: httpx.AsyncClient, base_url: str) -> None:
        self._http = http
        self._base_url = base_url.rstrip("/")

    async def get(self, request: Request) -> Response:
        """The same path and query of the metrics service; 502 when it is away."""
        accept = request.headers.get("accept", "*/*").encode(
            "latin-1"
        )  # as it came: any byte may stand in a header
        url = httpx.URL(self._base_url + request.url.path, query=request.url.query.encode())
        try:
            async with asyncio.timeout(_DEADLINE_S):
                answer = await self._http.get(url, headers={b"Accept": accept})
        except (httpx.HTTPError, TimeoutError) as error:
            raise Problem(
                502, "Bad Gateway", detail=f"the metrics service is away: {type(error).__name__}"
            ) from None
        headers = {name: answer.headers[name] for name in _PASSED_ON if name in answer.headers}
        return Response(answer.content, answer.status_code, headers=headers)

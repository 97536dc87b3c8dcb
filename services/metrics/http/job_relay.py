"""Forwards an operator's cancel and retry to ingest with the caller's own key."""

import asyncio
from uuid import UUID

import httpx
from starlette.requests import Request
from starlette.responses import Response

from shared.http.responses import Problem

_DEADLINE_S = 10.0
_RETURNED_HEADERS = ("content-type", "retry-after", "www-authenticate")


class JobRelay:
    def __init__(self, http: httpx.AsyncClient, base_url: str) -> None:
        self._http = http
        self._base_url = base_url.rstrip("/")

    async def forward_action(self, request: Request, job: UUID, action: str) -> Response:
        """Return ingest's answer unchanged. Raises 502 when ingest is unavailable."""
        key = request.headers.get("authorization")
        key_header = {b"Authorization": key.encode("latin-1")} if key is not None else {}
        try:
            async with asyncio.timeout(_DEADLINE_S):
                answer = await self._http.post(
                    f"{self._base_url}/api/blog-generation/{job}/{action}", headers=key_header
                )
        except (httpx.HTTPError, TimeoutError) as error:
            raise Problem(
                502, "Bad Gateway", detail=f"ingest is unavailable: {type(error).__name__}"
            ) from None
        headers = {
            name: answer.headers[name] for name in _RETURNED_HEADERS if name in answer.headers
        }
        return Response(answer.content, answer.status_code, headers=headers)

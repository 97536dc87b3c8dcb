"""Passes an operator's cancel and retry on to ingest, with the caller's own key: metrics itself may do neither."""

import asyncio
from uuid import UUID

import httpx
from starlette.requests import Request
from starlette.responses import Response

from shared.http.responses import Problem

_DEADLINE_S = 10.0
_PASSED_BACK = ("content-type", "retry-after", "www-authenticate")


class JobRelay:
    def __init__(self, http: httpx.AsyncClient, base_url: str) -> None:
        self._http = http
        self._base_url = base_url.rstrip("/")

    async def post(self, request: Request, job: UUID, action: str) -> Response:
        """ingest's answer as it came; 502 when it is away."""
        key = request.headers.get("authorization")
        headers = {b"Authorization": key.encode("latin-1")} if key is not None else {}
        try:
            async with asyncio.timeout(_DEADLINE_S):
                answer = await self._http.post(
                    f"{self._base_url}/api/blog-generation/{job}/{action}", headers=headers
                )
        except (httpx.HTTPError, TimeoutError) as error:
            raise Problem(
                502, "Bad Gateway", detail=f"ingest is away: {type(error).__name__}"
            ) from None
        passed = {name: answer.headers[name] for name in _PASSED_BACK if name in answer.headers}
        return Response(answer.content, answer.status_code, headers=passed)

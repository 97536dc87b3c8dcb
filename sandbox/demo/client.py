"""A shop's side of the HTTP interface, as the demo and the load test use it: it obeys Retry-After."""

import asyncio
from dataclasses import dataclass
from typing import Any

import httpx

_PATIENCE_S = 600.0


class RequestRefusedError(Exception):
    """ingest refused a request for good; the text is its problem document in one line."""


@dataclass(frozen=True, slots=True)
class StoreClient:
    """The calls of one store. `http` is shared by all stores and belongs to the caller."""

    http: httpx.AsyncClient
    base_url: str
    key: str

    async def submit(self, request: dict[str, Any]) -> str:
        """The new job's id. Waits and tries again on 429 and 503, and raises `RequestRefusedError` on any other refusal."""
        waited = 0.0
        while True:
            answer = await self.http.post(
                f"{self.base_url}/api/blog-generation", json=request, headers=self._headers()
            )
            if answer.status_code == httpx.codes.CREATED:
                return str(answer.json()["id"])
            if answer.status_code not in (429, 503) or waited > _PATIENCE_S:
                raise RequestRefusedError(f"{answer.status_code}: {answer.text}")
            pause = float(answer.headers.get("retry-after", "1"))
            await asyncio.sleep(pause)
            waited += pause

    async def get(self, job: str) -> dict[str, Any]:
        answer = await self.http.get(
            f"{self.base_url}/api/blog-generation/{job}", headers=self._headers()
        )
        answer.raise_for_status()
        found: dict[str, Any] = answer.json()
        return found

    def _headers(self) -> dict[str, str]:
        return {"Authorization": f"Bearer {self.key}"}

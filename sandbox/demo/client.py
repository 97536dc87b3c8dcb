"""A store's HTTP client for the demo and the load test. It obeys Retry-After."""

import asyncio
from dataclasses import dataclass
from typing import Any

import httpx

_MAX_WAIT_S = 600.0


class RequestRefusedError(Exception):
    """Ingest refused a request for good. The text has the status and the problem document."""


@dataclass(frozen=True, slots=True)
class StoreClient:
    """Calls ingest for one store. `http` is shared by all stores; the caller closes it."""

    http: httpx.AsyncClient
    base_url: str
    key: str

    async def submit_request(self, request: dict[str, Any]) -> str:
        """Submit a request and return the id of its job.

        Retries on 429 and 503. Any other refusal raises `RequestRefusedError`.
        """
        waited = 0.0
        while True:
            answer = await self.http.post(
                f"{self.base_url}/api/blog-generation", json=request, headers=self._headers()
            )
            if answer.status_code == httpx.codes.CREATED:
                return str(answer.json()["id"])
            if answer.status_code not in (429, 503) or waited > _MAX_WAIT_S:
                raise RequestRefusedError(f"{answer.status_code}: {answer.text}")
            pause = float(answer.headers.get("retry-after", "1"))
            await asyncio.sleep(pause)
            waited += pause

    async def get_job(self, job: str) -> dict[str, Any]:
        answer = await self.http.get(
            f"{self.base_url}/api/blog-generation/{job}", headers=self._headers()
        )
        answer.raise_for_status()
        found: dict[str, Any] = answer.json()
        return found

    def _headers(self) -> dict[str, str]:
        return {"Authorization": f"Bearer {self.key}"}

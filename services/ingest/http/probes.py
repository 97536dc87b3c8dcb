"""Answers health, readiness and the index page."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from datetime import UTC, datetime

from starlette.requests import Request
from starlette.responses import Response

from shared.http.responses import JsonResponse, Problem


class Probes:
    """`dependencies` are checked for readiness; their names appear in the 503."""

    def __init__(
        self, *, dependencies: Mapping[str, Callable[[], Awaitable[bool]]], draining: asyncio.Event
    ) -> None:
        self._dependencies = dependencies
        self._draining = draining

    async def get_health(self, request: Request) -> Response:
        """Answer that the process runs; checks no dependency, so that no outage restarts it."""
        return JsonResponse({"status": "ok", "timestamp": datetime.now(UTC)})

    async def get_readiness(self, request: Request) -> Response:
        """Answer 503 with the missing dependencies; always 503 once the process stops."""
        if self._draining.is_set():
            raise Problem(503, "Service Unavailable", detail="stopping")
        results = await asyncio.gather(*(check() for check in self._dependencies.values()))
        missing = [name for name, ok in zip(self._dependencies, results, strict=True) if not ok]
        if missing:
            errors = [{"field": name, "detail": "does not answer"} for name in missing]
            raise Problem(
                503, "Service Unavailable", detail=f"missing: {', '.join(missing)}", errors=errors
            )
        return JsonResponse({"status": "ready"})

    async def get_index(self, request: Request) -> Response:
        return JsonResponse(
            {
                "service": "blogstream ingest",
                "requests": "/api/blog-generation",
                "health": "/health",
                "metrics": "/metrics",
            }
        )

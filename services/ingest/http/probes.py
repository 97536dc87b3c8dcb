"""What orchestrators and operators ask of the process itself: is it alive, may it get traffic, what is it."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from datetime import UTC, datetime

from starlette.requests import Request
from starlette.responses import Response

from shared.http.responses import JsonResponse, Problem


class Probes:
    """`needs` are looked at for readiness, each by the name that an operator knows it by."""

    def __init__(
        self, *, needs: Mapping[str, Callable[[], Awaitable[bool]]], draining: asyncio.Event
    ) -> None:
        self._needs = needs
        self._draining = draining

    async def health(self, request: Request) -> Response:
        """The process answers: says nothing of what it needs, so that a broker's fault restarts nobody."""
        return JsonResponse({"status": "ok", "timestamp": datetime.now(UTC)})

    async def ready(self, request: Request) -> Response:
        """503 that names what is missing; once the process has been told to stop, it is never ready again."""
        if self._draining.is_set():
            raise Problem(503, "Service Unavailable", detail="stopping")
        answers = await asyncio.gather(*(check() for check in self._needs.values()))
        missing = [name for name, answer in zip(self._needs, answers, strict=True) if not answer]
        if missing:
            errors = [{"field": name, "detail": "does not answer"} for name in missing]
            raise Problem(
                503, "Service Unavailable", detail=f"missing: {', '.join(missing)}", errors=errors
            )
        return JsonResponse({"status": "ready"})

    async def index(self, request: Request) -> Response:
        return JsonResponse(
            {
                "service": "blogstream ingest",
                "requests": "/api/blog-generation",
                "health": "/health",
                "metrics": "/metrics",
            }
        )

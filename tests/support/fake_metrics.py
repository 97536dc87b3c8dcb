"""A fake metrics service: the dashboard's real files and headers, with scripted data."""

import asyncio
import socket
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import orjson
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import Route

from services.metrics.dashboard import files
from shared.http import server
from shared.http.responses import JsonResponse, Problem
from tests.support import dashboard_snapshots
from tests.support.dashboard_snapshots import Snapshot

_EVERY_S = 0.1
_DATA_PATHS = {
    "/api/overview": "overview",
    "/api/stores": "stores",
    "/api/workers": "workers",
    "/api/rate-limiter/stats": "rateLimiter",
    "/api/alerts": "alerts",
    "/api/jobs": "jobs",
}


@dataclass(slots=True)
class FakeMetrics:
    """The data that the page gets; a test changes it at any time."""

    url: str
    snapshot: Snapshot = field(default_factory=dashboard_snapshots.idle)
    streams: bool = True
    """False: `/api/events`, `/api/alerts` and `/api/jobs` do not exist, as in an older service."""
    silent: bool = False
    """Sends no data: the stream stays open, and the endpoints answer 503."""
    clock_ahead_s: float = 0
    """Seconds that its clock is ahead."""
    expects_errors: bool = False
    """Some answers are errors on purpose; a browser logs them in its console."""
    requests: Counter[str] = field(default_factory=Counter)
    """The number of requests by path."""
    timelines: dict[str, dict[str, Any]] = field(default_factory=dict)
    actions: list[tuple[str, str]] = field(default_factory=list)
    """(path, Authorization) of every requested retry and cancel."""
    refusal: Problem | None = None
    """The answer of retry and cancel; `None`: 200."""

    def routes(self) -> list[Route]:
        data = [Route(path, self._answer) for path in _DATA_PATHS]
        action = Route("/api/jobs/{job}/{verb}", self._answer_action, methods=["POST"])
        return [
            Route("/api/events", self._events),
            *data,
            Route("/api/jobs/{job}/timeline", self._timeline),
            action,
        ]

    async def _events(self, request: Request) -> Response:
        if not self.streams:
            raise Problem(404, "Not Found")
        return StreamingResponse(self._snapshots(), media_type="text/event-stream")

    async def _snapshots(self) -> AsyncIterator[bytes]:
        while True:
            if not self.silent:
                yield b"event: snapshot\ndata: " + orjson.dumps(self._now()) + b"\n\n"
            await asyncio.sleep(_EVERY_S)

    def _now(self) -> Snapshot:
        return self.snapshot | {
            "overview": self.snapshot["overview"]
            | {"at": dashboard_snapshots.ago(-self.clock_ahead_s)}
        }

    async def _answer(self, request: Request) -> Response:
        name = _DATA_PATHS[request.url.path]
        self.requests[request.url.path] += 1
        if self.silent:
            raise Problem(503, "Service Unavailable", detail="the tables are not recovered yet")
        if not self.streams and name in ("alerts", "jobs"):
            raise Problem(404, "Not Found")
        data = self._now()[name]
        return JsonResponse({"items": data} if isinstance(data, list) else data)

    async def _timeline(self, request: Request) -> Response:
        found = self.timelines.get(request.path_params["job"])
        if found is None:
            raise Problem(404, "Not Found", detail="no such job")
        return JsonResponse(found)

    async def _answer_action(self, request: Request) -> Response:
        self.actions.append((request.url.path, request.headers.get("authorization", "")))
        if self.refusal is not None:
            raise self.refusal
        job = self.timelines[request.path_params["job"]]
        job["status"] = {"retry": "PENDING", "cancel": "CANCELLED"}[request.path_params["verb"]]
        return JsonResponse({"id": job["job"], "status": job["status"]})


@asynccontextmanager
async def serve_fake_metrics() -> AsyncIterator[FakeMetrics]:
    """Serve a fake on a free port."""
    listener: socket.socket = server.open_listener("127.0.0.1", 0)
    fake = FakeMetrics(f"http://127.0.0.1:{listener.getsockname()[1]}/")
    app = Starlette(
        routes=[*files.routes(), *fake.routes()], exception_handlers={Problem: _problem}
    )
    stop = asyncio.Event()
    serving = asyncio.create_task(server.serve_http(app, listener, stop, grace_s=0.1))
    try:
        yield fake
    finally:
        stop.set()
        await serving


async def _problem(request: Request, error: Exception) -> Response:
    assert isinstance(error, Problem)
    return error.response()

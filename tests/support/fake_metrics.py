"""A stage for the page: its real files and headers, and a metrics service that tells what a test scripts."""

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
_NAMES = {
    "/api/overview": "overview",
    "/api/stores": "stores",
    "/api/workers": "workers",
    "/api/rate-limiter/stats": "rateLimiter",
    "/api/alerts": "alerts",
    "/api/jobs": "jobs",
}


@dataclass(slots=True)
class FakeMetrics:
    """What the page is told; a test changes it as it goes."""

    url: str
    snapshot: Snapshot = field(default_factory=dashboard_snapshots.idle)
    streams: bool = True
    """False: `/api/events`, `/api/alerts` and `/api/jobs` do not exist, as in an older service."""
    silent: bool = False
    """Nothing is told any more: the stream stays open, and the endpoints answer 503."""
    late_s: float = 0
    """By how much its clock is ahead."""
    faulty: bool = False
    """Some answers are errors on purpose, which a browser notes in its console."""
    asked: Counter[str] = field(default_factory=Counter)
    """How often each endpoint was."""
    timelines: dict[str, dict[str, Any]] = field(default_factory=dict)
    acts: list[tuple[str, str]] = field(default_factory=list)
    """(path, Authorization) of every retry and cancel that was asked for."""
    refusal: Problem | None = None
    """What retry and cancel answer; None: 200."""

    def routes(self) -> list[Route]:
        asked = [Route(path, self._answer) for path in _NAMES]
        acting = Route("/api/jobs/{job}/{verb}", self._act, methods=["POST"])
        return [
            Route("/api/events", self._events),
            *asked,
            Route("/api/jobs/{job}/timeline", self._timeline),
            acting,
        ]

    async def _events(self, request: Request) -> Response:
        if not self.streams:
            raise Problem(404, "Not Found")
        return StreamingResponse(self._told(), media_type="text/event-stream")

    async def _told(self) -> AsyncIterator[bytes]:
        while True:
            if not self.silent:
                yield b"event: snapshot\ndata: " + orjson.dumps(self._now()) + b"\n\n"
            await asyncio.sleep(_EVERY_S)

    def _now(self) -> Snapshot:
        return self.snapshot | {
            "overview": self.snapshot["overview"] | {"at": dashboard_snapshots.ago(-self.late_s)}
        }

    async def _answer(self, request: Request) -> Response:
        name = _NAMES[request.url.path]
        self.asked[request.url.path] += 1
        if self.silent:
            raise Problem(503, "Service Unavailable", detail="the tables are not recovered yet")
        if not self.streams and name in ("alerts", "jobs"):
            raise Problem(404, "Not Found")
        said = self._now()[name]
        return JsonResponse({"items": said} if isinstance(said, list) else said)

    async def _timeline(self, request: Request) -> Response:
        found = self.timelines.get(request.path_params["job"])
        if found is None:
            raise Problem(404, "Not Found", detail="no such job")
        return JsonResponse(found)

    async def _act(self, request: Request) -> Response:
        self.acts.append((request.url.path, request.headers.get("authorization", "")))
        if self.refusal is not None:
            raise self.refusal
        job = self.timelines[request.path_params["job"]]
        job["status"] = {"retry": "PENDING", "cancel": "CANCELLED"}[request.path_params["verb"]]
        return JsonResponse({"id": job["job"], "status": job["status"]})


@asynccontextmanager
async def serve_fake_metrics() -> AsyncIterator[FakeMetrics]:
    """A running stage, on a port of its own."""
    listener: socket.socket = server.open_listener("127.0.0.1", 0)
    stage = FakeMetrics(f"http://127.0.0.1:{listener.getsockname()[1]}/")
    app = Starlette(
        routes=[*files.routes(), *stage.routes()], exception_handlers={Problem: _problem}
    )
    stop = asyncio.Event()
    serving = asyncio.create_task(server.serve_http(app, listener, stop, grace_s=0.1))
    try:
        yield stage
    finally:
        stop.set()
        await serving


async def _problem(request: Request, error: Exception) -> Response:
    assert isinstance(error, Problem)
    return error.response()

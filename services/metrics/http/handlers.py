"""The HTTP side: shows the whole, of this process and its peers, and serves the page."""

import asyncio
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from typing import Any

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Mount, Route

from services.metrics.cluster import peers
from services.metrics.cluster.cluster_stats import ClusterStats
from services.metrics.cluster.latest_reports import LatestReports
from services.metrics.cluster.peers import PART_PATH, TIMELINE_PATH
from services.metrics.cluster.startup_gate import StartupGate
from services.metrics.dashboard import files as page
from services.metrics.export import prometheus
from services.metrics.http import accept, query
from services.metrics.http.job_relay import JobRelay
from services.metrics.http.query import IntegerParameter, InvalidQueryError
from services.metrics.http.snapshot_stream import SnapshotStream
from shared.http.responses import JsonResponse, Problem

Endpoint = Callable[[Request], Awaitable[Response]]

_FORMATS = {
    "json": "application/json",
    "openmetrics": "application/openmetrics-text",
    "prometheus": "text/plain",
}
"""Of `/metrics`, the preferred one first."""


class MetricsApi:
    """`alerts` tells those in force, worst first; `crashed` and `ready` tell of the Faust app, whose end the web server
    would not notice; before the `opening` no number is told; the event feed ends with `stop`."""

    def __init__(
        self,
        *,
        whole: ClusterStats,
        reports: LatestReports,
        relay: JobRelay,
        alerts: Callable[[], list[dict[str, Any]]],
        crashed: Callable[[], bool],
        ready: Callable[[], bool],
        opening: StartupGate,
        stop: asyncio.Event,
    ) -> None:
        self._whole = whole
        self._reports = board
        self._relay = relay
        self._alerts = alerts
        self._crashed = crashed
        self._ready = ready
        self._opening = opening
        self._feed = SnapshotStream(self._snapshot, stop)

    def application(self) -> Starlette:
        told = {
            "/metrics": self.metrics,
            "/api/rate-limiter/stats": self.limiter,
            "/api/overview": self.overview,
            "/api/stores": self.stores,
            "/api/workers": self.workers,
            "/api/alerts": self.alerts,
            "/api/jobs": self.jobs,
            "/api/jobs/{job:uuid}/timeline": self.timeline,
            "/api/events": self.events,
        }
        routes: list[Route | Mount] = [
            *page.routes(),
            Route("/health", self.health),
            Route("/livez", self.live),
            Route("/readyz", self.ready),
            *(Route(path, self._once_open(endpoint)) for path, endpoint in told.items()),
            Route("/api/jobs/{job:uuid}/cancel", self.cancel, methods=["POST"]),
            Route("/api/jobs/{job:uuid}/retry", self.retry, methods=["POST"]),
            Route(PART_PATH, self.part),
            Route(f"{TIMELINE_PATH}/{{job:uuid}}", self.own_timeline),
        ]
        handlers = {
            Problem: _problem,
            InvalidQueryError: _unknown_query,
            HTTPException: _http_error,
        }
        return Starlette(routes=routes, exception_handlers=handlers)

    async def health(self, request: Request) -> Response:
        return JsonResponse({"status": "ok", "timestamp": datetime.now(UTC)})

    async def live(self, request: Request) -> Response:
        if self._crashed():
            raise Problem(503, "Service Unavailable", detail="the stream processor has crashed")
        return await self.health(request)

    async def ready(self, request: Request) -> Response:
        if self._crashed() or not self._ready():
            raise _not_yet("the tables are not recovered yet")
        self._ensure_open()
        return JsonResponse({"status": "ready"})

    def _ensure_open(self) -> None:
        if not self._opening.is_open(datetime.now(UTC)):
            raise _not_yet("just started: what is counted and who runs is not known yet")

    def _once_open(self, endpoint: Endpoint) -> Endpoint:
        async def answer(request: Request) -> Response:
            self._ensure_open()
            return await endpoint(request)

        return answer

    async def metrics(self, request: Request) -> Response:
        """The contract's JSON; Prometheus or OpenMetrics text when `Accept` or `?format=` asks for it."""
        asked = accept.preferred(",".join(request.headers.getlist("accept")), _FORMATS)
        wanted = query.choice(request.query_params.multi_items(), "format", tuple(_FORMATS), asked)
        if wanted == "json":
            return JsonResponse(self._whole.contract(), headers={"Vary": "Accept"})
        openmetrics = wanted == "openmetrics"
        text = prometheus.render(
            self._whole.total(),
            self._reports,
            datetime.now(UTC),
            self._whole.completeness(),
            openmetrics=openmetrics,
        )
        kind = prometheus.OPENMETRICS_TYPE if openmetrics else prometheus.TEXT_TYPE
        return Response(text, headers={"Content-Type": kind, "Vary": "Accept"})

    async def limiter(self, request: Request) -> Response:
        query.numbers(request.query_params.multi_items())
        return JsonResponse(self._whole.limiter())

    async def overview(self, request: Request) -> Response:
        query.numbers(request.query_params.multi_items())
        return JsonResponse(self._whole.overview())

    async def stores(self, request: Request) -> Response:
        page = query.numbers(
            request.query_params.multi_items(),
            limit=IntegerParameter(default=200, low=1, high=1_000),
            offset=IntegerParameter(default=0, low=0, high=10_000_000),
        )
        return JsonResponse(await self._whole.stores(**page))

    async def workers(self, request: Request) -> Response:
        query.numbers(request.query_params.multi_items())
        return JsonResponse(self._whole.workers())

    async def alerts(self, request: Request) -> Response:
        query.numbers(request.query_params.multi_items())
        return JsonResponse(self._alerts_now())

    async def jobs(self, request: Request) -> Response:
        page = query.numbers(
            request.query_params.multi_items(), limit=IntegerParameter(default=20, low=1, high=100)
        )
        return JsonResponse(self._whole.jobs(**page))

    async def timeline(self, request: Request) -> Response:
        query.numbers(request.query_params.multi_items())
        found = await self._whole.timeline(request.path_params["job"])
        if found is None:
            raise Problem(
                404, "Not Found", detail="nothing was heard of this job, or it is too long ago"
            )
        return JsonResponse(found)

    async def cancel(self, request: Request) -> Response:
        return await self._relay.post(request, request.path_params["job"], "cancel")

    async def retry(self, request: Request) -> Response:
        return await self._relay.post(request, request.path_params["job"], "retry")

    async def events(self, request: Request) -> Response:
        """Server-sent events: a snapshot of all that the page shows, about once a second."""
        query.numbers(request.query_params.multi_items())
        return self._feed.head() if request.method == "HEAD" else self._feed.response()

    async def part(self, request: Request) -> Response:
        """For the other processes: what this one counts."""
        asked = query.numbers(
            request.query_params.multi_items(),
            stores=IntegerParameter(default=0, low=0, high=20_000_000),
            jobs=IntegerParameter(default=0, low=0, high=100),
        )
        return JsonResponse(peers.encode(self._whole.part(**asked), self._reports))

    async def own_timeline(self, request: Request) -> Response:
        found = self._whole.own_timeline(request.path_params["job"])
        if found is None:
            raise Problem(404, "Not Found")
        return JsonResponse(found)

    async def _snapshot(self) -> dict[str, Any]:
        return {
            "overview": self._whole.overview(),
            "stores": await self._whole.stores(),
            "workers": self._whole.workers(),
            "rateLimiter": self._whole.limiter(),
            "alerts": self._alerts_now(),
            "jobs": self._whole.jobs(),
        }

    def _alerts_now(self) -> dict[str, Any]:
        """Those in force, worst first."""
        return {"items": self._alerts(), "at": datetime.now(UTC)}


def _not_yet(why: str) -> Problem:
    return Problem(503, "Service Unavailable", detail=why, headers={"Retry-After": "1"})


async def _problem(request: Request, error: Exception) -> Response:
    assert isinstance(error, Problem)
    return error.response()


async def _unknown_query(request: Request, error: Exception) -> Response:
    assert isinstance(error, InvalidQueryError)
    return Problem(422, "Unprocessable Content", errors=[*error.errors]).response()


async def _http_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    return Problem(error.status_code, error.detail, headers=error.headers).response()

"""The HTTP endpoints: statistics of the cluster, health checks, and the dashboard."""

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
from services.metrics.cluster.peers import STATS_PATH, TIMELINE_PATH
from services.metrics.cluster.startup_readiness import StartupReadiness
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
"""Formats of `/metrics`, the default first."""


class MetricsApi:
    """Statistics are refused with 503 until `startup` is ready.

    `alerts` returns the active alerts, the worst first. `crashed` and `ready` return the state of
    the Faust app, whose end the web server would not notice. The event stream ends with `stop`.
    """

    def __init__(
        self,
        *,
        cluster: ClusterStats,
        reports: LatestReports,
        relay: JobRelay,
        alerts: Callable[[], list[dict[str, Any]]],
        crashed: Callable[[], bool],
        ready: Callable[[], bool],
        startup: StartupReadiness,
        stop: asyncio.Event,
    ) -> None:
        self._cluster = cluster
        self._reports = reports
        self._relay = relay
        self._alerts = alerts
        self._crashed = crashed
        self._ready = ready
        self._startup = startup
        self._stream = SnapshotStream(self._snapshot, stop)

    def application(self) -> Starlette:
        guarded = {
            "/metrics": self.metrics,
            "/api/rate-limiter/stats": self.rate_limiter,
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
            *(Route(path, self._when_ready(endpoint)) for path, endpoint in guarded.items()),
            Route("/api/jobs/{job:uuid}/cancel", self.cancel, methods=["POST"]),
            Route("/api/jobs/{job:uuid}/retry", self.retry, methods=["POST"]),
            Route(STATS_PATH, self.process_stats),
            Route(f"{TIMELINE_PATH}/{{job:uuid}}", self.local_timeline),
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
            raise _not_ready("the tables are not recovered yet")
        self._require_ready()
        return JsonResponse({"status": "ready"})

    def _require_ready(self) -> None:
        if not self._startup.is_ready(datetime.now(UTC)):
            raise _not_ready("just started: counts and running processes are not known yet")

    def _when_ready(self, endpoint: Endpoint) -> Endpoint:
        async def answer(request: Request) -> Response:
            self._require_ready()
            return await endpoint(request)

        return answer

    async def metrics(self, request: Request) -> Response:
        """Answer with the contract's JSON, or with text by `Accept` or `?format=`."""
        negotiated = accept.choose_media_type(",".join(request.headers.getlist("accept")), _FORMATS)
        chosen = query.parse_choice(
            request.query_params.multi_items(), "format", tuple(_FORMATS), negotiated
        )
        if chosen == "json":
            return JsonResponse(self._cluster.contract_metrics(), headers={"Vary": "Accept"})
        openmetrics = chosen == "openmetrics"
        text = prometheus.render_metrics(
            self._cluster.total(),
            self._reports,
            datetime.now(UTC),
            self._cluster.completeness(),
            openmetrics=openmetrics,
        )
        content_type = prometheus.OPENMETRICS_TYPE if openmetrics else prometheus.TEXT_TYPE
        return Response(text, headers={"Content-Type": content_type, "Vary": "Accept"})

    async def rate_limiter(self, request: Request) -> Response:
        query.parse_integers(request.query_params.multi_items())
        return JsonResponse(self._cluster.rate_limiter())

    async def overview(self, request: Request) -> Response:
        query.parse_integers(request.query_params.multi_items())
        return JsonResponse(self._cluster.overview())

    async def stores(self, request: Request) -> Response:
        page = query.parse_integers(
            request.query_params.multi_items(),
            limit=IntegerParameter(default=200, low=1, high=1_000),
            offset=IntegerParameter(default=0, low=0, high=10_000_000),
        )
        return JsonResponse(await self._cluster.stores(**page))

    async def workers(self, request: Request) -> Response:
        query.parse_integers(request.query_params.multi_items())
        return JsonResponse(self._cluster.workers())

    async def alerts(self, request: Request) -> Response:
        query.parse_integers(request.query_params.multi_items())
        return JsonResponse(self._alerts_json())

    async def jobs(self, request: Request) -> Response:
        page = query.parse_integers(
            request.query_params.multi_items(), limit=IntegerParameter(default=20, low=1, high=100)
        )
        return JsonResponse(self._cluster.jobs(**page))

    async def timeline(self, request: Request) -> Response:
        query.parse_integers(request.query_params.multi_items())
        found = await self._cluster.timeline(request.path_params["job"])
        if found is None:
            raise Problem(
                404, "Not Found", detail="no events of this job are known; they may be too old"
            )
        return JsonResponse(found)

    async def cancel(self, request: Request) -> Response:
        return await self._relay.forward_action(request, request.path_params["job"], "cancel")

    async def retry(self, request: Request) -> Response:
        return await self._relay.forward_action(request, request.path_params["job"], "retry")

    async def events(self, request: Request) -> Response:
        """Send server-sent events: a snapshot of the whole dashboard about once a second."""
        query.parse_integers(request.query_params.multi_items())
        return (
            self._stream.head_response()
            if request.method == "HEAD"
            else self._stream.open_response()
        )

    async def process_stats(self, request: Request) -> Response:
        """Answer a peer with the statistics of this process."""
        limits = query.parse_integers(
            request.query_params.multi_items(),
            stores=IntegerParameter(default=0, low=0, high=20_000_000),
            jobs=IntegerParameter(default=0, low=0, high=100),
        )
        return JsonResponse(peers.encode_stats(self._cluster.local_stats(**limits), self._reports))

    async def local_timeline(self, request: Request) -> Response:
        found = self._cluster.local_timeline(request.path_params["job"])
        if found is None:
            raise Problem(404, "Not Found")
        return JsonResponse(found)

    async def _snapshot(self) -> dict[str, Any]:
        return {
            "overview": self._cluster.overview(),
            "stores": await self._cluster.stores(),
            "workers": self._cluster.workers(),
            "rateLimiter": self._cluster.rate_limiter(),
            "alerts": self._alerts_json(),
            "jobs": self._cluster.jobs(),
        }

    def _alerts_json(self) -> dict[str, Any]:
        return {"items": self._alerts(), "at": datetime.now(UTC)}


def _not_ready(detail: str) -> Problem:
    return Problem(503, "Service Unavailable", detail=detail, headers={"Retry-After": "1"})


async def _problem(request: Request, error: Exception) -> Response:
    assert isinstance(error, Problem)
    return error.response()


async def _unknown_query(request: Request, error: Exception) -> Response:
    assert isinstance(error, InvalidQueryError)
    return Problem(422, "Unprocessable Content", errors=[*error.errors]).response()


async def _http_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    return Problem(error.status_code, error.detail, headers=error.headers).response()

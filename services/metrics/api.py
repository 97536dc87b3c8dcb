"""The HTTP side: reads the tables and the board of this process, and serves the page."""

from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import FileResponse, Response
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles

from services.metrics import prometheus, view
from services.metrics.app import Tables
from services.metrics.board import Board
from services.metrics.rules import limits
from shared.http import JsonResponse, Problem

_STATIC = Path(__file__).parent / "static"
_PAGE_HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self' data:;"
        " base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-cache",
}


class Api:
    """`alerts` tells those in force, worst first; `crashed` and `ready` tell of the Faust app, whose end the web server
    would not notice."""

    def __init__(
        self, *, tables: Tables, board: Board, alerts: Callable[[], list[dict[str, Any]]],
        crashed: Callable[[], bool], ready: Callable[[], bool],
    ) -> None:  # fmt: skip
        self._tables = tables
        self._alerts = alerts
        self._board = board
        self._crashed = crashed
        self._ready = ready

    def application(self) -> Starlette:
        routes: list[Route | Mount] = [
            Route("/", self.page),
            Route("/health", self.health),
            Route("/livez", self.live),
            Route("/readyz", self.ready),
            Route("/metrics", self.metrics),
            Route("/api/rate-limiter/stats", self.limiter),
            Route("/api/overview", self.overview),
            Route("/api/stores", self.stores),
            Route("/api/workers", self.workers),
            Route("/api/alerts", self.alerts),
            Mount("/static", StaticFiles(directory=_STATIC)),
        ]
        return Starlette(routes=routes, exception_handlers={Problem: _problem, HTTPException: _http_error})

    async def page(self, request: Request) -> Response:
        return FileResponse(_STATIC / "index.html", headers=_PAGE_HEADERS)

    async def health(self, request: Request) -> Response:
        return JsonResponse({"status": "ok", "timestamp": datetime.now(UTC)})

    async def live(self, request: Request) -> Response:
        if self._crashed():
            raise Problem(503, "Service Unavailable", detail="the stream processor has crashed")
        return await self.health(request)

    async def ready(self, request: Request) -> Response:
        if self._crashed() or not self._ready():
            raise Problem(503, "Service Unavailable", detail="the tables are not recovered yet")
        return JsonResponse({"status": "ready"})

    async def metrics(self, request: Request) -> Response:
        """The contract's JSON; Prometheus or OpenMetrics text when `Accept` or `?format=` asks for it."""
        accept = request.headers.get("accept", "")
        wanted = request.query_params.get("format", _format_of(accept))
        if wanted == "json":
            return JsonResponse(view.contract_metrics(self._board.scheduler, self._board.alive()))
        if wanted not in ("prometheus", "openmetrics"):
            fault = {"field": "format", "detail": "must be json, prometheus or openmetrics"}
            raise Problem(422, "Unprocessable Content", errors=[fault])
        openmetrics = wanted == "openmetrics"
        text = prometheus.render(self._tables.total(), self._board, datetime.now(UTC), openmetrics=openmetrics)
        kind = prometheus.OPENMETRICS_TYPE if openmetrics else prometheus.TEXT_TYPE
        return Response(text, headers={"Content-Type": kind})

    async def limiter(self, request: Request) -> Response:
        return JsonResponse({"status": "ok", "rateLimiter": limits.totals(self._board.alive())})

    async def overview(self, request: Request) -> Response:
        now = datetime.now(UTC)
        return JsonResponse(view.overview(self._tables.total(), self._board.scheduler, self._board.alive(now), now))

    async def stores(self, request: Request) -> Response:
        return JsonResponse({"items": view.stores(self._tables.stores(), self._board.scheduler)})

    async def workers(self, request: Request) -> Response:
        now = datetime.now(UTC)
        return JsonResponse({"items": view.workers(self._board.alive(now), self._board.gone(now), now)})

    async def alerts(self, request: Request) -> Response:
        """Those in force, worst first."""
        return JsonResponse({"items": self._alerts(), "at": datetime.now(UTC)})


def _format_of(accept: str) -> str:
    if "application/openmetrics-text" in accept:
        return "openmetrics"
    return "prometheus" if "text/plain" in accept else "json"


async def _problem(request: Request, error: Exception) -> Response:
    assert isinstance(error, Problem)
    return error.response()


async def _http_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    return Problem(error.status_code, error.detail, headers=error.headers).response()

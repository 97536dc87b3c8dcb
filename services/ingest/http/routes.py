"""Which handler answers what."""

from pathlib import Path

from starlette.applications import Starlette
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles
from starlette.types import ASGIApp

from services.ingest.budgets.handlers import Budgets
from services.ingest.http.errors import HANDLERS, RequestId, Straight
from services.ingest.http.metrics_relay import MetricsRelay
from services.ingest.http.probes import Probes
from services.ingest.http.trace_context import TraceContext
from services.ingest.jobs.actions import Interventions
from services.ingest.jobs.event_stream import Progress
from services.ingest.openapi.pages import Docs
from services.ingest.submit.bulk import Bulk
from services.ingest.submit.handlers import Api
from services.ingest.webhooks.handlers import Deliveries
from shared.http.server import trust_local_proxy

_JOBS = "/api/blog-generation"
_JOB = f"{_JOBS}/{{job:uuid}}"
_TRACED = (_JOBS, f"{_JOBS}/bulk")


def application(  # noqa: PLR0913 - all handlers
    *,
    api: Api,
    bulk: Bulk,
    interventions: Interventions,
    progress: Progress,
    deliveries: Deliveries,
    budgets: Budgets,
    relay: MetricsRelay,
    probes: Probes,
    docs: Docs,
    image_dir: Path | None,
) -> ASGIApp:
    routes: list[Route | Mount] = [
        Route("/", probes.index),
        Route("/health", probes.health),
        Route("/openapi.json", docs.openapi),
        Route("/docs", docs.page),
        Route("/docs/{name}", docs.asset),
        Route("/livez", probes.health),
        Route("/readyz", probes.ready),
        Route("/metrics", relay.get),
        Route("/api/rate-limiter/stats", relay.get),
        Route(
            _JOBS, api.list, methods=["GET", "POST"]
        ),  # POST has gone straight; another is told of both
        Route(f"{_JOBS}/bulk", bulk.submit, methods=["POST"]),
        Route(_JOB, api.get, methods=["GET"]),
        Route(f"{_JOB}/events", progress.events, methods=["GET"]),
        Route(f"{_JOB}/events-ticket", progress.ticket, methods=["POST"]),
        Route(f"{_JOB}/cancel", interventions.cancel, methods=["POST"]),
        Route(f"{_JOB}/retry", interventions.retry, methods=["POST"]),
        Route("/api/stores/{store}/budget", budgets.answer, methods=["GET", "PUT", "DELETE"]),
        Route("/api/webhook-deliveries", deliveries.list, methods=["GET"]),
        Route(
            "/api/webhook-deliveries/{delivery:uuid}/replay", deliveries.replay, methods=["POST"]
        ),
    ]
    if image_dir is not None:
        routes.append(Mount("/images", StaticFiles(directory=image_dir, check_dir=False)))
    routed = trust_local_proxy(Starlette(routes=routes, exception_handlers=HANDLERS))
    app = Straight(routed, path=_JOBS, handler=api.submit)
    # Around all of it: the answer to an unforeseen fault, and its log line, need the id most.
    return RequestId(TraceContext(app, paths=_TRACED))

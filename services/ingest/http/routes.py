"""Maps paths to handlers and wraps the app in its middleware."""

from dataclasses import dataclass
from pathlib import Path

from starlette.applications import Starlette
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles
from starlette.types import ASGIApp

from services.ingest.budgets.handlers import BudgetHandlers
from services.ingest.http.errors import EXCEPTION_HANDLERS
from services.ingest.http.metrics_relay import MetricsRelay
from services.ingest.http.middleware import FastPath, RequestId, TraceContext
from services.ingest.http.probes import Probes
from services.ingest.jobs.event_stream import JobEventStream
from services.ingest.jobs.handlers import JobHandlers
from services.ingest.jobs.user_actions import UserActionHandlers
from services.ingest.openapi.pages import DocsPages
from services.ingest.submit.bulk import BulkSubmitHandler
from services.ingest.submit.handlers import SubmitHandler
from services.ingest.webhooks.handlers import DeliveryHandlers
from shared.http.server import trust_local_proxy

_JOBS = "/api/blog-generation"
_JOB = f"{_JOBS}/{{job:uuid}}"
_DELIVERIES = "/api/webhook-deliveries"
_TRACED = (_JOBS, f"{_JOBS}/bulk")


@dataclass(frozen=True, slots=True, kw_only=True)
class Handlers:
    """All handlers of the application."""

    submit: SubmitHandler
    bulk: BulkSubmitHandler
    jobs: JobHandlers
    user_actions: UserActionHandlers
    event_stream: JobEventStream
    deliveries: DeliveryHandlers
    budgets: BudgetHandlers
    metrics: MetricsRelay
    probes: Probes
    docs: DocsPages


def create_application(handlers: Handlers, *, image_dir: Path | None) -> ASGIApp:
    """Build the ASGI app. With `image_dir`, it also serves that folder under /images."""
    routes: list[Route | Mount] = [
        Route("/", handlers.probes.get_index),
        Route("/health", handlers.probes.get_health),
        Route("/livez", handlers.probes.get_health),
        Route("/readyz", handlers.probes.get_readiness),
        Route("/openapi.json", handlers.docs.get_document),
        Route("/docs", handlers.docs.get_page),
        Route("/docs/{name}", handlers.docs.get_asset),
        Route("/metrics", handlers.metrics.relay_request),
        Route("/api/rate-limiter/stats", handlers.metrics.relay_request),
        # FastPath takes every POST; a 405 for another method names POST too.
        Route(_JOBS, handlers.jobs.list_jobs, methods=["GET", "POST"]),
        Route(f"{_JOBS}/bulk", handlers.bulk.submit_bulk, methods=["POST"]),
        Route(_JOB, handlers.jobs.get_job, methods=["GET"]),
        Route(f"{_JOB}/events", handlers.event_stream.stream_events, methods=["GET"]),
        Route(f"{_JOB}/events-ticket", handlers.event_stream.issue_ticket, methods=["POST"]),
        Route(f"{_JOB}/cancel", handlers.user_actions.cancel_job, methods=["POST"]),
        Route(f"{_JOB}/retry", handlers.user_actions.retry_job, methods=["POST"]),
        Route(
            "/api/stores/{store}/budget",
            handlers.budgets.handle_budget,
            methods=["GET", "PUT", "DELETE"],
        ),
        Route(_DELIVERIES, handlers.deliveries.list_deliveries, methods=["GET"]),
        Route(
            f"{_DELIVERIES}/{{delivery:uuid}}/replay",
            handlers.deliveries.replay_delivery,
            methods=["POST"],
        ),
    ]
    if image_dir is not None:
        routes.append(Mount("/images", StaticFiles(directory=image_dir, check_dir=False)))
    routed = trust_local_proxy(Starlette(routes=routes, exception_handlers=EXCEPTION_HANDLERS))
    app = FastPath(routed, path=_JOBS, handler=handlers.submit.submit_request)
    # RequestId is outermost: the log and the answer of an unhandled exception need the id.
    return RequestId(TraceContext(app, paths=_TRACED))

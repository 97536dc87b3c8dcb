"""Puts metrics together and runs it: the Faust app and the web server in one loop."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from functools import partial
from typing import Any

import faust
from faust.contrib.asgi import faust_app_running

from services.metrics.alerts import Alerts
from services.metrics.api import Api
from services.metrics.app import Tables, build
from services.metrics.board import Board
from services.metrics.settings import MetricsSettings
from services.metrics.webhook import Webhook
from shared import http, kafka
from shared.errors import Unavailable
from shared.lifecycle import background
from shared.log import get_logger

log = get_logger(__name__)


async def run(settings: MetricsSettings, stop: asyncio.Event) -> None:
    """Serve until `stop` is set. `Unavailable` when the Faust app crashes: the process must then end."""
    listener = http.listen(settings.host, settings.metrics_port)
    await kafka.ensure_topics(settings)
    settings.metrics_dir.mkdir(parents=True, exist_ok=True)
    board = Board(silence_s=settings.worker_silence_s)
    app, tables = build(settings, board)
    async with (
        faust_app_running(app, discover=False, stop_timeout=20),
        _alerting(settings, tables, board, app, stop) as alerts,
    ):
        api = Api(
            tables=tables, board=board, alerts=alerts.in_force, crashed=lambda: bool(app.crashed),
            ready=partial(_recovered, app),
        )  # fmt: skip
        log.info("metrics listens", host=settings.host, port=settings.metrics_port)
        watching = asyncio.create_task(_stop_when_crashed(app, stop), name="faust watch")
        try:
            await http.serve(api.application(), listener, stop)
        finally:
            watching.cancel()
        if app.crashed:
            raise Unavailable(f"the stream processor crashed: {app.crash_reason!r}")
    log.info("metrics stopped")


@asynccontextmanager
async def _alerting(
    settings: MetricsSettings, tables: Tables, board: Board, app: faust.App, stop: asyncio.Event
) -> AsyncIterator[Alerts]:
    """Alerts that are judged all the while, and told to the webhook if one is set."""
    url = settings.alert_webhook_url
    webhook = Webhook(url.get_secret_value()) if url is not None else None
    alerts = Alerts(
        total=tables.total, board=board, webhook=webhook, tells=partial(_is_first, app), began_at=datetime.now(UTC)
    )
    loops = {"alerts": alerts.watch(partial(_recovered, app))}
    if webhook is not None:
        loops["webhook"] = webhook.deliver()
    async with background(stop, **loops):
        yield alerts


def _recovered(app: faust.App) -> bool:
    tables: Any = app.tables
    return bool(app.started and tables.recovery.completed.is_set())


def _is_first(app: faust.App) -> bool:
    """Of several processes the one that counts the first partition."""
    assignor: Any = app.assignor
    return any(owned.partition == 0 for owned in assignor.assigned_actives())


async def _stop_when_crashed(app: faust.App, stop: asyncio.Event) -> None:
    """A crashed Faust app says nothing to the web server beside it; this looks, and ends the process."""
    while not app.crashed:
        await asyncio.sleep(0.5)
    log.error("the stream processor crashed", reason=repr(app.crash_reason))
    stop.set()

"""Puts metrics together and runs it: the Faust app and the web server in one loop."""

import asyncio
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import faust
import httpx
from faust.contrib.asgi import faust_app_running

from services.metrics.alerts.evaluator import Alerts
from services.metrics.alerts.webhook import Webhook
from services.metrics.cluster import kafka_monitor
from services.metrics.cluster.cluster_stats import Ownership, Whole
from services.metrics.cluster.latest_reports import Board
from services.metrics.cluster.monitored import Watched
from services.metrics.cluster.peers import Peers
from services.metrics.cluster.startup_gate import Opening
from services.metrics.counting import backfill, table_generation
from services.metrics.counting.app import Counting, Memory
from services.metrics.counting.rules.timeline import Recent
from services.metrics.counting.stats_view import Picture
from services.metrics.http.handlers import Api
from services.metrics.http.job_relay import JobRelay
from services.metrics.reconcile.reconciler import Reconciler
from services.metrics.settings import MetricsSettings
from shared.domain.errors import Unavailable
from shared.http import server
from shared.kafka import clients as kafka
from shared.observability.log import get_logger
from shared.runtime import garbage
from shared.runtime.lifecycle import background_tasks

log = get_logger(__name__)


async def run(settings: MetricsSettings, stop: asyncio.Event) -> None:
    """Serve until `stop` is set. `Unavailable` when the Faust app crashes: the process must then end."""
    listener = server.open_listener(settings.host, settings.metrics_port)
    await kafka.ensure_topics(settings)
    number = await table_generation.current(settings)
    memory = Memory(
        board=Board(silence_s=settings.worker_silence_s),
        picture=Picture(),
        recent=Recent(kept=settings.jobs_kept),
    )
    folder = await table_generation.folder(settings, number)
    counting = Counting(settings, memory, generation=number, folder=folder)
    async with (
        httpx.AsyncClient(trust_env=False) as client,
        faust_app_running(counting.app, discover=False, stop_timeout=20),
    ):
        counting.started()
        service = Metrics(settings, memory, counting, client, stop)
        log.info(
            "metrics listens", host=settings.host, port=settings.metrics_port, generation=number
        )
        async with background_tasks(stop, **service.loops()):
            await server.serve_http(server.trust_local_proxy(service.api.application()), listener, stop)
        if counting.app.crashed:
            raise Unavailable(f"the stream processor crashed: {counting.app.crash_reason!r}")
    log.info("metrics stopped")


class Metrics:
    """What runs beside the Faust app."""

    def __init__(
        self,
        settings: MetricsSettings,
        memory: Memory,
        counting: Counting,
        client: httpx.AsyncClient,
        stop: asyncio.Event,
    ) -> None:
        self._settings = settings
        self._memory = memory
        self._counting = counting
        self._stop = stop
        self._watched = Watched()
        self._peers = Peers(client, addresses=counting.peers, board=memory.board)
        self.whole = Whole(
            memory=memory, peers=self._peers, watched=self._watched, owned=self._owned
        )
        url = settings.alert_webhook_url
        self._webhook = Webhook(url.get_secret_value()) if url is not None else None
        self._alerts = Alerts(
            total=self.whole.total,
            board=memory.board,
            watched=self.whole.watched,
            webhook=self._webhook,
            tells=self._is_first,
            began_at=datetime.now(UTC),
        )
        self.api = Api(
            whole=self.whole,
            board=memory.board,
            relay=JobRelay(client, settings.ingest_url),
            alerts=self._alerts.in_force,
            crashed=lambda: bool(counting.app.crashed),
            ready=self._ready,
            stop=stop,
            opening=Opening(board=memory.board, recovered=self._ready),
        )

    def loops(self) -> dict[str, Any]:
        settings, watched = self._settings, self._watched
        reconciler = Reconciler(
            settings, total=self.whole.total, mine=self._may_compare, watched=watched
        )
        return {
            "garbage": garbage.collect_on_schedule(),
            "faust watch": _stop_when_crashed(self._counting.app, self._stop),
            "peers": self._peers.follow(),
            "lag": kafka_monitor.keep_lag(settings, watched, every_s=settings.lag_every_s),
            "dead letters": kafka_monitor.follow_dead_letters(settings, watched),
            "reconciliation": reconciler.run(),
            **({"webhook": self._webhook.deliver()} if self._webhook is not None else {}),
            "alerts": self._alerts.watch(self._sees_all),
            "latest jobs": _hear_again(settings, self._memory.recent, self._owned),
        }

    def _owned(self) -> Ownership:
        return Ownership(
            partitions=tuple(self._counting.partitions()), settled=self._counting.redrawn
        )

    def _ready(self) -> bool:
        return bool(self._counting.app.started and self._counting.redrawn)

    def _is_first(self) -> bool:
        """One process of all does what is to be done once."""
        return 0 in self._owned().partitions

    def _may_compare(self) -> bool:
        return self._is_first() and self._sees_all()

    def _sees_all(self) -> bool:
        return self.whole.beside().complete


async def _hear_again(
    settings: MetricsSettings, recent: Recent, owned: Callable[[], Ownership]
) -> None:
    """After every assignment, the latest jobs of the partitions that are new."""
    known: set[int] = set()
    while True:
        now = owned()
        if now.settled and (new := sorted(set(now.partitions) - known)):
            await backfill.hear_again(settings, new, recent)
            known = set(now.partitions)
        await asyncio.sleep(0.5)


async def _stop_when_crashed(app: faust.App, stop: asyncio.Event) -> None:
    """A crashed Faust app says nothing to the web server beside it; this looks, and ends the process."""
    while not app.crashed:
        await asyncio.sleep(0.5)
    log.error("the stream processor crashed", reason=repr(app.crash_reason))
    stop.set()

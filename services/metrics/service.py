"""Builds the metrics service and runs it: the Faust app and the web server share one event loop."""

import asyncio
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import faust
import httpx
from faust.contrib.asgi import faust_app_running

from services.metrics.alerts.evaluator import AlertEvaluator
from services.metrics.alerts.webhook import AlertWebhook
from services.metrics.cluster import kafka_monitor
from services.metrics.cluster.cluster_stats import ClusterStats, PartitionOwnership
from services.metrics.cluster.latest_reports import LatestReports
from services.metrics.cluster.monitored_values import MonitoredValues
from services.metrics.cluster.peers import Peers
from services.metrics.cluster.startup_readiness import StartupReadiness
from services.metrics.counting import backfill, table_generation
from services.metrics.counting.event_counter import EventCounter, LocalState
from services.metrics.counting.rules.timeline import RecentJobs
from services.metrics.counting.stats_view import StatsView
from services.metrics.http.handlers import MetricsApi
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


async def run_until_stopped(settings: MetricsSettings, stop: asyncio.Event) -> None:
    """Serve until `stop` is set.

    Raises `Unavailable` when the Faust app crashes: the process must then end.
    """
    listener = server.open_listener(settings.host, settings.metrics_port)
    await kafka.ensure_topics(settings)
    number = await table_generation.current(settings)
    local = LocalState(
        reports=LatestReports(silence_s=settings.worker_silence_s),
        stats=StatsView(),
        recent=RecentJobs(kept=settings.jobs_kept),
    )
    folder = await table_generation.prepare_folder(settings, number)
    counter = EventCounter(settings, local, generation=number, folder=folder)
    async with (
        httpx.AsyncClient(trust_env=False) as client,
        faust_app_running(counter.app, discover=False, stop_timeout=20),
    ):
        counter.remove_faust_monitor()
        service = MetricsService(settings, local, counter, client, stop)
        log.info(
            "metrics started", host=settings.host, port=settings.metrics_port, generation=number
        )
        async with background_tasks(stop, **service.background_loops()):
            await server.serve_http(
                server.trust_local_proxy(service.api.application()), listener, stop
            )
        if counter.app.crashed:
            raise Unavailable(f"stream processor crashed: {counter.app.crash_reason!r}")
    log.info("metrics stopped")


class MetricsService:
    """Connects the parts of the service and lists the loops that run beside the Faust app."""

    def __init__(
        self,
        settings: MetricsSettings,
        local: LocalState,
        counter: EventCounter,
        client: httpx.AsyncClient,
        stop: asyncio.Event,
    ) -> None:
        self._settings = settings
        self._local = local
        self._counter = counter
        self._stop = stop
        self._monitored = MonitoredValues()
        self._peers = Peers(client, addresses=counter.peer_addresses, reports=local.reports)
        self._cluster = ClusterStats(
            local=local, peers=self._peers, monitored=self._monitored, ownership=self._ownership
        )
        url = settings.alert_webhook_url
        self._webhook = AlertWebhook(url.get_secret_value()) if url is not None else None
        self._alerts = AlertEvaluator(
            total=self._cluster.total,
            reports=local.reports,
            monitored=self._cluster.monitored,
            webhook=self._webhook,
            sends_notifications=self._owns_first_partition,
            began_at=datetime.now(UTC),
        )
        self.api = MetricsApi(
            cluster=self._cluster,
            reports=local.reports,
            relay=JobRelay(client, settings.ingest_url),
            alerts=self._alerts.active_alerts,
            crashed=lambda: bool(counter.app.crashed),
            ready=self._is_ready,
            stop=stop,
            startup=StartupReadiness(reports=local.reports, recovered=self._is_ready),
        )

    def background_loops(self) -> dict[str, Any]:
        settings, monitored = self._settings, self._monitored
        reconciler = Reconciler(
            settings,
            total=self._cluster.total,
            may_compare=self._may_compare,
            monitored=monitored,
        )
        return {
            "garbage": garbage.collect_on_schedule(),
            "faust watch": _stop_when_crashed(self._counter.app, self._stop),
            "peers": self._peers.poll_until_cancelled(),
            "lag": kafka_monitor.monitor_lag(settings, monitored, every_s=settings.lag_every_s),
            "dead letters": kafka_monitor.monitor_dead_letters(settings, monitored),
            "reconciliation": reconciler.compare_periodically(),
            **(
                {"webhook": self._webhook.deliver_until_cancelled()}
                if self._webhook is not None
                else {}
            ),
            "alerts": self._alerts.evaluate_until_cancelled(self._sees_all_partitions),
            "latest jobs": _restore_after_assignments(
                settings, self._local.recent, self._ownership
            ),
        }

    def _ownership(self) -> PartitionOwnership:
        return PartitionOwnership(
            partitions=tuple(self._counter.owned_partitions()),
            settled=self._counter.stats_are_current,
        )

    def _is_ready(self) -> bool:
        return bool(self._counter.app.started and self._counter.stats_are_current)

    def _owns_first_partition(self) -> bool:
        """Return whether this process does the work that only one process may do."""
        return 0 in self._ownership().partitions

    def _may_compare(self) -> bool:
        return self._owns_first_partition() and self._sees_all_partitions()

    def _sees_all_partitions(self) -> bool:
        return self._cluster.completeness().complete


async def _restore_after_assignments(
    settings: MetricsSettings, recent: RecentJobs, ownership: Callable[[], PartitionOwnership]
) -> None:
    """After every assignment, restore the recent jobs of the newly assigned partitions."""
    restored: set[int] = set()
    while True:
        now = ownership()
        if now.settled and (new := sorted(set(now.partitions) - restored)):
            await backfill.restore_recent_jobs(settings, new, recent)
            restored = set(now.partitions)
        await asyncio.sleep(0.5)


async def _stop_when_crashed(app: faust.App, stop: asyncio.Event) -> None:
    """Set `stop` after a crash of the Faust app, because Faust does not tell the web server."""
    while not app.crashed:
        await asyncio.sleep(0.5)
    log.error("stream processor crashed", reason=repr(app.crash_reason))
    stop.set()

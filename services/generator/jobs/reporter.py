"""Publishes the worker's reports and logs its heartbeat line."""

import asyncio
from collections.abc import Sequence
from datetime import UTC, datetime

from aiokafka.errors import KafkaError

from services.generator.jobs.concurrency import AdaptiveConcurrency, TextPlaces
from services.generator.jobs.status import WorkerStatus
from services.generator.quota.provider_limiter import ProviderLimiter
from shared.domain.messages import Need, WorkerReport
from shared.kafka.publisher import OutgoingMessage, Publisher
from shared.kafka.topics import WORKERS
from shared.observability.log import get_logger
from shared.runtime.lifecycle import wait_for_event

log = get_logger(__name__)

_REPORT_EVERY_S = 1.0
_MIN_INTERVAL_S = 0.1
_HEARTBEAT_EVERY_S = 30.0


class WorkerReporter:
    """Publishes a report every second, and 0.1 s after a change at the earliest.

    The minimum interval bundles changes, because many jobs start and end together.
    """

    def __init__(
        self,
        *,
        name: str,
        slots: int,
        standins: Sequence[str],
        status: WorkerStatus,
        limiters: Sequence[ProviderLimiter],
        concurrency: AdaptiveConcurrency,
        publisher: Publisher,
    ) -> None:
        self._name = name
        self._slots = slots
        self._standins = tuple(standins)
        self._status = status
        self._limiters = limiters
        self._concurrency = concurrency
        self._publisher = publisher
        self._started_at = datetime.now(UTC)

    async def publish_reports(self) -> None:
        """Publish reports until cancelled."""
        while True:
            self._status.changed.clear()
            await self.publish_report()
            await asyncio.sleep(_MIN_INTERVAL_S)
            await wait_for_event(self._status.changed, _REPORT_EVERY_S - _MIN_INTERVAL_S)

    async def publish_report(self) -> None:
        """Publish one report; log a warning if Kafka does not accept it within 5 s."""
        try:
            await self._publisher.publish(
                OutgoingMessage(topic=WORKERS, key=self._name, message=self._build_report()),
                timeout=5,
            )
        except (KafkaError, TimeoutError) as error:
            log.warning("worker report not published", reason=f"{type(error).__name__}: {error}")

    async def log_heartbeats(self) -> None:
        """Log the heartbeat line every 30 s until cancelled."""
        while True:
            await asyncio.sleep(_HEARTBEAT_EVERY_S)
            self.log_heartbeat()

    def log_heartbeat(self) -> None:
        """Log the heartbeat line once; it is also the last line of a worker."""
        log.info(
            f"[Blog Worker] Heartbeat: {self._status.running} running, {self._status.done} done,"
            f" {self._status.failed} failed",
            partitions=len(self._status.partitions),
            refused=self._status.stale_tasks,  # a released field name
        )

    def _accepted_jobs(self, places: TextPlaces) -> int:
        """Return how many jobs the worker accepts now, running ones included.

        Every job needs texts: while all text accounts with quota have an open circuit or a long
        cool-down, the worker accepts none, or one job when a probe is due. The reports of the
        limiters show the same of an image account, and the scheduler then sends only jobs that need
        no image.
        """
        if self._status.draining:
            return 0
        texts = [limiter for limiter in self._limiters if limiter.serves is Need.TEXT]
        owned = [limiter for limiter in texts if limiter.owns_quota] or texts
        accepting = [limiter for limiter in owned if not limiter.is_cooling_long]
        if not owned or any(not limiter.circuit_open for limiter in accepting):
            return min(self._slots, places.accepted)
        return self._status.running + 1 if any(text.is_probe_due for text in accepting) else 0

    def _build_report(self) -> WorkerReport:
        places = self._concurrency.estimate_places()
        slots = self._accepted_jobs(places)
        return WorkerReport(
            worker=self._name,
            at=datetime.now(UTC),
            started_at=self._started_at,
            partitions=self._status.partitions,
            slots=slots,
            image_slots=self._concurrency.count_image_jobs(),
            capacity=self._slots,
            overtaking_slots=min(slots and places.overtaking, self._slots),
            jobs_per_s=round(places.jobs_per_s, 4),
            lowest_waiting_rank=places.lowest_waiting_rank,
            running=self._status.running,
            limiters=tuple(
                report for limiter in self._limiters for report in limiter.build_reports()
            ),
            draining=self._status.draining,
            standin=bool(self._standins),
            standins=self._standins,
            total_partitions=self._status.total_partitions,
        )

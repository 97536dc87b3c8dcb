"""Builds the generator's job events and publishes them on `blog.results`."""

import asyncio
from dataclasses import replace
from datetime import UTC, datetime

from aiokafka.errors import KafkaError

from services.generator.jobs.repository import AttemptEnd, Lease
from shared.domain.job import Status, Step
from shared.domain.messages import EventKind, JobEvent, Usage
from shared.kafka.publisher import OutgoingMessage, Publisher
from shared.kafka.topics import RESULTS
from shared.observability.log import get_logger

log = get_logger(__name__)

_RETRY_PAUSE_S = 1.0


def build_event(
    lease: Lease,
    kind: EventKind,
    status: Status,
    *,
    step: Step | None = None,
    end: AttemptEnd | None = None,
    error: str | None = None,
) -> JobEvent:
    """Build the event of a leased job that is in `status` now."""
    return JobEvent(
        job=lease.job,
        store=lease.request.store,
        kind=kind,
        status=status,
        attempt=lease.attempt,
        at=end.at if end else datetime.now(UTC),
        created_at=lease.created_at,
        started_at=lease.started_at,
        step=step,
        worker=lease.worker,
        usage=end.usage if end else Usage(),
        not_before=end.not_before if end else None,
        error=error,
    )


class JobEventPublisher:
    """Publishes job events.

    Progress may be lost; an outcome is published until Kafka accepts it.
    """

    def __init__(self, publisher: Publisher) -> None:
        self._publisher = publisher
        self._retrying = True

    async def publish(self, event: JobEvent) -> None:
        """Publish an event once. Raises `KafkaError` or `TimeoutError`."""
        await self._publisher.publish(
            OutgoingMessage(topic=RESULTS, key=event.store, message=event)
        )

    async def publish_started(self, lease: Lease) -> None:
        started = build_event(lease, EventKind.STARTED, Status.PROCESSING)
        await self._publish_progress(replace(started, forwarded_at=lease.forwarded_at))

    async def publish_step_done(self, lease: Lease, step: Step, limit_wait_s: float) -> None:
        """Announce a paid step. `limit_wait_s` is the time its call waited for a permit."""
        event = build_event(lease, EventKind.STEP_DONE, Status.PROCESSING, step=step)
        await self._publish_progress(replace(event, limit_wait_s=round(limit_wait_s, 3)))

    async def publish_outcome(self, event: JobEvent) -> None:
        """Publish an outcome, and retry while Kafka is unavailable.

        After `stop_retrying` it raises the error instead: the task stays unfinished and is
        delivered again.
        """
        while True:
            try:
                await self.publish(event)
            except (KafkaError, TimeoutError) as error:
                if not self._retrying:
                    raise
                log.warning(
                    "dependency unavailable, retrying",
                    job=str(event.job),
                    dependency="Kafka",
                    operation="publish outcome",
                    reason=f"{type(error).__name__}: {error}",
                )
                await asyncio.sleep(_RETRY_PAUSE_S)
            else:
                return

    def stop_retrying(self) -> None:
        """Give up on unavailable Kafka from now on, because the worker is about to end."""
        self._retrying = False

    async def _publish_progress(self, event: JobEvent) -> None:
        """Publish an event that may be lost: the row in PostgreSQL holds the truth."""
        try:
            await self.publish(event)
        except (KafkaError, TimeoutError) as error:
            log.warning(
                "job progress not published",
                job=str(event.job),
                reason=f"{type(error).__name__}: {error}",
            )

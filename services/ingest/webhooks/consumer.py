"""Turns blog.results into deliveries, in one consumer group of all ingest processes.

Offsets are committed once PostgreSQL has the deliveries. A job's end that is read twice adds one
delivery. A cancellation whose event was lost is found by a search once a minute.
"""

import asyncio
import time
from uuid import UUID

import asyncpg
from aiokafka import AIOKafkaConsumer
from aiokafka.errors import KafkaError
from aiokafka.structs import ConsumerRecord

from services.ingest.webhooks.repository import WebhookRepository
from shared.domain.errors import InvalidMessage
from shared.domain.messages import EventKind, JobEvent
from shared.kafka import clients
from shared.kafka.topics import RESULTS, WEBHOOKS_GROUP
from shared.observability.log import get_logger
from shared.runtime.postgres import UNAVAILABLE_ERRORS
from shared.runtime.settings import KafkaSettings

log = get_logger(__name__)

_POLL_MS = 1_000
_MAX_RECORDS = 500
_RETRY_PAUSE_S = 2.0
_SEARCH_EVERY_S = 60.0
_DEADLINE_S = 5.0


class DeliveryConsumer:
    """Sets `deliveries_due` when it has added deliveries."""

    def __init__(
        self,
        settings: KafkaSettings,
        repository: WebhookRepository,
        deliveries_due: asyncio.Event,
    ) -> None:
        self._settings = settings
        self._repository = repository
        self._deliveries_due = deliveries_due
        self._searched_at = 0.0

    async def run_until_cancelled(self) -> None:
        """Consume, and reconnect after outages; an outage delays commits, so no end is lost."""
        names = clients.namespace(self._settings)
        while True:
            consumer = clients.create_consumer(
                self._settings,
                names.topic(RESULTS),
                group_id=names.group(WEBHOOKS_GROUP),
                fetch_max_wait_ms=_POLL_MS,
            )
            try:
                await consumer.start()
                while True:
                    await self._consume_batch(consumer)
            except (*UNAVAILABLE_ERRORS, asyncpg.PostgresError, KafkaError) as error:
                log.warning(
                    "dependency unavailable, retrying",
                    operation="add webhook deliveries",
                    reason=f"{type(error).__name__}: {error}",
                )
            finally:
                await _close(consumer)
            await asyncio.sleep(_RETRY_PAUSE_S)

    async def _consume_batch(self, consumer: AIOKafkaConsumer) -> None:
        batches = await consumer.getmany(timeout_ms=_POLL_MS, max_records=_MAX_RECORDS)
        ended = {
            job
            for batch in batches.values()
            for record in batch
            if (job := _ended_job(record)) is not None
        }
        if time.monotonic() - self._searched_at > _SEARCH_EVERY_S:
            ended.update(await self._repository.list_unannounced_cancellations())
            self._searched_at = time.monotonic()
        if ended and await self._repository.add_deliveries(list(ended)):
            self._deliveries_due.set()
        if batches:
            async with asyncio.timeout(_DEADLINE_S):
                await consumer.commit()


def _ended_job(record: ConsumerRecord) -> UUID | None:
    """Return the job that a record reports as ended."""
    try:
        event = clients.decode_record(record)
    except InvalidMessage:
        return None  # the scheduler sends it to the dead letter queue
    return event.job if isinstance(event, JobEvent) and event.kind is EventKind.ENDED else None


async def _close(consumer: AIOKafkaConsumer) -> None:
    try:
        async with asyncio.timeout(_DEADLINE_S):
            await consumer.stop()
    except (KafkaError, TimeoutError) as error:
        reason = f"{type(error).__name__}: {error}"
        log.warning("consumer not closed", operation="add webhook deliveries", reason=reason)

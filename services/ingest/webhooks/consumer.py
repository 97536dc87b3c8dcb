"""blog.results → deliveries: one consumer group of all ingest processes; committed once PostgreSQL has the deliveries.

An end heard of twice is noted once. A cancellation whose event got lost is found by looking, once a minute.
"""

import asyncio
import time
from uuid import UUID

import asyncpg
from aiokafka import AIOKafkaConsumer
from aiokafka.errors import KafkaError
from aiokafka.structs import ConsumerRecord

from services.ingest.webhooks.repository import WebhookStore
from shared.domain.errors import InvalidMessage
from shared.domain.messages import EventKind, JobEvent
from shared.kafka import clients
from shared.kafka.topics import RESULTS, WEBHOOKS_GROUP
from shared.observability.log import get_logger
from shared.runtime.postgres import UNAVAILABLE_ERRORS
from shared.runtime.settings import KafkaSettings

log = get_logger(__name__)

_POLL_MS = 1_000
_PAUSE_S = 2.0
_LOOK_EVERY_S = 60.0
_WITHIN_S = 5.0


class Feed:
    """`noted` is set whenever there are new deliveries."""

    def __init__(self, settings: KafkaSettings, store: WebhookStore, noted: asyncio.Event) -> None:
        self._settings = settings
        self._store = store
        self._noted = noted
        self._looked_at = 0.0

    async def run(self) -> None:
        """Until cancelled. What is away is waited for: nothing is committed meanwhile, and nothing lost."""
        while True:
            names = clients.namespace(self._settings)
            consumer = clients.create_consumer(
                self._settings,
                names.topic(RESULTS),
                group_id=names.group(WEBHOOKS_GROUP),
                fetch_max_wait_ms=_POLL_MS,
            )
            try:
                await consumer.start()
                while True:
                    await self._turn(consumer)
            except (*UNAVAILABLE_ERRORS, asyncpg.PostgresError, KafkaError) as error:
                log.warning(
                    "webhooks wait: something is away", reason=f"{type(error).__name__}: {error}"
                )
            finally:
                await _close(consumer)
            await asyncio.sleep(_PAUSE_S)

    async def _turn(self, consumer: AIOKafkaConsumer) -> None:
        batches = (await consumer.getmany(timeout_ms=_POLL_MS, max_records=500)).values()
        ended = {
            job for batch in batches for record in batch if (job := _ended(record)) is not None
        }
        if time.monotonic() - self._looked_at > _LOOK_EVERY_S:
            ended.update(await self._store.cancelled_lately())
            self._looked_at = time.monotonic()
        if ended and await self._store.note(list(ended)):
            self._noted.set()
        if batches:
            async with asyncio.timeout(_WITHIN_S):
                await consumer.commit()


def _ended(record: ConsumerRecord) -> UUID | None:
    """The job whose end a record tells."""
    try:
        event = clients.decode_record(record)
    except InvalidMessage:
        return None  # the scheduler puts it aside
    return event.job if isinstance(event, JobEvent) and event.kind is EventKind.ENDED else None


async def _close(consumer: AIOKafkaConsumer) -> None:
    try:
        async with asyncio.timeout(_WITHIN_S):
            await consumer.stop()
    except (KafkaError, TimeoutError) as error:
        log.warning(
            "the webhooks' consumer could not be closed", reason=f"{type(error).__name__}: {error}"
        )

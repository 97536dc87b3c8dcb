"""Reads records that Faust skipped: after a rebalance under load it may leave a gap.

Faust drops records that it had read but not processed, and takes the resulting gap for compaction.
The partition's next event reveals the gap, so records dropped at the partition's end are counted
with the next event.
"""

import asyncio
from datetime import UTC, datetime

from aiokafka.errors import KafkaError
from aiokafka.structs import TopicPartition

from services.metrics.counting.rules.validation import validate_message
from shared.domain.errors import InvalidMessage
from shared.domain.messages import JobEvent
from shared.kafka import clients
from shared.kafka.ranges import read_range
from shared.kafka.topics import RESULTS
from shared.observability.log import get_logger
from shared.runtime.settings import KafkaSettings

log = get_logger(__name__)

_PAUSE_S = 1.0


async def read_gap(settings: KafkaSettings, partition: int, first: int, end: int) -> list[JobEvent]:
    """Return the events of a partition from offset `first` to before `end` that Kafka still has.

    Retries while Kafka is unavailable.
    """
    topic_partition = TopicPartition(clients.namespace(settings).topic(RESULTS), partition)
    while True:
        try:
            return await _read_once(settings, topic_partition, first, end)
        except (KafkaError, OSError) as error:
            log.warning(
                "dependency unavailable, retrying",
                dependency="Kafka",
                operation="read skipped events",
                reason=f"{type(error).__name__}: {error}",
            )
            await asyncio.sleep(_PAUSE_S)


async def _read_once(
    settings: KafkaSettings, partition: TopicPartition, first: int, end: int
) -> list[JobEvent]:
    events: list[JobEvent] = []
    async with clients.create_consumer(settings) as consumer:
        async for records in read_range(
            consumer, [partition], start={partition: first}, ends={partition: end}
        ):
            for record in records:
                try:
                    events.append(
                        validate_message(clients.decode_record(record), datetime.now(UTC), JobEvent)
                    )
                except InvalidMessage as error:
                    log.warning("invalid event skipped", reason=error.reason)
    if events:
        log.warning(
            "skipped events found and counted",
            partition=partition.partition,
            events=len(events),
        )
    return events

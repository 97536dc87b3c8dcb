"""Reads the records that Faust has left out: after a rebalance under load it may go on behind what was never counted.

(It drops what it had read and not worked on, and takes the gap that this leaves for one that compaction made. The gap
shows with the partition's next event: what was dropped at the partition's end is counted no earlier.)
"""

import asyncio
from datetime import UTC, datetime

from aiokafka.errors import KafkaError
from aiokafka.structs import TopicPartition

from services.metrics.counting.rules.validation import believed
from shared.domain.errors import InvalidMessage
from shared.domain.messages import JobEvent
from shared.kafka import clients
from shared.kafka.topics import RESULTS
from shared.observability.log import get_logger
from shared.runtime.settings import KafkaSettings

log = get_logger(__name__)

_PAUSE_S = 1.0


async def read(settings: KafkaSettings, partition: int, first: int, end: int) -> list[JobEvent]:
    """The events of a partition from one offset up to another, those that Kafka still has; waits while it is away."""
    while True:
        try:
            return await _read(
                settings,
                TopicPartition(clients.namespace(settings).topic(RESULTS), partition),
                first,
                end,
            )
        except (KafkaError, OSError) as error:
            log.warning(
                "waiting to read what was left out", reason=f"{type(error).__name__}: {error}"
            )
            await asyncio.sleep(_PAUSE_S)


async def _read(
    settings: KafkaSettings, partition: TopicPartition, first: int, end: int
) -> list[JobEvent]:
    events: list[JobEvent] = []
    async with clients.create_consumer(settings) as consumer:
        consumer.assign([partition])
        begin = (await consumer.beginning_offsets([partition]))[partition]
        consumer.seek(partition, max(first, begin))
        while await consumer.position(partition) < end:
            batches = await consumer.getmany(partition, timeout_ms=500)
            for record in (
                record for records in batches.values() for record in records if record.offset < end
            ):
                try:
                    events.append(
                        believed(clients.decode_record(record), datetime.now(UTC), JobEvent)
                    )
                except InvalidMessage as error:
                    log.warning("an event is put aside", reason=error.reason)
    if events:
        log.warning(
            "events were left out, and are counted now",
            partition=partition.partition,
            events=len(events),
        )
    return events

"""Hears the end of the results again after a start, so that /api/jobs knows what happened before it.

Counts are in the table; what is kept of single jobs is in memory only, and comes back this way.
"""

import asyncio
from datetime import UTC, datetime
from typing import Any

from aiokafka.errors import KafkaError
from aiokafka.structs import TopicPartition

from services.metrics.counting.rules.timeline import Recent
from services.metrics.counting.rules.validation import believed
from shared.domain.errors import InvalidMessage
from shared.domain.messages import JobEvent
from shared.kafka import clients
from shared.kafka.topics import RESULTS
from shared.observability.log import get_logger
from shared.runtime.settings import KafkaSettings

log = get_logger(__name__)

RECORDS = 2_000
"""Of each partition: about three hundred jobs."""


async def hear_again(settings: KafkaSettings, partitions: list[int], recent: Recent) -> None:
    """The last records of these partitions, up to now. When Kafka is away, the list begins empty."""
    name = clients.namespace(settings).topic(RESULTS)
    wanted = [TopicPartition(name, number) for number in partitions]
    try:
        async with clients.create_consumer(settings) as consumer:
            consumer.assign(wanted)
            begins, left = (
                await consumer.beginning_offsets(wanted),
                await consumer.end_offsets(wanted),
            )
            for partition in wanted:
                consumer.seek(partition, max(begins[partition], left[partition] - RECORDS))
            while any(
                [await consumer.position(partition) < left[partition] for partition in wanted]
            ):
                _hear(await consumer.getmany(timeout_ms=500, max_records=200), recent)
                await asyncio.sleep(0)
    except (KafkaError, OSError, TimeoutError) as error:
        log.warning(
            "the latest jobs could not be heard again", reason=f"{type(error).__name__}: {error}"
        )


def _hear(batches: dict[Any, Any], recent: Recent) -> None:
    now = datetime.now(UTC)
    for record in (record for records in batches.values() for record in records):
        try:
            recent.hear(believed(clients.decode_record(record), now, JobEvent))
        except InvalidMessage:
            continue  # counted where it is counted

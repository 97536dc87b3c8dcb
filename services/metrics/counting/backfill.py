"""Reads the end of the results topic again after a start, so that /api/jobs shows earlier jobs.

The table keeps the counters. Events of single jobs are in memory only, and come back this way.
"""

import asyncio
from datetime import UTC, datetime

from aiokafka.errors import KafkaError
from aiokafka.structs import ConsumerRecord, TopicPartition

from services.metrics.counting.rules.timeline import RecentJobs
from services.metrics.counting.rules.validation import validate_message
from shared.domain.errors import InvalidMessage
from shared.domain.messages import JobEvent
from shared.kafka import clients
from shared.kafka.ranges import read_range
from shared.kafka.topics import RESULTS
from shared.observability.log import get_logger
from shared.runtime.settings import KafkaSettings

log = get_logger(__name__)

RECORDS = 2_000
"""Records read of each partition: about three hundred jobs."""
_BATCH = 200


async def restore_recent_jobs(
    settings: KafkaSettings, partitions: list[int], recent: RecentJobs
) -> None:
    """Add the last records of these partitions to `recent`.

    Without Kafka, the list starts empty.
    """
    name = clients.namespace(settings).topic(RESULTS)
    wanted = [TopicPartition(name, number) for number in partitions]
    try:
        async with clients.create_consumer(settings) as consumer:
            ends = await consumer.end_offsets(wanted)
            starts = {partition: max(end - RECORDS, 0) for partition, end in ends.items()}
            async for records in read_range(
                consumer, wanted, start=starts, ends=ends, max_records=_BATCH
            ):
                _add_events(records, recent)
                await asyncio.sleep(0)
    except (KafkaError, OSError, TimeoutError) as error:
        log.warning("recent jobs not restored", reason=f"{type(error).__name__}: {error}")


def _add_events(records: list[ConsumerRecord], recent: RecentJobs) -> None:
    now = datetime.now(UTC)
    for record in records:
        try:
            recent.add_event(validate_message(clients.decode_record(record), now, JobEvent))
        except InvalidMessage:
            continue  # the event counter has logged it

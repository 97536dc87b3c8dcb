"""Reads the dead-letter topic: all of it, or single records."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from aiokafka import AIOKafkaConsumer
from aiokafka.structs import ConsumerRecord, TopicPartition

from admin.dead_letters.rules import DeadLetterIndex
from shared.domain.errors import Unavailable
from shared.kafka import clients
from shared.kafka.ranges import read_range
from shared.kafka.topics import DEAD_LETTER
from shared.runtime.settings import KafkaSettings

_TIMEOUT_S = 30.0


class DeadLetterReader:
    """Reads outside of every consumer group, so reading changes nothing."""

    def __init__(self, consumer: AIOKafkaConsumer, partitions: list[TopicPartition]) -> None:
        self._consumer = consumer
        self._partitions = partitions

    async def read_index(self) -> DeadLetterIndex:
        """Read every letter and marker up to now. The index keeps the lengths of values only."""
        index = DeadLetterIndex()
        async for records in read_range(
            self._consumer, self._partitions, stall_timeout_s=_TIMEOUT_S
        ):
            for record in records:
                index.add_record(record)
        return index

    async def fetch_record(self, partition: int, offset: int) -> ConsumerRecord:
        """Read one record with its value. `Unavailable` when retention has deleted it."""
        place = TopicPartition(self._partitions[0].topic, partition)
        self._consumer.seek(place, offset)
        async with asyncio.timeout(_TIMEOUT_S):
            while not (batch := await self._consumer.getmany(place, timeout_ms=500, max_records=1)):
                pass
        record: ConsumerRecord = batch[place][0]
        if record.offset != offset:  # the consumer continues at the earliest record
            raise Unavailable(f"the record {partition}-{offset} is gone: its retention has ended")
        return record


@asynccontextmanager
async def open_dead_letters(settings: KafkaSettings) -> AsyncIterator[DeadLetterReader]:
    """Open a reader. `Unavailable` when the cluster has no dead-letter topic.

    The topic is looked up first, because a consumer's request for it could create it.
    """
    name = clients.namespace(settings).topic(DEAD_LETTER)
    admin = await clients.open_admin(settings)
    try:
        topics = {topic["topic"]: topic["partitions"] for topic in await admin.describe_topics()}
    finally:
        await admin.close()
    if name not in topics:
        raise Unavailable(
            f"Kafka at {settings.kafka_bootstrap_servers} has no topic {name}; a service that"
            " starts makes it, or check KAFKA_TOPIC_PREFIX"
        )
    partitions = [TopicPartition(name, partition["partition"]) for partition in topics[name]]
    consumer = clients.create_consumer(settings, fetch_max_wait_ms=50)
    try:
        await consumer.start()
        consumer.assign(partitions)
        yield DeadLetterReader(consumer, partitions)
    finally:
        await consumer.stop()

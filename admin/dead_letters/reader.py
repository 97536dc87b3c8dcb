"""The dead-letter topic as it lies on the broker: read from end to end, single records fetched."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from aiokafka import AIOKafkaConsumer
from aiokafka.structs import ConsumerRecord, TopicPartition

from admin.dead_letters.rules import DeadLetterIndex
from shared.domain.errors import Unavailable
from shared.kafka import clients
from shared.kafka.topics import DEAD_LETTER
from shared.runtime.settings import KafkaSettings

_PATIENCE_S = 30.0


class DeadLetterReader:
    """A reader outside of every group: whoever looks changes nothing."""

    def __init__(self, consumer: AIOKafkaConsumer, partitions: list[TopicPartition]) -> None:
        self._consumer = consumer
        self._partitions = partitions

    async def read(self) -> DeadLetterIndex:
        """Every letter and marker up to now. Of the values only the lengths are kept."""
        ledger = DeadLetterIndex()
        await self._consumer.seek_to_beginning(*self._partitions)
        ends = await self._consumer.end_offsets(self._partitions)
        for partition, end in ends.items():
            while await self._consumer.position(partition) < end:
                for record in await self._some(partition):
                    ledger.add(record)
        return ledger

    async def fetch(self, partition: int, offset: int) -> ConsumerRecord:
        """One record with its value."""
        place = TopicPartition(self._partitions[0].topic, partition)
        self._consumer.seek(place, offset)
        record = (await self._some(place, at_most=1))[0]
        if (
            record.offset != offset
        ):  # the reader goes to the earliest record when its own is no longer there
            raise Unavailable(f"the record {partition}-{offset} is gone: its retention has ended")
        return record

    async def _some(
        self, partition: TopicPartition, *, at_most: int | None = None
    ) -> list[ConsumerRecord]:
        """The next records of a partition that has some."""
        async with asyncio.timeout(_PATIENCE_S):
            while True:
                batch = await self._consumer.getmany(partition, timeout_ms=500, max_records=at_most)
                if batch:
                    return list(batch[partition])


@asynccontextmanager
async def open_dead_letters(settings: KafkaSettings) -> AsyncIterator[DeadLetterReader]:
    """`Unavailable` when this cluster has no such topic: asking a consumer for it might create it."""
    name = clients.namespace(settings).topic(DEAD_LETTER)
    admin = await clients.open_admin(settings)
    try:
        topics = {topic["topic"]: topic["partitions"] for topic in await admin.describe_topics()}
    finally:
        await admin.close()
    if name not in topics:
        raise Unavailable(
            f"Kafka at {settings.kafka_bootstrap_servers} has no topic {name}; a service that starts makes it,"
            " or check KAFKA_TOPIC_PREFIX"
        )
    partitions = [TopicPartition(name, partition["partition"]) for partition in topics[name]]
    consumer = clients.create_consumer(settings, fetch_max_wait_ms=50)
    try:
        await consumer.start()
        consumer.assign(partitions)
        yield DeadLetterReader(consumer, partitions)
    finally:
        await consumer.stop()

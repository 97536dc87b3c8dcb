"""Many records at once: put into one batch a partition by us, where aiokafka would look at each by itself.

A `send` of aiokafka's looks the partitions up, makes a future and calls back for every record, which costs more than
to decide and encode it. What it promises holds here too: the order within a partition, and the partition of a key.
"""

import asyncio
from collections.abc import Iterable, Sequence
from functools import lru_cache
from typing import NamedTuple

from aiokafka import AIOKafkaProducer
from aiokafka.errors import MessageSizeTooLargeError
from aiokafka.partitioner import DefaultPartitioner, murmur2
from aiokafka.producer.message_accumulator import BatchBuilder
from aiokafka.record.default_records import DefaultRecordBatchBuilder
from aiokafka.structs import RecordMetadata, TopicPartition

PendingSend = asyncio.Future[RecordMetadata]

_size = DefaultRecordBatchBuilder.estimate_size_in_bytes


class BatchRecord(NamedTuple):
    topic: str
    """Its name on the cluster."""
    key: bytes
    value: bytes | None
    headers: Sequence[tuple[str, bytes]] = ()
    partition: int | None = None
    """None is the partition of the key."""


def partition_for_key(key: bytes | None, every: list[int], available: list[int]) -> int:
    """As aiokafka's own, and Java's: keys go where they always went. Stores come again and again, so their hash, which
    takes a good part of a send's time in Python, is remembered."""
    if key is None:
        return int(DefaultPartitioner()(key, every, available))
    return every[_murmur2(key) % len(every)]


@lru_cache(maxsize=20_000)
def _murmur2(key: bytes) -> int:
    return int(murmur2(key)) & 0x7FFFFFFF


async def send_batches(
    producer: AIOKafkaProducer, records: Iterable[BatchRecord], *, max_bytes: int
) -> list[PendingSend]:
    """Hand the records to the producer; a delivery is done when all in-sync replicas have its batch.

    Raises MessageSizeTooLargeError when a record is above `max_bytes`; some before it may have been handed over.
    """
    batches: dict[TopicPartition, BatchBuilder] = {}
    under_way: list[PendingSend] = []
    for record in records:
        if (size := _size(record.key, record.value, record.headers)) > max_bytes:
            raise MessageSizeTooLargeError(
                f"a record of {size} bytes, where {max_bytes} is the most"
            )
        place = await _place(producer, record)
        batch = batches.get(place)
        if batch is None or not _fits(batch, record):
            if batch is not None:
                under_way.append(
                    await producer.send_batch(batch, place.topic, partition=place.partition)
                )
            batch = batches[place] = producer.create_batch()
            _fits(batch, record)  # an empty batch takes any record
    for place, batch in batches.items():
        under_way.append(await producer.send_batch(batch, place.topic, partition=place.partition))
    return under_way


async def _place(producer: AIOKafkaProducer, record: BatchRecord) -> TopicPartition:
    if record.partition is not None:
        return TopicPartition(record.topic, record.partition)
    partitions = sorted(await producer.partitions_for(record.topic))
    return TopicPartition(record.topic, partition_for_key(record.key, partitions, partitions))


def _fits(batch: BatchBuilder, record: BatchRecord) -> bool:
    """Put it into the batch, if there is room."""
    said = batch.append(key=record.key, value=record.value, timestamp=None, headers=record.headers)
    return said is not None

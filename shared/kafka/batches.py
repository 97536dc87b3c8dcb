"""Sends many records at once, as one batch for each partition.

`send` of aiokafka looks up partitions, creates a future and runs a callback for every record, which
costs more than to decide on the record and to encode it. The guarantees are the same: order within
a partition, and the partition of a key.
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
    """The topic's name on the cluster."""
    key: bytes
    value: bytes | None
    headers: Sequence[tuple[str, bytes]] = ()
    partition: int | None = None
    """`None`: the partition of the key."""


def partition_for_key(key: bytes | None, every: list[int], available: list[int]) -> int:
    """The partition of a key, as aiokafka and Kafka's Java client choose it.

    Stores recur, so their hashes are cached: in Python the hash takes a large part of a send's
    time.
    """
    if key is None:
        return int(DefaultPartitioner()(key, every, available))
    return every[_murmur2(key) % len(every)]


@lru_cache(maxsize=20_000)
def _murmur2(key: bytes) -> int:
    return int(murmur2(key)) & 0x7FFFFFFF


async def send_batches(
    producer: AIOKafkaProducer, records: Iterable[BatchRecord], *, max_bytes: int
) -> list[PendingSend]:
    """Hand records to the producer. A send is complete when all in-sync replicas have its batch.

    MessageSizeTooLargeError when a record exceeds `max_bytes`; earlier records may have been sent.
    """
    batches: dict[TopicPartition, BatchBuilder] = {}
    sends: list[PendingSend] = []
    for record in records:
        if (size := _size(record.key, record.value, record.headers)) > max_bytes:
            raise MessageSizeTooLargeError(
                f"a record of {size} bytes, where {max_bytes} is the most"
            )
        target = await _find_partition(producer, record)
        batch = batches.get(target)
        if batch is None or not _append(batch, record):
            if batch is not None:
                sends.append(
                    await producer.send_batch(batch, target.topic, partition=target.partition)
                )
            batch = batches[target] = producer.create_batch()
            _append(batch, record)  # an empty batch accepts any record
    for target, batch in batches.items():
        sends.append(await producer.send_batch(batch, target.topic, partition=target.partition))
    return sends


async def _find_partition(producer: AIOKafkaProducer, record: BatchRecord) -> TopicPartition:
    if record.partition is not None:
        return TopicPartition(record.topic, record.partition)
    partitions = sorted(await producer.partitions_for(record.topic))
    return TopicPartition(record.topic, partition_for_key(record.key, partitions, partitions))


def _append(batch: BatchBuilder, record: BatchRecord) -> bool:
    """Append a record to a batch. `False` when the batch is full."""
    appended = batch.append(
        key=record.key, value=record.value, timestamp=None, headers=record.headers
    )
    return appended is not None

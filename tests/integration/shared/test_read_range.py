"""Reading a fixed range of records on a real broker."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta

import pytest
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer
from aiokafka.admin import AIOKafkaAdminClient, RecordsToDelete
from aiokafka.structs import ConsumerRecord, TopicPartition

from shared.kafka.access import client_options
from shared.kafka.clients import create_consumer, namespace, topic_partitions
from shared.kafka.ranges import read_range, read_topic
from shared.kafka.topics import REQUESTS
from tests.support.backend import Backend


@asynccontextmanager
async def started_consumer(backend: Backend) -> AsyncIterator[AIOKafkaConsumer]:
    async with create_consumer(backend.settings, fetch_max_wait_ms=50) as consumer:
        yield consumer


async def publish_values(backend: Backend, *values: str, partition: int = 0) -> None:
    for value in values:
        await backend.publisher.publish_record(
            REQUESTS, key=b"k", value=value.encode(), headers=[], partition=partition
        )


def values_of(batches: list[list[ConsumerRecord]]) -> list[str]:
    return [record.value.decode() for batch in batches for record in batch]


def partition_of(backend: Backend, number: int) -> TopicPartition:
    return topic_partitions(backend.settings, REQUESTS)[number]


async def test_whole_topic_is_read_up_to_now(backend: Backend) -> None:
    assert [batch async for batch in read_topic(backend.settings, REQUESTS)] == []
    for partition in (0, 3, 7):
        await publish_values(backend, f"a{partition}", f"b{partition}", partition=partition)
    found = [batch async for batch in read_topic(backend.settings, REQUESTS, max_records=2)]
    assert all(1 <= len(batch) <= 2 for batch in found)
    assert sorted(values_of(found)) == ["a0", "a3", "a7", "b0", "b3", "b7"]
    for partition in (0, 3, 7):
        order = [value for value in values_of(found) if value.endswith(str(partition))]
        assert order == [f"a{partition}", f"b{partition}"]


async def test_range_begins_and_ends_at_given_offsets(backend: Backend) -> None:
    await publish_values(backend, *"abcdef")
    partition = partition_of(backend, 0)
    async with started_consumer(backend) as consumer:
        found = [
            r
            async for r in read_range(
                consumer, [partition], start={partition: 1}, ends={partition: 4}
            )
        ]
        assert values_of(found) == ["b", "c", "d"]
        assert await consumer.position(partition) == 4


async def test_range_begins_at_a_time(backend: Backend) -> None:
    await publish_values(backend, "before")
    await asyncio.sleep(0.05)
    since = datetime.now(UTC)
    await asyncio.sleep(0.05)
    await publish_values(backend, "after", partition=3)
    found = [r async for r in read_topic(backend.settings, REQUESTS, start=since)]
    assert values_of(found) == ["after"]
    later = datetime.now(UTC) + timedelta(minutes=1)
    assert [r async for r in read_topic(backend.settings, REQUESTS, start=later)] == []


async def test_records_after_the_range_are_left_to_the_next_poll(backend: Backend) -> None:
    await publish_values(backend, "a", "b")
    partitions = topic_partitions(backend.settings, REQUESTS)
    async with started_consumer(backend) as consumer:
        found = []
        async for batch in read_range(consumer, partitions, max_records=1):
            found.append(batch)
            if len(found) == 1:
                await publish_values(backend, "c", "d")
                await publish_values(backend, "e", partition=1)
        assert values_of(found) == ["a", "b"]
        later: list[ConsumerRecord] = []
        async with asyncio.timeout(20):
            while len(later) < 3:
                for batch in (await consumer.getmany(timeout_ms=500)).values():
                    later += batch
        assert sorted(record.value.decode() for record in later) == ["c", "d", "e"]


async def test_deleted_start_offset_becomes_the_earliest(backend: Backend) -> None:
    await publish_values(backend, "a", "b", "c")
    partition = partition_of(backend, 0)
    admin = AIOKafkaAdminClient(**client_options(backend.settings))
    await admin.start()
    try:
        await admin.delete_records({partition: RecordsToDelete(before_offset=2)})
    finally:
        await admin.close()
    async with started_consumer(backend) as consumer:
        found = [r async for r in read_range(consumer, [partition], start={partition: 0})]
        assert values_of(found) == ["c"]


async def test_transaction_markers_leave_gaps_that_are_skipped(backend: Backend) -> None:
    """The last offset of the range is a marker, which no consumer is given."""
    topic = namespace(backend.settings).topic(REQUESTS)
    producer = AIOKafkaProducer(
        **client_options(backend.settings), transactional_id=f"{topic}-writer"
    )
    await producer.start()
    try:
        for value in (b"a", b"b"):
            async with producer.transaction():
                await producer.send_and_wait(topic, value, partition=0)
    finally:
        await producer.stop()
    partition = partition_of(backend, 0)
    async with started_consumer(backend) as consumer:
        assert (await consumer.end_offsets([partition]))[partition] == 4
        found = [r async for r in read_range(consumer, [partition], stall_timeout_s=10)]
    assert values_of(found) == ["a", "b"]


async def test_range_without_last_records_ends_after_the_gap_timeout(
    backend: Backend,
) -> None:
    await publish_values(backend, "a")
    partition = partition_of(backend, 0)
    async with started_consumer(backend) as consumer:
        found = [
            r
            async for r in read_range(consumer, [partition], ends={partition: 9}, gap_timeout_s=0.3)
        ]
    assert values_of(found) == ["a"]


async def test_stalled_range_raises_timeout_error(backend: Backend) -> None:
    await publish_values(backend, "a")
    partition = partition_of(backend, 0)
    async with started_consumer(backend) as consumer:
        batches = read_range(consumer, [partition], ends={partition: 9}, stall_timeout_s=0.3)
        assert values_of([await anext(batches)]) == ["a"]
        with pytest.raises(TimeoutError, match=r"no record of .*blog\.requests for 0\.3 s"):
            await anext(batches)


async def test_assigned_consumer_is_read_again_and_stopped(backend: Backend) -> None:
    """An aiokafka consumer may hang in `stop` after it was assigned twice."""
    partitions = topic_partitions(backend.settings, REQUESTS)
    for _ in range(3):
        async with asyncio.timeout(20), started_consumer(backend) as consumer:
            consumer.assign(partitions)
            assert [r async for r in read_range(consumer, partitions)] == []
            assert [r async for r in read_range(consumer, partitions)] == []

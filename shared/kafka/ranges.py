"""Reads a fixed range of records: from a start to the end offsets at the time of the call.

A follower that catches up, a recovery, a backfill and the dead-letter commands all read this way.
"""

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from datetime import datetime
from typing import Any, TypeAlias

from aiokafka import AIOKafkaConsumer
from aiokafka.structs import ConsumerRecord, TopicPartition

from shared.kafka.clients import create_consumer, fetch_partitions
from shared.kafka.topics import Topic
from shared.runtime.settings import KafkaSettings

Offsets: TypeAlias = Mapping[TopicPartition, int]
RangeStart: TypeAlias = Offsets | datetime | None
"""Offsets by partition, or a time: its first record. `None` and missing partitions: the
beginning.
"""

STALL_TIMEOUT_S = 30.0
_POLL_S = 0.5


async def read_range(
    consumer: AIOKafkaConsumer,
    partitions: Sequence[TopicPartition],
    *,
    start: RangeStart = None,
    ends: Offsets | None = None,
    max_records: int | None = None,
    gap_timeout_s: float | None = None,
    stall_timeout_s: float = STALL_TIMEOUT_S,
) -> AsyncIterator[list[ConsumerRecord]]:
    """Yield the records of `partitions` from `start` up to `ends`, in batches, and then return.

    Assigns the partitions to `consumer`, which must be started and belong to no group, and leaves
    it at the end of the range: a caller that goes on polling misses no record. Start offsets that
    Kafka has deleted are replaced by the earliest offset. `ends` defaults to the end offsets at the
    time of the call. Batches are not empty, hold at most `max_records`, and keep the order within a
    partition.

    Offsets without a record, as compaction and transaction markers leave them, are skipped. If the
    last offsets of a compacted topic may have no record, set `gap_timeout_s`: the range ends after
    that many seconds without progress. Otherwise `TimeoutError` is raised after `stall_timeout_s`
    seconds without progress. Raises KafkaError as aiokafka does.
    """
    # Kafka answers requests of one connection in order. Offsets are fetched before `assign`, or
    # their request would wait behind a long poll.
    ends = ends if ends is not None else await consumer.end_offsets(partitions)
    positions = await _find_starts(consumer, partitions, start, ends)
    # aiokafka 0.14 may hang in `stop` after a second `assign`, so it is not repeated.
    if consumer.assignment() != set(partitions):
        consumer.assign(partitions)
    for partition, offset in positions.items():
        consumer.seek(partition, offset)
    loop = asyncio.get_running_loop()
    progressed_at = loop.time()
    poll_s = min(_POLL_S, gap_timeout_s or _POLL_S)
    try:
        while unfinished := _pause_finished(consumer, positions, ends):
            records, moved = await _poll(
                consumer, unfinished, ends, poll_s, max_records, stall_timeout_s
            )
            if records:
                yield records
            if moved != unfinished:
                positions |= moved
                progressed_at = loop.time()
            elif gap_timeout_s is not None and loop.time() - progressed_at >= gap_timeout_s:
                return
            elif loop.time() - progressed_at >= stall_timeout_s:
                raise _stalled(partitions, stall_timeout_s)
    finally:
        consumer.resume(*partitions)


async def read_topic(
    settings: KafkaSettings,
    topic: Topic,
    *,
    start: RangeStart = None,
    max_records: int | None = None,
    gap_timeout_s: float | None = None,
    stall_timeout_s: float = STALL_TIMEOUT_S,
    **consumer_options: Any,
) -> AsyncIterator[list[ConsumerRecord]]:
    """Yield all partitions' records up to now as `read_range` does, with a consumer of its own.

    `consumer_options` are aiokafka's. Close the iterator (`contextlib.aclosing`) if you leave it
    before its end.
    """
    async with create_consumer(settings, **consumer_options) as consumer:
        async for records in read_range(
            consumer,
            await fetch_partitions(settings, topic),
            start=start,
            max_records=max_records,
            gap_timeout_s=gap_timeout_s,
            stall_timeout_s=stall_timeout_s,
        ):
            yield records


async def _find_starts(
    consumer: AIOKafkaConsumer,
    partitions: Sequence[TopicPartition],
    start: RangeStart,
    ends: Offsets,
) -> dict[TopicPartition, int]:
    beginnings: dict[TopicPartition, int] = await consumer.beginning_offsets(partitions)
    if start is None:
        return beginnings
    if isinstance(start, datetime):
        at_ms = int(start.timestamp() * 1000)
        found = await consumer.offsets_for_times(dict.fromkeys(partitions, at_ms))
        start = {
            partition: first.offset if first else ends[partition]
            for partition, first in found.items()
        }
    return {
        partition: max(start.get(partition, beginning), beginning)
        for partition, beginning in beginnings.items()
    }


def _pause_finished(
    consumer: AIOKafkaConsumer, positions: Mapping[TopicPartition, int], ends: Offsets
) -> dict[TopicPartition, int]:
    """Stop fetching partitions that reached their ends. Return the positions of the others."""
    finished = [partition for partition, at in positions.items() if at >= ends[partition]]
    consumer.pause(*finished)
    return {partition: at for partition, at in positions.items() if at < ends[partition]}


async def _poll(
    consumer: AIOKafkaConsumer,
    unfinished: Mapping[TopicPartition, int],
    ends: Offsets,
    poll_s: float,
    max_records: int | None,
    stall_timeout_s: float,
) -> tuple[list[ConsumerRecord], dict[TopicPartition, int]]:
    """The next records within the range, and the position of each unfinished partition."""
    try:
        async with asyncio.timeout(poll_s + stall_timeout_s):
            batches = await consumer.getmany(
                *unfinished, timeout_ms=int(poll_s * 1000), max_records=max_records
            )
            positions = {partition: await consumer.position(partition) for partition in unfinished}
    except TimeoutError:
        raise _stalled([*unfinished], stall_timeout_s) from None
    for partition, batch in batches.items():
        if batch[-1].offset >= ends[partition]:
            consumer.seek(partition, ends[partition])
    records = [
        record
        for partition, batch in batches.items()
        for record in batch
        if record.offset < ends[partition]
    ]
    return records, positions


def _stalled(partitions: Sequence[TopicPartition], seconds: float) -> TimeoutError:
    topics = ", ".join(sorted({partition.topic for partition in partitions}))
    return TimeoutError(f"Kafka sent no record of {topics} for {seconds:g} s")

"""Watches what no event tells: how far each consumer group lags behind, and which dead letters are open."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

from aiokafka import AIOKafkaConsumer
from aiokafka.errors import KafkaError
from aiokafka.structs import ConsumerRecord, TopicPartition

from services.metrics.cluster.monitored_values import MonitoredValues
from shared.domain.errors import Unavailable
from shared.kafka import clients
from shared.kafka.topics import (
    DEAD_LETTER,
    GENERATION,
    GENERATOR_GROUP,
    METRICS_GROUP,
    REQUESTS,
    RESULTS,
    SCHEDULER_GROUP,
    Topic,
)
from shared.observability.log import get_logger
from shared.runtime.settings import KafkaSettings

log = get_logger(__name__)

_STAGES: dict[str, tuple[str, Topic]] = {
    "admit": (SCHEDULER_GROUP, REQUESTS),
    "generate": (GENERATOR_GROUP, GENERATION),
    "settle": (SCHEDULER_GROUP, RESULTS),
    "count": (METRICS_GROUP, RESULTS),
}
_PAUSE_S = 5.0
_AWAY = (KafkaError, OSError, TimeoutError, Unavailable)


async def keep_lag(settings: KafkaSettings, monitored: MonitoredValues, *, every_s: float) -> None:
    """Until cancelled."""
    async with clients.create_consumer(settings) as consumer:
        while True:
            await _unless_away(lambda: _look(settings, consumer, monitored), what="the lag")
            await asyncio.sleep(every_s)


async def _look(settings: KafkaSettings, consumer: AIOKafkaConsumer, monitored: MonitoredValues) -> None:
    names = clients.namespace(settings)
    committed = {
        group: await clients.fetch_group_offsets(settings, names.group(group))
        for group in sorted({group for group, _ in _STAGES.values()})
    }
    for stage, (group, topic) in _STAGES.items():
        partitions = [
            TopicPartition(names.topic(topic), number) for number in range(topic.partitions)
        ]
        begins = await consumer.beginning_offsets(partitions)
        ends = await consumer.end_offsets(partitions)
        known = {partition: offset.offset for partition, offset in committed[group].items()}
        monitored.lag[stage] = sum(
            max(ends[partition] - max(known.get(partition, 0), begins[partition]), 0)
            for partition in partitions
        )


async def follow_dead_letters(settings: KafkaSettings, monitored: MonitoredValues) -> None:
    """Until cancelled: read the whole topic, from its beginning, and count the letters that are open."""
    letters = OpenDeadLetters()
    name = clients.namespace(settings).topic(DEAD_LETTER)
    partitions = [TopicPartition(name, number) for number in range(DEAD_LETTER.partitions)]
    async with clients.create_consumer(settings) as consumer:
        consumer.assign(partitions)
        await consumer.seek_to_beginning()
        while True:
            await _unless_away(lambda: _read(consumer, letters, monitored), what="the dead letters")


async def _read(consumer: AIOKafkaConsumer, letters: "OpenDeadLetters", monitored: MonitoredValues) -> None:
    batches: dict[Any, list[ConsumerRecord]] = await consumer.getmany(timeout_ms=1_000)
    for record in (record for records in batches.values() for record in records):
        letters.add(record)
    monitored.dead_letters = len(letters)


class OpenDeadLetters:
    """A letter is open until an empty record after it names it as handled (`shared.admin` writes those)."""

    def __init__(self) -> None:
        self._open: set[str] = set()

    def __len__(self) -> int:
        return len(self._open)

    def add(self, record: ConsumerRecord) -> None:
        headers = dict(record.headers)
        handled = headers.get("dlq_handled")
        if record.value is None and handled and not headers.get("dlq_topic"):
            self._open.discard(handled.decode(errors="replace"))
        else:
            self._open.add(f"{record.partition}-{record.offset}")


async def _unless_away(work: Callable[[], Awaitable[None]], *, what: str) -> None:
    try:
        await work()
    except _AWAY as error:
        log.warning("could not look", what=what, reason=f"{type(error).__name__}: {error}")
        await asyncio.sleep(_PAUSE_S)

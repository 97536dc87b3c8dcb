"""Measures the lag of each consumer group and the number of open dead letters."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

from aiokafka import AIOKafkaConsumer
from aiokafka.errors import KafkaError
from aiokafka.structs import ConsumerRecord

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
_UNAVAILABLE_ERRORS = (KafkaError, OSError, TimeoutError, Unavailable)


async def monitor_lag(
    settings: KafkaSettings, monitored: MonitoredValues, *, every_s: float
) -> None:
    """Measure the lag of every stage until cancelled."""
    async with clients.create_consumer(settings) as consumer:
        while True:
            await _run_or_pause(
                lambda: _measure_lag(settings, consumer, monitored), operation="measure lag"
            )
            await asyncio.sleep(every_s)


async def _measure_lag(
    settings: KafkaSettings, consumer: AIOKafkaConsumer, monitored: MonitoredValues
) -> None:
    names = clients.namespace(settings)
    committed = {
        group: await clients.fetch_group_offsets(settings, names.group(group))
        for group in sorted({group for group, _ in _STAGES.values()})
    }
    for stage, (group, topic) in _STAGES.items():
        partitions = await clients.fetch_partitions(settings, topic)
        begins = await consumer.beginning_offsets(partitions)
        ends = await consumer.end_offsets(partitions)
        known = {partition: offset.offset for partition, offset in committed[group].items()}
        monitored.lag[stage] = sum(
            max(ends[partition] - max(known.get(partition, 0), begins[partition]), 0)
            for partition in partitions
        )


async def monitor_dead_letters(settings: KafkaSettings, monitored: MonitoredValues) -> None:
    """Read the whole dead letter queue and count the open letters, until cancelled."""
    letters = OpenDeadLetters()
    partitions = clients.topic_partitions(settings, DEAD_LETTER)
    async with clients.create_consumer(settings) as consumer:
        consumer.assign(partitions)
        await consumer.seek_to_beginning()
        while True:
            await _run_or_pause(
                lambda: _read_letters(consumer, letters, monitored), operation="count dead letters"
            )


async def _read_letters(
    consumer: AIOKafkaConsumer, letters: "OpenDeadLetters", monitored: MonitoredValues
) -> None:
    batches: dict[Any, list[ConsumerRecord]] = await consumer.getmany(timeout_ms=1_000)
    for record in (record for records in batches.values() for record in records):
        letters.add_record(record)
    monitored.dead_letters = len(letters)


class OpenDeadLetters:
    """A letter is open until a later empty record of `admin.dead_letters` marks it as handled."""

    def __init__(self) -> None:
        self._open: set[str] = set()

    def __len__(self) -> int:
        return len(self._open)

    def add_record(self, record: ConsumerRecord) -> None:
        headers = dict(record.headers)
        handled = headers.get("dlq_handled")
        if record.value is None and handled and not headers.get("dlq_topic"):
            self._open.discard(handled.decode(errors="replace"))
        else:
            self._open.add(f"{record.partition}-{record.offset}")


async def _run_or_pause(work: Callable[[], Awaitable[None]], *, operation: str) -> None:
    """Run `work`; log an unavailable Kafka and wait before the next try."""
    try:
        await work()
    except _UNAVAILABLE_ERRORS as error:
        log.warning(
            "dependency unavailable, retrying",
            dependency="Kafka",
            operation=operation,
            reason=f"{type(error).__name__}: {error}",
        )
        await asyncio.sleep(_PAUSE_S)

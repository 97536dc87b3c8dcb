"""The consumer during a drain: records that arrive then are left to the next owner."""

import asyncio
from types import SimpleNamespace
from typing import Any, cast

import pytest
from aiokafka.structs import TopicPartition

from services.generator.jobs.consumer import TaskConsumer
from services.generator.jobs.status import WorkerStatus
from shared.kafka import clients as kafka
from shared.runtime.settings import KafkaSettings

PARTITION = TopicPartition("blog.generation", 0)


class OneBatchClient:
    """A Kafka client that has lost its pause by a rebalance: it returns one batch."""

    def __init__(self) -> None:
        self.committed: list[dict[TopicPartition, tuple[int, str]]] = []

    def assignment(self) -> set[TopicPartition]:
        return {PARTITION}

    def pause(self, *partitions: TopicPartition) -> None:
        return

    async def getmany(self, *, timeout_ms: int) -> dict[TopicPartition, list[Any]]:
        if self.committed:
            return {}
        return {PARTITION: [SimpleNamespace(offset=7), SimpleNamespace(offset=8)]}

    async def commit(self, offsets: dict[TopicPartition, tuple[int, str]]) -> None:
        self.committed.append(offsets)


async def test_records_that_arrive_during_drain_are_not_committed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    client = OneBatchClient()
    monkeypatch.setattr(kafka, "create_consumer", lambda *_, **__: client)
    quota = SimpleNamespace(
        build_checkpoint=lambda: "a checkpoint",
        carried_calls=lambda: {"openai/requests": 3},
        own_share_until=lambda until: None,
    )
    consumer = TaskConsumer(
        name="w",
        settings=KafkaSettings(kafka_bootstrap_servers="127.0.0.1:1"),
        slots=5,
        dead_letter_limit=1,
        worker=cast(Any, None),
        status=WorkerStatus(),
        publisher=cast(Any, None),
        quota=cast(Any, quota),
    )
    consumer._quota_restored = True
    holding = asyncio.create_task(consumer.stay_in_group())
    while not client.committed:
        await asyncio.sleep(0)
    holding.cancel()
    assert client.committed == [{PARTITION: (7, "a checkpoint")}]
    assert not consumer._tasks

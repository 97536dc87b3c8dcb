"""The consumer while its worker drains: what it is given then is left to the next owner."""

import asyncio
from types import SimpleNamespace
from typing import Any, cast

import pytest
from aiokafka.structs import TopicPartition

from services.generator.jobs.consumer import TaskConsumer
from shared.kafka import clients as kafka
from shared.runtime.settings import KafkaSettings

HERE = TopicPartition("blog.generation", 0)


class OneBatch:
    """Kafka's client right after a rebalance has forgotten that everything was paused."""

    def __init__(self) -> None:
        self.committed: list[dict[TopicPartition, tuple[int, str]]] = []

    def assignment(self) -> set[TopicPartition]:
        return {HERE}

    def pause(self, *partitions: TopicPartition) -> None:
        return

    async def getmany(self, *, timeout_ms: int) -> dict[TopicPartition, list[Any]]:
        return (
            {HERE: [SimpleNamespace(offset=7), SimpleNamespace(offset=8)]}
            if not self.committed
            else {}
        )

    async def commit(self, offsets: dict[TopicPartition, tuple[int, str]]) -> None:
        self.committed.append(offsets)


async def test_what_comes_while_it_drains_is_not_committed(monkeypatch: pytest.MonkeyPatch) -> None:
    client = OneBatch()
    monkeypatch.setattr(kafka, "create_consumer", lambda *_, **__: client)
    budget = cast(Any, SimpleNamespace(note=lambda: "a note", lease_until=lambda until: None))
    consumer = TaskConsumer(
        name="w",
        settings=KafkaSettings(kafka_bootstrap_servers="127.0.0.1:1"),
        slots=5,
        dead_letter_limit=1,
        worker=cast(Any, None),
        publisher=cast(Any, None),
        budget=budget,
        owned=lambda partitions: None,
    )
    consumer._taken_over = True
    holding = asyncio.create_task(consumer.hold())
    while not client.committed:
        await asyncio.sleep(0)
    holding.cancel()
    assert client.committed == [{HERE: (7, "a note")}]
    assert not consumer._tasks

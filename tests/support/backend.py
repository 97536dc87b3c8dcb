"""Kafka and PostgreSQL as a test reads and writes them, and services that run for a block."""

import asyncio
import os
import signal
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from datetime import UTC, datetime
from typing import Any, Self
from uuid import UUID

import asyncpg
import orjson
import pytest
import uuid_utils.compat
from aiokafka import AIOKafkaConsumer
from aiokafka.structs import ConsumerRecord, TopicPartition

from shared.domain.job import SourceType
from shared.domain.messages import BlogRequested, GenerationTask, Message
from shared.kafka import clients
from shared.kafka.publisher import OutgoingMessage, Publisher
from shared.kafka.topics import GENERATION, REQUESTS, Topic
from shared.runtime.settings import KafkaSettings


def kafka_settings(bootstrap: str, prefix: str, **security: Any) -> KafkaSettings:
    return KafkaSettings(kafka_bootstrap_servers=bootstrap, kafka_topic_prefix=prefix, **security)


def make_request(store: str = "store-a", **changes: Any) -> BlogRequested:
    values: dict[str, Any] = {
        "id": uuid_utils.compat.uuid7(),
        "store": store,
        "source_type": SourceType.KEYWORD,
        "source_id": "tea",
        "created_at": datetime.now(UTC),
        "title": "Green tea",
    }
    return BlogRequested(**(values | changes))


@asynccontextmanager
async def running_service(
    service: Callable[[asyncio.Event], Awaitable[None]],
) -> AsyncIterator[asyncio.Event]:
    """Run a service in this loop and stop it at the end of the block.

    An error of the service fails the test. Yields the event that stops it.
    """
    stop = asyncio.Event()
    task = asyncio.ensure_future(service(stop))
    try:
        yield stop
    finally:
        stop.set()
        await asyncio.wait_for(task, 60)


class Backend:
    """A test's database and its topics on the broker."""

    def __init__(
        self, settings: KafkaSettings, publisher: Publisher, database: asyncpg.Connection
    ) -> None:
        self.settings = settings
        self.publisher = publisher
        self.database = database
        self._readers: dict[Topic, _TopicReader] = {}

    async def publish(
        self, topic: Topic, key: str, message: Message | None, partition: int | None = None
    ) -> None:
        await self.publisher.publish(
            OutgoingMessage(topic=topic, key=key, message=message, partition=partition)
        )

    async def submit(self, request: BlogRequested) -> None:
        """Publish a request as ingest does."""
        await self.publish(REQUESTS, request.store, request)

    async def insert_dispatched(self, request: BlogRequested) -> GenerationTask:
        """Insert a dispatched job and publish its task."""
        await self.database.execute(
            "INSERT INTO blog_generations (id, instance_id, source_type, source_id, request,"
            " created_at, forwarded_at, forwarded_partition, forward_count)"
            " VALUES ($1, $2, $3, $4, $5, $6, now(), 0, 1)",
            request.id,
            request.store,
            request.source_type,
            request.source_id,
            request,
            request.created_at,
        )
        return await self.send_task(request)

    async def send_task(self, request: BlogRequested) -> GenerationTask:
        task = GenerationTask(
            job=request.id, store=request.store, forward=1, epoch=1, forwarded_at=datetime.now(UTC)
        )
        await self.publish(
            GENERATION, str(request.id), task, partition=request.id.int % GENERATION.partitions
        )
        return task

    async def row(self, job: UUID) -> asyncpg.Record:
        row = await self.database.fetchrow("SELECT * FROM blog_generations WHERE id = $1", job)
        assert row is not None, f"no row for {job}"
        return row

    async def has_status(self, job: UUID, status: str) -> bool:
        return bool(
            await self.database.fetchval(
                "SELECT status = $2 FROM blog_generations WHERE id = $1", job, status
            )
        )

    async def read_records(self, topic: Topic) -> list[tuple[str | None, Message | bytes | None]]:
        """Return (key, message) of every record of a topic up to now.

        The message is raw bytes where the topic carries no message to decode. Each call reads on
        from the end of the call before it.
        """
        if topic not in self._readers:
            self._readers[topic] = await _TopicReader.open(self.settings, topic)
        return await self._readers[topic].read_to_end()

    async def close_readers(self) -> None:
        for reader in self._readers.values():
            await reader.close()


class _TopicReader:
    """One consumer of all partitions of a topic. It is paused between two reads."""

    def __init__(
        self, consumer: AIOKafkaConsumer, topic: Topic, partitions: list[TopicPartition]
    ) -> None:
        self._consumer = consumer
        self._topic = topic
        self._partitions = partitions
        self._records: list[tuple[str | None, Message | bytes | None]] = []
        self._reading = asyncio.Lock()

    @classmethod
    async def open(cls, settings: KafkaSettings, topic: Topic) -> Self:
        # A fetch that waits at the broker delays the next look at the end of the topic.
        consumer = clients.create_consumer(settings, fetch_max_wait_ms=10)
        await consumer.start()
        partitions = await clients.fetch_partitions(settings, topic)
        consumer.assign(partitions)
        consumer.pause(*partitions)
        await consumer.seek_to_beginning()
        return cls(consumer, topic, partitions)

    async def read_to_end(self) -> list[tuple[str | None, Message | bytes | None]]:
        async with self._reading:
            ends = await self._consumer.end_offsets(self._partitions)
            unread = await self._unread(ends)
            self._consumer.resume(*unread)
            while await self._unread(ends):
                for records in (await self._consumer.getmany(timeout_ms=500)).values():
                    self._records += [self._decode(record) for record in records]
            self._consumer.pause(*unread)
            return list(self._records)

    async def _unread(self, ends: dict[TopicPartition, int]) -> list[TopicPartition]:
        """The partitions with records before these offsets that were not read yet."""
        return [p for p, end in ends.items() if await self._consumer.position(p) < end]

    def _decode(self, record: ConsumerRecord) -> tuple[str | None, Message | bytes | None]:
        decodable = self._topic.messages and record.value
        message = clients.decode_record(record) if decodable else record.value
        return record.key.decode() if record.key else None, message

    async def close(self) -> None:
        await self._consumer.stop()


class LogCapture:
    """The text that was logged so far."""

    def __init__(self, capsys: pytest.CaptureFixture[str]) -> None:
        self._capsys = capsys
        self._text = ""

    def count(self, text: str) -> int:
        self._text += self._capsys.readouterr().out
        return self._text.count(text)

    async def has(self, text: str) -> bool:
        return self.count(text) > 0


@asynccontextmanager
async def database_unavailable(postgres: str, database: str, service: str) -> AsyncIterator[None]:
    """Refuse connections to the database and close those of the service for a block."""
    name = database.rsplit("/", 1)[1]
    connection = await asyncpg.connect(postgres)
    try:
        await connection.execute(f"ALTER DATABASE {name} ALLOW_CONNECTIONS false")
        await connection.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = $1"
            " AND starts_with(application_name, $2)",
            name,
            service,
        )
        yield
    finally:  # after a failed test too: its services can stop
        await connection.execute(f"ALTER DATABASE {name} ALLOW_CONNECTIONS true")
        await connection.close()


@asynccontextmanager
async def database_frozen(postgres: str) -> AsyncIterator[None]:
    """Stop all processes of the server for a block: it accepts connections and never answers."""
    connection = await asyncpg.connect(postgres)
    try:
        found = await connection.fetch(
            "SELECT split_part(pg_read_file('postmaster.pid'), E'\\n', 1)::int AS pid"
            " UNION ALL SELECT pid FROM pg_stat_activity"
        )
        try:
            for row in found:
                os.kill(row["pid"], signal.SIGSTOP)
            yield
        finally:
            for row in found:
                with suppress(ProcessLookupError):
                    os.kill(row["pid"], signal.SIGCONT)
    finally:
        await connection.close()


@asynccontextmanager
async def open_backend(
    bootstrap: str, prefix: str, dsn: str, **security: Any
) -> AsyncIterator[Backend]:
    """Create the topics and connect; `security` are further fields of `KafkaSettings`."""
    settings = kafka_settings(bootstrap, prefix, **security)
    await clients.ensure_topics(settings)
    publisher = Publisher(settings, source="test")
    await publisher.start()
    database = await asyncpg.connect(dsn)
    await database.set_type_codec("jsonb", schema="pg_catalog", encoder=_json, decoder=orjson.loads)
    backend = Backend(settings, publisher, database)
    try:
        yield backend
    finally:
        await backend.close_readers()
        await database.close()
        await publisher.stop()


async def delete_topics(settings: KafkaSettings) -> None:
    """Delete the topics of a test.

    Clients that ask the broker for all its topics would otherwise slow down with every test.
    """
    admin = await clients.open_admin(settings)
    try:
        prefix = settings.kafka_topic_prefix
        await admin.delete_topics([n for n in await admin.list_topics() if n.startswith(prefix)])
    finally:
        await admin.close()


def _json(value: Any) -> str:
    return orjson.dumps(value).decode()

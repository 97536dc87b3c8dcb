"""Kafka: clients with the defaults that this system needs, topics made as the table says, records read and written.

aiokafka's own defaults would lose records (`acks=1`, autocommit, `latest`): nobody builds a client but through here.
"""

import asyncio
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Self

from aiokafka import AIOKafkaConsumer, AIOKafkaProducer
from aiokafka.admin import AIOKafkaAdminClient, NewTopic
from aiokafka.errors import KafkaError, OutOfOrderSequenceNumber, TopicAlreadyExistsError, UnknownProducerId
from aiokafka.structs import ConsumerRecord, OffsetAndMetadata, TopicPartition

from shared import tracing
from shared.deadlines import Deadlines
from shared.envelope import Headers, decode, encode
from shared.errors import InvalidMessage, Unavailable
from shared.kafka_access import access, reachable, refusal
from shared.kafka_batches import Record, partition, send_all
from shared.log import get_logger
from shared.messages import Message
from shared.settings import KafkaSettings
from shared.topics import DEAD_LETTER, TOPICS, Topic

log = get_logger(__name__)

_POISONED = (OutOfOrderSequenceNumber, UnknownProducerId)
MAX_RECORD_BYTES = 1_000_000
"""Below the broker's limit: a record that the broker refuses would poison an idempotent producer."""
_BATCH_BYTES = 256 * 1024
"""Of one partition's records in one request. aiokafka's 16 KiB splits a batch of a hundred jobs into several, and each
waits for the one before it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Names:
    """The names on this cluster: every topic and group with the environment's prefix."""

    prefix: str

    def topic(self, topic: Topic) -> str:
        return self.prefix + topic.name

    def group(self, group: str) -> str:
        return self.prefix + group


def names(settings: KafkaSettings) -> Names:
    return Names(prefix=settings.kafka_topic_prefix)


async def open_admin(settings: KafkaSettings) -> AIOKafkaAdminClient:
    """An admin client, tried until the start deadline has passed; then `Unavailable` with one clear line."""
    loop = asyncio.get_running_loop()
    give_up = loop.time() + settings.startup_deadline_s
    told = False
    while True:
        admin = AIOKafkaAdminClient(**access(settings))
        try:
            await reachable(settings)
            await admin.start()
        except (KafkaError, OSError, TimeoutError) as error:
            await admin.close()
            if (why := refusal(settings, error)) is not None:
                raise Unavailable(why) from None
            if loop.time() >= give_up:
                raise Unavailable(
                    f"Kafka at {settings.kafka_bootstrap_servers} did not answer within"
                    f" {settings.startup_deadline_s:g} s ({str(error) or type(error).__name__});"
                    " start it, or check KAFKA_BOOTSTRAP_SERVERS and KAFKA_SECURITY_PROTOCOL"
                ) from None
            if not told:
                log.warning("waiting for Kafka", servers=settings.kafka_bootstrap_servers)
                told = True
            await asyncio.sleep(0.25)
        else:
            return admin


async def ensure_topics(settings: KafkaSettings) -> None:
    """Wait for Kafka and make the topics that are missing. Several processes may do so at once."""
    admin = await open_admin(settings)
    try:
        existing = set(await admin.list_topics())
        missing = [topic for topic in TOPICS if names(settings).topic(topic) not in existing]
        if missing:
            brokers = len((await admin.describe_cluster())["brokers"])
            replicas = settings.kafka_replication_factor or min(3, brokers)
            for topic in missing:
                await _create(admin, topic, name=names(settings).topic(topic), replicas=replicas)
            await until_listed(admin, {names(settings).topic(topic) for topic in TOPICS})
    finally:
        await admin.close()


async def group_offsets(settings: KafkaSettings, group: str) -> dict[TopicPartition, OffsetAndMetadata]:
    """What a group has committed: offsets, and what its members wrote beside them (a consumer keeps that to itself)."""
    admin = AIOKafkaAdminClient(**access(settings))
    try:
        await admin.start()
        found: dict[TopicPartition, OffsetAndMetadata] = await admin.list_consumer_group_offsets(group)
    finally:
        await admin.close()
    return {partition: offset for partition, offset in found.items() if offset.offset >= 0}


async def until_listed(admin: AIOKafkaAdminClient, wanted: set[str]) -> None:
    """A topic just made, by us or by another process, is unknown to clients for some milliseconds."""
    async with asyncio.timeout(30):
        while not wanted <= set(await admin.list_topics()):
            await asyncio.sleep(0.05)


async def _create(admin: AIOKafkaAdminClient, topic: Topic, *, name: str, replicas: int) -> None:
    configs = {"cleanup.policy": "compact" if topic.compacted else "delete"}
    if topic.retention_ms > 0:
        configs["retention.ms"] = str(topic.retention_ms)
    new = NewTopic(name=name, num_partitions=topic.partitions, replication_factor=replicas, topic_configs=configs)
    answer = await admin.create_topics([new])
    code, message = answer.topic_errors[0][1], answer.topic_errors[0][-1]
    if code not in (0, TopicAlreadyExistsError.errno):
        raise Unavailable(f"Kafka would not create the topic {new.name}: {message or code}")


def consumer(settings: KafkaSettings, *topics: str, **options: Any) -> AIOKafkaConsumer:
    """A consumer that commits only when told to and starts at the earliest record; `options` are aiokafka's."""
    chosen: dict[str, Any] = {
        "enable_auto_commit": False,
        "auto_offset_reset": "earliest",
        "session_timeout_ms": 10_000,
        "heartbeat_interval_ms": 3_000,
        "max_poll_interval_ms": 60_000,
        "rebalance_timeout_ms": 10_000,
        "fetch_max_wait_ms": 500,
    } | options
    return AIOKafkaConsumer(*topics, **access(settings), **chosen)


async def commit(
    consumer: AIOKafkaConsumer, offsets: Mapping[TopicPartition, int | tuple[int, str]], *, within_s: float
) -> None:
    """Commit offsets, each with what is to stand beside it or without. TimeoutError when Kafka does not take them in
    time: aiokafka would look for a coordinator for ever, and say nothing."""
    async with asyncio.timeout(within_s):
        await consumer.commit(dict(offsets))


def read(record: ConsumerRecord) -> Message:
    """The message in a record; `InvalidMessage` that says where it stands when it cannot be understood."""
    try:
        return decode(record.value, record.headers)
    except InvalidMessage as error:
        raise InvalidMessage(
            error.reason, topic=record.topic, partition=record.partition, offset=record.offset
        ) from None


def source(record: ConsumerRecord) -> str:
    """The process that wrote a record, by its own word; empty when it does not say."""
    return (dict(record.headers).get("ce_source") or b"").decode(errors="replace")


@dataclass(frozen=True, slots=True, kw_only=True)
class Outgoing:
    topic: Topic
    key: str
    message: Message | None
    """None is a tombstone: it removes the key from a compacted topic."""
    partition: int | None = None


class Publisher:
    """An idempotent producer with `acks=all` that is made anew when the broker has poisoned it."""

    def __init__(self, settings: KafkaSettings, *, source: str) -> None:
        self._settings = settings
        self._names = names(settings)
        self._source = source
        self._producer: AIOKafkaProducer | None = None
        self._renewal = asyncio.Lock()
        self._deadlines: Deadlines

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop()

    async def start(self) -> None:
        self._deadlines = Deadlines()
        self._producer = await self._open()

    async def stop(self, *, within_s: float = 10) -> None:
        """Deliver what is under way, for at most about `within_s` seconds, and close.

        What is given up was acknowledged to nobody.
        """
        if self._producer is None:
            return
        producer, self._producer = self._producer, None
        closing = asyncio.create_task(producer.stop(), name="the producer's end")
        await asyncio.wait({closing}, timeout=within_s)
        if not closing.done():
            log.warning("Kafka did not take what was under way: it is given up", seconds=within_s)
            # aiokafka waits for its sender, and that for requests and metadata, a minute and longer: end them all.
            producer._sender.sender_task.cancel()
            await producer.client.close()
            closing.cancel()
        await asyncio.wait({closing})
        if not closing.cancelled():
            closing.result()

    async def publish(self, outgoing: Outgoing, *, timeout: float = 30) -> None:
        """Send one message and wait until all in-sync replicas have it. Raises KafkaError or TimeoutError."""
        producer = self._current()
        with tracing.span(f"publish {outgoing.topic.name}", kind=tracing.PRODUCER):
            topic, key, value, headers, partition = self._record(outgoing, tracing.headers())
            try:
                with self._deadlines.within(timeout):
                    await (await producer.send(topic, value, key, partition, None, headers))
            except _POISONED:
                await self._renew(producer)
                raise

    async def publish_all(self, batch: Sequence[Outgoing], *, timeout: float = 30) -> None:
        """Send all and wait for all. On an error some may have gone out: send them again, readers drop repeats."""
        producer, trace = self._current(), tracing.headers()
        records = (self._record(outgoing, trace) for outgoing in batch)
        try:
            async with asyncio.timeout(timeout):
                await asyncio.gather(*await send_all(producer, records, max_bytes=MAX_RECORD_BYTES))
        except _POISONED:
            await self._renew(producer)
            raise

    async def publish_record(
        self, topic: Topic, *, key: bytes | None, value: bytes | None, headers: Headers, partition: int | None = None
    ) -> None:
        """Send a record as it is, whatever it holds, and wait until all in-sync replicas have it."""
        async with asyncio.timeout(30):
            await self._current().send_and_wait(
                self._names.topic(topic), value=value, key=key, headers=list(headers), partition=partition
            )

    async def dead_letter(self, record: ConsumerRecord, error: Exception, *, group: str) -> None:
        """Put a record that cannot be handled aside, as it came, with the reason and where it came from."""
        origin = {
            "dlq_topic": record.topic,
            "dlq_partition": record.partition,
            "dlq_offset": record.offset,
            "dlq_timestamp": record.timestamp,
            "dlq_group": group,
            "dlq_error": type(error).__name__,
            "dlq_reason": str(error),
            "dlq_at": datetime.now(UTC).isoformat(),
        }
        headers = [*record.headers, *((name, str(value).encode()) for name, value in origin.items())]
        nothing = record.key is None and record.value is None  # aiokafka sends no record like that
        await self._current().send_and_wait(
            self._names.topic(DEAD_LETTER), value=record.value, key=b"" if nothing else record.key, headers=headers
        )

    def _record(self, outgoing: Outgoing, trace: Mapping[str, str]) -> Record:
        value, headers = None, list[tuple[str, bytes]]()
        if outgoing.message is not None:
            value, headers = encode(outgoing.message, source=self._source, trace=trace)
        return Record(
            self._names.topic(outgoing.topic), outgoing.key.encode(), value, headers, partition=outgoing.partition
        )

    def _current(self) -> AIOKafkaProducer:
        if self._producer is None:
            raise RuntimeError("the publisher is not started")
        return self._producer

    async def _open(self) -> AIOKafkaProducer:
        producer = AIOKafkaProducer(
            **access(self._settings), client_id=self._source, acks="all", enable_idempotence=True,
            compression_type="lz4", max_request_size=MAX_RECORD_BYTES, max_batch_size=_BATCH_BYTES,
            partitioner=partition,
        )  # fmt: skip
        await producer.start()
        return producer

    async def _renew(self, poisoned: AIOKafkaProducer) -> None:
        async with self._renewal:
            renewed_meanwhile = self._producer is not poisoned
            if not renewed_meanwhile:
                log.warning("the broker rejected the producer's sequence: a new producer takes over")
                self._producer = await self._open()
                await poisoned.stop()


def topic_names(settings: KafkaSettings, topics: Iterable[Topic]) -> list[str]:
    return [names(settings).topic(topic) for topic in topics]

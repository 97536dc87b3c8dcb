"""Creates Kafka clients and topics with this system's defaults, and decodes records.

aiokafka's own defaults would lose records (`acks=1`, autocommit, `latest`), so every client is
created here.
"""

import asyncio
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from aiokafka import AIOKafkaConsumer
from aiokafka.admin import AIOKafkaAdminClient, NewPartitions, NewTopic
from aiokafka.errors import (
    InvalidPartitionsError,
    KafkaError,
    TopicAlreadyExistsError,
    for_code,
)
from aiokafka.structs import ConsumerRecord, OffsetAndMetadata, TopicPartition

from shared.domain.errors import InvalidMessage, Unavailable
from shared.domain.messages import Message
from shared.kafka.access import check_reachable, client_options, explain_refusal
from shared.kafka.envelope import decode_message
from shared.kafka.topics import GENERATION, TOPICS, Topic
from shared.observability.log import get_logger
from shared.runtime.settings import KafkaSettings

log = get_logger(__name__)

METADATA_MAX_AGE_MS = 30_000
"""Clients see new partitions of `blog.generation` after so long at the latest."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Namespace:
    """Names on the cluster: every topic and group has the environment's prefix."""

    prefix: str

    def topic(self, topic: Topic) -> str:
        return self.prefix + topic.name

    def group(self, group: str) -> str:
        return self.prefix + group


def namespace(settings: KafkaSettings) -> Namespace:
    return Namespace(prefix=settings.kafka_topic_prefix)


def topic_partitions(settings: KafkaSettings, topic: Topic) -> list[TopicPartition]:
    """Return all partitions of a topic whose number never changes, under its name on the cluster.

    For `GENERATION` call `fetch_partitions`.
    """
    name = namespace(settings).topic(topic)
    return [TopicPartition(name, number) for number in range(topic.partitions)]


async def fetch_partitions(settings: KafkaSettings, topic: Topic) -> list[TopicPartition]:
    """Return all partitions of a topic, as many as it has on the cluster now.

    Raises KafkaError.
    """
    if topic is not GENERATION:
        return topic_partitions(settings, topic)
    name = namespace(settings).topic(topic)
    admin = AIOKafkaAdminClient(**client_options(settings))
    try:
        await admin.start()
        count = await _count_partitions(admin, name)
    finally:
        await admin.close()
    return [TopicPartition(name, number) for number in range(count)]


def topic_names(settings: KafkaSettings, topics: Iterable[Topic]) -> list[str]:
    return [namespace(settings).topic(topic) for topic in topics]


async def open_admin(settings: KafkaSettings) -> AIOKafkaAdminClient:
    """Open an admin client. Retries until the start deadline, then raises `Unavailable`."""
    loop = asyncio.get_running_loop()
    give_up = loop.time() + settings.startup_deadline_s
    logged = False
    while True:
        admin = AIOKafkaAdminClient(**client_options(settings))
        try:
            await check_reachable(settings)
            await admin.start()
        except (KafkaError, OSError, TimeoutError) as error:
            await admin.close()
            if (refusal := explain_refusal(settings, error)) is not None:
                raise Unavailable(refusal) from None
            if loop.time() >= give_up:
                raise Unavailable(
                    f"Kafka at {settings.kafka_bootstrap_servers} did not answer within"
                    f" {settings.startup_deadline_s:g} s ({str(error) or type(error).__name__});"
                    " start it, or check KAFKA_BOOTSTRAP_SERVERS and KAFKA_SECURITY_PROTOCOL"
                ) from None
            if not logged:
                log.warning(
                    "dependency unavailable, retrying",
                    dependency="Kafka",
                    operation="connect",
                    servers=settings.kafka_bootstrap_servers,
                )
                logged = True
            await asyncio.sleep(0.25)
        else:
            return admin


async def ensure_topics(settings: KafkaSettings) -> None:
    """Wait for Kafka, create missing topics and add missing partitions to `blog.generation`.

    Several processes may do so at once.
    """
    admin = await open_admin(settings)
    try:
        existing = set(await admin.list_topics())
        missing = [topic for topic in TOPICS if namespace(settings).topic(topic) not in existing]
        if missing:
            brokers = len((await admin.describe_cluster())["brokers"])
            replicas = settings.kafka_replication_factor or min(3, brokers)
            for topic in missing:
                await _create_topic(
                    admin,
                    topic,
                    name=namespace(settings).topic(topic),
                    partitions=_initial_partitions(settings, topic),
                    replicas=replicas,
                )
            await wait_until_listed(admin, {namespace(settings).topic(topic) for topic in TOPICS})
        await _add_partitions(admin, settings)
    finally:
        await admin.close()


async def fetch_group_offsets(
    settings: KafkaSettings, group: str
) -> dict[TopicPartition, OffsetAndMetadata]:
    """The committed offsets of a group with their metadata, which a consumer does not expose."""
    admin = AIOKafkaAdminClient(**client_options(settings))
    try:
        await admin.start()
        found: dict[TopicPartition, OffsetAndMetadata] = await admin.list_consumer_group_offsets(
            group
        )
    finally:
        await admin.close()
    return {partition: offset for partition, offset in found.items() if offset.offset >= 0}


async def wait_until_listed(admin: AIOKafkaAdminClient, wanted: set[str]) -> None:
    """Wait until the topics are known. New topics are unknown to clients for some milliseconds."""
    async with asyncio.timeout(30):
        while not wanted <= set(await admin.list_topics()):
            await asyncio.sleep(0.05)


def _initial_partitions(settings: KafkaSettings, topic: Topic) -> int:
    return settings.generation_partitions if topic is GENERATION else topic.partitions


async def _add_partitions(admin: AIOKafkaAdminClient, settings: KafkaSettings) -> None:
    """Add partitions to `blog.generation` until it has GENERATION_PARTITIONS. Remove none."""
    name, wanted = namespace(settings).topic(GENERATION), settings.generation_partitions
    existing = await _count_partitions(admin, name)
    if existing >= wanted:
        return
    try:
        await admin.create_partitions({name: NewPartitions(wanted)})
    except InvalidPartitionsError:
        if await _count_partitions(admin, name) < wanted:  # else another process added them
            raise
    else:
        log.info("partitions added", topic=name, before=existing, now=wanted)


async def _count_partitions(admin: AIOKafkaAdminClient, name: str) -> int:
    (topic,) = await admin.describe_topics([name])
    if topic["error_code"]:
        raise for_code(topic["error_code"])(f"Kafka does not describe the topic {name}")
    return len(topic["partitions"])


async def _create_topic(
    admin: AIOKafkaAdminClient, topic: Topic, *, name: str, partitions: int, replicas: int
) -> None:
    configs = {"cleanup.policy": "compact" if topic.compacted else "delete"}
    if topic.retention_ms > 0:
        configs["retention.ms"] = str(topic.retention_ms)
    new = NewTopic(
        name=name,
        num_partitions=partitions,
        replication_factor=replicas,
        topic_configs=configs,
    )
    answer = await admin.create_topics([new])
    code, message = answer.topic_errors[0][1], answer.topic_errors[0][-1]
    if code not in (0, TopicAlreadyExistsError.errno):
        raise Unavailable(f"Kafka would not create the topic {new.name}: {message or code}")


def create_consumer(settings: KafkaSettings, *topics: str, **options: Any) -> AIOKafkaConsumer:
    """Create a consumer without autocommit that starts at the earliest record.

    `options` are aiokafka's.
    """
    chosen: dict[str, Any] = {
        "enable_auto_commit": False,
        "auto_offset_reset": "earliest",
        "session_timeout_ms": 10_000,
        "heartbeat_interval_ms": 3_000,
        "max_poll_interval_ms": 60_000,
        "rebalance_timeout_ms": 10_000,
        "fetch_max_wait_ms": 500,
        "metadata_max_age_ms": METADATA_MAX_AGE_MS,
    } | options
    return AIOKafkaConsumer(*topics, **client_options(settings), **chosen)


async def commit_offsets(
    consumer: AIOKafkaConsumer,
    offsets: Mapping[TopicPartition, int | tuple[int, str]],
    *,
    within_s: float,
) -> None:
    """Commit offsets, each with or without metadata. TimeoutError after `within_s` seconds.

    Without the timeout, aiokafka would look for a coordinator for ever and report nothing.
    """
    async with asyncio.timeout(within_s):
        await consumer.commit(dict(offsets))


def decode_record(record: ConsumerRecord) -> Message:
    """The message in a record. `InvalidMessage` has the record's position."""
    try:
        return decode_message(record.value, record.headers)
    except InvalidMessage as error:
        raise InvalidMessage(
            error.reason, topic=record.topic, partition=record.partition, offset=record.offset
        ) from None


def record_source(record: ConsumerRecord) -> str:
    """The process that wrote a record, from its header; empty without that header."""
    return (dict(record.headers).get("ce_source") or b"").decode(errors="replace")

"""The tables' generation: each rebuild begins a new one, with a changelog of its own and all events read again.

A process finds the generation by the changelog topics that exist, and keeps its store in a folder of that number: what
another process's disk still holds of an earlier one is never mistaken for the present.
"""

import re
import shutil
from collections.abc import Iterable
from pathlib import Path

from aiokafka.admin import AIOKafkaAdminClient, NewTopic
from aiokafka.errors import KafkaError, TopicAlreadyExistsError
from aiokafka.structs import TopicPartition

from services.metrics.counting.app import table_name
from services.metrics.settings import MetricsSettings
from shared.domain.errors import Unavailable
from shared.kafka import clients
from shared.kafka.topics import METRICS_GROUP, RESULTS
from shared.observability.log import get_logger
from shared.runtime.settings import KafkaSettings

log = get_logger(__name__)


async def current(settings: KafkaSettings) -> int:
    """The generation that counts; the first begins here when there is none."""
    admin = await clients.open_admin(settings)
    try:
        known = _generations(settings, await admin.list_topics())
        if known:
            return max(known)
        await _read_all_again(settings)
        await _create(admin, settings, 1)
        return 1
    finally:
        await admin.close()


async def begin_next(settings: KafkaSettings) -> int:
    """Begin a new generation: its number. `Unavailable` while a process counts, for it would go on with the old one."""
    admin = await clients.open_admin(settings)
    try:
        await _ensure_nobody_counts(admin, settings)
        known = _generations(settings, await admin.list_topics())
        await _read_all_again(settings)
        following = max(known, default=0) + 1
        await _create(admin, settings, following)
        await admin.delete_topics([_changelog(settings, number) for number in known])
        return following
    finally:
        await admin.close()


async def folder(settings: MetricsSettings, generation: int) -> Path:
    """This generation's folder; what earlier ones have left is removed. It bears the cluster's id: one that has lost
    its data begins with the first generation again, and a store that is ahead of its changelog would end the app."""
    root = settings.metrics_dir
    admin = await clients.open_admin(settings)
    try:
        cluster = (await admin.describe_cluster())["cluster_id"]
    finally:
        await admin.close()
    chosen = root / f"{generation}-{cluster}"
    chosen.mkdir(parents=True, exist_ok=True)
    for other in root.iterdir():
        if other != chosen and other.is_dir():
            shutil.rmtree(other)
    return chosen


def _changelog(settings: KafkaSettings, generation: int) -> str:
    return f"{clients.namespace(settings).group(METRICS_GROUP)}-{table_name(generation)}-changelog"


def _generations(settings: KafkaSettings, topics: Iterable[str]) -> list[int]:
    pattern = re.compile(
        re.escape(clients.namespace(settings).group(METRICS_GROUP)) + r"-shards-(\d+)-changelog"
    )
    return [int(found[1]) for name in topics if (found := pattern.fullmatch(name))]


async def _create(admin: AIOKafkaAdminClient, settings: KafkaSettings, generation: int) -> None:
    """Faust would make it with one replica, and an agent that meets it before that ends."""
    name = _changelog(settings, generation)
    brokers = len((await admin.describe_cluster())["brokers"])
    configs = {
        "cleanup.policy": "compact",
        "segment.ms": "3600000",
        "min.cleanable.dirty.ratio": "0.2",
    }
    answer = await admin.create_topics(
        [
            NewTopic(
                name=name,
                num_partitions=RESULTS.partitions,
                topic_configs=configs,
                replication_factor=settings.kafka_replication_factor or min(3, brokers),
            )
        ]
    )
    code, message = answer.topic_errors[0][1], answer.topic_errors[0][-1]
    if code not in (0, TopicAlreadyExistsError.errno):
        raise Unavailable(f"Kafka would not create the topic {name}: {message or code}")
    await clients.wait_until_listed(admin, {name})


async def _ensure_nobody_counts(admin: AIOKafkaAdminClient, settings: KafkaSettings) -> None:
    group = clients.namespace(settings).group(METRICS_GROUP)
    (described,) = (await admin.describe_consumer_groups([group]))[0].groups
    members = described[5]
    if members:
        raise Unavailable(
            f"processes that count at the moment: {len(members)}; stop them first, then rebuild (a process that was"
            " killed is a member for another 15 seconds)"
        )


async def _read_all_again(settings: KafkaSettings) -> None:
    """Set the group back to the first event that Kafka still has."""
    names = clients.namespace(settings)
    partitions = [
        TopicPartition(names.topic(RESULTS), number) for number in range(RESULTS.partitions)
    ]
    async with clients.create_consumer(settings, group_id=names.group(METRICS_GROUP)) as consumer:
        consumer.assign(partitions)
        try:
            await clients.commit_offsets(
                consumer, await consumer.beginning_offsets(partitions), within_s=20
            )
        except KafkaError as error:  # another process begins at the same time, and has done it
            log.info(
                "the group's offsets are left as they are",
                reason=f"{type(error).__name__}: {error}",
            )

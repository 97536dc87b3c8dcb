"""Table generations: each rebuild creates one with a new changelog, and reads all events.

A process finds the current generation by the existing changelog topics and keeps its files in a
folder with that number. So files of an earlier generation on another process's disk are never used.
"""

import re
import shutil
from collections.abc import Iterable
from pathlib import Path

from aiokafka.admin import AIOKafkaAdminClient, NewTopic
from aiokafka.errors import KafkaError, TopicAlreadyExistsError
from aiokafka.structs import TopicPartition

from services.metrics.counting.event_counter import table_name
from services.metrics.settings import MetricsSettings
from shared.domain.errors import Unavailable
from shared.kafka import clients
from shared.kafka.topics import METRICS_GROUP, RESULTS
from shared.observability.log import get_logger
from shared.runtime.settings import KafkaSettings

log = get_logger(__name__)


async def current(settings: KafkaSettings) -> int:
    """Return the current generation. Creates the first one when there is none."""
    admin = await clients.open_admin(settings)
    try:
        known = _generations(settings, await admin.list_topics())
        if known:
            return max(known)
        await _rewind_group(settings)
        await _create_changelog(admin, settings, 1)
        return 1
    finally:
        await admin.close()


async def create_next(settings: KafkaSettings) -> int:
    """Create a new generation and return its number.

    Raises `Unavailable` while a metrics process runs, because it would continue with the old
    generation.
    """
    admin = await clients.open_admin(settings)
    try:
        await _ensure_group_is_empty(admin, settings)
        known = _generations(settings, await admin.list_topics())
        await _rewind_group(settings)
        new = max(known, default=0) + 1
        await _create_changelog(admin, settings, new)
        await admin.delete_topics([_changelog(settings, number) for number in known])
        return new
    finally:
        await admin.close()


async def prepare_folder(settings: MetricsSettings, generation: int) -> Path:
    """Create this generation's folder, and remove those of earlier generations.

    The folder's name includes the cluster's id: a cluster that lost its data starts with generation
    1 again, and Faust crashes when a store is ahead of its changelog.
    """
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


async def _create_changelog(
    admin: AIOKafkaAdminClient, settings: KafkaSettings, generation: int
) -> None:
    """Create the changelog topic.

    Faust would create it with one replica, and its agents crash until it exists.
    """
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


async def _ensure_group_is_empty(admin: AIOKafkaAdminClient, settings: KafkaSettings) -> None:
    group = clients.namespace(settings).group(METRICS_GROUP)
    (described,) = (await admin.describe_consumer_groups([group]))[0].groups
    members = described[5]
    if members:
        raise Unavailable(
            f"{len(members)} metrics processes are running: stop them first, then rebuild (a killed"
            " process stays a member of the group for another 15 seconds)"
        )


async def _rewind_group(settings: KafkaSettings) -> None:
    """Set the consumer group's offsets to the first events that Kafka still has."""
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
        except KafkaError as error:  # another process starts at the same time and has done it
            log.info(
                "group offsets unchanged",
                reason=f"{type(error).__name__}: {error}",
            )

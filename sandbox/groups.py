"""Consumer groups as the broker has them: members, their partitions, and how far behind each group is."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

from aiokafka import AIOKafkaConsumer
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.coordinator.protocol import ConsumerProtocolMemberAssignment
from aiokafka.errors import KafkaError

from shared.kafka_access import access
from shared.settings import KafkaSettings
from shared.topics import GENERATOR_GROUP, METRICS_GROUP, SCHEDULER_GROUP, WEBHOOKS_GROUP

GROUPS = (SCHEDULER_GROUP, GENERATOR_GROUP, METRICS_GROUP, WEBHOOKS_GROUP)


async def describe(bootstrap: str) -> dict[str, Any]:
    """{group: {"members": [{"member", "partitions": {topic: [n]}}], "lag": {topic: n}}}; empty when Kafka is away."""
    admin = AIOKafkaAdminClient(bootstrap_servers=bootstrap, request_timeout_ms=5_000)
    consumer = AIOKafkaConsumer(bootstrap_servers=bootstrap, enable_auto_commit=False)
    try:
        await admin.start()
        await consumer.start()
        members = await _members(admin, GROUPS)
        return {group: {"members": members[group], "lag": await _lag(admin, consumer, group)} for group in GROUPS}
    except (KafkaError, OSError):
        return {}
    finally:
        await consumer.stop()
        await admin.close()


async def members(settings: KafkaSettings, wanted: Sequence[str]) -> Mapping[str, list[dict[str, Any]]]:
    """The members of these groups and their partitions."""
    admin = AIOKafkaAdminClient(**access(settings), request_timeout_ms=5_000)
    try:
        await admin.start()
        return await _members(admin, wanted)
    finally:
        await admin.close()


async def _members(admin: AIOKafkaAdminClient, wanted: Sequence[str]) -> Mapping[str, list[dict[str, Any]]]:
    found: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for asked in wanted:  # one at a time: aiokafka 0.14 reads an answer about several groups wrongly
        for answer in await admin.describe_consumer_groups([asked]):
            for _, group, _, _, _, members, *_ in answer.groups:
                found[group] += [{"member": member[1], "partitions": _partitions(member[4])} for member in members]
    return found


def _partitions(assignment: bytes) -> dict[str, list[int]]:
    if not assignment:
        return {}
    decoded = ConsumerProtocolMemberAssignment.decode(assignment)
    return {topic: sorted(partitions) for topic, partitions in decoded.assignment}


async def _lag(admin: AIOKafkaAdminClient, consumer: AIOKafkaConsumer, group: str) -> dict[str, int]:
    """Records after the last commit, by topic."""
    committed = await admin.list_consumer_group_offsets(group)
    ends = await consumer.end_offsets(list(committed)) if committed else {}
    lag: dict[str, int] = defaultdict(int)
    for partition, position in committed.items():
        lag[partition.topic] += max(0, ends[partition] - position.offset)
    return dict(lag)

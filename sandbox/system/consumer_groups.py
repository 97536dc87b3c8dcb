"""Reads the consumer groups from the broker: members, their partitions, and the lag per topic."""

from collections import defaultdict
from typing import Any

from aiokafka import AIOKafkaConsumer
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.errors import KafkaError

from admin.consumer_groups import fetch_group_members_with
from shared.kafka.topics import GENERATOR_GROUP, METRICS_GROUP, SCHEDULER_GROUP, WEBHOOKS_GROUP

GROUPS = (SCHEDULER_GROUP, GENERATOR_GROUP, METRICS_GROUP, WEBHOOKS_GROUP)


async def describe_groups(bootstrap: str) -> dict[str, Any]:
    """Return `{group: {"members": [{"member", "partitions": {topic: [n]}}], "lag": {topic: n}}}`.

    Returns an empty dict while Kafka is unavailable.
    """
    admin = AIOKafkaAdminClient(bootstrap_servers=bootstrap, request_timeout_ms=5_000)
    consumer = AIOKafkaConsumer(bootstrap_servers=bootstrap, enable_auto_commit=False)
    try:
        await admin.start()
        await consumer.start()
        members = await fetch_group_members_with(admin, GROUPS)
        return {
            group: {"members": members[group], "lag": await _lag(admin, consumer, group)}
            for group in GROUPS
        }
    except (KafkaError, OSError):
        return {}
    finally:
        await consumer.stop()
        await admin.close()


async def _lag(
    admin: AIOKafkaAdminClient, consumer: AIOKafkaConsumer, group: str
) -> dict[str, int]:
    """Return the number of records after the last commit, per topic."""
    committed = await admin.list_consumer_group_offsets(group)
    ends = await consumer.end_offsets(list(committed)) if committed else {}
    lag: dict[str, int] = defaultdict(int)
    for partition, position in committed.items():
        lag[partition.topic] += max(0, ends[partition] - position.offset)
    return dict(lag)

"""Who is in a consumer group, as the broker has it."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.coordinator.protocol import ConsumerProtocolMemberAssignment

from shared.kafka.access import client_options
from shared.runtime.settings import KafkaSettings


async def fetch_group_members(
    settings: KafkaSettings, wanted: Sequence[str]
) -> Mapping[str, list[dict[str, Any]]]:
    """The members of these groups and their partitions."""
    admin = AIOKafkaAdminClient(**client_options(settings), request_timeout_ms=5_000)
    try:
        await admin.start()
        return await fetch_group_members_with(admin, wanted)
    finally:
        await admin.close()


async def fetch_group_members_with(
    admin: AIOKafkaAdminClient, wanted: Sequence[str]
) -> Mapping[str, list[dict[str, Any]]]:
    """The same, asked of a client that is open."""
    found: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for (
        asked
    ) in wanted:  # one at a time: aiokafka 0.14 reads an answer about several groups wrongly
        for answer in await admin.describe_consumer_groups([asked]):
            for _, group, _, _, _, members, *_ in answer.groups:
                found[group] += [
                    {"member": member[1], "partitions": _partitions(member[4])}
                    for member in members
                ]
    return found


def _partitions(assignment: bytes) -> dict[str, list[int]]:
    if not assignment:
        return {}
    decoded = ConsumerProtocolMemberAssignment.decode(assignment)
    return {topic: sorted(partitions) for topic, partitions in decoded.assignment}

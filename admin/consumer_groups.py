"""Lists the members of consumer groups, as the broker knows them."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.coordinator.protocol import ConsumerProtocolMemberAssignment

from shared.kafka.access import client_options
from shared.runtime.settings import KafkaSettings

GroupMembers = Mapping[str, list[dict[str, Any]]]


async def fetch_group_members(settings: KafkaSettings, groups: Sequence[str]) -> GroupMembers:
    """The members of these groups, each with its partitions by topic."""
    admin = AIOKafkaAdminClient(**client_options(settings), request_timeout_ms=5_000)
    try:
        await admin.start()
        return await fetch_group_members_with(admin, groups)
    finally:
        await admin.close()


async def fetch_group_members_with(
    admin: AIOKafkaAdminClient, groups: Sequence[str]
) -> GroupMembers:
    """The same as `fetch_group_members`, with a client that is already started."""
    found: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for name in groups:  # one at a time: aiokafka 0.14 misreads an answer about several groups
        for answer in await admin.describe_consumer_groups([name]):
            for _, group, _, _, _, members, *_ in answer.groups:
                found[group] += [
                    {"member": member[1], "partitions": _decode_partitions(member[4])}
                    for member in members
                ]
    return found


def _decode_partitions(assignment: bytes) -> dict[str, list[int]]:
    if not assignment:
        return {}
    decoded = ConsumerProtocolMemberAssignment.decode(assignment)
    return {topic: sorted(partitions) for topic, partitions in decoded.assignment}

"""Leader election: an assignor that gives every partition to one group member and keeps it there.

Kafka's group protocol does the rest: it detects a dead leader and refuses the offset commits of a
deposed one.
"""

import struct
import time
from collections.abc import Iterable, Mapping

from aiokafka.cluster import ClusterMetadata
from aiokafka.coordinator.assignors.abstract import AbstractPartitionAssignor
from aiokafka.coordinator.protocol import (
    ConsumerProtocolMemberAssignment,
    ConsumerProtocolMemberMetadata,
)

_VERSION = 0
_NEVER = float("inf")


class LeadershipClaim:
    """Since when this process leads (seconds since the epoch).

    Every rebalance sends it to the group.
    """

    def __init__(self) -> None:
        self.since = _NEVER

    def begin(self) -> None:
        self.since = min(self.since, time.time())

    def end(self) -> None:
        self.since = _NEVER


def choose_leader(members: Mapping[str, bytes]) -> str:
    """Return the member that leads longest according to its user data, else the first by name."""

    def rank(member: str) -> tuple[float, str]:
        claim = members[member]
        valid = len(claim) == struct.calcsize(">d")
        return struct.unpack(">d", claim)[0] if valid else _NEVER, member

    return min(members, key=rank)


def single_owner_assignor(claim: LeadershipClaim) -> type[AbstractPartitionAssignor]:
    """Return the assignor class of one process.

    aiokafka takes a class; its metadata carries the claim.
    """

    class SingleOwnerAssignor(AbstractPartitionAssignor):  # type: ignore[misc] # aiokafka ships no types
        name = "blog-single-owner"

        @classmethod
        def assign(
            cls, cluster: ClusterMetadata, members: Mapping[str, ConsumerProtocolMemberMetadata]
        ) -> dict[str, ConsumerProtocolMemberAssignment]:
            leader = choose_leader(
                {name: member.user_data or b"" for name, member in members.items()}
            )
            topics = sorted({topic for member in members.values() for topic in member.subscription})
            everything = [
                (topic, sorted(cluster.partitions_for_topic(topic) or ())) for topic in topics
            ]
            return {
                name: ConsumerProtocolMemberAssignment(
                    _VERSION, everything if name == leader else [], b""
                )
                for name in members
            }

        @classmethod
        def metadata(cls, topics: Iterable[str]) -> ConsumerProtocolMemberMetadata:
            return ConsumerProtocolMemberMetadata(
                _VERSION, list(topics), struct.pack(">d", claim.since)
            )

        @classmethod
        def on_assignment(cls, assignment: ConsumerProtocolMemberAssignment) -> None:
            return

    return SingleOwnerAssignor

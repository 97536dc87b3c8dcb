"""The election: an assignor that gives every partition to one member of the group, and keeps it with whom it is.

Kafka's group protocol then does the rest: it notices a dead leader, and offset commits of a deposed one are refused.
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
    """Since when this process has been the owner; it tells the group so at every rebalance."""

    def __init__(self) -> None:
        self.since = _NEVER

    def begin(self) -> None:
        self.since = min(self.since, time.time())

    def end(self) -> None:
        self.since = _NEVER


def choose_leader(members: Mapping[str, bytes]) -> str:
    """Which member gets everything: the one that has owned it for longest, else the first by name."""

    def rank(member: str) -> tuple[float, str]:
        said = members[member]
        return (
            struct.unpack(">d", said)[0] if len(said) == struct.calcsize(">d") else _NEVER,
            member,
        )

    return min(members, key=rank)


def single_owner_assignor(tenure: LeadershipClaim) -> type[AbstractPartitionAssignor]:
    """The assignor's class for one process: aiokafka wants a class, and what it tells the group is the tenure's."""

    class SingleOwnerAssignor(AbstractPartitionAssignor):  # type: ignore[misc] # aiokafka ships no types
        name = "blog-single-owner"

        @classmethod
        def assign(
            cls, cluster: ClusterMetadata, members: Mapping[str, ConsumerProtocolMemberMetadata]
        ) -> dict[str, ConsumerProtocolMemberAssignment]:
            owner = choose_leader({name: member.user_data or b"" for name, member in members.items()})
            topics = sorted({topic for member in members.values() for topic in member.subscription})
            everything = [
                (topic, sorted(cluster.partitions_for_topic(topic) or ())) for topic in topics
            ]
            return {
                name: ConsumerProtocolMemberAssignment(
                    _VERSION, everything if name == owner else [], b""
                )
                for name in members
            }

        @classmethod
        def metadata(cls, topics: Iterable[str]) -> ConsumerProtocolMemberMetadata:
            return ConsumerProtocolMemberMetadata(
                _VERSION, list(topics), struct.pack(">d", tenure.since)
            )

        @classmethod
        def on_assignment(cls, assignment: ConsumerProtocolMemberAssignment) -> None:
            return

    return SingleOwnerAssignor

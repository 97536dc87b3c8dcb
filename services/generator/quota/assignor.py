"""Kafka's range assignor, which also tells all workers one quota layout.

Every worker sends the calls that its limits carry. The worker that assigns the partitions takes the
smallest counts and the number of partitions that it assigns, and sends both to all. So no two
workers of one group generation divide a limit differently, even while partitions are added or a
limit is changed.
"""

from collections.abc import Iterable, Mapping

from aiokafka.cluster import ClusterMetadata
from aiokafka.coordinator.assignors.range import RangePartitionAssignor
from aiokafka.coordinator.protocol import (
    ConsumerProtocolMemberAssignment,
    ConsumerProtocolMemberMetadata,
)
from pydantic import TypeAdapter, ValidationError

from shared.domain.quota_layout import QuotaLayout, smallest_calls
from shared.kafka.topics import GENERATION

_CALLS = TypeAdapter(dict[str, int])
_LAYOUT = TypeAdapter(QuotaLayout)
_FORMER_LAYOUT = QuotaLayout(partitions=GENERATION.partitions)
"""The layout of workers of version 0.1: every partition carries every limit."""


class QuotaAgreement:
    """What this worker proposes (`calls`), and what its group has agreed on (`layout`)."""

    def __init__(self, calls: Mapping[str, int]) -> None:
        self.calls = calls
        self.layout = _FORMER_LAYOUT


def quota_assignor(agreement: QuotaAgreement) -> type[RangePartitionAssignor]:
    """Return the assignor class of one worker: aiokafka takes a class."""

    class QuotaAssignor(RangePartitionAssignor):  # type: ignore[misc] # aiokafka ships no types
        @classmethod
        def metadata(cls, topics: Iterable[str]) -> ConsumerProtocolMemberMetadata:
            proposal = _CALLS.dump_json(dict(agreement.calls))
            return ConsumerProtocolMemberMetadata(cls.version, list(topics), proposal)

        @classmethod
        def assign(
            cls, cluster: ClusterMetadata, members: Mapping[str, ConsumerProtocolMemberMetadata]
        ) -> dict[str, ConsumerProtocolMemberAssignment]:
            assigned = super().assign(cluster, members)
            layout = QuotaLayout(
                partitions=sum(map(_count_partitions, assigned.values())),
                calls=smallest_calls(
                    [_decode_calls(member.user_data) for member in members.values()]
                ),
            )
            return {
                name: ConsumerProtocolMemberAssignment(
                    cls.version, member.assignment, _LAYOUT.dump_json(layout)
                )
                for name, member in assigned.items()
            }

        @classmethod
        def on_assignment(cls, assignment: ConsumerProtocolMemberAssignment) -> None:
            agreement.layout = _decode_layout(assignment.user_data)

    return QuotaAssignor


def _count_partitions(member: ConsumerProtocolMemberAssignment) -> int:
    return sum(len(partitions) for _, partitions in member.assignment)


def _decode_calls(user_data: bytes | None) -> dict[str, int]:
    """Decode a member's proposal. A member of version 0.1 sends none."""
    try:
        return _CALLS.validate_json(user_data or b"")
    except ValidationError:
        return {}


def _decode_layout(user_data: bytes | None) -> QuotaLayout:
    """Decode the layout. A member of version 0.1 that assigns the partitions sends none."""
    try:
        return _LAYOUT.validate_json(user_data or b"")
    except ValidationError:
        return _FORMER_LAYOUT

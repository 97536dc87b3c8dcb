"""The assignor: all workers of a group generation divide the limits over the same partitions."""

from aiokafka.coordinator.protocol import (
    ConsumerProtocolMemberAssignment,
    ConsumerProtocolMemberMetadata,
)

from services.generator.quota.assignor import QuotaAgreement, quota_assignor
from shared.domain.quota_layout import QuotaLayout

TOPIC = "blog.generation"


class Cluster:
    """The metadata of one topic."""

    def __init__(self, partitions: int) -> None:
        self._partitions = partitions

    def partitions_for_topic(self, topic: str) -> set[int]:
        return set(range(self._partitions))


def assign(
    members: dict[str, QuotaAgreement], partitions: int
) -> dict[str, ConsumerProtocolMemberAssignment]:
    """Let the first member assign, and tell every member its part, as Kafka does."""
    assignors = {name: quota_assignor(agreement) for name, agreement in members.items()}
    metadata = {name: assignor.metadata([TOPIC]) for name, assignor in assignors.items()}
    assigned: dict[str, ConsumerProtocolMemberAssignment] = assignors[min(members)].assign(
        Cluster(partitions), metadata
    )
    for name, assignor in assignors.items():
        decoded = ConsumerProtocolMemberAssignment.decode(assigned[name].encode())
        assignor.on_assignment(decoded)
    return assigned


def owned(assignment: ConsumerProtocolMemberAssignment) -> list[int]:
    return [partition for _, partitions in assignment.assignment for partition in partitions]


def test_members_agree_on_partitions_and_smallest_limit() -> None:
    members = {"a": QuotaAgreement({"tokens": 9}), "b": QuotaAgreement({"tokens": 4, "reads": 7})}
    assigned = assign(members, partitions=48)
    assert [owned(assigned[name]) for name in "ab"] == [list(range(24)), list(range(24, 48))]
    layouts = [agreement.layout for agreement in members.values()]
    assert layouts == [QuotaLayout(partitions=48, calls={"reads": 7, "tokens": 4})] * 2


def test_raised_number_of_partitions_reaches_all_members_at_once() -> None:
    members = {name: QuotaAgreement({"tokens": 9}) for name in "abc"}
    for partitions in (24, 30):
        assign(members, partitions)
        assert {agreement.layout.partitions for agreement in members.values()} == {partitions}


def test_member_without_a_proposal_changes_nothing() -> None:
    """Workers of version 0.1 use the plain range assignor under the same name."""
    agreement = QuotaAgreement({"tokens": 9})
    assignor = quota_assignor(agreement)
    former = ConsumerProtocolMemberMetadata(0, [TOPIC], b"")
    assigned = assignor.assign(Cluster(24), {"a": assignor.metadata([TOPIC]), "b": former})
    assignor.on_assignment(assigned["a"])
    assert assignor.name == "range"
    assert agreement.layout == QuotaLayout(partitions=24, calls={"tokens": 9})


def test_leader_without_a_layout_means_the_former_one() -> None:
    agreement = QuotaAgreement({"tokens": 9})
    former = ConsumerProtocolMemberAssignment(0, [(TOPIC, [0, 1])], b"")
    quota_assignor(agreement).on_assignment(former)
    assert agreement.layout == QuotaLayout(partitions=24)

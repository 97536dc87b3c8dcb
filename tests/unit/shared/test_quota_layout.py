"""The partitions that carry a quota: nested, evenly spread, each able to carry a call."""

from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.domain.quota_layout import (
    QuotaLayout,
    count_carried_calls,
    partition_order,
    smallest_calls,
    spendable_part,
)

partition_counts = st.integers(1, 512)


def worker_blocks(partitions: int, workers: int) -> Iterator[range]:
    """Yield the blocks of partitions that Kafka's range assignor gives to the workers."""
    size, larger = divmod(partitions, workers)
    start = 0
    for number in range(workers):
        end = start + size + (number < larger)
        yield range(start, end)
        start = end


@given(partition_counts)
def test_order_has_every_partition_once(partitions: int) -> None:
    assert sorted(partition_order(partitions)) == list(range(partitions))


@given(partition_counts, st.integers(0, 600), st.integers(0, 600))
def test_sets_of_two_limits_are_nested(partitions: int, few: int, many: int) -> None:
    few, many = sorted((few, many))
    layout = QuotaLayout(partitions=partitions, calls={"few": few, "many": many})
    small, large = (set(layout.carrying_partitions([name])) for name in ("few", "many"))
    assert small <= large
    assert len(small) == min(few, partitions)
    assert len(large) == min(many, partitions)


@given(partition_counts, st.integers(1, 24), st.data())
def test_quota_is_spread_evenly_over_the_workers(
    partitions: int, workers: int, data: st.DataObject
) -> None:
    """A block's carrying partitions differ from its fair part by a few, at any number of them."""
    calls = data.draw(st.integers(1, partitions))
    carrying = set(
        QuotaLayout(partitions=partitions, calls={"x": calls}).carrying_partitions(["x"])
    )
    tolerance = 1 + partitions.bit_length() / 2
    for block in worker_blocks(partitions, workers):
        fair = calls * len(block) / partitions
        assert abs(len(carrying.intersection(block)) - fair) <= tolerance


@pytest.mark.parametrize(
    ("workers", "shares"), [(1, [4]), (2, [2, 2]), (4, [1, 1, 1, 1]), (3, [2, 1, 1])]
)
def test_four_carrying_partitions_among_workers(workers: int, shares: list[int]) -> None:
    carrying = set(QuotaLayout(partitions=24, calls={"x": 4}).carrying_partitions(["x"]))
    blocks = worker_blocks(24, workers)
    assert [len(carrying.intersection(block)) for block in blocks] == shares


@given(
    partition_counts, st.integers(1, 24), st.floats(1, 1e7), st.floats(1, 1e5), st.integers(1, 9)
)
def test_shares_add_up_to_the_limit(
    partitions: int, workers: int, limit: float, largest: float, requests: int
) -> None:
    """All blocks together carry the spendable limit, and their debts fit in one minute's limit."""
    calls = {"tokens": count_carried_calls(limit, largest), "requests": requests}
    carrying = set(QuotaLayout(partitions=partitions, calls=calls).carrying_partitions(calls))
    if not carrying:
        assert limit < largest
        return
    parts = [
        len(carrying.intersection(block)) / len(carrying)
        for block in worker_blocks(partitions, workers)
    ]
    assert sum(parts) == pytest.approx(1)
    assert len(carrying) * largest <= limit * (1 + 1e-12)


def test_largest_debts_leave_a_reserve_for_late_calls() -> None:
    assert spendable_part(3, 1, 3) == pytest.approx(57.5 / 60)
    assert spendable_part(3, 1, 2) == 1
    assert spendable_part(200_000, 7_928, 24) == 1
    assert 57.5 / 60 < spendable_part(100, 1, 97) < 1


def test_small_accounts_carry_few_calls() -> None:
    assert count_carried_calls(40_000, 7_928) == 5
    assert count_carried_calls(7_928, 7_928) == 1
    assert count_carried_calls(7_927, 7_928) == 0


def test_unknown_limit_is_carried_by_every_partition() -> None:
    layout = QuotaLayout(partitions=24, calls={"tokens": 3})
    assert sorted(layout.carrying_partitions(["reads"])) == list(range(24))
    assert len(layout.carrying_partitions(["reads", "tokens"])) == 3


def test_group_agrees_on_the_smallest_counts() -> None:
    proposals = [{"tokens": 5, "requests": 3}, {}, {"tokens": 2, "reads": 9}]
    assert smallest_calls(proposals) == {"reads": 9, "requests": 3, "tokens": 2}

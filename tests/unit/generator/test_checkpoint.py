"""Checkpoints of the quota: all owners of a partition together keep within one bucket's limit."""

from dataclasses import dataclass, field, replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from services.generator.quota.checkpoint import (
    Checkpoint,
    decode_checkpoint,
    encode_checkpoint,
    find_layout_change,
    level_after_layout_change,
    restore_level,
)
from services.generator.quota.rules import RateLimiter

PARTITIONS = 4
RATE = 10.0
"""Tokens a second of one partition."""
BURST_S = 2.0
SKEW_S = 1.0
LARGEST = 120.0
NAME = "openai/tokens"


@dataclass
class SimulatedWorker:
    """A worker whose clock is `skew` seconds ahead of the true time."""

    name: str
    skew: float
    partitions: tuple[int, ...] = ()
    limiter: RateLimiter = field(
        default_factory=lambda: RateLimiter(
            {"tokens": PARTITIONS * RATE * 60}, burst_s=BURST_S, now=0
        )
    )
    turn: int = 0


@dataclass
class Simulation:
    """Workers, the checkpoints beside the offsets, and the recorded calls, with a manual clock."""

    owners: list[SimulatedWorker]
    now: float = 100.0
    checkpoints: dict[int, str] = field(default_factory=dict)
    calls: list[tuple[int, float, float]] = field(default_factory=list)
    """Partition, the caller's clock, tokens."""
    spent: list[tuple[float, float]] = field(default_factory=list)
    """True time, tokens."""

    def save_checkpoint(self, owner: SimulatedWorker) -> None:
        level = owner.limiter.level_of("tokens", self.now) / max(len(owner.partitions), 1)
        text = encode_checkpoint(
            Checkpoint(owner=owner.name, at=self.now + owner.skew, levels={NAME: level})
        )
        self.checkpoints.update(dict.fromkeys(owner.partitions, text))

    def call(self, owner: SimulatedWorker, tokens: float) -> None:
        owner.limiter.reserve({"tokens": tokens}, self.now)
        self.grant(owner)

    def grant(self, owner: SimulatedWorker) -> None:
        for reservation in owner.limiter.grant_ready(self.now):
            owner.turn += 1
            partition = owner.partitions[owner.turn % len(owner.partitions)]
            self.calls.append((partition, self.now + owner.skew, reservation.needs["tokens"]))
            self.spent.append((self.now, reservation.needs["tokens"]))

    def rebalance(self, split: list[int], crashed: frozenset[int]) -> None:
        """Give partition n to owner split[n]. A crashed owner saves no checkpoint and restarts."""
        for number, owner in enumerate(self.owners):
            if number in crashed:
                self.owners[number] = SimulatedWorker(name=owner.name + "'", skew=owner.skew)
            else:
                owner.limiter.pause_grants(self.now)
                self.save_checkpoint(owner)
        for number, owner in enumerate(self.owners):
            owner.partitions = tuple(
                p for p in range(PARTITIONS) if split[p] % len(self.owners) == number
            )
            level = sum(self.restore_level(owner, partition) for partition in owner.partitions)
            owner.limiter.assign_share(
                len(owner.partitions) / PARTITIONS, {"tokens": level}, self.now
            )
            self.grant(owner) if owner.partitions else None

    def restore_level(self, owner: SimulatedWorker, partition: int) -> float:
        saved = decode_checkpoint(self.checkpoints.get(partition, ""))
        since = saved.at if saved else 0.0
        spent = sum(tokens for where, at, tokens in self.calls if where == partition and at > since)
        return restore_level(
            saved,
            NAME,
            spent_since=spent,
            rate=RATE,
            burst_s=BURST_S,
            reader=owner.name,
            now=self.now + owner.skew,
            skew_s=SKEW_S,
        )


actions = st.lists(
    st.tuples(
        st.sampled_from(["call", "call", "call", "checkpoint", "rebalance", "crash"]),
        st.floats(0, 3),
        st.integers(0, 2),
        st.floats(1, LARGEST),
        st.lists(st.integers(0, 2), min_size=PARTITIONS, max_size=PARTITIONS),
    ),
    max_size=60,
)


def run_simulation(
    script: list[tuple[str, float, int, float, list[int]]], skews: list[float]
) -> Simulation:
    simulation = Simulation(
        [SimulatedWorker(name=f"w{number}", skew=skew) for number, skew in enumerate(skews)]
    )
    simulation.rebalance([0, 1, 2, 0], frozenset())
    for action, pause, number, tokens, split in script:
        simulation.now += pause
        owner = simulation.owners[number]
        if action == "call":
            simulation.call(owner, tokens)
        elif action == "checkpoint" and owner.partitions:
            simulation.save_checkpoint(owner)
        elif action in ("rebalance", "crash"):
            simulation.rebalance(split, frozenset({number}) if action == "crash" else frozenset())
    return simulation


@given(actions, st.lists(st.floats(-SKEW_S / 2, SKEW_S / 2), min_size=3, max_size=3))
@settings(max_examples=500, deadline=None)
def test_all_owners_stay_within_limit_and_burst(
    script: list[tuple[str, float, int, float, list[int]]], skews: list[float]
) -> None:
    """Holds through rebalances, crashes, pauses and clock skew.

    A call above the burst causes debt. Each owner may exceed the limit by one such call at a time,
    and the debt of a partition stays after a move.
    """
    spent = run_simulation(script, skews).spent
    for start in range(len(spent)):
        total = 0.0
        for at, tokens in spent[start:]:
            total += tokens
            bound = PARTITIONS * RATE * (at - spent[start][0] + BURST_S) + len(skews) * LARGEST
            assert total <= bound + 1e-6


def test_move_of_a_partition_costs_one_clock_skew_of_quota() -> None:
    """Partitions that move every two seconds still grant their rate, minus one skew a move."""
    simulation = Simulation(
        [SimulatedWorker(name="w0", skew=0.0), SimulatedWorker(name="w1", skew=0.0)]
    )
    simulation.rebalance([0, 0, 0, 0], frozenset())
    for second in range(60):
        simulation.now += 1
        owner = simulation.owners[second // 2 % 2]
        if second % 2 == 0:
            simulation.rebalance([second // 2 % 2] * PARTITIONS, frozenset())
        for _ in range(100):
            simulation.call(owner, 5)
    moves, granted = 30, sum(tokens for _, tokens in simulation.spent)
    assert granted >= PARTITIONS * RATE * (60 - moves * SKEW_S) - 5
    assert granted <= PARTITIONS * RATE * (60 + BURST_S)


def test_partition_that_keeps_its_owner_loses_no_quota() -> None:
    saved = Checkpoint(owner="w0", at=10.0, levels={NAME: 3.0})
    same = restore_level(
        saved, NAME, spent_since=0, rate=1, burst_s=9, reader="w0", now=12, skew_s=SKEW_S
    )
    other = restore_level(
        saved, NAME, spent_since=0, rate=1, burst_s=9, reader="w1", now=12, skew_s=SKEW_S
    )
    assert (same, other) == (5.0, 4.0)


def test_debt_of_a_crashed_owner_is_restored() -> None:
    saved = Checkpoint(owner="w0", at=10.0, levels={NAME: 2.0})
    level = restore_level(
        saved, NAME, spent_since=100, rate=1, burst_s=2, reader="w1", now=13, skew_s=SKEW_S
    )
    assert level == 2 - 100 + 2


@pytest.mark.parametrize(
    "text", ["", "later versions write something else", '{"owner": 1}', "[]", "null"]
)
def test_unreadable_checkpoint_counts_as_empty_bucket(text: str) -> None:
    assert decode_checkpoint(text) is None
    levels = [
        restore_level(None, NAME, spent_since=spent, rate=1, burst_s=2, reader="w", now=0, skew_s=1)
        for spent in (0, 60, 65)
    ]
    assert levels == [0, 0, -5]


def test_checkpoint_is_short_and_decodes_without_loss() -> None:
    saved = Checkpoint(
        owner="generator-host-4711",
        at=1_700_000_000.123,
        levels={NAME: -1234.5, "replicate/requests": 0.1},
    )
    assert decode_checkpoint(encode_checkpoint(saved)) == saved
    saved_with_layout = replace(saved, partitions=512, carrying={NAME: 5}, since=1_700_000_000.5)
    assert decode_checkpoint(encode_checkpoint(saved_with_layout)) == saved_with_layout
    assert len(encode_checkpoint(saved_with_layout)) < 400


def saved_layout(at: float, carrying: int, *, partitions: int = 24, since: float = 0) -> Checkpoint:
    return Checkpoint(
        owner="w",
        at=at,
        levels={},
        partitions=partitions,
        carrying={NAME: carrying},
        since=since,
    )


def test_checkpoint_of_version_0_1_has_the_layout_of_all_partitions() -> None:
    saved = decode_checkpoint('{"owner": "w", "at": 10, "levels": {"openai/tokens": 3}}')
    assert saved is not None
    assert saved.has_layout(NAME, 24, 24)
    assert not saved.has_layout(NAME, 48, 48)
    assert not saved.has_layout(NAME, 24, 3)


def test_layout_change_is_found_in_any_partition() -> None:
    group = [saved_layout(100, 3), saved_layout(105, 24, partitions=48), saved_layout(20, 5)]
    assert find_layout_change(group, NAME, partitions=24, carrying=3, now=200) == 120
    assert find_layout_change(group[:1], NAME, partitions=24, carrying=3, now=200) == 0
    assert find_layout_change([], NAME, partitions=24, carrying=3, now=200) == 0


def test_layout_change_stays_known_to_the_owners_of_new_partitions() -> None:
    """The first owner has replaced the old checkpoints before the second one reads them."""
    first = saved_layout(101, 3, since=100)
    assert find_layout_change([first], NAME, partitions=24, carrying=3, now=102) == 100


def test_quota_starts_a_minute_after_a_layout_change() -> None:
    early, late = (
        level_after_layout_change(100, rate=2, now=now, skew_s=SKEW_S) for now in (110, 170)
    )
    assert (early, late) == (-2 * 51, 0)

"""The budget on its way from owner to owner: whatever happens, all owners together keep within one bucket's bound."""

from dataclasses import dataclass, field

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from services.generator.quota import checkpoint
from services.generator.quota.checkpoint import Checkpoint
from services.generator.quota.rules import RateLimiter

PARTITIONS = 4
RATE = 10.0
"""Tokens a second of one partition."""
BURST_S = 2.0
SKEW_S = 1.0
LARGEST = 120.0
NAME = "openai/tokens"


@dataclass
class Owner:
    """A worker, by its own clock: `skew` ahead of the true time."""

    name: str
    skew: float
    partitions: tuple[int, ...] = ()
    limiter: RateLimiter = field(
        default_factory=lambda: RateLimiter({"tokens": PARTITIONS * RATE * 60}, burst_s=BURST_S, now=0)
    )
    turn: int = 0


@dataclass
class Fleet:
    """Workers, the notes beside the offsets, and the records of calls, under a clock that the test sets."""

    owners: list[Owner]
    now: float = 100.0
    notes: dict[int, str] = field(default_factory=dict)
    calls: list[tuple[int, float, float]] = field(default_factory=list)
    """Partition, the caller's clock, tokens."""
    spent: list[tuple[float, float]] = field(default_factory=list)
    """True time, tokens."""

    def note(self, owner: Owner) -> None:
        level = owner.limiter.level("tokens", self.now) / max(len(owner.partitions), 1)
        text = checkpoint.encode_checkpoint(
            Checkpoint(owner=owner.name, at=self.now + owner.skew, levels={NAME: level})
        )
        self.notes.update(dict.fromkeys(owner.partitions, text))

    def call(self, owner: Owner, tokens: float) -> None:
        owner.limiter.reserve({"tokens": tokens}, self.now)
        self.grant(owner)

    def grant(self, owner: Owner) -> None:
        for ticket in owner.limiter.grant(self.now):
            owner.turn += 1
            partition = owner.partitions[owner.turn % len(owner.partitions)]
            self.calls.append((partition, self.now + owner.skew, ticket.needs["tokens"]))
            self.spent.append((self.now, ticket.needs["tokens"]))

    def rebalance(self, split: list[int], crashed: frozenset[int]) -> None:
        """Partition n goes to owner split[n]. Who crashed wrote nothing down, and begins anew."""
        for number, owner in enumerate(self.owners):
            if number in crashed:
                self.owners[number] = Owner(name=owner.name + "'", skew=owner.skew)
            else:
                owner.limiter.pause(self.now)
                self.note(owner)
        for number, owner in enumerate(self.owners):
            owner.partitions = tuple(
                p for p in range(PARTITIONS) if split[p] % len(self.owners) == number
            )
            level = sum(self.brought(owner, partition) for partition in owner.partitions)
            owner.limiter.assign_share(len(owner.partitions) / PARTITIONS, {"tokens": level}, self.now)
            self.grant(owner) if owner.partitions else None

    def brought(self, owner: Owner, partition: int) -> float:
        note = checkpoint.decode_checkpoint(self.notes.get(partition, ""))
        since = note.at if note else 0.0
        spent = sum(tokens for where, at, tokens in self.calls if where == partition and at > since)
        return checkpoint.restore_level(
            note,
            NAME,
            spent_since=spent,
            rate=RATE,
            burst_s=BURST_S,
            reader=owner.name,
            now=self.now + owner.skew,
            skew_s=SKEW_S,
        )


happenings = st.lists(
    st.tuples(
        st.sampled_from(["call", "call", "call", "note", "rebalance", "crash"]),
        st.floats(0, 3),
        st.integers(0, 2),
        st.floats(1, LARGEST),
        st.lists(st.integers(0, 2), min_size=PARTITIONS, max_size=PARTITIONS),
    ),
    max_size=60,
)


def play(script: list[tuple[str, float, int, float, list[int]]], skews: list[float]) -> Fleet:
    fleet = Fleet([Owner(name=f"w{number}", skew=skew) for number, skew in enumerate(skews)])
    fleet.rebalance([0, 1, 2, 0], frozenset())
    for what, pause, which, tokens, split in script:
        fleet.now += pause
        owner = fleet.owners[which]
        if what == "call":
            fleet.call(owner, tokens)
        elif what == "note" and owner.partitions:
            fleet.note(owner)
        elif what in ("rebalance", "crash"):
            fleet.rebalance(split, frozenset({which}) if what == "crash" else frozenset())
    return fleet


@given(happenings, st.lists(st.floats(-SKEW_S / 2, SKEW_S / 2), min_size=3, max_size=3))
@settings(max_examples=500, deadline=None)
def test_what_all_owners_spend_in_any_window_is_the_limit_and_a_burst(
    script: list[tuple[str, float, int, float, list[int]]], skews: list[float]
) -> None:
    """Through rebalances, crashes, pauses and clocks that differ. A call over the burst runs into debt: each owner may
    have one such beyond the bound at a time, and after a move each partition's debt is still owed.
    """
    spent = play(script, skews).spent
    for start in range(len(spent)):
        total = 0.0
        for at, tokens in spent[start:]:
            total += tokens
            bound = PARTITIONS * RATE * (at - spent[start][0] + BURST_S) + len(skews) * LARGEST
            assert total <= bound + 1e-6


def test_none_of_the_budget_is_lost_for_longer_than_the_clocks_may_differ() -> None:
    """A partition that moves to and fro every two seconds still gives what it has, less one skew a move."""
    fleet = Fleet([Owner(name="w0", skew=0.0), Owner(name="w1", skew=0.0)])
    fleet.rebalance([0, 0, 0, 0], frozenset())
    for second in range(60):
        fleet.now += 1
        owner = fleet.owners[second // 2 % 2]
        if second % 2 == 0:
            fleet.rebalance([second // 2 % 2] * PARTITIONS, frozenset())
        for _ in range(100):
            fleet.call(owner, 5)
    moves, given_away = 30, sum(tokens for _, tokens in fleet.spent)
    assert given_away >= PARTITIONS * RATE * (60 - moves * SKEW_S) - 5
    assert given_away <= PARTITIONS * RATE * (60 + BURST_S)


def test_a_partition_that_stays_with_its_owner_loses_nothing() -> None:
    note = Checkpoint(owner="w0", at=10.0, levels={NAME: 3.0})
    same = checkpoint.restore_level(
        note, NAME, spent_since=0, rate=1, burst_s=9, reader="w0", now=12, skew_s=SKEW_S
    )
    other = checkpoint.restore_level(
        note, NAME, spent_since=0, rate=1, burst_s=9, reader="w1", now=12, skew_s=SKEW_S
    )
    assert (same, other) == (5.0, 4.0)


def test_the_debt_of_a_crash_is_found_again() -> None:
    note = Checkpoint(owner="w0", at=10.0, levels={NAME: 2.0})
    level = checkpoint.restore_level(
        note, NAME, spent_since=100, rate=1, burst_s=2, reader="w1", now=13, skew_s=SKEW_S
    )
    assert level == 2 - 100 + 2


@pytest.mark.parametrize(
    "text", ["", "later versions write something else", '{"owner": 1}', "[]", "null"]
)
def test_a_note_that_nobody_understands_counts_as_empty(text: str) -> None:
    assert checkpoint.decode_checkpoint(text) is None
    levels = [
        checkpoint.restore_level(
            None, NAME, spent_since=spent, rate=1, burst_s=2, reader="w", now=0, skew_s=1
        )
        for spent in (0, 60, 65)
    ]
    assert levels == [0, 0, -5]


def test_a_note_is_short_and_comes_back() -> None:
    note = Checkpoint(
        owner="generator-host-4711",
        at=1_700_000_000.123,
        levels={NAME: -1234.5, "replicate/requests": 0.1},
    )
    assert checkpoint.decode_checkpoint(checkpoint.encode_checkpoint(note)) == note
    assert len(checkpoint.encode_checkpoint(note)) < 400

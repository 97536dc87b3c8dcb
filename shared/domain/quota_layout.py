"""Chooses the partitions that carry a quota: as many as can each carry the largest call.

A partition may be in debt for one call of the largest size. So a limit is divided over at most
`limit / largest call` partitions: the debts of all owners together then stay within the limit of
one minute, which is the capacity of the provider's own bucket.

The carrying partitions are the first of one fixed order. The sets of different limits are therefore
nested, and each of them is spread evenly over the blocks of partitions that Kafka gives to workers.
"""

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from functools import lru_cache

_ARRIVAL_S = 2.5
"""Seconds by which the times of two calls at the provider may differ from those of their grants."""


def count_carried_calls(limit: float, largest_call: float) -> int:
    """Return how many calls of the largest size a minute's limit carries at once."""
    return int(limit // largest_call)


@lru_cache(maxsize=16)
def partition_order(partitions: int) -> tuple[int, ...]:
    """Return the partitions in the order in which they carry quota, evenly spread at any length.

    This is the van der Corput sequence in base 2, scaled to the partitions, without repetitions.
    """
    bits = max(partitions - 1, 0).bit_length()
    scaled = (_reverse_bits(number, bits) * partitions >> bits for number in range(1 << bits))
    return tuple(dict.fromkeys(scaled)) if partitions else ()


def _reverse_bits(number: int, bits: int) -> int:
    reversed_number = 0
    for _ in range(bits):
        reversed_number, number = reversed_number << 1 | number & 1, number >> 1
    return reversed_number


def spendable_part(limit: float, largest_call: float, carrying: int) -> float:
    """Return the part of a limit that may be spent: 1, or less if debts could use all of it.

    Without a reserve, two calls that arrive a moment closer together than they were granted would
    exceed the provider's bucket.
    """
    reserve_s = max(60.0 * (1.0 - carrying * largest_call / limit), 0.0)
    return 1.0 - max(_ARRIVAL_S - reserve_s, 0.0) / 60.0


@dataclass(frozen=True, slots=True, kw_only=True)
class QuotaLayout:
    """What all workers of a consumer group agree on: the partitions, and who carries what."""

    partitions: int
    calls: Mapping[str, int] = field(default_factory=dict)
    """The largest calls that each limit ("provider/resource") carries, by the smallest limit that
    a worker has."""

    def carrying_partitions(self, limits: Iterable[str]) -> tuple[int, ...]:
        """Return the partitions that carry these limits together, so the fewest of any of them."""
        calls = min((self.calls.get(name, self.partitions) for name in limits), default=0)
        return partition_order(self.partitions)[:calls]


def smallest_calls(members: Collection[Mapping[str, int]]) -> dict[str, int]:
    """Return the smallest count of each limit among the members that have it."""
    names = {name for calls in members for name in calls}
    return {name: min(calls[name] for calls in members if name in calls) for name in sorted(names)}

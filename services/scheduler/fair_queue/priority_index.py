"""An index of members by virtual time, smallest first, in two classes: below and at their cap.

Heap entries never move: a member whose virtual time or class changes gets a new entry, and the
index skips the old one when it surfaces. Every operation is O(log n) in the members of the index.
"""

from enum import IntEnum
from heapq import heappop, heappush
from typing import Generic, Protocol, TypeVar


class CapClass(IntEnum):
    """Whether a member has reached its cap. Members below the cap go first."""

    BELOW_CAP = 0
    AT_CAP = 1


class IndexMember(Protocol):
    name: str

    @property
    def virtual_time(self) -> float: ...


M = TypeVar("M", bound=IndexMember)


class PriorityIndex(Generic[M]):
    """Breaks ties by name, so the same history always gives the same order."""

    def __init__(self) -> None:
        self._heaps: dict[CapClass, list[tuple[float, str, int]]] = {
            cap_class: [] for cap_class in CapClass
        }
        self._members: dict[str, M] = {}
        self._live_entries: dict[str, tuple[CapClass, float, int]] = {}
        """Each member's live entry: its class, its virtual time, the entry's number."""
        self._entries = 0

    def update(self, member: M, cap_class: CapClass | None) -> None:
        """Index a member at its virtual time in a class, or remove it (`None`)."""
        if cap_class is None:
            self._live_entries.pop(member.name, None)
            self._members.pop(member.name, None)
            return
        entry = self._live_entries.get(member.name)
        if entry is not None and entry[:2] == (cap_class, member.virtual_time):
            return
        self._entries += 1
        self._members[member.name] = member
        self._live_entries[member.name] = (cap_class, member.virtual_time, self._entries)
        heappush(self._heaps[cap_class], (member.virtual_time, member.name, self._entries))

    def __contains__(self, member: M) -> bool:
        return member.name in self._members

    def first(self, cap_class: CapClass) -> M | None:
        """Return the member of a class with the smallest virtual time."""
        heap = self._heaps[cap_class]
        while heap:
            _, name, number = heap[0]
            if name in self._live_entries and self._live_entries[name][2] == number:
                return self._members[name]
            heappop(heap)
        return None

    def first_class(self) -> CapClass | None:
        """Return the first class that has a member."""
        return next(
            (cap_class for cap_class in CapClass if self.first(cap_class) is not None), None
        )

    def first_member(self) -> M | None:
        """Return the member with the smallest virtual time of both classes."""
        firsts = [member for kind in CapClass if (member := self.first(kind)) is not None]
        return min(firsts, key=lambda member: (member.virtual_time, member.name), default=None)

"""A line of members by position, the least first, in two lanes: those within their cap, and those beyond it.

Entries of the heaps are never moved: a member whose place has changed gets a new entry, and the old one is skipped
when it surfaces. So every operation is O(log n) in the members that stand in line.
"""

from enum import IntEnum
from heapq import heappop, heappush
from typing import Generic, Protocol, TypeVar


class CapClass(IntEnum):
    WITHIN = 0
    BEYOND = 1


class IndexMember(Protocol):
    name: str

    @property
    def position(self) -> float: ...


M = TypeVar("M", bound=IndexMember)


class PriorityIndex(Generic[M]):
    """Ties go by name, so that the same history always gives the same order."""

    def __init__(self) -> None:
        self._heaps: dict[CapClass, list[tuple[float, str, int]]] = {lane: [] for lane in CapClass}
        self._members: dict[str, M] = {}
        self._places: dict[str, tuple[CapClass, float, int]] = {}
        """Each member's live entry: its lane, its position, the entry's number."""
        self._entries = 0

    def place(self, member: M, lane: CapClass | None) -> None:
        """Let a member stand at its position in a lane, or leave the line (None)."""
        if lane is None:
            self._places.pop(member.name, None)
            self._members.pop(member.name, None)
            return
        known = self._places.get(member.name)
        if known is not None and known[:2] == (lane, member.position):
            return
        self._entries += 1
        self._members[member.name] = member
        self._places[member.name] = (lane, member.position, self._entries)
        heappush(self._heaps[lane], (member.position, member.name, self._entries))

    def first(self, lane: CapClass) -> M | None:
        """Who goes next in a lane."""
        heap = self._heaps[lane]
        while heap:
            _, name, entry = heap[0]
            if name in self._places and self._places[name][2] == entry:
                return self._members[name]
            heappop(heap)
        return None

    def front(self) -> CapClass | None:
        """The first lane in which anybody stands."""
        return next((lane for lane in CapClass if self.first(lane) is not None), None)

    def least(self, default: float) -> float:
        """The least position in the line."""
        return min(
            (member.position for lane in CapClass if (member := self.first(lane)) is not None),
            default=default,
        )

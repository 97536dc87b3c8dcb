"""An index of members by virtual time, smallest first, in two classes: below and at their cap.

Heap entries never move: a member whose virtual time or class changes gets a new entry, and the
index skips the old one when it surfaces. Every operation is O(log n) in the members of the index.

An index with at most one member has no heap. Nearly every account has one store, and a million of
them must fit in memory.
"""

from enum import IntEnum
from heapq import heappop, heappush
from typing import Generic, Protocol, TypeVar


class CapClass(IntEnum):
    """Whether a member has reached its cap. Members below the cap go first."""

    BELOW_CAP = 0
    AT_CAP = 1


_BELOW_CAP, _AT_CAP = CapClass


class IndexMember(Protocol):
    name: str

    @property
    def virtual_time(self) -> float: ...


M = TypeVar("M", bound=IndexMember)


class PriorityIndex(Generic[M]):
    """Breaks ties by name, so the same history always gives the same order."""

    __slots__ = ("_heaps", "_live_entries", "_number", "_only", "_only_class")

    def __init__(self) -> None:
        self._only: M | None = None
        """The single member of an index without heaps."""
        self._only_class = _BELOW_CAP
        self._live_entries: dict[str, tuple[CapClass, float, int, M]] = {}
        """By name: the class, the virtual time, the entry's number, and the member."""
        self._heaps: tuple[list[tuple[float, str, int]], ...] = ()
        """One heap for each class, or none while there is at most one member."""
        self._number = 0

    def update(self, member: M, cap_class: CapClass | None) -> None:
        """Index a member at its virtual time in a class, or remove it (`None`)."""
        if not self._heaps:
            if self._only is None or self._only is member:
                self._set_only(member, cap_class)
                return
            if cap_class is None:
                return
            self._build_heaps(self._only)
        if cap_class is None:
            self._remove(member)
        else:
            self._push(member, cap_class)

    def __contains__(self, member: M) -> bool:
        return member is self._only or member.name in self._live_entries

    def first(self, cap_class: CapClass) -> M | None:
        """Return the member of a class with the smallest virtual time."""
        if not self._heaps:
            return self._only if self._only_class is cap_class else None
        heap, live = self._heaps[cap_class], self._live_entries
        while heap:
            _, name, number = heap[0]
            entry = live.get(name)
            if entry is not None and entry[2] == number:
                return entry[3]
            heappop(heap)
        return None

    def first_class(self) -> CapClass | None:
        """Return the first class that has a member."""
        if not self._heaps:
            return self._only_class if self._only is not None else None
        if self.first(_BELOW_CAP) is not None:
            return _BELOW_CAP
        return _AT_CAP if self.first(_AT_CAP) is not None else None

    def first_member(self) -> M | None:
        """Return the member with the smallest virtual time of both classes."""
        below, at_cap = self.first(_BELOW_CAP), self.first(_AT_CAP)
        if below is None or at_cap is None:
            return at_cap if below is None else below
        return min(below, at_cap, key=lambda member: (member.virtual_time, member.name))

    def _set_only(self, member: M, cap_class: CapClass | None) -> None:
        if cap_class is None:
            self._only = None
        else:
            self._only, self._only_class = member, cap_class

    def _build_heaps(self, first: M) -> None:
        self._heaps, self._only = ([], []), None
        self._push(first, self._only_class)

    def _push(self, member: M, cap_class: CapClass) -> None:
        virtual_time, name = member.virtual_time, member.name
        entry = self._live_entries.get(name)
        if entry is not None and entry[0] is cap_class and entry[1] == virtual_time:
            return
        self._number += 1
        self._live_entries[name] = (cap_class, virtual_time, self._number, member)
        heappush(self._heaps[cap_class], (virtual_time, name, self._number))

    def _remove(self, member: M) -> None:
        self._live_entries.pop(member.name, None)
        if not self._live_entries:
            self._heaps = ()

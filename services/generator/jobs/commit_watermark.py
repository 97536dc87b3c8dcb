"""Computes the offset of a partition that may be committed: the first unfinished record."""


class CommitWatermark:
    """Tracks the records of one partition.

    Records start in offset order and finish in any order. `start` is the offset of the first one.
    """

    def __init__(self, start: int) -> None:
        self._unfinished: set[int] = set()
        self._next = start

    def start_record(self, offset: int) -> None:
        self._unfinished.add(offset)
        self._next = offset + 1

    def finish_record(self, offset: int) -> None:
        self._unfinished.discard(offset)

    @property
    def commit_offset(self) -> int:
        """The offset to commit: every record before it is finished."""
        return min(self._unfinished, default=self._next)

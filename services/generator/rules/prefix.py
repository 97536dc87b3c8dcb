"""Which offset of a partition may be committed: the first record that is not finished, whatever finished after it."""


class FinishedPrefix:
    """One partition's records in the order they came, finished in any order."""

    def __init__(self) -> None:
        self._open: set[int] = set()
        self._next: int | None = None
        self._committed: int | None = None

    def begin(self, offset: int) -> None:
        self._open.add(offset)
        self._next = offset + 1

    def finish(self, offset: int) -> None:
        self._open.discard(offset)

    def to_commit(self) -> int | None:
        """The offset to commit now, or None when it would be the same as the last one taken."""
        position = min(self._open, default=self._next)
        if position is None or position == self._committed:
            return None
        self._committed = position
        return position

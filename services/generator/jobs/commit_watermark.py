"""Which offset of a partition may be committed: the first record that is not finished, whatever finished after it."""


class CommitWatermark:
    """One partition's records in the order they came, finished in any order. The first to come is at `start`."""

    def __init__(self, start: int) -> None:
        self._open: set[int] = set()
        self._next = start

    def begin(self, offset: int) -> None:
        self._open.add(offset)
        self._next = offset + 1

    def finish(self, offset: int) -> None:
        self._open.discard(offset)

    @property
    def position(self) -> int:
        """The offset to commit."""
        return min(self._open, default=self._next)

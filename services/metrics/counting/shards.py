"""The table's entries as shards: read, kept decoded while they are in use, written whole."""

from collections import OrderedDict
from collections.abc import Iterator, MutableMapping

import orjson

from services.metrics.counting.rules import fold
from services.metrics.counting.rules.fold import Shard

_POSITION = b"\0position"
"""A key that no shard has: each partition has its own store."""


class Shards:
    """Over any mapping of bytes. The shards used last, `kept` of them, need not be read and decoded again."""

    def __init__(self, table: MutableMapping[bytes, bytes], *, kept: int = 4_000) -> None:
        self._table = table
        self._kept = kept
        self._decoded: OrderedDict[bytes, Shard] = OrderedDict()

    def get(self, key: bytes) -> Shard:
        """The shard, to be changed and saved; a new one when there is none."""
        shard = self._decoded.get(key)
        if shard is not None:
            self._decoded.move_to_end(key)
            return shard
        value = self._table.get(key)
        shard = self._decoded[key] = (
            orjson.loads(value) if value is not None else fold.empty_shard()
        )
        if len(self._decoded) > self._kept:
            self._decoded.popitem(last=False)
        return shard

    def save(self, key: bytes, shard: Shard) -> None:
        self._table[key] = orjson.dumps(shard)

    def position(self) -> int:
        """Up to which offset the current event's partition is counted."""
        return int(self._table.get(_POSITION, b"0"))

    def save_position(self, offset: int) -> None:
        self._table[_POSITION] = str(offset).encode()

    def forget(self) -> None:
        """Read the table again: its partitions have moved."""
        self._decoded.clear()

    def entries(self) -> Iterator[tuple[str, bytes]]:
        return ((key.decode(), value) for key, value in self._table.items() if key != _POSITION)

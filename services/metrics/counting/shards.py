"""The table's entries as shards: read, cached decoded while in use, and written whole."""

from collections import OrderedDict
from collections.abc import Iterator, MutableMapping

import orjson

from services.metrics.counting.rules import fold
from services.metrics.counting.rules.fold import Shard

_OFFSET_KEY = b"\0position"
"""Differs from every shard's key. Each partition has its own RocksDB database, so its own entry."""


class ShardTable:
    """Shards in any mapping of bytes. Caches the `kept` most recently used ones decoded."""

    def __init__(self, table: MutableMapping[bytes, bytes], *, kept: int = 4_000) -> None:
        self._table = table
        self._kept = kept
        self._decoded: OrderedDict[bytes, Shard] = OrderedDict()

    def load(self, key: bytes) -> Shard:
        """Return the shard, to be changed and saved; an empty one when the table has none."""
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

    def counted_offset(self) -> int:
        """Return the first offset of the current event's partition that is not counted yet."""
        return int(self._table.get(_OFFSET_KEY, b"0"))

    def save_counted_offset(self, offset: int) -> None:
        self._table[_OFFSET_KEY] = str(offset).encode()

    def clear_cache(self) -> None:
        """Drop all decoded shards, because the table's partitions have moved."""
        self._decoded.clear()

    def entries(self) -> Iterator[tuple[str, bytes]]:
        return ((key.decode(), value) for key, value in self._table.items() if key != _OFFSET_KEY)

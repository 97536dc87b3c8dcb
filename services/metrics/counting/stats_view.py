"""The table's aggregates in memory: by store and in all, changed with the table, read by every endpoint.

Reading the table itself goes through all of its entries, too much for a request. The picture is made from it once,
after each assignment of partitions, and holds no more than this process owns.
"""

import asyncio
from collections.abc import Callable, Iterable, Mapping
from heapq import nlargest

import orjson

from services.metrics.counting.rules import aggregate, fold
from services.metrics.counting.rules.aggregate import Aggregate, Change

_AT_ONCE = 200


class Picture:
    """`stores` has the summary of every store, `total` the whole of all."""

    def __init__(self) -> None:
        self.stores: dict[str, Aggregate] = {}
        self.total = aggregate.empty()

    def change(self, store: str, change: Change) -> None:
        if store not in self.stores:
            self.stores[store] = aggregate.summary()
        aggregate.add_to_summary(self.stores[store], change)
        aggregate.add(self.total, change)

    def first(self, limit: int, queued: Mapping[str, int]) -> dict[str, Aggregate]:
        """The stores to show first: those with the longest queues, then those that cost most."""
        waiting = sorted(
            (store for store in queued if store in self.stores), key=lambda store: -queued[store]
        )
        found = {store: self.stores[store] for store in waiting[:limit]}
        others = ((store, one) for store, one in self.stores.items() if store not in found)
        found |= nlargest(limit - len(found), others, key=lambda one: one[1]["cost_nanousd"])
        return found

    async def redraw(
        self, entries: Iterable[tuple[str, bytes]], wanted: Callable[[], bool] = lambda: True
    ) -> bool:
        """Make it anew from all entries of the table; the loop gets its turns in between. False, and the picture stays,
        when that is `wanted` no more."""
        stores: dict[str, Aggregate] = {}
        wholes = [aggregate.empty()]
        for number, (key, value) in enumerate(entries, start=1):
            part = orjson.loads(value)["aggregate"]
            aggregate.merge_into(stores.setdefault(fold.store_of(key), aggregate.summary()), part)
            wholes.append(part)
            if number % _AT_ONCE == 0:
                wholes = [aggregate.merge(wholes)]
                await asyncio.sleep(0)
            if not wanted():
                return False
        self.stores, self.total = stores, aggregate.merge(wholes)
        return True

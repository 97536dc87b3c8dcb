"""The table's aggregates in memory: one per store and one total, read by every endpoint.

Reading the table itself means a walk through all entries, too slow for a request. The view is built
from the table once after each assignment of partitions, changes with the table, and covers the
partitions that this process owns.
"""

import asyncio
from collections.abc import Callable, Iterable, Mapping
from heapq import nlargest

import orjson

from services.metrics.counting.rules import aggregate, fold
from services.metrics.counting.rules.aggregate import Aggregate, StatsChange

_MERGED_AT_ONCE = 200


class StatsView:
    """`stores` has every store's summary, `total` the aggregate of all stores."""

    def __init__(self) -> None:
        self.stores: dict[str, Aggregate] = {}
        self.total = aggregate.empty()

    def apply_change(self, store: str, change: StatsChange) -> None:
        if store not in self.stores:
            self.stores[store] = aggregate.empty_summary()
        aggregate.add_change_to_summary(self.stores[store], change)
        aggregate.add_change(self.total, change)

    def top_stores(self, limit: int, queued: Mapping[str, int]) -> dict[str, Aggregate]:
        """Return up to `limit` stores: the longest queues first, then the highest costs."""
        waiting = sorted(
            (store for store in queued if store in self.stores), key=lambda store: -queued[store]
        )
        found = {store: self.stores[store] for store in waiting[:limit]}
        others = ((store, one) for store, one in self.stores.items() if store not in found)
        found |= nlargest(limit - len(found), others, key=lambda one: one[1]["cost_nanousd"])
        return found

    async def rebuild(
        self, entries: Iterable[tuple[str, bytes]], wanted: Callable[[], bool] = lambda: True
    ) -> bool:
        """Build the view from all entries of the table, and yield to the event loop in between.

        Returns False and keeps the old view as soon as `wanted()` is false.
        """
        stores: dict[str, Aggregate] = {}
        totals = [aggregate.empty()]
        for number, (key, value) in enumerate(entries, start=1):
            part = orjson.loads(value)["aggregate"]
            aggregate.merge_summary(
                stores.setdefault(fold.store_of(key), aggregate.empty_summary()), part
            )
            totals.append(part)
            if number % _MERGED_AT_ONCE == 0:
                totals = [aggregate.merge(totals)]
                await asyncio.sleep(0)
            if not wanted():
                return False
        self.stores, self.total = stores, aggregate.merge(totals)
        return True

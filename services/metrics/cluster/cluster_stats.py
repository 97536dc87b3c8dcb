"""The whole, of this process's memory and its peers' parts: what every endpoint shows."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from operator import attrgetter, itemgetter
from typing import Any
from uuid import UUID

from services.metrics.cluster import rules
from services.metrics.cluster.monitored_values import MonitoredValues
from services.metrics.cluster.peers import ProcessStats, Peers
from services.metrics.counting.event_counter import LocalState
from services.metrics.counting.rules import aggregate
from services.metrics.counting.rules.aggregate import Aggregate
from services.metrics.cluster import view
from services.metrics.cluster.view import Completeness
from shared.kafka.topics import RESULTS

_STORES_SHOWN = 200


@dataclass(frozen=True, slots=True, kw_only=True)
class PartitionOwnership:
    """Which partitions this process counts, and whether its memory shows them by now."""

    partitions: tuple[int, ...]
    settled: bool


class ClusterStats:
    """`owned` tells what this process counts."""

    def __init__(
        self, *, local: LocalState, peers: Peers, monitored: MonitoredValues, owned: Callable[[], PartitionOwnership]
    ) -> None:
        self._local = memory
        self._peers = peers
        self._watched = monitored
        self._owned = owned

    def part(self, *, stores: int, jobs: int) -> ProcessStats:
        """What this process counts itself."""
        owned, picture, board = self._owned(), self._local.stats, self._local.reports
        return ProcessStats(
            partitions=owned.partitions,
            settled=owned.settled,
            total=stats.total,
            malformed=reports.malformed,
            stores_known=len(stats.stores),
            stores=stats.first(stores, reports.queued_by_store()),
            jobs=[_plain(row) for row in self._local.recent.jobs(jobs)],
            drift=self._watched.drift,
        )

    def total(self) -> Aggregate:
        parts = self._peers.parts()
        own = self._local.stats.total
        return (
            aggregate.merge([own, *(part.total for part in self._apart(parts))]) if parts else own
        )

    def monitored(self) -> MonitoredValues:
        """What was monitored; of the drift, what the process says that compares."""
        told = (self._watched.drift, *(part.drift for part in self._peers.parts()))
        latest = max(
            (drift for drift in told if drift is not None), key=attrgetter("at"), default=None
        )
        return replace(self._watched, drift=latest)

    def overview(self) -> dict[str, Any]:
        now, board = datetime.now(UTC), self._local.reports
        return view.overview(self.total(), reports.scheduler, reports.alive_workers(now), now, self.completeness())

    def completeness(self) -> Completeness:
        parts, owned = self._apart(self._peers.parts()), self._owned()
        showing = [owned.partitions] if owned.settled else []
        showing += [part.partitions for part in parts if part.settled]
        counted = {partition for partitions in showing for partition in partitions}
        return Completeness(
            monitored=self.monitored(),
            malformed=self._local.reports.malformed + sum(part.malformed for part in parts),
            processes=1 + len(parts),
            missing=tuple(self._peers.missing()),
            uncounted=tuple(sorted(set(range(RESULTS.partitions)) - counted)),
        )

    async def stores(self, *, limit: int = _STORES_SHOWN, offset: int = 0) -> dict[str, Any]:
        """A page of the stores, those with the longest queues and the largest bills first."""
        reports, picture = self._local.reports, self._local.stats
        parts, wanted = self._peers.parts(), limit + offset
        if parts and wanted > _STORES_SHOWN:
            parts = [
                part
                for part in (await self._peers.fetch(stores=wanted, jobs=0)).values()
                if part is not None
            ]
        parts = self._apart(parts)
        found = stats.first(wanted, reports.queued_by_store())
        for part in parts:
            found |= part.stores
        spent = self.total()["cost_nanousd"]
        known = len(stats.stores) + sum(part.stores_known for part in parts)
        rows = view.stores(found, reports.scheduler, spent=spent, first=wanted)[offset:wanted]
        return {
            "items": rows,
            "total": max(known, len(rows)),
            "next": wanted if wanted < known else None,
        }

    def workers(self) -> dict[str, Any]:
        now, board = datetime.now(UTC), self._local.reports
        return {"items": view.workers(reports.alive_workers(now), reports.silent_workers(now), now)}

    def limiter(self) -> dict[str, Any]:
        now = datetime.now(UTC)
        picture = rules.limiter_totals(self._local.reports.alive_workers(now))
        return {"status": "ok", "rateLimiter": picture, "limitedBy": rules.find_bottlenecks(picture, now)}

    def jobs(self, *, limit: int = 20) -> dict[str, Any]:
        """The jobs that changed last. (Peers' rows are JSON already, and their times texts.)"""
        rows = [_plain(row) for row in self._local.recent.jobs(limit)]
        rows += [row for part in self._apart(self._peers.parts()) for row in part.jobs[:limit]]
        return {"items": sorted(rows, key=itemgetter("changedAt"), reverse=True)[:limit]}

    def own_timeline(self, job: UUID) -> dict[str, Any] | None:
        return self._local.recent.timeline(job)

    async def timeline(self, job: UUID) -> dict[str, Any] | None:
        return self.own_timeline(job) or await self._peers.timeline(str(job))

    def contract(self) -> dict[str, Any]:
        return view.contract_metrics(self._local.reports.scheduler, self._local.reports.alive_workers())

    def _apart(self, parts: Iterable[ProcessStats]) -> list[ProcessStats]:
        """The parts that say nothing twice: while partitions move, two processes may show the same ones."""
        taken, apart = set(self._owned().partitions), []
        for part in parts:
            if taken.isdisjoint(part.partitions):
                taken.update(part.partitions)
                apart.append(part)
        return apart


def _plain(row: dict[str, Any]) -> dict[str, Any]:
    """Times as JSON has them, so that they sort beside those of peers."""
    return {
        name: value.isoformat(timespec="microseconds").replace("+00:00", "Z")
        if isinstance(value, datetime)
        else value
        for name, value in row.items()
    }

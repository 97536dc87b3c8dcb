"""Statistics of the whole cluster: this process's state merged with that of its peers."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from operator import attrgetter, itemgetter
from typing import Any
from uuid import UUID

from services.metrics.cluster import rules, view
from services.metrics.cluster.monitored_values import Completeness, MonitoredValues
from services.metrics.cluster.peers import Peers, ProcessStats
from services.metrics.counting.event_counter import LocalState
from services.metrics.counting.rules import aggregate
from services.metrics.counting.rules.aggregate import Aggregate
from shared.kafka.topics import RESULTS

_STORES_SHOWN = 200


@dataclass(frozen=True, slots=True, kw_only=True)
class PartitionOwnership:
    """The partitions that this process counts, and whether its statistics cover them yet."""

    partitions: tuple[int, ...]
    settled: bool


class ClusterStats:
    """Merges the statistics of all processes. `ownership` returns the partitions of this one."""

    def __init__(
        self,
        *,
        local: LocalState,
        peers: Peers,
        monitored: MonitoredValues,
        ownership: Callable[[], PartitionOwnership],
    ) -> None:
        self._local = local
        self._peers = peers
        self._monitored = monitored
        self._ownership = ownership

    def local_stats(self, *, stores: int, jobs: int) -> ProcessStats:
        """Return the statistics of this process alone."""
        owned, stats, reports = self._ownership(), self._local.stats, self._local.reports
        return ProcessStats(
            partitions=owned.partitions,
            settled=owned.settled,
            total=stats.total,
            malformed=reports.malformed,
            stores_known=len(stats.stores),
            stores=stats.top_stores(stores, reports.queued_by_store()),
            jobs=[_with_text_times(row) for row in self._local.recent.latest_rows(jobs)],
            drift=self._monitored.drift,
        )

    def total(self) -> Aggregate:
        peers = self._peers.known_stats()
        own = self._local.stats.total
        if not peers:
            return own
        return aggregate.merge([own, *(peer.total for peer in self._without_overlaps(peers))])

    def monitored(self) -> MonitoredValues:
        """Return the monitored values, with the latest drift that any process has found."""
        found = (self._monitored.drift, *(peer.drift for peer in self._peers.known_stats()))
        latest = max(
            (drift for drift in found if drift is not None), key=attrgetter("at"), default=None
        )
        return replace(self._monitored, drift=latest)

    def overview(self) -> dict[str, Any]:
        now, reports = datetime.now(UTC), self._local.reports
        return view.overview(
            self.total(),
            reports.scheduler,
            reports.alive_workers(now),
            now,
            self.completeness(),
        )

    def completeness(self) -> Completeness:
        peers, owned = self._without_overlaps(self._peers.known_stats()), self._ownership()
        covered = set(owned.partitions) if owned.settled else set()
        for peer in peers:
            if peer.settled:
                covered.update(peer.partitions)
        return Completeness(
            monitored=self.monitored(),
            malformed=self._local.reports.malformed + sum(peer.malformed for peer in peers),
            processes=1 + len(peers),
            missing=tuple(self._peers.missing()),
            uncounted=tuple(sorted(set(range(RESULTS.partitions)) - covered)),
        )

    async def stores(self, *, limit: int = _STORES_SHOWN, offset: int = 0) -> dict[str, Any]:
        """Return a page of the stores, the longest queues and the highest costs first."""
        reports, stats = self._local.reports, self._local.stats
        peers, wanted = self._peers.known_stats(), limit + offset
        if peers and wanted > _STORES_SHOWN:
            fetched = await self._peers.fetch_stats(stores=wanted, jobs=0)
            peers = [peer for peer in fetched.values() if peer is not None]
        peers = self._without_overlaps(peers)
        found = stats.top_stores(wanted, reports.queued_by_store())
        for peer in peers:
            found |= peer.stores
        spent = self.total()["cost_nanousd"]
        known = len(stats.stores) + sum(peer.stores_known for peer in peers)
        rows = view.stores(found, reports.scheduler, spent=spent, limit=wanted)[offset:wanted]
        return {
            "items": rows,
            "total": max(known, len(rows)),
            "next": wanted if wanted < known else None,
        }

    def workers(self) -> dict[str, Any]:
        now, reports = datetime.now(UTC), self._local.reports
        return {"items": view.workers(reports.alive_workers(now), reports.silent_workers(now), now)}

    def rate_limiter(self) -> dict[str, Any]:
        now = datetime.now(UTC)
        totals = rules.limiter_totals(self._local.reports.alive_workers(now))
        return {
            "status": "ok",
            "rateLimiter": totals,
            "limitedBy": rules.find_bottlenecks(totals, now),
        }

    def jobs(self, *, limit: int = 20) -> dict[str, Any]:
        """Return the jobs that changed last. Peers' rows are JSON already, with times as text."""
        rows = [_with_text_times(row) for row in self._local.recent.latest_rows(limit)]
        peers = self._without_overlaps(self._peers.known_stats())
        rows += [row for peer in peers for row in peer.jobs[:limit]]
        return {"items": sorted(rows, key=itemgetter("changedAt"), reverse=True)[:limit]}

    def local_timeline(self, job: UUID) -> dict[str, Any] | None:
        return self._local.recent.timeline(job)

    async def timeline(self, job: UUID) -> dict[str, Any] | None:
        """Return a job's timeline from this process or a peer."""
        return self.local_timeline(job) or await self._peers.fetch_timeline(str(job))

    def contract_metrics(self) -> dict[str, Any]:
        reports = self._local.reports
        return view.contract_metrics(reports.scheduler, reports.alive_workers())

    def _without_overlaps(self, peers: Iterable[ProcessStats]) -> list[ProcessStats]:
        """Leave out peers with partitions already covered: two processes may show a moving one."""
        taken, kept = set(self._ownership().partitions), []
        for peer in peers:
            if taken.isdisjoint(peer.partitions):
                taken.update(peer.partitions)
                kept.append(peer)
        return kept


def _with_text_times(row: dict[str, Any]) -> dict[str, Any]:
    """Format times as JSON has them, so that they sort together with those of peers."""
    return {
        name: value.isoformat(timespec="microseconds").replace("+00:00", "Z")
        if isinstance(value, datetime)
        else value
        for name, value in row.items()
    }

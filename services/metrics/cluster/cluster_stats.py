"""The whole, of this process's memory and its peers' parts: what every endpoint shows."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from operator import attrgetter, itemgetter
from typing import Any
from uuid import UUID

from services.metrics.cluster import rules
from services.metrics.cluster.monitored import Watched
from services.metrics.cluster.peers import Part, Peers
from services.metrics.counting.app import Memory
from services.metrics.counting.rules import aggregate
from services.metrics.counting.rules.aggregate import Aggregate
from services.metrics.http import view
from services.metrics.http.view import Beside
from shared.kafka.topics import RESULTS

_STORES_SHOWN = 200


@dataclass(frozen=True, slots=True, kw_only=True)
class Ownership:
    """Which partitions this process counts, and whether its memory shows them by now."""

    partitions: tuple[int, ...]
    settled: bool


class Whole:
    """`owned` tells what this process counts."""

    def __init__(
        self, *, memory: Memory, peers: Peers, watched: Watched, owned: Callable[[], Ownership]
    ) -> None:
        self._memory = memory
        self._peers = peers
        self._watched = watched
        self._owned = owned

    def part(self, *, stores: int, jobs: int) -> Part:
        """What this process counts itself."""
        owned, picture, board = self._owned(), self._memory.picture, self._memory.board
        return Part(
            partitions=owned.partitions,
            settled=owned.settled,
            total=picture.total,
            malformed=board.malformed,
            stores_known=len(picture.stores),
            stores=picture.first(stores, board.queued()),
            jobs=[_plain(row) for row in self._memory.recent.jobs(jobs)],
            drift=self._watched.drift,
        )

    def total(self) -> Aggregate:
        parts = self._peers.parts()
        own = self._memory.picture.total
        return (
            aggregate.merge([own, *(part.total for part in self._apart(parts))]) if parts else own
        )

    def watched(self) -> Watched:
        """What was watched; of the drift, what the process says that compares."""
        told = (self._watched.drift, *(part.drift for part in self._peers.parts()))
        latest = max(
            (drift for drift in told if drift is not None), key=attrgetter("at"), default=None
        )
        return replace(self._watched, drift=latest)

    def overview(self) -> dict[str, Any]:
        now, board = datetime.now(UTC), self._memory.board
        return view.overview(self.total(), board.scheduler, board.alive(now), now, self.beside())

    def beside(self) -> Beside:
        parts, owned = self._apart(self._peers.parts()), self._owned()
        showing = [owned.partitions] if owned.settled else []
        showing += [part.partitions for part in parts if part.settled]
        counted = {partition for partitions in showing for partition in partitions}
        return Beside(
            watched=self.watched(),
            malformed=self._memory.board.malformed + sum(part.malformed for part in parts),
            processes=1 + len(parts),
            missing=tuple(self._peers.missing()),
            uncounted=tuple(sorted(set(range(RESULTS.partitions)) - counted)),
        )

    async def stores(self, *, limit: int = _STORES_SHOWN, offset: int = 0) -> dict[str, Any]:
        """A page of the stores, those with the longest queues and the largest bills first."""
        board, picture = self._memory.board, self._memory.picture
        parts, wanted = self._peers.parts(), limit + offset
        if parts and wanted > _STORES_SHOWN:
            parts = [
                part
                for part in (await self._peers.fetch(stores=wanted, jobs=0)).values()
                if part is not None
            ]
        parts = self._apart(parts)
        found = picture.first(wanted, board.queued())
        for part in parts:
            found |= part.stores
        spent = self.total()["cost_nanousd"]
        known = len(picture.stores) + sum(part.stores_known for part in parts)
        rows = view.stores(found, board.scheduler, spent=spent, first=wanted)[offset:wanted]
        return {
            "items": rows,
            "total": max(known, len(rows)),
            "next": wanted if wanted < known else None,
        }

    def workers(self) -> dict[str, Any]:
        now, board = datetime.now(UTC), self._memory.board
        return {"items": view.workers(board.alive(now), board.gone(now), now)}

    def limiter(self) -> dict[str, Any]:
        now = datetime.now(UTC)
        picture = rules.totals(self._memory.board.alive(now))
        return {"status": "ok", "rateLimiter": picture, "limitedBy": rules.limited_by(picture, now)}

    def jobs(self, *, limit: int = 20) -> dict[str, Any]:
        """The jobs that changed last. (Peers' rows are JSON already, and their times texts.)"""
        rows = [_plain(row) for row in self._memory.recent.jobs(limit)]
        rows += [row for part in self._apart(self._peers.parts()) for row in part.jobs[:limit]]
        return {"items": sorted(rows, key=itemgetter("changedAt"), reverse=True)[:limit]}

    def own_timeline(self, job: UUID) -> dict[str, Any] | None:
        return self._memory.recent.timeline(job)

    async def timeline(self, job: UUID) -> dict[str, Any] | None:
        return self.own_timeline(job) or await self._peers.timeline(str(job))

    def contract(self) -> dict[str, Any]:
        return view.contract_metrics(self._memory.board.scheduler, self._memory.board.alive())

    def _apart(self, parts: Iterable[Part]) -> list[Part]:
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

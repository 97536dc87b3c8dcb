"""The other metrics processes: once a second, the statistics of their partitions are fetched.

Faust provides their addresses: each process's address travels in the consumer group's assignment.
So after every rebalance all processes know where the other partitions are counted.
"""

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

import httpx
import orjson

from services.metrics.cluster.latest_reports import LatestReports
from services.metrics.counting.rules.aggregate import Aggregate
from services.metrics.reconcile.rules import Drift
from shared.domain.errors import InvalidMessage
from shared.domain.messages import SchedulerReport, WorkerReport
from shared.kafka.envelope import decode_message
from shared.observability.log import get_logger

log = get_logger(__name__)

_EVERY_S = 1.0
_DEADLINE_S = 2.0
STATS_PATH = "/internal/part"
TIMELINE_PATH = "/internal/jobs"

JsonObject = dict[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class ProcessStats:
    """The statistics of one process, as sent in JSON, with the requested number of rows."""

    partitions: tuple[int, ...]
    settled: bool
    """False while the process takes over partitions: its numbers do not cover them yet."""
    total: Aggregate
    stores_known: int
    malformed: int
    stores: Mapping[str, Aggregate]
    jobs: list[JsonObject] = field(default_factory=list)
    drift: Drift | None = None
    """`None` from a process that does not compare."""


class Peers:
    """Fetches statistics from the current `addresses`. Peers' reports are added to `reports`."""

    def __init__(
        self, http: httpx.AsyncClient, *, addresses: Callable[[], list[str]], reports: LatestReports
    ) -> None:
        self._http = http
        self._addresses = addresses
        self._reports = reports
        self._stats: dict[str, ProcessStats | None] = {}

    def known_stats(self) -> list[ProcessStats]:
        return [stats for stats in self._stats.values() if stats is not None]

    def missing(self) -> list[str]:
        """Return the addresses of the peers that do not answer."""
        return [url for url, stats in self._stats.items() if stats is None]

    async def poll_until_cancelled(self) -> None:
        while True:
            found = await self.fetch_stats(stores=200, jobs=100)
            for url in found.keys() - self._stats.keys():
                log.info("metrics peer found", url=url)
            for url in [
                url
                for url, stats in found.items()
                if stats is None and self._stats.get(url) is not None
            ]:
                log.warning("metrics peer does not answer, its counts are missing", url=url)
            self._stats = found
            await asyncio.sleep(_EVERY_S)

    async def fetch_stats(self, *, stores: int, jobs: int) -> dict[str, ProcessStats | None]:
        """Return every peer's statistics by its address; `None` for a peer without an answer."""
        urls = self._addresses()
        answers = await asyncio.gather(
            *(self._get(url, STATS_PATH, stores=stores, jobs=jobs) for url in urls)
        )
        return {url: self._decode_stats(answer) for url, answer in zip(urls, answers, strict=True)}

    async def fetch_timeline(self, job: str) -> JsonObject | None:
        """Return a job's timeline from the peer that has it."""
        answers = await asyncio.gather(
            *(self._get(url, f"{TIMELINE_PATH}/{job}") for url in self._addresses())
        )
        return next((answer for answer in answers if answer), None)

    async def _get(self, url: str, path: str, **query: int) -> JsonObject | None:
        try:
            async with asyncio.timeout(_DEADLINE_S):
                answer = await self._http.get(url + path, params=query)
            return orjson.loads(answer.content) if answer.is_success else None
        except (httpx.HTTPError, TimeoutError, orjson.JSONDecodeError):
            return None

    def _decode_stats(self, answer: JsonObject | None) -> ProcessStats | None:
        """Return `None` for a missing answer and for one of another version."""
        if answer is None:
            return None
        try:
            reports, drift = answer.pop("reports"), _decode_drift(answer.pop("drift", None))
            stats = ProcessStats(**answer, drift=drift)
        except (KeyError, TypeError, ValueError):
            return None
        self._add_reports(reports)
        return stats

    def _add_reports(self, reports: list[tuple[str, Any]]) -> None:
        for kind, value in reports:
            try:
                report = decode_message(orjson.dumps(value), [("ce_type", kind.encode())])
            except InvalidMessage:
                continue  # of another version
            if isinstance(report, WorkerReport | SchedulerReport):
                self._reports.add_report(report)


def _decode_drift(value: JsonObject | None) -> Drift | None:
    return None if value is None else Drift(**value | {"at": datetime.fromisoformat(value["at"])})


def encode_stats(stats: ProcessStats, reports: LatestReports) -> JsonObject:
    """Return the JSON form of a process's statistics, with all reports that it has received."""
    fields = {name: getattr(stats, name) for name in ProcessStats.__slots__}
    return fields | {"reports": [(report.TYPE, report) for report in reports.all_reports()]}

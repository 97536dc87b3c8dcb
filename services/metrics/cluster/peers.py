"""The other metrics processes: what each counts of its own partitions is fetched once a second.

Who they are, Faust tells: each process's address travels in the group's assignment, so that after every rebalance all
know where the rest of the partitions is counted.
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
from shared.kafka.envelope import decode
from shared.observability.log import get_logger

log = get_logger(__name__)

_EVERY_S = 1.0
_DEADLINE_S = 2.0
PART_PATH = "/internal/part"
TIMELINE_PATH = "/internal/jobs"

JsonObject = dict[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class ProcessStats:
    """What one process counts. `stores` and `jobs` are the first and the latest, as many as were asked for."""

    partitions: tuple[int, ...]
    settled: bool
    """False while it takes over partitions: its numbers are not those of its partitions yet."""
    total: Aggregate
    stores_known: int
    malformed: int
    stores: Mapping[str, Aggregate]
    jobs: list[JsonObject] = field(default_factory=list)
    drift: Drift | None = None
    """None of a process that does not compare."""


class Peers:
    """`addresses` names the others, as of now. What they hear of workers is told to `board`."""

    def __init__(
        self, http: httpx.AsyncClient, *, addresses: Callable[[], list[str]], reports: LatestReports
    ) -> None:
        self._http = http
        self._addresses = addresses
        self._reports = board
        self._parts: dict[str, ProcessStats | None] = {}

    def parts(self) -> list[ProcessStats]:
        return [part for part in self._parts.values() if part is not None]

    def missing(self) -> list[str]:
        """Those that do not answer: what they count is missing from the whole."""
        return [url for url, part in self._parts.items() if part is None]

    async def follow(self) -> None:
        """Until cancelled."""
        while True:
            found = await self.fetch(stores=200, jobs=100)
            for url in found.keys() - self._parts.keys():
                log.info("another metrics process counts too", url=url)
            for url in [
                url
                for url, part in found.items()
                if part is None and self._parts.get(url) is not None
            ]:
                log.warning("a metrics process does not answer: what it counts is missing", url=url)
            self._parts = found
            await asyncio.sleep(_EVERY_S)

    async def fetch(self, *, stores: int, jobs: int) -> dict[str, ProcessStats | None]:
        """Every other process's part by its address; None where there was no answer."""
        urls = self._addresses()
        answers = await asyncio.gather(
            *(self._get(url, PART_PATH, stores=stores, jobs=jobs) for url in urls)
        )
        return {url: self._part(answer) for url, answer in zip(urls, answers, strict=True)}

    async def timeline(self, job: str) -> JsonObject | None:
        """A job's timeline, from the process that knows it."""
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

    def _part(self, answer: JsonObject | None) -> ProcessStats | None:
        """None for no answer, or one of another version."""
        if answer is None:
            return None
        try:
            reports, drift = answer.pop("reports"), _drift(answer.pop("drift", None))
            part = ProcessStats(**answer, drift=drift)
        except (KeyError, TypeError, ValueError):
            return None
        self._hear(reports)
        return part

    def _hear(self, reports: list[tuple[str, Any]]) -> None:
        for kind, value in reports:
            try:
                report = decode(orjson.dumps(value), [("ce_type", kind.encode())])
            except InvalidMessage:
                continue  # of another version
            if isinstance(report, WorkerReport | SchedulerReport):
                self._reports.add_report(report)


def _drift(told: JsonObject | None) -> Drift | None:
    return None if told is None else Drift(**told | {"at": datetime.fromisoformat(told["at"])})


def encode(part: ProcessStats, reports: LatestReports) -> JsonObject:
    """A part as it travels, with what was heard of workers."""
    told = {name: getattr(part, name) for name in ProcessStats.__slots__}
    return told | {"reports": [(report.TYPE, report) for report in reports.reports()]}

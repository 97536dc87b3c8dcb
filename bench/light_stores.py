"""Does a flood of one store delay the posts of the others, while the provider's limit binds?

llmock enforces the limits; every run starts a new one. Scheduler and workers run as processes with
a real broker and database. One store submits 400 posts. Once 300 of them have begun, and the saved
minute of the account is spent, nine light stores submit six posts each. In the other run the one
store has submitted only those 300, so that the account has the same past, no permit to spare, and
the light stores are alone from then on.

BENCH_CASES="2 workers" runs the cases whose names contain one of these texts; then the result is
shown and not recorded.
"""

import asyncio
import os
import time
from dataclasses import dataclass
from datetime import datetime
from statistics import fmean, median

from bench.account.decisions import AccountLimits, DecisionLog
from bench.account.fleet import ServiceFleet, count_ended_jobs, start_fleet
from bench.account.reference_provider import start_reference_provider
from bench.limits import make_case_filter
from bench.result import Ratio, Result
from bench.servers import running_kafka, running_postgres
from sandbox.servers.postgres import open_connection
from shared.domain.errors import Unavailable

_LIMITS = AccountLimits(rpm=600, tpm=20_000_000)
_WORKERS = (1, 2, 4, 8)
_EARLIER = 300
"""The posts of the flood that have begun when the light stores submit."""
_FLOOD = 400
_LIGHT = [f"light-{store}" for store in range(9)] * 6
_ENDS_WITHIN_S = 300.0
_LEAST_WAIT_S = 3.0
"""Shorter waits say little about an estimate: it changes once a second."""
_READ_ESTIMATES = """
SELECT instance_id AS store, now() AS at, last_at FROM store_outlooks WHERE last_at IS NOT NULL
"""
_MOST_SLOWDOWN = 1.1


@dataclass(frozen=True, slots=True, kw_only=True)
class Estimate:
    """The estimated start of a store's last waiting job, at a time."""

    store: str
    at: datetime
    last_at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class LightRun:
    """One run: the seconds from a light store's request to its post, and all decisions."""

    seconds: list[float]
    log: DecisionLog
    estimate_errors: list[float]
    """Of each estimated start of a store's last job: the error ÷ the remaining wait."""

    @property
    def mean_s(self) -> float:
        """Return the mean time to a post. The median depends on the moment of the submission."""
        return fmean(self.seconds)


def run() -> Result:
    return asyncio.run(_run())


async def _run() -> Result:
    is_chosen = make_case_filter(os.environ.get("BENCH_CASES", ""))
    cases = [workers for workers in _WORKERS if is_chosen(_describe(workers))]
    rows, ratios = list[list[str]](), list[Ratio]()
    async with running_kafka() as bootstrap, running_postgres() as dsn:
        for workers in cases:
            alone, beside = [
                await _measure(workers, flood, bootstrap, dsn) for flood in (_EARLIER, _FLOOD)
            ]
            rows.append(_build_row(workers, alone, beside))
            ratios += _build_ratios(workers, alone, beside)
            print("  " + " · ".join(rows[-1]), flush=True)
    return Result(
        question="How much longer do nine light stores wait for six posts each, beside a flood of"
        f" {_FLOOD - _EARLIER}? (RPM {_LIMITS.rpm}, 300 ms per call, 50 slots per worker)",
        header=[
            "",
            "alone, mean s",
            "beside the flood, mean s",
            "÷ alone",
            "use of the limit",
            "429s",
            "error of until ÷ wait, median",
        ],
        rows=rows,
        ratios=ratios,
        recorded=len(cases) == len(_WORKERS),
    )


async def _measure(workers: int, flood: int, bootstrap: str, dsn: str) -> LightRun:
    prefix = f"light{workers}.{flood}."
    async with (
        start_reference_provider(_LIMITS) as provider,
        start_fleet(
            dsn=dsn, bootstrap=bootstrap, prefix=prefix, url=provider.url, limits=_LIMITS, backlog=0
        ) as fleet,
    ):
        await asyncio.gather(*(fleet.start("generator") for _ in range(workers)))
        await fleet.submit_requests(["flood"] * flood)
        await _wait_until_begun(fleet, dsn, _EARLIER)
        await fleet.submit_requests(_LIGHT)
        estimates = await _sample_until_done(fleet, dsn, flood + len(_LIGHT))
        return LightRun(
            seconds=await _read_seconds(dsn),
            log=await provider.read_decisions(),
            estimate_errors=await _read_errors(dsn, estimates),
        )


async def _wait_until_begun(fleet: ServiceFleet, dsn: str, jobs: int) -> None:
    begun = "SELECT count(*) FROM blog_steps WHERE step = 'outline'"
    async with asyncio.timeout(_ENDS_WITHIN_S), open_connection(dsn) as connection:
        while await connection.fetchval(begun) < jobs:
            fleet.check_processes()
            await asyncio.sleep(0.05)


async def _wait_until_done(fleet: ServiceFleet, dsn: str, jobs: int) -> None:
    give_up = time.monotonic() + _ENDS_WITHIN_S
    while (ended := await count_ended_jobs(dsn))[0] < jobs:
        fleet.check_processes()
        if time.monotonic() > give_up or ended[1]:
            raise Unavailable(f"{ended[0]} of {jobs} posts done, {ended[1]} failed")
        await asyncio.sleep(0.1)


async def _sample_until_done(fleet: ServiceFleet, dsn: str, jobs: int) -> list[Estimate]:
    """Read the wait estimates until all jobs are done."""
    estimates: list[Estimate] = []

    async def sample() -> None:
        async with open_connection(dsn) as connection:
            while True:
                rows = await connection.fetch(_READ_ESTIMATES)
                estimates.extend(Estimate(**row) for row in rows)
                await asyncio.sleep(1)

    sampling = asyncio.create_task(sample())
    try:
        await _wait_until_done(fleet, dsn, jobs)
    finally:
        sampling.cancel()
    return estimates


async def _read_errors(dsn: str, estimates: list[Estimate]) -> list[float]:
    async with open_connection(dsn) as connection:
        rows = await connection.fetch(
            "SELECT instance_id AS store, max(forwarded_at) AS at FROM blog_generations GROUP BY 1"
        )
    started = {row["store"]: row["at"] for row in rows}
    return [
        abs((estimate.last_at - started[estimate.store]).total_seconds()) / wait_s
        for estimate in estimates
        if (wait_s := (started[estimate.store] - estimate.at).total_seconds()) > _LEAST_WAIT_S
    ]


async def _read_seconds(dsn: str) -> list[float]:
    async with open_connection(dsn) as connection:
        rows = await connection.fetch(
            "SELECT extract(epoch FROM finished_at - created_at)::float8 AS seconds"
            "  FROM blog_generations WHERE instance_id LIKE 'light-%'"
        )
    return [row["seconds"] for row in rows]


def _describe(workers: int) -> str:
    return "1 worker" if workers == 1 else f"{workers} workers"


def _use(log: DecisionLog) -> float:
    """Return the part of the limit that is used from the first to the last call."""
    seconds = log.decisions[-1].at - log.decisions[0].at
    return log.granted / (seconds / 60 * _LIMITS.rpm)


def _build_row(workers: int, alone: LightRun, beside: LightRun) -> list[str]:
    return [
        _describe(workers),
        f"{alone.mean_s:.1f}",
        f"{beside.mean_s:.1f}",
        f"{beside.mean_s / alone.mean_s:.2f}",
        f"{_use(beside.log):.3f}",
        str(alone.log.refused + beside.log.refused),
        f"{median(beside.estimate_errors):.3f}",
    ]


def _build_ratios(workers: int, alone: LightRun, beside: LightRun) -> list[Ratio]:
    slowdown, refused = beside.mean_s / alone.mean_s, alone.log.refused + beside.log.refused
    name, error = _describe(workers), median(beside.estimate_errors)
    return [
        Ratio(
            name=f"light ÷ alone, {name}",
            measured=slowdown,
            target=f"≤ {_MOST_SLOWDOWN:g}",
            met=slowdown <= _MOST_SLOWDOWN,
        ),
        Ratio(name=f"429s, {name}", measured=refused, target="0", met=not refused),
        Ratio(
            name=f"error of until ÷ wait, {name}", measured=error, target="≤ 0.1", met=error <= 0.1
        ),
    ]

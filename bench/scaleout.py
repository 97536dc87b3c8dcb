"""How does the rate of blogs grow with workers, and how much does one worker carry at most?

Scheduler and workers run as processes with a real broker and database, and with a constant backlog.
A stand-in call takes four seconds, so that blogs mostly wait for the provider, as in production.
Each worker has few slots: eight workers with fifty slots would measure the processors of a small
machine. Workers join a running fleet; a window begins when all had time to fill their slots. A blog
that crosses the edge of a window counts by its time inside the window. The second part runs one
worker with a provider that answers at once.
"""

import asyncio
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import pairwise

import psutil

from bench.account.decisions import AMPLE_LIMITS
from bench.account.fleet import ServiceFleet, count_ended_jobs, start_fleet
from bench.account.steady_provider import start_steady_provider
from bench.result import Ratio, Result
from bench.servers import running_kafka, running_postgres
from sandbox.servers.postgres import open_connection
from shared.domain.errors import Unavailable

_WORKERS = (1, 2, 4, 8)
_CALL_S = 4.0
_SLOTS = 4
_SETTLE_S = 16.0
"""The time of a rebalance and of two blogs."""
_WINDOW_S = 40.0
_FLAT_OUT_SLOTS = 50
_FLAT_OUT_SETTLE_S = 5.0
_FLAT_OUT_WINDOW_S = 20.0
_FLAT_OUT_JOBS = 5_000
_MIN_EFFICIENCY = 0.95
_MIN_PER_MINUTE = 40

_COUNT_BLOGS = """
SELECT coalesce(sum(inside / whole), 0)::float8 AS blogs, coalesce(sum(inside), 0)::float8 AS slot_s
  FROM (SELECT extract(epoch FROM least(finished_at, $2) - greatest(started_at, $1)) AS inside,
               extract(epoch FROM finished_at - started_at) AS whole
          FROM blog_generations
         WHERE status = 'DONE' AND finished_at > $1 AND started_at < $2) AS blog
"""
_COUNT_WAITING = (
    "SELECT count(*) FROM blog_generations WHERE status = 'PENDING' AND forwarded_at IS NULL"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class CpuWindow:
    """Processor time of all workers and of the scheduler, and the machine's use (0 to 1)."""

    workers: int
    since: datetime
    until: datetime
    workers_cpu_s: float
    scheduler_cpu_s: float
    busy: float

    @property
    def seconds(self) -> float:
        return (self.until - self.since).total_seconds()


@dataclass(frozen=True, slots=True, kw_only=True)
class ThroughputWindow:
    """A window with the blogs written in it and the busy time of its slots."""

    window: CpuWindow
    slots: int
    blogs: float
    slot_s: float

    @property
    def blogs_per_minute(self) -> float:
        return self.blogs * 60 / self.window.seconds

    @property
    def slot_use(self) -> float:
        return self.slot_s / (self.window.seconds * self.window.workers * self.slots)


def run() -> Result:
    return asyncio.run(_run())


async def _run() -> Result:
    async with running_kafka() as bootstrap, running_postgres() as dsn:
        doubled = await _run_growing_fleet(dsn, bootstrap)
        flat_out = await _run_instant_provider(dsn, bootstrap)
    return _result(doubled, flat_out)


async def _run_growing_fleet(dsn: str, bootstrap: str) -> list[ThroughputWindow]:
    """Double the workers of one fleet step by step; measure a window at each size."""
    async with (
        start_steady_provider(latency_s=_CALL_S) as provider,
        _start_fleet(dsn, bootstrap, "grow.", provider.url, slots=_SLOTS) as fleet,
    ):
        windows = list[CpuWindow]()
        for workers in _WORKERS:
            already = windows[-1].workers if windows else 0
            await asyncio.gather(*(fleet.start("generator") for _ in range(workers - already)))
            await asyncio.sleep(_SETTLE_S)
            windows.append(await _measure_window(fleet, workers, _WINDOW_S))
        await asyncio.sleep(_SETTLE_S)  # blogs of the last window end
        return [await _count_blogs(dsn, window, _SLOTS) for window in windows]


async def _run_instant_provider(dsn: str, bootstrap: str) -> ThroughputWindow:
    """Measure one worker with the default slots and a provider that answers at once."""
    async with (
        start_steady_provider(latency_s=0) as provider,
        _start_fleet(
            dsn, bootstrap, "flat-out.", provider.url, slots=_FLAT_OUT_SLOTS, backlog=_FLAT_OUT_JOBS
        ) as fleet,
    ):
        await fleet.start("generator")
        await asyncio.sleep(_FLAT_OUT_SETTLE_S)
        window = await _measure_window(fleet, 1, _FLAT_OUT_WINDOW_S)
        return await _count_blogs(dsn, window, _FLAT_OUT_SLOTS)


def _start_fleet(
    dsn: str, bootstrap: str, prefix: str, url: str, *, slots: int, backlog: int = 2_000
) -> AbstractAsyncContextManager[ServiceFleet]:
    return start_fleet(
        dsn=dsn,
        bootstrap=bootstrap,
        prefix=prefix,
        url=url,
        limits=AMPLE_LIMITS,
        backlog=backlog,
        CONCURRENT_BLOGS=str(slots),
    )


async def _measure_window(fleet: ServiceFleet, workers: int, seconds: float) -> CpuWindow:
    print(f"  {workers} workers …", flush=True)
    psutil.cpu_percent()
    since, before = datetime.now(UTC), (fleet.cpu_s("generator"), fleet.cpu_s("scheduler"))
    await asyncio.sleep(seconds)
    until, after = datetime.now(UTC), (fleet.cpu_s("generator"), fleet.cpu_s("scheduler"))
    busy = psutil.cpu_percent() / 100
    fleet.check_processes()
    return CpuWindow(
        workers=workers,
        since=since,
        until=until,
        workers_cpu_s=after[0] - before[0],
        scheduler_cpu_s=after[1] - before[1],
        busy=busy,
    )


async def _count_blogs(dsn: str, window: CpuWindow, slots: int) -> ThroughputWindow:
    _, failed = await count_ended_jobs(dsn)
    async with open_connection(dsn) as connection:
        waiting: int = await connection.fetchval(_COUNT_WAITING)
        counted = await connection.fetchrow(_COUNT_BLOGS, window.since, window.until)
    if failed or not waiting:
        raise Unavailable(f"{failed} blogs failed, {waiting} wait: the measurement is not valid")
    assert counted is not None
    return ThroughputWindow(
        window=window, slots=slots, blogs=counted["blogs"], slot_s=counted["slot_s"]
    )


def _result(doubled: list[ThroughputWindow], flat_out: ThroughputWindow) -> Result:
    doublings = [
        (more.window.workers, more.blogs_per_minute / (2 * fewer.blogs_per_minute))
        for fewer, more in pairwise(doubled)
    ]
    rows = [
        _row(
            f"{workers} × {_SLOTS} slots, {_CALL_S:g} s a call",
            seen,
            f"{efficiency:.3f}" if efficiency else "",
        )
        for seen, (workers, efficiency) in zip(
            doubled, [(_WORKERS[0], None), *doublings], strict=True
        )
    ]
    rows.append(_row(f"1 × {_FLAT_OUT_SLOTS} slots, instant provider", flat_out, ""))
    return Result(
        question="How does the rate of blogs grow with workers? (two calls per blog, no image;"
        f" {psutil.cpu_count()} processors, shared with broker, database, stand-in and all else)",
        header=[
            "workers",
            "blogs/min",
            "efficiency of the doubling",
            "slots in use",
            "CPU per worker, of one processor",
            "workers' CPU per blog",
            "scheduler's CPU per blog",
            "machine in use",
        ],
        rows=rows,
        ratios=[
            *(
                Ratio(
                    name=f"blogs a minute, {workers // 2} → {workers} workers, ÷ 2",
                    measured=efficiency,
                    target=f"≥ {_MIN_EFFICIENCY}",
                    met=efficiency >= _MIN_EFFICIENCY,
                )
                for workers, efficiency in doublings
            ),
            Ratio(
                name="blogs a minute of one worker, instant provider",
                measured=flat_out.blogs_per_minute,
                target=f"≥ {_MIN_PER_MINUTE}",
                met=flat_out.blogs_per_minute >= _MIN_PER_MINUTE,
            ),
        ],
    )


def _row(name: str, seen: ThroughputWindow, efficiency: str) -> list[str]:
    window = seen.window
    return [
        name,
        f"{seen.blogs_per_minute:,.1f}",
        efficiency,
        f"{seen.slot_use:.1%}",
        f"{window.workers_cpu_s / window.workers / window.seconds:.1%}",
        f"{window.workers_cpu_s / seen.blogs * 1000:.0f} ms",
        f"{window.scheduler_cpu_s / seen.blogs * 1000:.0f} ms",
        f"{window.busy:.0%}",
    ]

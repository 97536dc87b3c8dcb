"""How do blogs a minute grow with workers? And what can one worker carry when providers take no time at all?

Scheduler and workers as processes, a real broker and database, always a backlog. A call to the stand-in takes four
seconds, always the same, so that waiting for the provider is nearly all of a blog's time, as with the real one. Each
worker has few slots: on a small machine eight workers with fifty each would measure its processors. Workers join while
the others work; when all have had time to fill their slots, a window begins. A blog that reaches over an edge of the
window counts by the part of its time within.
"""

import asyncio
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import pairwise

import psutil

from bench.account.audit import AMPLE
from bench.account.ours import Fleet, a_fleet, ended
from bench.account.provider import a_provider
from bench.result import Ratio, Result
from bench.servers import running_kafka, running_postgres
from sandbox.servers.postgres import open_connection
from shared.domain.errors import Unavailable

_WORKERS = (1, 2, 4, 8)
_CALL_S = 4.0
_SLOTS = 4
_SETTLE_S = 16.0
"""A rebalance, and the time of two blogs."""
_WINDOW_S = 40.0
_FLAT_OUT_SLOTS = 50
_FLAT_OUT_SETTLE_S = 5.0
_FLAT_OUT_WINDOW_S = 20.0
_FLAT_OUT_JOBS = 5_000
_LEAST_EFFICIENCY = 0.95
_CONTRACT_A_MINUTE = 40

_COUNT = """
SELECT coalesce(sum(within / whole), 0)::float8 AS blogs, coalesce(sum(within), 0)::float8 AS slot_s
  FROM (SELECT extract(epoch FROM least(finished_at, $2) - greatest(started_at, $1)) AS within,
               extract(epoch FROM finished_at - started_at) AS whole
          FROM blog_generations WHERE status = 'DONE' AND finished_at > $1 AND started_at < $2) AS blog
"""
_WAITING = "SELECT count(*) FROM blog_generations WHERE status = 'PENDING' AND forwarded_at IS NULL"


@dataclass(frozen=True, slots=True, kw_only=True)
class CpuWindow:
    """What was used of processors in a time: by all workers, by the scheduler, and of the whole machine (0 to 1)."""

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
    """A window, the blogs that were written in it, and the part of all slots that was at work."""

    window: CpuWindow
    slots: int
    blogs: float
    slot_s: float

    @property
    def a_minute(self) -> float:
        return self.blogs * 60 / self.window.seconds

    @property
    def at_work(self) -> float:
        return self.slot_s / (self.window.seconds * self.window.workers * self.slots)


def run() -> Result:
    return asyncio.run(_run())


async def _run() -> Result:
    async with running_kafka() as bootstrap, running_postgres() as dsn:
        grown = await _grow(dsn, bootstrap)
        flat_out = await _flat_out(dsn, bootstrap)
    return _result(grown, flat_out)


async def _grow(dsn: str, bootstrap: str) -> list[ThroughputWindow]:
    """One fleet that doubles, a window at each size."""
    async with (
        a_provider(latency_s=_CALL_S) as provider,
        _fleet(dsn, bootstrap, "grow.", provider.url, slots=_SLOTS) as fleet,
    ):
        windows = list[CpuWindow]()
        for workers in _WORKERS:
            already = windows[-1].workers if windows else 0
            await asyncio.gather(*(fleet.start("generator") for _ in range(workers - already)))
            await asyncio.sleep(_SETTLE_S)
            windows.append(await _window(fleet, workers, _WINDOW_S))
        await asyncio.sleep(_SETTLE_S)  # what was begun in the last window counts, too
        return [await _seen(dsn, window, _SLOTS) for window in windows]


async def _flat_out(dsn: str, bootstrap: str) -> ThroughputWindow:
    """One worker as it is configured by default, and a provider that answers at once."""
    async with (
        a_provider(latency_s=0) as provider,
        _fleet(
            dsn, bootstrap, "flat-out.", provider.url, slots=_FLAT_OUT_SLOTS, backlog=_FLAT_OUT_JOBS
        ) as fleet,
    ):
        await fleet.start("generator")
        await asyncio.sleep(_FLAT_OUT_SETTLE_S)
        window = await _window(fleet, 1, _FLAT_OUT_WINDOW_S)
        return await _seen(dsn, window, _FLAT_OUT_SLOTS)


def _fleet(
    dsn: str, bootstrap: str, prefix: str, url: str, *, slots: int, backlog: int = 2_000
) -> AbstractAsyncContextManager[Fleet]:
    return a_fleet(
        dsn=dsn,
        bootstrap=bootstrap,
        prefix=prefix,
        url=url,
        limits=AMPLE,
        backlog=backlog,
        CONCURRENT_BLOGS=str(slots),
    )


async def _window(fleet: Fleet, workers: int, seconds: float) -> CpuWindow:
    print(f"  {workers} at work …", flush=True)
    psutil.cpu_percent()
    since, before = datetime.now(UTC), (fleet.cpu_s("generator"), fleet.cpu_s("scheduler"))
    await asyncio.sleep(seconds)
    until, after = datetime.now(UTC), (fleet.cpu_s("generator"), fleet.cpu_s("scheduler"))
    busy = psutil.cpu_percent() / 100
    fleet.check()
    return CpuWindow(
        workers=workers,
        since=since,
        until=until,
        workers_cpu_s=after[0] - before[0],
        scheduler_cpu_s=after[1] - before[1],
        busy=busy,
    )


async def _seen(dsn: str, window: CpuWindow, slots: int) -> ThroughputWindow:
    _, failed = await ended(dsn)
    async with open_connection(dsn) as connection:
        waiting: int = await connection.fetchval(_WAITING)
        counted = await connection.fetchrow(_COUNT, window.since, window.until)
    if failed or not waiting:
        raise Unavailable(
            f"{failed} blogs failed, {waiting} are left: this says nothing of the workers"
        )
    assert counted is not None
    return ThroughputWindow(
        window=window, slots=slots, blogs=counted["blogs"], slot_s=counted["slot_s"]
    )


def _result(grown: list[ThroughputWindow], flat_out: ThroughputWindow) -> Result:
    doublings = [
        (more.window.workers, more.a_minute / (2 * fewer.a_minute))
        for fewer, more in pairwise(grown)
    ]
    rows = [
        _row(
            f"{workers} × {_SLOTS} slots, {_CALL_S:g} s a call",
            seen,
            f"{efficiency:.3f}" if efficiency else "",
        )
        for seen, (workers, efficiency) in zip(
            grown, [(_WORKERS[0], None), *doublings], strict=True
        )
    ]
    rows.append(_row(f"1 × {_FLAT_OUT_SLOTS} slots, instant provider", flat_out, ""))
    return Result(
        question=f"How do blogs a minute grow with workers? (two calls a blog, no image; {psutil.cpu_count()}"
        " processors, shared with broker, database, stand-in and whatever else runs)",
        header=[
            "workers",
            "blogs/min",
            "efficiency of the doubling",
            "slots at work",
            "CPU a worker, of one processor",
            "workers' CPU a blog",
            "scheduler's CPU a blog",
            "machine in use",
        ],
        rows=rows,
        ratios=[
            *(
                Ratio(
                    what=f"blogs a minute, {workers // 2} → {workers} workers, ÷ 2",
                    seen=efficiency,
                    bar=f"≥ {_LEAST_EFFICIENCY}",
                    held=efficiency >= _LEAST_EFFICIENCY,
                )
                for workers, efficiency in doublings
            ),
            Ratio(
                what="blogs a minute of one worker, instant provider",
                seen=flat_out.a_minute,
                bar=f"≥ {_CONTRACT_A_MINUTE}",
                held=flat_out.a_minute >= _CONTRACT_A_MINUTE,
            ),
        ],
    )


def _row(name: str, seen: ThroughputWindow, efficiency: str) -> list[str]:
    window = seen.window
    return [
        name,
        f"{seen.a_minute:,.1f}",
        efficiency,
        f"{seen.at_work:.1%}",
        f"{window.workers_cpu_s / window.workers / window.seconds:.1%}",
        f"{window.workers_cpu_s / seen.blogs * 1000:.0f} ms",
        f"{window.scheduler_cpu_s / seen.blogs * 1000:.0f} ms",
        f"{window.busy:.0%}",
    ]

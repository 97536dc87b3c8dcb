"""How long does the work of a killed process rest?

Scheduler and workers run as processes with a real broker and database. Four cases repeat:

- a worker is killed: until the last of its jobs runs elsewhere, and until no task is left unclaimed
- a worker is frozen for 20 s: its jobs must stay with it, and no call may be repeated (a quarter of
  the times)
- the leader is killed: until its successor dispatches the next job
- the leader is stopped in order (SIGTERM): the same

There is always a standby, and the other workers always have free slots, as these would add the time
of the running jobs. A worker is stopped 0.2 s before it is killed, so that its calls in progress
are known: as many become in doubt. The time counts from the stop.

BENCH_CASES="worker killed; leader" runs the cases whose names contain one of these texts.
BENCH_KILLS=5 repeats each case so often instead of 20 times. With either, the result is shown and
not recorded.
"""

import asyncio
import os
import signal
import statistics
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial

import asyncpg

from bench.account.decisions import AMPLE_LIMITS
from bench.account.fleet import ServiceFleet, start_fleet
from bench.account.steady_provider import start_steady_provider
from bench.limits import make_case_filter
from bench.result import Ratio, Result
from bench.servers import running_kafka, running_postgres
from sandbox.servers.postgres import open_connection
from sandbox.system.process import ChildProcess
from shared.domain.errors import Unavailable

_TIMES = 20
_CALL_S = 4.0
_JOBS = 24
"""Jobs of one repetition, each of another store; two workers share them."""
_MIN_RUNNING = 5
"""Jobs with a call in progress."""
_STATEMENTS_END_S = 0.2
"""A stopped worker's statements have ended after so long."""
_SETTLE_S = 3.0
"""The time of a rebalance, and of the first report with the new partitions."""
_FROZEN_S = 20.0
_KILLS_PER_FREEZE = 4
_GIVE_UP_S = 120.0
_POLL_S = 0.02

_JOBS_OF = """
SELECT id, attempt, (SELECT count(*) FROM blog_steps
                      WHERE job_id = id AND state = 'STARTED' AND external_id IS NULL)::int AS calls
  FROM blog_generations WHERE status = 'PROCESSING' AND worker = $1
"""
_IS_IDLE = f"SELECT (count(*) < {_MIN_RUNNING})::int FROM ({_JOBS_OF}) AS job WHERE calls > 0"  # noqa: S608
_COUNT_RESTING = """
SELECT count(*)
  FROM blog_generations AS job JOIN unnest($1::uuid[], $2::int[]) AS lost (id, attempt) USING (id)
 WHERE job.attempt = lost.attempt AND status IN ('PENDING', 'PROCESSING')
"""
_COUNT_UNCLAIMED = "SELECT count(*) FROM blog_generations WHERE status = 'PENDING'"
_COUNT_UNFINISHED = "SELECT count(*) FROM blog_generations WHERE finished_at IS NULL"
_COUNT_IN_DOUBT = "SELECT coalesce(sum(in_doubt), 0)::int FROM blog_steps"
_COUNT_FAILED = "SELECT count(*) FROM blog_generations WHERE status = 'FAILED'"
_COUNT_NOT_DISPATCHED = """
SELECT count(*) FROM scheduler_leader
 WHERE epoch <= $1 OR NOT EXISTS (SELECT FROM blog_generations WHERE forwarded_at > since)
"""
_EPOCH = "SELECT epoch FROM scheduler_leader"


@dataclass(frozen=True, slots=True, kw_only=True)
class Interruption:
    """One repetition. The numbers are 0 where a case does not measure them."""

    rest_s: float
    tasks_s: float = 0.0
    """Until no task was left unclaimed."""
    jobs: int = 0
    calls: int = 0
    """The worker's calls in progress."""
    in_doubt: int = 0


@dataclass(frozen=True, slots=True)
class System:
    """The running processes of a case, and how to look at them."""

    fleet: ServiceFleet
    database: asyncpg.Connection

    async def submit_jobs(self) -> None:
        await self.fleet.submit_requests([f"store-{number}" for number in range(_JOBS)])

    async def find_leader(self) -> ChildProcess:
        holder: str = await self.database.fetchval("SELECT holder FROM scheduler_leader")
        return next(
            child for child in self.fleet.running("scheduler") if f"-{child.pid}-" in holder
        )

    async def find_worker_name(self, worker: ChildProcess) -> str:
        """Return the name under which a worker connects to PostgreSQL."""
        name: str = await self.database.fetchval(
            "SELECT min(application_name) FROM pg_stat_activity WHERE application_name LIKE $1",
            f"generator-%-{worker.pid}-%",
        )
        return name

    async def count(self, query: str, *arguments: object) -> int:
        return int(await self.database.fetchval(query, *arguments))

    async def wait_until_none(self, query: str, *arguments: object) -> float:
        """Wait until the query counts 0, and return the time of the monotonic clock."""
        give_up = time.monotonic() + _GIVE_UP_S
        while await self.count(query, *arguments):
            if time.monotonic() > give_up:
                raise Unavailable(f"still not 0 after {_GIVE_UP_S:g} s: {query}")
            await asyncio.sleep(_POLL_S)
        return time.monotonic()


Case = Callable[[System, int], AsyncIterator[Interruption]]


def run() -> Result:
    return asyncio.run(
        _run(
            make_case_filter(os.environ.get("BENCH_CASES", "")),
            int(os.environ.get("BENCH_KILLS", _TIMES)),
        )
    )


async def _run(is_chosen: Callable[[str], bool], times: int) -> Result:
    cases = [name for name in _CASES if is_chosen(name)]
    measured = dict[str, list[Interruption]]()
    async with running_kafka() as bootstrap, running_postgres() as dsn:
        for number, name in enumerate(cases):
            print(f"  {name} …", flush=True)
            async with _start_system(dsn, bootstrap, f"recovery{number}.") as system:
                measured[name] = await _measure(system, _CASES[name], times)
    return Result(
        question="How long does the work of a killed process rest?",
        header=[
            "",
            "times",
            "median",
            "worst",
            "unclaimed tasks, worst",
            "running jobs",
            "calls in progress",
            "calls in doubt",
        ],
        rows=[_build_row(name, found) for name, found in measured.items()],
        ratios=[ratio for name, found in measured.items() for ratio in _build_ratios(name, found)],
        recorded=times == _TIMES and len(cases) == len(_CASES),
    )


@asynccontextmanager
async def _start_system(dsn: str, bootstrap: str, prefix: str) -> AsyncIterator[System]:
    """Start a scheduler, no worker and no job."""
    async with (
        start_steady_provider(latency_s=_CALL_S) as provider,
        start_fleet(
            dsn=dsn,
            bootstrap=bootstrap,
            prefix=prefix,
            url=provider.url,
            limits=AMPLE_LIMITS,
            backlog=0,
        ) as fleet,
        open_connection(dsn) as database,
    ):
        yield System(fleet, database)


async def _measure(system: System, case: Case, times: int) -> list[Interruption]:
    found = list[Interruption]()
    async for one in case(system, times):
        print(
            f"    {one.rest_s:.2f} s, unclaimed tasks {one.tasks_s:.2f} s, {one.jobs} jobs,"
            f" {one.calls} calls in progress, {one.in_doubt} in doubt",
            flush=True,
        )
        found.append(one)
    system.fleet.check_processes()
    if await system.count(_COUNT_FAILED):
        raise Unavailable("jobs failed: the result says nothing about recovery")
    return found


async def _kill_workers(system: System, times: int) -> AsyncIterator[Interruption]:
    workers = [await _start_worker(system) for _ in range(2)]
    for _ in range(times):
        victim = workers.pop(0)
        in_doubt = await system.count(_COUNT_IN_DOUBT)
        began, lost = await _freeze_busy_worker(system, victim)
        system.fleet.send_signal(victim, signal.SIGKILL)
        jobs = [[row["id"] for row in lost], [row["attempt"] for row in lost]]
        rest_s = await system.wait_until_none(_COUNT_RESTING, *jobs) - began
        tasks_s = await system.wait_until_none(_COUNT_UNCLAIMED) - began
        workers.append(await _start_worker(system))
        await system.wait_until_none(_COUNT_UNFINISHED)
        yield Interruption(
            rest_s=rest_s,
            tasks_s=tasks_s,
            jobs=len(lost),
            calls=sum(row["calls"] for row in lost),
            in_doubt=await system.count(_COUNT_IN_DOUBT) - in_doubt,
        )


async def _freeze_workers(system: System, times: int) -> AsyncIterator[Interruption]:
    workers = [await _start_worker(system) for _ in range(2)]
    for number in range(max(times // _KILLS_PER_FREEZE, 1)):
        victim = workers[number % 2]
        in_doubt = await system.count(_COUNT_IN_DOUBT)
        began, held = await _freeze_busy_worker(system, victim)
        await asyncio.sleep(began + _FROZEN_S - time.monotonic())
        system.fleet.send_signal(victim, signal.SIGCONT)
        rest_s = time.monotonic() - began
        await system.wait_until_none(_COUNT_UNFINISHED)
        yield Interruption(
            rest_s=rest_s,
            jobs=len(held),
            calls=sum(row["calls"] for row in held),
            in_doubt=await system.count(_COUNT_IN_DOUBT) - in_doubt,
        )


async def _start_worker(system: System) -> ChildProcess:
    worker = await system.fleet.start("generator")
    await asyncio.sleep(_SETTLE_S)
    return worker


async def _freeze_busy_worker(
    system: System, worker: ChildProcess
) -> tuple[float, Sequence[asyncpg.Record]]:
    """Stop a worker with jobs. Returns when it was stopped, and its jobs."""
    name = await system.find_worker_name(worker)
    await system.submit_jobs()
    await system.wait_until_none(_IS_IDLE, name)
    began = time.monotonic()
    system.fleet.send_signal(worker, signal.SIGSTOP)
    await asyncio.sleep(_STATEMENTS_END_S)
    return began, await system.database.fetch(_JOBS_OF, name)


async def _end_leaders(
    system: System, times: int, *, number: signal.Signals
) -> AsyncIterator[Interruption]:
    await _start_worker(system)
    await _start_standby(system)
    for _ in range(times):
        epoch = await system.count(_EPOCH)
        leader = await system.find_leader()
        began = time.monotonic()
        system.fleet.send_signal(leader, number)
        await system.submit_jobs()
        rest_s = await system.wait_until_none(_COUNT_NOT_DISPATCHED, epoch) - began
        await _start_standby(system)
        await system.wait_until_none(_COUNT_UNFINISHED)
        yield Interruption(rest_s=rest_s)


async def _start_standby(system: System) -> None:
    """Start one more scheduler. The leader begins a new session when it has joined."""
    epoch = await system.count(_EPOCH)
    await system.fleet.start("scheduler")
    await system.wait_until_none("SELECT count(*) FROM scheduler_leader WHERE epoch <= $1", epoch)


_CASES: Mapping[str, Case] = {
    "worker killed": _kill_workers,
    f"worker frozen for {_FROZEN_S:g} s": _freeze_workers,
    "leader killed": partial(_end_leaders, number=signal.SIGKILL),
    "leader stopped in order": partial(_end_leaders, number=signal.SIGTERM),
}
_BARS = {"worker killed": 15.0, "leader killed": 12.0, "leader stopped in order": 2.0}


def _build_row(name: str, found: Sequence[Interruption]) -> list[str]:
    rests, tasks = [one.rest_s for one in found], max(one.tasks_s for one in found)
    jobs, calls = sum(one.jobs for one in found), sum(one.calls for one in found)
    return [
        name,
        str(len(found)),
        f"{statistics.median(rests):.2f} s",
        f"{max(rests):.2f} s",
        f"{tasks:.2f} s" if tasks else "",
        str(jobs or ""),
        str(calls or ""),
        str(sum(one.in_doubt for one in found)) if jobs else "",
    ]


def _build_ratios(name: str, found: Sequence[Interruption]) -> list[Ratio]:
    ratios = list[Ratio]()
    if (bar := _BARS.get(name)) is not None:
        worst = max(max(one.rest_s, one.tasks_s) for one in found)
        ratios.append(
            Ratio(
                name=f"{name}: worst, in seconds",
                measured=worst,
                target=f"≤ {bar:g}",
                met=worst <= bar,
            )
        )
    if any(one.jobs for one in found):
        allowed = sum(one.calls for one in found) if name == "worker killed" else 0
        in_doubt = sum(one.in_doubt for one in found)
        ratios.append(
            Ratio(
                name=f"{name}: calls in doubt",
                measured=in_doubt,
                target=f"≤ {allowed}",
                met=in_doubt <= allowed,
            )
        )
    return ratios

"""How close to the bound does an account of any size come, with any number of workers?

llmock enforces the limits and records its decisions; every case starts a new one. Scheduler and
workers run as processes with a real broker and database. A fixed number of posts is written. The
bound is the time that the charged requests and tokens need at the account's limit; the makespan is
the time from the first call to the last one. A bucket that is full at the start allows the first
calls at once, so a makespan may be shorter than the bound.

BENCH_CASES="3 RPM; 4 workers" runs the cases whose names contain one of these texts; then the
result is shown and not recorded.
"""

import asyncio
import os
import time
from dataclasses import dataclass

from bench.account.decisions import AccountLimits, DecisionLog
from bench.account.fleet import count_ended_jobs, start_fleet
from bench.account.reference_provider import start_reference_provider
from bench.limits import make_case_filter
from bench.result import Ratio, Result
from bench.servers import running_kafka, running_postgres
from shared.domain.errors import Unavailable

_CALLS_PER_JOB = 2
_ENDS_WITHIN_S = 900.0


@dataclass(frozen=True, slots=True, kw_only=True)
class SizeCase:
    """An account, and the posts to write with it."""

    limits: AccountLimits
    workers: int
    jobs: int
    bar: float
    """The largest makespan ÷ bound."""

    @property
    def name(self) -> str:
        many = "1 worker" if self.workers == 1 else f"{self.workers} workers"
        return f"{self.limits.rpm:,} RPM, {self.limits.tpm:,} TPM, {many}"


_SIZES = (
    # Short cases are longer than the bound by the time of the last calls and of the first refill.
    (AccountLimits(rpm=3, tpm=40_000), 4, 1.35),
    (AccountLimits(rpm=500, tpm=30_000), 10, 1.2),
    (AccountLimits(rpm=500, tpm=200_000), 45, 1.15),
    (AccountLimits(rpm=5_000, tpm=4_000_000), 800, 1.15),
    # A fresh account: the surplus above the account floor is spent as well.
    (AccountLimits(rpm=600, tpm=20_000_000), 350, 0.65),
)
_CASES = tuple(
    SizeCase(limits=limits, workers=workers, jobs=jobs, bar=bar)
    for limits, jobs, bar in _SIZES
    for workers in (1, 2, 4)
)


def run() -> Result:
    return asyncio.run(_run())


async def _run() -> Result:
    is_chosen = make_case_filter(os.environ.get("BENCH_CASES", ""))
    cases = [case for case in _CASES if is_chosen(case.name)]
    rows, ratios = list[list[str]](), list[Ratio]()
    async with running_kafka() as bootstrap, running_postgres() as dsn:
        for number, case in enumerate(cases):
            print(f"  {case.name} …", flush=True)
            decisions = await _write_posts(case, bootstrap, dsn, f"sizes{number}.")
            rows.append(_build_row(case, decisions))
            ratios += _build_ratios(case, decisions)
            print(f"    {' · '.join(rows[-1][1:])}", flush=True)
    return Result(
        question="How close to the bound does an account of any size come?"
        f" ({_CALLS_PER_JOB} calls per post, no image, 300 ms per call)",
        header=["", "posts", "makespan, s", "bound, s", "makespan ÷ bound", "429s", "calls"],
        rows=rows,
        ratios=ratios,
        recorded=len(cases) == len(_CASES),
    )


async def _write_posts(case: SizeCase, bootstrap: str, dsn: str, prefix: str) -> DecisionLog:
    async with (
        start_reference_provider(case.limits) as provider,
        start_fleet(
            dsn=dsn,
            bootstrap=bootstrap,
            prefix=prefix,
            url=provider.url,
            limits=case.limits,
            backlog=case.jobs,
        ) as fleet,
    ):
        await asyncio.gather(*(fleet.start("generator") for _ in range(case.workers)))
        give_up = time.monotonic() + _ENDS_WITHIN_S
        while (ended := await count_ended_jobs(dsn)) != (case.jobs, 0):
            fleet.check_processes()
            if time.monotonic() > give_up or ended[1]:
                raise Unavailable(f"{case.name}: {ended[0]} done, {ended[1]} failed")
            await asyncio.sleep(0.2)
        return await provider.read_decisions()


def _makespan_s(log: DecisionLog) -> float:
    return log.decisions[-1].at - log.decisions[0].at


def _bound_s(case: SizeCase, log: DecisionLog) -> float:
    tokens = sum(decision.tokens for decision in log.decisions if decision.granted)
    return 60 * max(log.granted / case.limits.rpm, tokens / case.limits.tpm)


def _build_row(case: SizeCase, log: DecisionLog) -> list[str]:
    makespan, bound = _makespan_s(log), _bound_s(case, log)
    return [
        case.name,
        str(case.jobs),
        f"{makespan:.0f}",
        f"{bound:.0f}",
        f"{makespan / bound:.2f}",
        str(log.refused),
        str(len(log.decisions)),
    ]


def _build_ratios(case: SizeCase, log: DecisionLog) -> list[Ratio]:
    ratio = _makespan_s(log) / _bound_s(case, log)
    return [
        Ratio(
            name=f"makespan ÷ bound, {case.name}",
            measured=ratio,
            target=f"≤ {case.bar:g}",
            met=ratio <= case.bar,
        ),
        Ratio(name=f"429s, {case.name}", measured=log.refused, target="0", met=not log.refused),
    ]

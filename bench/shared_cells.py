"""Two cells share one provider account. Is it used without 429s, with divided limits and without?

Each cell has its own topics, database, scheduler, worker and backlog; llmock enforces RPM 600 for
both. After 90 seconds the worker of the second cell is killed: what it leaves belongs to the first
cell, as far as the provider's headers show it.
"""

import asyncio
import signal
from collections.abc import Sequence

from bench.account.decisions import AccountLimits, RateDecision
from bench.account.fleet import start_fleet
from bench.account.reference_provider import start_reference_provider
from bench.result import Ratio, Result
from bench.servers import running_kafka, running_postgres
from migrations import runner
from sandbox.servers.postgres import open_connection

_ACCOUNT = AccountLimits(rpm=600, tpm=20_000_000)
_CASES = {"each cell with half of the limits": 2, "each cell with all of the limits": 1}
_BOTH = (30, 90)
_ALONE = (110, 150)
"""Windows in seconds after the first call. Between them the second cell leaves."""


def run() -> Result:
    return asyncio.run(_run())


async def _run() -> Result:
    async with running_kafka() as bootstrap, running_postgres() as dsn:
        dsns = (dsn, await _create_database(dsn))
        measured = {
            name: await _measure_case(bootstrap, dsns, divisor, f"over-{divisor}.")
            for name, divisor in _CASES.items()
        }
    return _build_result(measured)


async def _create_database(dsn: str) -> str:
    """Create and migrate the second cell's database on the same server; return its DSN."""
    async with open_connection(dsn) as connection:
        await connection.execute("CREATE DATABASE cell_b")
    other = f"{dsn.rsplit('/', 1)[0]}/cell_b"
    await runner.apply_missing(other)
    return other


async def _measure_case(
    bootstrap: str, dsns: Sequence[str], divisor: int, prefix: str
) -> Sequence[RateDecision]:
    """Return the provider's decisions about the calls of both cells."""
    print(f"  limits ÷ {divisor} …", flush=True)
    limits = AccountLimits(rpm=_ACCOUNT.rpm // divisor, tpm=_ACCOUNT.tpm // divisor)
    async with start_reference_provider(_ACCOUNT) as provider:
        fleets = [
            start_fleet(
                dsn=dsn,
                bootstrap=bootstrap,
                prefix=f"{prefix}{number}.",
                url=provider.url,
                limits=limits,
            )
            for number, dsn in enumerate(dsns)
        ]
        async with fleets[0] as stays, fleets[1] as leaves:
            _, leaver = await asyncio.gather(stays.start("generator"), leaves.start("generator"))
            await provider.wait_until_second(_BOTH[1])
            leaves.send_signal(leaver, signal.SIGKILL)
            await provider.wait_until_second(_ALONE[1])
            stays.check_processes()
        return (await provider.read_decisions()).decisions


def _build_result(measured: dict[str, Sequence[RateDecision]]) -> Result:
    rows, ratios = list[list[str]](), list[Ratio]()
    for name, decisions in measured.items():
        both, alone = (_use(decisions, *window) for window in (_BOTH, _ALONE))
        refused = sum(not call.granted for call in decisions)
        rows.append([name, f"{both:.3f}", f"{alone:.3f}", str(refused)])
        if name == next(iter(_CASES)):
            ratios = [
                Ratio(name=f"{name}: 429s", measured=refused, target="0", met=refused == 0),
                Ratio(
                    name=f"{name}: use by both", measured=both, target="≥ 0.985", met=both >= 0.985
                ),
            ]
    return Result(
        question="How do two cells use one provider account? (600 requests a minute, always a"
        f" backlog; one cell's worker is killed at {_BOTH[1]} s)",
        header=["", "use by both", "use by one after the other has left", "429s"],
        rows=rows,
        ratios=ratios,
    )


def _use(decisions: Sequence[RateDecision], since: float, until: float) -> float:
    """Return the granted calls of a window, divided by what the account allows in it."""
    began = decisions[0].at
    granted = sum(call.granted and since <= call.at - began < until for call in decisions)
    return granted / ((until - since) * _ACCOUNT.rpm / 60)

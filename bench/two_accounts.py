"""How much of two accounts of different size is used, and how fast does one take over?

Two stand-ins enforce the limits and count their calls. Scheduler and workers run as processes with
a real broker and database, and always have a backlog. After the window the larger account has no
money left. Calls to it end soon, but for a probe a minute; the last one before the first probe
shows how long the failover takes, and the use of the other account whether it works on.
"""

import asyncio
import tempfile
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

from bench.account.decisions import AccountLimits
from bench.account.fleet import API_KEY, count_ended_jobs, start_fleet
from bench.result import Ratio, Result
from bench.servers import running_kafka, running_postgres, running_process
from sandbox.system.home import free_port
from shared.domain.errors import Unavailable

_LARGE = AccountLimits(rpm=600, tpm=20_000_000)
_SMALL = AccountLimits(rpm=120, tpm=20_000_000)
_WORKERS = (1, 2, 4)
_SETTLE_S = 65.0
"""A minute's limit may be used at once in the beginning: the window comes later."""
_WINDOW_S = 40.0
_WATCH_S = 40.0
"""Less than the minute until the first probe."""
_BAR = 0.97
_MAX_FAILOVER_S = 5.0
_MAX_FAILED_CALLS = 100_000

_ACCOUNT = """
[[text]]
name = "{name}"
key = "OPENAI_API_KEY"
base_url = "{url}/v1"
model = "gpt-4o-mini"
requests_per_minute = {rpm}
tokens_per_minute = {tpm}
"""


class StandinAccount:
    """One account: a stand-in's process."""

    def __init__(self, name: str, url: str, limits: AccountLimits) -> None:
        self.name = name
        self.url = url
        self.limits = limits

    def entry(self) -> str:
        """Return the account's table in `PROVIDERS_FILE`."""
        return _ACCOUNT.format(
            name=self.name, url=self.url, rpm=self.limits.rpm, tpm=self.limits.tpm
        )

    async def read_bill(self) -> dict[str, Any]:
        async with httpx.AsyncClient(timeout=10) as client:
            bill: dict[str, Any] = (await client.get(f"{self.url}/standin/bill")).json()
            return bill

    async def run_out_of_money(self) -> None:
        fault = {"kind": "insufficient_quota", "count": _MAX_FAILED_CALLS}
        async with httpx.AsyncClient(timeout=10) as client:
            answer = await client.post(f"{self.url}/standin/faults", json=[fault])
            answer.raise_for_status()

    async def count_failed_calls(self) -> int:
        """Return the calls since the account ran out of money."""
        async with httpx.AsyncClient(timeout=10) as client:
            left = (await client.get(f"{self.url}/standin/faults")).json()
        return _MAX_FAILED_CALLS - sum(int(fault["count"]) for fault in left)


@dataclass(frozen=True, slots=True, kw_only=True)
class CaseResult:
    workers: int
    large_use: float
    small_use: float
    rejected: int
    failover_s: float
    small_use_after: float
    failed_jobs: int


def run() -> Result:
    return asyncio.run(_run())


async def _run() -> Result:
    async with running_kafka() as bootstrap, running_postgres() as dsn:
        return _build_result([await _run_case(workers, bootstrap, dsn) for workers in _WORKERS])


@asynccontextmanager
async def _start_account(name: str, limits: AccountLimits) -> AsyncIterator[StandinAccount]:
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    variables = {
        "STANDINS": "openai",
        "STANDIN_OPENAI_PORT": str(port),
        "STANDIN_OPENAI_LATENCY_MS": "300",
        "OPENAI_RPM": str(limits.rpm),
        "OPENAI_TPM": str(limits.tpm),
    }
    async with running_process(
        "sandbox.providers", ready_at=f"{url}/standin/bill", variables=variables
    ):
        yield StandinAccount(name, url, limits)


async def _run_case(workers: int, bootstrap: str, dsn: str) -> CaseResult:
    print(f"  {workers} workers …", flush=True)
    with tempfile.TemporaryDirectory(prefix="blogstream-bench-") as folder:
        file = Path(folder) / "providers.toml"
        async with (
            _start_account("large", _LARGE) as large,
            _start_account("small", _SMALL) as small,
        ):
            file.write_text(large.entry() + small.entry(), encoding="utf-8")
            async with start_fleet(
                dsn=dsn,
                bootstrap=bootstrap,
                prefix=f"two{workers}.",
                url="",
                limits=_LARGE,
                PROVIDERS_FILE=str(file),
                OPENAI_API_KEY=API_KEY,
                IMAGES="off",
            ) as fleet:
                await asyncio.gather(*(fleet.start("generator") for _ in range(workers)))
                await asyncio.sleep(_SETTLE_S)
                large_use, small_use = await asyncio.gather(_use(large), _use(small))
                failover_s, small_use_after = await asyncio.gather(_fail(large), _use(small))
                fleet.check_processes()
            _, failed = await count_ended_jobs(dsn)
            rejected = sum([(await one.read_bill())["rejected"] for one in (large, small)])
    return CaseResult(
        workers=workers,
        large_use=large_use,
        small_use=small_use,
        rejected=rejected,
        failover_s=failover_s,
        small_use_after=small_use_after,
        failed_jobs=failed,
    )


async def _use(account: StandinAccount) -> float:
    """Return the part of an account's requests that is served in the window."""
    began, before = time.monotonic(), (await account.read_bill())["calls"]
    await asyncio.sleep(_WINDOW_S)
    served = (await account.read_bill())["calls"] - before
    return float(served / (account.limits.rpm * (time.monotonic() - began) / 60))


async def _fail(account: StandinAccount) -> float:
    """Let an account run out of money. Return the seconds until the last call to it."""
    await account.run_out_of_money()
    began, last, refused = time.monotonic(), 0.0, 0
    while (now := time.monotonic() - began) < _WATCH_S:
        seen = await account.count_failed_calls()
        if seen > refused:
            last, refused = now, seen
        await asyncio.sleep(0.1)
    if not refused:
        raise Unavailable("no call met the account without money: the case proves nothing")
    return last


def _build_result(cases: list[CaseResult]) -> Result:
    rows = [
        [
            str(case.workers),
            f"{case.large_use:.3f}",
            f"{case.small_use:.3f}",
            str(case.rejected),
            f"{case.failover_s:.1f} s",
            f"{case.small_use_after:.3f}",
            str(case.failed_jobs),
        ]
        for case in cases
    ]
    return Result(
        question="How much of two accounts is used, and how fast does one take over?"
        f" ({_LARGE.rpm} and {_SMALL.rpm} requests a minute, always a backlog)",
        header=[
            "workers",
            "use of the larger",
            "use of the smaller",
            "429s",
            "larger one without money: until its last call",
            "use of the smaller then",
            "FAILED jobs",
        ],
        rows=rows,
        ratios=[ratio for case in cases for ratio in _build_ratios(case)],
    )


def _build_ratios(case: CaseResult) -> list[Ratio]:
    def at_least(name: str, value: float) -> Ratio:
        return Ratio(
            name=f"{name}, {case.workers} workers",
            measured=value,
            target=f"≥ {_BAR}",
            met=value >= _BAR,
        )

    def zero(name: str, value: int) -> Ratio:
        return Ratio(
            name=f"{name}, {case.workers} workers", measured=value, target="0", met=not value
        )

    return [
        at_least("use of the larger", case.large_use),
        at_least("use of the smaller", case.small_use),
        at_least("use of the smaller after the failover", case.small_use_after),
        zero("429s", case.rejected),
        zero("FAILED jobs", case.failed_jobs),
        Ratio(
            name=f"seconds until the last call to the failed account, {case.workers} workers",
            measured=case.failover_s,
            target=f"≤ {_MAX_FAILOVER_S:g}",
            met=case.failover_s <= _MAX_FAILOVER_S,
        ),
    ]

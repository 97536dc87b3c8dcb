"""Another application takes half of an account for a minute. Do workers yield and recover fast?

Two workers run as in production, with llmock at RPM 600 and always a backlog. From second 60 to 120
after the first call, another application with the same key makes five small calls a second, without
retries.
"""

import asyncio
import time
from collections.abc import Sequence

import httpx

from bench.account.decisions import AccountLimits, RateDecision
from bench.account.fleet import API_KEY, start_fleet
from bench.account.reference_provider import ReferenceProvider, start_reference_provider
from bench.result import Ratio, Result
from bench.servers import running_kafka, running_postgres

_LIMITS = AccountLimits(rpm=600, tpm=20_000_000)
_COMES, _GOES, _END = 60, 120, 180
_OTHER_CALLS_A_SECOND = 5
_MAX_OTHER_TOKENS = 300
"""Tokens: the other application's calls are smaller than any call of a worker."""
_SLICE_S = 10


def run() -> Result:
    return asyncio.run(_run())


async def _run() -> Result:
    async with (
        running_kafka() as bootstrap,
        running_postgres() as dsn,
        start_reference_provider(_LIMITS) as provider,
    ):
        async with start_fleet(
            dsn=dsn, bootstrap=bootstrap, prefix="shared.", url=provider.url, limits=_LIMITS
        ) as fleet:
            await asyncio.gather(*(fleet.start("generator") for _ in range(2)))
            await provider.wait_until_second(_COMES)
            await _run_other_application(provider, seconds=_GOES - _COMES)
            await provider.wait_until_second(_END)
            fleet.check_processes()
        return _build_result((await provider.read_decisions()).decisions)


async def _run_other_application(provider: ReferenceProvider, *, seconds: float) -> None:
    body = {"model": "gpt-4o-mini", "input": "Hello", "max_output_tokens": 50}
    async with httpx.AsyncClient(
        headers={"authorization": f"Bearer {API_KEY}"}, timeout=30
    ) as client:
        calls = set[asyncio.Task[httpx.Response]]()
        began = time.monotonic()
        for number in range(int(seconds * _OTHER_CALLS_A_SECOND)):
            await asyncio.sleep(max(0.0, began + number / _OTHER_CALLS_A_SECOND - time.monotonic()))
            calls.add(asyncio.create_task(client.post(f"{provider.url}/responses", json=body)))
        await asyncio.gather(*calls, return_exceptions=True)


def _build_result(decisions: Sequence[RateDecision]) -> Result:
    ours = [decision for decision in decisions if decision.tokens > _MAX_OTHER_TOKENS]
    others = [decision for decision in decisions if decision.tokens <= _MAX_OTHER_TOKENS]
    began, full = decisions[0].at, _LIMITS.rpm / 60
    slices = [(second, second + _SLICE_S) for second in range(0, _END, _SLICE_S)]
    rows = [
        [
            f"{since}-{until} s",
            *(f"{_rate(calls, began, since, until):.1f}" for calls in (ours, others)),
        ]
        for since, until in slices
    ]
    used = (_rate(ours, began, _COMES, _END) + _rate(others, began, _COMES, _END)) / full
    refused, other_refused = _count_refused(ours), _count_refused(others)
    return Result(
        question="What happens when another application takes half of the account?"
        " (accepted calls a second; it starts at 60 s)",
        header=["", "ours", "the other's"],
        rows=[*rows, ["429s in all", str(refused), str(other_refused)]],
        ratios=[
            Ratio(name="our 429s", measured=refused, target="0", met=refused == 0),
            Ratio(
                name="the other's 429s", measured=other_refused, target="0", met=other_refused == 0
            ),
            Ratio(
                name="use by both (60-180 s)", measured=used, target="≥ 0.985", met=used >= 0.985
            ),
        ],
    )


def _rate(calls: Sequence[RateDecision], began: float, since: float, until: float) -> float:
    return sum(call.granted and since <= call.at - began < until for call in calls) / (
        until - since
    )


def _count_refused(calls: Sequence[RateDecision]) -> int:
    return sum(not call.granted for call in calls)

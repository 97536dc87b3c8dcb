"""Another application takes half of the account for a minute: do we yield, how fast, and how fast do we recover?

Two of our workers as in production, against llmock at RPM 600, with a backlog all the time. From second 60 to 120
after the first call somebody else, with the same key, makes five small calls a second, and takes what it gets.
"""

import asyncio
import time
from collections.abc import Sequence

import httpx

from bench.account.audit import Decision, Limits
from bench.account.judge import Judge, a_judge
from bench.account.ours import API_KEY, a_fleet
from bench.result import Ratio, Result
from bench.servers import running_kafka, running_postgres

_LIMITS = Limits(rpm=600, tpm=20_000_000)
_COMES, _GOES, _END = 60, 120, 180
_OTHERS_A_SECOND = 5
_SMALL = 300
"""Tokens: the other's calls are smaller than any of ours."""
_SLICE_S = 10


def run() -> Result:
    return asyncio.run(_run())


async def _run() -> Result:
    async with running_kafka() as bootstrap, running_postgres() as dsn, a_judge(_LIMITS) as judge:
        async with a_fleet(
            dsn=dsn, bootstrap=bootstrap, prefix="shared.", url=judge.url, limits=_LIMITS
        ) as fleet:
            await asyncio.gather(*(fleet.start("generator") for _ in range(2)))
            await judge.second(_COMES)
            await _another_application(judge, seconds=_GOES - _COMES)
            await judge.second(_END)
            fleet.check()
        return _result((await judge.audit()).decisions)


async def _another_application(judge: Judge, *, seconds: float) -> None:
    body = {"model": "gpt-4o-mini", "input": "Hello", "max_output_tokens": 50}
    async with httpx.AsyncClient(
        headers={"authorization": f"Bearer {API_KEY}"}, timeout=30
    ) as client:
        calls = set[asyncio.Task[httpx.Response]]()
        began = time.monotonic()
        for number in range(int(seconds * _OTHERS_A_SECOND)):
            await asyncio.sleep(max(0.0, began + number / _OTHERS_A_SECOND - time.monotonic()))
            calls.add(asyncio.create_task(client.post(f"{judge.url}/responses", json=body)))
        await asyncio.gather(*calls, return_exceptions=True)


def _result(decisions: Sequence[Decision]) -> Result:
    ours = [decision for decision in decisions if decision.tokens > _SMALL]
    others = [decision for decision in decisions if decision.tokens <= _SMALL]
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
    refused, turned_away = _refused(ours), _refused(others)
    return Result(
        question="What when another application takes half of the account? (calls a second let in; it comes at 60 s)",
        header=["", "ours", "the other's"],
        rows=[*rows, ["429s in all", str(refused), str(turned_away)]],
        ratios=[
            Ratio(what="our 429s", seen=refused, bar="0", held=refused == 0),
            Ratio(what="the other's 429s", seen=turned_away, bar="0", held=turned_away == 0),
            Ratio(what="use by both (60-180 s)", seen=used, bar="≥ 0.985", held=used >= 0.985),
        ],
    )


def _rate(calls: Sequence[Decision], began: float, since: float, until: float) -> float:
    return sum(call.granted and since <= call.at - began < until for call in calls) / (
        until - since
    )


def _refused(calls: Sequence[Decision]) -> int:
    return sum(not call.granted for call in calls)

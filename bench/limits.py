"""How much of an account's budget is used, and how often is its limit broken?

The judge is llmock, an independent server with continuous buckets, a fresh one for every run; what counts is what it
charged and refused. Ours runs as in production: scheduler and workers as processes, a real broker and database,
always a backlog. Peers are one process each with 60 tasks that make the same kind of call. llmock fills in the
schema that a call asks for, so our jobs end as they would with the real provider.

BENCH_CASES="2 workers; litellm" runs the cases whose names hold one of these texts; BENCH_WINDOW=20-50 judges other
seconds than 60 to 180. Either makes it a trial, whose result is shown and not recorded.
"""

import asyncio
import os
import re
import signal
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from importlib import import_module
from typing import Any

from bench.account.audit import Audit, Limits, Window
from bench.account.judge import Judge, a_judge
from bench.account.ours import a_fleet, ended
from bench.peers.crowd import a_crowd
from bench.result import Ratio, Result
from bench.servers import running_kafka, running_postgres
from shared.domain.errors import Unavailable

_BY_REQUESTS = Limits(rpm=600, tpm=20_000_000)
_BY_TOKENS = Limits(rpm=60_000, tpm=200_000)
_WINDOW = Window(since=60, until=180)
_BAR = 0.985
_MISSED_AFTER_S = 13.0
"""A consumer's session of ten seconds, and the heartbeat of three by which the others learn that one is gone."""

_PEERS = {
    "openai SDK, its own retries": "sdk",
    "tenacity": "tenacity",
    "OpenAI cookbook's loop": "cookbook",
    "aiolimiter": "aiolimiter",
    "LiteLLM's model limits": "litellm",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Ours:
    """Workers against an account; with `leaves`, one more joins in the window's first third, and one leaves later."""

    limits: Limits
    workers: int
    leaves: signal.Signals | None = None

    @property
    def name(self) -> str:
        limit = "RPM 600" if self.limits is _BY_REQUESTS else "TPM 200,000"
        many = "1 worker" if self.workers == 1 else f"{self.workers} workers"
        change = f", one more joins, one leaves ({self.leaves.name})" if self.leaves else ""
        return f"ours, {limit}, {many}{change}"

    def bar(self, window: Window) -> float:
        """A killed worker's share is lost until Kafka misses it; nothing else may be."""
        if self.leaves is not signal.SIGKILL:
            return _BAR
        return _BAR - _MISSED_AFTER_S / (self.workers + 1) / (window.until - window.since)


_OURS = (
    *(Ours(limits=_BY_REQUESTS, workers=workers) for workers in (1, 2, 4)),
    *(Ours(limits=_BY_REQUESTS, workers=2, leaves=how) for how in (signal.SIGTERM, signal.SIGKILL)),
    *(Ours(limits=_BY_TOKENS, workers=workers) for workers in (1, 2, 4)),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """One run's outcome; `ended` says what became of jobs or calls."""

    name: str
    audit: Audit
    use: float
    ended: str


def run() -> Result:
    return asyncio.run(
        _run(chosen(os.environ.get("BENCH_CASES", "")), window(os.environ.get("BENCH_WINDOW", "")))
    )


def chosen(texts: str) -> Callable[[str], bool]:
    """Whether a case's name holds one of the texts between semicolons; all do when there are none."""
    wanted = [text.strip().lower() for text in texts.split(";") if text.strip()]
    return lambda name: not wanted or any(text in name.lower() for text in wanted)


def window(text: str) -> Window:
    """The seconds of `20-50`; the default's when empty."""
    if not text:
        return _WINDOW
    match = re.fullmatch(r"(\d+)-(\d+)", text)
    if match is None or int(match[1]) >= int(match[2]):
        raise Unavailable(
            f"BENCH_WINDOW is {text!r}: it is two seconds after the first call, like 20-50"
        )
    return Window(since=int(match[1]), until=int(match[2]))


async def _run(wanted: Callable[[str], bool], judged: Window) -> Result:
    rows: list[list[str]] = []
    ratios: list[Ratio] = []
    ours = [case for case in _OURS if wanted(case.name)]
    async with AsyncExitStack() as stack:
        if ours:
            bootstrap, dsn = (
                await stack.enter_async_context(running_kafka()),
                await stack.enter_async_context(running_postgres()),
            )
        for number, case in enumerate(ours):
            seen = await _spend(
                case.name, case.limits, judged, _our_spending(case, judged, bootstrap, dsn, number)
            )
            rows.append(_row(seen))
            ratios += _judged(seen, case.bar(judged))
    rows += [await _peer(name, judged) for name in filter(wanted, _PEERS)]
    return Result(
        question=f"How much of the budget is used, and how often is the limit broken? {_conditions(judged)}",
        header=["", "429s in the whole run", "use of the tighter limit", "calls granted", ""],
        rows=rows,
        ratios=ratios,
        recorded=judged == _WINDOW and len(rows) == len(_OURS) + len(_PEERS),
    )


Spending = Callable[[Judge], Awaitable[str]]


async def _spend(name: str, limits: Limits, judged: Window, spending: Spending) -> Seen:
    print(f"  {name} …", flush=True)
    async with a_judge(limits) as judge:
        ended = await spending(judge)
        audit = await judge.audit()
    seen = Seen(name=name, audit=audit, use=audit.use(limits, judged), ended=ended)
    print(f"    {' · '.join(_row(seen)[1:])}", flush=True)
    return seen


def _our_spending(case: Ours, judged: Window, bootstrap: str, dsn: str, number: int) -> Spending:
    async def spend(judge: Judge) -> str:
        async with a_fleet(
            dsn=dsn,
            bootstrap=bootstrap,
            prefix=f"limits{number}.",
            url=judge.url,
            limits=case.limits,
        ) as fleet:
            workers = await asyncio.gather(*(fleet.start("generator") for _ in range(case.workers)))
            if case.leaves is not None:
                await judge.second(judged.part(1 / 6))
                await fleet.start("generator")
                await judge.second(judged.part(1 / 2))
                fleet.send_away(workers[0], case.leaves)
            await judge.second(judged.until)
            fleet.check()
        return await _blogs(dsn)

    return spend


async def _blogs(dsn: str) -> str:
    done, failed = await ended(dsn)
    if not done or failed:
        raise Unavailable(f"{done} blogs done, {failed} failed: this says nothing of the limiter")
    return f"{done} blogs"


async def _peer(name: str, judged: Window) -> list[str]:
    try:
        peer: Any = import_module(f"bench.peers.{_PEERS[name]}")
    except ModuleNotFoundError as error:
        if error.name != _PEERS[name]:
            raise
        return [
            name,
            "",
            "",
            "",
            f"left out: {error.name} is not installed (requirements/bench.txt)",
        ]

    async def spend(judge: Judge) -> str:
        async with a_crowd(peer.caller, judge.url, _BY_REQUESTS) as tally:
            await judge.second(judged.until)
            return f"{tally.lost} calls given up"

    return _row(await _spend(f"{name}, RPM 600", _BY_REQUESTS, judged, spend))


def _row(seen: Seen) -> list[str]:
    return [
        seen.name,
        f"{seen.audit.refused:,}",
        f"{seen.use:.3f}",
        f"{seen.audit.granted:,}",
        seen.ended,
    ]


def _judged(seen: Seen, bar: float) -> Sequence[Ratio]:
    return (
        Ratio(
            what=f"{seen.name}: 429s",
            seen=seen.audit.refused,
            bar="0",
            held=seen.audit.refused == 0,
        ),
        Ratio(what=f"{seen.name}: use", seen=seen.use, bar=f"≥ {bar:.3f}", held=seen.use >= bar),
    )


def _conditions(judged: Window) -> str:
    return f"(judged by llmock, 300 ms a call, seconds {judged.since:g} to {judged.until:g} after the first)"

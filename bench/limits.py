"""How much of an account's rate limit is used, and how often is the limit broken?

llmock, an independent server with token buckets, decides and counts; every run starts a new one.
The system runs as in production: scheduler and workers as processes, a real broker and database,
always with a backlog. Each peer is one process with 60 tasks that make the same calls. llmock
answers in the requested schema, so jobs end as with the real provider.

BENCH_CASES="2 workers; litellm" runs the cases whose names contain one of these texts.
BENCH_WINDOW=20-50 measures other seconds than 60 to 180. With either, the result is shown and not
recorded.
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

from bench.account.decisions import AccountLimits, DecisionLog, MeasuredWindow
from bench.account.fleet import count_ended_jobs, start_fleet
from bench.account.reference_provider import ReferenceProvider, start_reference_provider
from bench.peers.load import run_load
from bench.result import Ratio, Result
from bench.servers import running_kafka, running_postgres
from shared.domain.errors import Unavailable

_BY_REQUESTS = AccountLimits(rpm=600, tpm=20_000_000)
_BY_TOKENS = AccountLimits(rpm=60_000, tpm=200_000)
_WINDOW = MeasuredWindow(since=60, until=180)
_BAR = 0.985
_MISSED_AFTER_S = 13.0
"""The session timeout of ten seconds plus three seconds until the other workers notice."""

_PEERS = {
    "openai SDK, its own retries": "sdk",
    "tenacity": "tenacity",
    "OpenAI cookbook's loop": "cookbook",
    "aiolimiter": "aiolimiter",
    "LiteLLM's model limits": "litellm",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkersCase:
    """Workers on one account.

    With `leaves`, one more worker joins after a sixth of the window, and one leaves after half of
    it.
    """

    limits: AccountLimits
    workers: int
    leaves: signal.Signals | None = None

    @property
    def name(self) -> str:
        limit = "RPM 600" if self.limits is _BY_REQUESTS else "TPM 200,000"
        many = "1 worker" if self.workers == 1 else f"{self.workers} workers"
        change = f", one more joins, one leaves ({self.leaves.name})" if self.leaves else ""
        return f"ours, {limit}, {many}{change}"

    def bar(self, window: MeasuredWindow) -> float:
        """Return the required use.

        A killed worker's share is lost until Kafka notices its death.
        """
        if self.leaves is not signal.SIGKILL:
            return _BAR
        return _BAR - _MISSED_AFTER_S / (self.workers + 1) / (window.until - window.since)


_OURS = (
    *(WorkersCase(limits=_BY_REQUESTS, workers=workers) for workers in (1, 2, 4)),
    *(
        WorkersCase(limits=_BY_REQUESTS, workers=2, leaves=number)
        for number in (signal.SIGTERM, signal.SIGKILL)
    ),
    *(WorkersCase(limits=_BY_TOKENS, workers=workers) for workers in (1, 2, 4)),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class CaseResult:
    """The result of one case. `ended` describes the ended jobs or calls."""

    name: str
    decisions: DecisionLog
    utilization: float
    ended: str


def run() -> Result:
    return asyncio.run(
        _run(
            make_case_filter(os.environ.get("BENCH_CASES", "")),
            parse_window(os.environ.get("BENCH_WINDOW", "")),
        )
    )


def make_case_filter(texts: str) -> Callable[[str], bool]:
    """Return a filter of case names by the texts between semicolons; without texts, all pass."""
    wanted = [text.strip().lower() for text in texts.split(";") if text.strip()]
    return lambda name: not wanted or any(text in name.lower() for text in wanted)


def parse_window(text: str) -> MeasuredWindow:
    """Parse `20-50`; an empty text is the default window. Raises `Unavailable`."""
    if not text:
        return _WINDOW
    match = re.fullmatch(r"(\d+)-(\d+)", text)
    if match is None or int(match[1]) >= int(match[2]):
        raise Unavailable(
            f"BENCH_WINDOW is {text!r}; write two seconds after the first call, like 20-50"
        )
    return MeasuredWindow(since=int(match[1]), until=int(match[2]))


async def _run(is_chosen: Callable[[str], bool], measured: MeasuredWindow) -> Result:
    rows: list[list[str]] = []
    ratios: list[Ratio] = []
    ours = [case for case in _OURS if is_chosen(case.name)]
    async with AsyncExitStack() as stack:
        if ours:
            bootstrap, dsn = (
                await stack.enter_async_context(running_kafka()),
                await stack.enter_async_context(running_postgres()),
            )
        for number, case in enumerate(ours):
            result = await _run_case(
                case.name,
                case.limits,
                measured,
                _spend_by_workers(case, measured, bootstrap, dsn, number),
            )
            rows.append(_build_row(result))
            ratios += _build_ratios(result, case.bar(measured))
    rows += [await _run_peer(name, measured) for name in filter(is_chosen, _PEERS)]
    return Result(
        question="How much of the rate limit is used, and how often is it broken?"
        f" {_describe_conditions(measured)}",
        header=["", "429s in the whole run", "use of the tighter limit", "calls granted", ""],
        rows=rows,
        ratios=ratios,
        recorded=measured == _WINDOW and len(rows) == len(_OURS) + len(_PEERS),
    )


Spend = Callable[[ReferenceProvider], Awaitable[str]]


async def _run_case(
    name: str, limits: AccountLimits, measured: MeasuredWindow, spend: Spend
) -> CaseResult:
    print(f"  {name} …", flush=True)
    async with start_reference_provider(limits) as provider:
        ended = await spend(provider)
        decisions = await provider.read_decisions()
    result = CaseResult(
        name=name,
        decisions=decisions,
        utilization=decisions.utilization(limits, measured),
        ended=ended,
    )
    print(f"    {' · '.join(_build_row(result)[1:])}", flush=True)
    return result


def _spend_by_workers(
    case: WorkersCase, measured: MeasuredWindow, bootstrap: str, dsn: str, number: int
) -> Spend:
    async def spend(provider: ReferenceProvider) -> str:
        async with start_fleet(
            dsn=dsn,
            bootstrap=bootstrap,
            prefix=f"limits{number}.",
            url=provider.url,
            limits=case.limits,
        ) as fleet:
            workers = await asyncio.gather(*(fleet.start("generator") for _ in range(case.workers)))
            if case.leaves is not None:
                await provider.wait_until_second(measured.second_at(1 / 6))
                await fleet.start("generator")
                await provider.wait_until_second(measured.second_at(1 / 2))
                fleet.send_signal(workers[0], case.leaves)
            await provider.wait_until_second(measured.until)
            fleet.check_processes()
        return await _describe_jobs(dsn)

    return spend


async def _describe_jobs(dsn: str) -> str:
    done, failed = await count_ended_jobs(dsn)
    if not done or failed:
        raise Unavailable(
            f"{done} blogs done, {failed} failed: the result says nothing about the limiter"
        )
    return f"{done} blogs"


async def _run_peer(name: str, measured: MeasuredWindow) -> list[str]:
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

    async def spend(provider: ReferenceProvider) -> str:
        async with run_load(peer.open_peer, provider.url, _BY_REQUESTS) as counts:
            await provider.wait_until_second(measured.until)
            return f"{counts.lost} calls given up"

    return _build_row(await _run_case(f"{name}, RPM 600", _BY_REQUESTS, measured, spend))


def _build_row(result: CaseResult) -> list[str]:
    return [
        result.name,
        f"{result.decisions.refused:,}",
        f"{result.utilization:.3f}",
        f"{result.decisions.granted:,}",
        result.ended,
    ]


def _build_ratios(result: CaseResult, bar: float) -> Sequence[Ratio]:
    return (
        Ratio(
            name=f"{result.name}: 429s",
            measured=result.decisions.refused,
            target="0",
            met=result.decisions.refused == 0,
        ),
        Ratio(
            name=f"{result.name}: use",
            measured=result.utilization,
            target=f"≥ {bar:.3f}",
            met=result.utilization >= bar,
        ),
    )


def _describe_conditions(measured: MeasuredWindow) -> str:
    seconds = f"seconds {measured.since:g} to {measured.until:g} after the first"
    return f"(measured by llmock, 300 ms a call, {seconds})"

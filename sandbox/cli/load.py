"""`./blogstream load`: the contract's load test against the running system, with its expectations judged."""

import asyncio
import time
from collections import Counter
from dataclasses import dataclass
from typing import Annotated, Any
from uuid import uuid4

import asyncpg
import httpx
import orjson
import typer

from sandbox.cli.common import print_line, require_variable, run_coroutine
from sandbox.servers.postgres import open_connection
from sandbox.system.home import current_home
from shared.domain.job import ENDED, Status

application = typer.Typer(add_completion=False, pretty_exceptions_enable=False)

_PATIENCE_S = 600.0
_START_WITHIN_S = 10.0


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadCheck:
    expectation: str
    seen: str
    held: bool


@application.command()
def load(
    requests: Annotated[int, typer.Option(min=1, max=10_000, help="how many requests")] = 100,
    interval: Annotated[float, typer.Option(min=0, help="seconds between two")] = 0.1,
    as_json: Annotated[bool, typer.Option("--json", help="as JSON")] = False,
) -> None:
    """Send requests at a steady pace, wait for all to end, and judge what is promised. Exit 1 if one fails."""
    judged = run_coroutine(_run(requests, interval))
    if as_json:
        print(orjson.dumps(judged).decode())
    else:
        for judgement in judged:
            print(
                f"{'ok    ' if judgement.held else 'FAILED'} {judgement.expectation}: {judgement.seen}"
            )
    raise typer.Exit(0 if all(judgement.held for judgement in judged) else 1)


async def _run(requests: int, interval: float) -> list[LoadCheck]:
    prefix = f"test-load-{uuid4().hex[:8]}-"
    began, rejected_before = time.monotonic(), await _rejected()
    async with open_connection(require_variable("DATABASE_URL")) as connection:
        statuses, highest, first_start = await _send_and_watch(
            connection, prefix, requests, interval, began
        )
        rows = await _until_ended(connection, prefix, statuses.count(201), began + _PATIENCE_S)
    seconds = time.monotonic() - began
    rejected = await _rejected()
    done = sum(row["jobs"] for row in rows if row["status"] == Status.DONE)
    ended = ", ".join(f"{row['status']} {row['jobs']}" for row in rows) or "none"
    return [
        LoadCheck(expectation="all 201", seen=_answers(statuses), held=set(statuses) == {201}),
        LoadCheck(
            expectation="work starts at once",
            seen=_text(first_start),
            held=first_start < _START_WITHIN_S,
        ),
        LoadCheck(
            expectation="queue rises to about the number sent",
            seen=f"{highest} at the most",
            held=highest > 0,
        ),
        LoadCheck(
            expectation=f"all DONE within {_PATIENCE_S:.0f} s",
            seen=f"{ended} after {seconds:.0f} s",
            held=done == requests and seconds <= _PATIENCE_S,
        ),
        LoadCheck(
            expectation="no rate-limit error from a provider",
            seen="not counted: real providers"
            if rejected is None
            else f"{rejected - (rejected_before or 0)}",
            held=rejected == rejected_before,
        ),
    ]


async def _send_and_watch(
    connection: asyncpg.Connection, prefix: str, requests: int, interval: float, began: float
) -> tuple[list[int], int, float]:
    """(answers, most jobs not ended at a time, seconds until the first job was started)."""
    sending = asyncio.create_task(_send(prefix, requests, interval))
    highest, first_start = 0, float("inf")
    while not sending.done() or first_start == float("inf"):
        row = await connection.fetchrow(
            "SELECT count(*) FILTER (WHERE finished_at IS NULL) AS open, count(started_at) AS started"
            " FROM blog_generations WHERE source_id LIKE $1 || '%'",
            prefix,
        )
        assert row is not None
        highest = max(highest, row["open"])
        if row["started"] and first_start == float("inf"):
            first_start = time.monotonic() - began
        if sending.done() and (
            201 not in sending.result() or time.monotonic() - began > _PATIENCE_S
        ):
            break  # nothing was accepted, or nothing of it is taken up
        await asyncio.sleep(0.05)
    return await sending, highest, first_start


async def _send(prefix: str, requests: int, interval: float) -> list[int]:
    url = f"http://127.0.0.1:{require_variable('PORT')}/api/blog-generation"
    headers = {"Authorization": f"Bearer {require_variable('TEST_TOKEN')}"}
    async with httpx.AsyncClient(timeout=30, headers=headers) as http:

        async def one(number: int) -> int:
            body = {"sourceType": "keyword", "sourceId": f"{prefix}{number}"}
            return (await http.post(url, json=body)).status_code

        tasks = []
        for number in range(requests):
            tasks.append(asyncio.create_task(one(number)))
            await asyncio.sleep(interval)
        print_line(f"{requests} requests sent")
        return list(await asyncio.gather(*tasks))


async def _until_ended(
    connection: asyncpg.Connection, prefix: str, wanted: int, give_up: float
) -> list[Any]:
    while True:
        rows: list[Any] = await connection.fetch(
            "SELECT status, count(*) AS jobs FROM blog_generations WHERE source_id LIKE $1 || '%' GROUP BY status",
            prefix,
        )
        ended = sum(row["jobs"] for row in rows if row["status"] in ENDED)
        if ended >= wanted or time.monotonic() > give_up:
            return rows
        await asyncio.sleep(1)


async def _rejected() -> int | None:
    """Calls that the stand-ins have refused so far; None with real providers."""
    variables = current_home().read_env()
    if not variables.get("STANDIN"):
        return None
    total = 0
    async with httpx.AsyncClient(timeout=10) as http:
        for port in ("STANDIN_OPENAI_PORT", "STANDIN_REPLICATE_PORT"):
            bill = (await http.get(f"http://127.0.0.1:{variables[port]}/standin/bill")).json()
            total += int(bill["rejected"])
    return total


def _answers(statuses: list[int]) -> str:
    """How many were accepted, and what the others heard."""
    others = Counter(status for status in statuses if status != 201)
    return ", ".join(
        [
            f"{statuses.count(201)} of {len(statuses)}",
            *(f"{n} × {one}" for one, n in others.items()),
        ]
    )


def _text(seconds: float) -> str:
    return "never" if seconds == float("inf") else f"after {seconds:.1f} s"

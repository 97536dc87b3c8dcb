"""`./blogstream load`: runs the load test against the running system and checks expectations."""

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

from sandbox.capacity import STANDIN_BLOG, USUAL_BLOG, estimate_run
from sandbox.cli.common import (
    WAIT_FACTOR,
    describe_run,
    print_line,
    require_variable,
    run_coroutine,
)
from sandbox.limits import limits_of
from sandbox.servers.postgres import open_connection
from sandbox.system.environment import read_standins
from sandbox.system.home import current_home
from shared.domain.job import ENDED, Status

application = typer.Typer(add_completion=False, pretty_exceptions_enable=False)

_SHORTEST_DEADLINE_S = 600.0
_START_WITHIN_S = 10.0


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadCheck:
    expectation: str
    seen: str
    held: bool


@application.command()
def load(
    requests: Annotated[int, typer.Option(min=1, max=10_000, help="number of requests")] = 100,
    interval: Annotated[float, typer.Option(min=0, help="seconds between requests")] = 0.1,
    as_json: Annotated[bool, typer.Option("--json", help="print JSON")] = False,
) -> None:
    """Send requests at a steady rate, wait for all jobs to end, and check expectations.

    Exits with 1 if an expectation fails.
    """
    checks = run_coroutine(_run_load_test(requests, interval))
    if as_json:
        print(orjson.dumps(checks).decode())
    else:
        for check in checks:
            print(f"{'ok    ' if check.held else 'FAILED'} {check.expectation}: {check.seen}")
    raise typer.Exit(0 if all(check.held for check in checks) else 1)


async def _run_load_test(requests: int, interval: float) -> list[LoadCheck]:
    deadline_s = _announce_duration(requests, interval)
    prefix = f"test-load-{uuid4().hex[:8]}-"
    began, rejected_before = time.monotonic(), await _count_rejected_calls()
    async with open_connection(require_variable("DATABASE_URL")) as connection:
        statuses, most_open, first_start = await _send_and_watch(
            connection, prefix, requests, interval, began + deadline_s
        )
        rows = await _wait_until_ended(connection, prefix, statuses.count(201), began + deadline_s)
    seconds = time.monotonic() - began
    rejected = await _count_rejected_calls()
    done = sum(row["jobs"] for row in rows if row["status"] == Status.DONE)
    ended = ", ".join(f"{row['status']} {row['jobs']}" for row in rows) or "none"
    return [
        LoadCheck(
            expectation="all 201", seen=_count_statuses(statuses), held=set(statuses) == {201}
        ),
        LoadCheck(
            expectation="work starts at once",
            seen=_start_time(first_start),
            held=first_start < _START_WITHIN_S,
        ),
        LoadCheck(
            expectation="queue rises to about the number sent",
            seen=f"{most_open} at the most",
            held=most_open > 0,
        ),
        LoadCheck(
            expectation=f"all DONE within {deadline_s:.0f} s",
            seen=f"{ended} after {seconds:.0f} s",
            held=done == requests and seconds <= deadline_s,
        ),
        LoadCheck(
            expectation="no rate-limit error from a provider",
            seen="not counted: real providers"
            if rejected is None
            else f"{rejected - (rejected_before or 0)}",
            held=rejected == rejected_before,
        ),
    ]


def _announce_duration(requests: int, interval: float) -> float:
    """Print how long the limits let the run take. Return the seconds to wait at the most."""
    variables = current_home().read_env()
    blog = STANDIN_BLOG if variables.get("STANDIN") else USUAL_BLOG
    seconds, limit = estimate_run(requests, limits_of(variables), blog)
    print_line(describe_run(requests, seconds + requests * interval, limit))
    return max(_SHORTEST_DEADLINE_S, WAIT_FACTOR * seconds + requests * interval)


async def _send_and_watch(
    connection: asyncpg.Connection, prefix: str, requests: int, interval: float, deadline: float
) -> tuple[list[int], int, float]:
    """Return the statuses, the most open jobs at a time, and the seconds to the first start."""
    began = time.monotonic()
    sending = asyncio.create_task(_send_requests(prefix, requests, interval))
    most_open, first_start = 0, float("inf")
    while not sending.done() or first_start == float("inf"):
        row = await connection.fetchrow(
            "SELECT count(*) FILTER (WHERE finished_at IS NULL) AS open,"
            " count(started_at) AS started"
            " FROM blog_generations WHERE source_id LIKE $1 || '%'",
            prefix,
        )
        assert row is not None
        most_open = max(most_open, row["open"])
        if row["started"] and first_start == float("inf"):
            first_start = time.monotonic() - began
        if sending.done() and (201 not in sending.result() or time.monotonic() > deadline):
            break  # no request was accepted, or no job starts
        await asyncio.sleep(0.05)
    return await sending, most_open, first_start


async def _send_requests(prefix: str, requests: int, interval: float) -> list[int]:
    url = f"http://127.0.0.1:{require_variable('PORT')}/api/blog-generation"
    headers = {"Authorization": f"Bearer {require_variable('TEST_TOKEN')}"}
    async with httpx.AsyncClient(timeout=30, headers=headers) as http:

        async def send(number: int) -> int:
            body = {"sourceType": "keyword", "sourceId": f"{prefix}{number}"}
            return (await http.post(url, json=body)).status_code

        tasks = []
        for number in range(requests):
            tasks.append(asyncio.create_task(send(number)))
            await asyncio.sleep(interval)
        print_line(f"{requests} requests sent")
        return list(await asyncio.gather(*tasks))


async def _wait_until_ended(
    connection: asyncpg.Connection, prefix: str, accepted: int, deadline: float
) -> list[Any]:
    """Return the jobs by status once all accepted ones have ended, or at the deadline."""
    while True:
        rows: list[Any] = await connection.fetch(
            "SELECT status, count(*) AS jobs FROM blog_generations"
            " WHERE source_id LIKE $1 || '%' GROUP BY status",
            prefix,
        )
        ended = sum(row["jobs"] for row in rows if row["status"] in ENDED)
        if ended >= accepted or time.monotonic() > deadline:
            return rows
        await asyncio.sleep(1)


async def _count_rejected_calls() -> int | None:
    """Count the calls that the stand-ins have rejected; `None` without a stand-in."""
    variables = current_home().read_env()
    standins = read_standins(variables)
    if not standins:
        return None
    total = 0
    async with httpx.AsyncClient(timeout=10) as http:
        for name in standins:
            port = variables[f"STANDIN_{name.upper()}_PORT"]
            bill = (await http.get(f"http://127.0.0.1:{port}/standin/bill")).json()
            total += int(bill["rejected"])
    return total


def _count_statuses(statuses: list[int]) -> str:
    """Format the number of accepted requests and the count of each other status."""
    others = Counter(status for status in statuses if status != 201)
    accepted = f"{statuses.count(201)} of {len(statuses)}"
    return ", ".join([accepted, *(f"{count} × {status}" for status, count in others.items())])


def _start_time(seconds: float) -> str:
    return "never" if seconds == float("inf") else f"after {seconds:.1f} s"

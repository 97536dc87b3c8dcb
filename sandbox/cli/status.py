"""`./blogstream status`: shows the processes, jobs and consumer groups of this home."""

import asyncio
from typing import Annotated, Any

import asyncpg
import orjson
import psutil
import typer

from sandbox.cli.common import require_running_home, run_coroutine
from sandbox.system import consumer_groups
from sandbox.system.environment import describe_standins
from sandbox.system.home import Home, is_running, read_json
from shared.domain.job import Status
from shared.runtime.postgres import UNAVAILABLE_ERRORS

application = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@application.command()
def status(as_json: Annotated[bool, typer.Option("--json", help="print JSON")] = False) -> None:
    """Show processes, jobs by status, consumer groups with partitions and lag, and URLs.

    Exits with 1 when a process is dead.
    """
    home, state = require_running_home()
    found = run_coroutine(_read_status(home, state))
    if as_json:
        print(orjson.dumps(found).decode())
    else:
        _print_status(found)
    raise typer.Exit(0 if all(service["alive"] for service in found["services"]) else 1)


async def _read_status(home: Home, state: dict[str, Any]) -> dict[str, Any]:
    variables = home.read_env()
    jobs, groups = await asyncio.gather(
        _count_jobs(variables["DATABASE_URL"]),
        consumer_groups.describe_groups(variables["KAFKA_BOOTSTRAP_SERVERS"]),
    )
    extra = [read_json(path) for path in sorted(home.extra.glob("*.json"))]
    processes = [
        *state["services"],
        *(process for process in extra if process and is_running(process["pid"])),
    ]
    return {
        "home": str(home.path),
        "ready": state["ready"],
        "standins": state["standins"],
        "services": [_with_memory(process) for process in processes],
        "jobs": jobs,
        "groups": groups,
        "urls": state["urls"],
    }


def _with_memory(process: dict[str, Any]) -> dict[str, Any]:
    try:
        memory = psutil.Process(process["pid"]).memory_info().rss
    except psutil.NoSuchProcess:
        return process | {"alive": False, "memoryMiB": 0}
    return process | {"alive": True, "memoryMiB": round(memory / 2**20)}


async def _count_jobs(dsn: str) -> dict[str, int] | None:
    """Count the jobs by status; `None` while PostgreSQL is unavailable."""
    try:
        connection = await asyncpg.connect(dsn, timeout=5)
    except UNAVAILABLE_ERRORS:
        return None
    try:
        rows = await connection.fetch(
            "SELECT status, count(*) AS jobs FROM blog_generations GROUP BY status"
        )
    except asyncpg.UndefinedTableError:
        return {}
    finally:
        await connection.close()
    return {state.value: 0 for state in Status} | {row["status"]: row["jobs"] for row in rows}


def _print_status(found: dict[str, Any]) -> None:
    print(f"home {found['home']}{'' if found['ready'] else ' (starting)'}")
    for line in describe_standins(found["standins"]):
        print(line)
    for service in found["services"]:
        state = f"{service['memoryMiB']} MiB" if service["alive"] else "DEAD"
        print(f"  {service['name']:<16} pid {service['pid']:<8} {state}")
    if found["jobs"] is None:
        print("jobs (PostgreSQL is unavailable)")
    else:
        print("jobs", *(f"{name}={count}" for name, count in found["jobs"].items() if count))
    for group, state in found["groups"].items():
        print(f"{group}: lag {sum(state['lag'].values())}")
        for member in state["members"]:
            owned = [f"{topic}{numbers}" for topic, numbers in member["partitions"].items()]
            print(f"  {member['member']:<32} {' '.join(owned) or 'standby'}")
    for name, url in found["urls"].items():
        print(f"{name} {url}")

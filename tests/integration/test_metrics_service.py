"""metrics as a process on the real broker: exact numbers, through repeats, garbage and kill -9."""

import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import pytest
from aiokafka import AIOKafkaProducer

from sandbox.home import ROOT, free_port
from shared import kafka as shared_kafka
from shared.topics import RESULTS, WORKERS
from tests.integration.world import World
from tests.unit.test_metrics_rules import life, report, scheduler
from tests.waiting import eventually


@dataclass(frozen=True, slots=True)
class Metrics:
    """A running process of the service."""

    process: asyncio.subprocess.Process
    http: httpx.AsyncClient

    async def json(self, path: str) -> Any:
        answer = await self.http.get(path)
        answer.raise_for_status()
        return answer.json()

    async def has_counted(self, expected: dict[str, int]) -> bool:
        jobs = (await self.json("/api/overview"))["jobs"]
        return {status: count for status, count in jobs.items() if count} == expected


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "tables"


@asynccontextmanager
async def metrics(world: World, folder: Path) -> AsyncIterator[Metrics]:
    port = free_port()
    environment = {
        "PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT), "METRICS_PORT": str(port), "METRICS_DIR": str(folder),
        "KAFKA_BOOTSTRAP_SERVERS": world.settings.kafka_bootstrap_servers,
        "KAFKA_TOPIC_PREFIX": world.settings.kafka_topic_prefix,
    }  # fmt: skip
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "services.metrics", env=environment, stdout=asyncio.subprocess.DEVNULL
    )
    try:
        async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", timeout=10) as http:
            await eventually(partial(_ready, http, process), timeout=60)
            yield Metrics(process, http)
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


async def tell(world: World, numbers: range, *, failed: bool = False) -> None:
    for number in numbers:
        for event in life(number, f"store-{number % 3}", failed=failed):
            await world.publish(RESULTS, event.store, event)


async def test_counts_are_exact_through_repeats_garbage_and_a_kill(world: World, folder: Path) -> None:
    topic = shared_kafka.names(world.settings).topic(RESULTS)
    async with metrics(world, folder) as first:
        await tell(world, range(10))
        await tell(world, range(5))
        async with AIOKafkaProducer(bootstrap_servers=world.settings.kafka_bootstrap_servers) as producer:
            await producer.send_and_wait(topic, b"garbage", key=b"store-0")
            await producer.send_and_wait(topic, None, key=b"store-1")
            headers = [("ce_type", b"blogstream.job-event.v9")]
            await producer.send_and_wait(topic, b"{}", key=b"store-2", headers=headers)
        await tell(world, range(10, 12), failed=True)
        await eventually(partial(first.has_counted, {"DONE": 10, "FAILED": 2}))
        first.process.send_signal(signal.SIGKILL)
        await first.process.wait()
    await tell(world, range(12, 15))
    async with metrics(world, folder) as second:
        await eventually(partial(second.has_counted, {"DONE": 13, "FAILED": 2}), timeout=60)
        await tell(world, range(15))
        await tell(world, range(20, 21))
        await eventually(partial(second.has_counted, {"DONE": 14, "FAILED": 2}))
        overview = await second.json("/api/overview")
        assert overview["usage"] == {"inputTokens": 160, "outputTokens": 320, "images": 16}
        stores = (await second.json("/api/stores"))["items"]
        assert sum(store["done"] for store in stores) == 14
        assert {store["store"] for store in stores} == {"store-0", "store-1", "store-2"}


async def test_reports_become_the_contracts_numbers(world: World, folder: Path) -> None:
    async with metrics(world, folder) as running:
        assert await running.json("/metrics") == {
            "blog_queue_size": 0, "openai_rpm_usage": 0.0, "openai_tpm_usage": 0.0, "openai_queue_length": 0,
        }  # fmt: skip

        async def heard() -> bool:
            now = datetime.now(UTC)
            await world.publish(WORKERS, "w1", report("w1", at=now))
            await world.publish(WORKERS, "s", scheduler(7, at=now))
            found = await running.json("/metrics")
            return bool(found["blog_queue_size"] == 7 and found["openai_rpm_usage"] == 20.0)

        await eventually(heard, every=0.3)
        stats = await running.json("/api/rate-limiter/stats")
        assert stats["status"] == "ok"
        assert stats["rateLimiter"]["openai"]["m"]["tokens"]["limitPerMinute"] == 200_000
        (worker,) = (await running.json("/api/workers"))["items"]
        assert (worker["worker"], worker["slots"], worker["alive"]) == ("w1", 50, True)
        text = (await running.http.get("/metrics", headers={"Accept": "text/plain"})).text
        assert "blogstream_jobs_pending 7.0" in text
        assert (await running.http.get("/metrics?format=prometheus")).headers["content-type"].startswith("text/plain")
        assert (await running.http.get("/metrics?format=xml")).status_code == 422


async def test_the_page_is_served_with_a_strict_policy(world: World, folder: Path) -> None:
    async with metrics(world, folder) as running:
        page = await running.http.get("/")
        assert page.status_code == 200
        assert "default-src 'none'" in page.headers["content-security-policy"]
        assert '<script type="module" src="/static/page.js">' in page.text
        for path in ("/static/page.js", "/static/page.css", "/health", "/livez"):
            assert (await running.http.get(path)).status_code == 200
        assert (await running.http.get("/static/../app.py")).status_code == 404
    assert running.process.returncode == 0

"""AlertEvaluator through the whole service: reports on the real broker raise them, and a chat's server hears of them once."""

import asyncio
import json
from dataclasses import replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import httpx

from sandbox.system.home import free_port
from shared.kafka.topics import WORKERS
from tests.support.backend import Backend, running_service
from tests.support.chat_receiver import SECRET, start_chat_receiver
from tests.support.eventually import eventually
from tests.support.processes import environment, is_ready, start_service_process
from tests.support.metrics_events import make_worker_report, make_scheduler_report


class Reporting:
    """A scheduler and a worker that say every half second how they are."""

    def __init__(self, backend: Backend) -> None:
        self._backend = backend
        self.pending = 0

    async def __call__(self, stop: asyncio.Event) -> None:
        while not stop.is_set():
            now = datetime.now(UTC)
            await self._backend.publish(WORKERS, "w1", make_worker_report("w1", at=now))
            await self._backend.publish(
                WORKERS, "s", replace(make_scheduler_report(self.pending, at=now), oldest_pending_at=now)
            )
            await asyncio.sleep(0.5)


async def test_a_long_queue_raises_worsens_and_clears_and_a_chat_hears_of_each_once(
    backend: Backend, database: str, tmp_path: Path
) -> None:
    output, reporting, port = tmp_path / "log", Reporting(backend), free_port()
    async with start_chat_receiver(503, 500) as chat, running_service(reporting):
        variables = environment(backend, database) | {
            "METRICS_PORT": str(port),
            "METRICS_DIR": str(tmp_path / "tables"),
            "ALERT_WEBHOOK_URL": chat.url,
            "LOG_LEVEL": "3",
        }
        async with (
            start_service_process("metrics", variables, output),
            httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}") as client,
        ):
            await eventually(partial(is_ready, client), timeout=60)
            await _rise_and_fall(reporting, client)
            await eventually(lambda: len(chat.heard) == 3)
    assert [text.split()[0] for text in chat.heard] == ["[warning]", "[critical]", "[cleared]"]
    assert chat.heard[0].startswith("[warning] queue-long: 1,001 jobs wait")
    assert chat.tries == 5
    text = output.read_text()
    said = [json.loads(line) for line in text.splitlines() if '"alert' in line]
    events = [line["event"] for line in said if line.get("alert") == "queue-long"]
    assert events == ["alert raised", "alert raised", "alert cleared"]
    assert "httpx" in text or "HTTP Request" in text, "the client's own lines were to be heard"
    assert SECRET not in text


async def _rise_and_fall(reporting: Reporting, client: httpx.AsyncClient) -> None:
    async def stands(*severities: str) -> Any:
        """What is in force, once it is this; nothing else may ever be."""
        items = (await client.get("/api/alerts")).json()["items"]
        assert {item["name"] for item in items} <= {"queue-long"}, items
        return [items] if [item["severity"] for item in items] == list(severities) else None

    assert await stands() == [[]]
    reporting.pending = 1_001
    ((warning,),) = await eventually(lambda: stands("warning"))
    assert (warning["value"], warning["threshold"], warning["unit"]) == (1_001, 1_000, "jobs")
    reporting.pending = 5_001
    ((critical,),) = await eventually(lambda: stands("critical"))
    assert critical["since"] > warning["since"]
    reporting.pending = 900
    await eventually(stands)

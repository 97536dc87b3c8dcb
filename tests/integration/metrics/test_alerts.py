"""Alerts through the whole service: reports on the real broker raise, a chat gets each once."""

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
from tests.support.metrics_events import make_scheduler_report, make_worker_report
from tests.support.processes import environment, is_ready, start_service_process


class FakeReporters:
    """Publishes reports of a scheduler and a worker every half second."""

    def __init__(self, backend: Backend) -> None:
        self._backend = backend
        self.pending = 0

    async def __call__(self, stop: asyncio.Event) -> None:
        while not stop.is_set():
            now = datetime.now(UTC)
            await self._backend.publish(WORKERS, "w1", make_worker_report("w1", at=now))
            await self._backend.publish(
                WORKERS,
                "s",
                replace(make_scheduler_report(self.pending, at=now), oldest_pending_at=now),
            )
            await asyncio.sleep(0.5)


async def test_queue_alert_raises_worsens_clears_and_reaches_chat(
    backend: Backend, database: str, tmp_path: Path
) -> None:
    output, reporters, port = tmp_path / "log", FakeReporters(backend), free_port()
    async with start_chat_receiver(503, 500) as chat, running_service(reporters):
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
            await _raise_and_lower_queue(reporters, client)
            await eventually(lambda: len(chat.received) == 3)
    assert [text.split()[0] for text in chat.received] == ["[warning]", "[critical]", "[cleared]"]
    assert chat.received[0].startswith("[warning] queue-long: 1,001 jobs wait")
    assert chat.requests == 5
    text = output.read_text()
    lines = [json.loads(line) for line in text.splitlines() if '"alert' in line]
    events = [line["event"] for line in lines if line.get("alert") == "queue-long"]
    assert events == ["alert raised", "alert raised", "alert cleared"]
    assert "httpx" in text or "HTTP Request" in text, "the HTTP client must log at this level"
    assert SECRET not in text


async def _raise_and_lower_queue(reporters: FakeReporters, client: httpx.AsyncClient) -> None:
    async def active_items(*severities: str) -> Any:
        """Return the active alerts once they have these severities.

        No other alert may be active.
        """
        items = (await client.get("/api/alerts")).json()["items"]
        assert {item["name"] for item in items} <= {"queue-long"}, items
        return [items] if [item["severity"] for item in items] == list(severities) else None

    assert await active_items() == [[]]
    reporters.pending = 1_001
    ((warning,),) = await eventually(lambda: active_items("warning"))
    assert (warning["value"], warning["threshold"], warning["unit"]) == (1_001, 1_000, "jobs")
    reporters.pending = 5_001
    ((critical,),) = await eventually(lambda: active_items("critical"))
    assert critical["since"] > warning["since"]
    reporters.pending = 900
    await eventually(active_items)

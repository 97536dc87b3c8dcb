"""A shop that asks over HTTP, with all services around it but metrics: for tests that take one of the servers away."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any
from uuid import UUID

import httpx

from services.generator import service
from shared.domain.messages import EventKind, JobEvent
from shared.kafka.topics import RESULTS
from tests.support.backend import open_backend, running_service
from tests.support.eventually import eventually
from tests.support.fake_providers import StandIns
from tests.support.generator import worker_settings
from tests.support.ingest import Ingest, start_ingest
from tests.support.scheduler import start_scheduler


class Shop:
    """What it asks, and what is true of its jobs. Workers run for as long as a block."""

    def __init__(self, ingest: Ingest, database: str, standins: StandIns, folder: Path) -> None:
        self.backend = ingest.backend
        self._ingest = ingest
        self._database = database
        self._standins = standins
        self._folder = folder

    async def post(self, **headers: str) -> httpx.Response:
        body = {"sourceType": "keyword", "sourceId": "tea", "title": "Green tea"}
        return await self._ingest.post(body, headers=headers)

    async def ask(self, **headers: str) -> UUID:
        answer = await self.post(**headers)
        assert answer.status_code == 201, answer.text
        return UUID(answer.json()["id"])

    async def cancel(self, job: UUID) -> None:
        answer = await self._ingest.http.post(
            f"/api/blog-generation/{job}/cancel",
            headers={"Authorization": f"Bearer {self._ingest.key}"},
        )
        assert answer.status_code == 200, answer.text

    @asynccontextmanager
    async def working(self) -> AsyncIterator[None]:
        settings = worker_settings(
            bootstrap=self.backend.settings.kafka_bootstrap_servers,
            prefix=self.backend.settings.kafka_topic_prefix,
            database=self._database,
            standins=self._standins,
            folder=self._folder,
        )
        async with running_service(lambda stop: service.run_worker(settings, stop, name="worker-1")):
            yield

    async def are(self, status: str, *jobs: UUID) -> None:
        for job in jobs:
            await eventually(partial(self.backend.has_status, job, status), what=f"{job} {status}")

    async def heard(self, kind: EventKind, *jobs: UUID) -> None:
        """Events follow rows: wait for them."""

        async def all_heard() -> bool:
            events = [
                event
                for _, event in await self.backend.read_records(RESULTS)
                if isinstance(event, JobEvent)
            ]
            return set(jobs) <= {event.job for event in events if event.kind is kind}

        await eventually(all_heard, every=0.3)


@asynccontextmanager
async def start_shop(
    kafka: str, prefix: str, database: str, standins: StandIns, folder: Path, **scheduler: Any
) -> AsyncIterator[Shop]:
    """`scheduler` are its settings."""
    async with (
        open_backend(kafka, prefix, database) as backend,
        start_ingest(backend, database, folder) as ingest,
        start_scheduler(backend, database, **scheduler),
    ):
        yield Shop(ingest, database, standins, folder)

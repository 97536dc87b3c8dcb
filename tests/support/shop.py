"""A store that uses the HTTP interface, with all services but metrics: for tests of outages."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any
from uuid import UUID

import httpx

from services.generator import service
from shared.domain.messages import EventKind
from tests.support.backend import open_backend, running_service
from tests.support.eventually import eventually
from tests.support.fake_providers import StandIns
from tests.support.generator import worker_settings
from tests.support.ingest import Ingest, bearer, read_job_events, start_ingest
from tests.support.scheduler import start_scheduler


class ShopClient:
    """Submits and cancels jobs, and waits for their states."""

    def __init__(self, ingest: Ingest, database: str, standins: StandIns, folder: Path) -> None:
        self.backend = ingest.backend
        self._ingest = ingest
        self._database = database
        self._standins = standins
        self._folder = folder

    async def post(self, **headers: str) -> httpx.Response:
        body = {"sourceType": "keyword", "sourceId": "tea", "title": "Green tea"}
        return await self._ingest.post(body, headers=headers)

    async def submit(self, **headers: str) -> UUID:
        """POST a request that must be accepted; return the job's id."""
        answer = await self.post(**headers)
        assert answer.status_code == 201, answer.text
        return UUID(answer.json()["id"])

    async def cancel(self, job: UUID) -> None:
        answer = await self._ingest.http.post(
            f"/api/blog-generation/{job}/cancel", headers=bearer(self._ingest.key)
        )
        assert answer.status_code == 200, answer.text

    @asynccontextmanager
    async def running_worker(self) -> AsyncIterator[None]:
        settings = worker_settings(
            bootstrap=self.backend.settings.kafka_bootstrap_servers,
            prefix=self.backend.settings.kafka_topic_prefix,
            database=self._database,
            standins=self._standins,
            folder=self._folder,
        )
        async with running_service(
            lambda stop: service.run_worker(settings, stop, name="worker-1")
        ):
            yield

    async def wait_for_status(self, status: str, *jobs: UUID) -> None:
        for job in jobs:
            await eventually(partial(self.backend.has_status, job, status), what=f"{job} {status}")

    async def wait_for_events(self, kind: EventKind, *jobs: UUID) -> None:
        """Wait until each job has an event of this kind; events follow rows."""

        async def all_published() -> bool:
            events = await read_job_events(self.backend)
            return set(jobs) <= {event.job for event in events if event.kind is kind}

        await eventually(all_published, every=0.3)


@asynccontextmanager
async def start_shop(
    kafka: str, prefix: str, database: str, standins: StandIns, folder: Path, **scheduler: Any
) -> AsyncIterator[ShopClient]:
    """Start ingest and a scheduler with the settings `scheduler`."""
    async with (
        open_backend(kafka, prefix, database) as backend,
        start_ingest(backend, database, folder) as ingest,
        start_scheduler(backend, database, **scheduler),
    ):
        yield ShopClient(ingest, database, standins, folder)

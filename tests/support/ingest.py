"""Runs the real ingest service on a free port, with the key of a store named `shop`."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any
from uuid import UUID

import httpx

from sandbox.system.home import free_port
from services.ingest import service
from services.ingest.settings import IngestSettings
from shared.domain.api_keys import create_key
from shared.domain.job import Status
from shared.domain.messages import AdmissionState, BlogRequested, EventKind, JobEvent
from shared.kafka.topics import REQUESTS, RESULTS
from tests.support.backend import Backend, running_service
from tests.support.eventually import eventually

PATH = "/api/blog-generation"
GOOD = {"sourceType": "keyword", "sourceId": "test-load-1"}
PROBLEM = "application/problem+json"


@dataclass(frozen=True, slots=True)
class Ingest:
    http: httpx.AsyncClient
    key: str
    backend: Backend
    images: Path

    async def post(self, body: Any = None, **options: Any) -> httpx.Response:
        headers = {"Authorization": f"Bearer {self.key}"} | options.pop("headers", {})
        if body is not None:
            options["json"] = body
        return await self.http.post(PATH, headers=headers, **options)

    async def get(self, path: str, key: str | None = None) -> httpx.Response:
        return await self.http.get(path, headers=bearer(key or self.key))

    async def ready(self) -> bool:
        try:
            return (await self.http.get("/readyz")).is_success
        except httpx.HTTPError:
            return False


def bearer(key: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {key}"}


@asynccontextmanager
async def start_ingest(
    backend: Backend, database: str, images: Path, **settings: Any
) -> AsyncIterator[Ingest]:
    port = settings.pop("port", None) or free_port()
    chosen: dict[str, Any] = {
        "kafka_bootstrap_servers": backend.settings.kafka_bootstrap_servers,
        "kafka_topic_prefix": backend.settings.kafka_topic_prefix,
        "database_url": database,
        "db_pool_min": 1,
        "port": port,
        "image_dir": images,
        "metrics_url": "http://127.0.0.1:1",
        "max_body_bytes": 20_000,
    }
    key = await create_key(backend.database, "shop")
    async with (
        running_service(
            partial(service.run_ingest, IngestSettings(**(chosen | settings)), name="ingest-test")
        ),
        httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}") as http,
    ):
        ingest = Ingest(http, key, backend, images)
        await eventually(ingest.ready)
        yield ingest


async def post_until_status(ingest: Ingest, status: int, key: str | None = None) -> httpx.Response:
    """POST valid requests until one is answered with `status`; return that answer."""

    async def matching_answer() -> httpx.Response | None:
        answer = await ingest.post(GOOD, headers=bearer(key or ingest.key))
        return answer if answer.status_code == status else None

    answer = await eventually(matching_answer, timeout=10, what=f"a {status}")
    assert answer is not None
    return answer


async def read_requests(backend: Backend) -> list[BlogRequested]:
    """Return the requests on the topic."""
    return [
        message
        for _, message in await backend.read_records(REQUESTS)
        if isinstance(message, BlogRequested)
    ]


async def read_job_events(backend: Backend, job: UUID | None = None) -> list[JobEvent]:
    """Return the events of a job, or of all jobs."""
    return [
        event
        for _, event in await backend.read_records(RESULTS)
        if isinstance(event, JobEvent) and job in (None, event.job)
    ]


def full_queue(store: str, *, closed: bool = True, retry_after_s: float = 41.5) -> AdmissionState:
    """Return the admission state of a store (`*`: of all stores) with a full queue."""
    return AdmissionState(
        store=store,
        closed=closed,
        reason="queue-full",
        retry_after_s=retry_after_s,
        at=datetime.now(UTC),
    )


def exceeded_budget(store: str, resets_at: datetime) -> AdmissionState:
    """Return the admission state of a store whose budget is used up."""
    return AdmissionState(
        store=store,
        closed=True,
        reason="budget-exceeded",
        retry_after_s=1,
        at=datetime.now(UTC),
        resets_at=resets_at,
    )


async def insert(backend: Backend, request: BlogRequested, status: str = "PENDING") -> None:
    """Insert a job's row, as the scheduler does at admission."""
    await backend.database.execute(
        "INSERT INTO blog_generations"
        " (id, instance_id, source_type, source_id, request, created_at, status, error, error_code)"
        " VALUES ($1, $2, $3, $4, $5, $6, $7, CASE $7 WHEN 'FAILED' THEN 'why' END, 'code')",
        request.id,
        request.store,
        request.source_type,
        request.source_id,
        request,
        request.created_at,
        status,
    )


async def set_status(backend: Backend, request: BlogRequested, status: str) -> None:
    await backend.database.execute(
        "UPDATE blog_generations SET status = $2 WHERE id = $1", request.id, status
    )


async def publish_job_event(
    backend: Backend,
    request: BlogRequested,
    kind: EventKind,
    status: Status,
    *,
    step: str | None = None,
    attempt: int = 1,
) -> None:
    event = JobEvent(
        job=request.id,
        store=request.store,
        kind=kind,
        status=status,
        attempt=attempt,
        at=datetime.now(UTC),
        created_at=request.created_at,
        step=step,
    )
    await backend.publish(RESULTS, request.store, event)

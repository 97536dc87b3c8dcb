"""ingest as its tests meet it: the real service on a free port, a client, and the key of a store called `shop`."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import httpx

from sandbox.system.home import free_port
from services.ingest import service
from services.ingest.settings import IngestSettings
from shared.domain.api_keys import create_key
from shared.domain.messages import BlogRequested
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
        return await self.http.get(path, headers={"Authorization": f"Bearer {key or self.key}"})

    async def ready(self) -> bool:
        try:
            return (await self.http.get("/readyz")).is_success
        except httpx.HTTPError:
            return False


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
            partial(service.run, IngestSettings(**(chosen | settings)), name="ingest-test")
        ),
        httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}") as http,
    ):
        ingest = Ingest(http, key, backend, images)
        await eventually(ingest.ready)
        yield ingest


async def insert(backend: Backend, request: BlogRequested, status: str = "PENDING") -> None:
    """A job's row, as the scheduler would have made it."""
    await backend.database.execute(
        "INSERT INTO blog_generations (id, instance_id, source_type, source_id, request, created_at, status, error,"
        " error_code) VALUES ($1, $2, $3, $4, $5, $6, $7, CASE $7 WHEN 'FAILED' THEN 'why' END, 'code')",
        request.id,
        request.store,
        request.source_type,
        request.source_id,
        request,
        request.created_at,
        status,
    )

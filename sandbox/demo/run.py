"""Runs the demo against a running system: submit requests, watch jobs, save posts, summarize."""

import asyncio
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

from sandbox.demo import outcome, posts, screenshot, submit, watch
from sandbox.demo.client import StoreClient
from sandbox.demo.stores import DemoStore
from sandbox.demo.watch import ProgressCallback
from sandbox.servers.postgres import open_connection
from sandbox.system.home import Home
from shared.domain.api_keys import create_key
from shared.domain.job import Status


@dataclass(frozen=True, slots=True, kw_only=True)
class DemoResult:
    stores: list[outcome.StoreOutcome]
    seconds: float
    posts: list[Path]
    dashboard_screenshot: Path | None
    docs_screenshot: Path | None
    """The API reference page of ingest."""
    stuck: int
    """Jobs that had not ended when the run gave up."""
    reasons: Counter[str]
    """Failed jobs by reason."""

    @property
    def all_done(self) -> bool:
        return all(store.done == store.requested for store in self.stores)


async def run_demo(
    home: Home,
    variables: dict[str, str],
    stores: Sequence[DemoStore],
    *,
    progress: ProgressCallback,
    standins: Sequence[str],
    stuck_after_s: float,
) -> DemoResult:
    """Submit all requests, wait until the jobs have ended, and save the posts.

    The run ends as stuck when no job changes its status for `stuck_after_s` seconds.
    """
    began = time.monotonic()
    dsn, base_url = variables["DATABASE_URL"], f"http://127.0.0.1:{variables['PORT']}"
    keys = await _create_keys(dsn, stores)
    async with httpx.AsyncClient(timeout=30) as http:
        clients = {name: StoreClient(http, base_url, key) for name, key in keys.items()}
        accepted = await submit.submit_all_requests(stores, clients)
        jobs = [job for ids in accepted.values() for job in ids]
        screenshots = asyncio.create_task(_take_screenshots(home, variables))
        rows = await watch.wait_until_jobs_ended(
            dsn, jobs, progress=progress, stuck_after_s=stuck_after_s
        )
        seconds = time.monotonic() - began
        written = await _save_posts(home, clients, rows, http, standins=standins)
        dashboard, docs = await screenshots
    failed = Counter(row.error or row.status for row in rows if row.status == Status.FAILED)
    return DemoResult(
        stores=outcome.summarize_by_store({name: len(ids) for name, ids in accepted.items()}, rows),
        seconds=seconds,
        posts=written,
        dashboard_screenshot=dashboard,
        docs_screenshot=docs,
        reasons=failed,
        stuck=len(jobs) - sum(row.finished_at is not None for row in rows),
    )


async def _create_keys(dsn: str, stores: Sequence[DemoStore]) -> dict[str, str]:
    async with open_connection(dsn) as connection:
        return {store.name: await create_key(connection, store.name) for store in stores}


async def _take_screenshots(
    home: Home, variables: dict[str, str]
) -> tuple[Path | None, Path | None]:
    """Save the dashboard a little after the start, while jobs run, and the API reference page."""
    await asyncio.sleep(3)
    return (
        await _take_screenshot(
            f"http://127.0.0.1:{variables['METRICS_PORT']}/?poll", home.path / "dashboard.png"
        ),
        await _take_screenshot(
            f"http://127.0.0.1:{variables['PORT']}/docs", home.path / "docs.png"
        ),
    )


async def _take_screenshot(url: str, target: Path) -> Path | None:
    return target if await screenshot.take_screenshot(url, target) else None


async def _save_posts(
    home: Home,
    clients: dict[str, StoreClient],
    rows: Sequence[outcome.JobRow],
    http: httpx.AsyncClient,
    *,
    standins: Sequence[str],
) -> list[Path]:
    limit = asyncio.Semaphore(8)

    async def save(row: outcome.JobRow) -> Path:
        async with limit:
            job: dict[str, Any] = await clients[row.store].get_job(row.id)
            return await posts.write_post(home.posts, job, http, standins=standins)

    return list(await asyncio.gather(*(save(row) for row in rows if row.status is Status.DONE)))

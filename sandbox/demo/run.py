"""One run of the demo against a running system: submit, watch, collect the posts, sum up."""

import asyncio
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

from sandbox.demo import outcome, posts, submit, watch
from sandbox.demo import screenshot as picture
from sandbox.demo.client import StoreClient
from sandbox.demo.stores import DemoStore
from sandbox.demo.watch import ProgressCallback
from sandbox.servers.postgres import open_connection
from sandbox.system.home import Home
from shared.domain.api_keys import create_key
from shared.domain.job import Status

_PATIENCE_S = 120.0
"""How long nothing may move before the run counts as stuck."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DemoResult:
    stores: list[outcome.StoreOutcome]
    seconds: float
    posts: list[Path]
    picture: Path | None
    """Of the dashboard."""
    docs: Path | None
    """A picture of the interface's page."""
    stuck: int
    """Jobs that had not ended when nothing moved any more."""
    reasons: Counter[str]
    """Why jobs failed."""

    @property
    def all_done(self) -> bool:
        return all(store.done == store.requested for store in self.stores)


async def run_demo(
    home: Home,
    variables: dict[str, str],
    shops: Sequence[DemoStore],
    *,
    progress: ProgressCallback,
    standins: bool,
) -> DemoResult:
    began = time.monotonic()
    dsn, base_url = variables["DATABASE_URL"], f"http://127.0.0.1:{variables['PORT']}"
    keys = await _keys(dsn, shops)
    async with httpx.AsyncClient(timeout=30) as http:
        apis = {name: StoreClient(http, base_url, key) for name, key in keys.items()}
        accepted = await submit.submit_all_requests(shops, apis)
        jobs = [job for ids in accepted.values() for job in ids]
        photographing = asyncio.create_task(_photograph(home, variables))
        rows = await watch.wait_until_jobs_ended(dsn, jobs, progress=progress, patience_s=_PATIENCE_S)
        seconds = time.monotonic() - began
        written = await _collect(home, apis, rows, http, standins=standins)
        taken, docs = await photographing
    failed = Counter(
        row.error or row.status for row in rows if row.status in (Status.FAILED, Status.REJECTED)
    )
    return DemoResult(
        stores=outcome.summarize_by_store({name: len(ids) for name, ids in accepted.items()}, rows),
        seconds=seconds,
        posts=written,
        picture=taken,
        docs=docs,
        reasons=failed,
        stuck=len(jobs) - sum(row.finished_at is not None for row in rows),
    )


async def _keys(dsn: str, shops: Sequence[DemoStore]) -> dict[str, str]:
    async with open_connection(dsn) as connection:
        return {shop.name: await create_key(connection, shop.name) for shop in shops}


async def _photograph(home: Home, variables: dict[str, str]) -> tuple[Path | None, Path | None]:
    """The dashboard while there is work, taken a little after the start, and the interface's page."""
    await asyncio.sleep(3)
    dashboard, docs = home.path / "dashboard.png", home.path / "docs.png"
    return (
        dashboard
        if await picture.take_screenshot(f"http://127.0.0.1:{variables['METRICS_PORT']}/?poll", dashboard)
        else None,
        docs if await picture.take_screenshot(f"http://127.0.0.1:{variables['PORT']}/docs", docs) else None,
    )


async def _collect(
    home: Home,
    apis: dict[str, StoreClient],
    rows: Sequence[outcome.JobRow],
    http: httpx.AsyncClient,
    *,
    standins: bool,
) -> list[Path]:
    gate = asyncio.Semaphore(8)

    async def one(row: outcome.JobRow) -> Path:
        async with gate:
            job: dict[str, Any] = await apis[row.store].get(row.id)
            return await posts.write_post(home.posts, job, http, standins=standins)

    return list(await asyncio.gather(*(one(row) for row in rows if row.status is Status.DONE)))

"""Runs the documented examples against the real service, at its address and with real ids."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from playwright.async_api import async_playwright
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from sandbox.demo import browser as installed
from sandbox.system.home import ROOT
from shared.domain.api_keys import create_operator_key
from shared.domain.errors import Unavailable
from shared.domain.job import Status
from shared.domain.messages import BlogRequested, EventKind, JobEvent
from shared.http import server
from shared.kafka.topics import RESULTS
from tests.support.backend import Backend, make_request, running_service
from tests.support.documented_examples import (
    code_blocks,
    curl_examples,
    expected_status,
    run_curl,
)
from tests.support.eventually import eventually
from tests.support.ingest import Ingest, insert, start_ingest

API_PAGE = ROOT / "docs" / "api.md"
EXPORT = "Handle,Title,Body (HTML),Vendor,Type,Tags,Variant Price\ncup,Cup,,Acme,Kitchen,,4.00\n"


@pytest.fixture
def examples() -> list[str]:
    """The curl commands of README, the API page and the operator's budget section."""
    found = [
        *curl_examples(ROOT / "README.md"),
        *curl_examples(API_PAGE),
        *curl_examples(ROOT / "docs" / "operations.md"),
    ]
    assert len(found) >= 14
    return found


@asynccontextmanager
async def webhook_receiver() -> AsyncIterator[str]:
    """Run a store's server that accepts every webhook; yields its URL."""

    async def accept(_: Request) -> Response:
        return Response(status_code=204)

    listener = server.open_listener("127.0.0.1", 0)
    app = Starlette(routes=[Route("/hook", accept, methods=["POST"])])
    async with running_service(partial(server.serve_http, app, listener)):
        yield f"http://127.0.0.1:{listener.getsockname()[1]}/hook"


async def publish_end(backend: Backend, request: BlogRequested) -> None:
    event = JobEvent(
        job=request.id,
        store=request.store,
        kind=EventKind.ENDED,
        status=Status.DONE,
        attempt=1,
        at=datetime.now(UTC),
        created_at=request.created_at,
    )
    await backend.publish(RESULTS, request.store, event)


async def find_delivered(ingest: Ingest, job: UUID) -> dict[str, Any] | None:
    answer = await ingest.get(f"/api/webhook-deliveries?job={job}")
    items: list[dict[str, Any]] = answer.json()["items"]
    return next((item for item in items if item["state"] == "DELIVERED"), None)


async def test_curl_examples_answer_as_documented(
    examples: list[str], backend: Backend, database: str, tmp_path: Path
) -> None:
    await asyncio.to_thread((tmp_path / "products.csv").write_text, EXPORT)
    operator_key = await create_operator_key(backend.database, "operator")
    async with (
        webhook_receiver() as webhook_url,
        start_ingest(backend, database, tmp_path, webhook_allow_loopback=True) as ingest,
    ):
        waiting = make_request(store="shop")
        done = make_request(store="shop", webhook_url=webhook_url)
        await insert(backend, waiting)
        await insert(backend, done, "DONE")
        await publish_end(backend, done)
        delivery = await eventually(partial(find_delivered, ingest, done.id))
        assert delivery is not None
        keys = {"TEST_TOKEN": ingest.key, "OPERATOR_KEY": operator_key}
        for example in examples:
            job = waiting.id if "/cancel" in example or "/retry" in example else done.id
            command = example.replace("http://localhost:3000", str(ingest.http.base_url))
            command = (
                command.replace("/STORE/", "/shop/")
                .replace("/ID", f"/{job}")
                .replace("/DELIVERY", f"/{delivery['id']}")
            )
            answer = await run_curl(command, tmp_path, keys)
            assert answer.splitlines()[-1] == expected_status(example), f"{example}\n{answer}"


async def test_browser_example_follows_job_to_its_end(
    backend: Backend, database: str, tmp_path: Path
) -> None:
    """The first ticket is invalid, like an expired one, so the page requests another."""
    try:
        executable = await asyncio.to_thread(installed.require_browser)
    except Unavailable as reason:
        pytest.skip(str(reason))
    (script,) = code_blocks(API_PAGE, "js")
    request, shown, tickets = make_request(store="shop"), asyncio.Queue[str](), list[str]()
    await insert(backend, request)
    async with (
        start_ingest(backend, database, tmp_path) as ingest,
        async_playwright() as playwright,
    ):

        async def ticket_for(job: str) -> str:
            path = f"/api/blog-generation/{job}/events-ticket"
            answer = await ingest.http.post(path, headers={"Authorization": f"Bearer {ingest.key}"})
            tickets.append(str(answer.json()["url"]))
            return f"{ingest.http.base_url}{tickets[-1]}{'invalid' if len(tickets) == 1 else ''}"

        started = await playwright.chromium.launch(
            executable_path=executable, args=["--no-sandbox"]
        )
        page = await started.new_page()
        await page.expose_function("ticketFor", ticket_for)
        await page.expose_function("show", lambda data: shown.put_nowait(data["status"]))
        await page.evaluate(f"{script}; follow('{request.id}', ticketFor, show)")
        async with asyncio.timeout(30):
            assert await shown.get() == "PENDING"
            await backend.database.execute(
                "UPDATE blog_generations SET status = 'DONE' WHERE id = $1", request.id
            )
            await publish_end(backend, request)
            assert await shown.get() == "DONE"
        assert len(tickets) == 2
        await started.close()

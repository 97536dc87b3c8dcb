"""Server-sent events of a job, from its current state to its end, with a key or a ticket."""

import asyncio
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any
from uuid import uuid4

import httpx
import orjson
import pytest

from shared.domain.api_keys import create_key, list_keys, revoke_key
from shared.domain.job import Status
from shared.domain.messages import BlogRequested, EventKind
from tests.support.backend import Backend, make_request
from tests.support.eventually import eventually
from tests.support.ingest import (
    PATH,
    PROBLEM,
    Ingest,
    bearer,
    insert,
    publish_job_event,
    set_status,
    start_ingest,
)


@pytest.fixture
async def ingest(backend: Backend, database: str, tmp_path: Path) -> AsyncIterator[Ingest]:
    async with start_ingest(backend, database, tmp_path) as running:
        yield running


class EventReader:
    """Reads the events of an open stream as (name, data)."""

    def __init__(self, answer: httpx.Response) -> None:
        self.answer = answer
        self._lines = answer.aiter_lines()

    async def next(self) -> tuple[str, dict[str, Any]] | None:
        """Return the next event, skipping comments; `None` when the stream has ended."""
        fields = dict[str, str]()
        async with asyncio.timeout(20):
            async for line in self._lines:
                name, _, value = line.partition(": ")
                fields[name] = value
                if not line and "event" in fields:
                    return fields["event"], orjson.loads(fields["data"])
        return None


@asynccontextmanager
async def follow(
    ingest: Ingest, path: str, *, key: str | None = None
) -> AsyncIterator[EventReader]:
    headers = bearer(key) if key else {}
    async with ingest.http.stream("GET", path, headers=headers, timeout=30) as answer:
        assert answer.status_code == 200, await answer.aread()
        assert answer.headers["content-type"].startswith("text/event-stream")
        yield EventReader(answer)


async def revoke(backend: Backend, key: str) -> None:
    entry = next(entry for entry in await list_keys(backend.database) if key.endswith(entry.hint))
    await revoke_key(backend.database, entry.id)


async def test_stream_goes_from_current_state_to_end(ingest: Ingest) -> None:
    backend, request, other = ingest.backend, make_request(store="shop"), make_request(store="shop")
    await insert(backend, request)
    path = f"{PATH}/{request.id}/events"
    async with follow(ingest, path, key=ingest.key) as stream:
        name, job = await stream.next() or ("", {})
        assert (name, job["status"], job["id"]) == ("job", "PENDING", str(request.id))
        for subject in (other, request, request):
            await publish_job_event(backend, subject, EventKind.STARTED, Status.PROCESSING)
        await publish_job_event(
            backend, request, EventKind.STEP_DONE, Status.PROCESSING, step="outline"
        )
        seen = [await stream.next() for _ in range(2)]
        assert [(one[0], one[1]["kind"], one[1]["step"]) for one in seen if one] == [
            ("progress", "started", None),
            ("progress", "step-done", "outline"),
        ], "each event once, and only of this job"
        await set_status(backend, request, "DONE")
        await publish_job_event(backend, request, EventKind.ENDED, Status.DONE)
        name, job = await stream.next() or ("", {})
        assert (name, job["status"], "post" in job) == ("job", "DONE", True)
        assert await stream.next() is None
    async with follow(ingest, path, key=ingest.key) as stream:
        name, job = await stream.next() or ("", {})
        assert (name, job["status"]) == ("job", "DONE")
        assert await stream.next() is None, "the stream of an ended job ends at once"
    await check_event_source_stops(ingest, request)
    other_store_key = await create_key(backend.database, "other-store")
    for key, status in ((other_store_key, 404), ("sk_live_wrong", 401)):
        answer = await ingest.get(path, key=key)
        assert (answer.status_code, answer.headers["content-type"]) == (status, PROBLEM)


async def check_event_source_stops(ingest: Ingest, request: BlogRequested) -> None:
    """An EventSource reconnects with its last id; 204 stops it, unless a user retried the job."""
    path = f"{PATH}/{request.id}/events"
    ids = re.findall("^id: (.*)$", (await ingest.get(path)).text, re.MULTILINE)
    reconnect = {"Authorization": f"Bearer {ingest.key}", "Last-Event-ID": ids[-1]}
    assert (await ingest.http.get(path, headers=reconnect)).status_code == 204
    assert (
        await ingest.http.get(path, headers=reconnect | {"Last-Event-ID": "another"})
    ).status_code == 200
    await set_status(ingest.backend, request, "PENDING")
    async with ingest.http.stream("GET", path, headers=reconnect) as answer:
        assert answer.status_code == 200
    await set_status(ingest.backend, request, "DONE")


async def test_head_describes_the_stream_without_starting_it(
    backend: Backend, database: str, tmp_path: Path
) -> None:
    """A started stream would count towards the limit until the job ends."""
    request = make_request(store="shop")
    await insert(backend, request)
    path = f"{PATH}/{request.id}/events"
    async with start_ingest(backend, database, tmp_path, max_streams_per_store=1) as ingest:
        for _ in range(3):  # no request uses up the limit of one
            answer = await ingest.http.head(path, headers=bearer(ingest.key), timeout=10)
            assert answer.status_code == 200
            assert answer.headers["content-type"].startswith("text/event-stream")
            assert answer.headers["cache-control"] == "no-store"
        assert (await ingest.http.head(path)).status_code == 401
        async with follow(ingest, path, key=ingest.key) as stream:
            assert await stream.next()


async def test_ticket_opens_one_jobs_stream_in_any_process(
    ingest: Ingest, backend: Backend, database: str, tmp_path: Path
) -> None:
    request, other = make_request(store="shop"), make_request(store="shop")
    for job in (request, other):
        await insert(backend, job)
    key = await create_key(backend.database, "shop")

    async def ticket(of: Ingest, job: BlogRequested = request) -> str:
        path = f"{PATH}/{job.id}/events-ticket"
        answer = await of.http.post(path, headers=bearer(key))
        assert (answer.status_code, answer.headers["cache-control"]) == (201, "no-store")
        return str(answer.json()["url"])

    async with start_ingest(backend, database, tmp_path, ticket_s=0.001) as second:
        url = await ticket(ingest)
        async with follow(second, url) as stream:
            assert (await stream.next() or ("", {}))[1]["status"] == "PENDING"
            assert stream.answer.headers["access-control-allow-origin"] == "*"
        expired = await ticket(second)
        of_another = await ticket(ingest, other)
        wrong = (
            expired,
            f"{PATH}/{request.id}/events?{of_another.partition('?')[2]}",
            f"{url}x",
            f"{url[:-9]}AAAAAAAAA",
        )
        for bad in (
            *wrong,
            f"{PATH}/{request.id}/events?ticket=nonsense",
            f"{PATH}/{request.id}/events",
        ):
            answer = await ingest.http.get(bad)
            assert (answer.status_code, answer.headers["content-type"]) == (401, PROBLEM), bad
        unknown = await ingest.http.post(f"{PATH}/{uuid4()}/events-ticket", headers=bearer(key))
        assert unknown.status_code == 404
        await revoke(backend, key)

        async def refused() -> bool:
            async with second.http.stream("GET", url) as answer:
                return answer.status_code == 401

        await eventually(refused, timeout=10)


async def test_open_stream_ends_when_its_key_is_revoked(
    backend: Backend, database: str, tmp_path: Path
) -> None:
    """The stream ends at its next read or event, and sends nothing more."""
    async with start_ingest(backend, database, tmp_path, stream_look_s=0.2) as ingest:
        for credential in ("key", "ticket"):
            request, key = make_request(store="shop"), await create_key(backend.database, "shop")
            await insert(backend, request)
            path = f"{PATH}/{request.id}/events"
            if credential == "ticket":
                answer = await ingest.http.post(f"{path}-ticket", headers=bearer(key))
                path = answer.json()["url"]
            async with follow(ingest, path, key=key if credential == "key" else None) as stream:
                assert (await stream.next() or ("", {}))[1]["status"] == "PENDING"
                await revoke(backend, key)
                assert await stream.next() is None
    async with start_ingest(backend, database, tmp_path, stream_look_s=60) as ingest:
        request, key = make_request(store="shop"), await create_key(backend.database, "shop")
        await insert(backend, request)
        path = f"{PATH}/{request.id}/events"
        async with follow(ingest, path, key=key) as stream:
            await stream.next()
            await revoke(backend, key)
            await eventually(partial(is_refused, ingest, path, key))
            await set_status(backend, request, "DONE")
            await publish_job_event(backend, request, EventKind.ENDED, Status.DONE)
            assert await stream.next() is None, "no post after the revocation"


async def is_refused(ingest: Ingest, path: str, key: str) -> bool:
    async with ingest.http.stream("GET", path, headers=bearer(key)) as answer:
        return answer.status_code == 401


async def test_stream_ends_despite_a_lost_event_and_at_process_stop(
    backend: Backend, database: str, tmp_path: Path
) -> None:
    lost, open_one = make_request(store="shop"), make_request(store="shop")
    for request in (lost, open_one):
        await insert(backend, request)
    async with start_ingest(
        backend, database, tmp_path, stream_look_s=0.2, max_streams=3, max_streams_per_store=2
    ) as ingest:
        async with follow(ingest, f"{PATH}/{lost.id}/events", key=ingest.key) as stream:
            await stream.next()
            await set_status(backend, lost, "FAILED")
            assert (await stream.next() or ("", {}))[1]["status"] == "FAILED"
            assert await stream.next() is None
        opened = asyncio.Queue[str]()

        async def hold(path: str, key: str) -> None:
            headers = bearer(key)
            async with (
                httpx.AsyncClient(base_url=ingest.http.base_url) as http,
                http.stream("GET", path, headers=headers, timeout=30) as answer,
            ):
                stream = EventReader(answer)
                await stream.next()
                opened.put_nowait(path)
                assert await stream.next() is None

        async def is_answered(path: str, key: str, status: int) -> bool:
            async with ingest.http.stream("GET", path, headers=bearer(key)) as answer:
                return answer.status_code == status

        path = f"{PATH}/{open_one.id}/events"
        holders = [asyncio.create_task(hold(path, ingest.key)) for _ in range(2)]
        for _ in holders:
            await opened.get()
        await eventually(lambda: is_answered(path, ingest.key, 429))
        neighbour, theirs = (
            await create_key(backend.database, "neighbour"),
            make_request(store="neighbour"),
        )
        await insert(backend, theirs)
        path = f"{PATH}/{theirs.id}/events"
        holders.append(asyncio.create_task(hold(path, neighbour)))
        await opened.get()  # the limit of one store leaves streams to others
        await eventually(lambda: is_answered(path, neighbour, 503))
    await asyncio.gather(*holders)

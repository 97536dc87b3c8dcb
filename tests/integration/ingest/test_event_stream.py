"""A job's progress as server-sent events: from its state now to its end, with a key or with a ticket."""

import asyncio
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any
from uuid import uuid4

import httpx
import orjson
import pytest

from shared.domain.api_keys import create_key, list_keys, revoke_key
from shared.domain.job import Status
from shared.domain.messages import BlogRequested, EventKind, JobEvent
from shared.kafka.topics import RESULTS
from tests.support.backend import Backend, make_request
from tests.support.eventually import eventually
from tests.support.ingest import PATH, PROBLEM, Ingest, insert, start_ingest


@pytest.fixture
async def ingest(backend: Backend, database: str, tmp_path: Path) -> AsyncIterator[Ingest]:
    async with start_ingest(backend, database, tmp_path) as running:
        yield running


class Stream:
    """The events of an open stream, one after the other: (name, data)."""

    def __init__(self, answer: httpx.Response) -> None:
        self.answer = answer
        self._lines = answer.aiter_lines()

    async def next(self) -> tuple[str, dict[str, Any]] | None:
        """None when the stream has ended. What is no event is passed over."""
        fields = dict[str, str]()
        async with asyncio.timeout(20):
            async for line in self._lines:
                name, _, value = line.partition(": ")
                fields[name] = value
                if not line and "event" in fields:
                    return fields["event"], orjson.loads(fields["data"])
        return None


@asynccontextmanager
async def following(ingest: Ingest, path: str, *, key: str | None = None) -> AsyncIterator[Stream]:
    headers = {"Authorization": f"Bearer {key}"} if key else {}
    async with ingest.http.stream("GET", path, headers=headers, timeout=30) as answer:
        assert answer.status_code == 200, await answer.aread()
        assert answer.headers["content-type"].startswith("text/event-stream")
        yield Stream(answer)


async def says(
    backend: Backend,
    request: BlogRequested,
    kind: EventKind,
    status: Status,
    step: str | None = None,
) -> None:
    event = JobEvent(
        job=request.id,
        store="shop",
        kind=kind,
        status=status,
        attempt=1,
        at=datetime.now(UTC),
        created_at=request.created_at,
        step=step,
    )
    await backend.publish(RESULTS, "shop", event)


async def revoke(backend: Backend, key: str) -> None:
    entry = next(entry for entry in await list_keys(backend.database) if key.endswith(entry.hint))
    await revoke_key(backend.database, entry.id)


async def becomes(backend: Backend, request: BlogRequested, status: str) -> None:
    await backend.database.execute(
        "UPDATE blog_generations SET status = $2 WHERE id = $1", request.id, status
    )


async def test_a_stream_goes_from_the_state_now_to_the_end(ingest: Ingest) -> None:
    backend, request, other = ingest.backend, make_request(store="shop"), make_request(store="shop")
    await insert(backend, request)
    path = f"{PATH}/{request.id}/events"
    async with following(ingest, path, key=ingest.key) as stream:
        name, job = await stream.next() or ("", {})
        assert (name, job["status"], job["id"]) == ("job", "PENDING", str(request.id))
        for told in (other, request, request):
            await says(backend, told, EventKind.STARTED, Status.PROCESSING)
        await says(backend, request, EventKind.STEP_DONE, Status.PROCESSING, step="outline")
        seen = [await stream.next() for _ in range(2)]
        assert [(one[0], one[1]["kind"], one[1]["step"]) for one in seen if one] == [
            ("progress", "started", None),
            ("progress", "step-done", "outline"),
        ], "each once, and of this job alone"
        await becomes(backend, request, "DONE")
        await says(backend, request, EventKind.ENDED, Status.DONE)
        name, job = await stream.next() or ("", {})
        assert (name, job["status"], "post" in job) == ("job", "DONE", True)
        assert await stream.next() is None
    async with following(ingest, path, key=ingest.key) as stream:
        name, job = await stream.next() or ("", {})
        assert (name, job["status"]) == ("job", "DONE")
        assert await stream.next() is None, "what has ended ends at once"
    await an_event_source_stops(ingest, request)
    stranger = await create_key(backend.database, "stranger")
    for key, status in ((stranger, 404), ("sk_live_wrong", 401)):
        answer = await ingest.get(path, key=key)
        assert (answer.status_code, answer.headers["content-type"]) == (status, PROBLEM)


async def an_event_source_stops(ingest: Ingest, request: BlogRequested) -> None:
    """It comes back when a stream has ended, with the id that it heard last: 204 tells it not to. A retry is news."""
    path = f"{PATH}/{request.id}/events"
    ids = re.findall("^id: (.*)$", (await ingest.get(path)).text, re.MULTILINE)
    back = {"Authorization": f"Bearer {ingest.key}", "Last-Event-ID": ids[-1]}
    assert (await ingest.http.get(path, headers=back)).status_code == 204
    assert (
        await ingest.http.get(path, headers=back | {"Last-Event-ID": "another"})
    ).status_code == 200
    await becomes(ingest.backend, request, "PENDING")
    async with ingest.http.stream("GET", path, headers=back) as answer:
        assert answer.status_code == 200
    await becomes(ingest.backend, request, "DONE")


async def test_head_tells_of_the_stream_and_begins_none(
    backend: Backend, database: str, tmp_path: Path
) -> None:
    """A stream would hold its place until the job ends."""
    request = make_request(store="shop")
    await insert(backend, request)
    path = f"{PATH}/{request.id}/events"
    async with start_ingest(backend, database, tmp_path, max_streams_per_store=1) as ingest:
        for _ in range(3):  # none holds the only place
            answer = await ingest.http.head(
                path, headers={"Authorization": f"Bearer {ingest.key}"}, timeout=10
            )
            assert answer.status_code == 200
            assert answer.headers["content-type"].startswith("text/event-stream")
            assert answer.headers["cache-control"] == "no-store"
        assert (await ingest.http.head(path)).status_code == 401
        async with following(ingest, path, key=ingest.key) as stream:
            assert await stream.next()


async def test_a_ticket_opens_one_jobs_stream_in_any_process_for_a_while(
    ingest: Ingest, backend: Backend, database: str, tmp_path: Path
) -> None:
    request, other = make_request(store="shop"), make_request(store="shop")
    for job in (request, other):
        await insert(backend, job)
    key = await create_key(backend.database, "shop")

    async def ticket(of: Ingest, job: BlogRequested = request) -> str:
        path = f"{PATH}/{job.id}/events-ticket"
        answer = await of.http.post(path, headers={"Authorization": f"Bearer {key}"})
        assert (answer.status_code, answer.headers["cache-control"]) == (201, "no-store")
        return str(answer.json()["url"])

    async with start_ingest(backend, database, tmp_path, ticket_s=0.001) as second:
        url = await ticket(ingest)
        async with following(second, url) as stream:
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
        unknown = await ingest.http.post(
            f"{PATH}/{uuid4()}/events-ticket", headers={"Authorization": f"Bearer {key}"}
        )
        assert unknown.status_code == 404
        await revoke(backend, key)

        async def refused() -> bool:
            async with second.http.stream("GET", url) as answer:
                return answer.status_code == 401

        await eventually(refused, timeout=10)


async def test_an_open_stream_ends_with_its_key(
    backend: Backend, database: str, tmp_path: Path
) -> None:
    """At its next look, be there news or none: what comes then is none of its business."""
    async with start_ingest(backend, database, tmp_path, stream_look_s=0.2) as ingest:
        for how in ("key", "ticket"):
            request, key = make_request(store="shop"), await create_key(backend.database, "shop")
            await insert(backend, request)
            path = f"{PATH}/{request.id}/events"
            if how == "ticket":
                answer = await ingest.http.post(
                    f"{path}-ticket", headers={"Authorization": f"Bearer {key}"}
                )
                path = answer.json()["url"]
            async with following(ingest, path, key=key if how == "key" else None) as stream:
                assert (await stream.next() or ("", {}))[1]["status"] == "PENDING"
                await revoke(backend, key)
                assert await stream.next() is None
    async with start_ingest(backend, database, tmp_path, stream_look_s=60) as ingest:
        request, key = make_request(store="shop"), await create_key(backend.database, "shop")
        await insert(backend, request)
        path = f"{PATH}/{request.id}/events"
        async with following(ingest, path, key=key) as stream:
            await stream.next()
            await revoke(backend, key)
            await eventually(partial(is_refused, ingest, path, key))
            await becomes(backend, request, "DONE")
            await says(backend, request, EventKind.ENDED, Status.DONE)
            assert await stream.next() is None, "the post is not for it"


async def is_refused(ingest: Ingest, path: str, key: str) -> bool:
    async with ingest.http.stream(
        "GET", path, headers={"Authorization": f"Bearer {key}"}
    ) as answer:
        return answer.status_code == 401


async def test_a_stream_ends_although_an_event_got_lost_and_when_the_process_stops(
    backend: Backend, database: str, tmp_path: Path
) -> None:
    lost, open_one = make_request(store="shop"), make_request(store="shop")
    for request in (lost, open_one):
        await insert(backend, request)
    async with start_ingest(
        backend, database, tmp_path, stream_look_s=0.2, max_streams=3, max_streams_per_store=2
    ) as ingest:
        async with following(ingest, f"{PATH}/{lost.id}/events", key=ingest.key) as stream:
            await stream.next()
            await becomes(backend, lost, "FAILED")
            assert (await stream.next() or ("", {}))[1]["status"] == "FAILED"
            assert await stream.next() is None
        held = asyncio.Queue[str]()

        async def hold(path: str, key: str) -> None:
            headers = {"Authorization": f"Bearer {key}"}
            async with (
                httpx.AsyncClient(base_url=ingest.http.base_url) as http,
                http.stream("GET", path, headers=headers, timeout=30) as answer,
            ):
                stream = Stream(answer)
                await stream.next()
                held.put_nowait(path)
                assert await stream.next() is None

        async def hears(path: str, key: str, status: int) -> bool:
            async with ingest.http.stream(
                "GET", path, headers={"Authorization": f"Bearer {key}"}
            ) as answer:
                return answer.status_code == status

        path = f"{PATH}/{open_one.id}/events"
        holding = [asyncio.create_task(hold(path, ingest.key)) for _ in range(2)]
        for _ in holding:
            await held.get()
        await eventually(lambda: hears(path, ingest.key, 429))
        neighbour, theirs = (
            await create_key(backend.database, "neighbour"),
            make_request(store="neighbour"),
        )
        await insert(backend, theirs)
        path = f"{PATH}/{theirs.id}/events"
        holding.append(asyncio.create_task(hold(path, neighbour)))
        await held.get()  # one store's streams are not all that there are
        await eventually(lambda: hears(path, neighbour, 503))
    await asyncio.gather(*holding)

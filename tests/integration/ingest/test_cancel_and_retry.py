"""Cancel and retry over HTTP, on the real broker and database, with a real scheduler and a worker paid by stand-ins."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import httpx
import pytest

from services.generator import service
from services.ingest.auth.key_ring import Caller
from services.ingest.jobs.repository import IngestStore
from shared.domain.api_keys import create_key, create_operator_key
from shared.domain.job import Status
from shared.domain.messages import BlogRequested, EventKind, JobEvent, PreviousOutcome
from shared.kafka.topics import RESULTS
from shared.runtime.postgres import open_pool
from shared.runtime.settings import PostgresSettings
from tests.support.backend import Backend, make_request
from tests.support.backend import running_service as running_service
from tests.support.eventually import eventually
from tests.support.fake_providers import StandIns
from tests.support.generator import worker_settings
from tests.support.ingest import PATH, PROBLEM, Ingest, insert, start_ingest
from tests.support.processes import start_workers
from tests.support.scheduler import has_job_count, read_tasks_at_least, publish_worker_report, is_settled, start_scheduler

SHOP = Caller(store="shop", name="shop", key=b"hash")


@pytest.fixture
async def ingest(backend: Backend, database: str, tmp_path: Path) -> AsyncIterator[Ingest]:
    async with start_ingest(backend, database, tmp_path) as running:
        yield running


async def change(ingest: Ingest, what: str, job: UUID, key: str | None = None) -> httpx.Response:
    headers = {"Authorization": f"Bearer {key or ingest.key}"}
    return await ingest.http.post(f"{PATH}/{job}/{what}", headers=headers)


async def told(backend: Backend, job: UUID) -> list[tuple[EventKind, str, int]]:
    events = [
        event
        for _, event in await backend.read_records(RESULTS)
        if isinstance(event, JobEvent) and event.job == job
    ]
    return [
        (event.kind, event.status, event.attempt)
        for event in events
        if event.kind is not EventKind.ADMITTED
    ]


async def endings(backend: Backend, job: UUID) -> list[JobEvent]:
    events = [
        event
        for _, event in await backend.read_records(RESULTS)
        if isinstance(event, JobEvent) and event.job == job
    ]
    return [event for event in events if event.kind is EventKind.ENDED]


async def test_who_may_change_what(ingest: Ingest, database: str, tmp_path: Path) -> None:
    """Through two ingest processes: one of two cancels at once wins, and so it is with two retries."""
    backend = ingest.backend
    waiting, done = make_request(store="shop"), make_request(store="shop")
    await insert(backend, waiting)
    await insert(backend, done, "DONE")
    stranger = await create_key(backend.database, "stranger")
    operator = await create_operator_key(backend.database, "ada")
    async with start_ingest(backend, database, tmp_path) as second:
        for what in ("cancel", "retry"):
            for answer in (
                await change(ingest, what, waiting.id, stranger),
                await change(ingest, what, uuid4()),
            ):
                assert (answer.status_code, answer.headers["content-type"]) == (404, PROBLEM)
            refused = await change(ingest, what, done.id)
            assert (refused.status_code, refused.headers["content-type"]) == (409, PROBLEM)
            assert "DONE" in refused.json()["detail"]
            assert (await change(ingest, what, waiting.id, "sk_live_wrong")).status_code == 401
        assert (await change(ingest, "retry", waiting.id)).status_code == 409
        for what, status in (("cancel", "CANCELLED"), ("retry", "PENDING")):
            answers = await asyncio.gather(
                *(change(one, what, waiting.id) for one in (ingest, second) for _ in "123")
            )
            assert Counter(answer.status_code for answer in answers) == {200: 1, 409: 5}
            (taken,) = [answer.json() for answer in answers if answer.status_code == 200]
            assert (taken["id"], taken["status"], taken["attempts"]) == (str(waiting.id), status, 0)
        assert (await change(second, "cancel", waiting.id, operator)).json()["error"] == {
            "code": "cancelled",
            "message": "cancelled by operator ada",
        }
        assert (await second.get(f"{PATH}/{waiting.id}", key=operator)).json()[
            "status"
        ] == "CANCELLED"
        listed = await second.get(f"{PATH}?store=shop&limit=1", key=operator)
        assert (len(listed.json()["items"]), "store=shop" in listed.headers["link"]) == (1, True)
        for path, key in ((PATH, operator), (f"{PATH}?store=shop", stranger)):
            answer = await second.get(path, key=key)
            assert (answer.status_code, answer.json()["errors"][0]["field"]) == (422, "store")
        asked = await second.post(
            {"sourceType": "topic", "sourceId": "x"},
            headers={"Authorization": f"Bearer {operator}"},
        )
        assert (asked.status_code, asked.headers["content-type"]) == (403, PROBLEM)
    assert await told(backend, waiting.id) == [
        (EventKind.ENDED, "CANCELLED", 0),
        (EventKind.RETRY, "PENDING", 1),
        (EventKind.ENDED, "CANCELLED", 1),
    ]


async def test_a_job_accepted_a_moment_ago_can_be_cancelled(
    backend: Backend, database: str, tmp_path: Path
) -> None:
    async with start_ingest(backend, database, tmp_path, fresh_wait_s=30) as ingest:
        request = make_request(store="shop")
        cancelling = asyncio.create_task(change(ingest, "cancel", request.id))
        assert (await change(ingest, "cancel", uuid4())).status_code == 404
        await insert(backend, request)
        assert (await cancelling).json()["status"] == "CANCELLED"


async def test_the_order_hears_of_it(backend: Backend, database: str, ingest: Ingest) -> None:
    """A waiting job, a forwarded one, and one whose event got lost; a retry begins again, and takes its turn."""
    waiting, forwarded, follower = (make_request(store="shop") for _ in range(3))
    pool = await open_pool(PostgresSettings.model_validate({"database_url": database}), name="test")
    async with pool, start_scheduler(backend, database):
        store = IngestStore(pool)
        await backend.submit(forwarded)
        await eventually(partial(has_job_count, backend, 1))
        await publish_worker_report(backend, slots=1)
        await eventually(partial(read_tasks_at_least, backend, 1), every=0.2)
        for request in (waiting, follower):
            await backend.submit(request)
        await eventually(partial(has_job_count, backend, 3))
        assert (await change(ingest, "cancel", waiting.id)).status_code == 200
        assert (await change(ingest, "cancel", forwarded.id)).status_code == 200
        sent = await eventually(partial(read_tasks_at_least, backend, 2), every=0.2)
        assert sent[1].job == follower.id, (
            "the cancelled job's slot is free, and the other does not begin"
        )
        assert (await change(ingest, "retry", forwarded.id)).status_code == 200
        assert await store.cancel(follower.id, SHOP), "and nobody says so"
        sent = await eventually(partial(read_tasks_at_least, backend, 3), every=0.2)
        assert (sent[2].job, sent[2].forward) == (forwarded.id, 2)
        assert await store.cancel(forwarded.id, SHOP)
        assert await store.retry(waiting.id, SHOP)
        sent = await eventually(partial(read_tasks_at_least, backend, 4), every=0.2)
        assert (sent[3].job, sent[3].forward) == (waiting.id, 1)


@asynccontextmanager
async def working(
    backend: Backend, database: str, standins: StandIns, folder: Path, **changes: Any
) -> AsyncIterator[None]:
    settings = worker_settings(
        bootstrap=backend.settings.kafka_bootstrap_servers,
        prefix=backend.settings.kafka_topic_prefix,
        database=database,
        standins=standins,
        folder=folder,
        lease_s=3,
        **changes,
    )
    async with (
        start_scheduler(backend, database),
        running_service(lambda stop: service.run(settings, stop, name="worker-1")),
    ):
        yield


async def in_call(backend: Backend, job: UUID, step: str) -> bool:
    return bool(
        await backend.database.fetchval(
            "SELECT 1 FROM blog_steps WHERE (job_id, step, state) = ($1, $2, 'STARTED')", job, step
        )
    )


async def test_a_running_job_stops_after_the_call_it_pays_for_and_goes_on_from_there(
    backend: Backend, database: str, ingest: Ingest, standins: StandIns, tmp_path: Path
) -> None:
    request = make_request(store="shop", images=0)
    async with working(backend, database, standins, tmp_path):
        with standins.openai.latency(2_500):  # longer than a heartbeat's pause
            await backend.submit(request)
            await eventually(partial(in_call, backend, request.id, "outline"))
            shown = (await change(ingest, "cancel", request.id)).json()
            assert (shown["status"], shown["attempts"], shown["post"]) == ("CANCELLED", 1, None)
            await eventually(partial(_let_go, backend, request.id))
        await eventually(partial(is_settled, backend, request.id))
        row = await backend.row(request.id)
        assert row["status"] == "CANCELLED"
        assert (
            row["input_tokens"] + row["output_tokens"]
            == standins.openai.bill(request.id)["tokens"]
            > 0
        )
        assert standins.openai.bill(request.id)["steps"] == {"outline": 1}
        assert (await change(ingest, "retry", request.id)).status_code == 200
        await eventually(lambda: backend.has_status(request.id, "DONE"))
        await eventually(partial(is_settled, backend, request.id))
    assert standins.openai.bill(request.id)["steps"] == {"outline": 1, "article": 1}
    assert (await ingest.get(f"{PATH}/{request.id}")).json()["attempts"] == 2
    row = await backend.row(request.id)
    assert row["input_tokens"] + row["output_tokens"] == standins.openai.bill(request.id)["tokens"]
    ends = [
        (end.status, end.attempt, end.usage.input_tokens > 0)
        for end in await endings(backend, request.id)
    ]
    late = [("CANCELLED", 1, False), ("CANCELLED", 1, True)]
    assert list(dict.fromkeys(ends)) == [*late, ("DONE", 3, True)]


async def test_a_job_that_waits_for_its_turn_at_the_provider_stops_at_once(
    backend: Backend, database: str, ingest: Ingest, standins: StandIns, tmp_path: Path
) -> None:
    """One call a minute for all partitions, and the first not for a while."""
    request = make_request(store="shop")
    async with working(backend, database, standins, tmp_path, openai_rpm=1):
        await backend.submit(request)
        await eventually(lambda: backend.has_status(request.id, "PROCESSING"))
        assert (await change(ingest, "cancel", request.id)).status_code == 200
        await eventually(partial(_let_go, backend, request.id))
    assert standins.openai.bill(request.id)["calls"] == 0
    assert await backend.database.fetchval("SELECT count(*) FROM provider_calls") == 0


async def test_a_call_that_was_in_flight_when_a_cancelled_jobs_worker_died_is_in_doubt(
    backend: Backend, database: str, ingest: Ingest, standins: StandIns, tmp_path: Path
) -> None:
    """kill -9 after the cancellation, in the middle of a call: it may have been billed, and nobody makes it again."""
    request = make_request(store="shop", images=0)
    async with (
        start_scheduler(backend, database, lease_s=3),
        start_workers(backend, database, standins, tmp_path) as hire,
    ):
        worker = await hire(LEASE_S="3")
        with standins.openai.latency(60_000):
            await backend.submit(request)
            await eventually(partial(in_call, backend, request.id, "outline"), timeout=30)
            assert (await change(ingest, "cancel", request.id)).status_code == 200
            await worker.kill()
        await eventually(partial(_let_go, backend, request.id), timeout=30)
        shown = (await ingest.get(f"{PATH}/{request.id}")).json()
        assert (shown["status"], shown["attempts"]) == ("CANCELLED", 1)
        assert [(step["name"], step["state"], step["inDoubt"]) for step in shown["steps"]] == [
            ("outline", "FAILED", 1)
        ]
        await eventually(partial(_was_told, backend, request.id, [0, 1]))


async def _was_told(backend: Backend, job: UUID, doubts: list[int]) -> bool:
    """Whether the job's end was told with so many calls in doubt, one after the other."""
    return list(dict.fromkeys(end.usage.in_doubt for end in await endings(backend, job))) == doubts


async def _let_go(backend: Backend, job: UUID) -> bool:
    return (await backend.row(job))["lease_until"] is None


async def test_a_failed_job_goes_on_after_its_last_paid_step_with_all_its_tries(
    backend: Backend, database: str, ingest: Ingest, standins: StandIns, tmp_path: Path
) -> None:
    request: BlogRequested = make_request(store="shop", images=0)
    standins.openai.script(
        {"kind": "refusal", "count": 2, "job": str(request.id), "step": "article"}
    )
    async with working(backend, database, standins, tmp_path):
        await backend.submit(request)
        await eventually(lambda: backend.has_status(request.id, "FAILED"))
        await backend.database.execute(
            "UPDATE blog_generations SET attempt = 8 WHERE id = $1", request.id
        )
        standins.openai.script({"kind": "500", "job": str(request.id), "step": "article"})
        assert (await change(ingest, "retry", request.id)).json()["error"] is None
        await eventually(lambda: backend.has_status(request.id, "DONE"))
    assert standins.openai.bill(request.id)["steps"] == {"outline": 1, "article": 3}, (
        "refusals are billed, too"
    )
    events = [
        event for _, event in await backend.read_records(RESULTS) if isinstance(event, JobEvent)
    ]
    (failed,) = (event for event in events if event.status is Status.FAILED)
    (again,) = (event for event in events if event.former is not None)
    assert again.former == PreviousOutcome(status=Status.FAILED, at=failed.at, begun=True)
    assert (again.kind, again.usage) == (EventKind.RETRY, failed.usage), (
        "what has forgotten the job knows it again"
    )

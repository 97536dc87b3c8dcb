"""Cancel and retry, with a real scheduler, and a worker that calls stand-ins."""

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
from services.ingest.jobs.repository import JobRepository
from shared.domain.api_keys import create_key, create_operator_key
from shared.domain.job import Status
from shared.domain.messages import BlogRequested, EventKind, JobEvent, PreviousOutcome
from shared.runtime.postgres import open_pool
from shared.runtime.settings import PostgresSettings
from tests.support.backend import Backend, make_request, running_service
from tests.support.eventually import eventually
from tests.support.fake_providers import StandIns
from tests.support.generator import worker_settings
from tests.support.ingest import (
    PATH,
    PROBLEM,
    Ingest,
    bearer,
    insert,
    read_job_events,
    start_ingest,
)
from tests.support.processes import start_workers
from tests.support.scheduler import (
    has_job_count,
    is_settled,
    publish_worker_report,
    read_tasks_at_least,
    start_scheduler,
)

SHOP = Caller(store="shop", name="shop", key=b"hash")


@pytest.fixture
async def ingest(backend: Backend, database: str, tmp_path: Path) -> AsyncIterator[Ingest]:
    async with start_ingest(backend, database, tmp_path) as running:
        yield running


async def apply_action(
    ingest: Ingest, action: str, job: UUID, key: str | None = None
) -> httpx.Response:
    return await ingest.http.post(f"{PATH}/{job}/{action}", headers=bearer(key or ingest.key))


async def events_after_admission(backend: Backend, job: UUID) -> list[tuple[EventKind, str, int]]:
    return [
        (event.kind, event.status, event.attempt)
        for event in await read_job_events(backend, job)
        if event.kind is not EventKind.ADMITTED
    ]


async def end_events(backend: Backend, job: UUID) -> list[JobEvent]:
    events = await read_job_events(backend, job)
    return [event for event in events if event.kind is EventKind.ENDED]


async def test_store_and_operators_may_cancel_and_retry(
    ingest: Ingest, database: str, tmp_path: Path
) -> None:
    """Two processes take part: one of six concurrent cancels wins, and one of six retries."""
    backend = ingest.backend
    waiting, done = make_request(store="shop"), make_request(store="shop")
    await insert(backend, waiting)
    await insert(backend, done, "DONE")
    other_store_key = await create_key(backend.database, "other-store")
    operator = await create_operator_key(backend.database, "ada")
    async with start_ingest(backend, database, tmp_path) as second:
        for action in ("cancel", "retry"):
            for answer in (
                await apply_action(ingest, action, waiting.id, other_store_key),
                await apply_action(ingest, action, uuid4()),
            ):
                assert (answer.status_code, answer.headers["content-type"]) == (404, PROBLEM)
            refused = await apply_action(ingest, action, done.id)
            assert (refused.status_code, refused.headers["content-type"]) == (409, PROBLEM)
            assert "DONE" in refused.json()["detail"]
            assert (
                await apply_action(ingest, action, waiting.id, "sk_live_wrong")
            ).status_code == 401
        assert (await apply_action(ingest, "retry", waiting.id)).status_code == 409
        for action, status in (("cancel", "CANCELLED"), ("retry", "PENDING")):
            answers = await asyncio.gather(
                *(apply_action(one, action, waiting.id) for one in (ingest, second) for _ in "123")
            )
            assert Counter(answer.status_code for answer in answers) == {200: 1, 409: 5}
            (taken,) = [answer.json() for answer in answers if answer.status_code == 200]
            assert (taken["id"], taken["status"], taken["attempts"]) == (str(waiting.id), status, 0)
        assert (await apply_action(second, "cancel", waiting.id, operator)).json()["error"] == {
            "code": "cancelled",
            "message": "cancelled by operator ada",
        }
        assert (await second.get(f"{PATH}/{waiting.id}", key=operator)).json()[
            "status"
        ] == "CANCELLED"
        listed = await second.get(f"{PATH}?store=shop&limit=1", key=operator)
        assert (len(listed.json()["items"]), "store=shop" in listed.headers["link"]) == (1, True)
        for path, key in ((PATH, operator), (f"{PATH}?store=shop", other_store_key)):
            answer = await second.get(path, key=key)
            assert (answer.status_code, answer.json()["errors"][0]["field"]) == (422, "store")
        asked = await second.post(
            {"sourceType": "topic", "sourceId": "x"},
            headers={"Authorization": f"Bearer {operator}"},
        )
        assert (asked.status_code, asked.headers["content-type"]) == (403, PROBLEM)
    assert await events_after_admission(backend, waiting.id) == [
        (EventKind.ENDED, "CANCELLED", 0),
        (EventKind.RETRY, "PENDING", 1),
        (EventKind.ENDED, "CANCELLED", 1),
    ]


async def test_job_without_a_row_yet_can_be_cancelled(
    backend: Backend, database: str, tmp_path: Path
) -> None:
    async with start_ingest(backend, database, tmp_path, fresh_wait_s=30) as ingest:
        request = make_request(store="shop")
        cancelling = asyncio.create_task(apply_action(ingest, "cancel", request.id))
        assert (await apply_action(ingest, "cancel", uuid4())).status_code == 404
        await insert(backend, request)
        assert (await cancelling).json()["status"] == "CANCELLED"


async def test_scheduler_applies_user_actions(
    backend: Backend, database: str, ingest: Ingest
) -> None:
    """Cancels a waiting job, a dispatched one, and one without an event; a retry queues again."""
    waiting, forwarded, follower = (make_request(store="shop") for _ in range(3))
    pool = await open_pool(PostgresSettings.model_validate({"database_url": database}), name="test")
    async with pool, start_scheduler(backend, database):
        jobs = JobRepository(pool)
        await backend.submit(forwarded)
        await eventually(partial(has_job_count, backend, 1))
        await publish_worker_report(backend, slots=1)
        await eventually(partial(read_tasks_at_least, backend, 1), every=0.2)
        for request in (waiting, follower):
            await backend.submit(request)
        await eventually(partial(has_job_count, backend, 3))
        assert (await apply_action(ingest, "cancel", waiting.id)).status_code == 200
        assert (await apply_action(ingest, "cancel", forwarded.id)).status_code == 200
        sent = await eventually(partial(read_tasks_at_least, backend, 2), every=0.2)
        assert sent[1].job == follower.id, (
            "the slot is free again, and the cancelled waiting job does not start"
        )
        assert (await apply_action(ingest, "retry", forwarded.id)).status_code == 200
        assert await jobs.cancel_job(follower.id, SHOP), "without an event"
        sent = await eventually(partial(read_tasks_at_least, backend, 3), every=0.2)
        assert (sent[2].job, sent[2].forward) == (forwarded.id, 2)
        assert await jobs.cancel_job(forwarded.id, SHOP)
        assert await jobs.retry_job(waiting.id, SHOP)
        sent = await eventually(partial(read_tasks_at_least, backend, 4), every=0.2)
        assert (sent[3].job, sent[3].forward) == (waiting.id, 1)


@asynccontextmanager
async def running_worker(
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
        running_service(lambda stop: service.run_worker(settings, stop, name="worker-1")),
    ):
        yield


async def is_calling(backend: Backend, job: UUID, step: str) -> bool:
    return bool(
        await backend.database.fetchval(
            "SELECT 1 FROM blog_steps WHERE (job_id, step, state) = ($1, $2, 'STARTED')", job, step
        )
    )


async def test_cancelled_job_stops_after_its_call_and_resumes_there(
    backend: Backend, database: str, ingest: Ingest, standins: StandIns, tmp_path: Path
) -> None:
    request = make_request(store="shop", images=0)
    async with running_worker(backend, database, standins, tmp_path):
        with standins.openai.latency(2_500):  # longer than the heartbeat interval
            await backend.submit(request)
            await eventually(partial(is_calling, backend, request.id, "outline"))
            shown = (await apply_action(ingest, "cancel", request.id)).json()
            assert (shown["status"], shown["attempts"], shown["post"]) == ("CANCELLED", 1, None)
            await eventually(partial(_has_no_lease, backend, request.id))
        await eventually(partial(is_settled, backend, request.id))
        row = await backend.row(request.id)
        assert row["status"] == "CANCELLED"
        assert (
            row["input_tokens"] + row["output_tokens"]
            == standins.openai.bill(request.id)["tokens"]
            > 0
        )
        assert standins.openai.bill(request.id)["steps"] == {"outline": 1}
        assert (await apply_action(ingest, "retry", request.id)).status_code == 200
        await eventually(lambda: backend.has_status(request.id, "DONE"))
        await eventually(partial(is_settled, backend, request.id))
    assert standins.openai.bill(request.id)["steps"] == {"outline": 1, "article": 1}
    assert (await ingest.get(f"{PATH}/{request.id}")).json()["attempts"] == 2
    row = await backend.row(request.id)
    assert row["input_tokens"] + row["output_tokens"] == standins.openai.bill(request.id)["tokens"]
    ends = [
        (end.status, end.attempt, end.usage.input_tokens > 0)
        for end in await end_events(backend, request.id)
    ]
    late = [("CANCELLED", 1, False), ("CANCELLED", 1, True)]
    assert list(dict.fromkeys(ends)) == [*late, ("DONE", 3, True)]


async def test_job_waiting_for_a_permit_stops_at_once(
    backend: Backend, database: str, ingest: Ingest, standins: StandIns, tmp_path: Path
) -> None:
    """All partitions share one call a minute, and the first is not due for a while."""
    request = make_request(store="shop")
    async with running_worker(backend, database, standins, tmp_path, openai_rpm=1):
        await backend.submit(request)
        await eventually(lambda: backend.has_status(request.id, "PROCESSING"))
        assert (await apply_action(ingest, "cancel", request.id)).status_code == 200
        await eventually(partial(_has_no_lease, backend, request.id))
    assert standins.openai.bill(request.id)["calls"] == 0
    assert await backend.database.fetchval("SELECT count(*) FROM provider_calls") == 0


async def test_call_of_a_killed_worker_is_in_doubt_after_cancel(
    backend: Backend, database: str, ingest: Ingest, standins: StandIns, tmp_path: Path
) -> None:
    """The call may have been billed when kill -9 hit the worker; it is not repeated."""
    request = make_request(store="shop", images=0)
    async with (
        start_scheduler(backend, database, lease_s=3),
        start_workers(backend, database, standins, tmp_path) as start_worker,
    ):
        worker = await start_worker(LEASE_S="3")
        with standins.openai.latency(60_000):
            await backend.submit(request)
            await eventually(partial(is_calling, backend, request.id, "outline"), timeout=30)
            assert (await apply_action(ingest, "cancel", request.id)).status_code == 200
            await worker.kill()
        await eventually(partial(_has_no_lease, backend, request.id), timeout=30)
        shown = (await ingest.get(f"{PATH}/{request.id}")).json()
        assert (shown["status"], shown["attempts"]) == ("CANCELLED", 1)
        assert [(step["name"], step["state"], step["inDoubt"]) for step in shown["steps"]] == [
            ("outline", "FAILED", 1)
        ]
        await eventually(partial(_ends_with_doubts, backend, request.id, [0, 1]))


async def _ends_with_doubts(backend: Backend, job: UUID, doubts: list[int]) -> bool:
    """Return whether the distinct end events report these numbers of in-doubt calls, in order."""
    return (
        list(dict.fromkeys(end.usage.in_doubt for end in await end_events(backend, job))) == doubts
    )


async def _has_no_lease(backend: Backend, job: UUID) -> bool:
    return (await backend.row(job))["lease_until"] is None


async def test_retry_resumes_after_last_paid_step_with_all_attempts(
    backend: Backend, database: str, ingest: Ingest, standins: StandIns, tmp_path: Path
) -> None:
    request: BlogRequested = make_request(store="shop", images=0)
    standins.openai.script(
        {"kind": "refusal", "count": 2, "job": str(request.id), "step": "article"}
    )
    async with running_worker(backend, database, standins, tmp_path):
        await backend.submit(request)
        await eventually(lambda: backend.has_status(request.id, "FAILED"))
        await backend.database.execute(
            "UPDATE blog_generations SET attempt = 8 WHERE id = $1", request.id
        )
        standins.openai.script({"kind": "500", "job": str(request.id), "step": "article"})
        assert (await apply_action(ingest, "retry", request.id)).json()["error"] is None
        # The pause after an outage grows with the attempts, up to a minute.
        await eventually(lambda: backend.has_status(request.id, "DONE"), timeout=90)
    assert standins.openai.bill(request.id)["steps"] == {"outline": 1, "article": 3}, (
        "refusals are billed too"
    )
    events = await read_job_events(backend)
    (failed,) = (event for event in events if event.status is Status.FAILED)
    (again,) = (event for event in events if event.former is not None)
    assert again.former == PreviousOutcome(status=Status.FAILED, at=failed.at, begun=True)
    assert (again.kind, again.usage) == (EventKind.RETRY, failed.usage), (
        "a reader without the job can restore it"
    )

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
from tests.support.environment import World, a_request
from tests.support.environment import running as running_service
from tests.support.eventually import eventually
from tests.support.fake_providers import Standins
from tests.support.generator import worker_settings
from tests.support.ingest import PATH, PROBLEM, Ingest, an_ingest, insert
from tests.support.processes import hiring
from tests.support.scheduler import admitted, at_least, offer, settled, started

SHOP = Caller(store="shop", name="shop", key=b"hash")


@pytest.fixture
async def ingest(world: World, database: str, tmp_path: Path) -> AsyncIterator[Ingest]:
    async with an_ingest(world, database, tmp_path) as running:
        yield running


async def change(ingest: Ingest, what: str, job: UUID, key: str | None = None) -> httpx.Response:
    headers = {"Authorization": f"Bearer {key or ingest.key}"}
    return await ingest.http.post(f"{PATH}/{job}/{what}", headers=headers)


async def told(world: World, job: UUID) -> list[tuple[EventKind, str, int]]:
    events = [
        event
        for _, event in await world.read_all(RESULTS)
        if isinstance(event, JobEvent) and event.job == job
    ]
    return [
        (event.kind, event.status, event.attempt)
        for event in events
        if event.kind is not EventKind.ADMITTED
    ]


async def endings(world: World, job: UUID) -> list[JobEvent]:
    events = [
        event
        for _, event in await world.read_all(RESULTS)
        if isinstance(event, JobEvent) and event.job == job
    ]
    return [event for event in events if event.kind is EventKind.ENDED]


async def test_who_may_change_what(ingest: Ingest, database: str, tmp_path: Path) -> None:
    """Through two ingest processes: one of two cancels at once wins, and so it is with two retries."""
    world = ingest.world
    waiting, done = a_request(store="shop"), a_request(store="shop")
    await insert(world, waiting)
    await insert(world, done, "DONE")
    stranger = await create_key(world.database, "stranger")
    operator = await create_operator_key(world.database, "ada")
    async with an_ingest(world, database, tmp_path) as second:
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
    assert await told(world, waiting.id) == [
        (EventKind.ENDED, "CANCELLED", 0),
        (EventKind.RETRY, "PENDING", 1),
        (EventKind.ENDED, "CANCELLED", 1),
    ]


async def test_a_job_accepted_a_moment_ago_can_be_cancelled(
    world: World, database: str, tmp_path: Path
) -> None:
    async with an_ingest(world, database, tmp_path, fresh_wait_s=30) as ingest:
        request = a_request(store="shop")
        cancelling = asyncio.create_task(change(ingest, "cancel", request.id))
        assert (await change(ingest, "cancel", uuid4())).status_code == 404
        await insert(world, request)
        assert (await cancelling).json()["status"] == "CANCELLED"


async def test_the_order_hears_of_it(world: World, database: str, ingest: Ingest) -> None:
    """A waiting job, a forwarded one, and one whose event got lost; a retry begins again, and takes its turn."""
    waiting, forwarded, follower = (a_request(store="shop") for _ in range(3))
    pool = await open_pool(PostgresSettings.model_validate({"database_url": database}), name="test")
    async with pool, started(world, database):
        store = IngestStore(pool)
        await world.ask(forwarded)
        await eventually(partial(admitted, world, 1))
        await offer(world, slots=1)
        await eventually(partial(at_least, world, 1), every=0.2)
        for request in (waiting, follower):
            await world.ask(request)
        await eventually(partial(admitted, world, 3))
        assert (await change(ingest, "cancel", waiting.id)).status_code == 200
        assert (await change(ingest, "cancel", forwarded.id)).status_code == 200
        sent = await eventually(partial(at_least, world, 2), every=0.2)
        assert sent[1].job == follower.id, (
            "the cancelled job's slot is free, and the other does not begin"
        )
        assert (await change(ingest, "retry", forwarded.id)).status_code == 200
        assert await store.cancel(follower.id, SHOP), "and nobody says so"
        sent = await eventually(partial(at_least, world, 3), every=0.2)
        assert (sent[2].job, sent[2].forward) == (forwarded.id, 2)
        assert await store.cancel(forwarded.id, SHOP)
        assert await store.retry(waiting.id, SHOP)
        sent = await eventually(partial(at_least, world, 4), every=0.2)
        assert (sent[3].job, sent[3].forward) == (waiting.id, 1)


@asynccontextmanager
async def working(
    world: World, database: str, standins: Standins, folder: Path, **changes: Any
) -> AsyncIterator[None]:
    settings = worker_settings(
        bootstrap=world.settings.kafka_bootstrap_servers,
        prefix=world.settings.kafka_topic_prefix,
        database=database,
        standins=standins,
        folder=folder,
        lease_s=3,
        **changes,
    )
    async with (
        started(world, database),
        running_service(lambda stop: service.run(settings, stop, name="worker-1")),
    ):
        yield


async def in_call(world: World, job: UUID, step: str) -> bool:
    return bool(
        await world.database.fetchval(
            "SELECT 1 FROM blog_steps WHERE (job_id, step, state) = ($1, $2, 'STARTED')", job, step
        )
    )


async def test_a_running_job_stops_after_the_call_it_pays_for_and_goes_on_from_there(
    world: World, database: str, ingest: Ingest, standins: Standins, tmp_path: Path
) -> None:
    request = a_request(store="shop", images=0)
    async with working(world, database, standins, tmp_path):
        with standins.openai.latency(2_500):  # longer than a heartbeat's pause
            await world.ask(request)
            await eventually(partial(in_call, world, request.id, "outline"))
            shown = (await change(ingest, "cancel", request.id)).json()
            assert (shown["status"], shown["attempts"], shown["post"]) == ("CANCELLED", 1, None)
            await eventually(partial(_let_go, world, request.id))
        await eventually(partial(settled, world, request.id))
        row = await world.row(request.id)
        assert row["status"] == "CANCELLED"
        assert (
            row["input_tokens"] + row["output_tokens"]
            == standins.openai.bill(request.id)["tokens"]
            > 0
        )
        assert standins.openai.bill(request.id)["steps"] == {"outline": 1}
        assert (await change(ingest, "retry", request.id)).status_code == 200
        await eventually(lambda: world.has_status(request.id, "DONE"))
        await eventually(partial(settled, world, request.id))
    assert standins.openai.bill(request.id)["steps"] == {"outline": 1, "article": 1}
    assert (await ingest.get(f"{PATH}/{request.id}")).json()["attempts"] == 2
    row = await world.row(request.id)
    assert row["input_tokens"] + row["output_tokens"] == standins.openai.bill(request.id)["tokens"]
    ends = [
        (end.status, end.attempt, end.usage.input_tokens > 0)
        for end in await endings(world, request.id)
    ]
    late = [("CANCELLED", 1, False), ("CANCELLED", 1, True)]
    assert list(dict.fromkeys(ends)) == [*late, ("DONE", 3, True)]


async def test_a_job_that_waits_for_its_turn_at_the_provider_stops_at_once(
    world: World, database: str, ingest: Ingest, standins: Standins, tmp_path: Path
) -> None:
    """One call a minute for all partitions, and the first not for a while."""
    request = a_request(store="shop")
    async with working(world, database, standins, tmp_path, openai_rpm=1):
        await world.ask(request)
        await eventually(lambda: world.has_status(request.id, "PROCESSING"))
        assert (await change(ingest, "cancel", request.id)).status_code == 200
        await eventually(partial(_let_go, world, request.id))
    assert standins.openai.bill(request.id)["calls"] == 0
    assert await world.database.fetchval("SELECT count(*) FROM provider_calls") == 0


async def test_a_call_that_was_in_flight_when_a_cancelled_jobs_worker_died_is_in_doubt(
    world: World, database: str, ingest: Ingest, standins: Standins, tmp_path: Path
) -> None:
    """kill -9 after the cancellation, in the middle of a call: it may have been billed, and nobody makes it again."""
    request = a_request(store="shop", images=0)
    async with (
        started(world, database, lease_s=3),
        hiring(world, database, standins, tmp_path) as hire,
    ):
        worker = await hire(LEASE_S="3")
        with standins.openai.latency(60_000):
            await world.ask(request)
            await eventually(partial(in_call, world, request.id, "outline"), timeout=30)
            assert (await change(ingest, "cancel", request.id)).status_code == 200
            await worker.kill()
        await eventually(partial(_let_go, world, request.id), timeout=30)
        shown = (await ingest.get(f"{PATH}/{request.id}")).json()
        assert (shown["status"], shown["attempts"]) == ("CANCELLED", 1)
        assert [(step["name"], step["state"], step["inDoubt"]) for step in shown["steps"]] == [
            ("outline", "FAILED", 1)
        ]
        await eventually(partial(_was_told, world, request.id, [0, 1]))


async def _was_told(world: World, job: UUID, doubts: list[int]) -> bool:
    """Whether the job's end was told with so many calls in doubt, one after the other."""
    return list(dict.fromkeys(end.usage.in_doubt for end in await endings(world, job))) == doubts


async def _let_go(world: World, job: UUID) -> bool:
    return (await world.row(job))["lease_until"] is None


async def test_a_failed_job_goes_on_after_its_last_paid_step_with_all_its_tries(
    world: World, database: str, ingest: Ingest, standins: Standins, tmp_path: Path
) -> None:
    request: BlogRequested = a_request(store="shop", images=0)
    standins.openai.script(
        {"kind": "refusal", "count": 2, "job": str(request.id), "step": "article"}
    )
    async with working(world, database, standins, tmp_path):
        await world.ask(request)
        await eventually(lambda: world.has_status(request.id, "FAILED"))
        await world.database.execute(
            "UPDATE blog_generations SET attempt = 8 WHERE id = $1", request.id
        )
        standins.openai.script({"kind": "500", "job": str(request.id), "step": "article"})
        assert (await change(ingest, "retry", request.id)).json()["error"] is None
        await eventually(lambda: world.has_status(request.id, "DONE"))
    assert standins.openai.bill(request.id)["steps"] == {"outline": 1, "article": 3}, (
        "refusals are billed, too"
    )
    events = [event for _, event in await world.read_all(RESULTS) if isinstance(event, JobEvent)]
    (failed,) = (event for event in events if event.status is Status.FAILED)
    (again,) = (event for event in events if event.former is not None)
    assert again.former == PreviousOutcome(status=Status.FAILED, at=failed.at, begun=True)
    assert (again.kind, again.usage) == (EventKind.RETRY, failed.usage), (
        "what has forgotten the job knows it again"
    )

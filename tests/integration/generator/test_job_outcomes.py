"""Outcomes and bills of jobs, with the real broker and database and stand-in providers."""

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from aiokafka import AIOKafkaProducer

from services.generator import service
from services.generator.quota.provider_limiter import ProviderLimiter
from shared.domain.errors import Unavailable
from shared.domain.messages import BlogRequested, EventKind, JobEvent, Need, WorkerReport
from shared.kafka import clients
from shared.kafka.topics import DEAD_LETTER, GENERATION, RESULTS, WORKERS
from tests.support.backend import (
    Backend,
    LogCapture,
    database_unavailable,
    make_request,
    running_service,
)
from tests.support.eventually import eventually
from tests.support.fake_providers import StandIns
from tests.support.generator import worker_settings

StartWorker = Any


@pytest.fixture
def start(backend: Backend, database: str, standins: StandIns, tmp_path: Path) -> StartWorker:
    """Return a context manager that runs a worker."""

    @asynccontextmanager
    async def started(name: str = "worker-1", **changes: Any) -> AsyncIterator[None]:
        settings = worker_settings(
            bootstrap=backend.settings.kafka_bootstrap_servers,
            prefix=backend.settings.kafka_topic_prefix,
            database=database,
            standins=standins,
            folder=tmp_path,
            **changes,
        )
        async with running_service(lambda stop: service.run_worker(settings, stop, name=name)):
            yield

    return started


async def read_outcomes(backend: Backend, job: UUID) -> list[JobEvent]:
    events = [
        event
        for _, event in await backend.read_records(RESULTS)
        if isinstance(event, JobEvent) and event.job == job
    ]
    return [event for event in events if event.kind in (EventKind.ENDED, EventKind.RETRY)]


async def wait_for_outcome(backend: Backend, request: BlogRequested, status: str) -> None:
    await eventually(lambda: backend.has_status(request.id, status), what=f"{request.id} {status}")
    await eventually(lambda: read_outcomes(backend, request.id), every=0.5)


async def test_job_becomes_a_post(
    backend: Backend, start: StartWorker, standins: StandIns, tmp_path: Path
) -> None:
    request = make_request(store="shop")
    async with start():
        await backend.insert_dispatched(request)
        await wait_for_outcome(backend, request, "DONE")
    row = await backend.row(request.id)
    post = await backend.database.fetchrow("SELECT * FROM blog_posts WHERE job_id = $1", request.id)
    assert post is not None
    assert "Green tea" in post["html"]
    assert post["html"].startswith("<article><h1>")
    assert post["image_url"] == f"http://localhost:3000/images/shop/{request.id}.png"
    assert (tmp_path / "shop" / f"{request.id}.png").read_bytes().startswith(b"\x89PNG")
    bill = standins.openai.bill(request.id)
    assert bill["steps"] == {"outline": 1, "article": 1}
    assert row["input_tokens"] + row["output_tokens"] == bill["tokens"]
    assert (row["images"], standins.replicate.bill(request.id)["calls"]) == (1, 1)
    assert row["cost_nanousd"] == row["input_tokens"] * 150 + row["output_tokens"] * 600 + 3_000_000
    assert row["finished_at"] is not None
    (event,) = await read_outcomes(backend, request.id)
    assert (event.status, event.attempt, event.usage.cost_nanousd) == (
        "DONE",
        1,
        row["cost_nanousd"],
    )
    steps = await backend.database.fetch(
        "SELECT step, state FROM blog_steps WHERE job_id = $1", request.id
    )
    assert {step["step"]: step["state"] for step in steps} == dict.fromkeys(
        ("outline", "article", "image", "assemble"), "DONE"
    )


async def test_job_without_image_pays_for_none(
    backend: Backend, start: StartWorker, standins: StandIns
) -> None:
    request = make_request(images=0)
    async with start():
        await backend.insert_dispatched(request)
        await wait_for_outcome(backend, request, "DONE")
    assert standins.replicate.bill(request.id)["calls"] == 0
    assert (
        await backend.database.fetchval(
            "SELECT image_url FROM blog_posts WHERE job_id = $1", request.id
        )
        is None
    )


async def test_transient_failure_requeues_job_and_keeps_paid_steps(
    backend: Backend, start: StartWorker, standins: StandIns
) -> None:
    request = make_request()
    standins.openai.script({"kind": "500", "job": str(request.id), "step": "article"})
    async with start():
        await backend.insert_dispatched(request)
        await wait_for_outcome(backend, request, "PENDING")
        row = await backend.row(request.id)
        assert row["forwarded_at"] is None
        assert row["not_before"] is not None
        (event,) = await read_outcomes(backend, request.id)
        assert event.kind is EventKind.RETRY
        assert str(event.error).startswith("server error: ")
        assert event.usage.cost_nanousd > 0
        await _dispatch_again(backend, request)
        await eventually(lambda: backend.has_status(request.id, "DONE"))
    assert standins.openai.bill(request.id)["steps"] == {"outline": 1, "article": 1}
    assert standins.replicate.bill(request.id)["calls"] == 1
    assert (await backend.row(request.id))["attempt"] == 2


async def reports_open_circuit(backend: Backend) -> bool:
    reports = [
        message
        for _, message in await backend.read_records(WORKERS)
        if isinstance(message, WorkerReport)
    ]
    return bool(reports) and any(state.circuit_open for state in reports[-1].limiters)


async def reports_no_slots(backend: Backend) -> bool:
    """Return whether the latest report offers no slot, because a circuit is open."""
    reports = [
        message
        for _, message in await backend.read_records(WORKERS)
        if isinstance(message, WorkerReport)
    ]
    return (
        bool(reports)
        and reports[-1].slots == 0
        and any(state.circuit_open for state in reports[-1].limiters)
    )


async def offers_slots_without_images(backend: Backend) -> bool:
    """Return whether the latest report offers all slots, but the circuit for images is open."""
    reports = [
        message
        for _, message in await backend.read_records(WORKERS)
        if isinstance(message, WorkerReport)
    ]
    return bool(reports) and any(
        state.circuit_open
        and not state.probe_due
        and state.serves is Need.IMAGES
        and reports[-1].slots > reports[-1].running + 1
        for state in reports[-1].limiters
    )


@pytest.mark.parametrize(
    ("provider", "fault", "saved", "offer"),
    [
        ("openai", "insufficient_quota", set(), reports_no_slots),
        ("openai", "401", set(), reports_no_slots),
        ("openai", "404", set(), reports_no_slots),
        ("replicate", "402", {"outline", "article"}, offers_slots_without_images),
    ],
    ids=["no money", "refused key", "unknown model", "images"],
)
async def test_rejected_account_requeues_jobs_that_need_it(
    backend: Backend,
    start: StartWorker,
    standins: StandIns,
    provider: str,
    fault: str,
    saved: set[str],
    offer: Callable[[Backend], Awaitable[bool]],
) -> None:
    """One job's rejection might be its own trouble: the circuit opens with the second job's."""
    requests = [make_request(), make_request()]
    for request in requests:
        getattr(standins, provider).script({"kind": fault, "job": str(request.id)})
    async with start():
        for request in requests:
            await backend.insert_dispatched(request)
            await eventually(partial(read_outcomes, backend, request.id), every=0.3)
        await eventually(partial(offer, backend), every=0.3)
    row = await backend.row(requests[1].id)
    assert (row["attempt"], row["blameless"]) == (1, 1)
    assert row["not_before"] > row["admitted_at"] + timedelta(seconds=20)
    for request in requests:
        steps = await backend.database.fetch(
            "SELECT step FROM blog_steps WHERE job_id = $1 AND state = 'DONE'", request.id
        )
        assert {step["step"] for step in steps} == saved
        assert set(standins.openai.bill(request.id)["steps"]) == saved


@pytest.mark.parametrize(("fault", "answers"), [("schema", 2), ("truncated", 2), ("refusal", 2)])
async def test_unusable_answer_is_requested_again(
    backend: Backend, start: StartWorker, standins: StandIns, fault: str, answers: int
) -> None:
    request = make_request(images=0)
    standins.openai.script({"kind": fault, "job": str(request.id), "step": "outline"})
    async with start():
        await backend.insert_dispatched(request)
        await wait_for_outcome(backend, request, "DONE")
    bill = standins.openai.bill(request.id)
    assert bill["steps"] == {"outline": answers, "article": 1}
    row = await backend.row(request.id)
    assert row["attempt"] == 1
    assert row["input_tokens"] + row["output_tokens"] == bill["tokens"]


@pytest.mark.parametrize(
    ("faults", "code", "answers"),
    [
        ({"kind": "refusal", "count": 9}, "refused", 2),
        ({"kind": "schema", "count": 9}, "openai-schema", 3),
    ],
    ids=["refusal", "schema"],
)
async def test_permanent_failure_fails_job_with_its_reason(
    backend: Backend,
    start: StartWorker,
    standins: StandIns,
    faults: dict[str, Any],
    code: str,
    answers: int,
) -> None:
    request = make_request()
    standins.openai.script({**faults, "job": str(request.id)})
    async with start():
        await backend.insert_dispatched(request)
        await wait_for_outcome(backend, request, "FAILED")
    assert standins.openai.bill(request.id)["calls"] == answers
    row = await backend.row(request.id)
    assert row["error_code"] == code
    assert row["error"]
    assert row["finished_at"] is not None


async def test_duplicate_task_pays_nothing_and_repeats_the_event(
    backend: Backend, start: StartWorker, standins: StandIns
) -> None:
    request = make_request()
    async with start():
        await backend.insert_dispatched(request)
        await wait_for_outcome(backend, request, "DONE")
        await backend.send_task(request)
        await backend.send_task(request)
        await eventually(lambda: _outcomes_reach(backend, request.id, 3), every=0.5)
    events = await read_outcomes(backend, request.id)
    assert len({event.event_id() for event in events}) == 1
    assert standins.openai.bill(request.id)["calls"] == 2
    assert standins.replicate.bill(request.id)["calls"] == 1


async def test_steps_paid_by_a_dead_worker_are_not_paid_again(
    backend: Backend, start: StartWorker, standins: StandIns
) -> None:
    """The rows are those of a worker killed after the outline and the image's creation."""
    first = make_request()
    async with start():
        await backend.insert_dispatched(first)
        await wait_for_outcome(backend, first, "DONE")
        request = make_request()
        await backend.database.execute(_INSERT_RECLAIMABLE, *_columns(request))
        await backend.database.execute(
            "INSERT INTO blog_steps"
            " (job_id, step, state, attempt, external_id, result, cost_nanousd)"
            " SELECT $1, step, CASE step WHEN 'outline' THEN 'DONE' ELSE 'STARTED' END, 1,"
            " external_id, CASE step WHEN 'outline' THEN result END,"
            " CASE step WHEN 'outline' THEN cost_nanousd ELSE 0 END"
            " FROM blog_steps WHERE job_id = $2 AND step IN ('outline', 'image')",
            request.id,
            first.id,
        )
        await backend.send_task(request)
        await wait_for_outcome(backend, request, "DONE")
    assert standins.openai.bill(request.id)["steps"] == {"article": 1}
    assert standins.replicate.bill(request.id)["calls"] == 0
    assert (await backend.row(request.id))["attempt"] == 2


async def test_paid_answer_is_saved_after_a_database_outage(
    backend: Backend,
    start: StartWorker,
    standins: StandIns,
    postgres: str,
    database: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    log, request = LogCapture(capsys), make_request()
    with standins.openai.latency(1_000):
        async with start(lease_s=1):
            await backend.insert_dispatched(request)
            await eventually(lambda: _step_started(backend, request.id, "article"))
            async with database_unavailable(postgres, database, "worker"):
                await eventually(lambda: standins.openai.bill(request.id)["steps"].get("article"))
                await eventually(partial(log.has, "finish step"))
            await wait_for_outcome(backend, request, "DONE")
    row = await backend.row(request.id)
    bill = standins.openai.bill(request.id)
    assert bill["steps"] == {"outline": 1, "article": 1}
    assert row["input_tokens"] + row["output_tokens"] == bill["tokens"]
    assert row["attempt"] == 1
    assert standins.replicate.bill(request.id)["calls"] == 1


async def test_job_leased_by_another_worker_is_awaited(
    backend: Backend, start: StartWorker, standins: StandIns
) -> None:
    request = make_request()
    await backend.insert_dispatched(request)
    await backend.database.execute(
        "UPDATE blog_generations SET status = 'PROCESSING', attempt = 1, worker = 'other',"
        " lease_until = now() + interval '5 s' WHERE id = $1",
        request.id,
    )
    async with start(concurrent_blogs=1):
        await eventually(lambda: backend.read_records(WORKERS), every=0.3)
        other_job = make_request()
        await backend.insert_dispatched(other_job)  # the waiting task takes no slot from it
        await wait_for_outcome(backend, other_job, "DONE")
        assert (await backend.row(request.id))["worker"] == "other"
        assert standins.openai.bill(request.id)["calls"] == 0
        await backend.database.execute(
            "UPDATE blog_generations"
            " SET status = 'FAILED', error = 'x', finished_at = now(), lease_until = NULL"
            " WHERE id = $1",
            request.id,
        )
        await wait_for_outcome(backend, request, "FAILED")
    assert standins.openai.bill(request.id)["calls"] == 0


async def test_unreadable_record_becomes_a_dead_letter(
    backend: Backend, start: StartWorker
) -> None:
    topic = clients.namespace(backend.settings).topic(GENERATION)
    async with (
        AIOKafkaProducer(bootstrap_servers=backend.settings.kafka_bootstrap_servers) as producer,
        start(),
    ):
        await producer.send_and_wait(
            topic, b"not json", key=b"x", headers=[("ce_type", b"blogstream.unknown.v1")]
        )
        request = make_request()
        await backend.insert_dispatched(request)
        await wait_for_outcome(backend, request, "DONE")
        ((key, value),) = await eventually(lambda: backend.read_records(DEAD_LETTER), every=0.5)
    assert (key, value) == ("x", b"not json")


async def test_drain_saves_paid_call_and_requeues_job(
    backend: Backend, start: StartWorker, standins: StandIns
) -> None:
    request = make_request()
    with standins.openai.latency(2_500):
        async with start(drain_s=0.2):
            await backend.insert_dispatched(request)
            await eventually(lambda: _step_started(backend, request.id, "outline"))
    row = await backend.row(request.id)
    assert (row["status"], row["forwarded_at"], row["blameless"]) == ("PENDING", None, 1)
    assert await _step_state(backend, request.id, "outline", "DONE")
    (event,) = await read_outcomes(backend, request.id)
    assert event.kind is EventKind.RETRY
    await backend.database.execute(
        "UPDATE blog_generations SET forwarded_at = now() WHERE id = $1", request.id
    )
    async with start("worker-2"):
        await backend.send_task(request)
        await eventually(lambda: backend.has_status(request.id, "DONE"))
    assert standins.openai.bill(request.id)["steps"] == {"outline": 1, "article": 1}


async def _step_started(backend: Backend, job: UUID, step: str) -> bool:
    return bool(
        await backend.database.fetchval(
            "SELECT true FROM blog_steps WHERE job_id = $1 AND step = $2", job, step
        )
    )


async def _has_even_split(backend: Backend) -> bool:
    """Return whether two workers own half of the partitions each."""
    latest = {
        report.worker: report
        for _, report in await backend.read_records(WORKERS)
        if isinstance(report, WorkerReport)
    }
    return [len(report.partitions) for report in latest.values()] == [12, 12]


async def test_two_workers_share_partitions_and_run_each_job_once(
    backend: Backend, start: StartWorker, standins: StandIns
) -> None:
    requests = [make_request(store=f"s{number % 3}") for number in range(12)]
    async with start("worker-1"), start("worker-2"):
        await eventually(lambda: _has_even_split(backend), every=0.5)
        for request in requests:
            await backend.insert_dispatched(request)
        for request in requests:
            await eventually(partial(backend.has_status, request.id, "DONE"))
    workers = {(await backend.row(request.id))["worker"] for request in requests}
    assert workers == {"worker-1", "worker-2"}
    assert all(standins.openai.bill(request.id)["calls"] == 2 for request in requests)


async def test_job_that_loses_too_many_workers_fails_unpaid(
    backend: Backend, start: StartWorker, standins: StandIns
) -> None:
    request = make_request()
    async with start(max_attempts=1):
        await backend.database.execute(_INSERT_RECLAIMABLE, *_columns(request))
        await backend.send_task(request)
        await wait_for_outcome(backend, request, "FAILED")
    assert (await backend.row(request.id))["error_code"] == "workers-lost"
    assert standins.openai.bill(request.id)["calls"] == 0


_INSERT_RECLAIMABLE = (
    "INSERT INTO blog_generations (id, instance_id, source_type, source_id, request, created_at,"
    " attempt, worker, forwarded_at) VALUES ($1, $2, $3, $4, $5, $6, 1, 'dead', now())"
)
"""A job that a worker has claimed before, and that has been dispatched again."""


def _columns(request: BlogRequested) -> tuple[Any, ...]:
    return (
        request.id,
        request.store,
        request.source_type,
        request.source_id,
        request,
        request.created_at,
    )


async def test_call_lost_with_its_worker_is_repeated_twice(
    backend: Backend, start: StartWorker, standins: StandIns
) -> None:
    """Three crashes have left three calls without an answer. A fourth may be billed as well."""
    request = make_request()
    await backend.insert_dispatched(request)
    await backend.database.execute(
        "UPDATE blog_generations SET attempt = 2 WHERE id = $1", request.id
    )
    await backend.database.execute(
        "INSERT INTO blog_steps (job_id, step, state, attempt, in_doubt, isolated_in_doubt)"
        " VALUES ($1, 'outline', 'STARTED', 2, 2, 2)",
        request.id,
    )
    async with start():
        await wait_for_outcome(backend, request, "FAILED")
    row = await backend.row(request.id)
    assert row["error_code"] == "in-doubt"
    assert "begun 3 times" in row["error"]
    assert standins.openai.bill(request.id)["calls"] == 0


async def test_call_without_answer_is_repeated_twice_while_others_are_served(
    backend: Backend, start: StartWorker, standins: StandIns
) -> None:
    request = make_request(images=0)
    standins.openai.script(
        {"kind": "timeout", "seconds": 9, "job": str(request.id), "step": "outline", "count": 9}
    )
    async with start(openai_timeout_s=1.5):
        await backend.insert_dispatched(request)
        for attempt in range(1, 6):
            others = [make_request(images=0) for _ in range(3)]
            for other in others:
                await backend.insert_dispatched(other)
            await eventually(partial(_outcomes_reach, backend, request.id, attempt), every=0.3)
            for other in others:
                await eventually(partial(backend.has_status, other.id, "DONE"))
            if await backend.has_status(request.id, "FAILED"):
                break
            await _dispatch_again(backend, request)
    row = await backend.row(request.id)
    # The first lost answer counts if the others were served before its time was over.
    assert row["error_code"] == "in-doubt"
    assert row["attempt"] in (3, 4)
    in_doubt = "SELECT in_doubt FROM blog_steps WHERE job_id = $1 AND step = 'outline'"
    assert await backend.database.fetchval(in_doubt, request.id) == row["attempt"]


async def _dispatch_again(backend: Backend, request: BlogRequested) -> None:
    await backend.database.execute(
        "UPDATE blog_generations SET forwarded_at = now() WHERE id = $1", request.id
    )
    await backend.send_task(request)


async def _outcomes_reach(backend: Backend, job: UUID, times: int) -> bool:
    return len(await read_outcomes(backend, job)) >= times


async def test_cancelled_job_ends_after_its_current_call(
    backend: Backend, start: StartWorker, standins: StandIns
) -> None:
    """The paid answer is saved with its cost, and no further call is made."""
    request = make_request(images=0)
    with standins.openai.latency(1_500):
        async with start(lease_s=1):
            await backend.insert_dispatched(request)
            await eventually(lambda: _step_started(backend, request.id, "outline"))
            await backend.database.execute(
                "UPDATE blog_generations"
                " SET status = 'CANCELLED', lease_until = NULL, finished_at = now()"
                " WHERE id = $1",
                request.id,
            )
            await eventually(lambda: _step_state(backend, request.id, "outline", "DONE"))
    steps = await backend.database.fetch(
        "SELECT step, cost_nanousd > 0 AS paid FROM blog_steps WHERE job_id = $1", request.id
    )
    assert [(step["step"], step["paid"]) for step in steps] == [("outline", True)]
    assert standins.openai.bill(request.id)["steps"] == {"outline": 1}
    assert await backend.has_status(request.id, "CANCELLED")


async def _step_state(backend: Backend, job: UUID, step: str, state: str) -> bool:
    return bool(
        await backend.database.fetchval(
            "SELECT true FROM blog_steps WHERE job_id = $1 AND step = $2 AND state = $3",
            job,
            step,
            state,
        )
    )


async def test_expired_permit_is_acquired_again(
    backend: Backend, start: StartWorker, standins: StandIns, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A slow PostgreSQL delays the record of the call until the permit has expired."""
    expired = iter([True])
    monkeypatch.setattr(
        ProviderLimiter, "is_valid", lambda limiter, permit: not next(expired, False)
    )
    request = make_request(images=0)
    async with start():
        await backend.insert_dispatched(request)
        await wait_for_outcome(backend, request, "DONE")
    assert standins.openai.bill(request.id)["steps"] == {"outline": 1, "article": 1}
    calls = await backend.database.fetchval(
        "SELECT count(*) FROM provider_calls WHERE job_id = $1 AND step = 'outline'", request.id
    )
    assert calls == 2, "both permits are recorded, and the next owner counts them"
    assert (await backend.row(request.id))["attempt"] == 1


async def test_provider_outage_uses_up_no_attempts(
    backend: Backend, start: StartWorker, standins: StandIns
) -> None:
    requests = [make_request(images=0) for _ in range(12)]
    standins.openai.script({"kind": "500", "count": 10_000})
    try:
        async with start():
            for request in requests:
                await backend.insert_dispatched(request)
            await eventually(partial(reports_open_circuit, backend), every=0.3)
            await eventually(lambda: _all_are(backend, "PENDING"))
    finally:
        standins.openai.clear_faults()
    assert (
        await backend.database.fetchval("SELECT sum(attempt - blameless) FROM blog_generations")
        == 0
    )


async def _all_are(backend: Backend, status: str) -> bool:
    return bool(
        await backend.database.fetchval(
            "SELECT bool_and(status = $1) FROM blog_generations", status
        )
    )


async def test_worker_stopped_by_dead_letters_publishes_each_once(
    backend: Backend, start: StartWorker
) -> None:
    """The committed offsets are saved, so a restarted worker continues after these records."""
    topic = clients.namespace(backend.settings).topic(GENERATION)
    async with AIOKafkaProducer(
        bootstrap_servers=backend.settings.kafka_bootstrap_servers
    ) as producer:
        for number in range(6):
            await producer.send_and_wait(topic, b"garbage %d" % number, partition=number)

    async def has_dead_letters(at_least: int) -> bool:
        return len(await backend.read_records(DEAD_LETTER)) >= at_least

    with pytest.raises(Unavailable, match="cannot be read"):
        async with start(dead_letter_limit=3):
            await eventually(partial(has_dead_letters, 4), every=0.5)
    async with start("worker-2", dead_letter_limit=9):
        await backend.insert_dispatched(request := make_request(images=0))
        await wait_for_outcome(backend, request, "DONE")
        await eventually(partial(has_dead_letters, 6), every=0.5)
    values = [value for _, value in await backend.read_records(DEAD_LETTER)]
    assert sorted(map(bytes, values)) == [b"garbage %d" % number for number in range(6)]  # type: ignore[arg-type]


async def test_job_with_unreadable_request_fails_at_once(
    backend: Backend, start: StartWorker
) -> None:
    request = make_request()
    async with start():
        await eventually(lambda: backend.read_records(WORKERS), every=0.3)
        await backend.database.execute(
            "INSERT INTO blog_generations"
            " (id, instance_id, source_type, source_id, request, created_at, forwarded_at)"
            " VALUES ($1, $2, $3, $4, $5, $6, now())",
            request.id,
            request.store,
            request.source_type,
            request.source_id,
            {"images": "x"},
            request.created_at,
        )
        await backend.send_task(request)
        await wait_for_outcome(backend, request, "FAILED")
    assert (await backend.row(request.id))["error_code"] == "unreadable"

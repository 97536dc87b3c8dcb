"""The Python client against the real ingest service."""

import asyncio
from datetime import UTC, datetime, timedelta
from pathlib import Path
from uuid import uuid4

import httpx
import pytest

from blogstream_client import Client, Event, Job, LeftOut, ProblemError, Usage
from shared.domain.api_keys import create_operator_key
from shared.domain.messages import BlogRequested
from shared.kafka.topics import REQUESTS
from tests.support.backend import Backend, make_request
from tests.support.eventually import eventually
from tests.support.ingest import Ingest, insert, start_ingest


async def test_client_covers_the_http_api(backend: Backend, database: str, tmp_path: Path) -> None:
    jobs = [make_request(store="shop") for _ in range(5)]
    for job, status in zip(jobs, ("PENDING", "PENDING", "FAILED", "DONE", "PENDING"), strict=True):
        await insert(backend, job, status)
    await backend.database.execute(
        "INSERT INTO blog_posts VALUES ($1, 'T', 's', 'm', '<p>x</p>', NULL)", jobs[3].id
    )
    await backend.database.execute(
        "INSERT INTO blog_steps"
        " (job_id, step, state, attempt, call_started_at, input_tokens, in_doubt)"
        " VALUES ($1, 'outline', 'DONE', 1, now(), 7, 1)",
        jobs[3].id,
    )
    await backend.database.execute(
        "UPDATE blog_generations SET not_before = now() + interval '1 hour' WHERE id = $1",
        jobs[4].id,
    )
    delivery = uuid4()
    await backend.database.execute(
        "INSERT INTO webhook_deliveries (id, job_id, instance_id, url, payload, state)"
        " VALUES ($1, $2, 'shop', 'https://shop.example/hook', $3, 'FAILED')",
        delivery,
        jobs[3].id,
        '{"type":"job.done"}',
    )
    await backend.database.execute(
        "INSERT INTO webhook_attempts (delivery_id, at, status, seconds)"
        " VALUES ($1, now(), 500, 0.1)",
        delivery,
    )
    async with start_ingest(backend, database, tmp_path) as ingest:
        await asyncio.to_thread(_check_all_calls, ingest, [str(job.id) for job in jobs])


def _check_all_calls(ingest: Ingest, jobs: list[str]) -> None:
    with Client(str(ingest.http.base_url), ingest.key) as blogs:
        _check_submit(blogs)
        _check_csv(blogs)
        _check_jobs(blogs, jobs)
        _check_events_and_deliveries(blogs, jobs)
        waiting = blogs.get(jobs[4]).waiting
        assert (waiting and waiting.reason) == "not before"
        with pytest.raises(TimeoutError, match="is PENDING after 0 s"):
            blogs.wait(jobs[4], timeout_s=0)


def _check_submit(blogs: Client) -> None:
    first = blogs.submit("keyword", "tea", title="Tea", idempotency_key="k")
    assert (first.status, first.store, first.source_id) == ("PENDING", "shop", "tea")
    assert blogs.submit("keyword", "tea", title="Tea", idempotency_key="k").id == first.id
    assert blogs.submit("keyword", "tea").id != blogs.submit("keyword", "tea").id
    with pytest.raises(ProblemError) as refused:
        blogs.submit("keyword", "tea", language="Klingon")
    assert (refused.value.status, refused.value.errors[0]["field"]) == (422, "language")
    later = _tomorrow()
    job = blogs.submit("topic", "later", run_at=later, keywords=("a", "b"), tone=None, images=0)
    assert job.ended is False
    requests = [{"source_type": "topic", "source_id": "a", "run_at": later}] * 2
    assert len(blogs.submit_many(requests)) == 2
    api_names = [{"sourceType": "topic", "sourceId": "a", "priority": 3}]
    assert len(blogs.submit_many(api_names)) == 1


def _check_csv(blogs: Client) -> None:
    header = "Handle,Title,Body (HTML),Vendor,Type,Tags,Variant Price"
    (cup,) = blogs.submit_csv(f"{header}\ncup,Cup,,Acme,Kitchen,,4.00\n".encode())
    assert (cup.source_type, cup.source_id) == ("product", "cup")
    with_status = (
        f"{header},Status\nold,Old,,,,,1,archived\nnew,New,,,,,1,draft\nred,Red,,,,,1,active\n"
    )
    taken = blogs.submit_csv(with_status.encode())
    assert ([job.source_id for job in taken], taken[0].status) == (["red"], "PENDING")
    assert taken.left_out == (
        LeftOut(source_id="old", line=2, reason="its Status is archived"),
        LeftOut(source_id="new", line=3, reason="its Status is draft"),
    )
    mug = f"{header}\nmug,Mug,,Acme,Kitchen,,4.00\n".encode()
    assert len(blogs.submit_csv(mug, language="de", run_at=_tomorrow())) == 1
    with pytest.raises(ProblemError, match="language"):
        blogs.submit_csv(mug, language="Klingon")


def _check_jobs(blogs: Client, jobs: list[str]) -> None:
    assert [job.id for job in blogs.list(page=2)] == jobs[::-1]
    assert [job.id for job in blogs.list("FAILED")] == [jobs[2]]
    assert blogs.cancel(jobs[0]).status == "CANCELLED"
    assert (blogs.retry(jobs[2]).status, blogs.get(jobs[2]).error) == ("PENDING", None)
    with pytest.raises(ProblemError, match="409 Conflict: a job that is DONE cannot be cancelled"):
        blogs.cancel(jobs[3])
    done = blogs.wait(jobs[3])
    assert (done.ended, done.post and done.post.title) == (True, "T")
    (step,) = done.steps
    assert (step.name, step.state) == ("outline", "DONE")
    assert (step.usage, step.in_doubt) == (Usage(input_tokens=7), 1)


def _check_events_and_deliveries(blogs: Client, jobs: list[str]) -> None:
    events = [(event.name, event.data["status"]) for event in blogs.events(jobs[3])]
    assert events == [("job", "DONE")]
    ticket = blogs.ticket(jobs[3])
    assert httpx.get(ticket.url).text.count("event: job") == 1
    (delivery,) = blogs.deliveries()
    assert (delivery.job, delivery.state, delivery.log[0].status) == (jobs[3], "FAILED", 500)
    assert list(blogs.deliveries(jobs[0])) == []
    blogs.replay(delivery.id)
    assert next(blogs.deliveries(jobs[3])).state == "WAITING"


def _tomorrow() -> datetime:
    return datetime.now(UTC) + timedelta(days=1)


async def test_events_continue_after_a_restart_of_ingest(
    backend: Backend, database: str, tmp_path: Path
) -> None:
    await insert(backend, job := make_request(store="shop"))
    events = list[Event]()

    def follow(url: str, key: str) -> None:
        with Client(url, key) as blogs:
            events.extend(blogs.events(job.id))

    async with start_ingest(backend, database, tmp_path) as ingest:
        url, key, port = str(ingest.http.base_url), ingest.key, ingest.http.base_url.port
        following = asyncio.create_task(asyncio.to_thread(follow, url, key))
        await eventually(lambda: bool(events))
    await backend.database.execute(
        "UPDATE blog_generations SET status = 'DONE' WHERE id = $1", job.id
    )
    async with start_ingest(backend, database, tmp_path, port=port):
        await asyncio.wait_for(following, 60)
    assert [(event.name, event.data["status"]) for event in events] == [
        ("job", "PENDING"),
        ("job", "DONE"),
    ]


async def test_wait_tolerates_a_job_without_a_row(
    backend: Backend, database: str, tmp_path: Path
) -> None:
    """No scheduler runs; the test inserts the row after the client's second 404."""
    async with start_ingest(backend, database, tmp_path, fresh_wait_s=0) as ingest:
        url, key, pauses = str(ingest.http.base_url), ingest.key, list[float]()

        def submit_and_wait() -> Job:
            with Client(url, key, pause=pause) as blogs:
                return blogs.wait(blogs.submit("topic", "a", idempotency_key="k").id)

        def pause(seconds: float) -> None:
            pauses.append(seconds)
            asyncio.run_coroutine_threadsafe(insert_at_second_pause(), loop).result(30)

        async def insert_at_second_pause() -> None:
            (request,) = [message for _, message in await backend.read_records(REQUESTS)]
            assert isinstance(request, BlogRequested)
            if len(pauses) == 2:
                await insert(backend, request, "DONE")

        loop = asyncio.get_running_loop()
        assert (await asyncio.to_thread(submit_and_wait)).status == "DONE"
    assert len(pauses) == 2


async def test_client_reads_sets_and_removes_budgets(
    backend: Backend, database: str, tmp_path: Path
) -> None:
    operator_key = await create_operator_key(backend.database, "ada")
    async with start_ingest(backend, database, tmp_path) as ingest:
        url = str(ingest.http.base_url)
        await asyncio.to_thread(_check_budget_calls, url, ingest.key, operator_key)


def _check_budget_calls(url: str, key: str, operator_key: str) -> None:
    with Client(url, key) as blogs, Client(url, operator_key) as operator:
        assert (blogs.budget("shop").state, blogs.budget("shop").monthly_cost_usd) == ("ok", None)
        budget = operator.set_budget("shop", 0.01, warn_at=0.5)
        assert (budget.monthly_cost_usd, budget.remaining_usd, budget.raw["warnAt"]) == (
            0.01,
            0.01,
            0.5,
        )
        assert blogs.budget("shop") == budget
        with pytest.raises(ProblemError) as refused:
            blogs.submit_many([{"sourceType": "topic", "sourceId": "a"}] * 3)
        assert (refused.value.status, refused.value.resets_at) == (402, budget.resets_at)
        with pytest.raises(ProblemError, match="403"):
            blogs.set_budget("shop", 100)
        assert operator.remove_budget("shop").monthly_cost_usd is None
        with pytest.raises(ProblemError, match="404"):
            blogs.budget("neighbour")
        assert [job.id for job in operator.list(store="shop")] == [job.id for job in blogs.list()]

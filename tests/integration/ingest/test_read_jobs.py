"""Reading one job, lists of jobs, and images."""

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from uuid import UUID, uuid4, uuid5

import pytest
import uuid_utils.compat

from services.ingest.jobs.repository import JobRepository, Row
from shared.domain.api_keys import create_key, create_operator_key
from tests.support.backend import Backend, make_request
from tests.support.ingest import GOOD, PATH, PROBLEM, Ingest, insert, start_ingest


@pytest.fixture
async def ingest(backend: Backend, database: str, tmp_path: Path) -> AsyncIterator[Ingest]:
    async with start_ingest(backend, database, tmp_path) as running:
        yield running


async def test_job_is_visible_only_to_its_store(ingest: Ingest) -> None:
    request = make_request(store="shop")
    await insert(ingest.backend, request)
    answer = await ingest.get(f"{PATH}/{request.id}")
    assert answer.status_code == 200
    job = answer.json()
    assert sorted(job) == sorted(
        [
            "id",
            "store",
            "status",
            "sourceType",
            "sourceId",
            "createdAt",
            "startedAt",
            "finishedAt",
            "attempts",
            "steps",
            "usage",
            "costUsd",
            "waiting",
            "error",
            "post",
        ]
    )
    assert (job["id"], job["status"], job["sourceId"]) == (str(request.id), "PENDING", "tea")
    assert job["waiting"] == {"reason": "fair turn", "until": None}
    assert job["usage"] == {
        "inputTokens": 0,
        "outputTokens": 0,
        "reasoningTokens": 0,
        "images": 0,
    }
    assert (job["steps"], job["post"], job["error"], job["attempts"]) == ([], None, None, 0)
    other_store_key = await create_key(ingest.backend.database, "other-store")
    assert (await ingest.get(f"{PATH}/{request.id}", key=other_store_key)).status_code == 404
    assert (await ingest.get(PATH, key=other_store_key)).json() == {"items": [], "next": None}


async def test_scheduled_job_shows_its_start_time(ingest: Ingest) -> None:
    request = make_request(store="shop")
    await insert(ingest.backend, request)
    until = datetime.now(UTC) + timedelta(hours=1)
    await ingest.backend.database.execute("UPDATE blog_generations SET not_before = $1", until)
    waiting = (await ingest.get(f"{PATH}/{request.id}")).json()["waiting"]
    assert (waiting["reason"], datetime.fromisoformat(waiting["until"])) == ("not before", until)


async def test_waiting_job_shows_reason_and_estimated_start(ingest: Ingest) -> None:
    database = ingest.backend.database
    created = datetime.now(UTC)
    requests = [
        make_request(store="shop", created_at=created + timedelta(seconds=number))
        for number in range(4)
    ]
    urgent = make_request(store="shop", created_at=created + timedelta(seconds=9))
    for request in (
        *requests,
        urgent,
        make_request(store="other", created_at=created - timedelta(hours=1)),
    ):
        await insert(ingest.backend, request)
    await database.execute("UPDATE blog_generations SET priority = 5 WHERE id = $1", urgent.id)
    await database.execute(
        "UPDATE blog_generations SET forwarded_at = now() WHERE id = $1", requests[0].id
    )
    first_at = datetime.now(UTC) + timedelta(minutes=10)
    await database.execute(
        "INSERT INTO store_outlooks VALUES ('shop', 'TPM', 'TPM', 4, 0, $1, $2, now())",
        first_at,
        first_at + timedelta(minutes=3),
    )
    shown = [
        (await ingest.get(f"{PATH}/{request.id}")).json()["waiting"]
        for request in (*requests, urgent)
    ]
    assert [waiting.get("place") for waiting in shown] == [None, 2, 3, 4, 1]
    listed = {item["id"]: item["waiting"] for item in (await ingest.get(PATH)).json()["items"]}
    # Not `until`: it is never in the past, and time passes between two calls.
    keys = ("reason", "place", "limitedBy")
    for request, single in zip((*requests, urgent), shown, strict=True):
        assert [listed[str(request.id)].get(key) for key in keys] == [
            single.get(key) for key in keys
        ]
    assert shown[0]["reason"] == "on its way to a worker"
    assert (shown[4]["reason"], shown[4]["limitedBy"]) == ("TPM", "TPM")
    assert datetime.fromisoformat(shown[4]["until"]) == first_at
    assert (shown[3]["reason"], shown[3]["limitedBy"]) == ("fair turn", "TPM")
    assert datetime.fromisoformat(shown[3]["until"]) == first_at + timedelta(minutes=3)


async def test_done_job_shows_post_and_failed_job_shows_error(ingest: Ingest) -> None:
    done, failed = make_request(store="shop"), make_request(store="shop")
    await insert(ingest.backend, done, "DONE")
    await insert(ingest.backend, failed, "FAILED")
    await ingest.backend.database.execute(
        "INSERT INTO blog_posts VALUES ($1, 'Title', 'slug', 'meta', '<p>x</p>', 'http://i/x.png')",
        done.id,
    )
    await ingest.backend.database.execute(
        "INSERT INTO blog_steps (job_id, step, state, attempt, input_tokens)"
        " VALUES ($1, 'outline', 'DONE', 1, 12)",
        done.id,
    )
    await ingest.backend.database.execute(
        "UPDATE blog_generations SET cost_nanousd = 1234567, input_tokens = 12, attempt = 1"
        " WHERE id = $1",
        done.id,
    )
    shown = (await ingest.get(f"{PATH}/{done.id}")).json()
    assert shown["post"] == {
        "title": "Title",
        "slug": "slug",
        "metaDescription": "meta",
        "html": "<p>x</p>",
        "imageUrl": "http://i/x.png",
    }
    assert [(step["name"], step["usage"]["inputTokens"]) for step in shown["steps"]] == [
        ("outline", 12)
    ]
    assert (shown["costUsd"], shown["usage"]["inputTokens"], shown["attempts"]) == (
        0.001234567,
        12,
        1,
    )
    assert shown["waiting"] is None
    shown = (await ingest.get(f"{PATH}/{failed.id}")).json()
    assert (shown["error"], shown["post"]) == ({"code": "code", "message": "why"}, None)


async def test_unknown_jobs_are_404(ingest: Ingest) -> None:
    for job in ("nonsense", "0", str(UUID(int=0)), str(uuid4()), f"{uuid4()}x", "%00"):
        answer = await ingest.get(f"{PATH}/{job}")
        assert (answer.status_code, answer.headers["content-type"]) == (404, PROBLEM), job


async def test_get_waits_for_the_row_of_a_fresh_job(
    backend: Backend, database: str, tmp_path: Path
) -> None:
    """Works in any process, for a fresh id and for an id derived from an Idempotency-Key."""
    async with (
        start_ingest(backend, database, tmp_path) as other,
        start_ingest(backend, database, tmp_path, fresh_wait_s=30) as ingest,
    ):
        with_key = await other.post(GOOD, headers={"Idempotency-Key": "order-1"})
        for request in (
            make_request(store="shop"),
            make_request(store="shop", id=UUID(with_key.json()["id"])),
        ):
            reading = asyncio.create_task(ingest.get(f"{PATH}/{request.id}"))
            # This answer comes after the first read of the other request.
            assert (await ingest.get(f"{PATH}/{uuid4()}")).status_code == 404
            await insert(ingest.backend, request)
            assert (await reading).status_code == 200


async def test_accepted_job_returns_503_until_admitted(
    backend: Backend, database: str, tmp_path: Path
) -> None:
    """No scheduler runs here. Clients treat 404 as final."""
    other_store_key = await create_key(backend.database, "other-store")
    async with start_ingest(backend, database, tmp_path, fresh_wait_s=0.1) as ingest:
        bearer, bulk = {"Authorization": f"Bearer {ingest.key}"}, f"{PATH}/bulk"
        accepted = [
            await ingest.post(GOOD),
            await ingest.post(GOOD, headers={"Idempotency-Key": "order-1"}),
            await ingest.http.post(bulk, json=[GOOD], headers=bearer),
            await ingest.http.post(
                bulk, json=[GOOD], headers=bearer | {"Idempotency-Key": "import-1"}
            ),
        ]
        jobs = [
            (body["items"][0] if "items" in body else body)["id"]
            for body in (one.json() for one in accepted)
        ]
        jobs.append(str(uuid7_of_age(timedelta(days=6))))
        for job in jobs:
            calls = (
                ("GET", ""),
                ("GET", "/events"),
                ("POST", "/events-ticket"),
                ("POST", "/cancel"),
                ("POST", "/retry"),
            )
            for method, suffix in calls:
                answer = await ingest.http.request(method, f"{PATH}/{job}{suffix}", headers=bearer)
                assert (answer.status_code, answer.headers["content-type"]) == (503, PROBLEM), (
                    job,
                    suffix,
                )
                assert answer.headers["retry-after"] == "2"
            await insert(backend, make_request(store="shop", id=UUID(job)))
            assert (await ingest.get(f"{PATH}/{job}")).status_code == 200
            assert (await ingest.get(f"{PATH}/{job}", key=other_store_key)).status_code == 404, (
                "another store's job never appears"
            )
        for unknown in (
            uuid7_of_age(timedelta(days=8)),
            uuid7_of_age(-timedelta(hours=1)),
            uuid5(uuid4(), "x"),
            uuid4(),
        ):
            assert (await ingest.get(f"{PATH}/{unknown}")).status_code == 404, unknown


async def test_job_admitted_between_two_reads_is_returned(
    ingest: Ingest, monkeypatch: pytest.MonkeyPatch
) -> None:
    accepted = await ingest.post(GOOD, headers={"Idempotency-Key": "order-1"})
    request, get_job = (
        make_request(store="shop", id=UUID(accepted.json()["id"])),
        JobRepository.get_job,
    )

    async def spy(jobs: JobRepository, job: UUID, store: str | None) -> Row | None:
        if store is None:
            await insert(ingest.backend, request)
        return await get_job(jobs, job, store)

    monkeypatch.setattr(JobRepository, "get_job", spy)
    assert (await ingest.get(f"{PATH}/{request.id}")).status_code == 200


def uuid7_of_age(age: timedelta) -> UUID:
    """Return a UUIDv7 made that long ago."""
    milliseconds = int((datetime.now(UTC) - age).timestamp() * 1000)
    return UUID(int=milliseconds << 80 | uuid_utils.compat.uuid7().int & (1 << 80) - 1)


async def test_unknown_derived_id_is_read_once(
    backend: Backend, database: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A derived id without an idempotency record costs PostgreSQL one query."""
    read_ids, get_job = list[UUID](), JobRepository.get_job

    async def spy(jobs: JobRepository, job: UUID, store: str | None) -> Row | None:
        read_ids.append(job)
        return await get_job(jobs, job, store)

    monkeypatch.setattr(JobRepository, "get_job", spy)
    async with start_ingest(backend, database, tmp_path) as ingest:
        assert (await ingest.get(f"{PATH}/{uuid5(uuid4(), 'x')}")).status_code == 404
    assert len(read_ids) == 1


async def test_list_continues_at_its_cursor(ingest: Ingest) -> None:
    at = datetime.now(UTC)
    # All but the first share one time, so only the id orders them.
    requests = [
        make_request(store="shop", created_at=at - timedelta(seconds=number == 0))
        for number in range(5)
    ]
    for number, request in enumerate(requests):
        await insert(ingest.backend, request, "DONE" if number == 4 else "PENDING")
    await insert(ingest.backend, make_request(store="other"))
    seen, path = list[str](), f"{PATH}?limit=2"
    while path:
        answer = await ingest.get(path)
        seen += [item["id"] for item in answer.json()["items"]]
        link = answer.headers.get("link", "")
        assert bool(link) == (answer.json()["next"] is not None)
        path = link.partition(">")[0].lstrip("<")
    assert seen == [str(request.id) for request in reversed(requests)]
    only = (await ingest.get(f"{PATH}?status=DONE")).json()
    assert [item["id"] for item in only["items"]] == [str(requests[4].id)]
    assert only["next"] is None
    pending = await ingest.get(f"{PATH}?status=PENDING&limit=1")
    assert "status=PENDING" in pending.headers["link"]


async def test_invalid_list_query_returns_422(ingest: Ingest) -> None:
    for query in (
        "status=OPEN",
        "limit=0",
        "limit=101",
        "limit=x",
        "cursor=nonsense",
        "page=2",
        "limit=1&limit=2",
    ):
        answer = await ingest.get(f"{PATH}?{query}")
        assert answer.status_code == 422, query
        assert answer.json()["errors"][0]["field"] == query.partition("=")[0]


async def test_operator_must_name_a_valid_store(ingest: Ingest) -> None:
    operator = await create_operator_key(ingest.backend.database, "ada")
    for path in (PATH, "/api/webhook-deliveries"):
        assert (await ingest.get(f"{path}?store=nobody", key=operator)).json()["items"] == []
        for name in ("%00", "*", "", "a/b", "%ff"):
            answer = await ingest.get(f"{path}?store={name}", key=operator)
            assert (answer.status_code, answer.json()["errors"][0]["field"]) == (422, "store"), name


async def test_only_files_of_the_image_folder_are_served(ingest: Ingest) -> None:
    folder = ingest.images / "shop"
    await asyncio.to_thread(folder.mkdir)
    await asyncio.to_thread((folder / "x.png").write_bytes, b"png")
    image = await ingest.http.get("/images/shop/x.png")
    assert (image.content, image.headers["content-type"]) == (b"png", "image/png")
    for path in (
        "/images/shop/y.png",
        "/images/shop",
        "/images/../../etc/passwd",
        "/images/%2e%2e/%2e%2e/etc/passwd",
    ):
        answer = await ingest.http.get(path)
        assert (answer.status_code, answer.headers["content-type"]) == (404, PROBLEM), path

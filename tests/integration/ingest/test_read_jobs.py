"""What a store sees of its jobs: one, a list of them, and their pictures."""

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from uuid import UUID, uuid4, uuid5

import pytest
import uuid_utils.compat

from services.ingest.jobs.repository import IngestStore, Row
from shared.domain.api_keys import create_key, create_operator_key
from tests.support.backend import Backend, make_request
from tests.support.ingest import GOOD, PATH, PROBLEM, Ingest, insert, start_ingest


@pytest.fixture
async def ingest(backend: Backend, database: str, tmp_path: Path) -> AsyncIterator[Ingest]:
    async with start_ingest(backend, database, tmp_path) as running:
        yield running


async def test_a_job_is_shown_to_its_store_alone(ingest: Ingest) -> None:
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
    assert job["usage"] == {"inputTokens": 0, "outputTokens": 0, "images": 0}
    assert (job["steps"], job["post"], job["error"], job["attempts"]) == ([], None, None, 0)
    stranger = await create_key(ingest.backend.database, "stranger")
    assert (await ingest.get(f"{PATH}/{request.id}", key=stranger)).status_code == 404
    assert (await ingest.get(PATH, key=stranger)).json() == {"items": [], "next": None}


async def test_a_job_for_later_says_until_when_it_waits(ingest: Ingest) -> None:
    request = make_request(store="shop")
    await insert(ingest.backend, request)
    until = datetime.now(UTC) + timedelta(hours=1)
    await ingest.backend.database.execute("UPDATE blog_generations SET not_before = $1", until)
    waiting = (await ingest.get(f"{PATH}/{request.id}")).json()["waiting"]
    assert (waiting["reason"], datetime.fromisoformat(waiting["until"])) == ("not before", until)


async def test_a_waiting_job_says_why_and_until_about_when(ingest: Ingest) -> None:
    database = ingest.backend.database
    asked = datetime.now(UTC)
    requests = [
        make_request(store="shop", created_at=asked + timedelta(seconds=number))
        for number in range(4)
    ]
    urgent = make_request(store="shop", created_at=asked + timedelta(seconds=9))
    for request in (
        *requests,
        urgent,
        make_request(store="other", created_at=asked - timedelta(hours=1)),
    ):
        await insert(ingest.backend, request)
    await database.execute("UPDATE blog_generations SET priority = 5 WHERE id = $1", urgent.id)
    await database.execute(
        "UPDATE blog_generations SET forwarded_at = now() WHERE id = $1", requests[0].id
    )
    begins = datetime.now(UTC) + timedelta(minutes=10)
    await database.execute(
        "INSERT INTO store_outlooks VALUES ('shop', 'TPM', 'TPM', 4, 0, $1, $2, now())",
        begins,
        begins + timedelta(minutes=3),
    )
    shown = [
        (await ingest.get(f"{PATH}/{request.id}")).json()["waiting"]
        for request in (*requests, urgent)
    ]
    assert [waiting.get("place") for waiting in shown] == [None, 2, 3, 4, 1]
    listed = {item["id"]: item["waiting"] for item in (await ingest.get(PATH)).json()["items"]}
    keys = (
        "reason",
        "place",
        "limitedBy",
    )  # the time is never in the past, and time passes between two calls
    for request, alone in zip((*requests, urgent), shown, strict=True):
        assert [listed[str(request.id)].get(key) for key in keys] == [
            alone.get(key) for key in keys
        ]
    assert shown[0]["reason"] == "on its way to a worker"
    assert (shown[4]["reason"], shown[4]["limitedBy"]) == ("TPM", "TPM")
    assert datetime.fromisoformat(shown[4]["until"]) == begins
    assert (shown[3]["reason"], shown[3]["limitedBy"]) == ("fair turn", "TPM")
    assert datetime.fromisoformat(shown[3]["until"]) == begins + timedelta(minutes=3)


async def test_a_finished_and_a_failed_job_show_their_ends(ingest: Ingest) -> None:
    done, failed = make_request(store="shop"), make_request(store="shop")
    await insert(ingest.backend, done, "DONE")
    await insert(ingest.backend, failed, "FAILED")
    await ingest.backend.database.execute(
        "INSERT INTO blog_posts VALUES ($1, 'Title', 'slug', 'meta', '<p>x</p>', 'http://i/x.png')",
        done.id,
    )
    await ingest.backend.database.execute(
        "INSERT INTO blog_steps (job_id, step, state, attempt, input_tokens) VALUES ($1, 'outline', 'DONE', 1, 12)",
        done.id,
    )
    await ingest.backend.database.execute(
        "UPDATE blog_generations SET cost_nanousd = 1234567, input_tokens = 12, attempt = 1 WHERE id = $1",
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


async def test_the_row_of_a_job_just_accepted_is_waited_for(
    backend: Backend, database: str, tmp_path: Path
) -> None:
    """A fresh id, or one derived from an Idempotency-Key, whose age nobody can tell: in any process."""
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
            # Answers after the reader has looked once, and found nothing.
            assert (await ingest.get(f"{PATH}/{uuid4()}")).status_code == 404
            await insert(ingest.backend, request)
            assert (await reading).status_code == 200


async def test_what_was_accepted_and_not_admitted_yet_is_no_404(
    backend: Backend, database: str, tmp_path: Path
) -> None:
    """No scheduler runs here. Clients take a 404 for the last word."""
    stranger = await create_key(backend.database, "stranger")
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
        jobs.append(str(_of_age(timedelta(days=6))))
        for job in jobs:
            ways = (
                ("GET", ""),
                ("GET", "/events"),
                ("POST", "/events-ticket"),
                ("POST", "/cancel"),
                ("POST", "/retry"),
            )
            for method, way in ways:
                answer = await ingest.http.request(method, f"{PATH}/{job}{way}", headers=bearer)
                assert (answer.status_code, answer.headers["content-type"]) == (503, PROBLEM), (
                    job,
                    way,
                )
                assert answer.headers["retry-after"] == "2"
            await insert(backend, make_request(store="shop", id=UUID(job)))
            assert (await ingest.get(f"{PATH}/{job}")).status_code == 200
            assert (await ingest.get(f"{PATH}/{job}", key=stranger)).status_code == 404, (
                "another store's never comes"
            )
        for never in (
            _of_age(timedelta(days=8)),
            _of_age(-timedelta(hours=1)),
            uuid5(uuid4(), "x"),
            uuid4(),
        ):
            assert (await ingest.get(f"{PATH}/{never}")).status_code == 404, never


async def test_a_job_that_is_admitted_between_two_looks_is_shown(
    ingest: Ingest, monkeypatch: pytest.MonkeyPatch
) -> None:
    accepted = await ingest.post(GOOD, headers={"Idempotency-Key": "order-1"})
    request, really = make_request(store="shop", id=UUID(accepted.json()["id"])), IngestStore.job

    async def look(store: IngestStore, job: UUID, of: str | None) -> Row | None:
        if of is None:
            await insert(ingest.backend, request)
        return await really(store, job, of)

    monkeypatch.setattr(IngestStore, "job", look)
    assert (await ingest.get(f"{PATH}/{request.id}")).status_code == 200


def _of_age(age: timedelta) -> UUID:
    """A UUIDv7 of that time."""
    milliseconds = int((datetime.now(UTC) - age).timestamp() * 1000)
    return UUID(int=milliseconds << 80 | uuid_utils.compat.uuid7().int & (1 << 80) - 1)


async def test_an_id_that_nobody_was_given_is_looked_for_once(
    backend: Backend, database: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A derived id that no claim is known of: it costs PostgreSQL no more than any other."""
    looked_for, really = list[UUID](), IngestStore.job

    async def look(store: IngestStore, job: UUID, of: str | None) -> Row | None:
        looked_for.append(job)
        return await really(store, job, of)

    monkeypatch.setattr(IngestStore, "job", look)
    async with start_ingest(backend, database, tmp_path) as ingest:
        assert (await ingest.get(f"{PATH}/{uuid5(uuid4(), 'x')}")).status_code == 404
    assert len(looked_for) == 1


async def test_a_list_goes_on_where_it_ended(ingest: Ingest) -> None:
    at = datetime.now(UTC)
    # All of one moment but the first: the id must tell them apart.
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


async def test_queries_that_make_no_sense_are_422(ingest: Ingest) -> None:
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


async def test_an_operator_names_a_store_that_can_be(ingest: Ingest) -> None:
    operator = await create_operator_key(ingest.backend.database, "ada")
    for path in (PATH, "/api/webhook-deliveries"):
        assert (await ingest.get(f"{path}?store=nobody", key=operator)).json()["items"] == []
        for name in ("%00", "*", "", "a/b", "%ff"):
            answer = await ingest.get(f"{path}?store={name}", key=operator)
            assert (answer.status_code, answer.json()["errors"][0]["field"]) == (422, "store"), name


async def test_images_are_served_from_their_folder_and_nothing_else(ingest: Ingest) -> None:
    folder = ingest.images / "shop"
    await asyncio.to_thread(folder.mkdir)
    await asyncio.to_thread((folder / "x.png").write_bytes, b"png")
    picture = await ingest.http.get("/images/shop/x.png")
    assert (picture.content, picture.headers["content-type"]) == (b"png", "image/png")
    for path in (
        "/images/shop/y.png",
        "/images/shop",
        "/images/../../etc/passwd",
        "/images/%2e%2e/%2e%2e/etc/passwd",
    ):
        answer = await ingest.http.get(path)
        assert (answer.status_code, answer.headers["content-type"]) == (404, PROBLEM), path

"""ingest over HTTP on the real broker and database: what is accepted, refused and shown."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import asyncpg
import httpx
import orjson
import pytest

from sandbox.home import free_port
from services.ingest import service
from services.ingest.settings import IngestSettings
from shared.keys import create_key, list_keys, revoke_key
from shared.messages import BlogRequested
from shared.topics import REQUESTS
from tests.integration.world import World, a_request, running
from tests.waiting import eventually

PATH = "/api/blog-generation"
GOOD = {"sourceType": "keyword", "sourceId": "test-load-1"}


@dataclass(frozen=True, slots=True)
class Ingest:
    http: httpx.AsyncClient
    key: str
    world: World
    images: Path

    async def post(self, body: Any = None, **options: Any) -> httpx.Response:
        headers = {"Authorization": f"Bearer {self.key}"} | options.pop("headers", {})
        if body is not None:
            options["json"] = body
        return await self.http.post(PATH, headers=headers, **options)

    async def get(self, path: str, key: str | None = None) -> httpx.Response:
        return await self.http.get(path, headers={"Authorization": f"Bearer {key or self.key}"})


@pytest.fixture
async def ingest(world: World, database: str, tmp_path: Path) -> AsyncIterator[Ingest]:
    port = free_port()
    settings = IngestSettings(
        kafka_bootstrap_servers=world.settings.kafka_bootstrap_servers,
        kafka_topic_prefix=world.settings.kafka_topic_prefix, database_url=database, db_pool_min=1, port=port,
        image_dir=tmp_path, metrics_url="http://127.0.0.1:1", max_body_bytes=20_000, fresh_wait_s=1,
    )  # fmt: skip
    key = await create_key(world.database, "shop")
    async with (
        running(lambda stop: service.run(settings, stop, name="ingest-test")),
        httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}") as http,
    ):
        await eventually(partial(_ready, http))
        yield Ingest(http, key, world, tmp_path)


async def _ready(http: httpx.AsyncClient) -> bool:
    try:
        return (await http.get("/readyz")).is_success
    except httpx.HTTPError:
        return False


async def test_a_201_is_on_the_topic_with_all_that_was_asked(ingest: Ingest) -> None:
    asked = GOOD | {
        "title": "Tea", "keywords": ["green", "tea"], "language": "de-AT", "tone": "warm", "priority": 3, "images": 0,
        "product": {"type": "Tea", "price": "4.00"}, "webhookUrl": "https://shop.example/hook",
        "runAt": "2026-12-01T08:00:00+01:00",
    }  # fmt: skip
    answer = await ingest.post(asked)
    assert answer.status_code == 201
    body = answer.json()
    assert (body["status"], body["store"]) == ("PENDING", "shop")
    assert answer.headers["location"] == f"{PATH}/{body['id']}"
    ((key, message),) = await ingest.world.read_all(REQUESTS)
    assert key == "shop"
    assert isinstance(message, BlogRequested)
    assert str(message.id) == body["id"]
    assert message.id.version == 7
    assert (message.title, message.keywords, message.language) == ("Tea", ("green", "tea"), "de-AT")
    assert (message.priority, message.images, message.product) == (3, 0, {"type": "Tea", "price": "4.00"})
    assert message.run_at == datetime(2026, 12, 1, 7, tzinfo=UTC)


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({}, "sourceType"),
        ({"sourceType": "keyword"}, "sourceId"),
        (GOOD | {"sourceType": "rumour"}, "sourceType"),
        (GOOD | {"sourceType": 1}, "sourceType"),
        (GOOD | {"sourceId": ""}, "sourceId"),
        (GOOD | {"sourceId": "x" * 201}, "sourceId"),
        (GOOD | {"sourceId": "a\u0000b"}, "sourceId"),
        (GOOD | {"sourceId": 7}, "sourceId"),
        (GOOD | {"soureId": "typo"}, "soureId"),
        (GOOD | {"source_id": "x"}, "source_id"),
        (GOOD | {"keywords": "tea"}, "keywords"),
        (GOOD | {"keywords": ["x"] * 21}, "keywords"),
        (GOOD | {"keywords": ["ok", ""]}, "keywords.1"),
        (GOOD | {"language": "not a language"}, "language"),
        (GOOD | {"priority": 101}, "priority"),
        (GOOD | {"priority": "high"}, "priority"),
        (GOOD | {"images": 2}, "images"),
        (GOOD | {"runAt": "tomorrow"}, "runAt"),
        (GOOD | {"runAt": "2026-12-01T08:00:00"}, "runAt"),
        (GOOD | {"runAt": "2099-12-01T08:00:00Z"}, "runAt"),
        (GOOD | {"webhookUrl": "http://plain.example"}, "webhookUrl"),
        (GOOD | {"webhookUrl": "https://user:pw@shop.example"}, "webhookUrl"),
        (GOOD | {"product": ["x"]}, "product"),
        ([GOOD], "body"),
        ("text", "body"),
        (None, "body"),
    ],
)
async def test_every_refusal_names_the_field(ingest: Ingest, body: Any, field: str) -> None:
    answer = await ingest.post(content=orjson.dumps(body), headers={"Content-Type": "application/json"})
    assert answer.status_code == 422
    assert answer.headers["content-type"] == "application/problem+json"
    problem = answer.json()
    assert (problem["status"], problem["title"]) == (422, "Unprocessable Content")
    assert field in [error["field"] for error in problem["errors"]]


async def test_what_was_refused_left_nothing_behind(ingest: Ingest) -> None:
    await ingest.post({"sourceType": "keyword"})
    await ingest.post(content=b"{", headers={"Content-Type": "application/json"})
    await ingest.post(GOOD)
    assert len(await ingest.world.read_all(REQUESTS)) == 1


@pytest.mark.parametrize(
    ("options", "status"),
    [
        ({"content": b'{"sourceType": ', "headers": {"Content-Type": "application/json"}}, 400),
        ({"content": b"\xff\xfe", "headers": {"Content-Type": "application/json"}}, 400),
        ({"content": b"", "headers": {"Content-Type": "application/json"}}, 400),
        ({"content": b"a=b", "headers": {"Content-Type": "application/x-www-form-urlencoded"}}, 415),
        ({"content": b"{}"}, 415),
        ({"body": GOOD | {"title": "x" * 21_000}}, 413),
    ],
)
async def test_bodies_that_are_no_request(ingest: Ingest, options: dict[str, Any], status: int) -> None:
    answer = await ingest.post(**options)
    assert answer.status_code == status
    assert answer.headers["content-type"] == "application/problem+json"


async def test_a_body_without_a_length_is_counted_as_it_comes(ingest: Ingest) -> None:
    async def endless() -> AsyncIterator[bytes]:
        for _ in range(30):
            yield b" " * 1_000

    answer = await ingest.post(content=endless(), headers={"Content-Type": "application/json"})
    assert answer.status_code == 413


@pytest.mark.parametrize("header", [None, "", "Bearer", "Bearer sk_live_wrong", "Basic abc", "sk_live_x"])
async def test_without_a_valid_key_nobody_comes_in(ingest: Ingest, header: str | None) -> None:
    headers = {"Authorization": header} if header is not None else {}
    for answer in (
        await ingest.http.post(PATH, json=GOOD, headers=headers),
        await ingest.http.get(PATH, headers=headers),
    ):
        assert answer.status_code == 401
        assert answer.headers["www-authenticate"] == "Bearer"
        assert answer.headers["content-type"] == "application/problem+json"


async def test_a_new_key_works_at_once_and_a_revoked_one_stops(ingest: Ingest) -> None:
    key = await create_key(ingest.world.database, "another")
    answer = await ingest.post(GOOD, headers={"Authorization": f"Bearer {key}"})
    assert answer.status_code == 201
    assert answer.json()["store"] == "another"
    entry = next(entry for entry in await list_keys(ingest.world.database) if entry.store == "another")
    assert await revoke_key(ingest.world.database, entry.id)
    assert not await revoke_key(ingest.world.database, entry.id)

    async def refused() -> bool:
        return (await ingest.post(GOOD, headers={"Authorization": f"Bearer {key}"})).status_code == 401

    await eventually(refused, timeout=10)


async def test_the_same_idempotency_key_is_the_same_job(ingest: Ingest) -> None:
    ids = [
        (await ingest.post(GOOD, headers={"Idempotency-Key": key})).json()["id"]
        for key in ("order-1", '"order-1"', "order-2")
    ]
    assert ids[0] == ids[1] != ids[2]
    empty = await ingest.post(GOOD, headers={"Idempotency-Key": '""'})
    assert empty.status_code == 422


async def insert(world: World, request: BlogRequested, status: str = "PENDING") -> None:
    await world.database.execute(
        "INSERT INTO blog_generations (id, instance_id, source_type, source_id, request, created_at, status, error,"
        " error_code) VALUES ($1, $2, $3, $4, $5, $6, $7, CASE $7 WHEN 'FAILED' THEN 'why' END, 'code')",
        request.id, request.store, request.source_type, request.source_id, request, request.created_at, status,
    )  # fmt: skip


async def test_a_job_is_shown_to_its_store_alone(ingest: Ingest) -> None:
    request = a_request(store="shop")
    await insert(ingest.world, request)
    answer = await ingest.get(f"{PATH}/{request.id}")
    assert answer.status_code == 200
    job = answer.json()
    assert (job["id"], job["status"], job["sourceId"]) == (str(request.id), "PENDING", "tea")
    assert job["waiting"] == {"reason": "fair turn", "until": None}
    assert job["usage"] == {"inputTokens": 0, "outputTokens": 0, "images": 0}
    assert (job["steps"], job["post"], job["error"], job["attempts"]) == ([], None, None, 0)
    stranger = await create_key(ingest.world.database, "stranger")
    assert (await ingest.get(f"{PATH}/{request.id}", key=stranger)).status_code == 404


async def test_a_finished_and_a_failed_job_show_their_ends(ingest: Ingest) -> None:
    done, failed = a_request(store="shop"), a_request(store="shop")
    await insert(ingest.world, done, "DONE")
    await insert(ingest.world, failed, "FAILED")
    await ingest.world.database.execute(
        "INSERT INTO blog_posts VALUES ($1, 'Title', 'slug', 'meta', '<p>x</p>', 'http://i/x.png')", done.id
    )
    await ingest.world.database.execute(
        "INSERT INTO blog_steps (job_id, step, state, attempt, input_tokens) VALUES ($1, 'outline', 'DONE', 1, 12)",
        done.id,
    )
    shown = (await ingest.get(f"{PATH}/{done.id}")).json()
    assert shown["post"] == {
        "title": "Title", "slug": "slug", "metaDescription": "meta", "html": "<p>x</p>", "imageUrl": "http://i/x.png",
    }  # fmt: skip
    assert [(step["name"], step["usage"]["inputTokens"]) for step in shown["steps"]] == [("outline", 12)]
    shown = (await ingest.get(f"{PATH}/{failed.id}")).json()
    assert shown["error"] == {"code": "code", "message": "why"}


@pytest.mark.parametrize("job", ["nonsense", "0", str(UUID(int=0)), str(uuid4())])
async def test_unknown_jobs_are_404(ingest: Ingest, job: str) -> None:
    answer = await ingest.get(f"{PATH}/{job}")
    assert answer.status_code == 404
    assert answer.headers["content-type"] == "application/problem+json"


async def test_the_row_of_a_fresh_job_is_waited_for(ingest: Ingest) -> None:
    request = a_request(store="shop")
    reading = asyncio.create_task(ingest.get(f"{PATH}/{request.id}"))
    await asyncio.sleep(0)
    await insert(ingest.world, request)
    assert (await reading).status_code == 200


async def test_a_list_goes_on_where_it_ended(ingest: Ingest) -> None:
    requests = [a_request(store="shop") for _ in range(5)]
    for number, request in enumerate(requests):
        await insert(ingest.world, request, "DONE" if number == 4 else "PENDING")
    await insert(ingest.world, a_request(store="other"))
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


@pytest.mark.parametrize("query", ["status=OPEN", "limit=0", "limit=101", "limit=x", "cursor=nonsense", "page=2"])
async def test_queries_that_make_no_sense_are_422(ingest: Ingest, query: str) -> None:
    answer = await ingest.get(f"{PATH}?{query}")
    assert answer.status_code == 422
    assert answer.json()["errors"][0]["field"] == query.partition("=")[0]


async def test_health_as_operators_read_it(ingest: Ingest) -> None:
    health = (await ingest.http.get("/health")).json()
    assert health["status"] == "ok"
    assert health["timestamp"].endswith("Z")
    assert (await ingest.http.get("/livez")).status_code == 200
    assert (await ingest.http.get("/nowhere")).headers["content-type"] == "application/problem+json"
    assert (await ingest.http.delete(PATH)).status_code == 405
    assert (await ingest.http.get("/metrics")).status_code == 502


async def test_images_are_served_from_their_folder_and_nothing_else(ingest: Ingest) -> None:
    folder = ingest.images / "shop"
    await asyncio.to_thread(folder.mkdir)
    await asyncio.to_thread((folder / "x.png").write_bytes, b"png")
    assert (await ingest.http.get("/images/shop/x.png")).content == b"png"
    assert (await ingest.http.get("/images/../../etc/passwd")).status_code == 404
    assert (await ingest.http.get("/images/%2e%2e/%2e%2e/etc/passwd")).status_code == 404


async def test_a_request_id_is_given_back(ingest: Ingest) -> None:
    assert (await ingest.http.get("/health", headers={"X-Request-Id": "abc"})).headers["x-request-id"] == "abc"
    assert len((await ingest.http.get("/health")).headers["x-request-id"]) == 32


async def test_it_accepts_while_postgresql_is_away(ingest: Ingest, postgres: str) -> None:
    """The server refuses every connection to this database: the rename takes it away."""
    assert (await ingest.post(GOOD)).status_code == 201
    name = await ingest.world.database.fetchval("SELECT current_database()")
    async with _without(postgres, str(name)):
        answer = await ingest.post(GOOD)
        assert answer.status_code == 201
        assert (await ingest.get(f"{PATH}/{answer.json()['id']}")).status_code == 503
        assert (await ingest.http.get("/readyz")).status_code == 503
        assert (await ingest.http.get("/health")).status_code == 200
    await eventually(partial(_ready, ingest.http))
    assert len(await ingest.world.read_all(REQUESTS)) == 2


@asynccontextmanager
async def _without(postgres: str, name: str) -> AsyncIterator[None]:
    server = await asyncpg.connect(postgres)
    try:
        await server.execute(f"ALTER DATABASE {name} ALLOW_CONNECTIONS false")
        await server.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = $1 AND application_name <> ''", name
        )
        yield
        await server.execute(f"ALTER DATABASE {name} ALLOW_CONNECTIONS true")
    finally:
        await server.close()

"""POST of one request: accepted fields, refusals, API keys, and errors of the HTTP layer."""

import asyncio
import gzip
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import orjson
import pytest
from aiokafka.structs import TopicPartition
from structlog.testing import CapturingLogger

from services.ingest import service
from services.ingest.settings import IngestSettings
from shared.domain.api_keys import create_key, list_keys, revoke_key
from shared.domain.errors import Unavailable
from shared.domain.messages import BlogRequested
from shared.kafka import clients
from shared.kafka.topics import REQUESTS
from tests.support.backend import Backend
from tests.support.eventually import eventually
from tests.support.ingest import GOOD, PATH, PROBLEM, Ingest, bearer, start_ingest

JSON = {"Content-Type": "application/json"}


@pytest.fixture
async def ingest(backend: Backend, database: str, tmp_path: Path) -> AsyncIterator[Ingest]:
    async with start_ingest(backend, database, tmp_path) as running:
        yield running


async def test_accepted_request_is_on_the_topic_with_all_fields(ingest: Ingest) -> None:
    run_at = (datetime.now(UTC) + timedelta(days=7)).replace(microsecond=0)
    request = GOOD | {
        "title": "Tee\u00a0茶",
        "keywords": ["green", "tea"],
        "language": "de-AT",
        "tone": "warm",
        "priority": 3,
        "images": 0,
        "product": {"type": "Tea", "price": "4.00"},
        "webhookUrl": "https://shop.example/hook",
        "runAt": run_at.isoformat(),
    }
    answer = await ingest.post(request)
    assert answer.status_code == 201
    body = answer.json()
    assert sorted(body) == ["createdAt", "id", "sourceId", "sourceType", "status", "store"]
    assert (body["status"], body["store"], body["sourceType"]) == ("PENDING", "shop", "keyword")
    assert answer.headers["location"] == f"{PATH}/{body['id']}"
    ((key, message),) = await ingest.backend.read_records(REQUESTS)
    assert key == "shop"
    assert isinstance(message, BlogRequested)
    assert str(message.id) == body["id"]
    assert message.id.version == 7
    assert (message.title, message.keywords, message.language) == (
        "Tee\u00a0茶",
        ("green", "tea"),
        "de-AT",
    )
    assert (message.priority, message.images, message.product) == (
        3,
        0,
        {"type": "Tea", "price": "4.00"},
    )
    assert (message.run_at, message.webhook_url) == (run_at, "https://shop.example/hook")
    assert message.created_at == datetime.fromisoformat(body["createdAt"])


@pytest.mark.parametrize(
    ("path", "body"), [(PATH, GOOD), (f"{PATH}/bulk", [GOOD])], ids=["one", "many"]
)
async def test_two_different_idempotency_keys_are_refused(
    ingest: Ingest, path: str, body: Any
) -> None:
    """A client and a proxy may each send one; only one could be used."""

    async def post(*keys: str) -> httpx.Response:
        headers = [
            ("Authorization", f"Bearer {ingest.key}"),
            *(("Idempotency-Key", key) for key in keys),
        ]
        return await ingest.http.post(path, json=body, headers=headers)

    refused = await post("order-1", "order-2")
    assert (refused.status_code, refused.headers["content-type"]) == (422, PROBLEM)
    assert refused.json()["errors"][0]["field"] == "Idempotency-Key"
    assert await ingest.backend.read_records(REQUESTS) == []
    assert (await post("order-1", "order-1")).status_code == 201


async def test_record_has_cloudevents_headers(ingest: Ingest) -> None:
    job = (await ingest.post(GOOD)).json()["id"]
    consumer = clients.create_consumer(ingest.backend.settings)
    await consumer.start()
    try:
        topic = clients.namespace(ingest.backend.settings).topic(REQUESTS)
        consumer.assign([TopicPartition(topic, number) for number in range(REQUESTS.partitions)])
        headers = dict((await asyncio.wait_for(consumer.getone(), 10)).headers)
    finally:
        await consumer.stop()
    assert headers["ce_specversion"] == b"1.0"
    assert headers["ce_id"].decode() == job
    assert headers["ce_type"].decode() == BlogRequested.TYPE
    assert headers["ce_source"] == b"ingest-test"


async def test_invalid_request_names_its_field_and_publishes_nothing(
    ingest: Ingest,
) -> None:
    cases: dict[str, Any] = {
        "sourceType": {},
        "sourceId": GOOD | {"sourceId": 7},
        "soureId": GOOD | {"soureId": "typo"},
        "keywords.1": GOOD | {"keywords": ["ok", ""]},
        "product": GOOD | {"product": {"a": "\x00"}},
        "runAt": GOOD | {"runAt": "2099-12-01T08:00:00Z"},
        "body": [GOOD],
    }
    for field, body in cases.items():
        answer = await ingest.post(content=orjson.dumps(body), headers=JSON)
        assert (answer.status_code, answer.headers["content-type"]) == (422, PROBLEM), field
        problem = answer.json()
        assert (problem["status"], problem["title"]) == (422, "Unprocessable Content")
        assert field in [error["field"] for error in problem["errors"]]
    assert await ingest.backend.read_records(REQUESTS) == []


async def test_unreadable_body_is_refused(ingest: Ingest) -> None:
    cases: list[tuple[int, dict[str, Any]]] = [
        (400, {"content": b'{"sourceType": ', "headers": JSON}),
        (400, {"content": b"\xff\xfe", "headers": JSON}),
        (400, {"content": b"", "headers": JSON}),
        (400, {"content": b'{"a": 1e999}', "headers": JSON}),
        (400, {"content": b"[" * 10_000, "headers": JSON}),
        (
            415,
            {"content": b"a=b", "headers": {"Content-Type": "application/x-www-form-urlencoded"}},
        ),
        (415, {"content": b"{}"}),
        (415, {"content": gzip.compress(b"{}"), "headers": JSON | {"Content-Encoding": "gzip"}}),
        (
            415,
            {
                "content": orjson.dumps(GOOD),
                "headers": {"Content-Type": "application/json; charset=utf-16"},
            },
        ),
        (413, {"body": GOOD | {"title": "x" * 21_000}}),
        (413, {"content": b" " * 10_000_000, "headers": JSON}),
        (413, {"content": _endless_body(), "headers": JSON}),
    ]
    for status, options in cases:
        answer = await ingest.post(**options)
        assert (answer.status_code, answer.headers["content-type"]) == (status, PROBLEM), (
            answer.text
        )
    position = (await ingest.post(content=b'{"sourceType": x}', headers=JSON)).json()["errors"][0]
    assert position["field"] == "body"
    assert "line 1 column 16" in position["detail"]
    assert await ingest.backend.read_records(REQUESTS) == []
    for kind in (
        "application/json; charset=UTF-8",
        'application/json;charset="utf-8"',
        "application/json; v=1",
    ):
        answer = await ingest.post(content=orjson.dumps(GOOD), headers={"Content-Type": kind})
        assert answer.status_code == 201, kind


async def _endless_body() -> AsyncIterator[bytes]:
    """Yield a body without a length; only the limit ends it."""
    for _ in range(30):
        yield b" " * 1_000


async def test_disconnected_client_logs_no_error(
    ingest: Ingest, monkeypatch: pytest.MonkeyPatch
) -> None:
    logger = CapturingLogger()
    monkeypatch.setattr("services.ingest.http.errors.log", logger)
    reader, writer = await asyncio.open_connection("127.0.0.1", ingest.http.base_url.port or 0)
    head = f"POST {PATH} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {ingest.key}\r\n"
    writer.write(f"{head}Content-Type: application/json\r\nContent-Length: 100\r\n\r\n{{".encode())
    await writer.drain()
    assert (await ingest.post(GOOD)).status_code == 201
    writer.close()
    assert await reader.read() == b""
    assert (await ingest.post(GOOD)).status_code == 201
    assert logger.calls == []


@pytest.mark.parametrize("method", ["GET", "POST"])
async def test_missing_or_invalid_key_returns_401(ingest: Ingest, method: str) -> None:
    for header in (
        None,
        "",
        "Bearer",
        "Bearer sk_live_wrong",
        "Basic abc",
        f"Basic {ingest.key}",
        "Bearer \xfc",
    ):
        headers = {b"Authorization": header.encode("latin-1")} if header is not None else {}
        answer = await ingest.http.request(method, PATH, headers=headers)
        assert (answer.status_code, answer.headers["content-type"]) == (401, PROBLEM)
        assert answer.headers["www-authenticate"] == "Bearer"


async def test_new_key_works_at_once_and_revoked_key_stops(ingest: Ingest) -> None:
    key = await create_key(ingest.backend.database, "another")
    answer = await ingest.post(GOOD, headers=bearer(key))
    assert answer.status_code == 201
    assert answer.json()["store"] == "another"
    entry = next(
        entry for entry in await list_keys(ingest.backend.database) if entry.store == "another"
    )
    assert await revoke_key(ingest.backend.database, entry.id)
    assert not await revoke_key(ingest.backend.database, entry.id)

    async def refused() -> bool:
        return (await ingest.post(GOOD, headers=bearer(key))).status_code == 401

    await eventually(refused, timeout=10)
    assert (await ingest.post(GOOD)).status_code == 201, "the other store's key must not be touched"


async def test_same_idempotency_key_returns_the_same_job(ingest: Ingest) -> None:
    ids = [
        (await ingest.post(GOOD, headers={"Idempotency-Key": key})).json()["id"]
        for key in ("order-1", '"order-1"', "order-2")
    ]
    assert ids[0] == ids[1] != ids[2]
    empty = await ingest.post(GOOD, headers={"Idempotency-Key": '""'})
    assert (empty.status_code, empty.json()["errors"][0]["field"]) == (422, "Idempotency-Key")


async def test_health_and_index_endpoints(ingest: Ingest) -> None:
    health = (await ingest.http.get("/health")).json()
    assert sorted(health) == ["status", "timestamp"]
    assert health["status"] == "ok"
    assert health["timestamp"].endswith("Z")
    for path in ("/livez", "/readyz"):
        assert (await ingest.http.get(path)).status_code == 200
    index = await ingest.http.get("/")
    assert index.json()["requests"] == PATH
    assert (index.headers["x-content-type-options"], index.headers["cache-control"]) == (
        "nosniff",
        "no-store",
    )


async def test_unknown_path_or_method_is_a_problem(ingest: Ingest) -> None:
    job = "019392d0-0000-7000-8000-000000000001"
    for method, path in (
        ("GET", "/nowhere"),
        ("GET", "/docs/x"),
        ("GET", f"{PATH}/{job}/steps"),
        ("POST", f"{PATH}/x"),
        ("POST", f"{PATH}/{job}/renew"),
        ("POST", f"{PATH}/x/cancel"),
    ):
        answer = await ingest.http.request(method, path)
        assert (answer.status_code, answer.headers["content-type"]) == (404, PROBLEM), path
    answer = await ingest.http.delete(PATH)
    assert (answer.status_code, answer.headers["content-type"]) == (405, PROBLEM)
    assert {"GET", "POST"} <= set(answer.headers["allow"].split(", "))


async def test_valid_request_id_is_returned(ingest: Ingest) -> None:
    for given in ("abc", "x" * 100):
        assert (await ingest.http.get("/health", headers={"X-Request-Id": given})).headers[
            "x-request-id"
        ] == given
    for invalid in ("", "x" * 101, "a b", "a\tb"):
        answer = await ingest.http.get("/health", headers={"X-Request-Id": invalid})
        assert len(answer.headers["x-request-id"]) == 32
    assert (await ingest.http.get("/nowhere", headers={"X-Request-Id": "abc"})).headers[
        "x-request-id"
    ] == "abc"


async def test_redirect_uses_the_forwarded_scheme(ingest: Ingest) -> None:
    answer = await ingest.http.get(
        "/health/", headers={"Host": "blogs.example", "X-Forwarded-Proto": "https"}
    )
    assert (answer.status_code, answer.headers["location"]) == (307, "https://blogs.example/health")


async def test_unhandled_exception_is_logged_and_hidden(
    ingest: Ingest, monkeypatch: pytest.MonkeyPatch
) -> None:
    logger = CapturingLogger()
    monkeypatch.setattr("services.ingest.http.errors.log", logger)
    await ingest.backend.database.execute(
        "ALTER TABLE blog_generations RENAME COLUMN source_id TO other"
    )
    answer = await ingest.http.get(
        PATH, headers={"Authorization": f"Bearer {ingest.key}", "X-Request-Id": "find-me"}
    )
    assert (answer.status_code, answer.headers["content-type"]) == (500, PROBLEM)
    assert answer.json() == {"type": "about:blank", "title": "Internal Server Error", "status": 500}
    assert answer.headers["x-request-id"] == "find-me"
    ((method, (event,), details),) = logger.calls
    assert (method, event, details["path"]) == ("error", "unhandled exception", PATH)
    assert isinstance(details["exc_info"], Exception)


async def test_port_in_use_is_reported_in_one_line(ingest: Ingest, database: str) -> None:
    port = ingest.http.base_url.port or 0
    settings = IngestSettings(
        kafka_bootstrap_servers="127.0.0.1:1", database_url=database, port=port
    )
    with pytest.raises(
        Unavailable, match=f"cannot listen on 127.0.0.1:{port}: Address already in use"
    ):
        await service.run_ingest(settings, asyncio.Event(), name="ingest-second")

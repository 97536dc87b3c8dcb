"""Bulk calls: three formats, accepted or refused as a whole, without delaying other clients."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path

import httpx
import orjson
import pytest

from shared.domain.api_keys import create_key
from shared.kafka.topics import CONTROL
from tests.support.backend import Backend, database_unavailable, make_request
from tests.support.eventually import eventually
from tests.support.ingest import (
    GOOD,
    PATH,
    PROBLEM,
    Ingest,
    bearer,
    full_queue,
    insert,
    read_requests,
    start_ingest,
)

CSV_HEADER = "Handle,Title,Body (HTML),Vendor,Type,Tags,Variant Price,Image Src\n"
CSV = (
    CSV_HEADER
    + 'kettle,Kettle,"<p>Boils\nwater</p>",Acme,Kitchen,"tea, hot",10.00,http://i/1.png\n'
    "kettle,,,,,,12.50,http://i/2.png\ncup,Cup,,Acme,Kitchen,,4.00,\n"
)


@pytest.fixture
async def ingest(backend: Backend, database: str, tmp_path: Path) -> AsyncIterator[Ingest]:
    async with start_ingest(
        backend,
        database,
        tmp_path,
        max_bulk_bytes=2_000_000,
        max_pending_per_store=12_000,
        publish_timeout_s=20,
    ) as running:
        yield running


async def post_bulk(
    ingest: Ingest, content: bytes, kind: str, key: str | None = None, query: str = ""
) -> httpx.Response:
    headers = bearer(ingest.key) | {"Content-Type": kind}
    headers |= {"Idempotency-Key": key} if key else {}
    return await ingest.http.post(
        f"{PATH}/bulk{query}", content=content, headers=headers, timeout=60
    )


async def test_three_formats_get_one_answer_per_item(ingest: Ingest) -> None:
    array = orjson.dumps([GOOD, GOOD | {"sourceId": "b", "priority": 2}])
    lines = (
        b"\n"
        + orjson.dumps(GOOD | {"sourceId": "c"})
        + b"\r\n\n"
        + orjson.dumps(GOOD | {"sourceId": "d"})
    )
    ids = set[str]()
    for content, kind, sources in (
        (array, "application/json", ["test-load-1", "b"]),
        (lines, "application/x-ndjson", ["c", "d"]),
        (("\ufeff" + CSV).encode(), "text/csv; charset=utf-8", ["kettle", "cup"]),
    ):
        answer = await post_bulk(ingest, content, kind)
        assert answer.status_code == 201, answer.text
        body = answer.json()
        assert body["taken"] == 2
        assert [(item["item"], item["sourceId"], item["status"]) for item in body["items"]] == [
            (0, sources[0], "PENDING"),
            (1, sources[1], "PENDING"),
        ]
        ids |= {item["id"] for item in body["items"]}
    on_topic = {str(request.id): request for request in await read_requests(ingest.backend)}
    assert on_topic.keys() == ids
    (kettle,) = [request for request in on_topic.values() if request.source_id == "kettle"]
    assert (kettle.source_type, kettle.title) == ("product", "Kettle")
    assert kettle.product == {
        "title": "Kettle",
        "vendor": "Acme",
        "type": "Kitchen",
        "tags": ["tea", "hot"],
        "price": "10.00 to 12.50",
        "description": "Boils water",
        "images": ["http://i/1.png", "http://i/2.png"],
    }


async def test_query_fields_apply_to_all_products_of_a_csv(ingest: Ingest) -> None:
    url = "https://shop.example/hook"
    run_at = datetime.now(UTC).replace(microsecond=0)
    later = f"runAt={run_at:%Y-%m-%dT%H:%M:%SZ}"
    query = f"?language=fr&tone=2024&images=0&priority=-7&{later}&webhookUrl={url}"
    answer = await post_bulk(ingest, CSV.encode(), "text/csv", query=query)
    assert answer.status_code == 201, answer.text
    accepted = await read_requests(ingest.backend)
    assert {request.source_id for request in accepted} == {"kettle", "cup"}
    for one in accepted:
        fields = (one.language, one.tone, one.images, one.priority, one.run_at, one.webhook_url)
        assert fields == ("fr", "2024", 0, -7, run_at, url)
    for kind, content, wrong in (
        ("text/csv", CSV.encode(), "foo=1"),
        ("text/csv", CSV.encode(), "title=x"),
        ("text/csv", CSV.encode(), "images=2"),
        ("text/csv", CSV.encode(), "priority=high"),
        ("text/csv", CSV.encode(), "webhookUrl=http://a.example"),
        ("text/csv", CSV.encode(), "runAt=2001-01-01T00:00:00Z"),
        ("text/csv", CSV.encode(), "tone="),
        ("text/csv", CSV.encode(), "language=de&language=fr"),
        ("application/json", orjson.dumps([GOOD]), "language=fr"),
        ("application/x-ndjson", orjson.dumps(GOOD), "language=fr"),
    ):
        answer = await post_bulk(ingest, content, kind, query=f"?{wrong}")
        assert (answer.status_code, answer.headers["content-type"]) == (422, PROBLEM), wrong
        assert [error["field"] for error in answer.json()["errors"]] == [wrong.partition("=")[0]], (
            "one error, not one per item"
        )
    assert len(await read_requests(ingest.backend)) == 2


async def test_unpublished_products_are_left_out_and_listed(ingest: Ingest) -> None:
    header = f"{CSV_HEADER.strip()},Status\n"
    rows = (
        "old,Old,,,,,1,,Archived",
        "new,New,,,,,1,,draft",
        "new,,,,,,2,,",
        "cup,Cup,,,,,1,,Active",
        "tea,Tea,,,,,1,,",
    )
    answer = (await post_bulk(ingest, (header + "\n".join(rows)).encode(), "text/csv")).json()
    assert [item["sourceId"] for item in answer["items"]] == ["cup", "tea"]
    assert answer["leftOut"] == [
        {"line": 2, "sourceId": "old", "reason": "its Status is archived"},
        {"line": 3, "sourceId": "new", "reason": "its Status is draft"},
    ]
    assert {request.source_id for request in await read_requests(ingest.backend)} == {"cup", "tea"}
    none = await post_bulk(ingest, (header + rows[0]).encode(), "text/csv")
    assert (none.status_code, none.json()["errors"][0]["detail"]) == (
        422,
        "has no items: 1 were left out",
    )


async def test_one_invalid_item_refuses_the_whole_call(ingest: Ingest) -> None:
    array = orjson.dumps([GOOD, {"sourceType": "nonsense"}, GOOD, [], GOOD | {"images": 9}])
    answer = await post_bulk(ingest, array, "application/json")
    assert (answer.status_code, answer.headers["content-type"]) == (422, PROBLEM)
    assert answer.json()["detail"] == "3 of 5 items are invalid; none was accepted"
    errors = [(error["item"], error["field"]) for error in answer.json()["errors"]]
    assert errors == [(1, "sourceType"), (1, "sourceId"), (3, "body"), (4, "images")]
    lines = orjson.dumps(GOOD) + b"\n\n{oops\n" + orjson.dumps({"sourceType": "topic"})
    answer = await post_bulk(ingest, lines, "application/x-ndjson")
    assert [
        (error["item"], error["line"], error["field"]) for error in answer.json()["errors"]
    ] == [
        (1, 3, "body"),
        (2, 4, "sourceId"),
    ]
    broken = CSV + ",,,,,,5.00,\n" + f"long,{'x' * 301},,Acme,,,1.00,\n"
    answer = await post_bulk(ingest, broken.encode(), "text/csv")
    assert [(error["line"], error["field"]) for error in answer.json()["errors"]] == [
        (6, "row"),
        (7, "title"),
    ]
    for status, content, kind in (
        (422, b"[]", "application/json"),
        (422, b"{}", "application/json"),
        (400, b"[", "application/json"),
        (422, b"\n\n", "application/x-ndjson"),
        (422, b"a,b\n1,2", "text/csv"),
        (422, b"\xff", "text/csv"),
        (422, orjson.dumps([GOOD] * 10_001), "application/json"),
        (413, b" " * 2_000_001, "application/json"),
        (415, b"<a/>", "text/xml"),
        (415, CSV.encode("utf-16"), "text/csv; charset=utf-16"),
    ):
        answer = await post_bulk(ingest, content, kind)
        assert (answer.status_code, answer.headers["content-type"]) == (status, PROBLEM), (
            answer.text
        )
        assert len(answer.content) < 1_000
    flat = await post_bulk(ingest, CSV.replace("\n", "").encode(), "text/csv")
    assert (flat.status_code, "--data-binary" in flat.json()["errors"][0]["detail"]) == (422, True)
    assert await read_requests(ingest.backend) == []


async def test_idempotency_key_stands_for_the_whole_call(ingest: Ingest) -> None:
    array = orjson.dumps([GOOD, GOOD | {"sourceId": "b"}])
    first = await post_bulk(ingest, array, "application/json", key="import-1")
    again = await post_bulk(ingest, array, "application/json", key="import-1")
    assert (first.status_code, again.status_code) == (201, 201)
    assert first.json() == again.json()
    for other in (orjson.dumps([GOOD]), orjson.dumps([GOOD, GOOD])):
        answer = await post_bulk(ingest, other, "application/json", key="import-1")
        assert (answer.status_code, answer.json()["errors"][0]["field"]) == (422, "Idempotency-Key")
    single = await ingest.post(GOOD, headers={"Idempotency-Key": "import-1"})
    assert single.status_code == 422, "the key stands for the call"
    assert len({request.id for request in await read_requests(ingest.backend)}) == 2


async def test_call_fits_the_queue_as_a_whole_or_is_refused(
    backend: Backend, database: str, postgres: str, tmp_path: Path
) -> None:
    async with start_ingest(backend, database, tmp_path, max_pending_per_store=3) as ingest:
        await insert(backend, make_request(store="shop"))
        await insert(backend, make_request(store="other"))
        refused = await post_bulk(ingest, orjson.dumps([GOOD] * 3), "application/json")
        assert (refused.status_code, refused.json()["room"], refused.headers["retry-after"]) == (
            429,
            2,
            "30",
        )
        never = await post_bulk(ingest, orjson.dumps([GOOD] * 4), "application/json")
        assert (never.status_code, "retry-after" in never.headers) == (429, False)
        assert never.json()["type"].endswith("#quota-exceeded")
        assert (
            await post_bulk(ingest, orjson.dumps([GOOD] * 2), "application/json")
        ).status_code == 201
        async with database_unavailable(postgres, database, "ingest-test"):
            # Reservations count, whether or not their rows can be seen.
            for items, room in ((4, 1), (2, 1)):
                refused = await post_bulk(ingest, orjson.dumps([GOOD] * items), "application/json")
                assert (refused.status_code, refused.json()["room"]) == (429, room)
            assert (
                await post_bulk(ingest, orjson.dumps([GOOD]), "application/json", "k")
            ).status_code == 201
            assert (await post_bulk(ingest, orjson.dumps([GOOD]), "application/json")).json()[
                "room"
            ] == 0
        await backend.publish(CONTROL, "shop", full_queue("shop"))

        async def is_closed() -> bool:
            return bool(
                (await post_bulk(ingest, orjson.dumps([GOOD]), "application/json")).headers.get(
                    "retry-after"
                )
                == "42"
            )

        await eventually(is_closed, timeout=10)
        assert (await post_bulk(ingest, orjson.dumps([GOOD]), "application/json")).json()[
            "room"
        ] == 0
        assert (
            await post_bulk(ingest, orjson.dumps([GOOD]), "application/json", "k")
        ).status_code == 201, "a repeat"


async def test_concurrent_calls_share_the_room(
    backend: Backend, database: str, tmp_path: Path
) -> None:
    """Without a scheduler, accepted jobs have no rows; they count until they have one."""
    async with start_ingest(backend, database, tmp_path, max_pending_per_store=5) as ingest:
        three = orjson.dumps([GOOD] * 3)
        answers = await asyncio.gather(
            *(post_bulk(ingest, three, "application/json") for _ in range(2))
        )
        taken, refused = sorted(answers, key=lambda answer: answer.status_code)
        assert (taken.status_code, refused.status_code, refused.json()["room"]) == (201, 429, 2)
        for request in await read_requests(backend):
            await insert(backend, request, "DONE")
        assert (
            await post_bulk(ingest, orjson.dumps([GOOD] * 5), "application/json")
        ).status_code == 201


@asynccontextmanager
async def open_call(ingest: Ingest) -> AsyncIterator[asyncio.StreamReader]:
    """Send only the headers of a call; yield the reader of its answer."""
    reader, writer = await asyncio.open_connection(
        ingest.http.base_url.host, ingest.http.base_url.port
    )
    head = (
        f"POST {PATH}/bulk HTTP/1.1",
        "Host: here",
        f"Authorization: Bearer {ingest.key}",
        "Content-Length: 9",
        "Content-Type: application/json",
        "",
        "",
    )
    writer.write("\r\n".join(head).encode())
    try:
        yield reader
    finally:
        writer.close()


async def test_slow_bodies_do_not_block_other_stores(
    backend: Backend, database: str, tmp_path: Path
) -> None:
    other = await create_key(backend.database, "other")
    async with start_ingest(backend, database, tmp_path, bulk_read_s=3) as ingest:
        async with open_call(ingest) as first, open_call(ingest):

            async def status(key: str) -> int:
                answer = await ingest.http.post(f"{PATH}/bulk", json=[GOOD], headers=bearer(key))
                return answer.status_code

            async def is_limited() -> bool:
                return await status(ingest.key) == 429

            await eventually(is_limited)
            assert await status(other) == 201
            async with asyncio.timeout(20):
                answer = await first.read()  # until the server closes the connection
            assert answer.startswith(b"HTTP/1.1 408 ")
        assert await status(ingest.key) == 201


async def test_ten_thousand_items_do_not_delay_other_clients(ingest: Ingest) -> None:
    many = [
        GOOD | {"sourceId": f"p-{number}", "title": "A title of some length"}
        for number in range(10_000)
    ]
    call = asyncio.create_task(post_bulk(ingest, orjson.dumps(many), "application/json"))
    answered = 0
    while not call.done():
        assert (await ingest.post(GOOD)).status_code == 201
        answered += 1
    answer = await call
    assert (answer.status_code, answer.json()["taken"]) == (201, 10_000), answer.text[:500]
    assert answered > 3, "other requests were served meanwhile"
    by_id = {str(request.id): request.source_id for request in await read_requests(ingest.backend)}
    assert {
        item["id"]: item["sourceId"] for item in answer.json()["items"]
    }.items() <= by_id.items()

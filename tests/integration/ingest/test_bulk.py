"""Many requests in one call: judged as a whole, taken as a whole, in three formats, and in nobody's way."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path

import httpx
import orjson
import pytest

from shared.domain.api_keys import create_key
from shared.domain.messages import AdmissionState, BlogRequested
from shared.kafka.topics import CONTROL, REQUESTS
from tests.integration.ingest.test_admission import gate
from tests.support.backend import Backend, database_unavailable, make_request
from tests.support.eventually import eventually
from tests.support.ingest import GOOD, PATH, PROBLEM, Ingest, insert, start_ingest

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


async def post(
    ingest: Ingest, content: bytes, kind: str, key: str | None = None, query: str = ""
) -> httpx.Response:
    headers = {"Authorization": f"Bearer {ingest.key}", "Content-Type": kind}
    headers |= {"Idempotency-Key": key} if key else {}
    return await ingest.http.post(
        f"{PATH}/bulk{query}", content=content, headers=headers, timeout=60
    )


async def requests(backend: Backend) -> list[BlogRequested]:
    return [
        message
        for _, message in await backend.read_records(REQUESTS)
        if isinstance(message, BlogRequested)
    ]


async def test_three_formats_are_taken_with_an_answer_an_item(ingest: Ingest) -> None:
    array = orjson.dumps([GOOD, GOOD | {"sourceId": "b", "priority": 2}])
    lines = (
        b"\n"
        + orjson.dumps(GOOD | {"sourceId": "c"})
        + b"\r\n\n"
        + orjson.dumps(GOOD | {"sourceId": "d"})
    )
    ids = set[str]()
    for content, kind, named in (
        (array, "application/json", ["test-load-1", "b"]),
        (lines, "application/x-ndjson", ["c", "d"]),
        (("\ufeff" + CSV).encode(), "text/csv; charset=utf-8", ["kettle", "cup"]),
    ):
        answer = await post(ingest, content, kind)
        assert answer.status_code == 201, answer.text
        body = answer.json()
        assert body["taken"] == 2
        assert [(item["item"], item["sourceId"], item["status"]) for item in body["items"]] == [
            (0, named[0], "PENDING"),
            (1, named[1], "PENDING"),
        ]
        ids |= {item["id"] for item in body["items"]}
    on_topic = {str(request.id): request for request in await requests(ingest.backend)}
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
    }


async def test_what_the_query_says_holds_for_all_products_of_a_csv(ingest: Ingest) -> None:
    url = "https://shop.example/hook"
    run_at = datetime.now(UTC).replace(microsecond=0)
    later = f"runAt={run_at:%Y-%m-%dT%H:%M:%SZ}"
    query = f"?language=fr&tone=2024&images=0&priority=-7&{later}&webhookUrl={url}"
    answer = await post(ingest, CSV.encode(), "text/csv", query=query)
    assert answer.status_code == 201, answer.text
    taken = await requests(ingest.backend)
    assert {request.source_id for request in taken} == {"kettle", "cup"}
    for one in taken:
        said = (one.language, one.tone, one.images, one.priority, one.run_at, one.webhook_url)
        assert said == ("fr", "2024", 0, -7, run_at, url)
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
        answer = await post(ingest, content, kind, query=f"?{wrong}")
        assert (answer.status_code, answer.headers["content-type"]) == (422, PROBLEM), wrong
        assert [error["field"] for error in answer.json()["errors"]] == [wrong.partition("=")[0]], (
            "once, not per item"
        )
    assert len(await requests(ingest.backend)) == 2


async def test_products_that_nobody_is_shown_are_left_out_and_told(ingest: Ingest) -> None:
    header = f"{CSV_HEADER.strip()},Status\n"
    rows = (
        "old,Old,,,,,1,,Archived",
        "new,New,,,,,1,,draft",
        "new,,,,,,2,,",
        "cup,Cup,,,,,1,,Active",
        "tea,Tea,,,,,1,,",
    )
    answer = (await post(ingest, (header + "\n".join(rows)).encode(), "text/csv")).json()
    assert [item["sourceId"] for item in answer["items"]] == ["cup", "tea"]
    assert answer["leftOut"] == [
        {"line": 2, "sourceId": "old", "reason": "its Status is archived"},
        {"line": 3, "sourceId": "new", "reason": "its Status is draft"},
    ]
    assert {request.source_id for request in await requests(ingest.backend)} == {"cup", "tea"}
    none = await post(ingest, (header + rows[0]).encode(), "text/csv")
    assert (none.status_code, none.json()["errors"][0]["detail"]) == (
        422,
        "has no items: 1 were left out",
    )


async def test_one_item_at_fault_and_none_is_taken(ingest: Ingest) -> None:
    array = orjson.dumps([GOOD, {"sourceType": "nonsense"}, GOOD, [], GOOD | {"images": 9}])
    answer = await post(ingest, array, "application/json")
    assert (answer.status_code, answer.headers["content-type"]) == (422, PROBLEM)
    assert answer.json()["detail"] == "3 of 5 items cannot be taken, so none was"
    found = [(error["item"], error["field"]) for error in answer.json()["errors"]]
    assert found == [(1, "sourceType"), (1, "sourceId"), (3, "body"), (4, "images")]
    lines = orjson.dumps(GOOD) + b"\n\n{oops\n" + orjson.dumps({"sourceType": "topic"})
    answer = await post(ingest, lines, "application/x-ndjson")
    assert [
        (error["item"], error["line"], error["field"]) for error in answer.json()["errors"]
    ] == [
        (1, 3, "body"),
        (2, 4, "sourceId"),
    ]
    broken = CSV + ",,,,,,5.00,\n" + f"long,{'x' * 301},,Acme,,,1.00,\n"
    answer = await post(ingest, broken.encode(), "text/csv")
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
        answer = await post(ingest, content, kind)
        assert (answer.status_code, answer.headers["content-type"]) == (status, PROBLEM), (
            answer.text
        )
        assert len(answer.content) < 1_000
    flat = await post(ingest, CSV.replace("\n", "").encode(), "text/csv")
    assert (flat.status_code, "--data-binary" in flat.json()["errors"][0]["detail"]) == (422, True)
    assert await requests(ingest.backend) == []


async def test_a_key_names_the_whole_call(ingest: Ingest) -> None:
    array = orjson.dumps([GOOD, GOOD | {"sourceId": "b"}])
    first = await post(ingest, array, "application/json", key="import-1")
    again = await post(ingest, array, "application/json", key="import-1")
    assert (first.status_code, again.status_code) == (201, 201)
    assert first.json() == again.json()
    for other in (orjson.dumps([GOOD]), orjson.dumps([GOOD, GOOD])):
        answer = await post(ingest, other, "application/json", key="import-1")
        assert (answer.status_code, answer.json()["errors"][0]["field"]) == (422, "Idempotency-Key")
    single = await ingest.post(GOOD, headers={"Idempotency-Key": "import-1"})
    assert single.status_code == 422, "the key stands for the call"
    assert len({request.id for request in await requests(ingest.backend)}) == 2


async def test_it_fits_the_queue_as_a_whole_or_is_refused(
    backend: Backend, database: str, postgres: str, tmp_path: Path
) -> None:
    async with start_ingest(backend, database, tmp_path, max_pending_per_store=3) as ingest:
        await insert(backend, make_request(store="shop"))
        await insert(backend, make_request(store="other"))
        refused = await post(ingest, orjson.dumps([GOOD] * 3), "application/json")
        assert (refused.status_code, refused.json()["room"], refused.headers["retry-after"]) == (
            429,
            2,
            "30",
        )
        never = await post(ingest, orjson.dumps([GOOD] * 4), "application/json")
        assert (never.status_code, "retry-after" in never.headers) == (429, False)
        assert never.json()["type"].endswith("#quota-exceeded")
        assert (await post(ingest, orjson.dumps([GOOD] * 2), "application/json")).status_code == 201
        async with database_unavailable(postgres, database, "ingest-test"):
            for items, room in (
                (4, 1),
                (2, 1),
            ):  # what was promised before counts, be it known what came of it or not
                refused = await post(ingest, orjson.dumps([GOOD] * items), "application/json")
                assert (refused.status_code, refused.json()["room"]) == (429, room)
            assert (
                await post(ingest, orjson.dumps([GOOD]), "application/json", "k")
            ).status_code == 201
            assert (await post(ingest, orjson.dumps([GOOD]), "application/json")).json()[
                "room"
            ] == 0
        await backend.publish(CONTROL, "shop", _closed())

        async def shut() -> bool:
            return bool(
                (await post(ingest, orjson.dumps([GOOD]), "application/json")).headers.get(
                    "retry-after"
                )
                == "42"
            )

        await eventually(shut, timeout=10)
        assert (await post(ingest, orjson.dumps([GOOD]), "application/json")).json()["room"] == 0
        assert (
            await post(ingest, orjson.dumps([GOOD]), "application/json", "k")
        ).status_code == 201, "a repeat"


async def test_calls_at_once_share_the_room_that_there_is(
    backend: Backend, database: str, tmp_path: Path
) -> None:
    """Nobody admits here: what was accepted has no row, and counts all the same, until it has one."""
    async with start_ingest(backend, database, tmp_path, max_pending_per_store=5) as ingest:
        three = orjson.dumps([GOOD] * 3)
        answers = await asyncio.gather(*(post(ingest, three, "application/json") for _ in range(2)))
        taken, refused = sorted(answers, key=lambda answer: answer.status_code)
        assert (taken.status_code, refused.status_code, refused.json()["room"]) == (201, 429, 2)
        for request in await requests(backend):
            await insert(backend, request, "DONE")
        assert (await post(ingest, orjson.dumps([GOOD] * 5), "application/json")).status_code == 201


@asynccontextmanager
async def begun(ingest: Ingest) -> AsyncIterator[asyncio.StreamReader]:
    """A call of which only the headers come: what is answered."""
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


async def test_bodies_that_do_not_come_take_no_others_place(
    backend: Backend, database: str, tmp_path: Path
) -> None:
    other = await create_key(backend.database, "other")
    async with start_ingest(backend, database, tmp_path, bulk_read_s=3) as ingest:
        async with begun(ingest) as first, begun(ingest):

            async def status(key: str) -> int:
                headers = {"Authorization": f"Bearer {key}"}
                return (
                    await ingest.http.post(f"{PATH}/bulk", json=[GOOD], headers=headers)
                ).status_code

            async def full() -> bool:
                return await status(ingest.key) == 429

            await eventually(full)
            assert await status(other) == 201
            async with asyncio.timeout(20):
                answer = await first.read()  # to its end: the connection is closed
            assert answer.startswith(b"HTTP/1.1 408 ")
        assert await status(ingest.key) == 201


def _closed() -> AdmissionState:
    return gate("shop")


async def test_ten_thousand_at_once_do_not_keep_others_waiting(ingest: Ingest) -> None:
    many = [
        GOOD | {"sourceId": f"p-{number}", "title": "A title of some length"}
        for number in range(10_000)
    ]
    call = asyncio.create_task(post(ingest, orjson.dumps(many), "application/json"))
    answered = 0
    while not call.done():
        assert (await ingest.post(GOOD)).status_code == 201
        answered += 1
    answer = await call
    assert (answer.status_code, answer.json()["taken"]) == (201, 10_000), answer.text[:500]
    assert answered > 3, "others were served meanwhile"
    by_id = {str(request.id): request.source_id for request in await requests(ingest.backend)}
    assert {
        item["id"]: item["sourceId"] for item in answer.json()["items"]
    }.items() <= by_id.items()

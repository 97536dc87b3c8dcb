"""Idempotency keys: the same request is the same job, another one is refused, in every process."""

import asyncio
from collections import Counter
from pathlib import Path
from typing import Any

import httpx

from shared.domain.messages import IdempotencyRecord
from shared.kafka.topics import CONTROL, IDEMPOTENCY
from tests.support.backend import Backend, database_unavailable
from tests.support.ingest import (
    GOOD,
    PROBLEM,
    Ingest,
    full_queue,
    post_until_status,
    read_requests,
    start_ingest,
)

OTHER = GOOD | {"title": "Another"}
WITH_DEFAULTS = {"images": 1, "language": "en"} | dict(reversed(GOOD.items()))


async def post(ingest: Ingest, body: Any, key: str) -> httpx.Response:
    return await ingest.post(body, headers={"Idempotency-Key": key})


def is_refused(answer: httpx.Response) -> bool:
    if answer.status_code != 422:
        return False
    return (answer.headers["content-type"], answer.json()["errors"][0]["field"]) == (
        PROBLEM,
        "Idempotency-Key",
    )


async def test_key_is_one_request_across_processes_outage_and_restart(
    backend: Backend, postgres: str, database: str, tmp_path: Path
) -> None:
    async with (
        start_ingest(backend, database, tmp_path) as one,
        start_ingest(backend, database, tmp_path) as two,
    ):
        first = (await post(one, GOOD, "order-1")).json()
        for ingest in (one, two):
            again = await post(ingest, WITH_DEFAULTS, '"order-1"')
            assert (again.status_code, again.json()) == (201, first), "including createdAt"
            assert is_refused(await post(ingest, OTHER, "order-1"))
        async with database_unavailable(postgres, database, "ingest-test"):
            fresh = await asyncio.gather(
                *(post(ingest, GOOD, "order-2") for ingest in (one, two) for _ in range(5))
            )
            assert {answer.status_code for answer in fresh} == {201}
            assert len({answer.json()["id"] for answer in fresh}) == 1
            assert is_refused(await post(two, OTHER, "order-2"))
        answers = await asyncio.gather(
            *(
                post(ingest, GOOD | {"title": f"{n % 3}"}, "order-3")
                for n in range(12)
                for ingest in (one, two)
            )
        )
        taken = Counter(answer.json()["id"] for answer in answers if answer.status_code == 201)
        assert list(taken.values()) == [8], (
            "one of three requests won, and every sender of it got its id"
        )
        assert sum(map(is_refused, answers)) == 16
        await backend.publish(CONTROL, "shop", full_queue("shop"))
        await post_until_status(two, 429)
        assert (await post(two, GOOD, "order-1")).json() == first, (
            "a repeat creates no job, so closed admission does not refuse it"
        )
        await backend.publish(CONTROL, "shop", None)
    async with start_ingest(backend, database, tmp_path) as restarted:
        assert (await post(restarted, GOOD, "order-1")).json() == first
        assert is_refused(await post(restarted, OTHER, "order-3"))
    requests = await read_requests(backend)
    assert {
        len({(r.title, r.created_at) for r in requests if r.id == id_})
        for id_ in {r.id for r in requests}
    } == {1}
    records = [
        message
        for _, message in await backend.read_records(IDEMPOTENCY)
        if isinstance(message, IdempotencyRecord)
    ]
    assert len({record.job for record in records}) == 3

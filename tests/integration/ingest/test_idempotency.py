"""An Idempotency-Key: the same request is the same job, another is refused, whoever is asked and whatever is away."""

import asyncio
from collections import Counter
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx

from shared.domain.messages import AdmissionState, BlogRequested, IdempotencyClaim
from shared.kafka.topics import CONTROL, IDEMPOTENCY, REQUESTS
from tests.support.backend import Backend, database_unavailable
from tests.support.eventually import eventually
from tests.support.ingest import GOOD, PROBLEM, Ingest, start_ingest

OTHER = GOOD | {"title": "Another"}
SPELLED_OUT = {"images": 1, "language": "en"} | dict(reversed(GOOD.items()))


async def post(ingest: Ingest, body: Any, key: str) -> httpx.Response:
    return await ingest.post(body, headers={"Idempotency-Key": key})


def is_refused(answer: httpx.Response) -> bool:
    if answer.status_code != 422:
        return False
    return (answer.headers["content-type"], answer.json()["errors"][0]["field"]) == (
        PROBLEM,
        "Idempotency-Key",
    )


async def test_one_key_is_one_request_through_two_processes_without_postgresql_and_after_a_restart(
    backend: Backend, postgres: str, database: str, tmp_path: Path
) -> None:
    async with (
        start_ingest(backend, database, tmp_path) as one,
        start_ingest(backend, database, tmp_path) as two,
    ):
        first = (await post(one, GOOD, "order-1")).json()
        for ingest in (one, two):
            again = await post(ingest, SPELLED_OUT, '"order-1"')
            assert (again.status_code, again.json()) == (201, first), (
                "to the moment at which it was asked for"
            )
            assert is_refused(await post(ingest, OTHER, "order-1"))
        async with database_unavailable(postgres, database, "ingest-test"):
            fresh = await asyncio.gather(
                *(post(ingest, GOOD, "order-2") for ingest in (one, two) for _ in range(5))
            )
            assert {answer.status_code for answer in fresh} == {201}
            assert len({answer.json()["id"] for answer in fresh}) == 1
            assert is_refused(await post(two, OTHER, "order-2"))
        raced = await asyncio.gather(
            *(
                post(ingest, GOOD | {"title": f"{n % 3}"}, "order-3")
                for n in range(12)
                for ingest in (one, two)
            )
        )
        taken = Counter(answer.json()["id"] for answer in raced if answer.status_code == 201)
        assert list(taken.values()) == [8], (
            "one of three requests won, and all who sent it heard so"
        )
        assert sum(map(is_refused, raced)) == 16
        await backend.publish(CONTROL, "shop", _gate())
        await eventually(lambda: _is_shut(two), timeout=10)
        assert (await post(two, GOOD, "order-1")).json() == first, (
            "a repeat is no new job, whatever door is closed"
        )
        await backend.publish(CONTROL, "shop", None)
    async with start_ingest(backend, database, tmp_path) as restarted:
        assert (await post(restarted, GOOD, "order-1")).json() == first
        assert is_refused(await post(restarted, OTHER, "order-3"))
    requests = [
        message
        for _, message in await backend.read_records(REQUESTS)
        if isinstance(message, BlogRequested)
    ]
    assert {
        len({(r.title, r.created_at) for r in requests if r.id == id_})
        for id_ in {r.id for r in requests}
    } == {1}
    claims = [
        message
        for _, message in await backend.read_records(IDEMPOTENCY)
        if isinstance(message, IdempotencyClaim)
    ]
    assert len({claim.job for claim in claims}) == 3


def _gate() -> AdmissionState:
    return AdmissionState(
        store="shop", closed=True, reason="queue-full", retry_after_s=9, at=datetime.now(UTC)
    )


async def _is_shut(ingest: Ingest) -> bool:
    return (await ingest.post(GOOD)).status_code == 429

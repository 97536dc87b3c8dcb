"""Clients get 429 or 503 as soon as the scheduler closes admission on blog.control."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from shared.domain.api_keys import create_key
from shared.domain.stores import ALL_STORES
from shared.kafka.topics import CONTROL, REQUESTS
from tests.support.backend import Backend, make_request
from tests.support.ingest import (
    GOOD,
    PROBLEM,
    Ingest,
    full_queue,
    post_until_status,
    start_ingest,
)


@pytest.fixture
async def ingest(backend: Backend, database: str, tmp_path: Path) -> AsyncIterator[Ingest]:
    async with start_ingest(backend, database, tmp_path) as running:
        yield running


async def test_full_store_gets_429_and_other_stores_do_not(ingest: Ingest) -> None:
    neighbour = await create_key(ingest.backend.database, "neighbour")
    await ingest.backend.publish(CONTROL, "shop", full_queue("shop"))
    refusal = await post_until_status(ingest, 429)
    assert refusal.headers["content-type"] == PROBLEM
    assert refusal.headers["retry-after"] == "42"
    assert refusal.headers["ratelimit"] == '"queue";r=0;t=42'
    assert refusal.headers["ratelimit-policy"] == '"queue";q=1000'
    problem = refusal.json()
    assert problem["type"].endswith("#quota-exceeded")
    assert "queue-full" in problem["detail"]
    assert (await ingest.post({}, headers={})).status_code == 422, "validation precedes admission"
    accepted = await post_until_status(ingest, 201, key=neighbour)
    assert accepted.json()["store"] == "neighbour"
    before = len(await ingest.backend.read_records(REQUESTS))
    await post_until_status(ingest, 429)
    after = len(await ingest.backend.read_records(REQUESTS))
    assert after == before, "a refused request must not be on the topic"
    await ingest.backend.publish(CONTROL, "shop", None)
    await post_until_status(ingest, 201)


async def test_full_system_gets_503_until_it_opens(ingest: Ingest) -> None:
    await ingest.backend.publish(CONTROL, ALL_STORES, full_queue(ALL_STORES, retry_after_s=0))
    refusal = await post_until_status(ingest, 503)
    assert refusal.headers["retry-after"] == "1"
    assert refusal.json()["type"].endswith("#temporary-reduced-capacity")
    await ingest.backend.publish(CONTROL, ALL_STORES, full_queue(ALL_STORES, closed=False))
    await post_until_status(ingest, 201)


async def test_invalid_record_keeps_the_last_state(ingest: Ingest) -> None:
    await ingest.backend.publish(CONTROL, "shop", full_queue("shop"))
    await post_until_status(ingest, 429)
    await ingest.backend.publish(CONTROL, "shop", make_request())
    await ingest.backend.publish(CONTROL, "neighbour", full_queue("neighbour"))
    neighbour = await create_key(ingest.backend.database, "neighbour")
    await post_until_status(ingest, 429, key=neighbour)
    await ingest.backend.publish(CONTROL, "shop", None)
    await post_until_status(ingest, 201)


async def test_late_process_reads_the_current_state(
    backend: Backend, database: str, tmp_path: Path
) -> None:
    for number in range(300):
        await backend.publish(CONTROL, "shop", full_queue("shop", closed=number % 2 == 0))
    await backend.publish(CONTROL, "shop", full_queue("shop"))
    async with start_ingest(backend, database, tmp_path) as ingest:
        assert (await ingest.post(GOOD)).status_code == 429

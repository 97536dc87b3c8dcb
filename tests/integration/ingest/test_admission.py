"""Closed doors: what the scheduler says on blog.control is what clients hear at once."""

from collections.abc import AsyncIterator
from datetime import UTC, datetime
from pathlib import Path

import httpx
import pytest

from shared.domain.api_keys import create_key
from shared.domain.messages import AdmissionState
from shared.kafka.topics import CONTROL, REQUESTS
from tests.support.backend import Backend, make_request
from tests.support.eventually import eventually
from tests.support.ingest import GOOD, PROBLEM, Ingest, start_ingest


@pytest.fixture
async def ingest(backend: Backend, database: str, tmp_path: Path) -> AsyncIterator[Ingest]:
    async with start_ingest(backend, database, tmp_path) as running:
        yield running


def gate(store: str, *, closed: bool = True, retry_after_s: float = 41.5) -> AdmissionState:
    return AdmissionState(
        store=store,
        closed=closed,
        reason="queue-full",
        retry_after_s=retry_after_s,
        at=datetime.now(UTC),
    )


async def hears(ingest: Ingest, status: int, key: str | None = None) -> httpx.Response:
    """The answer, once it has that status."""
    headers = {"Authorization": f"Bearer {key or ingest.key}"}

    async def answer() -> httpx.Response | None:
        got = await ingest.post(GOOD, headers=headers)
        return got if got.status_code == status else None

    found = await eventually(answer, timeout=10, what=f"a {status}")
    assert found is not None
    return found


async def test_a_full_store_hears_429_and_its_neighbours_nothing(ingest: Ingest) -> None:
    neighbour = await create_key(ingest.backend.database, "neighbour")
    await ingest.backend.publish(CONTROL, "shop", gate("shop"))
    refusal = await hears(ingest, 429)
    assert refusal.headers["content-type"] == PROBLEM
    assert refusal.headers["retry-after"] == "42"
    assert refusal.headers["ratelimit"] == '"queue";r=0;t=42'
    assert refusal.headers["ratelimit-policy"] == '"queue";q=1000'
    problem = refusal.json()
    assert problem["type"].endswith("#quota-exceeded")
    assert "queue-full" in problem["detail"]
    assert (await ingest.post({}, headers={})).status_code == 422, (
        "what is wrong is said before the door is"
    )
    assert (await hears(ingest, 201, key=neighbour)).json()["store"] == "neighbour"
    before = len(await ingest.backend.read_records(REQUESTS))
    await hears(ingest, 429)
    assert len(await ingest.backend.read_records(REQUESTS)) == before, (
        "what was refused must not be on the topic"
    )
    await ingest.backend.publish(CONTROL, "shop", None)
    await hears(ingest, 201)


async def test_a_full_system_is_503_for_everybody_until_it_says_open(ingest: Ingest) -> None:
    await ingest.backend.publish(CONTROL, "*", gate("*", retry_after_s=0))
    refusal = await hears(ingest, 503)
    assert refusal.headers["retry-after"] == "1"
    assert refusal.json()["type"].endswith("#temporary-reduced-capacity")
    await ingest.backend.publish(CONTROL, "*", gate("*", closed=False))
    await hears(ingest, 201)


async def test_what_nobody_understands_opens_no_door_and_stops_no_follower(ingest: Ingest) -> None:
    await ingest.backend.publish(CONTROL, "shop", gate("shop"))
    await hears(ingest, 429)
    await ingest.backend.publish(CONTROL, "shop", make_request())
    await ingest.backend.publish(CONTROL, "neighbour", gate("neighbour"))
    neighbour = await create_key(ingest.backend.database, "neighbour")
    await hears(ingest, 429, key=neighbour)
    await ingest.backend.publish(CONTROL, "shop", None)
    await hears(ingest, 201)


async def test_a_process_that_starts_late_knows_which_doors_are_closed(
    backend: Backend, database: str, tmp_path: Path
) -> None:
    for number in range(300):
        await backend.publish(CONTROL, "shop", gate("shop", closed=number % 2 == 0))
    await backend.publish(CONTROL, "shop", gate("shop"))
    async with start_ingest(backend, database, tmp_path) as ingest:
        assert (await ingest.post(GOOD)).status_code == 429

"""A full queue closes its store's door on blog.control, and opens it again, whoever leads by then."""

from functools import partial

import pytest

from shared.domain.messages import AdmissionState, Message, SchedulerReport
from shared.kafka.publisher import OutgoingMessage
from shared.kafka.topics import CONTROL, REQUESTS, WORKERS
from tests.support.backend import Backend, make_request
from tests.support.eventually import eventually
from tests.support.scheduler import (
    StartScheduler,
    count_reached,
    publish_worker_report,
    read_at_least,
    start_scheduler,
)

A_TURN = 500
"""Records that the scheduler reads at once, at most."""


@pytest.fixture
def start(backend: Backend, database: str) -> StartScheduler:
    return partial(start_scheduler, backend, database)


async def _said(backend: Backend) -> dict[str | None, Message | bytes | None]:
    """The last word on every door."""
    return dict(await backend.read_records(CONTROL))


async def _words(backend: Backend) -> list[Message | bytes | None]:
    return [gate for _, gate in await backend.read_records(CONTROL)]


async def _closed(
    backend: Backend, stores: set[str]
) -> dict[str | None, Message | bytes | None] | None:
    said = await _said(backend)
    return said if {store for store, gate in said.items() if gate is not None} == stores else None


async def _all_open(backend: Backend, stores: set[str]) -> bool:
    said = await _said(backend)
    return said.keys() == stores and not any(said.values())


async def test_a_full_queue_closes_its_door_and_what_came_through_is_admitted(
    backend: Backend, start: StartScheduler
) -> None:
    async with start(max_pending_per_store=5):
        for _ in range(8):
            await backend.submit(make_request(store="full"))
        await backend.submit(make_request(store="other"))
        await eventually(partial(count_reached, backend, 9))
        said = await eventually(partial(_closed, backend, {"full"}), every=0.2)
        assert said is not None
        gate = said["full"]
        assert isinstance(gate, AdmissionState)
        assert (gate.store, gate.closed, gate.reason) == ("full", True, "queue-full")
        assert gate.retry_after_s > 0
        await eventually(partial(_closed_stores_reported, backend, 1), every=0.2)
        await publish_worker_report(backend, slots=9)
        await eventually(partial(_all_open, backend, {"full"}), every=0.2)
        assert len(await read_at_least(backend, 9)) == 9


async def test_a_door_is_said_closed_before_more_is_admitted_than_one_turn(
    backend: Backend, start: StartScheduler
) -> None:
    """Whatever the machine's speed: the turn that passes the limit says so, and only then the next is read."""
    limit, asked = 5, 3 * A_TURN
    async with start(max_pending_per_store=limit):
        await eventually(
            partial(_closed_stores_reported, backend, 0)
        )  # a second passes until it reports again
        await backend.publisher.publish_all(
            [
                OutgoingMessage(topic=REQUESTS, key="full", message=make_request(store="full"))
                for _ in range(asked)
            ]
        )
        await eventually(partial(count_reached, backend, asked))
        said = await eventually(partial(_closed, backend, {"full"}), every=0.2)
    assert said is not None
    closings = [gate.at for gate in await _words(backend) if isinstance(gate, AdmissionState)]
    before = await backend.database.fetchval(
        "SELECT count(*) FROM blog_generations WHERE admitted_at <= $1", closings[0]
    )
    assert limit <= before < limit + A_TURN


async def test_everybodys_door(backend: Backend, start: StartScheduler) -> None:
    async with start(max_pending_total=4):
        for number in range(4):
            await backend.submit(make_request(store=f"store-{number}"))
        await eventually(partial(_closed, backend, {"*"}), every=0.2)
        await publish_worker_report(backend, slots=4)
        await eventually(partial(_all_open, backend, {"*"}), every=0.2)


async def test_a_successor_opens_what_a_predecessor_closed(
    backend: Backend, start: StartScheduler
) -> None:
    async with start("first", max_pending_per_store=2):
        for _ in range(2):
            await backend.submit(make_request(store="full"))
        await eventually(partial(_closed, backend, {"full"}), every=0.2)
    await backend.database.execute(
        "UPDATE blog_generations SET status = 'CANCELLED'"
    )  # while nobody leads
    async with start("second", max_pending_per_store=2):
        await eventually(partial(_all_open, backend, {"full"}), every=0.2)


async def _closed_stores_reported(backend: Backend, count: int) -> bool:
    reports = [
        report
        for _, report in await backend.read_records(WORKERS)
        if isinstance(report, SchedulerReport)
    ]
    return any(report.closed_stores == count for report in reports)

"""Admission control: a full queue closes intake on blog.control, and any leader opens it again."""

from functools import partial

import pytest

from shared.domain.messages import AdmissionState, Message, SchedulerReport
from shared.kafka.publisher import OutgoingMessage
from shared.kafka.topics import CONTROL, REQUESTS, WORKERS
from tests.support.backend import Backend, make_request
from tests.support.eventually import eventually
from tests.support.scheduler import (
    StartScheduler,
    has_job_count,
    publish_worker_report,
    read_tasks_at_least,
    start_scheduler,
)

RECORDS_PER_TURN = 500
"""The most records that the scheduler reads at once."""


@pytest.fixture
def start(backend: Backend, database: str) -> StartScheduler:
    return partial(start_scheduler, backend, database)


async def _latest_states(backend: Backend) -> dict[str | None, Message | bytes | None]:
    """Return the latest admission state of every store."""
    return dict(await backend.read_records(CONTROL))


async def _all_states(backend: Backend) -> list[Message | bytes | None]:
    return [state for _, state in await backend.read_records(CONTROL)]


async def _closed_states(
    backend: Backend, stores: set[str]
) -> dict[str | None, Message | bytes | None] | None:
    states = await _latest_states(backend)
    return (
        states
        if {store for store, state in states.items() if state is not None} == stores
        else None
    )


async def _all_open(backend: Backend, stores: set[str]) -> bool:
    states = await _latest_states(backend)
    return states.keys() == stores and not any(states.values())


async def test_full_queue_closes_intake_and_admits_accepted_requests(
    backend: Backend, start: StartScheduler
) -> None:
    async with start(max_pending_per_store=5):
        for _ in range(8):
            await backend.submit(make_request(store="full"))
        await backend.submit(make_request(store="other"))
        await eventually(partial(has_job_count, backend, 9))
        states = await eventually(partial(_closed_states, backend, {"full"}), every=0.2)
        assert states is not None
        state = states["full"]
        assert isinstance(state, AdmissionState)
        assert (state.store, state.closed, state.reason) == ("full", True, "queue-full")
        assert state.retry_after_s > 0
        await eventually(partial(_closed_stores_reported, backend, 1), every=0.2)
        await publish_worker_report(backend, slots=9)
        await eventually(partial(_all_open, backend, {"full"}), every=0.2)
        assert len(await read_tasks_at_least(backend, 9)) == 9


async def test_intake_closes_within_one_turn_over_the_limit(
    backend: Backend, start: StartScheduler
) -> None:
    """The turn that exceeds the limit publishes the state before the next turn reads records."""
    limit, submitted = 5, 3 * RECORDS_PER_TURN
    async with start(max_pending_per_store=limit):
        # The next report is a second away.
        await eventually(partial(_closed_stores_reported, backend, 0))
        await backend.publisher.publish_all(
            [
                OutgoingMessage(topic=REQUESTS, key="full", message=make_request(store="full"))
                for _ in range(submitted)
            ]
        )
        await eventually(partial(has_job_count, backend, submitted))
        states = await eventually(partial(_closed_states, backend, {"full"}), every=0.2)
    assert states is not None
    closings = [
        state.at for state in await _all_states(backend) if isinstance(state, AdmissionState)
    ]
    before = await backend.database.fetchval(
        "SELECT count(*) FROM blog_generations WHERE admitted_at <= $1", closings[0]
    )
    assert limit <= before < limit + RECORDS_PER_TURN


async def test_total_limit_closes_intake_of_all_stores(
    backend: Backend, start: StartScheduler
) -> None:
    async with start(max_pending_total=4):
        for number in range(4):
            await backend.submit(make_request(store=f"store-{number}"))
        await eventually(partial(_closed_states, backend, {"*"}), every=0.2)
        await publish_worker_report(backend, slots=4)
        await eventually(partial(_all_open, backend, {"*"}), every=0.2)


async def test_next_leader_opens_intake_closed_by_previous_leader(
    backend: Backend, start: StartScheduler
) -> None:
    async with start("first", max_pending_per_store=2):
        for _ in range(2):
            await backend.submit(make_request(store="full"))
        await eventually(partial(_closed_states, backend, {"full"}), every=0.2)
    # While no scheduler leads.
    await backend.database.execute("UPDATE blog_generations SET status = 'CANCELLED'")
    async with start("second", max_pending_per_store=2):
        await eventually(partial(_all_open, backend, {"full"}), every=0.2)


async def _closed_stores_reported(backend: Backend, count: int) -> bool:
    reports = [
        report
        for _, report in await backend.read_records(WORKERS)
        if isinstance(report, SchedulerReport)
    ]
    return any(report.closed_stores == count for report in reports)

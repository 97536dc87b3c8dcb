"""Monthly budgets: dispatched and held jobs, admission states, warnings and failovers."""

from functools import partial

import pytest

from shared.domain.messages import AdmissionState, BlogRequested, SchedulerReport
from shared.kafka.topics import CONTROL, WORKERS
from tests.support.backend import Backend, LogCapture, make_request
from tests.support.eventually import eventually
from tests.support.scheduler import (
    StartScheduler,
    finish_job,
    has_job_count,
    is_settled,
    publish_worker_report,
    read_tasks,
    read_tasks_at_least,
    start_scheduler,
)

JOB = 5_000_000
"""The cost that the scheduler reserves for the first jobs of a store, in nano-USD."""


@pytest.fixture
def start(backend: Backend, database: str) -> StartScheduler:
    return partial(
        start_scheduler, backend, database, worker_silence_s=3600, forward_timeout_s=3600
    )


async def set_budget(backend: Backend, monthly: int, store: str = "shop") -> None:
    await backend.database.execute(
        "INSERT INTO store_budgets (instance_id, monthly_nanousd, set_by) VALUES ($1, $2, 'test')"
        " ON CONFLICT (instance_id) DO UPDATE SET monthly_nanousd = $2, changed_at = now()",
        store,
        monthly,
    )


async def pay(backend: Backend, request: BlogRequested, cost: int) -> None:
    """Record a paid step as a worker does; a trigger adds it to the store's spend."""
    await backend.database.execute(
        "INSERT INTO blog_steps (job_id, step, state, attempt, finished_at, cost_nanousd)"
        " VALUES ($1, 'outline', 'DONE', 1, now(), $2)",
        request.id,
        cost,
    )


async def finish_and_settle(backend: Backend, request: BlogRequested, cost: int) -> None:
    await pay(backend, request, cost)
    await finish_job(backend, request, cost)
    await eventually(partial(is_settled, backend, request.id))


async def closed_state(backend: Backend, store: str = "shop") -> AdmissionState | None:
    state = dict(await backend.read_records(CONTROL)).get(store)
    return state if isinstance(state, AdmissionState) else None


async def is_open(backend: Backend, store: str = "shop") -> bool:
    return await closed_state(backend, store) is None


async def has_held_jobs(backend: Backend, jobs: int) -> bool:
    row = await backend.database.fetchrow(
        "SELECT reason, queued, held FROM store_outlooks WHERE instance_id = 'shop'"
    )
    return row is not None and tuple(row) == ("budget", 0, jobs)


async def submit(backend: Backend, jobs: int, store: str = "shop") -> list[BlogRequested]:
    requests = [make_request(store=store) for _ in range(jobs)]
    for request in requests:
        await backend.submit(request)
    return requests


async def test_budget_limits_one_store_and_no_other(
    backend: Backend, start: StartScheduler, capsys: pytest.CaptureFixture[str]
) -> None:
    log = LogCapture(capsys)
    await set_budget(backend, 2 * JOB)
    async with start():
        await publish_worker_report(backend, slots=50)
        own = await submit(backend, 4)
        await submit(backend, 4, store="neighbour")
        await eventually(partial(has_held_jobs, backend, 2))
        found = await eventually(partial(read_tasks_at_least, backend, 6), every=0.2)
        assert sorted(task.store for task in found or []) == ["neighbour"] * 4 + ["shop"] * 2
        state = await eventually(partial(closed_state, backend), every=0.2)
        assert state is not None
        assert (state.reason, state.resets_at is not None) == ("budget-exceeded", True)
        assert await is_open(backend, "neighbour")
        await eventually(partial(_reported_counts, backend, warned=0, stopped=1), every=0.2)

        in_flight = {task.job for task in found or []}
        first, second = [request for request in own if request.id in in_flight]
        # Half of the reservation: each later job reserves this mean cost.
        await finish_and_settle(backend, first, JOB // 2)
        await finish_and_settle(backend, second, JOB // 2)
        assert (
            len(await eventually(partial(read_tasks_at_least, backend, 8), every=0.2) or []) == 8
        ), "the budget has room for two more"
        await eventually(partial(log.has, "store budget exhausted"))
        assert log.count("store budget exhausted") == 1
        assert log.count("store budget low") == 0


async def test_new_budget_applies_before_the_next_sweep(
    backend: Backend, start: StartScheduler
) -> None:
    async with start(sweep_every_s=3600):
        # The first report follows the first sweep.
        await eventually(partial(_reported_counts, backend, warned=0, stopped=0), every=0.2)
        await set_budget(backend, 0)
        await eventually(partial(closed_state, backend), every=0.2)
        await set_budget(backend, JOB)
        await eventually(partial(is_open, backend), every=0.2)
        await publish_worker_report(backend, slots=50)
        await submit(backend, 3)
        await eventually(partial(has_held_jobs, backend, 2))
        await backend.database.execute("DELETE FROM store_budgets")
        assert len(await eventually(partial(read_tasks_at_least, backend, 3), every=0.2) or []) == 3


async def _reported_counts(backend: Backend, *, warned: int, stopped: int) -> bool:
    reports = [
        report
        for _, report in await backend.read_records(WORKERS)
        if isinstance(report, SchedulerReport)
    ]
    return any(
        (report.stores_warned, report.stores_stopped) == (warned, stopped) for report in reports
    )


async def _reported_budget(backend: Backend, budget: str) -> bool:
    """Return whether a report shows the store with this budget state."""
    reports = [
        report
        for _, report in await backend.read_records(WORKERS)
        if isinstance(report, SchedulerReport)
    ]
    return any(
        (store.store, store.budget) == ("shop", budget)
        for report in reports
        for store in report.stores
    )


async def test_store_is_warned_once(
    backend: Backend, start: StartScheduler, capsys: pytest.CaptureFixture[str]
) -> None:
    log = LogCapture(capsys)
    await set_budget(backend, 10 * JOB)
    async with start():
        await publish_worker_report(backend, slots=50)
        (request,) = await submit(backend, 1)
        await eventually(partial(read_tasks_at_least, backend, 1), every=0.2)
        await pay(backend, request, 8 * JOB)
        await eventually(partial(log.has, "store budget low"))
        await eventually(partial(_reported_counts, backend, warned=1, stopped=0), every=0.2)
        assert await is_open(backend), (
            "a warned store stays open: the payment is part of the reservation"
        )
    async with start("another"):
        await eventually(partial(log.has, "fair queue restored"))
        await eventually(partial(_reported_counts, backend, warned=1, stopped=0), every=0.2)
    assert log.count("store budget low") == 1


async def test_raised_budget_releases_held_jobs_and_opens_intake(
    backend: Backend, start: StartScheduler
) -> None:
    await set_budget(backend, 0)
    async with start():
        # The report shows the store even without work.
        await eventually(partial(_reported_budget, backend, "stopped"), every=0.2)
        await publish_worker_report(backend, slots=50)
        await submit(backend, 3)
        await eventually(partial(has_held_jobs, backend, 3))
        await eventually(partial(closed_state, backend), every=0.2)
        await set_budget(backend, 10 * JOB)
        await eventually(partial(read_tasks_at_least, backend, 3), every=0.2)
        await eventually(partial(is_open, backend), every=0.2)


async def test_new_month_releases_held_jobs(backend: Backend, start: StartScheduler) -> None:
    await set_budget(backend, JOB)
    async with start():
        await publish_worker_report(backend, slots=50)
        first, *_ = await submit(backend, 3)
        await eventually(partial(read_tasks_at_least, backend, 1), every=0.2)
        await finish_and_settle(backend, first, JOB)
        await eventually(partial(has_held_jobs, backend, 2))
        # The spend of the last month.
        await backend.database.execute("UPDATE store_spend SET month = month - interval '1 month'")
        assert len(await eventually(partial(read_tasks_at_least, backend, 2), every=0.2) or []) == 2


async def test_removed_budget_releases_held_jobs(backend: Backend, start: StartScheduler) -> None:
    await set_budget(backend, 0)
    async with start():
        await publish_worker_report(backend, slots=50)
        await submit(backend, 3)
        await eventually(partial(has_held_jobs, backend, 3))
        await backend.database.execute("DELETE FROM store_budgets")
        await eventually(partial(read_tasks_at_least, backend, 3), every=0.2)
        await eventually(partial(is_open, backend), every=0.2)


async def test_budget_survives_a_failover(backend: Backend, start: StartScheduler) -> None:
    await set_budget(backend, 4 * JOB)
    async with start("first"):
        await publish_worker_report(backend, slots=50)
        done, running, *_ = await submit(backend, 2)
        await eventually(partial(read_tasks_at_least, backend, 2), every=0.2)
        await finish_and_settle(backend, done, 2 * JOB)
    # Paid while no scheduler leads; part of the job's reservation.
    await pay(backend, running, JOB // 2)
    requests = await submit(backend, 3)
    async with start("second"):
        await eventually(partial(has_job_count, backend, 5))
        await eventually(partial(closed_state, backend), every=0.2)
        # Two jobs' worth is spent and one reserved. At twice the first estimate no job fits.
        await eventually(partial(has_held_jobs, backend, 3))
        assert len(await read_tasks(backend)) == 2
        await set_budget(backend, 5 * JOB)
        found = await eventually(partial(read_tasks_at_least, backend, 3), every=0.2)
        assert found is not None
        assert found[-1].job in {request.id for request in requests}
        await eventually(partial(has_held_jobs, backend, 2))

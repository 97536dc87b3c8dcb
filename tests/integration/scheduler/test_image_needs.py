"""While images are unavailable, only jobs that need one wait: PostgreSQL tells which ones do."""

from datetime import UTC, datetime

from shared.domain.job import Status
from shared.domain.messages import (
    BlogRequested,
    EventKind,
    JobEvent,
    LimiterReport,
    Need,
    WorkerReport,
)
from shared.kafka.topics import RESULTS, WORKERS
from tests.support.backend import Backend, make_request
from tests.support.eventually import eventually
from tests.support.scheduler import read_tasks, start_scheduler


async def publish_report(backend: Backend, *, images_open: bool) -> None:
    """Publish the report of a worker whose circuit for images is open, or not."""
    now, partitions = datetime.now(UTC), tuple(range(24))
    limiters = tuple(
        LimiterReport(
            provider=need.value,
            model="m",
            resource="requests",
            limit=60,
            share=60,
            level=0,
            used=0,
            serves=need,
            partitions=partitions,
            circuit_open=images_open and need is Need.IMAGES,
        )
        for need in Need
    )
    report = WorkerReport(
        worker="w",
        at=now,
        started_at=now,
        partitions=partitions,
        slots=50,
        running=0,
        limiters=limiters,
    )
    await backend.publish(WORKERS, "w", report)


async def insert_waiting(backend: Backend, request: BlogRequested, *, attempt: int = 1) -> None:
    await backend.database.execute(
        "INSERT INTO blog_generations (id, instance_id, source_type, source_id, request, attempt,"
        " created_at) VALUES ($1, $2, $3, $4, $5, $6, $7)",
        request.id,
        request.store,
        request.source_type,
        request.source_id,
        request,
        attempt,
        request.created_at,
    )


async def save_image_step(
    backend: Backend, request: BlogRequested, state: str, external_id: str | None = None
) -> None:
    await backend.database.execute(
        "INSERT INTO blog_steps (job_id, step, state, attempt, external_id)"
        " VALUES ($1, 'image', $2, 1, $3)"
        " ON CONFLICT (job_id, step) DO UPDATE SET state = $2, external_id = $3",
        request.id,
        state,
        external_id,
    )


async def test_only_jobs_that_need_an_image_wait_for_the_image_provider(
    backend: Backend, database: str
) -> None:
    saved, created, failed, unpaid, new = (make_request() for _ in range(5))
    without, running = make_request(images=0), make_request()
    for request in (saved, created, failed, unpaid, without, running):
        await insert_waiting(backend, request)
    await insert_waiting(backend, new, attempt=0)
    await save_image_step(backend, saved, "DONE", "p1")
    await save_image_step(backend, created, "STARTED", "p2")
    await save_image_step(backend, failed, "FAILED", "p3")
    await save_image_step(backend, unpaid, "STARTED")
    await backend.database.execute(
        "UPDATE blog_generations SET status = 'PROCESSING', worker = 'w', forwarded_partition = 0,"
        " forwarded_at = now(), lease_until = now() + interval '1 hour' WHERE id = $1",
        running.id,
    )
    dispatched: set[object] = set()

    async def is_dispatched(*requests: BlogRequested) -> bool:
        dispatched.update(task.job for task in await read_tasks(backend))
        return dispatched >= {request.id for request in requests}

    async with start_scheduler(backend, database):
        await publish_report(backend, images_open=True)
        await eventually(lambda: is_dispatched(saved, created, without))
        await save_image_step(backend, running, "DONE", "p4")
        await backend.database.execute(
            "UPDATE blog_generations SET status = 'PENDING', forwarded_at = NULL WHERE id = $1",
            running.id,
        )
        await backend.publish(RESULTS, running.store, _retry_event(running))
        await eventually(lambda: is_dispatched(running))
        waiting = {new.id, unpaid.id, failed.id}
        assert dispatched.isdisjoint(waiting)
        await publish_report(backend, images_open=False)
        await eventually(lambda: is_dispatched(new, unpaid, failed))


def _retry_event(request: BlogRequested) -> JobEvent:
    """Build the event of a job that waits again."""
    return JobEvent(
        job=request.id,
        store=request.store,
        kind=EventKind.RETRY,
        status=Status.PENDING,
        attempt=1,
        at=datetime.now(UTC),
        created_at=request.created_at,
    )

"""Workers join and leave every few seconds under load. Nothing is lost, and nothing is paid twice.

Replicate's stand-in starts with a nearly empty bucket and sends no headers, so a quota that grew by
moving would cause a 429 at once. Partitions that move bring the tasks of running jobs to other
workers, which refuse and count them.
"""

import asyncio
from collections import Counter
from collections.abc import Iterator
from contextlib import AsyncExitStack
from pathlib import Path

import httpx
import pytest

from shared.domain.messages import BlogRequested, EventKind, JobEvent, WorkerReport
from shared.kafka.publisher import OutgoingMessage
from shared.kafka.topics import REQUESTS, RESULTS, WORKERS
from tests.support.backend import Backend, make_request
from tests.support.eventually import eventually
from tests.support.fake_providers import StandIns, start_fake_providers
from tests.support.processes import StartWorker, WorkerProcess, start_workers
from tests.support.scheduler import start_scheduler

JOBS = 120
DURATION_S, EVERY_S = 25.0, 2.5
_LIMITS = {"OPENAI_RPM": "400", "OPENAI_TPM": "1200000", "REPLICATE_RPM": "180"}
_IMAGES_LEFT = 12
"""Requests in the account's bucket at the start: the burst, and one more call of each worker."""
_PREDICTION = {"version": "black-forest-labs/flux-schnell", "input": {"prompt": "a tent"}}
_WORKER = _LIMITS | {"CONCURRENT_BLOGS": "8", "DRAIN_S": "40", "CLOCK_SKEW_S": "0.1"}


@pytest.fixture
def narrow_standins() -> Iterator[StandIns]:
    latency = {"STANDIN_OPENAI_LATENCY_MS": "150", "STANDIN_REPLICATE_LATENCY_MS": "150"}
    with start_fake_providers(**_LIMITS, **latency) as both:
        with httpx.Client(
            base_url=both.replicate.url, headers={"authorization": "Bearer another application"}
        ) as http:
            for _ in range(int(_LIMITS["REPLICATE_RPM"]) - _IMAGES_LEFT):
                http.post("/v1/predictions", json=_PREDICTION).raise_for_status()
        yield both


async def test_rebalances_lose_no_job_and_pay_no_step_twice(
    backend: Backend, database: str, narrow_standins: StandIns, tmp_path: Path
) -> None:
    requests = [make_request(store=f"s{number % 12}", images=number % 2) for number in range(JOBS)]
    async with AsyncExitStack() as services:
        await services.enter_async_context(start_scheduler(backend, database))
        hire = await services.enter_async_context(
            start_workers(backend, database, narrow_standins, tmp_path)
        )
        await backend.publisher.publish_all(
            [
                OutgoingMessage(topic=REQUESTS, key=request.store, message=request)
                for request in requests
            ]
        )
        workers, exits = await _rebalance_often(hire)
        await eventually(
            lambda: _all_done(backend), timeout=45, every=0.2, what="the end of all jobs"
        )
        exits.append(await workers[-1].stop())

    events = [
        event for _, event in await backend.read_records(RESULTS) if isinstance(event, JobEvent)
    ]
    _assert_each_job_ended_once(requests, events)
    _assert_each_step_paid_once(requests, narrow_standins)
    assert await backend.database.fetchval("SELECT sum(in_doubt) FROM blog_steps") == 0
    assert (narrow_standins.openai.rejected(), narrow_standins.replicate.rejected()) == (0, 0)
    assert await _calls_waited_for_limits(backend)
    assert set(exits) == {0}

    stale_tasks = sum(worker.logged("[Blog Worker] Heartbeat")[-1]["refused"] for worker in workers)
    ended = [event for event in events if event.kind is EventKind.ENDED]
    print(
        f"{len(workers)} workers; {stale_tasks} stale tasks,"
        f" {len(ended) - JOBS} outcomes published again"
    )
    assert stale_tasks >= len(ended) - JOBS > 0


async def _rebalance_often(hire: StartWorker) -> tuple[list[WorkerProcess], list[int]]:
    """Let workers join and the oldest leave in turns. Returns all workers and the exit codes."""
    workers, leaving = [await hire(**_WORKER), await hire(**_WORKER)], list[asyncio.Task[int]]()
    for _ in range(round(DURATION_S / EVERY_S / 2)):
        await asyncio.sleep(EVERY_S)
        workers.append(await hire(**_WORKER))
        await asyncio.sleep(EVERY_S)
        leaving.append(asyncio.create_task(workers[len(leaving)].stop()))
    leaving += [asyncio.create_task(worker.stop()) for worker in workers[len(leaving) : -1]]
    return workers, await asyncio.gather(*leaving)


def _assert_each_job_ended_once(requests: list[BlogRequested], events: list[JobEvent]) -> None:
    ended = {event.event_id(): event for event in events if event.kind is EventKind.ENDED}
    assert Counter(event.job for event in ended.values()) == Counter(
        request.id for request in requests
    )
    assert {event.status for event in ended.values()} == {"DONE"}


def _assert_each_step_paid_once(requests: list[BlogRequested], standins: StandIns) -> None:
    texts, images = standins.openai.bills(), standins.replicate.bills()
    for request in requests:
        job = str(request.id)
        assert texts[job]["steps"] == {"outline": 1, "article": 1}
        assert images.get(job, {"steps": {}})["steps"] == ({"image": 1} if request.images else {})


async def _calls_waited_for_limits(backend: Backend) -> bool:
    """Return whether calls waited for permits of both providers."""
    reports = [
        message
        for _, message in await backend.read_records(WORKERS)
        if isinstance(message, WorkerReport)
    ]
    queued = {state.provider for report in reports for state in report.limiters if state.queued}
    return queued == {"openai", "replicate"}


async def _all_done(backend: Backend) -> bool:
    return bool(
        await backend.database.fetchval(
            "SELECT count(*) = $1 FROM blog_generations WHERE status = 'DONE'", JOBS
        )
    )

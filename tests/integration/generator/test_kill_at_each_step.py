"""A worker dies at every boundary of a job's calls, and another worker finishes the job.

Nothing is lost and nothing is paid twice. Each wave is a consumer group with one worker and one job
for each boundary. All workers of a wave get their signals at the same time, so that Kafka's session
timeout passes once a wave. Then a real scheduler and a healthy worker take over.
"""

import asyncio
import multiprocessing
import signal
from collections import Counter
from collections.abc import Callable
from contextlib import AsyncExitStack, suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest

from services.generator import service
from shared.domain.messages import BlogRequested, EventKind, JobEvent, WorkerReport
from shared.kafka.topics import GENERATION, RESULTS, WORKERS
from tests.support import crashing_worker
from tests.support.backend import Backend, make_request, open_backend, running_service
from tests.support.eventually import eventually
from tests.support.fake_providers import StandIns
from tests.support.generator import worker_settings
from tests.support.scheduler import start_scheduler
from tests.support.servers import temporary_database

pytestmark = pytest.mark.timeout(600)  # the first test of each signal waits for two waves

_LEASE_S = 3
_STEPS = ("outline", "article", "image")
_TEXT_CALLS = ("begin_step:{0}", "write_text:{0}", "finish_step:{0}", "publish:step-done:{0}")
_IMAGE_CALLS = (
    "begin_step:image",
    "create_prediction:image",
    "save_external_id:image",
    "fetch_image:image",
    "save_image:image",
    "finish_step:image",
    "publish:step-done:image",
)
CALLS = (
    "claim_job",
    "publish:started",
    *(call.format(step) for step in ("outline", "article") for call in _TEXT_CALLS),
    *_IMAGE_CALLS,
    "complete_job",
    "publish:ended",
    "commit",
)
"""The calls that a worker makes for a job, in order."""


def _moments(call: str) -> tuple[str, ...]:
    is_paid = call.startswith(("write_text", "create_prediction"))
    return ("before", "during", "after") if is_paid else ("before", "after")


BOUNDARIES = tuple(f"{when} {call}" for call in CALLS for when in _moments(call))
WAVES = (BOUNDARIES[::2], BOUNDARIES[1::2])

IN_DOUBT = {
    boundary.format(step, paid, saving): (step, calls)
    for step, paid, saving in (
        ("outline", "write_text", "finish_step"),
        ("article", "write_text", "finish_step"),
        ("image", "create_prediction", "save_external_id"),
    )
    for boundary, calls in {
        "after begin_step:{0}": {1},
        "before {1}:{0}": {1},
        "during {1}:{0}": {1, 2},
        "after {1}:{0}": {2},
        "before {2}:{0}": {2},
    }.items()
}
"""The boundaries with an in-doubt call: its step, and the possible numbers of calls."""


@dataclass(slots=True, eq=False)
class CrashingWorker:
    """A worker that dies at its boundary, which is also its name."""

    boundary: str
    process: ForkServerProcess
    pipe: Connection
    output: Path
    arrived: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class JobAfterCrash:
    """The end of one job, and of the worker that died during it."""

    arrived: bool
    exit_code: int | None
    row: dict[str, Any]
    posts: int
    outcomes: int
    """Different outcomes, by event id."""
    calls: dict[str, int]
    """The calls that the providers have billed, by step."""
    billed_tokens: int
    in_doubt: dict[str, int]
    output: str


Results = dict[str, JobAfterCrash]
"""By boundary."""
RunWaves = Callable[[signal.Signals], Results]


@pytest.fixture(scope="module")
def run_waves(
    kafka: str,
    postgres: str,
    template_database: str,
    standins: StandIns,
    tmp_path_factory: pytest.TempPathFactory,
) -> RunWaves:
    """Return a function that sends a signal at every boundary and returns the results."""

    def run(number: signal.Signals) -> Results:
        results: Results = {}
        for index, boundaries in enumerate(WAVES):
            with temporary_database(postgres, template_database) as database:
                prefix = f"{number.name.lower()}-{index}."
                folder = tmp_path_factory.mktemp(number.name)
                wave = _Wave(kafka, prefix, database, standins, folder)
                results |= asyncio.run(wave.run_workers(boundaries, number))
        return results

    return run


@pytest.fixture(scope="module")
def killed(run_waves: RunWaves) -> Results:
    return run_waves(signal.SIGKILL)


@pytest.fixture(scope="module")
def terminated(run_waves: RunWaves) -> Results:
    return run_waves(signal.SIGTERM)


@pytest.mark.parametrize("boundary", BOUNDARIES)
def test_sigkill_repeats_at_most_the_call_in_progress(killed: Results, boundary: str) -> None:
    result = killed[boundary]
    _assert_ended_once(result, exit_code=-signal.SIGKILL)
    step, calls = IN_DOUBT.get(boundary, ("", {1}))
    repeated = {step: result.calls[step]} if step else {}
    assert result.in_doubt == {each: int(each == step) for each in _STEPS}
    assert result.calls == dict.fromkeys(_STEPS, 1) | repeated
    assert result.calls.get(step, 1) in calls


@pytest.mark.parametrize("boundary", BOUNDARIES)
def test_sigterm_repeats_no_call(terminated: Results, boundary: str) -> None:
    result = terminated[boundary]
    _assert_ended_once(result, exit_code=0)
    assert result.in_doubt == dict.fromkeys(_STEPS, 0)
    assert result.calls == dict.fromkeys(_STEPS, 1)


def test_no_paid_call_begins_after_the_drain(terminated: Results) -> None:
    late = {
        boundary
        for boundary, result in terminated.items()
        if crashing_worker.CALL_AFTER_DRAIN in result.output
    }
    assert late == set()


def _assert_ended_once(result: JobAfterCrash, *, exit_code: int) -> None:
    print(result.output)
    assert result.arrived, "the worker never reached its boundary"
    assert result.exit_code == exit_code
    assert (result.row["status"], result.posts, result.outcomes) == ("DONE", 1, 1)
    if set(result.calls.values()) == {1}:
        assert result.row["input_tokens"] + result.row["output_tokens"] == result.billed_tokens


class _Wave:
    """A consumer group with one crashing worker for each boundary, then a healthy one."""

    def __init__(
        self, bootstrap: str, prefix: str, database: str, standins: StandIns, folder: Path
    ) -> None:
        self._database = database
        self._standins = standins
        self._folder = folder
        self._settings = worker_settings(
            bootstrap=bootstrap,
            prefix=prefix,
            database=database,
            standins=standins,
            folder=folder,
            db_pool_max=3,
            lease_s=_LEASE_S,
        )

    async def run_workers(self, boundaries: tuple[str, ...], number: signal.Signals) -> Results:
        servers, prefix = self._settings.kafka_bootstrap_servers, self._settings.kafka_topic_prefix
        async with open_backend(servers, prefix, self._database) as backend:
            workers = [self._start_worker(boundary, number) for boundary in boundaries]
            try:
                jobs = await self._dispatch_jobs(backend, workers)
                await self._run_to_boundaries(workers)
            finally:
                for worker in workers:
                    worker.process.kill()  # if it is still alive
                    worker.process.join()
            await self._finish_jobs(backend, set(jobs.values()))
            events = [
                event
                for _, event in await backend.read_records(RESULTS)
                if isinstance(event, JobEvent)
            ]
            return {
                worker.boundary: await self._read_result(
                    backend, worker, jobs[worker.boundary], events
                )
                for worker in workers
            }

    def _start_worker(self, boundary: str, number: signal.Signals) -> CrashingWorker:
        context = multiprocessing.get_context("forkserver")
        # The fork server imports these modules once, and not each worker.
        context.set_forkserver_preload(["pytest", crashing_worker.__name__])
        pipe, worker_pipe = context.Pipe()
        output = self._folder / f"{boundary}.log"
        process = context.Process(
            target=crashing_worker.run_crashing_worker,
            args=(boundary, number, self._settings, boundary, worker_pipe, output),
            daemon=True,
        )
        process.start()
        worker_pipe.close()
        return CrashingWorker(boundary, process, pipe, output)

    async def _dispatch_jobs(
        self, backend: Backend, workers: list[CrashingWorker]
    ) -> dict[str, UUID]:
        """Dispatch a job to a partition of each worker. Returns the jobs by boundary."""
        owned = await eventually(
            lambda: _read_partitions(backend, len(workers)),
            every=0.5,
            timeout=90,
            what="partitions for each worker",
        )
        requests = {
            boundary: _make_request_in(partitions[0]) for boundary, partitions in owned.items()
        }
        for request in requests.values():
            await backend.insert_dispatched(request)
        return {boundary: request.id for boundary, request in requests.items()}

    async def _run_to_boundaries(self, workers: list[CrashingWorker]) -> None:
        def have_ended() -> bool:
            return all(worker.process.exitcode is not None for worker in workers if worker.arrived)

        with suppress(AssertionError):  # a worker that does not arrive fails its own test
            await eventually(lambda: all(worker.pipe.poll() for worker in workers), timeout=45)
        for worker in workers:
            worker.arrived = worker.pipe.poll() and worker.process.exitcode is None
            if worker.arrived:
                worker.pipe.send("now")
        await eventually(have_ended, timeout=60, what="the end of all workers")

    async def _finish_jobs(self, backend: Backend, jobs: set[UUID]) -> None:
        """Run the jobs to their end with a scheduler and a healthy worker.

        A job that does not end fails its own test.
        """
        async with AsyncExitStack() as services:
            await services.enter_async_context(
                start_scheduler(backend, self._database, worker_silence_s=3, lease_s=_LEASE_S)
            )
            await services.enter_async_context(
                running_service(
                    lambda stop: service.run_worker(self._settings, stop, name="healthy")
                )
            )
            with suppress(AssertionError):
                await eventually(lambda: _all_done(backend, len(jobs)), timeout=60)
                await eventually(lambda: _all_published(backend, jobs), timeout=20, every=0.5)

    async def _read_result(
        self, backend: Backend, worker: CrashingWorker, job: UUID, events: list[JobEvent]
    ) -> JobAfterCrash:
        texts, images = self._standins.openai.bill(job), self._standins.replicate.bill(job)
        posts = await backend.database.fetchval(
            "SELECT count(*) FROM blog_posts WHERE job_id = $1", job
        )
        steps = await backend.database.fetch(
            "SELECT step, in_doubt FROM blog_steps WHERE job_id = $1", job
        )
        outcomes = {
            event.event_id()
            for event in events
            if event.job == job and event.kind is EventKind.ENDED
        }
        return JobAfterCrash(
            arrived=worker.arrived,
            exit_code=worker.process.exitcode,
            row=dict(await backend.row(job)),
            posts=posts,
            outcomes=len(outcomes),
            calls=texts["steps"] | images["steps"],
            billed_tokens=texts["tokens"],
            in_doubt={row["step"]: row["in_doubt"] for row in steps if row["step"] in _STEPS},
            output=worker.output.read_text(),
        )


async def _read_partitions(backend: Backend, workers: int) -> dict[str, tuple[int, ...]]:
    """Return the partitions by worker once they are split without overlap, else nothing."""
    reports = [
        message
        for _, message in await backend.read_records(WORKERS)
        if isinstance(message, WorkerReport)
    ]
    owned = {report.worker: report.partitions for report in reports}
    owners = Counter(partition for partitions in owned.values() for partition in partitions)
    is_split = (
        len(owned) == workers
        and all(owned.values())
        and owners == Counter(range(GENERATION.partitions))
    )
    return owned if is_split else {}


def _make_request_in(partition: int) -> BlogRequested:
    return next(
        request
        for request in iter(make_request, None)
        if request.id.int % GENERATION.partitions == partition
    )


async def _all_done(backend: Backend, jobs: int) -> bool:
    done = await backend.database.fetchval(
        "SELECT count(*) FROM blog_generations WHERE status = 'DONE'"
    )
    return bool(done == jobs)


async def _all_published(backend: Backend, jobs: set[UUID]) -> bool:
    events = [
        event for _, event in await backend.read_records(RESULTS) if isinstance(event, JobEvent)
    ]
    return jobs <= {event.job for event in events if event.kind is EventKind.ENDED}

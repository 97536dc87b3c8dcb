"""A worker dies at every boundary of a job's steps; another finishes the job. Nothing is lost, nothing is paid twice.

A wave of workers, one for each boundary, is led to its boundaries in one consumer group, a job a worker, and gets its
signals in one go: Kafka's session timeout is paid once a wave. Then a real scheduler and a healthy worker take over.
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
_TEXT = ("begin_step:{0}", "write:{0}", "finish_step:{0}", "publish:step-done:{0}")
_IMAGE = (
    "begin_step:image",
    "create:image",
    "name_call:image",
    "finish:image",
    "put:image",
    "finish_step:image",
    "publish:step-done:image",
)
PLACES = (
    "claim",
    "publish:started",
    *(place.format(step) for step in ("outline", "article") for place in _TEXT),
    *_IMAGE,
    "complete",
    "publish:ended",
    "commit",
)
"""What a worker does for a job, in order."""


def _whens(place: str) -> tuple[str, ...]:
    return (
        ("before", "amid", "after")
        if place.startswith(("write", "create"))
        else ("before", "after")
    )


BOUNDARIES = tuple(f"{when} {place}" for place in PLACES for when in _whens(place))
WAVES = (BOUNDARIES[::2], BOUNDARIES[1::2])

IN_DOUBT = {
    boundary.format(step, call, named): (step, calls)
    for step, call, named in (
        ("outline", "write", "finish_step"),
        ("article", "write", "finish_step"),
        ("image", "create", "name_call"),
    )
    for boundary, calls in {
        "after begin_step:{0}": {1},
        "before {1}:{0}": {1},
        "amid {1}:{0}": {1, 2},
        "after {1}:{0}": {2},
        "before {2}:{0}": {2},
    }.items()
}
"""The boundaries at which nobody can know whether a call was paid for: its step, and the calls there may have been."""


@dataclass(slots=True, eq=False)
class Doomed:
    """A worker that is to die at its boundary, which is its name, too."""

    boundary: str
    process: ForkServerProcess
    wire: Connection
    output: Path
    arrived: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Left:
    """What is found of a job in the end."""

    arrived: bool
    exit_code: int | None
    row: dict[str, Any]
    posts: int
    endings: int
    """Different ones, by event id."""
    calls: dict[str, int]
    """What the providers have billed, by step."""
    billed_tokens: int
    in_doubt: dict[str, int]
    output: str


Walk = Callable[[signal.Signals], dict[str, Left]]


@pytest.fixture(scope="module")
def walk(
    kafka: str,
    postgres: str,
    template_database: str,
    standins: StandIns,
    tmp_path_factory: pytest.TempPathFactory,
) -> Walk:
    """A function that sends the signal at every boundary: what it left of each one's job."""

    def walked(number: signal.Signals) -> dict[str, Left]:
        found: dict[str, Left] = {}
        for index, wave in enumerate(WAVES):
            with temporary_database(postgres, template_database) as database:
                prefix, folder = (
                    f"{number.name.lower()}-{index}.",
                    tmp_path_factory.mktemp(number.name),
                )
                found |= asyncio.run(
                    _Wave(kafka, prefix, database, standins, folder).run(wave, number)
                )
        return found

    return walked


@pytest.fixture(scope="module")
def killed(walk: Walk) -> dict[str, Left]:
    return walk(signal.SIGKILL)


@pytest.fixture(scope="module")
def terminated(walk: Walk) -> dict[str, Left]:
    return walk(signal.SIGTERM)


@pytest.mark.parametrize("boundary", BOUNDARIES)
def test_kill_9_repeats_at_most_the_call_in_flight(killed: dict[str, Left], boundary: str) -> None:
    left = killed[boundary]
    _came_to_one_end(left, exit_code=-signal.SIGKILL)
    step, calls = IN_DOUBT.get(boundary, ("", {1}))
    assert left.in_doubt == {each: int(each == step) for each in _STEPS}
    assert left.calls == dict.fromkeys(_STEPS, 1) | ({step: left.calls[step]} if step else {})
    assert left.calls.get(step, 1) in calls


@pytest.mark.parametrize("boundary", BOUNDARIES)
def test_sigterm_repeats_nothing(terminated: dict[str, Left], boundary: str) -> None:
    left = terminated[boundary]
    _came_to_one_end(left, exit_code=0)
    assert left.in_doubt == dict.fromkeys(_STEPS, 0)
    assert left.calls == dict.fromkeys(_STEPS, 1)


def test_nothing_is_paid_for_after_the_drain(terminated: dict[str, Left]) -> None:
    late = {
        boundary for boundary, left in terminated.items() if crashing_worker.LATE in left.output
    }
    assert late == set()


def _came_to_one_end(left: Left, *, exit_code: int) -> None:
    print(left.output)
    assert left.arrived, "the worker never came to its boundary"
    assert left.exit_code == exit_code
    assert (left.row["status"], left.posts, left.endings) == ("DONE", 1, 1)
    if set(left.calls.values()) == {1}:
        assert left.row["input_tokens"] + left.row["output_tokens"] == left.billed_tokens


class _Wave:
    """One consumer group, in which a worker for each boundary dies and a healthy one finishes."""

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

    async def run(self, boundaries: tuple[str, ...], number: signal.Signals) -> dict[str, Left]:
        servers, prefix = self._settings.kafka_bootstrap_servers, self._settings.kafka_topic_prefix
        async with open_backend(servers, prefix, self._database) as backend:
            doomed = [self._start(boundary, number) for boundary in boundaries]
            try:
                jobs = await self._hand_out_jobs(backend, doomed)
                await self._lead_to_their_boundaries(doomed)
            finally:
                for each in doomed:
                    each.process.kill()  # those that are still there
                    each.process.join()
            await self._finish(backend, set(jobs.values()))
            told = [
                event
                for _, event in await backend.read_records(RESULTS)
                if isinstance(event, JobEvent)
            ]
            return {
                each.boundary: await self._found(backend, each, jobs[each.boundary], told)
                for each in doomed
            }

    def _start(self, boundary: str, number: signal.Signals) -> Doomed:
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(
            ["pytest", crashing_worker.__name__]
        )  # imported once, not once a worker
        ours, theirs = context.Pipe()
        output = self._folder / f"{boundary}.log"
        process = context.Process(
            target=crashing_worker.run,
            args=(boundary, number, self._settings, boundary, theirs, output),
            daemon=True,
        )
        process.start()
        theirs.close()
        return Doomed(boundary, process, ours, output)

    async def _hand_out_jobs(self, backend: Backend, doomed: list[Doomed]) -> dict[str, UUID]:
        """A job for each worker, in a partition that is its own: the jobs by boundary."""
        owned = await eventually(
            lambda: _owned(backend, len(doomed)), every=0.5, timeout=90, what="a share for each"
        )
        requests = {worker: _in_partition(partitions[0]) for worker, partitions in owned.items()}
        for request in requests.values():
            await backend.insert_dispatched(request)
        return {worker: request.id for worker, request in requests.items()}

    async def _lead_to_their_boundaries(self, doomed: list[Doomed]) -> None:
        def ended() -> bool:
            return all(each.process.exitcode is not None for each in doomed if each.arrived)

        with suppress(AssertionError):  # one that does not arrive fails its own test
            await eventually(lambda: all(each.wire.poll() for each in doomed), timeout=45)
        for each in doomed:
            each.arrived = each.wire.poll() and each.process.exitcode is None
            if each.arrived:
                each.wire.send("now")
        await eventually(ended, timeout=60, what="the end of all workers")

    async def _finish(self, backend: Backend, jobs: set[UUID]) -> None:
        """Others take up what the dead have left. What is still missing then, the tests say."""
        async with AsyncExitStack() as services:
            await services.enter_async_context(
                start_scheduler(backend, self._database, worker_silence_s=3, lease_s=_LEASE_S)
            )
            await services.enter_async_context(
                running_service(lambda stop: service.run(self._settings, stop, name="healthy"))
            )
            with suppress(AssertionError):
                await eventually(lambda: _all_done(backend, len(jobs)), timeout=60)
                await eventually(lambda: _all_told(backend, jobs), timeout=20, every=0.5)

    async def _found(
        self, backend: Backend, doomed: Doomed, job: UUID, told: list[JobEvent]
    ) -> Left:
        texts, images = self._standins.openai.bill(job), self._standins.replicate.bill(job)
        posts = await backend.database.fetchval(
            "SELECT count(*) FROM blog_posts WHERE job_id = $1", job
        )
        steps = await backend.database.fetch(
            "SELECT step, in_doubt FROM blog_steps WHERE job_id = $1", job
        )
        return Left(
            arrived=doomed.arrived,
            exit_code=doomed.process.exitcode,
            row=dict(await backend.row(job)),
            posts=posts,
            endings=len(
                {
                    event.event_id()
                    for event in told
                    if event.job == job and event.kind is EventKind.ENDED
                }
            ),
            calls=texts["steps"] | images["steps"],
            billed_tokens=texts["tokens"],
            in_doubt={row["step"]: row["in_doubt"] for row in steps if row["step"] in _STEPS},
            output=doomed.output.read_text(),
        )


async def _owned(backend: Backend, workers: int) -> dict[str, tuple[int, ...]]:
    """The workers' partitions, once each has its share and there is no other's in it."""
    reports = [
        message
        for _, message in await backend.read_records(WORKERS)
        if isinstance(message, WorkerReport)
    ]
    owned = {report.worker: report.partitions for report in reports}
    shares = Counter(partition for partitions in owned.values() for partition in partitions)
    settled = (
        len(owned) == workers
        and all(owned.values())
        and shares == Counter(range(GENERATION.partitions))
    )
    return owned if settled else {}


def _in_partition(partition: int) -> BlogRequested:
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


async def _all_told(backend: Backend, jobs: set[UUID]) -> bool:
    told = [
        event for _, event in await backend.read_records(RESULTS) if isinstance(event, JobEvent)
    ]
    return jobs <= {event.job for event in told if event.kind is EventKind.ENDED}

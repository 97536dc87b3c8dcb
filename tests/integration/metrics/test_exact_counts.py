"""metrics on the real broker, through what may befall it: its numbers are exact, or it says what is missing."""

import asyncio
import random
import shutil
import sys
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any
from uuid import UUID

from sandbox.system.home import free_port
from services.metrics.counting import table_generation
from services.metrics.settings import MetricsSettings
from shared.domain.messages import EventKind
from shared.kafka.topics import RESULTS, WORKERS
from tests.support import prometheus_text
from tests.support.backend import Backend
from tests.support.eventually import eventually
from tests.support.metrics_service import Metrics, metrics, rebuild, tell, timeline_of, variables
from tests.support.metrics_events import NOW, shift_events, job_events, make_worker_report


async def test_counts_are_exact_after_kills_at_random_and_the_same_from_the_changelog_and_from_scratch(
    backend: Backend, tmp_path: Path
) -> None:
    chance, told = random.Random(5), 0
    for _ in range(3):
        async with metrics(backend, tmp_path / "tables") as running:
            for _ in range(chance.randint(2, 6)):
                await tell(backend, range(told, told + 60), stores=7)
                told += 60
                await asyncio.sleep(
                    chance.random() / 4
                )  # at any point of its work, not when it is done
            await running.kill()
    everything = {"DONE": told}
    async with metrics(backend, tmp_path / "tables") as running:
        await eventually(partial(running.has_counted, everything), timeout=90)
        await tell(backend, range(told), stores=7)  # all of it once more
        await tell(backend, range(told, told + 1), stores=7)
        everything["DONE"] += 1
        await eventually(partial(running.has_counted, everything))
        await eventually(partial(nothing_to_read, running))
        live = await running.numbers()
    for name in ("pending", "done"):
        assert list(live["minutes"][name].values()) == [told + 1], name
    assert live["usage"] == {
        "inputTokens": 10 * (told + 1),
        "outputTokens": 20 * (told + 1),
        "images": told + 1,
    }
    shutil.rmtree(tmp_path / "tables")
    async with metrics(backend, tmp_path / "tables") as recovered:
        assert await recovered.numbers() == live
        job = str(UUID(int=told))
        timeline = await eventually(partial(timeline_of, recovered, job))
        assert [event["kind"] for event in timeline["events"]] == [
            "queued",
            "admitted",
            "started",
            "step-done",
            "ended",
        ]
    assert await rebuild(backend, tmp_path / "tables") == 0
    async with metrics(backend, tmp_path / "tables") as rebuilt:
        await eventually(partial(rebuilt.has_counted, everything), timeout=90)
        await eventually(partial(nothing_to_read, rebuilt))
        assert await rebuilt.numbers() == live


async def nothing_to_read(running: Metrics) -> bool:
    return bool((await running.json("/api/overview"))["lag"].get("count") == 0)


async def test_two_processes_show_what_one_would_and_say_when_one_is_gone(
    backend: Backend, tmp_path: Path
) -> None:
    async with metrics(backend, tmp_path / "a") as one:
        await tell(backend, range(40), stores=20)
        await eventually(partial(one.has_counted, {"DONE": 40}))
        alone = await one.numbers()
        async with metrics(backend, tmp_path / "b") as other:
            for each in (one, other):
                await eventually(partial(shares, each), timeout=90)
                assert await each.numbers() == alone
            await tell(backend, range(40, 60), stores=20)
            for each in (one, other):
                await eventually(partial(each.has_counted, {"DONE": 60}))
                await eventually(partial(timeline_of, each, str(UUID(int=59))))
                jobs = (await each.json("/api/jobs?limit=100"))["items"]
                assert len({job["job"] for job in jobs}) == 60
                now = datetime.now(UTC)
                await backend.publish(WORKERS, "w1", make_worker_report("w1", at=now))
                await eventually(partial(hears_a_worker, each))
            stores = [(await each.json("/api/stores"))["total"] for each in (one, other)]
            assert stores == [20, 20]
            await other.kill()
            missing = (await eventually(partial(says_who_is_missing, one)))["metrics"]
            assert missing["missing"] == [other.url]
            assert missing["complete"] is False
            assert missing["uncountedPartitions"]
            await ends_never_fall(one, 60)
        await eventually(partial(one.has_counted, {"DONE": 60}), timeout=90)
        overview = await eventually(partial(is_alone, one), timeout=90)
        assert overview["metrics"]["uncountedPartitions"] == []


async def test_counts_are_exact_while_partitions_move_from_process_to_process(
    backend: Backend, tmp_path: Path
) -> None:
    told = 0

    async def go_on_telling() -> None:
        nonlocal told
        while True:
            await tell(backend, range(told, told + 20), stores=11)
            told += 20
            await asyncio.sleep(
                0.1
            )  # as fast as it is counted, so that something is always under way

    async with metrics(backend, tmp_path / "a") as one:
        telling = asyncio.create_task(go_on_telling())
        for name in ("b", "c"):
            async with metrics(backend, tmp_path / name) as other:
                await eventually(partial(shares, other), timeout=90)
        telling.cancel()
        await asyncio.gather(telling, return_exceptions=True)
        await tell(backend, range(told, told + 20), stores=11)  # what was being told, in whole
        await eventually(partial(done, one, told + 20), timeout=90)
        assert await one.has_counted({"DONE": told + 20})
    shutil.rmtree(tmp_path / "a")
    async with metrics(backend, tmp_path / "a") as recovered:
        assert await recovered.has_counted({"DONE": told + 20})


async def done(running: Metrics, jobs: int) -> bool:
    counted = (await running.json("/api/overview"))["jobs"]["DONE"]
    assert counted <= jobs, f"{counted} of {jobs}: some are counted twice"
    return bool(counted == jobs)


async def shares(running: Metrics) -> bool:
    state = (await running.json("/api/overview"))["metrics"]
    return bool(state["processes"] == 2 and state["complete"])


async def ends_never_fall(running: Metrics, jobs: int) -> None:
    """As a scrape sees them: until another process has taken the partitions over, they are not told."""
    gaps, seen = 0, None
    while seen is None:
        families = prometheus_text.read((await running.http.get("/metrics?format=prometheus")).text)
        ended = families.get("blogstream_jobs_ended")
        seen = ended.value("_total", state="DONE") if ended is not None else None
        gaps += ended is None
        await asyncio.sleep(0.05)  # as a scraper does
    assert gaps
    assert seen == jobs


async def hears_a_worker(running: Metrics) -> bool:
    return bool((await running.json("/api/workers"))["items"])


async def says_who_is_missing(running: Metrics) -> Any:
    overview = await running.json("/api/overview")
    return overview if overview["metrics"]["missing"] else None


async def is_alone(running: Metrics) -> Any:
    overview = await running.json("/api/overview")
    return (
        overview
        if overview["metrics"]["processes"] == 1 and overview["metrics"]["complete"]
        else None
    )


A_ROW = """
INSERT INTO blog_generations
    (id, instance_id, source_type, source_id, request, status, created_at, finished_at, cost_nanousd)
VALUES ($1, 'a', 'keyword', 'x', '{}', $2, $3, $3, $4)
"""


async def test_what_is_counted_is_compared_with_postgresql(
    backend: Backend, database: str, tmp_path: Path
) -> None:
    known = {"DATABASE_URL": database, "RECONCILE_EVERY_S": "0.5", "RECONCILE_SETTLE_S": "0.5"}
    now = datetime.now(UTC)
    events = [
        event for number in range(6) for event in shift_events(job_events(number), (now - NOW).total_seconds())
    ]
    for event in events:
        await backend.publish(RESULTS, event.store, event)
        if event.kind is EventKind.ENDED:
            await backend.database.execute(
                A_ROW, event.job, "DONE", event.created_at, event.usage.cost_nanousd
            )
    async with metrics(backend, tmp_path / "tables", **known) as running:
        await eventually(partial(running.has_counted, {"DONE": 6}))

        async def drifts(jobs: int, cost: int) -> bool:
            drift = (await running.json("/api/overview"))["drift"]
            return bool(drift and (drift["jobs"], round(drift["costUsd"] * 1e9)) == (jobs, cost))

        await eventually(partial(drifts, 0, 0))
        await backend.database.execute(A_ROW, UUID(int=99), "FAILED", now, 7)
        await eventually(partial(drifts, 1, 7))
        text = (await running.http.get("/metrics?format=prometheus")).text
        assert prometheus_text.read(text)["blogstream_metrics_drift_jobs"].value() == 1
        await backend.database.execute("DELETE FROM blog_generations WHERE status = 'FAILED'")
        await eventually(partial(drifts, 0, 0))


async def test_a_crash_of_the_stream_processor_ends_the_process(
    backend: Backend, tmp_path: Path
) -> None:
    settings = MetricsSettings(**backend.settings.model_dump(), metrics_dir=tmp_path / "tables")
    folder = await table_generation.prepare_folder(settings, 1)
    for number in range(RESULTS.partitions):  # stores that cannot be opened
        store = folder / "v1" / "tables" / f"shards-1-{number}.db"
        store.mkdir(parents=True)
        (store / "CURRENT").write_text("garbage")
    with (tmp_path / "output").open("wb") as output:
        environment = variables(backend, tmp_path / "tables") | {"METRICS_PORT": str(free_port())}
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "services.metrics", env=environment, stdout=output
        )
        try:
            assert await asyncio.wait_for(process.wait(), 60) == 3
        finally:
            if process.returncode is None:
                process.kill()
    assert "the stream processor crashed" in (tmp_path / "output").read_text()

"""metrics on the real broker: exact counts through kills and rebalances, or a shown gap."""

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
from tests.support.metrics_events import NOW, job_events, make_worker_report, shift_events
from tests.support.metrics_service import (
    MetricsProcess,
    get_timeline,
    process_variables,
    publish_job_events,
    run_rebuild,
    start_metrics,
)


async def test_counts_are_exact_after_kills_recovery_and_rebuild(
    backend: Backend, tmp_path: Path
) -> None:
    chance, published = random.Random(5), 0
    for _ in range(3):
        async with start_metrics(backend, tmp_path / "tables") as running:
            for _ in range(chance.randint(2, 6)):
                await publish_job_events(backend, range(published, published + 60), stores=7)
                published += 60
                await asyncio.sleep(chance.random() / 4)  # the kill may come at any point
            await running.kill()
    everything = {"DONE": published}
    async with start_metrics(backend, tmp_path / "tables") as running:
        await eventually(partial(running.has_counted, everything), timeout=90)
        await publish_job_events(backend, range(published), stores=7)  # repeats all events
        await publish_job_events(backend, range(published, published + 1), stores=7)
        everything["DONE"] += 1
        await eventually(partial(running.has_counted, everything))
        await eventually(partial(has_no_lag, running))
        live = await running.get_counts()
    for name in ("pending", "done"):
        assert list(live["minutes"][name].values()) == [published + 1], name
    assert live["usage"] == {
        "inputTokens": 10 * (published + 1),
        "outputTokens": 20 * (published + 1),
        "images": published + 1,
    }
    shutil.rmtree(tmp_path / "tables")
    async with start_metrics(backend, tmp_path / "tables") as recovered:
        assert await recovered.get_counts() == live
        job = str(UUID(int=published))
        timeline = await eventually(partial(get_timeline, recovered, job))
        assert [event["kind"] for event in timeline["events"]] == [
            "queued",
            "admitted",
            "started",
            "step-done",
            "ended",
        ]
    assert await run_rebuild(backend, tmp_path / "tables") == 0
    async with start_metrics(backend, tmp_path / "tables") as rebuilt:
        await eventually(partial(rebuilt.has_counted, everything), timeout=90)
        await eventually(partial(has_no_lag, rebuilt))
        assert await rebuilt.get_counts() == live


async def has_no_lag(running: MetricsProcess) -> bool:
    return bool((await running.get_json("/api/overview"))["lag"].get("count") == 0)


async def test_two_processes_show_the_whole_and_name_a_missing_one(
    backend: Backend, tmp_path: Path
) -> None:
    async with start_metrics(backend, tmp_path / "a") as one:
        await publish_job_events(backend, range(40), stores=20)
        await eventually(partial(one.has_counted, {"DONE": 40}))
        alone = await one.get_counts()
        async with start_metrics(backend, tmp_path / "b") as other:
            for each in (one, other):
                await eventually(partial(shows_two_processes, each), timeout=90)
                assert await each.get_counts() == alone
            await publish_job_events(backend, range(40, 60), stores=20)
            for each in (one, other):
                await eventually(partial(each.has_counted, {"DONE": 60}))
                await eventually(partial(get_timeline, each, str(UUID(int=59))))
                jobs = (await each.get_json("/api/jobs?limit=100"))["items"]
                assert len({job["job"] for job in jobs}) == 60
                now = datetime.now(UTC)
                await backend.publish(WORKERS, "w1", make_worker_report("w1", at=now))
                await eventually(partial(shows_a_worker, each))
            stores = [(await each.get_json("/api/stores"))["total"] for each in (one, other)]
            assert stores == [20, 20]
            await other.kill()
            missing = (await eventually(partial(overview_with_missing_peer, one)))["metrics"]
            assert missing["missing"] == [other.url]
            assert missing["complete"] is False
            assert missing["uncountedPartitions"]
            await assert_ended_count_never_falls(one, 60)
        await eventually(partial(one.has_counted, {"DONE": 60}), timeout=90)
        overview = await eventually(partial(overview_of_single_process, one), timeout=90)
        assert overview["metrics"]["uncountedPartitions"] == []


async def test_counts_are_exact_while_partitions_move(backend: Backend, tmp_path: Path) -> None:
    published = 0

    async def publish_continuously() -> None:
        nonlocal published
        while True:
            await publish_job_events(backend, range(published, published + 20), stores=11)
            published += 20
            await asyncio.sleep(
                0.1
            )  # about as fast as counting, so that events are always in progress

    async with start_metrics(backend, tmp_path / "a") as one:
        publishing = asyncio.create_task(publish_continuously())
        for name in ("b", "c"):
            async with start_metrics(backend, tmp_path / name) as other:
                await eventually(partial(shows_two_processes, other), timeout=90)
        publishing.cancel()
        await asyncio.gather(publishing, return_exceptions=True)
        await publish_job_events(
            backend, range(published, published + 20), stores=11
        )  # completes a cancelled batch
        await eventually(partial(has_done, one, published + 20), timeout=90)
        assert await one.has_counted({"DONE": published + 20})
    shutil.rmtree(tmp_path / "a")
    async with start_metrics(backend, tmp_path / "a") as recovered:
        assert await recovered.has_counted({"DONE": published + 20})


async def has_done(running: MetricsProcess, jobs: int) -> bool:
    counted = (await running.get_json("/api/overview"))["jobs"]["DONE"]
    assert counted <= jobs, f"{counted} of {jobs}: some jobs are counted twice"
    return bool(counted == jobs)


async def shows_two_processes(running: MetricsProcess) -> bool:
    state = (await running.get_json("/api/overview"))["metrics"]
    return bool(state["processes"] == 2 and state["complete"])


async def assert_ended_count_never_falls(running: MetricsProcess, jobs: int) -> None:
    """Scrape until the count is shown: it is left out until a process has taken over."""
    gaps, seen = 0, None
    while seen is None:
        families = prometheus_text.read((await running.http.get("/metrics?format=prometheus")).text)
        ended = families.get("blogstream_jobs_ended")
        seen = ended.value("_total", state="DONE") if ended is not None else None
        gaps += ended is None
        await asyncio.sleep(0.05)
    assert gaps
    assert seen == jobs


async def shows_a_worker(running: MetricsProcess) -> bool:
    return bool((await running.get_json("/api/workers"))["items"])


async def overview_with_missing_peer(running: MetricsProcess) -> Any:
    overview = await running.get_json("/api/overview")
    return overview if overview["metrics"]["missing"] else None


async def overview_of_single_process(running: MetricsProcess) -> Any:
    overview = await running.get_json("/api/overview")
    return (
        overview
        if overview["metrics"]["processes"] == 1 and overview["metrics"]["complete"]
        else None
    )


INSERT_JOB = """
INSERT INTO blog_generations
    (id, instance_id, source_type, source_id, request, status, created_at, finished_at,
     cost_nanousd)
VALUES ($1, 'a', 'keyword', 'x', '{}', $2, $3, $3, $4)
"""


async def test_drift_from_postgresql_is_found(
    backend: Backend, database: str, tmp_path: Path
) -> None:
    variables = {"DATABASE_URL": database, "RECONCILE_EVERY_S": "0.5", "RECONCILE_SETTLE_S": "0.5"}
    now = datetime.now(UTC)
    events = [
        event
        for number in range(6)
        for event in shift_events(job_events(number), (now - NOW).total_seconds())
    ]
    for event in events:
        await backend.publish(RESULTS, event.store, event)
        if event.kind is EventKind.ENDED:
            await backend.database.execute(
                INSERT_JOB, event.job, "DONE", event.created_at, event.usage.cost_nanousd
            )
    async with start_metrics(backend, tmp_path / "tables", **variables) as running:
        await eventually(partial(running.has_counted, {"DONE": 6}))

        async def has_drift(jobs: int, cost: int) -> bool:
            drift = (await running.get_json("/api/overview"))["drift"]
            return bool(drift and (drift["jobs"], round(drift["costUsd"] * 1e9)) == (jobs, cost))

        await eventually(partial(has_drift, 0, 0))
        await backend.database.execute(INSERT_JOB, UUID(int=99), "FAILED", now, 7)
        await eventually(partial(has_drift, 1, 7))
        text = (await running.http.get("/metrics?format=prometheus")).text
        assert prometheus_text.read(text)["blogstream_metrics_drift_jobs"].value() == 1
        await backend.database.execute("DELETE FROM blog_generations WHERE status = 'FAILED'")
        await eventually(partial(has_drift, 0, 0))


async def test_crash_of_stream_processor_ends_the_process(backend: Backend, tmp_path: Path) -> None:
    settings = MetricsSettings(**backend.settings.model_dump(), metrics_dir=tmp_path / "tables")
    folder = await table_generation.prepare_folder(settings, 1)
    for number in range(RESULTS.partitions):  # Faust cannot open these stores
        store = folder / "v1" / "tables" / f"shards-1-{number}.db"
        store.mkdir(parents=True)
        (store / "CURRENT").write_text("garbage")
    with (tmp_path / "output").open("wb") as output:
        environment = process_variables(backend, tmp_path / "tables") | {
            "METRICS_PORT": str(free_port())
        }
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "services.metrics", env=environment, stdout=output
        )
        try:
            assert await asyncio.wait_for(process.wait(), 60) == 3
        finally:
            if process.returncode is None:
                process.kill()
    assert "stream processor crashed" in (tmp_path / "output").read_text()

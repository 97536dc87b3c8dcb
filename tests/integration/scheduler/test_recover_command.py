"""The recover command after a real pg_dump and pg_restore loses no request and no cost."""

import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

from shared.domain.job import Status
from shared.domain.messages import EventKind, JobEvent
from shared.kafka.topics import RESULTS
from tests.support.backend import Backend, make_request, open_backend
from tests.support.eventually import eventually
from tests.support.fake_providers import StandIns
from tests.support.generator import check_spend
from tests.support.ingest import insert
from tests.support.processes import PROGRAMS, environment, run_command
from tests.support.scheduler import has_job_count
from tests.support.servers import execute
from tests.support.shop import ShopClient, start_shop


async def publish_unfinished_attempt(backend: Backend, job: UUID) -> None:
    """Publish the events of a killed worker: a start and a paid outline."""
    row = await backend.row(job)
    about: dict[str, Any] = {
        "job": job,
        "store": "shop",
        "status": Status.PROCESSING,
        "attempt": 1,
        "at": row["created_at"],
        "created_at": row["created_at"],
    }
    await backend.publish(RESULTS, "shop", JobEvent(kind=EventKind.STARTED, **about))
    await backend.publish(
        RESULTS, "shop", JobEvent(kind=EventKind.STEP_DONE, step="outline", **about)
    )


async def insert_job_of_last_month(backend: Backend) -> UUID:
    """Insert a job without a request in Kafka. The scheduler finds it as a user's retry."""
    request = make_request(store="shop")
    await insert(backend, request)
    await backend.database.execute(
        "UPDATE blog_generations SET intervened_at = now() WHERE id = $1", request.id
    )
    return request.id


async def publish_event_of_unknown_job(backend: Backend) -> None:
    now = datetime.now(UTC)
    event = JobEvent(
        job=uuid4(),
        store="shop",
        kind=EventKind.ENDED,
        status=Status.DONE,
        attempt=1,
        at=now,
        created_at=now,
    )
    await backend.publish(RESULTS, "shop", event)


async def recover(kafka: str, prefix: str, database: str, *arguments: str) -> str:
    async with open_backend(kafka, prefix, database) as backend:
        known = environment(backend, database)
    return await run_command(
        sys.executable, "-m", "services.scheduler", "recover", *arguments, env=known
    )


async def run_jobs(
    shop: ShopClient, standins: StandIns, database: str, dump: Path
) -> dict[str, UUID]:
    """Run jobs with different outcomes and back up the database in between.

    Return the jobs by name.
    """
    jobs = {name: await shop.submit() for name in ("done before", "partly done")}
    standins.openai.script(
        {"kind": "500", "job": str(jobs["partly done"]), "step": "article", "count": 2}
    )
    async with shop.running_worker():
        await shop.wait_for_status("DONE", jobs["done before"])
        await shop.wait_for_events(EventKind.RETRY, jobs["partly done"])
    jobs |= {name: await shop.submit() for name in ("done after", "failed", "cancelled")}
    jobs["older"] = await insert_job_of_last_month(shop.backend)
    await eventually(lambda: has_job_count(shop.backend, 6))
    await run_command(PROGRAMS / "pg_dump", "--format=custom", f"--file={dump}", database)

    jobs |= {name: await shop.submit() for name in ("later", "later cancelled")}
    await eventually(lambda: has_job_count(shop.backend, 8))
    for name in ("cancelled", "later cancelled"):
        await shop.cancel(jobs[name])
    standins.openai.script(
        {"kind": "refusal", "count": 2, "job": str(jobs["failed"]), "step": "outline"}
    )
    done = [jobs[name] for name in ("partly done", "done after", "older", "later")]
    async with shop.running_worker():
        await shop.wait_for_status("DONE", *done)
        await shop.wait_for_status("FAILED", jobs["failed"])
        await shop.wait_for_events(EventKind.ENDED, jobs["failed"], *done)
    jobs |= {name: await shop.submit() for name in ("cut", "not begun")}
    await eventually(lambda: has_job_count(shop.backend, 10))
    await publish_unfinished_attempt(shop.backend, jobs["cut"])
    await publish_event_of_unknown_job(shop.backend)
    return jobs


async def test_recovery_after_backup_and_restore(
    kafka: str, postgres: str, topic_prefix: str, database: str, standins: StandIns, tmp_path: Path
) -> None:
    dump, name = tmp_path / "backup.dump", database.rsplit("/", 1)[1]
    async with start_shop(kafka, topic_prefix, database, standins, tmp_path) as shop:
        jobs = await run_jobs(shop, standins, database, dump)
    await execute(postgres, f"DROP DATABASE {name} WITH (FORCE)")
    await execute(postgres, f"CREATE DATABASE {name}")
    await run_command(PROGRAMS / "pg_restore", "--no-owner", f"--dbname={database}", dump)
    assert len(await execute(database, "SELECT FROM blog_generations")) == 6

    output = await recover(kafka, topic_prefix, database)
    assert "9 requests read, 4 of them had no row: restored" in output
    assert "3 jobs failed or were cancelled after the backup: state restored" in output
    assert "5 jobs ran after the backup and are back in the queue, 4 of them were done" in output
    assert "1 more steps were paid for" in output
    assert "1 jobs are known by events alone" in output

    async with start_shop(kafka, topic_prefix, database, standins, tmp_path) as shop:
        outlines = {
            "done before": 1,
            "partly done": 1,
            "done after": 2,
            "older": 2,
            "later": 2,
            "cut": 1,
            "not begun": 1,
        }
        async with shop.running_worker():
            await shop.wait_for_status("DONE", *(jobs[name] for name in outlines))
        await shop.wait_for_status("CANCELLED", jobs["cancelled"], jobs["later cancelled"])
        await shop.wait_for_status("FAILED", jobs["failed"])
        assert await has_job_count(shop.backend, len(jobs))
        for name, times in outlines.items():
            row, bill = await shop.backend.row(jobs[name]), standins.openai.bill(jobs[name])
            assert bill["steps"]["outline"] == times, (
                f"{name}: a result in the backup is not paid for again"
            )
            assert row["input_tokens"] + row["output_tokens"] == bill["tokens"], (
                f"{name}: the bill is complete"
            )
            assert row["images"] == standins.replicate.bill(jobs[name])["calls"]
        in_doubt = "SELECT sum(in_doubt) FROM blog_steps WHERE job_id = $1"
        assert await shop.backend.database.fetchval(in_doubt, jobs["cut"]) == 1
        assert (await check_spend(shop.backend)).keys() == {"shop"}, (
            "the restore adds no spend twice, the recovery adds the lost spend"
        )
        await check_second_recovery_changes_nothing(shop, kafka, topic_prefix, database)


async def check_second_recovery_changes_nothing(
    shop: ShopClient, kafka: str, prefix: str, database: str
) -> None:
    """A scheduler runs during the recovery and continues."""
    output = await recover(kafka, prefix, database, "--since", "2026-01-01T00:00:00+00:00")
    for line in (
        "9 requests read, 0 of them had no row",
        "0 jobs failed",
        "0 jobs ran after",
    ):
        assert line in output
    after = await shop.submit()
    async with shop.running_worker():
        await shop.wait_for_status("DONE", after)

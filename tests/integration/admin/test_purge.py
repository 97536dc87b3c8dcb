"""`purge`: removes old ended jobs with all their rows, and nothing else."""

import asyncio
from datetime import UTC, datetime, timedelta
from uuid import UUID, uuid4

import asyncpg
import pytest

from admin.__main__ import run_command
from admin.purge import MIN_AGE_DAYS, remove_ended_jobs
from sandbox.servers.postgres import open_connection
from sandbox.system.home import ROOT
from services.metrics.reconcile import rules
from shared.domain.job import ENDED
from shared.kafka.topics import TOPICS
from shared.runtime.postgres import load_queries
from tests.support.backend import Backend, make_request
from tests.support.ingest import insert

METRICS = load_queries(ROOT / "services" / "metrics" / "reconcile" / "sql" / "reconcile.sql")
NOW = datetime.now(UTC)
PART_TABLES = ("blog_steps", "blog_posts", "webhook_deliveries")


async def insert_job(backend: Backend, status: str, *, age: float, **columns: object) -> UUID:
    """Insert a job with a paid step, a post and a delivery. `age`: days since its end."""
    request = make_request(created_at=NOW - timedelta(days=age, hours=1))
    await insert(backend, request, status)
    await backend.database.execute(
        "UPDATE blog_generations SET finished_at = CASE WHEN status = ANY ($2) THEN"
        " $3::timestamptz END,"
        " cost_nanousd = 5, charged_nanousd = 5 WHERE id = $1",
        request.id,
        list(ENDED),
        NOW - timedelta(days=age),
    )
    for name, value in columns.items():
        await backend.database.execute(
            f"UPDATE blog_generations SET {name} = $2 WHERE id = $1", request.id, value
        )
    await backend.database.execute(
        "INSERT INTO blog_steps (job_id, step, state, attempt, cost_nanousd) VALUES ($1,"
        " 'outline', 'DONE', 1, 5)",
        request.id,
    )
    await backend.database.execute(
        "INSERT INTO blog_posts VALUES ($1, 'T', 's', 'm', '<p>x</p>', NULL)", request.id
    )
    delivery = uuid4()
    await backend.database.execute(
        "INSERT INTO webhook_deliveries (id, job_id, instance_id, url, payload, state)"
        " VALUES ($1, $2, 'store-a', 'https://x.example', '{}', 'DELIVERED')",
        delivery,
        request.id,
    )
    await backend.database.execute(
        "INSERT INTO webhook_attempts VALUES ($1, now(), 200, NULL, 0.1)", delivery
    )
    return request.id


async def remaining_jobs(backend: Backend) -> set[UUID]:
    """The ids of all jobs. Checks that exactly their parts exist."""
    jobs = {row["id"] for row in await backend.database.fetch("SELECT id FROM blog_generations")}
    for part in PART_TABLES:
        assert {
            row["job_id"] for row in await backend.database.fetch(f"SELECT job_id FROM {part}")
        } == jobs
    assert await backend.database.fetchval("SELECT count(*) FROM webhook_attempts") == len(jobs)
    return jobs


def run_purge(monkeypatch: pytest.MonkeyPatch, database: str, *arguments: str) -> int:
    monkeypatch.setenv("DATABASE_URL", database)
    return run_command(["purge", *arguments], prog="admin")


async def read_spend(backend: Backend) -> list[tuple[object, ...]]:
    rows = await backend.database.fetch("SELECT * FROM store_spend ORDER BY 1, 2")
    return [tuple(row) for row in rows]


async def test_only_old_ended_jobs_are_removed(backend: Backend) -> None:
    for status in sorted(ENDED):
        await insert_job(backend, status, age=100)
    stay = {
        await insert_job(backend, "DONE", age=99),
        await insert_job(backend, "PENDING", age=400),
        await insert_job(backend, "PROCESSING", age=400),
        await insert_job(backend, "FAILED", age=400, charged_nanousd=4),  # not charged yet
        undelivered := await insert_job(backend, "DONE", age=400),
    }
    await backend.database.execute(
        "UPDATE webhook_deliveries SET state = 'WAITING' WHERE job_id = $1", undelivered
    )
    spend = await read_spend(backend)
    assert await remove_ended_jobs(backend.database, NOW - timedelta(days=99.5), batch=3) == len(
        ENDED
    )
    assert await remaining_jobs(backend) == stay
    assert await read_spend(backend) == spend
    assert await remove_ended_jobs(backend.database, NOW - timedelta(days=99.5), batch=3) == 0


async def test_job_that_is_being_retried_stays(backend: Backend, database: str) -> None:
    retried = await insert_job(backend, "FAILED", age=400)
    async with open_connection(database) as other, other.transaction():
        await other.execute(
            "UPDATE blog_generations SET status = 'PENDING', finished_at = NULL WHERE id = $1",
            retried,
        )
        assert await remove_ended_jobs(backend.database, NOW - timedelta(days=100)) == 0
    assert await remove_ended_jobs(backend.database, NOW - timedelta(days=100)) == 0
    assert await remaining_jobs(backend) == {retried}


async def test_reconciliation_sees_no_difference(backend: Backend) -> None:
    """Metrics compares the jobs of the last hours, which are too young to be purged."""
    hours = rules.hours_to_compare(None, NOW.timestamp())
    assert timedelta(hours=len(hours)) < timedelta(days=MIN_AGE_DAYS)
    await insert_job(backend, "DONE", age=MIN_AGE_DAYS + 0.1)
    await insert_job(backend, "DONE", age=0)
    since = datetime.fromtimestamp(hours.start * 3600, UTC)
    before: list[asyncpg.Record] = await backend.database.fetch(METRICS["cohorts"], since)
    assert await remove_ended_jobs(backend.database, NOW - timedelta(days=MIN_AGE_DAYS)) == 1
    assert await backend.database.fetch(METRICS["cohorts"], since) == before


def test_minimum_age_exceeds_the_retention_of_kafka() -> None:
    longest = max(timedelta(milliseconds=topic.retention_ms) for topic in TOPICS)
    assert timedelta(days=MIN_AGE_DAYS) >= 2 * longest >= timedelta(days=60)


async def test_command_prints_the_number_of_jobs(
    backend: Backend,
    database: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    await insert_job(backend, "DONE", age=400)
    young = await insert_job(backend, "DONE", age=300)
    for arguments, line in (
        (("--dry-run",), "1 jobs of 1 stores ended before "),
        ((), "1 jobs that ended before "),
        ((), "0 jobs that ended before "),
    ):
        code = await asyncio.to_thread(
            run_purge, monkeypatch, database, "--older-than", "365d", *arguments
        )
        assert (code, capsys.readouterr().out[: len(line)]) == (0, line)
    assert await remaining_jobs(backend) == {young}


@pytest.mark.parametrize("age", [[], ["59d"], ["-1d"], ["1y"], ["²d"], ["99999999d"]])
def test_invalid_age_is_wrong_usage(age: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(SystemExit) as ended:
        run_purge(monkeypatch, "postgresql://nowhere/x", *(["--older-than", *age] if age else []))
    assert ended.value.code == 2

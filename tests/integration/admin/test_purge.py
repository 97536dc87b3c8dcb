"""`purge`: what ended long ago goes, with all that hangs on it; nothing else does, and no number is made wrong."""

import asyncio
from datetime import UTC, datetime, timedelta
from uuid import UUID, uuid4

import asyncpg
import pytest

from admin.__main__ import run
from admin.purge import LEAST_DAYS, remove
from sandbox.servers.postgres import open_connection
from sandbox.system.home import ROOT
from services.metrics.reconcile import rules
from shared.domain.job import ENDED
from shared.kafka.topics import TOPICS
from shared.runtime.postgres import load_queries
from tests.support.backend import Backend, make_request
from tests.support.ingest import insert

METRICS = load_queries(ROOT / "services" / "metrics" / "sql" / "metrics.sql")
NOW = datetime.now(UTC)
PARTS = ("blog_steps", "blog_posts", "webhook_deliveries")


async def a_job(backend: Backend, status: str, *, age: float, **columns: object) -> UUID:
    """One with a step that cost something, a post and a delivery; `age` in days since its end, if it has ended."""
    request = make_request(created_at=NOW - timedelta(days=age, hours=1))
    await insert(backend, request, status)
    await backend.database.execute(
        "UPDATE blog_generations SET finished_at = CASE WHEN status = ANY ($2) THEN $3::timestamptz END,"
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
        "INSERT INTO blog_steps (job_id, step, state, attempt, cost_nanousd) VALUES ($1, 'outline', 'DONE', 1, 5)",
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


async def left(backend: Backend) -> set[UUID]:
    """The jobs that are there, and that all their parts are, and no others."""
    jobs = {row["id"] for row in await backend.database.fetch("SELECT id FROM blog_generations")}
    for part in PARTS:
        assert {
            row["job_id"] for row in await backend.database.fetch(f"SELECT job_id FROM {part}")
        } == jobs
    assert await backend.database.fetchval("SELECT count(*) FROM webhook_attempts") == len(jobs)
    return jobs


def type_it(monkeypatch: pytest.MonkeyPatch, database: str, *arguments: str) -> int:
    monkeypatch.setenv("DATABASE_URL", database)
    return run(["purge", *arguments], prog="admin")


async def spent(backend: Backend) -> list[tuple[object, ...]]:
    rows = await backend.database.fetch("SELECT * FROM store_spend ORDER BY 1, 2")
    return [tuple(row) for row in rows]


async def test_what_ended_long_ago_goes_and_nothing_else(backend: Backend) -> None:
    for status in sorted(ENDED):
        await a_job(backend, status, age=100)
    stay = {
        await a_job(backend, "DONE", age=99),
        await a_job(backend, "PENDING", age=400),
        await a_job(backend, "PROCESSING", age=400),
        await a_job(backend, "FAILED", age=400, charged_nanousd=4),  # to be settled
        untold := await a_job(backend, "DONE", age=400),
    }
    await backend.database.execute(
        "UPDATE webhook_deliveries SET state = 'WAITING' WHERE job_id = $1", untold
    )
    ledger = await spent(backend)
    assert await remove(backend.database, NOW - timedelta(days=99.5), batch=3) == len(ENDED)
    assert await left(backend) == stay
    assert await spent(backend) == ledger
    assert await remove(backend.database, NOW - timedelta(days=99.5), batch=3) == 0


async def test_a_job_that_is_being_revived_stays(backend: Backend, database: str) -> None:
    revived = await a_job(backend, "FAILED", age=400)
    async with open_connection(database) as other, other.transaction():
        await other.execute(
            "UPDATE blog_generations SET status = 'PENDING', finished_at = NULL WHERE id = $1",
            revived,
        )
        assert await remove(backend.database, NOW - timedelta(days=100)) == 0
    assert await remove(backend.database, NOW - timedelta(days=100)) == 0
    assert await left(backend) == {revived}


async def test_metrics_finds_nothing_miscounted(backend: Backend) -> None:
    """It compares the jobs of the last hours, which no purge that is allowed can reach."""
    hours = rules.hours_to_compare(None, NOW.timestamp())
    assert timedelta(hours=len(hours)) < timedelta(days=LEAST_DAYS)
    await a_job(backend, "DONE", age=LEAST_DAYS + 0.1)
    await a_job(backend, "DONE", age=0)
    since = datetime.fromtimestamp(hours.start * 3600, UTC)
    before: list[asyncpg.Record] = await backend.database.fetch(METRICS["cohorts"], since)
    assert await remove(backend.database, NOW - timedelta(days=LEAST_DAYS)) == 1
    assert await backend.database.fetch(METRICS["cohorts"], since) == before


def test_nothing_that_kafka_may_still_name_is_old_enough() -> None:
    longest = max(timedelta(milliseconds=topic.retention_ms) for topic in TOPICS)
    assert timedelta(days=LEAST_DAYS) >= 2 * longest >= timedelta(days=60)


async def test_the_command(
    backend: Backend,
    database: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    await a_job(backend, "DONE", age=400)
    young = await a_job(backend, "DONE", age=300)
    for arguments, said in (
        (("--dry-run",), "1 jobs of 1 stores ended before "),
        ((), "1 jobs that ended before "),
        ((), "0 jobs that ended before "),
    ):
        code = await asyncio.to_thread(
            type_it, monkeypatch, database, "--older-than", "365d", *arguments
        )
        assert (code, capsys.readouterr().out[: len(said)]) == (0, said)
    assert await left(backend) == {young}


@pytest.mark.parametrize("age", [[], ["59d"], ["-1d"], ["1y"], ["²d"], ["99999999d"]])
def test_wrong_usage(age: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(SystemExit) as ended:
        type_it(monkeypatch, "postgresql://nowhere/x", *(["--older-than", *age] if age else []))
    assert ended.value.code == 2

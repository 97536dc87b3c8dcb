"""Scheduled jobs (`runAt`) count against the queue limit and the budget at once."""

from datetime import UTC, datetime, timedelta
from pathlib import Path

from shared.domain.api_keys import create_operator_key
from tests.support.backend import Backend, make_request
from tests.support.ingest import GOOD, PATH, insert, start_ingest

IN_A_MONTH = datetime.now(UTC) + timedelta(days=31)


async def test_scheduled_job_counts_at_once(
    backend: Backend, database: str, tmp_path: Path
) -> None:
    operator = await create_operator_key(backend.database, "ada")
    job = make_request(store="shop", run_at=IN_A_MONTH)
    await insert(backend, job)
    await backend.database.execute(
        "UPDATE blog_generations SET not_before = $2 WHERE id = $1", job.id, IN_A_MONTH
    )
    async with start_ingest(backend, database, tmp_path, max_pending_per_store=2) as ingest:
        budget = await ingest.http.put(
            "/api/stores/shop/budget",
            headers={"Authorization": f"Bearer {operator}"},
            json={"monthlyCostUsd": 1},
        )
        assert budget.json()["reservedUsd"] > 0
        refused = await ingest.http.post(
            f"{PATH}/bulk", headers={"Authorization": f"Bearer {ingest.key}"}, json=[GOOD] * 2
        )
        assert (refused.status_code, refused.json()["room"]) == (429, 1)

"""Monthly budgets: access, validation, 402 answers, and a run through all services."""

from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any
from uuid import UUID

import httpx
import pytest

from services.generator import service as generator
from shared.domain.api_keys import create_key, create_operator_key
from shared.kafka.topics import CONTROL
from tests.support.backend import Backend, database_unavailable, make_request, running_service
from tests.support.eventually import eventually
from tests.support.fake_providers import StandIns
from tests.support.generator import check_spend, worker_settings
from tests.support.ingest import (
    GOOD,
    PATH,
    PROBLEM,
    Ingest,
    bearer,
    exceeded_budget,
    insert,
    post_until_status,
    read_requests,
    start_ingest,
)
from tests.support.scheduler import is_leader, start_scheduler

BUDGET = "/api/stores/shop/budget"
RESETS_AT = (datetime.now(UTC).replace(day=1) + timedelta(days=32)).strftime("%Y-%m-01T00:00:00Z")
JOB_COST = 5_000_000
"""The expected cost of a store's first job, in nano-USD."""


@pytest.fixture
async def ingest(backend: Backend, database: str, tmp_path: Path) -> AsyncIterator[Ingest]:
    async with start_ingest(backend, database, tmp_path) as one:
        yield one


@pytest.fixture
async def operator(backend: Backend) -> str:
    return await create_operator_key(backend.database, "ada")


async def send_change(
    ingest: Ingest, key: str, method: str, path: str = BUDGET, **body: Any
) -> httpx.Response:
    return await ingest.http.request(method, path, headers=bearer(key), json=body or None)


async def test_store_sees_its_budget_and_only_operators_set_it(
    ingest: Ingest, operator: str
) -> None:
    await create_key(ingest.backend.database, "neighbour")
    unlimited = (await ingest.get(BUDGET)).json()
    assert unlimited == {
        "store": "shop",
        "month": f"{datetime.now(UTC):%Y-%m}",
        "monthlyCostUsd": None,
        "warnAt": None,
        "spentUsd": 0,
        "reservedUsd": 0,
        "remainingUsd": None,
        "state": "ok",
        "resetsAt": RESETS_AT,
    }
    created = await send_change(ingest, operator, "PUT", monthlyCostUsd=50, warnAt=0.5)
    assert created.status_code == 200
    assert created.json() == unlimited | {"monthlyCostUsd": 50, "warnAt": 0.5, "remainingUsd": 50}
    assert (
        (await ingest.get(BUDGET)).json()
        == (await ingest.get(BUDGET, operator)).json()
        == created.json()
    )

    theirs = "/api/stores/neighbour/budget"
    assert (await ingest.get(theirs)).status_code == 404, "another store's budget is hidden"
    assert (await ingest.get(theirs, operator)).status_code == 200
    for name in ("nobody", "a%00b", "%2A", "x" * 300):
        for method in ("GET", "PUT", "DELETE"):
            unknown = await send_change(
                ingest, operator, method, f"/api/stores/{name}/budget", monthlyCostUsd=1
            )
            assert unknown.status_code == 404, name
    for method in ("PUT", "DELETE"):
        assert (await send_change(ingest, ingest.key, method, monthlyCostUsd=1)).status_code == 403
        assert (await send_change(ingest, "sk_live_x", method, monthlyCostUsd=1)).status_code == 401

    removed = await send_change(ingest, operator, "DELETE")
    assert (removed.status_code, removed.json()) == (200, unlimited)
    assert (await send_change(ingest, operator, "DELETE")).json() == unlimited


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({}, "monthlyCostUsd"),
        ({"monthlyCostUsd": -1}, "monthlyCostUsd"),
        ({"monthlyCostUsd": "5"}, "monthlyCostUsd"),
        ({"monthlyCostUsd": 1e7}, "monthlyCostUsd"),
        ({"monthlyCostUsd": True}, "monthlyCostUsd"),
        ({"monthlyCostUsd": 1, "warnAt": 0}, "warnAt"),
        ({"monthlyCostUsd": 1, "warnAt": 1.1}, "warnAt"),
        ({"monthlyCostUsd": 1, "hardStop": True}, "hardStop"),
        ([], "body"),
    ],
)
async def test_invalid_budget_is_refused_by_field(
    ingest: Ingest, operator: str, body: Any, field: str
) -> None:
    answer = await ingest.http.put(BUDGET, headers=bearer(operator), json=body)
    assert (answer.status_code, [error["field"] for error in answer.json()["errors"]]) == (
        422,
        [field],
    )
    assert (await ingest.get(BUDGET)).json()["monthlyCostUsd"] is None


async def test_reserved_is_the_expected_cost_of_open_jobs(ingest: Ingest, operator: str) -> None:
    backend = ingest.backend
    running, waiting, ended = (make_request(store="shop") for _ in range(3))
    await insert(backend, waiting)
    await insert(backend, ended, "DONE")
    await insert(backend, running, "PROCESSING")
    await backend.database.execute(
        "UPDATE blog_generations SET forwarded_at = now(), estimate_nanousd = $2 WHERE id = $1",
        running.id,
        4 * JOB_COST,
    )
    for job in (running, ended):
        await backend.database.execute(
            "INSERT INTO blog_steps (job_id, step, state, attempt, cost_nanousd)"
            " VALUES ($1, 'outline', 'DONE', 1, $2)",
            job.id,
            JOB_COST,
        )
    budget = (await send_change(ingest, operator, "PUT", monthlyCostUsd=0.032)).json()
    assert (budget["spentUsd"], budget["reservedUsd"], budget["remainingUsd"]) == (
        0.01,
        0.02,
        0.002,
    )
    assert budget["state"] == "stopped", "0.002 has no room for a job of 0.005"
    assert (await send_change(ingest, operator, "PUT", monthlyCostUsd=0.035)).json()[
        "state"
    ] == "ok"
    assert (await send_change(ingest, operator, "PUT", monthlyCostUsd=0.035, warnAt=0.2)).json()[
        "state"
    ] == "warning"


async def test_stopped_store_gets_402_with_the_reset_time(ingest: Ingest) -> None:
    neighbour = await create_key(ingest.backend.database, "neighbour")
    resets_at = datetime.now(UTC) + timedelta(hours=2)
    first = (await ingest.post(GOOD, headers={"Idempotency-Key": "k"})).json()
    await ingest.backend.publish(CONTROL, "shop", exceeded_budget("shop", resets_at))
    refusal = await post_until_status(ingest, 402)
    assert refusal.headers["content-type"] == PROBLEM
    assert 7_190 <= int(refusal.headers["retry-after"]) <= 7_200, (
        "computed from the current time, not from the record"
    )
    problem = refusal.json()
    assert problem["type"].endswith("budget-exceeded")
    assert datetime.fromisoformat(problem["resetsAt"]) == resets_at
    assert (await post_bulk(ingest, 1)).status_code == 402
    assert (await post_until_status(ingest, 201, key=neighbour)).json()["store"] == "neighbour"
    assert (await ingest.post(GOOD, headers={"Idempotency-Key": "k"})).json() == first, (
        "a repeat creates no job"
    )
    past = datetime.now(UTC) - timedelta(seconds=1)
    await ingest.backend.publish(CONTROL, "shop", exceeded_budget("shop", past))
    await post_until_status(ingest, 201)


async def test_budget_too_small_for_a_job_has_no_retry_after(ingest: Ingest, operator: str) -> None:
    resets_at = datetime.now(UTC) + timedelta(hours=2)
    await ingest.backend.publish(CONTROL, "shop", exceeded_budget("shop", resets_at))
    await post_until_status(ingest, 402)
    for budget, is_retryable in ((0, False), (0.004, False), (0.005, True)):
        await send_change(ingest, operator, "PUT", monthlyCostUsd=budget)
        for refusal in (await ingest.post(GOOD), await post_bulk(ingest, 1)):
            assert (refusal.status_code, "retry-after" in refusal.headers) == (402, is_retryable), (
                budget
            )
            assert ("it resets at" in refusal.json()["detail"]) == is_retryable


async def post_bulk(ingest: Ingest, items: int) -> httpx.Response:
    return await ingest.http.post(f"{PATH}/bulk", headers=bearer(ingest.key), json=[GOOD] * items)


async def test_bulk_fits_the_budget_as_a_whole_or_is_refused(
    ingest: Ingest, operator: str, postgres: str, database: str
) -> None:
    await send_change(ingest, operator, "PUT", monthlyCostUsd=0.015)  # three jobs
    await insert(ingest.backend, make_request(store="shop"))
    refused = await post_bulk(ingest, 3)
    assert (refused.status_code, refused.json()["room"], refused.json()["resetsAt"][:19]) == (
        402,
        2,
        RESETS_AT[:19],
    )
    assert int(refused.headers["retry-after"]) > 0
    assert "retry-after" not in (await post_bulk(ingest, 4)).headers, "more than a whole month's"
    assert not await read_requests(ingest.backend)
    assert (await post_bulk(ingest, 2)).status_code == 201
    async with database_unavailable(postgres, database, "ingest-test"):
        assert (await post_bulk(ingest, 3)).status_code == 201, (
            "without PostgreSQL only admission control refuses; jobs wait later"
        )


async def test_budget_holds_from_first_post_to_the_bill(
    backend: Backend, database: str, standins: StandIns, operator: str, tmp_path: Path
) -> None:
    """Both processes answer 402 once the budget is used up, also after a failover.

    After a raise, every accepted job is done. Spend equals the bill; another store is unaffected.
    """
    settings = worker_settings(
        bootstrap=backend.settings.kafka_bootstrap_servers,
        prefix=backend.settings.kafka_topic_prefix,
        database=database,
        standins=standins,
        folder=tmp_path,
    )
    lead = partial(
        start_scheduler, backend, database, default_cost_nanousd=JOB_COST, sweep_every_s=0.2
    )
    async with (
        start_ingest(backend, database, tmp_path) as one,
        start_ingest(backend, database, tmp_path) as other,
        running_service(partial(generator.run_worker, settings, name="worker")),
    ):
        await send_change(one, operator, "PUT", monthlyCostUsd=2 * JOB_COST / 1e9)
        # No scheduler leads yet, so admission is open.
        jobs = [(await one.post(GOOD)).json()["id"] for _ in range(4)]
        async with lead("first"):
            await eventually(partial(is_leader, backend, "first"))
            refusal = await post_until_status(other, 402)
            assert (
                refusal.json()["resetsAt"][:19]
                == (await post_until_status(one, 402)).json()["resetsAt"][:19]
                == RESETS_AT[:19]
            )
        async with lead("second"):
            await eventually(partial(is_leader, backend, "second"))
            neighbour = await create_key(backend.database, "neighbour")
            theirs = (await post_until_status(one, 201, key=neighbour)).json()["id"]
            await eventually(partial(backend.has_status, UUID(theirs), "DONE"), timeout=60)
            assert (await one.post(GOOD)).status_code == (await other.post(GOOD)).status_code == 402
            for job in jobs[:2]:
                await eventually(partial(backend.has_status, UUID(job), "DONE"), timeout=60)
            waiting = await eventually(partial(_budget_wait, other, jobs[-1]))
            assert waiting is not None
            assert (waiting["reason"], waiting["until"][:19]) == ("budget", RESETS_AT[:19])
            assert (await one.get(BUDGET)).json()["state"] == "stopped"

            await send_change(other, operator, "PUT", monthlyCostUsd=10)
            for job in jobs:
                await eventually(partial(backend.has_status, UUID(job), "DONE"), timeout=60)
            await post_until_status(one, 201)
            await post_until_status(other, 201)
            await eventually(partial(_no_job_is_open, backend))
    assert (await check_spend(backend)).keys() == {"shop", "neighbour"}
    for row in await backend.database.fetch(
        "SELECT id, input_tokens + output_tokens AS tokens FROM blog_generations"
    ):
        assert standins.openai.bill(row["id"])["tokens"] == row["tokens"], (
            "the provider's bill agrees"
        )


async def _budget_wait(ingest: Ingest, job: str) -> dict[str, Any] | None:
    waiting: dict[str, Any] | None = (await ingest.get(f"{PATH}/{job}")).json()["waiting"]
    return waiting if waiting is not None and waiting["reason"] == "budget" else None


async def _no_job_is_open(backend: Backend) -> bool:
    return not await backend.database.fetchval(
        "SELECT count(*) FROM blog_generations WHERE status IN ('PENDING', 'PROCESSING')"
    )

"""Monthly budgets over HTTP: who may look and set, what is refused and why, and the whole way through all services."""

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
from shared.domain.messages import AdmissionState, BlogRequested
from shared.kafka.topics import CONTROL, REQUESTS
from tests.integration.ingest.test_admission import hears
from tests.support.backend import Backend, database_unavailable, make_request, running_service
from tests.support.eventually import eventually
from tests.support.fake_providers import StandIns
from tests.support.generator import check_spend, worker_settings
from tests.support.ingest import GOOD, PATH, PROBLEM, Ingest, insert, start_ingest
from tests.support.scheduler import leads, start_scheduler

BUDGET = "/api/stores/shop/budget"
RESETS_AT = (datetime.now(UTC).replace(day=1) + timedelta(days=32)).strftime("%Y-%m-01T00:00:00Z")
JOB = 5_000_000
"""What a first job is taken to cost, in nano-USD."""


@pytest.fixture
async def ingest(backend: Backend, database: str, tmp_path: Path) -> AsyncIterator[Ingest]:
    async with start_ingest(backend, database, tmp_path) as one:
        yield one


@pytest.fixture
async def operator(backend: Backend) -> str:
    return await create_operator_key(backend.database, "ada")


async def change(
    ingest: Ingest, key: str, method: str, path: str = BUDGET, **body: Any
) -> httpx.Response:
    headers = {"Authorization": f"Bearer {key}"}
    return await ingest.http.request(method, path, headers=headers, json=body or None)


async def test_a_store_sees_its_own_budget_and_only_operators_set_it(
    ingest: Ingest, operator: str
) -> None:
    await create_key(ingest.backend.database, "neighbour")
    nothing = (await ingest.get(BUDGET)).json()
    assert nothing == {
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
    set_up = await change(ingest, operator, "PUT", monthlyCostUsd=50, warnAt=0.5)
    assert set_up.status_code == 200
    assert set_up.json() == nothing | {"monthlyCostUsd": 50, "warnAt": 0.5, "remainingUsd": 50}
    assert (
        (await ingest.get(BUDGET)).json()
        == (await ingest.get(BUDGET, operator)).json()
        == set_up.json()
    )

    theirs = "/api/stores/neighbour/budget"
    assert (await ingest.get(theirs)).status_code == 404, "another's is none of its business"
    assert (await ingest.get(theirs, operator)).status_code == 200
    for name in ("nobody", "a%00b", "%2A", "x" * 300):
        for method in ("GET", "PUT", "DELETE"):
            unknown = await change(
                ingest, operator, method, f"/api/stores/{name}/budget", monthlyCostUsd=1
            )
            assert unknown.status_code == 404, name
    for method in ("PUT", "DELETE"):
        assert (await change(ingest, ingest.key, method, monthlyCostUsd=1)).status_code == 403
        assert (await change(ingest, "sk_live_x", method, monthlyCostUsd=1)).status_code == 401

    removed = await change(ingest, operator, "DELETE")
    assert (removed.status_code, removed.json()) == (200, nothing)
    assert (await change(ingest, operator, "DELETE")).json() == nothing


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
async def test_what_is_no_budget_is_refused_by_its_field(
    ingest: Ingest, operator: str, body: Any, field: str
) -> None:
    answer = await ingest.http.put(
        BUDGET, headers={"Authorization": f"Bearer {operator}"}, json=body
    )
    assert (answer.status_code, [error["field"] for error in answer.json()["errors"]]) == (
        422,
        [field],
    )
    assert (await ingest.get(BUDGET)).json()["monthlyCostUsd"] is None


async def test_what_is_reserved_is_what_running_and_waiting_jobs_will_cost(
    ingest: Ingest, operator: str
) -> None:
    backend = ingest.backend
    running_, waiting, ended = (make_request(store="shop") for _ in range(3))
    await insert(backend, waiting)
    await insert(backend, ended, "DONE")
    await insert(backend, running_, "PROCESSING")
    await backend.database.execute(
        "UPDATE blog_generations SET forwarded_at = now(), estimate_nanousd = $2 WHERE id = $1",
        running_.id,
        4 * JOB,
    )
    for job in (running_, ended):
        await backend.database.execute(
            "INSERT INTO blog_steps (job_id, step, state, attempt, cost_nanousd) VALUES ($1, 'outline', 'DONE', 1, $2)",
            job.id,
            JOB,
        )
    found = (await change(ingest, operator, "PUT", monthlyCostUsd=0.032)).json()
    assert (found["spentUsd"], found["reservedUsd"], found["remainingUsd"]) == (0.01, 0.02, 0.002)
    assert found["state"] == "stopped", "0.002 is no room for a job of 0.005"
    assert (await change(ingest, operator, "PUT", monthlyCostUsd=0.035)).json()["state"] == "ok"
    assert (await change(ingest, operator, "PUT", monthlyCostUsd=0.035, warnAt=0.2)).json()[
        "state"
    ] == "warning"


async def test_a_stopped_store_hears_402_and_when_it_may_come_back(ingest: Ingest) -> None:
    neighbour = await create_key(ingest.backend.database, "neighbour")
    resets_at = datetime.now(UTC) + timedelta(hours=2)
    gate = partial(
        AdmissionState, store="shop", closed=True, reason="budget-exceeded", retry_after_s=1
    )
    first = (await ingest.post(GOOD, headers={"Idempotency-Key": "k"})).json()
    await ingest.backend.publish(CONTROL, "shop", gate(at=datetime.now(UTC), resets_at=resets_at))
    refusal = await hears(ingest, 402)
    assert refusal.headers["content-type"] == PROBLEM
    assert 7_190 <= int(refusal.headers["retry-after"]) <= 7_200, (
        "by the clock, not by what was once said"
    )
    problem = refusal.json()
    assert problem["type"].endswith("budget-exceeded")
    assert datetime.fromisoformat(problem["resetsAt"]) == resets_at
    assert (await bulk(ingest, 1)).status_code == 402
    assert (await hears(ingest, 201, key=neighbour)).json()["store"] == "neighbour"
    assert (await ingest.post(GOOD, headers={"Idempotency-Key": "k"})).json() == first, (
        "a repeat is no new job"
    )
    past = datetime.now(UTC) - timedelta(seconds=1)
    await ingest.backend.publish(CONTROL, "shop", gate(at=datetime.now(UTC), resets_at=past))
    await hears(ingest, 201)


async def test_a_budget_that_no_job_ever_fits_promises_nothing(
    ingest: Ingest, operator: str
) -> None:
    resets_at = datetime.now(UTC) + timedelta(hours=2)
    gate = AdmissionState(
        store="shop",
        closed=True,
        reason="budget-exceeded",
        retry_after_s=1,
        at=datetime.now(UTC),
        resets_at=resets_at,
    )
    await ingest.backend.publish(CONTROL, "shop", gate)
    await hears(ingest, 402)
    for budget, comes_back in ((0, False), (0.004, False), (0.005, True)):
        await change(ingest, operator, "PUT", monthlyCostUsd=budget)
        for refusal in (await ingest.post(GOOD), await bulk(ingest, 1)):
            assert (refusal.status_code, "retry-after" in refusal.headers) == (402, comes_back), (
                budget
            )
            assert ("begins anew" in refusal.json()["detail"]) == comes_back


async def bulk(ingest: Ingest, items: int) -> httpx.Response:
    headers = {"Authorization": f"Bearer {ingest.key}"}
    return await ingest.http.post(f"{PATH}/bulk", headers=headers, json=[GOOD] * items)


async def test_a_bulk_fits_the_budget_as_a_whole_or_is_refused(
    ingest: Ingest, operator: str, postgres: str, database: str
) -> None:
    await change(ingest, operator, "PUT", monthlyCostUsd=0.015)  # three jobs
    await insert(ingest.backend, make_request(store="shop"))
    refused = await bulk(ingest, 3)
    assert (refused.status_code, refused.json()["room"], refused.json()["resetsAt"][:19]) == (
        402,
        2,
        RESETS_AT[:19],
    )
    assert int(refused.headers["retry-after"]) > 0
    assert "retry-after" not in (await bulk(ingest, 4)).headers, "more than a whole month's"
    assert not [
        one
        for _, one in await ingest.backend.read_records(REQUESTS)
        if isinstance(one, BlogRequested)
    ]
    assert (await bulk(ingest, 2)).status_code == 201
    async with database_unavailable(postgres, database, "ingest-test"):
        assert (await bulk(ingest, 3)).status_code == 201, (
            "only what the doors say is known: it is held later"
        )


async def test_a_budget_from_the_first_post_to_the_bill(
    backend: Backend, database: str, standins: StandIns, operator: str, tmp_path: Path
) -> None:
    """Accepted until full, then 402, by both of two processes, through a takeover; raised, all that was accepted is
    written; the ledger is the bill, and another store notices nothing."""
    settings = worker_settings(
        bootstrap=backend.settings.kafka_bootstrap_servers,
        prefix=backend.settings.kafka_topic_prefix,
        database=database,
        standins=standins,
        folder=tmp_path,
    )
    lead = partial(start_scheduler, backend, database, default_cost_nanousd=JOB, sweep_every_s=0.2)
    async with (
        start_ingest(backend, database, tmp_path) as one,
        start_ingest(backend, database, tmp_path) as other,
        running_service(partial(generator.run_worker, settings, name="worker")),
    ):
        await change(one, operator, "PUT", monthlyCostUsd=2 * JOB / 1e9)
        jobs = [
            (await one.post(GOOD)).json()["id"] for _ in range(4)
        ]  # nobody leads yet, so no door is closed
        async with lead("first"):
            await eventually(partial(leads, backend, "first"))
            refusal = await hears(other, 402)
            assert (
                refusal.json()["resetsAt"][:19]
                == (await hears(one, 402)).json()["resetsAt"][:19]
                == RESETS_AT[:19]
            )
        async with lead("second"):
            await eventually(partial(leads, backend, "second"))
            neighbour = await create_key(backend.database, "neighbour")
            theirs = (await hears(one, 201, key=neighbour)).json()["id"]
            await eventually(partial(backend.has_status, UUID(theirs), "DONE"), timeout=60)
            assert (await one.post(GOOD)).status_code == (await other.post(GOOD)).status_code == 402
            for job in jobs[:2]:
                await eventually(partial(backend.has_status, UUID(job), "DONE"), timeout=60)
            held = await eventually(partial(_held, other, jobs[-1]))
            assert held is not None
            assert (held["reason"], held["until"][:19]) == ("budget", RESETS_AT[:19])
            assert (await one.get(BUDGET)).json()["state"] == "stopped"

            await change(other, operator, "PUT", monthlyCostUsd=10)
            for job in jobs:
                await eventually(partial(backend.has_status, UUID(job), "DONE"), timeout=60)
            await hears(one, 201)
            await hears(other, 201)
            await eventually(partial(_nothing_runs, backend))
    assert (await check_spend(backend)).keys() == {"shop", "neighbour"}
    for row in await backend.database.fetch(
        "SELECT id, input_tokens + output_tokens AS tokens FROM blog_generations"
    ):
        assert standins.openai.bill(row["id"])["tokens"] == row["tokens"], (
            "and the provider says the same"
        )


async def _held(ingest: Ingest, job: str) -> dict[str, Any] | None:
    waiting: dict[str, Any] | None = (await ingest.get(f"{PATH}/{job}")).json()["waiting"]
    return waiting if waiting is not None and waiting["reason"] == "budget" else None


async def _nothing_runs(backend: Backend) -> bool:
    return not await backend.database.fetchval(
        "SELECT count(*) FROM blog_generations WHERE status IN ('PENDING', 'PROCESSING')"
    )

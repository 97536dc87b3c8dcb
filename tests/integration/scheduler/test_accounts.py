"""Stores of one account share its part of the fair queue."""

import asyncio
import sys
from asyncio.subprocess import DEVNULL
from collections import Counter
from functools import partial

import pytest

from tests.support.backend import Backend, LogCapture, make_request
from tests.support.eventually import eventually
from tests.support.scheduler import (
    StartScheduler,
    finish_job,
    has_job_count,
    is_settled,
    publish_worker_report,
    read_tasks_at_least,
    start_scheduler,
)


@pytest.fixture
def start(backend: Backend, database: str) -> StartScheduler:
    return partial(start_scheduler, backend, database)


async def test_stores_of_one_account_share_its_part(
    backend: Backend, start: StartScheduler, capsys: pytest.CaptureFixture[str]
) -> None:
    log = LogCapture(capsys)
    async with start():
        # A configuration set before the restore would not be logged.
        await eventually(partial(log.has, "fair queue restored"))
        await backend.database.execute(
            "INSERT INTO stores (instance_id, account_id, configured_at)"
            " SELECT name, 'both', now() FROM unnest(ARRAY['a1', 'a2']) AS name"
        )
        await eventually(lambda: log.count("store configured") == 2)
        for store in ("a1", "a2", "b") * 4:
            await backend.submit(make_request(store=store))
        await eventually(partial(has_job_count, backend, 12))
        await publish_worker_report(backend, slots=8)
        sent = await eventually(partial(read_tasks_at_least, backend, 8), every=0.2)
    assert Counter(task.store for task in sent) == {"a1": 2, "a2": 2, "b": 4}


async def test_account_counter_is_saved(backend: Backend, start: StartScheduler) -> None:
    await backend.database.execute(
        "INSERT INTO stores (instance_id, account_id) VALUES ('a1', 'both')"
    )
    async with start():
        await publish_worker_report(backend, slots=1)
        await backend.submit(request := make_request(store="a1"))
        await eventually(partial(read_tasks_at_least, backend, 1), every=0.2)
        await finish_job(backend, request, cost=7_000)
        await eventually(partial(is_settled, backend, request.id))
    served = await backend.database.fetch("SELECT account_id, served_nanousd FROM accounts")
    assert [(row["account_id"], row["served_nanousd"]) for row in served] == [("both", 7_000)]


async def test_setting_a_weight_scales_saved_counters(
    backend: Backend, database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Otherwise a scheduler that starts later would restore another virtual time."""
    await backend.database.execute(
        "INSERT INTO stores (instance_id, weight, served_nanousd) VALUES ('lone', 2, 1000)"
    )
    await backend.database.execute(
        "INSERT INTO accounts (account_id, served_nanousd) VALUES ('lone', 1000)"
    )
    await backend.database.execute(
        "INSERT INTO accounts (account_id, weight, served_nanousd) VALUES ('both', 1, 900)"
    )
    monkeypatch.setenv("DATABASE_URL", database)
    command = (sys.executable, "-m", "sandbox.cli", "stores", "set")
    for options in (
        ("lone", "--weight", "0.5"),
        ("one", "--account", "both", "--account-weight", "3"),
    ):
        process = await asyncio.create_subprocess_exec(*command, *options, stdout=DEVNULL)
        assert await process.wait() == 0
    lone = await backend.database.fetchrow(
        "SELECT weight, served_nanousd FROM stores WHERE instance_id = 'lone'"
    )
    accounts = await backend.database.fetch(
        "SELECT account_id, served_nanousd FROM accounts ORDER BY 1"
    )
    assert lone is not None
    assert tuple(lone) == (0.5, 250)
    assert [tuple(row) for row in accounts] == [("both", 2_700), ("lone", 250)]

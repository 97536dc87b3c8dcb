"""Leases expire `lease_s` seconds after the begin of a leader session, whatever the clock says."""

from types import SimpleNamespace
from unittest.mock import AsyncMock

import pytest

from services.scheduler.settings import SchedulerSettings
from services.scheduler.settlement import reclaimer
from services.scheduler.settlement.reclaimer import JobReclaimer

BEGAN_AT = 100.0


@pytest.fixture
def settings() -> SchedulerSettings:
    return SchedulerSettings.model_validate(
        {
            "database_url": "postgresql://u:p@127.0.0.1/db",
            "kafka_bootstrap_servers": "127.0.0.1:9092",
            "lease_s": 60,
            "lease_grace_s": 5,
        }
    )


@pytest.fixture
def repository() -> AsyncMock:
    """A database without lost jobs."""
    return AsyncMock(
        **{
            f"{query}.return_value": []
            for query in ("requeue_lost_jobs", "release_cancelled_leases", "requeue_unclaimed")
        }
    )


@pytest.fixture
def job_reclaimer(settings: SchedulerSettings, repository: AsyncMock) -> JobReclaimer:
    return JobReclaimer(
        settings=settings,
        session_began_at=BEGAN_AT,
        repository=repository,
        publisher=AsyncMock(),
        dispatcher=AsyncMock(),
        settler=AsyncMock(),
        user_actions=AsyncMock(**{"fetch_changed_jobs.return_value": []}),
    )


@pytest.mark.parametrize("step_s", [-1_800, 0, 1_800])
async def test_step_of_the_clock_changes_no_expiry(
    job_reclaimer: JobReclaimer,
    repository: AsyncMock,
    monkeypatch: pytest.MonkeyPatch,
    step_s: float,
) -> None:
    """The clock steps during the session."""

    def set_time(seconds: float) -> None:
        now = BEGAN_AT + seconds
        clocks = SimpleNamespace(monotonic=lambda: now, time=lambda: now + step_s)
        monkeypatch.setattr(reclaimer, "time", clocks)

    set_time(59)
    await job_reclaimer.reclaim_jobs()
    repository.requeue_lost_jobs.assert_not_awaited()
    set_time(60)
    await job_reclaimer.reclaim_jobs()
    repository.requeue_lost_jobs.assert_awaited_once_with(5, ())

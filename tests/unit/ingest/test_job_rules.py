"""The waiting reason and estimated start of a job, and the status parameter."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from services.ingest.http.rules import InvalidRequestError
from services.ingest.jobs.rules import parse_status, waiting_reason
from shared.domain.job import Status

NOW = datetime(2026, 11, 24, 12, tzinfo=UTC)


def pending(**columns: Any) -> dict[str, Any]:
    return {"status": "PENDING", "not_before": None} | columns


def test_waiting_reason_follows_status_and_not_before() -> None:
    later = NOW + timedelta(seconds=1)
    assert waiting_reason(pending(not_before=later), NOW) == {
        "reason": "not before",
        "until": later,
    }
    assert waiting_reason(pending(not_before=NOW), NOW) == {"reason": "fair turn", "until": None}
    assert waiting_reason(pending(), NOW) == {"reason": "fair turn", "until": None}
    assert waiting_reason(pending(forwarded_at=NOW), NOW) == {
        "reason": "on its way to a worker",
        "until": None,
    }
    others = [status for status in Status if status is not Status.PENDING]
    assert [waiting_reason(pending(status=status, not_before=later), NOW) for status in others] == [
        None
    ] * 5


def test_estimated_start_depends_on_place_in_store_queue() -> None:
    estimate = {
        "reason": "TPM",
        "limited_by": "TPM",
        "queued": 11,
        "ahead": 0,
        "first_at": NOW + timedelta(seconds=10),
        "last_at": NOW + timedelta(seconds=110),
        "forwarded_at": None,
    }
    first = waiting_reason(pending(jobs_before=0, **estimate), NOW)
    fifth = waiting_reason(pending(jobs_before=4, **estimate), NOW)
    assert first == {
        "reason": "TPM",
        "until": NOW + timedelta(seconds=10),
        "place": 1,
        "limitedBy": "TPM",
    }
    assert fifth == {
        "reason": "fair turn",
        "until": NOW + timedelta(seconds=50),
        "place": 5,
        "limitedBy": "TPM",
    }
    capped = waiting_reason(
        pending(jobs_before=4, **estimate | {"reason": "store cap", "first_at": None}), NOW
    )
    assert capped == {"reason": "store cap", "until": None, "place": 5, "limitedBy": "TPM"}
    much_later = NOW + timedelta(hours=1)
    assert waiting_reason(pending(jobs_before=99, **estimate), much_later)["until"] == much_later  # type: ignore[index]


def test_jobs_beyond_the_budget_wait_for_its_reset() -> None:
    estimate = {
        "reason": "TPM",
        "limited_by": "TPM",
        "queued": 2,
        "held": 3,
        "first_at": NOW,
        "last_at": NOW,
    }
    reset = datetime(NOW.year + NOW.month // 12, NOW.month % 12 + 1, 1, tzinfo=UTC)
    reasons = [waiting_reason(pending(jobs_before=place, **estimate), NOW) for place in range(5)]
    assert [reason and reason["reason"] for reason in reasons] == [
        "TPM",
        "fair turn",
        "budget",
        "budget",
        "budget",
    ]
    assert reasons[2] == {"reason": "budget", "until": reset, "place": 3, "limitedBy": "TPM"}
    nothing_fits = estimate | {
        "reason": "budget",
        "limited_by": None,
        "queued": 0,
        "first_at": None,
        "last_at": None,
    }
    first = waiting_reason(pending(jobs_before=0, **nothing_fits), NOW)
    assert first == {"reason": "budget", "until": reset, "place": 1, "limitedBy": None}


def test_known_status_is_parsed_and_others_are_refused() -> None:
    assert parse_status("DONE") is Status.DONE
    with pytest.raises(
        InvalidRequestError, match="PENDING, PROCESSING, DONE, FAILED, REJECTED, CANCELLED"
    ):
        parse_status("OPEN")

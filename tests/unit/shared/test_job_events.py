"""Job events built from rows and requests."""

from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import pytest

from shared.domain.job import SourceType, Status
from shared.domain.job_events import event_from_request, event_from_row
from shared.domain.messages import BlogRequested, EventKind, JobEvent, PreviousOutcome, Usage

JOB = UUID(int=1)
CREATED = datetime(2026, 11, 24, 9, tzinfo=UTC)
STARTED, FINISHED = CREATED + timedelta(seconds=5), CREATED + timedelta(seconds=60)
USAGE = Usage(
    input_tokens=1, output_tokens=2, reasoning_tokens=1, images=3, cost_nanousd=4, in_doubt=5
)


def job_row(**changes: Any) -> dict[str, Any]:
    return {
        "id": JOB,
        "store": "shop",
        "status": "DONE",
        "attempt": 2,
        "worker": "w",
        "created_at": CREATED,
        "started_at": STARTED,
        "finished_at": FINISHED,
        "not_before": None,
        "error": None,
        "input_tokens": 1,
        "output_tokens": 2,
        "images": 3,
        "cost_nanousd": 4,
        "in_doubt": 5,
        "reasoning_tokens": 1,
    } | changes


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (Status.PENDING, EventKind.ADMITTED),
        (Status.PROCESSING, EventKind.STARTED),
        (Status.DONE, EventKind.ENDED),
        (Status.CANCELLED, EventKind.ENDED),
    ],
)
def test_status_decides_the_kind_of_event(status: Status, kind: EventKind) -> None:
    event = event_from_row(job_row(status=status))
    assert (event.kind, event.status) == (kind, status)


def test_row_becomes_the_event_of_its_end() -> None:
    assert event_from_row(job_row()) == JobEvent(
        job=JOB,
        store="shop",
        kind=EventKind.ENDED,
        status=Status.DONE,
        attempt=2,
        at=FINISHED,
        created_at=CREATED,
        started_at=STARTED,
        worker="w",
        usage=USAGE,
    )


def test_unfinished_job_has_the_given_time_or_now() -> None:
    row = job_row(status="PENDING", finished_at=None)
    assert event_from_row(row, since=STARTED).at == STARTED
    assert abs(datetime.now(UTC) - event_from_row(row).at) < timedelta(minutes=1)


def test_arguments_override_the_row() -> None:
    former = PreviousOutcome(status=Status.FAILED, at=FINISHED, begun=True)
    row = job_row(error="old")
    row["instance_id"] = row.pop("store")
    event = event_from_row(
        row,
        kind=EventKind.RETRY,
        status=Status.PENDING,
        at=STARTED,
        error="new",
        former=former,
    )
    assert (event.kind, event.status, event.at) == (EventKind.RETRY, Status.PENDING, STARTED)
    assert (event.store, event.error, event.former) == ("shop", "new", former)


def test_columns_that_a_query_leaves_out_are_empty() -> None:
    row = job_row()
    for column in ("status", "finished_at", "not_before", "error", "in_doubt"):
        del row[column]
    event = event_from_row(row, kind=EventKind.RETRY, status=Status.PENDING, error="lease expired")
    assert (event.not_before, event.error, event.usage.in_doubt) == (None, "lease expired", 0)


def test_request_becomes_the_event_of_its_admission() -> None:
    request = BlogRequested(
        id=JOB,
        store="shop",
        source_type=SourceType.TOPIC,
        source_id="tea",
        created_at=CREATED,
        run_at=FINISHED,
        traceparent="00-a-b-01",
    )
    assert event_from_request(request, at=STARTED) == JobEvent(
        job=JOB,
        store="shop",
        kind=EventKind.ADMITTED,
        status=Status.PENDING,
        attempt=0,
        at=STARTED,
        created_at=CREATED,
        not_before=FINISHED,
        traceparent="00-a-b-01",
    )

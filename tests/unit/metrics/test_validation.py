"""Validation of messages: invalid ones never stop or falsify the counting."""

import json
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from services.metrics.counting.event_counter import count_events
from services.metrics.counting.rules.validation import validate_message
from services.metrics.counting.shards import ShardTable
from shared.domain.errors import InvalidMessage
from shared.domain.job import Status
from shared.domain.messages import (
    GenerationTask,
    JobEvent,
    PreviousOutcome,
    SchedulerReport,
    Usage,
    WorkerReport,
)
from shared.kafka.envelope import decode_message
from tests.support.metrics_events import (
    NOW,
    job_events,
    make_local_state,
    make_scheduler_report,
    make_worker_report,
)

EVENT = job_events(1)[-1]
NAIVE = datetime(2026, 11, 24, 12)  # noqa: DTZ001 - must be rejected


@pytest.mark.parametrize(
    ("message", "reason"),
    [
        (replace(EVENT, at=NAIVE), "a time without a zone"),
        (replace(EVENT, started_at=NAIVE), "a time without a zone"),
        (replace(EVENT, forwarded_at=NAIVE), "a time without a zone"),
        (
            replace(EVENT, former=PreviousOutcome(status=Status.FAILED, at=NAIVE, begun=True)),
            "a time without a zone",
        ),
        (replace(EVENT, at=NOW + timedelta(days=1)), "from the future"),
        (replace(EVENT, attempt=-1), "a number out of bounds"),
        (replace(EVENT, usage=Usage(cost_nanousd=10**30)), "a number out of bounds"),
        (replace(make_worker_report("w"), started_at=NAIVE), "a time without a zone"),
        (replace(make_worker_report("w"), at=NOW + timedelta(hours=2)), "from the future"),
        (replace(make_scheduler_report(1), oldest_pending_at=NAIVE), "a time without a zone"),
        (
            GenerationTask(job=EVENT.job, store="a", forward=1, epoch=1, forwarded_at=NOW),
            "does not belong",
        ),
    ],
)
def test_implausible_message_is_rejected(message: Any, reason: str) -> None:
    with pytest.raises(InvalidMessage, match=reason):
        validate_message(message, NOW, JobEvent, WorkerReport, SchedulerReport)
    for valid in (EVENT, make_worker_report("w"), make_scheduler_report(1)):
        assert validate_message(valid, NOW, JobEvent, WorkerReport, SchedulerReport) is valid


_TIMES = st.one_of(
    st.none(),
    st.datetimes().map(str),
    st.datetimes(timezones=st.timezones()).map(lambda at: at.isoformat()),
)
_STATUSES = st.sampled_from(["PENDING", "PROCESSING", "DONE", "FAILED", "CANCELLED", "OTHER"])
_NUMBERS = st.one_of(st.integers(), st.integers(0, 5))


@settings(max_examples=300)
@given(
    st.lists(
        st.fixed_dictionaries(
            {
                "at": _TIMES,
                "created_at": _TIMES,
                "started_at": _TIMES,
                "attempt": _NUMBERS,
                "store": st.text(max_size=5),
                "kind": st.sampled_from(
                    ["admitted", "started", "step-done", "retry", "ended", "other"]
                ),
                "status": _STATUSES,
                "usage": st.fixed_dictionaries({"cost_nanousd": _NUMBERS, "images": _NUMBERS}),
                "former": st.none()
                | st.fixed_dictionaries(
                    {"status": _STATUSES, "at": _TIMES, "begun": st.booleans()}
                ),
            }
        ),
        max_size=6,
    )
)
def test_valid_messages_never_stop_counting(changes: list[dict[str, Any]]) -> None:
    shards, local = ShardTable({}), make_local_state()
    for fields in changes:
        value = json.dumps(
            json.loads(orjson.dumps(EVENT)) | fields
        ).encode()  # which writes integers of any size
        try:
            event = validate_message(
                decode_message(value, [("ce_type", JobEvent.TYPE.encode())]), NOW, JobEvent
            )
        except InvalidMessage:
            continue
        count_events([event], shards, local)
        assert local.recent.timeline(event.job) is not None
    assert all(number >= 0 for number in local.stats.total["counts"].values())

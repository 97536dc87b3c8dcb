"""Cursors, page limits and Retry-After."""

from datetime import UTC, datetime, timedelta, timezone
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.ingest.http import rules
from services.ingest.http.rules import InvalidRequestError

NOW = datetime(2026, 11, 24, 12, tzinfo=UTC)
JOB = UUID("019392d0-0000-7000-8000-000000000001")


@pytest.mark.parametrize(("seconds", "header"), [(0, 1), (0.2, 1), (1, 1), (1.2, 2), (60, 60)])
def test_retry_after_rounds_up_to_at_least_one_second(seconds: float, header: int) -> None:
    assert rules.retry_after_seconds(seconds) == header


@given(
    st.datetimes(
        datetime(2000, 1, 1),  # noqa: DTZ001 - the zone is drawn apart
        datetime(2100, 1, 1),  # noqa: DTZ001
        timezones=st.just(UTC),
    ),
    st.uuids(),
)
def test_cursor_round_trips(at: datetime, job: UUID) -> None:
    cursor = rules.encode_cursor(at, job)
    assert rules.decode_cursor(cursor) == (at, job)
    assert cursor.replace("-", "").replace("_", "").isalnum()


@given(st.text(max_size=80))
def test_other_text_is_refused_as_cursor(text: str) -> None:
    with pytest.raises(InvalidRequestError, match="cursor"):
        rules.decode_cursor(text)


def test_forged_cursor_is_refused() -> None:
    beyond = rules.encode_cursor(datetime(1, 1, 1, tzinfo=timezone(timedelta(hours=23))), JOB)
    zoneless = rules.encode_cursor(NOW.replace(tzinfo=None), JOB)
    for cursor in (beyond, zoneless):
        with pytest.raises(InvalidRequestError):
            rules.decode_cursor(cursor)


@pytest.mark.parametrize("text", ["0", "101", "-1", "x", "", "1e1", "²", "0x1"])
def test_invalid_limit_is_refused(text: str) -> None:
    with pytest.raises(InvalidRequestError, match="limit"):
        rules.parse_limit(text)


def test_limit_from_1_to_100_is_accepted() -> None:
    assert (rules.parse_limit("1"), rules.parse_limit("100")) == (1, 100)

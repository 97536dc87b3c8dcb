"""The packed form of a first request loses nothing."""

from datetime import UTC, datetime

from hypothesis import given
from hypothesis import strategies as st

from services.ingest.submit.idempotency import FirstRequest

_ANY_TIME = st.datetimes(
    datetime(1970, 1, 1),  # noqa: DTZ001 - hypothesis adds the zone
    datetime(2100, 1, 1),  # noqa: DTZ001
    timezones=st.just(UTC),
)


@given(fingerprint=st.text(st.characters(exclude_categories=["Cs"])), at=_ANY_TIME)
def test_packed_request_unpacks_unchanged(fingerprint: str, at: datetime) -> None:
    first = FirstRequest(fingerprint, at)
    assert FirstRequest.unpack(first.pack()) == first

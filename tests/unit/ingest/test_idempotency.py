"""A claim as it is kept is the claim as it was heard."""

from datetime import UTC, datetime

from hypothesis import given
from hypothesis import strategies as st

from services.ingest.submit.idempotency import Claimed

_ANY_TIME = st.datetimes(datetime(1970, 1, 1), datetime(2100, 1, 1), timezones=st.just(UTC))  # noqa: DTZ001 - as it wants


@given(fingerprint=st.text(st.characters(exclude_categories=["Cs"])), at=_ANY_TIME)
def test_what_is_packed_comes_out_the_same(fingerprint: str, at: datetime) -> None:
    claimed = Claimed(fingerprint, at)
    assert Claimed.unpacked(claimed.packed()) == claimed

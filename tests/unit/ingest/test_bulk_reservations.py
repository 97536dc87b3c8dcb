"""Jobs that were promised room and have no row yet: counted until they have one, or for a minute."""

from uuid import uuid4

from services.ingest.submit.bulk_reservations import Underway


def test_what_is_promised_counts_until_it_has_come_or_is_given_up() -> None:
    underway, jobs, others = Underway(), [uuid4(), uuid4()], [uuid4()]
    assert underway.add("shop", jobs, now=0) == jobs
    assert underway.add("shop", jobs, now=5) == [], "a repeat is no new promise"
    underway.add("other", others, now=10)
    assert (underway.of("shop"), underway.of("other"), len(underway)) == (jobs, others, 3)
    underway.drop([jobs[0], uuid4()])
    underway.forget(now=59)
    assert underway.of("shop") == jobs[1:]
    underway.forget(now=60)
    assert (underway.of("shop"), underway.of("other"), len(underway)) == ([], others, 1)

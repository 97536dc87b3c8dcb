"""Reservations of bulk calls count until the job has a row, or for a minute."""

from uuid import uuid4

from services.ingest.submit.bulk_reservations import PendingBulkReservations


def test_reservation_counts_until_released_or_expired() -> None:
    reservations, jobs, others = PendingBulkReservations(), [uuid4(), uuid4()], [uuid4()]
    assert reservations.reserve("shop", jobs, now=0) == jobs
    assert reservations.reserve("shop", jobs, now=5) == [], "a repeat reserves nothing"
    reservations.reserve("other", others, now=10)
    assert (reservations.jobs_of("shop"), reservations.jobs_of("other")) == (jobs, others)
    assert len(reservations) == 3
    reservations.release([jobs[0], uuid4()])
    reservations.release_expired(now=59)
    assert reservations.jobs_of("shop") == jobs[1:]
    reservations.release_expired(now=60)
    assert (reservations.jobs_of("shop"), reservations.jobs_of("other")) == ([], others)
    assert len(reservations) == 1

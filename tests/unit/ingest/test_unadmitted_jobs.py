"""Reservations of bulk calls count until the job has a row, or for a minute."""

from uuid import uuid4

from services.ingest.submit.unadmitted_jobs import UnadmittedBulkJobs


def test_reservation_counts_until_released_or_expired() -> None:
    unadmitted, jobs, others = UnadmittedBulkJobs(), [uuid4(), uuid4()], [uuid4()]
    assert unadmitted.add_jobs("shop", jobs, now=0) == jobs
    assert unadmitted.add_jobs("shop", jobs, now=5) == [], "a repeat counts once"
    unadmitted.add_jobs("other", others, now=10)
    assert (unadmitted.jobs_of("shop"), unadmitted.jobs_of("other")) == (jobs, others)
    assert len(unadmitted) == 3
    unadmitted.remove_jobs([jobs[0], uuid4()])
    unadmitted.remove_expired(now=59)
    assert unadmitted.jobs_of("shop") == jobs[1:]
    unadmitted.remove_expired(now=60)
    assert (unadmitted.jobs_of("shop"), unadmitted.jobs_of("other")) == ([], others)
    assert len(unadmitted) == 1

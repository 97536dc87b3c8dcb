"""The circuit breaker opens on evidence from two jobs and closes with a success."""

from uuid import UUID

from services.generator.providers.outcomes.circuit_breaker import CircuitBreaker

A, B, C, D = (UUID(int=number) for number in (1, 2, 3, 4))


def open_by_rejections(now: float) -> CircuitBreaker:
    circuit = CircuitBreaker()
    circuit.record_rejection(A, now, now)
    assert circuit.record_rejection(B, now, now)
    return circuit


def test_open_circuit_allows_one_probe_and_closes_on_success() -> None:
    circuit = open_by_rejections(now=100)
    assert not circuit.record_rejection(D, requested_at=101, now=102), "begun with an old permit"
    assert not circuit.allow_call(114, C)
    assert circuit.is_probe_due(115)
    assert circuit.allow_call(115, C)
    assert not circuit.allow_call(116, A)
    assert circuit.record_success(requested_at=115)
    assert circuit.allow_call(116, A)


def test_one_job_never_opens_the_circuit() -> None:
    circuit = CircuitBreaker()
    for now in range(100):
        assert not circuit.record_failure(A, now, now)
        assert not circuit.record_rejection(A, now, now)
    assert not circuit.is_open


def test_five_failures_of_two_jobs_without_a_success_open_the_circuit() -> None:
    circuit = CircuitBreaker()
    for now in range(20):
        assert not circuit.record_failure(A, now, now)
        assert not circuit.record_failure(B, now, now)
        circuit.record_success(now, billed=False)
    failures = [circuit.record_failure(job, 30, 30) for job in (A, A, A, A, B)]
    assert failures == [False] * 4 + [True]
    assert circuit.seconds_until_probe(30) == 5


def test_any_success_ends_an_outage() -> None:
    circuit = CircuitBreaker()
    for job in (A, B, A, B, A):
        circuit.record_failure(job, 10, 10)
    assert circuit.is_open
    assert circuit.record_success(requested_at=1, billed=False)


def test_only_a_later_billed_success_ends_a_rejection() -> None:
    circuit = open_by_rejections(now=100)
    assert not circuit.record_success(requested_at=99)
    assert not circuit.record_success(requested_at=101, billed=False)
    assert circuit.record_success(requested_at=101)


def test_rejected_probe_doubles_the_pause_up_to_ten_minutes() -> None:
    circuit, now, pauses = open_by_rejections(now=0), 0.0, []
    for number in range(8):
        pauses.append(circuit.seconds_until_probe(now))
        now += pauses[-1]
        job = UUID(int=number + 10)
        assert circuit.allow_call(now, job)
        circuit.record_rejection(job, now, now)
    assert pauses == [15, 30, 60, 120, 240, 480, 600, 600]


def test_probe_goes_to_another_job_first() -> None:
    circuit = CircuitBreaker()
    for job in (A, A, A, B, B):
        circuit.record_failure(job, 0, 0)
    assert not any(circuit.allow_call(14, job) for job in (A, B)), "their own calls failed"
    assert circuit.allow_call(14, C)
    circuit.record_failure(C, 14, 14)
    assert circuit.seconds_until_probe(14) == 10
    assert not circuit.allow_call(33, A)
    assert circuit.allow_call(34, A), "no other job came"


def test_two_rejected_jobs_do_not_stop_a_provider_that_serves_others() -> None:
    circuit = CircuitBreaker()
    circuit.record_success(requested_at=90)
    rejected = [circuit.record_rejection(job, 100, 100) for job in (A, B, C, D)]
    assert rejected == [False, False, False, True]
    quiet = CircuitBreaker()
    quiet.record_success(requested_at=39)
    assert [quiet.record_rejection(job, 100, 100) for job in (A, B)] == [False, True]

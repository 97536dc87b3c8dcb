"""The circuit breaker opens when a provider rejects the account or fails repeatedly."""

from services.generator.providers.circuit_breaker import CircuitBreaker


def test_open_circuit_allows_one_probe_and_closes_on_success() -> None:
    circuit = CircuitBreaker()
    assert circuit.trip_account(now=100)
    assert not circuit.trip_account(now=101)
    assert not circuit.allow_call(now=159)
    assert circuit.is_probe_due(now=160)
    assert circuit.allow_call(now=160)
    assert not circuit.allow_call(now=161)
    assert circuit.record_success(requested_at=160)
    assert circuit.allow_call(now=161)


def test_rejected_probe_doubles_the_pause_up_to_ten_minutes() -> None:
    circuit, now = CircuitBreaker(), 0.0
    pauses = []
    for _ in range(6):
        circuit.trip_account(now)
        pauses.append(circuit.seconds_until_probe(now))
        now += pauses[-1]
        assert circuit.allow_call(now)
    assert pauses == [60, 120, 240, 480, 600, 600]


def test_success_of_an_earlier_call_does_not_close_the_circuit() -> None:
    circuit = CircuitBreaker()
    circuit.trip_account(now=100)
    assert not circuit.record_success(requested_at=99)
    assert circuit.is_open


def test_five_consecutive_failures_open_the_circuit() -> None:
    circuit = CircuitBreaker()
    for _ in range(20):
        assert not any(circuit.record_failure(requested_at=1, now=1) for _ in range(4))
        circuit.record_success(requested_at=1)
    failures = [circuit.record_failure(requested_at=2, now=2) for _ in range(5)]
    assert failures == [False] * 4 + [True]
    assert circuit.seconds_until_probe(now=2) == 5
    assert not circuit.record_failure(requested_at=1, now=3), "begun before the circuit opened"
    assert circuit.seconds_until_probe(now=3) == 4


def test_failed_probe_doubles_the_pause_up_to_a_minute() -> None:
    circuit, now, pauses = CircuitBreaker(), 0.0, []
    for _ in range(5):
        circuit.record_failure(requested_at=now, now=now)
    for _ in range(6):
        pauses.append(circuit.seconds_until_probe(now))
        now += pauses[-1]
        assert circuit.allow_call(now)
        circuit.record_failure(requested_at=now, now=now)
    assert pauses == [5, 10, 20, 40, 60, 60]


def test_call_that_must_not_fail_is_not_a_probe() -> None:
    circuit = CircuitBreaker()
    circuit.trip_account(now=0)
    assert not circuit.allow_call(now=99, may_probe=False)
    assert circuit.allow_call(now=99)

"""The circuit that opens when a provider turns the whole account away, or does not serve at all."""

from services.generator.providers.circuit_breaker import CircuitBreaker


def test_it_admits_one_probe_after_its_pause_and_closes_when_that_is_answered() -> None:
    circuit = CircuitBreaker()
    assert circuit.trip_account(now=100)
    assert not circuit.trip_account(now=101)
    assert not circuit.allow_call(now=159)
    assert circuit.is_probe_due(now=160)
    assert circuit.allow_call(now=160)
    assert not circuit.allow_call(now=161)
    assert circuit.record_success(asked_at=160)
    assert circuit.allow_call(now=161)


def test_each_refused_probe_doubles_the_pause_up_to_ten_minutes() -> None:
    circuit, now = CircuitBreaker(), 0.0
    pauses = []
    for _ in range(6):
        circuit.trip_account(now)
        pauses.append(circuit.seconds_until_probe(now))
        now += pauses[-1]
        assert circuit.allow_call(now)
    assert pauses == [60, 120, 240, 480, 600, 600]


def test_an_answer_to_what_was_asked_before_it_opened_proves_nothing() -> None:
    circuit = CircuitBreaker()
    circuit.trip_account(now=100)
    assert not circuit.record_success(asked_at=99)
    assert circuit.is_open


def test_failures_in_a_row_are_an_outage_and_one_success_between_makes_them_none() -> None:
    circuit = CircuitBreaker()
    for _ in range(20):
        assert not any(circuit.record_failure(asked_at=1, now=1) for _ in range(4))
        circuit.record_success(asked_at=1)
    assert [circuit.record_failure(asked_at=2, now=2) for _ in range(5)] == [False] * 4 + [True]
    assert circuit.seconds_until_probe(now=2) == 5
    assert not circuit.record_failure(asked_at=1, now=3), "it was begun before"
    assert circuit.seconds_until_probe(now=3) == 4


def test_probes_of_an_outage_come_less_and_less_often_up_to_a_minute() -> None:
    circuit, now, pauses = CircuitBreaker(), 0.0, []
    for _ in range(5):
        circuit.record_failure(asked_at=now, now=now)
    for _ in range(6):
        pauses.append(circuit.seconds_until_probe(now))
        now += pauses[-1]
        assert circuit.allow_call(now)
        circuit.record_failure(asked_at=now, now=now)
    assert pauses == [5, 10, 20, 40, 60, 60]


def test_who_may_not_fail_again_does_not_probe() -> None:
    circuit = CircuitBreaker()
    circuit.trip_account(now=0)
    assert not circuit.allow_call(now=99, may_probe=False)
    assert circuit.allow_call(now=99)

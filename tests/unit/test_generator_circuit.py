"""The circuit that opens when a provider turns the whole account away."""

from services.generator.rules.circuit import Circuit


def test_it_admits_one_probe_after_its_pause_and_closes_when_that_is_answered() -> None:
    circuit = Circuit()
    assert circuit.trip(now=100)
    assert not circuit.trip(now=101)
    assert not circuit.admit(now=159)
    assert circuit.wants_probe(now=160)
    assert circuit.admit(now=160)
    assert not circuit.admit(now=161)
    assert circuit.close(asked_at=160)
    assert circuit.admit(now=161)


def test_each_refused_probe_doubles_the_pause_up_to_ten_minutes() -> None:
    circuit, now = Circuit(), 0.0
    pauses = []
    for _ in range(6):
        circuit.trip(now)
        pauses.append(circuit.retry_in(now))
        now += pauses[-1]
        assert circuit.admit(now)
    assert pauses == [60, 120, 240, 480, 600, 600]


def test_an_answer_to_what_was_asked_before_it_opened_proves_nothing() -> None:
    circuit = Circuit()
    circuit.trip(now=100)
    assert not circuit.close(asked_at=99)
    assert circuit.is_open

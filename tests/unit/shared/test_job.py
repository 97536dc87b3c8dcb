"""A job's life: the table allows what the design says, and everything else raises."""

from itertools import product

import pytest

from shared.domain.job import ENDED, TRANSITIONS, IllegalTransitionError, Status, move

LEGAL = {(current, target) for current, targets in TRANSITIONS.items() for target in targets}


@pytest.mark.parametrize(("current", "target"), list(product(Status, Status)))
def test_only_the_table_decides(current: Status, target: Status) -> None:
    if (current, target) in LEGAL:
        assert move(current, target) is target
    else:
        with pytest.raises(IllegalTransitionError, match=f"{current} cannot become {target}"):
            move(current, target)


def test_every_status_has_its_row_and_can_be_reached() -> None:
    assert set(TRANSITIONS) == set(Status)
    reached = {Status.PENDING} | {target for _, target in LEGAL}
    assert reached == set(Status)


def test_what_is_done_stays_done() -> None:
    assert TRANSITIONS[Status.DONE] == frozenset()
    assert Status.DONE in ENDED
    assert {Status.PENDING, Status.PROCESSING}.isdisjoint(ENDED)

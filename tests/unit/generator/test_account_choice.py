"""The account of a call is the one whose permit comes first."""

from math import inf

import pytest

from services.generator.providers.accounts.choice import (
    AccountState,
    Offer,
    choose_account,
    select_offers,
    should_move,
)

OFFERS = (
    Offer(name="main", model="small"),
    Offer(name="second", model="small"),
    Offer(name="large", model="large", only_on_request=True),
)


def state(name: str, wait_s: float = 0.0, **fields: float | bool) -> AccountState:
    values = {"serves": True, "fallback": 0} | fields
    return AccountState(name=name, wait_s=wait_s, **values)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("pinned", "model", "names"),
    [
        (None, None, ("main", "second")),
        (None, "large", ("large",)),
        (None, "small", ("main", "second")),
        (None, "withdrawn", ("main", "second")),
        ("large", None, ("large",)),
        ("second", "small", ("second",)),
        ("second", "large", ("second",)),
        ("second", "withdrawn", ("second",)),
    ],
)
def test_model_and_pinned_store_select_accounts(
    pinned: str | None, model: str | None, names: tuple[str, ...]
) -> None:
    assert select_offers(OFFERS, pinned=pinned, model=model) == names


@pytest.mark.parametrize(
    ("states", "name"),
    [
        ([state("a", 3), state("b", 1)], "b"),
        ([state("a", calls=10), state("b", calls=8)], "b"),
        ([state("a", calls=10, weight=2), state("b", calls=8)], "a"),
        ([state("a", 60), state("b", 0, fallback=1)], "a"),
        ([state("a", serves=False), state("b", 9, fallback=1), state("c", fallback=2)], "b"),
        ([state("a", inf), state("b", 5, fallback=1)], "b"),
        ([state("a", serves=False), state("b", inf)], None),
        ([], None),
    ],
)
def test_first_permit_of_the_lowest_fallback_wins(
    states: list[AccountState], name: str | None
) -> None:
    assert choose_account(states) == name


@pytest.mark.parametrize(
    ("here", "other", "moves"),
    [
        (state("a", 4), state("b", 3), False),
        (state("a", 4), state("b", 1), True),
        (state("a", 0), state("b", 0), False),
        (state("a", 4, serves=False), state("b", 30), True),
        (state("a", 4, serves=False), state("b", serves=False), False),
        (state("a", 600), state("b", 0, fallback=1), False),
    ],
)
def test_waiting_call_moves_for_a_much_earlier_permit(
    here: AccountState, other: AccountState, moves: bool
) -> None:
    assert should_move("a", {"a": here, "b": other}) is moves

"""Chooses the account of a call: the one whose permit comes first. Pure."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from math import inf

_AT_ONCE_S = 0.1
"""Shorter waits are equal: weights decide then."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AccountState:
    """An account that may make a call, as its limiter sees it now."""

    name: str
    fallback: int = 0
    """Accounts with a higher number are used while no lower one serves."""
    weight: float = 1.0
    serves: bool
    """It has quota on this worker, a closed circuit (or a due probe), and no cool-down."""
    wait_s: float
    """Seconds until a permit; infinite without quota."""
    closed_s: float = 0.0
    """Seconds until an open circuit allows a probe."""
    calls: float = 0.0
    """The calls granted lately, to divide them by weight while no account makes calls wait."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Offer:
    """An account that the operator offers."""

    name: str
    model: str
    only_on_request: bool = False


def select_offers(
    offers: Sequence[Offer], *, pinned: str | None, model: str | None
) -> tuple[str, ...]:
    """Return the names of the accounts that may serve a job.

    A pinned store uses its account alone. A job without a
    model uses the accounts that serve by default. A model that is no longer offered is written by
    the default accounts, because an accepted job is never refused.
    """
    by_model = tuple(offer.name for offer in offers if model is not None and offer.model == model)
    if pinned is not None:
        return (pinned,)
    return by_model or tuple(offer.name for offer in offers if not offer.only_on_request)


def choose_account(states: Iterable[AccountState]) -> str | None:
    """Return the account whose permit comes first.

    Only the lowest fallback number with an account that serves competes; `None` if none serves.
    """
    serving = [state for state in states if state.serves and state.wait_s < inf]
    lowest = min((state.fallback for state in serving), default=0)
    competing = [state for state in serving if state.fallback == lowest]
    best = min(
        competing,
        key=lambda state: (
            state.wait_s if state.wait_s > _AT_ONCE_S else 0.0,
            state.calls / state.weight,
            state.name,
        ),
        default=None,
    )
    return best.name if best is not None else None


def should_move(current: str, states: Mapping[str, AccountState]) -> bool:
    """Return whether a call that waits at an account should wait at another one instead.

    The other permit must come in less than half of the time, so that calls do not move to and fro.
    """
    best = choose_account(states.values())
    if best is None or best == current:
        return False
    here = states[current]
    if not here.serves:
        return True
    return here.wait_s > _AT_ONCE_S and states[best].wait_s < here.wait_s / 2

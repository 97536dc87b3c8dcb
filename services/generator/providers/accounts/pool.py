"""Several provider accounts behind one interface: each call takes the one whose permit comes first.

A waiting call moves to another account when that one will serve it much earlier: because its own
account stops serving, or because the line there is longer.
"""

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import TypeVar
from uuid import UUID

from pydantic import BaseModel

from services.generator.providers.accounts.choice import (
    AccountState,
    Offer,
    choose_account,
    select_offers,
    should_move,
)
from services.generator.providers.openai.provider import OpenAITextProvider, TextCall
from services.generator.providers.outcomes.outcome import Outcome, OutcomeKind
from services.generator.providers.replicate.prediction import Prediction
from services.generator.providers.replicate.provider import ReplicateImageProvider
from services.generator.providers.replicate.reads import GeneratedImage, UnusablePrediction
from services.generator.quota.concurrency import PermitSupply, add_lead
from services.generator.quota.held_jobs import HeldJobs
from services.generator.quota.rules import Permit, PermitRank
from shared.domain.errors import Transient
from shared.domain.messages import Need, Usage

A = TypeVar("A", bound=BaseModel)
States = Callable[[], Mapping[str, AccountState]]

_RECONSIDER_EVERY_S = 1.0
_LOST_ACCOUNT = Outcome(
    kind=OutcomeKind.ANSWER_FAULT,
    code="replicate-gone",
    reason="the account that created the prediction is no longer configured",
    in_doubt=True,
)


class TextAccountPool:
    """Writes texts with several accounts. `pinned` names the account of pinned stores."""

    def __init__(
        self,
        providers: Sequence[OpenAITextProvider],
        offers: Sequence[Offer],
        pinned: Mapping[str, str],
        held: HeldJobs,
    ) -> None:
        self._providers = {provider.name: provider for provider in providers}
        self._offers = offers
        self._pinned = pinned
        self._held = held

    def is_valid(self, permit: Permit) -> bool:
        """Return whether the call may still begin; otherwise it needs a new permit."""
        return self._providers[permit.provider].is_valid(permit)

    async def acquire_permit(self, call: TextCall, answer: type[A]) -> Permit:
        """Wait for a permit of any account that may serve the call."""
        permit = await acquire_first(
            lambda: self._states(call, answer),
            lambda name: self._providers[name].acquire_permit(call, answer),
        )
        self._held.record_permit(call.job, Need.TEXT, permit.reservation.needs)
        return permit

    def permit_supplies(self, within_s: float) -> list[PermitSupply]:
        """Return what each account that serves by default offers to jobs in the next seconds."""
        names = select_offers(self._offers, pinned=None, model=None)
        providers = [self._providers[name] for name in names]
        return _permit_supplies(providers, self._held.mean_needs(Need.TEXT), within_s)

    def count_queued_jobs(self) -> int:
        """Return how many jobs without a permit wait in the permit queues of all accounts."""
        return sum(provider.limiter.queued_starts for provider in self._providers.values())

    async def write_text(self, call: TextCall, answer: type[A], permit: Permit) -> tuple[A, Usage]:
        """Return the parsed answer and its usage, by the account of the permit.

        Raises `Transient`, `Permanent`, `UnusableAnswer` or `UnsupportedFeature`.
        """
        try:
            return await self._providers[permit.provider].write_text(call, answer, permit)
        except Transient as error:
            _shorten_delay(error, permit.provider, self._states(call, answer))
            raise

    def _states(self, call: TextCall, answer: type[BaseModel]) -> dict[str, AccountState]:
        names = select_offers(self._offers, pinned=self._pinned.get(call.store), model=call.model)
        return {name: self._providers[name].state_for(call, answer) for name in names}


class ImageAccountPool:
    """Creates images with several accounts."""

    def __init__(self, providers: Sequence[ReplicateImageProvider], held: HeldJobs) -> None:
        self._providers = {provider.name: provider for provider in providers}
        self._first = providers[0]
        self._held = held

    def is_valid(self, permit: Permit) -> bool:
        """Return whether the prediction may still be created; otherwise it needs a new permit."""
        return self._providers[permit.provider].is_valid(permit)

    async def acquire_permit(self, job: UUID, rank: PermitRank) -> Permit:
        """Wait for a permit of any account for one prediction."""
        self._held.record_begin(job)
        self._held.record_image_wait(job)
        permit = await acquire_first(
            lambda: self._states(job, rank),
            lambda name: self._providers[name].acquire_permit(job, rank),
        )
        self._held.record_permit(job, Need.IMAGES, permit.reservation.needs)
        self._held.record_image_permit(job)
        return permit

    def permit_supplies(self, within_s: float) -> list[PermitSupply]:
        """Return what each account offers to jobs that need an image in the next seconds.

        `within_s` begins when a job waits for the permit of its image.
        """
        lead_s = self._held.image_lead_s
        providers = list(self._providers.values())
        needs = self._held.mean_needs(Need.IMAGES)
        supplies = _permit_supplies(providers, needs, lead_s + within_s)
        return [add_lead(supply, lead_s) for supply in supplies]

    async def create_prediction(self, job: UUID, prompt: str, permit: Permit) -> Prediction:
        """Create a prediction with the account of the permit. From now on it is paid for.

        Raises `Transient` or `Permanent`.
        """
        try:
            return await self._providers[permit.provider].create_prediction(job, prompt)
        except Transient as error:
            _shorten_delay(error, permit.provider, self._states(job, permit.reservation.rank))
            raise

    async def fetch_image(self, job: UUID, prediction: Prediction) -> GeneratedImage:
        """Wait for a prediction and fetch its image, with the account that created it.

        Raises `UnusablePrediction`, `Transient` or `Permanent`.
        """
        self._held.record_begin(job)
        self._held.record_image_permit(job)
        if prediction.account is None:  # created by an older release, with one account
            return await self._first.fetch_image(job, prediction)
        if prediction.account not in self._providers:
            raise UnusablePrediction(_LOST_ACCOUNT, Usage())
        return await self._providers[prediction.account].fetch_image(job, prediction)

    def _states(self, job: UUID, rank: PermitRank) -> dict[str, AccountState]:
        return {name: provider.state_for(job, rank) for name, provider in self._providers.items()}


def _permit_supplies(
    providers: Sequence[OpenAITextProvider | ReplicateImageProvider],
    job_needs: Mapping[str, float] | None,
    within_s: float,
) -> list[PermitSupply]:
    """Return the supplies of the accounts that serve now, of the lowest fallback number only."""
    serving = [provider for provider in providers if provider.limiter.is_accepting]
    lowest = min((provider.fallback for provider in serving), default=0)
    return [
        provider.limiter.estimate_starts(job_needs, within_s)
        for provider in serving
        if provider.fallback == lowest
    ]


async def acquire_first(states: States, acquire: Callable[[str], Awaitable[Permit]]) -> Permit:
    """Acquire a permit of the account where it comes first.

    Raises `Transient` if no account serves.
    """
    while True:
        now = states()
        name = choose_account(now.values()) or _least_bad(now)
        if len(now) == 1:
            return await acquire(name)
        try:
            permit = await _acquire_unless_earlier(name, states, acquire)
        except Transient:
            if choose_account(states().values()) in (None, name):
                raise
            continue
        if permit is not None:
            return permit


async def _acquire_unless_earlier(
    name: str, states: States, acquire: Callable[[str], Awaitable[Permit]]
) -> Permit | None:
    """Return the account's permit, or `None` once another account's permit comes much earlier."""
    waiting = asyncio.ensure_future(acquire(name))
    try:
        while True:
            await asyncio.wait({waiting}, timeout=_RECONSIDER_EVERY_S)
            if waiting.done():
                return waiting.result()
            if should_move(name, states()):
                return await _withdraw(waiting)
    finally:
        waiting.cancel()


async def _withdraw(waiting: "asyncio.Future[Permit]") -> Permit | None:
    """Leave the line. Returns the permit if the wait had ended already, because it is charged."""
    waiting.cancel()
    await asyncio.wait({waiting})
    return None if waiting.cancelled() else waiting.result()


def _shorten_delay(error: Transient, failed: str, states: Mapping[str, AccountState]) -> None:
    """Let the job go on at once if an account other than the failed one serves.

    A failure that is the job's own trouble would meet it there as well.
    """
    others = [state for name, state in states.items() if name != failed]
    if error.blameless and not error.isolated and choose_account(others) is not None:
        error.delay = 0.0


def _least_bad(states: Mapping[str, AccountState]) -> str:
    """Return the account to wait for while none serves: the one that will serve first."""

    def rank(state: AccountState) -> tuple[float, int, str]:
        return max(state.wait_s, state.closed_s), state.fallback, state.name

    return min(states.values(), key=rank).name

"""The limiter's shell: calls wait here for their turn; the rules decide, a timer wakes them."""

import asyncio
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta

from services.generator.rules.limiter import Limiter, Ticket
from shared.errors import Transient
from shared.messages import LimiterState


def _no_share() -> Transient:
    return Transient("this worker owns no partition, and so no part of the budget", code="no-share", delay=0.0)


class ProviderLimiter:
    """One provider's budget in this worker. `acquire` returns once the call may be made."""

    def __init__(self, *, provider: str, model: str, limits: Mapping[str, float], burst_s: float) -> None:
        self._provider = provider
        self._model = model
        self._loop = asyncio.get_running_loop()
        self._rules = Limiter(limits, burst_s=burst_s, now=self._loop.time())
        self._waiters: dict[Ticket, asyncio.Future[None]] = {}
        self._timer: asyncio.TimerHandle | None = None
        self._share = 0.0

    async def acquire(self, needs: Mapping[str, float]) -> None:
        """Wait for the turn of a call with these needs; they are spent when this returns.

        `Transient` while this worker owns no part of the budget: another has it, and is to have the job.
        """
        if self._share <= 0:
            raise _no_share()
        ticket = self._rules.ask(needs, self._loop.time())
        waiter = self._waiters[ticket] = self._loop.create_future()
        self._pump()
        try:
            await waiter
        except asyncio.CancelledError:
            self._rules.leave(ticket)
            self._waiters.pop(ticket, None)
            self._pump()  # the next in line may fit where this one did not
            raise

    def set_share(self, share: float) -> None:
        """Own this part (0 to 1) of the account's limits from now on."""
        self._share = share
        self._rules.set_share(share, self._loop.time())
        if share <= 0:
            for ticket, waiter in self._waiters.items():
                self._rules.leave(ticket)
                if not waiter.done():
                    waiter.set_exception(_no_share())
            self._waiters.clear()
        self._pump()

    def cool_down(self, seconds: float) -> None:
        self._rules.cool_down(seconds, self._loop.time())

    def states(self) -> tuple[LimiterState, ...]:
        """One state a resource, for the report."""
        now = self._loop.time()
        cooling = self._rules.cooling_for(now)
        return tuple(
            LimiterState(
                provider=self._provider, model=self._model, resource=resource, limit=limit,
                share=limit * self._share, level=round(self._rules.level(resource, now), 3),
                used=self._rules.used(resource, now), queued=self._rules.queued,
                cooling_until=datetime.now(UTC) + timedelta(seconds=cooling) if cooling else None,
            )
            for resource, limit in self._rules.limits.items()
        )  # fmt: skip

    def _pump(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        for ticket in self._rules.grant(self._loop.time()):
            waiter = self._waiters.pop(ticket)
            if not waiter.done():
                waiter.set_result(None)
        wait = self._rules.next_grant_in(self._loop.time())
        if wait is not None and wait != float("inf"):
            self._timer = self._loop.call_later(max(wait, 0.001), self._pump)

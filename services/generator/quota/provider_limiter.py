"""The limiter's shell: calls wait here for their turn; the rules decide, a timer wakes them."""

import asyncio
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from math import inf

from services.generator.providers.circuit_breaker import CircuitBreaker
from services.generator.providers.headers import parse_number
from services.generator.quota.rules import Permit, RateLimiter, Reservation
from shared.domain.errors import Transient
from shared.domain.messages import LimiterReport
from shared.observability.log import get_logger

log = get_logger(__name__)

_FRESH_S = 3.0
"""Between a grant and its call there is one write to PostgreSQL."""


def _no_share() -> Transient:
    return Transient(
        "this worker owns no partition, and so no part of the budget",
        code="no-share",
        delay=0.0,
        blameless=True,
    )


def _stopping() -> Transient:
    return Transient(
        "the worker stopped and handed it back", code="stopping", delay=0.0, blameless=True
    )


class ProviderLimiter:
    """One provider's budget in this worker. `acquire` returns once the call may be made."""

    def __init__(
        self, *, provider: str, model: str, limits: Mapping[str, float], burst_s: float
    ) -> None:
        self.provider = provider
        self._model = model
        self._loop = asyncio.get_running_loop()
        self._rules = RateLimiter(limits, burst_s=burst_s, now=self._loop.time())
        self._circuit = CircuitBreaker()
        self._shut_by = ""
        self._closed = False
        self._waiters: dict[Reservation, asyncio.Future[Permit]] = {}
        self._timer: asyncio.TimerHandle | None = None
        self._share: float | None = None
        """None: not known yet, or in doubt while a rebalance goes on."""
        self._partitions: Sequence[int] = ()
        self._turn = 0

    async def acquire(self, needs: Mapping[str, float], *, may_probe: bool = True) -> Permit:
        """Wait for the turn of a call with these needs; they are spent when this returns.

        `Transient` while this worker owns no part of the budget (another has it, and is to have the job), while the
        provider is not to be asked (a call that must not fail again does not probe), and once the worker stops.
        ValueError for a call over the account's limit.
        """
        if self._closed:
            raise _stopping()
        if self._share == 0:
            raise _no_share()
        if not self._circuit.allow_call(self._loop.time(), may_probe=may_probe):
            raise self._until_it_opens()
        ticket = self._rules.reserve(needs, self._loop.time())
        waiter = self._waiters[ticket] = self._loop.create_future()
        self._pump()
        try:
            granted: Permit = await waiter
        except asyncio.CancelledError:
            self._rules.cancel_reservation(ticket)
            self._waiters.pop(ticket, None)
            self._pump()  # the next in line may fit where this one did not
            raise
        return granted

    def is_valid(self, grant: Permit) -> bool:
        """Whether the call may still be made. A leave that was not used at once is void: the bucket has refilled since,
        and others may own it."""
        now = self._loop.time()
        return now - grant.given_at <= _FRESH_S and self._rules.is_leased(now)

    def close(self) -> None:
        """Grant nothing more: the worker stops, and another is to have the jobs."""
        self._closed = True
        self._refuse(_stopping())

    def assign_share(self, partitions: Sequence[int], share: float, levels: Mapping[str, float]) -> None:
        """Own this part (0 to 1) of the account's limits from now on, with what the last owners left of it."""
        self._partitions, self._share = partitions, share
        self._rules.assign_share(share, levels, self._loop.time())
        if share <= 0:
            self._refuse(_no_share())
        self._pump()

    def pause(self) -> None:
        """Grant nothing until the next `assign_share`; calls wait."""
        self._share = None
        self._rules.pause(self._loop.time())
        self._pump()

    def lease_until(self, until: float) -> None:
        """The share is ours until then (the loop's clock)."""
        self._rules.lease_until(until)
        self._pump()

    def levels(self) -> dict[str, float]:
        """What may be spent at once, by resource; negative is debt."""
        now = self._loop.time()
        return {resource: self._rules.level(resource, now) for resource in self._rules.resources}

    def rates(self) -> dict[str, float]:
        """The account's, in units a second."""
        return {resource: self._rules.limit(resource) / 60 for resource in self._rules.resources}

    def apply_headers(self, grant: Permit, headers: Mapping[str, str]) -> None:
        """Correct what we think of the account by an answer's `x-ratelimit-*` headers."""
        for resource in self._rules.resources:
            limit = parse_number(headers, f"x-ratelimit-limit-{resource}")
            left = parse_number(headers, f"x-ratelimit-remaining-{resource}")
            if limit is not None and left is not None:
                before = self._rules.limit(resource)
                self._rules.apply_headers(
                    grant.reservation, resource, limit=limit, remaining=left, now=self._loop.time()
                )
                self._tell_limit(resource, before)
        self._pump()

    def record_usage(self, grant: Permit, used: Mapping[str, float]) -> None:
        """What the call has used, when its answer tells."""
        self._rules.record_usage(grant.reservation, used, self._loop.time())
        self._pump()

    def start_cool_down(self, seconds: float) -> None:
        self._rules.start_cool_down(seconds, self._loop.time())

    def trip_account(self, why: str) -> Transient:
        """The provider takes nothing from this account: nobody asks again for a while. `why` is for people."""
        self._shut_by = why
        if self._circuit.trip_account(self._loop.time()):
            log.error(
                "the account is turned away: jobs wait",
                provider=self.provider,
                reason=why,
                retry_s=self._retry_s,
            )
            self._refuse(self._until_it_opens())
        return self._until_it_opens()

    def record_failure(self, asked_at: float) -> bool:
        """A call that began then was not served. True while the provider is not asked: it is to blame, and no job."""
        if self._circuit.failed(asked_at, self._loop.time()):
            self._shut_by = "the provider does not serve"
            log.error("an outage: jobs wait", provider=self.provider, seconds=self._retry_s)
            self._refuse(self._until_it_opens())
        return self._circuit.is_open

    def now(self) -> float:
        """The clock of `record_success` and `record_failure`."""
        return self._loop.time()

    def record_success(self, asked_at: float) -> None:
        """The provider has done what it was asked for at that time."""
        if self._circuit.close(asked_at):
            log.info("calls are served again", provider=self.provider)

    @property
    def circuit_open(self) -> bool:
        return self._circuit.is_open

    @property
    def is_probe_due(self) -> bool:
        """Whether an open circuit would let one job find out."""
        return self._circuit.is_probe_due(self._loop.time())

    def build_reports(self) -> tuple[LimiterReport, ...]:
        """One state a resource, for the report."""
        now = self._loop.time()
        cooling, waits = self._rules.cool_down_left(now), self._rules.estimate_waits(now)
        return tuple(
            LimiterReport(
                provider=self.provider,
                model=self._model,
                resource=resource,
                limit=self._rules.limit(resource),
                share=self._rules.limit(resource) * (self._share or 0.0),
                level=round(self._rules.level(resource, now), 3),
                used=self._rules.used(resource, now),
                queued=self._rules.queued,
                wait_s=_finite(waits[-1]) if waits else 0.0,
                pace=round(self._rules.pace(resource), 3),
                cooling_until=datetime.now(UTC) + timedelta(seconds=cooling) if cooling else None,
                circuit_open=self._circuit.is_open,
            )
            for resource in self._rules.resources
        )

    @property
    def _retry_s(self) -> float:
        return round(self._circuit.seconds_until_probe(self._loop.time()), 3)

    def _until_it_opens(self) -> Transient:
        return Transient(
            f"{self.provider}: {self._shut_by}",
            code="provider-unavailable",
            delay=self._retry_s,
            blameless=True,
        )

    def _tell_limit(self, resource: str, before: float) -> None:
        if (limit := self._rules.limit(resource)) != before:
            log.warning(
                "the account's limit is not what was set",
                provider=self.provider,
                resource=resource,
                set=before,
                header=limit,
            )

    def _refuse(self, error: Transient) -> None:
        """Send away all who wait."""
        for ticket, waiter in self._waiters.items():
            self._rules.cancel_reservation(ticket)
            if not waiter.done():
                waiter.set_exception(error)
        self._waiters.clear()

    def _made(self, ticket: Reservation) -> Permit:
        """Made in the moment of the grant: a note written before the waiter wakes up has this call in its level."""
        self._turn += 1
        partition = self._partitions[self._turn % len(self._partitions)]
        return Permit(
            provider=self.provider,
            partition=partition,
            at=datetime.now(UTC),
            reservation=ticket,
            waited_s=self._loop.time() - ticket.requested_at,
            given_at=self._loop.time(),
        )

    def _pump(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        for ticket in self._rules.grant_ready(self._loop.time()):
            waiter = self._waiters.pop(ticket)
            if not waiter.done():
                waiter.set_result(self._made(ticket))
        wait = self._rules.seconds_until_next_grant(self._loop.time())
        if wait is not None and wait != inf:
            self._timer = self._loop.call_later(max(wait, 0.001), self._pump)


def _finite(seconds: float) -> float | None:
    return round(seconds, 3) if seconds != inf else None

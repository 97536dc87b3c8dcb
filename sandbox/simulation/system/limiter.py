"""The line of calls at one worker for one provider account.

This is `ProviderLimiter` of the generator without asyncio: the same rules, and callbacks of the
virtual clock in place of futures and timers.
"""

from collections.abc import Callable, Mapping, Sequence
from math import inf
from typing import cast
from uuid import UUID

from sandbox.simulation.clock import VirtualClock
from sandbox.simulation.settings import WorldSettings
from sandbox.simulation.system.jobs import ProviderCall
from sandbox.simulation.system.providers import SimulatedProvider
from services.generator.providers.outcomes.circuit_breaker import SUSPECTS_LATER_S, CircuitBreaker
from services.generator.quota.concurrency import PermitSupply
from services.generator.quota.rules import PermitRank, RateLimiter, Reservation
from shared.domain.errors import Transient
from shared.domain.messages import LONG_COOL_DOWN_S
from shared.domain.quota_layout import count_carried_calls, spendable_part

_LONG_WAIT_S = 10.0
_NO_QUOTA_PAUSE_S = 1.0
_USUAL_CALLS = 2
_MIN_TIMER_S = 0.001

GrantCall = Callable[[ProviderCall], None]
FailCall = Callable[[ProviderCall, Transient], None]


class SimulatedLimiter:
    """`grant` is called with each call that gets its permit, `fail` with each that gets none."""

    __slots__ = (
        "_calls",
        "_clock",
        "_former_share",
        "_sizes",
        "_stopped",
        "_timer_at",
        "circuit",
        "fail",
        "grant",
        "name",
        "partitions",
        "provider",
        "rules",
        "share",
    )

    def __init__(
        self,
        clock: VirtualClock,
        name: str,
        provider: SimulatedProvider,
        *,
        settings: WorldSettings,
        largest: Mapping[str, float],
        grant: GrantCall,
        fail: FailCall,
    ) -> None:
        self.name = name
        self.provider = provider
        self.grant, self.fail = grant, fail
        limits = settings.limits[name]
        self.rules = RateLimiter(
            limits, burst_s=settings.burst_s, floor=settings.account_floor, now=clock.now
        )
        self.circuit = CircuitBreaker()
        self.share: float | None = None
        """`None` during a rebalance."""
        self.partitions: Sequence[int] = ()
        self._clock = clock
        self._sizes = {name: (limit, largest.get(name, 1.0)) for name, limit in limits.items()}
        self._calls: dict[Reservation, ProviderCall] = {}
        self._former_share = 0.0
        self._stopped = False
        self._timer_at = inf

    def acquire(self, call: ProviderCall, needs: Mapping[str, float], rank: PermitRank) -> None:
        """Put a call into the line, or fail it."""
        error = self._find_refusal(call)
        if error is not None:
            self.fail(call, error)
            return
        reservation = self.rules.reserve(needs, self._clock.now, rank)
        call.reservation = reservation
        self._calls[reservation] = call
        self.grant_ready()

    def grant_ready(self) -> None:
        """Grant all reservations that are ready, and set the timer for the next one."""
        if not self._calls:
            return
        now = self._clock.now
        for reservation in self.rules.grant_ready(now):
            self.grant(self._calls.pop(reservation))
        wait_s = self.rules.seconds_until_next_grant(now)
        if wait_s is not None and wait_s != inf:
            self._set_timer(now + max(wait_s, _MIN_TIMER_S))

    def record_served(self, call: ProviderCall, *, billed: bool = True) -> None:
        """Learn from an answer."""
        if billed:
            self.rules.record_served(self._clock.now)
        self.circuit.record_success(call.requested_at, billed=billed)

    def apply_headers(self, call: ProviderCall) -> None:
        """Correct the model of the account by the provider's levels, as an answer reports them."""
        now = self._clock.now
        assert call.reservation is not None
        for resource, limit, remaining in call.headers:
            self.rules.apply_headers(
                call.reservation, resource, limit=limit, remaining=remaining, now=now
            )

    def record_usage(self, call: ProviderCall, used: Mapping[str, float]) -> None:
        """Record the usage that an answer reports."""
        assert call.reservation is not None
        self.rules.record_usage(call.reservation, used, self._clock.now)

    def record_throttled(self, call: ProviderCall, wait_s: float) -> Transient:
        """Learn from a 429. Returns the error that ends the attempt."""
        now = self._clock.now
        self.rules.record_throttled(
            _key(call), call.requested_at, now, requested_delay=wait_s or None
        )
        if self.is_cooling_long:
            self.reject_waiting(self._cooling_error())
        delay = max(wait_s, self.rules.cool_down_left(now))
        return Transient("429", code="throttled", delay=delay or None, blameless=True)

    def record_failure(self, call: ProviderCall) -> Transient:
        """Learn from an error of the provider. Returns the error that ends the attempt."""
        now = self._clock.now
        if self.circuit.record_failure(_key(call), call.requested_at, now):
            self.reject_waiting(self._circuit_error())
        delay = None
        if self.circuit.is_open:
            later = SUSPECTS_LATER_S if self.circuit.is_suspect(_key(call)) else 0.0
            delay = self.circuit.seconds_until_probe(now) + later
        return Transient("outage", code="outage", delay=delay, blameless=True)

    def pause_grants(self) -> None:
        self.share = None
        self.rules.pause_grants(self._clock.now)

    def assign_share(
        self, partitions: Sequence[int], share: float, levels: Mapping[str, float]
    ) -> None:
        """Own this share of the account's limits from now on, with the restored levels."""
        now = self._clock.now
        self.partitions, self.share = partitions, share
        self.rules.assign_share(share, levels, now)
        if share <= 0:
            self.reject_waiting(_no_quota_error())
        elif share < self._former_share:
            late = self.rules.find_late_reservations(_LONG_WAIT_S, now)
            self._reject(late, _quota_moved_error())
        self._former_share = share
        self.grant_ready()

    def stop_grants(self) -> None:
        """Grant nothing more, because the worker stops."""
        self._stopped = True
        self.reject_waiting(_stopping_error())

    def abandon(self) -> None:
        """Forget all calls: the worker was killed."""
        self._calls.clear()

    def reject_waiting(self, error: Transient) -> None:
        self._reject(list(self._calls), error)

    def carried_calls(self) -> dict[str, int]:
        """Return how many of the largest calls each limit carries at once."""
        return {
            f"{self.name}/{resource}": count_carried_calls(*sizes)
            for resource, sizes in self._sizes.items()
        }

    def spendable_part(self, carrying: int) -> float:
        return min(spendable_part(*sizes, carrying) for sizes in self._sizes.values())

    def estimate_starts(
        self, job_needs: Mapping[str, float] | None, within_s: float
    ) -> list[PermitSupply]:
        """Estimate how many jobs the permits of the next seconds start; nothing if none serves."""
        if not self.is_accepting:
            return []
        needs = job_needs or {name: _USUAL_CALLS * size for name, (_, size) in self._sizes.items()}
        return [self.rules.estimate_supply(needs, within_s, self._clock.now)]

    @property
    def is_accepting(self) -> bool:
        return bool(self.partitions) and not self.circuit.is_open and not self.is_cooling_long

    @property
    def is_cooling_long(self) -> bool:
        return self.rules.cool_down_left(self._clock.now) > LONG_COOL_DOWN_S

    @property
    def is_probe_due(self) -> bool:
        return self.circuit.is_probe_due(self._clock.now)

    def _find_refusal(self, call: ProviderCall) -> Transient | None:
        if self._stopped:
            return _stopping_error()
        if self.share == 0:
            return _no_quota_error()
        if self.is_cooling_long:
            return self._cooling_error()
        if self.circuit.is_open and not self.circuit.allow_call(self._clock.now, _key(call)):
            return self._circuit_error()
        return None

    def _set_timer(self, at: float) -> None:
        """Wake up at a time, unless an earlier timer is set: it sets the next one."""
        if at < self._timer_at:
            self._timer_at = at
            self._clock.schedule(at, self._wake_up, at)

    def _wake_up(self, at: float) -> None:
        if at == self._timer_at:
            self._timer_at = inf
            self.grant_ready()

    def _reject(self, reservations: Sequence[Reservation], error: Transient) -> None:
        for reservation in reservations:
            self.rules.cancel_reservation(reservation)
            self.fail(self._calls.pop(reservation), error)

    def _circuit_error(self) -> Transient:
        delay = self.circuit.seconds_until_probe(self._clock.now)
        return Transient("circuit open", code="provider-unavailable", delay=delay, blameless=True)

    def _cooling_error(self) -> Transient:
        delay = self.rules.cool_down_left(self._clock.now)
        return Transient("cool-down", code="provider-cooling", delay=delay, blameless=True)


def _key(call: ProviderCall) -> UUID:
    """Return the job's id. The rules only compare ids, and numbers are quicker than UUIDs."""
    return cast(UUID, call.job.number)


def _no_quota_error() -> Transient:
    return Transient("no quota", code="no-share", delay=_NO_QUOTA_PAUSE_S, blameless=True)


def _quota_moved_error() -> Transient:
    return Transient("quota moved", code="quota-moved", delay=0.0, blameless=True)


def _stopping_error() -> Transient:
    return Transient("the worker stops", code="stopping", delay=0.0, blameless=True)

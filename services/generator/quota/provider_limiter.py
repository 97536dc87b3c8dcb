"""Lets calls wait for their permits: the rules decide, a timer wakes the waiters."""

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from math import inf
from uuid import UUID

from services.generator.providers.outcomes.circuit_breaker import SUSPECTS_LATER_S, CircuitBreaker
from services.generator.providers.outcomes.delays import parse_number
from services.generator.providers.outcomes.evidence import ServedCalls
from services.generator.providers.outcomes.outcome import Outcome, OutcomeKind, as_request_fault
from services.generator.quota.concurrency import PermitSupply
from services.generator.quota.provider_bucket import ACCOUNT_FLOOR
from services.generator.quota.rules import FIRST, Permit, PermitRank, RateLimiter, Reservation
from shared.domain.errors import Transient
from shared.domain.messages import LONG_COOL_DOWN_S, LimiterReport, Need
from shared.domain.quota_layout import count_carried_calls, spendable_part
from shared.observability.log import get_logger

log = get_logger(__name__)

_LONG_WAIT_S = 10.0
"""A call that waits longer is better made by a worker with more quota."""
_USUAL_CALLS = 2
_PERMIT_S = 3.0
"""The validity of a permit: one write to PostgreSQL comes between the grant and its call."""
_NO_QUOTA_PAUSE_S = 1.0
"""A job goes round the workers until one has quota: not faster than that."""


def _no_quota_error() -> Transient:
    return Transient(
        "this worker owns no partition that carries quota of the provider",
        code="no-share",
        delay=_NO_QUOTA_PAUSE_S,
        blameless=True,
    )


def _quota_moved_error() -> Transient:
    return Transient(
        "this worker's quota has shrunk, and another worker has more",
        code="quota-moved",
        delay=0.0,
        blameless=True,
    )


def _stopping_error() -> Transient:
    return Transient(
        "the worker stopped and requeued the job", code="stopping", delay=0.0, blameless=True
    )


class ProviderLimiter:
    """Limits the calls to one provider by this worker's quota.

    `largest_call` has the most units of each resource that a call reserves; 1 where it has none.
    `floor` is the part of each limit that is left for others (0 to 1). `serves` is what
    a job needs these calls for.
    """

    def __init__(
        self,
        *,
        provider: str,
        model: str,
        endpoint: str = "",
        limits: Mapping[str, float],
        burst_s: float,
        largest_call: Mapping[str, float] | None = None,
        floor: float = ACCOUNT_FLOOR,
        serves: Need = Need.TEXT,
    ) -> None:
        self.provider = provider
        self.serves = serves
        self._sizes = {
            resource: (limit, (largest_call or {}).get(resource, 1.0))
            for resource, limit in limits.items()
        }
        self._model = model
        self._endpoint = endpoint
        self._loop = asyncio.get_running_loop()
        self._rules = RateLimiter(limits, burst_s=burst_s, floor=floor, now=self._loop.time())
        self._circuit = CircuitBreaker()
        self._served = ServedCalls()
        self._open_reason = ""
        self._stopped = False
        self._waiters: dict[Reservation, asyncio.Future[Permit]] = {}
        self._timer: asyncio.TimerHandle | None = None
        self._share: float | None = None
        """`None` before the first assignment and during a rebalance."""
        self._former_share = 0.0
        """The share of the last assignment."""
        self._partitions: Sequence[int] = ()
        self._carrying: int | None = None
        self._permits_issued = 0

    async def acquire(
        self, needs: Mapping[str, float], job: UUID, rank: PermitRank = FIRST
    ) -> Permit:
        """Wait for a permit, in the order of ranks. The needs are charged when this returns.

        Raises `Transient` if this worker owns no quota, during a long cool-down, while the circuit
        is open (unless the call is its probe), and once the worker stops. Raises `ValueError` for a
        call above the account's limit.
        """
        if self._stopped:
            raise _stopping_error()
        if self._share == 0:
            raise _no_quota_error()
        if self.is_cooling_long:
            raise self._cooling_error()
        if not self._circuit.allow_call(self._loop.time(), job):
            raise self._circuit_open_error()
        reservation = self._rules.reserve(needs, self._loop.time(), rank)
        waiter = self._waiters[reservation] = self._loop.create_future()
        self._grant_ready()
        try:
            permit: Permit = await waiter
        except asyncio.CancelledError:
            self._rules.cancel_reservation(reservation)
            self._waiters.pop(reservation, None)
            self._grant_ready()  # the next reservation may fit
            raise
        return permit

    def estimate_wait(self, needs: Mapping[str, float], rank: PermitRank = FIRST) -> float:
        """Estimate the seconds until a new call would get its permit; infinite without quota."""
        return self._rules.estimate_wait(needs, self._loop.time(), rank) if self._share else inf

    def estimate_starts(
        self, job_needs: Mapping[str, float] | None, within_s: float
    ) -> PermitSupply:
        """Estimate how many jobs the permits of the next seconds can start.

        Without known `job_needs` a job counts as two calls of the largest size.
        """
        needs = job_needs or {
            resource: _USUAL_CALLS * size for resource, (_, size) in self._sizes.items()
        }
        return self._rules.estimate_supply(needs, within_s, self._loop.time())

    @property
    def queued_starts(self) -> int:
        """Return how many queued calls are the first of their jobs."""
        return self._rules.queued_starts

    def is_serving(self, job: UUID) -> bool:
        """Return whether the provider serves calls now, or this job's call may be a probe."""
        now = self._loop.time()
        return self._rules.cool_down_left(now) <= 0 and self._circuit.would_allow(now, job)

    def calls_last_minute(self) -> float:
        """Return the calls granted in the last 60 seconds."""
        return self._rules.usage_of(self._rules.resources[0], self._loop.time())

    def is_valid(self, permit: Permit) -> bool:
        """Return whether the call may still begin.

        A permit expires after 3 s: the bucket has refilled since, and another worker may own it.
        """
        now = self._loop.time()
        return now - permit.granted_monotonic <= _PERMIT_S and self._rules.owns_share(now)

    def stop_grants(self) -> None:
        """Grant nothing more, because the worker stops: its jobs return to the queue."""
        self._stopped = True
        self._reject_waiters(_stopping_error())

    def assign_share(
        self,
        partitions: Sequence[int],
        share: float,
        levels: Mapping[str, float],
        *,
        carrying: int | None = None,
    ) -> None:
        """Own this share (0 to 1) of the account's limits from now on, with the restored levels.

        `partitions` are the owned ones of all `carrying` that carry this quota. If the share has
        shrunk, calls with a long wait are rejected: their jobs go where the quota went.
        """
        self._partitions, self._share, self._carrying = partitions, share, carrying
        now = self._loop.time()
        self._rules.assign_share(share, levels, now)
        if share <= 0:
            self._reject_waiters(_no_quota_error())
        elif share < self._former_share:
            late = self._rules.find_late_reservations(_LONG_WAIT_S, now)
            self._reject(late, _quota_moved_error())
        self._former_share = share
        self._grant_ready()

    def carried_calls(self) -> dict[str, int]:
        """Return how many of the largest calls each "provider/resource" carries at once."""
        return {
            f"{self.provider}/{resource}": count_carried_calls(*sizes)
            for resource, sizes in self._sizes.items()
        }

    def spendable_part(self, carrying: int) -> float:
        """Return the part of the limits that `carrying` partitions may spend together."""
        return min(spendable_part(*sizes, carrying) for sizes in self._sizes.values())

    def pause_grants(self) -> None:
        """Grant nothing until the next `assign_share`; calls wait."""
        self._share = None
        self._rules.pause_grants(self._loop.time())
        self._grant_ready()

    def own_share_until(self, until: float) -> None:
        """Limit grants to the time until `until` (the loop's clock)."""
        self._rules.own_share_until(until)
        self._grant_ready()

    def levels(self) -> dict[str, float]:
        """Return the level of each resource's bucket; negative is debt."""
        now = self._loop.time()
        return {resource: self._rules.level_of(resource, now) for resource in self._rules.resources}

    def rates(self) -> dict[str, float]:
        """Return the account's limit of each resource, in units a second."""
        return {resource: self._rules.limit_of(resource) / 60 for resource in self._rules.resources}

    def apply_headers(self, permit: Permit, headers: Mapping[str, str]) -> None:
        """Correct the model of the account by an answer's `x-ratelimit-*` headers."""
        for resource in self._rules.resources:
            limit = parse_number(headers, f"x-ratelimit-limit-{resource}")
            remaining = parse_number(headers, f"x-ratelimit-remaining-{resource}")
            if limit is not None and remaining is not None:
                before = self._rules.limit_of(resource)
                self._rules.apply_headers(
                    permit.reservation,
                    resource,
                    limit=limit,
                    remaining=remaining,
                    now=self._loop.time(),
                )
                self._log_limit_change(resource, before)
        self._grant_ready()

    def record_usage(self, permit: Permit, used: Mapping[str, float]) -> None:
        """Record the usage that a call's answer reports."""
        self._rules.record_usage(permit.reservation, used, self._loop.time())
        self._grant_ready()

    def record_outcome(
        self, outcome: Outcome, *, job: UUID, call: str, requested_at: float, billed: bool = True
    ) -> Outcome:
        """Learn from a call's outcome. Returns it with the evidence of other jobs applied.

        `call` names the kind of call, such as a step. `billed` is false for calls that cost
        nothing: they prove that the provider answers, and not that the account may spend.
        """
        now = self._loop.time()
        match outcome.kind:
            case OutcomeKind.ANSWER | OutcomeKind.ANSWER_FAULT:
                self._served.record_served(call, job, now)
                self._record_served(requested_at, billed=billed)
            case OutcomeKind.REQUEST_FAULT:
                self._close_circuit(requested_at, billed=False)
            case OutcomeKind.THROTTLED:
                return self._record_throttled(outcome, job, requested_at)
            case OutcomeKind.OUTAGE:
                isolated = self._served.is_isolated(call, job, requested_at)
                outcome = replace(outcome, isolated=isolated)
                self._served.record_lost(call, job, now)
                if self._circuit.record_failure(job, requested_at, now):
                    self._announce_open_circuit("provider outage", outcome)
            case _ if self._is_requests_own(outcome.kind, call, job):
                return as_request_fault(outcome)
            case _:
                self._record_rejection(outcome, job, requested_at)
        if self._circuit.is_open:
            # The jobs that failed wait longer: another one should be the probe.
            later = SUSPECTS_LATER_S if self._circuit.is_suspect(job) else 0.0
            return replace(outcome, delay=max(outcome.delay or 0.0, self._retry_s + later))
        return outcome

    def _is_requests_own(self, kind: OutcomeKind, call: str, job: UUID) -> bool:
        """Return whether other jobs' calls of this kind were served since the first rejection.

        A known fault of the set-up needs more evidence than an unexplained one. A rejected account
        is never the request's fault.
        """
        since = self._served.first_unexplained_at(call, job, self._loop.time())
        if kind is OutcomeKind.UNEXPLAINED:
            return self._served.others_served_since(call, job, since)
        return kind is OutcomeKind.SETUP_FAULT and self._served.many_served_since(call, job, since)

    def _record_served(self, requested_at: float, *, billed: bool) -> None:
        if billed:  # a free call says nothing about the limit on billed ones
            self._rules.record_served(self._loop.time())
        self._close_circuit(requested_at, billed=billed)

    def _record_throttled(self, outcome: Outcome, job: UUID, requested_at: float) -> Outcome:
        now = self._loop.time()
        self._rules.record_throttled(job, requested_at, now, requested_delay=outcome.delay)
        if self.is_cooling_long:
            self._reject_waiters(self._cooling_error())
        cooling = self._rules.cool_down_left(now)
        return replace(outcome, delay=max(outcome.delay or 0.0, cooling) or None)

    def _record_rejection(self, outcome: Outcome, job: UUID, requested_at: float) -> None:
        if self._circuit.record_rejection(job, requested_at, self._loop.time()):
            cause = (
                "provider rejects the account"
                if outcome.kind is OutcomeKind.ACCOUNT_FAULT
                else "provider rejects the set-up"
            )
            self._announce_open_circuit(cause, outcome)

    def _announce_open_circuit(self, cause: str, outcome: Outcome) -> None:
        address = outcome.url or self._endpoint
        self._open_reason = f"{self._model} at {address}: {outcome.reason}"
        log.error(
            f"circuit opened: {cause}, jobs wait",
            provider=self.provider,
            model=self._model,
            address=address,
            reason=outcome.reason,
            retry_s=self._retry_s,
        )
        self._reject_waiters(self._circuit_open_error())

    def _close_circuit(self, requested_at: float, *, billed: bool) -> None:
        if self._circuit.record_success(requested_at, billed=billed):
            log.info("circuit closed: provider serves calls", provider=self.provider)

    def now(self) -> float:
        """Return the time by the clock of `record_outcome`."""
        return self._loop.time()

    @property
    def circuit_open(self) -> bool:
        return self._circuit.is_open

    @property
    def is_probe_due(self) -> bool:
        """Return whether the open circuit would allow one call."""
        return self._circuit.is_probe_due(self._loop.time())

    @property
    def is_cooling_long(self) -> bool:
        """Return whether calls are rejected, because the cool-down outlasts a wait in the line."""
        return self._rules.cool_down_left(self._loop.time()) > LONG_COOL_DOWN_S

    @property
    def is_accepting(self) -> bool:
        """Return whether this worker has quota, and no open circuit or long cool-down stops it."""
        return self.owns_quota and not self.circuit_open and not self.is_cooling_long

    @property
    def owns_quota(self) -> bool:
        """Return whether this worker owns a partition that carries this quota."""
        return bool(self._partitions)

    def build_reports(self) -> tuple[LimiterReport, ...]:
        """Build one report for each resource."""
        now = self._loop.time()
        cooling, waits = self._rules.cool_down_left(now), self._rules.estimate_waits(now)
        return tuple(
            LimiterReport(
                provider=self.provider,
                model=self._model,
                resource=resource,
                limit=self._rules.limit_of(resource),
                share=self._rules.limit_of(resource) * (self._share or 0.0),
                level=round(self._rules.level_of(resource, now), 3),
                used=self._rules.usage_of(resource, now),
                queued=self._rules.queued,
                wait_s=_finite_or_none(waits[-1]) if waits else 0.0,
                pace=round(self._rules.pace_of(resource), 3),
                cooling_until=datetime.now(UTC) + timedelta(seconds=cooling) if cooling else None,
                circuit_open=self._circuit.is_open,
                open_reason=self._open_reason if self._circuit.is_open else "",
                serves=self.serves,
                partitions=tuple(self._partitions),
                carrying=self._carrying,
                probe_due=self._circuit.is_open and self.is_probe_due,
            )
            for resource in self._rules.resources
        )

    @property
    def closed_s(self) -> float:
        """Return the seconds until an open circuit allows a probe; 0 while it is closed."""
        return self._retry_s

    @property
    def _retry_s(self) -> float:
        return round(self._circuit.seconds_until_probe(self._loop.time()), 3)

    def _circuit_open_error(self) -> Transient:
        return Transient(
            f"{self.provider}: {self._open_reason}",
            code="provider-unavailable",
            delay=self._retry_s,
            blameless=True,
        )

    def _cooling_error(self) -> Transient:
        cooling = round(self._rules.cool_down_left(self._loop.time()), 3)
        return Transient(
            f"{self.provider}: the account is in a cool-down for {cooling:g} s",
            code="provider-cooling",
            delay=cooling,
            blameless=True,
        )

    def _log_limit_change(self, resource: str, before: float) -> None:
        if (limit := self._rules.limit_of(resource)) != before:
            log.warning(
                "provider reports another rate limit",
                provider=self.provider,
                resource=resource,
                previous_limit=before,
                reported_limit=limit,
            )

    def _reject_waiters(self, error: Transient) -> None:
        self._reject(list(self._waiters), error)

    def _reject(self, reservations: Sequence[Reservation], error: Transient) -> None:
        for reservation in reservations:
            self._rules.cancel_reservation(reservation)
            waiter = self._waiters.pop(reservation)
            if not waiter.done():
                waiter.set_exception(error)

    def _issue_permit(self, reservation: Reservation) -> Permit:
        """Build the permit at the moment of the grant.

        A checkpoint that is built before the waiter wakes up already includes this call.
        """
        self._permits_issued += 1
        partition = self._partitions[self._permits_issued % len(self._partitions)]
        now = self._loop.time()
        return Permit(
            provider=self.provider,
            partition=partition,
            granted_at=datetime.now(UTC),
            reservation=reservation,
            waited_s=now - reservation.requested_at,
            granted_monotonic=now,
        )

    def _grant_ready(self) -> None:
        """Grant all reservations that are ready, and set the timer for the next one."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        for reservation in self._rules.grant_ready(self._loop.time()):
            waiter = self._waiters.pop(reservation)
            if not waiter.done():
                waiter.set_result(self._issue_permit(reservation))
        wait = self._rules.seconds_until_next_grant(self._loop.time())
        if wait is not None and wait != inf:
            self._timer = self._loop.call_later(max(wait, 0.001), self._grant_ready)


def _finite_or_none(seconds: float) -> float | None:
    return round(seconds, 3) if seconds != inf else None

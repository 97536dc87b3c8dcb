"""Decides whether a provider may be called.

The circuit opens on evidence from at least two different jobs: several failures in a row (an
outage), or two rejections of the account or of the set-up. While it is open, only an occasional
probe is allowed. One job's trouble never opens it.
"""

from math import inf
from uuid import UUID

_REJECTION_FIRST_PAUSE_S = 15.0
_REJECTION_MAX_PAUSE_S = 600.0
_OUTAGE_FIRST_PAUSE_S = 5.0
_OUTAGE_MAX_PAUSE_S = 60.0
_OUTAGE_FAILURES = 5
"""Consecutive failures that count as an outage."""
_MIN_JOBS = 2
"""Different jobs whose calls must fail."""
_MIN_REJECTED_WHILE_SERVING = 4
"""Different jobs that must be rejected if other jobs were served in the last minute."""
_SERVING_S = 60.0
_PROBE_EVERY_S = 10.0
SUSPECTS_LATER_S = 10.0
"""Jobs whose calls failed let other jobs probe first for so long."""


class CircuitBreaker:
    """`now` is a monotonic clock in seconds, and `requested_at` a call's start by that clock."""

    def __init__(self) -> None:
        self._pause_s = 0.0
        self._probe_at = -inf
        self._tripped_at = -inf
        self._failures = 0
        self._failing_jobs: set[UUID] = set()
        self._rejected_jobs: set[UUID] = set()
        self._served_at = -inf
        self._rejects = False
        self._probing = False
        self.is_open = False

    def record_failure(self, job: UUID, requested_at: float, now: float) -> bool:
        """Record a provider error or a missing answer. Returns true if this opens the circuit."""
        self._failing_jobs.add(job)
        if self._is_outdated(requested_at):
            return False
        self._failures += 1
        enough = self._failures >= _OUTAGE_FAILURES and len(self._failing_jobs) >= _MIN_JOBS
        if not self.is_open and not enough:
            return False
        return self._open(now, _OUTAGE_FIRST_PAUSE_S, _OUTAGE_MAX_PAUSE_S)

    def record_rejection(self, job: UUID, requested_at: float, now: float) -> bool:
        """Record that the provider rejects the account or the set-up.

        Returns true if this opens the circuit.
        """
        self._rejected_jobs.add(job)
        if self._is_outdated(requested_at):
            return False
        serves = now - self._served_at < _SERVING_S
        needed = _MIN_REJECTED_WHILE_SERVING if serves else _MIN_JOBS
        if not self.is_open and len(self._rejected_jobs) < needed:
            return False
        self._rejects = True
        return self._open(now, _REJECTION_FIRST_PAUSE_S, _REJECTION_MAX_PAUSE_S)

    def record_success(self, requested_at: float, *, billed: bool = True) -> bool:
        """Record a served call. Returns true if this closes the circuit.

        After a rejection only a billed call that began later proves that the provider accepts the
        account again.
        """
        if billed:
            self._served_at = requested_at
        proves = not self._rejects or (billed and requested_at >= self._tripped_at)
        if self.is_open and not proves:
            return False
        self._failures, self._pause_s = 0, 0.0
        self._failing_jobs.clear()
        if billed:
            self._rejected_jobs.clear()
        was_open, self.is_open, self._rejects = self.is_open, False, False
        return was_open

    def is_probe_due(self, now: float) -> bool:
        return self.is_open and now >= self._probe_at

    def allow_call(self, now: float, job: UUID) -> bool:
        """Return whether a job may make a call.

        After its pause an open circuit allows one probe every 10 s.
        """
        allowed = self.would_allow(now, job)
        if allowed and self.is_open:
            self._probe_at = now + _PROBE_EVERY_S
            self._probing = True
        return allowed

    def would_allow(self, now: float, job: UUID) -> bool:
        """Return whether a job may make a call, without making it the probe."""
        wait = SUSPECTS_LATER_S if self.is_suspect(job) else 0.0
        return not self.is_open or now >= self._probe_at + wait

    def is_suspect(self, job: UUID) -> bool:
        """Return whether the job's own calls have failed since the last success."""
        return job in self._failing_jobs or job in self._rejected_jobs

    def seconds_until_probe(self, now: float) -> float:
        """Return the seconds until the next probe, at least 1, or 0 if the circuit is closed."""
        return max(self._probe_at - now, 1.0) if self.is_open else 0.0

    def _is_outdated(self, requested_at: float) -> bool:
        """Return whether a failed call proves nothing new: only a probe does while it is open."""
        return self.is_open and (requested_at < self._tripped_at or not self._probing)

    def _open(self, now: float, first_s: float, max_s: float) -> bool:
        was_closed, self.is_open = not self.is_open, True
        self._pause_s = min(max(self._pause_s * 2, first_s), max_s)
        self._probe_at = now + self._pause_s
        self._tripped_at = now
        self._probing = False
        return was_closed

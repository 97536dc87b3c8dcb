"""Detects dead worker processes by two signs: reports through Kafka, connections to PostgreSQL.

Silence alone proves nothing: a frozen process is silent as well, and its provider calls continue.
But the kernel closes the connections of a dead process at once, and keeps those of a frozen one. So
a worker is dead when both signs have been missing for `silence_s` seconds. Everything else, such as
a lost host or a partitioned network, leaves the connections open, and the lease decides.

Missing connections are evidence only if nothing else explains them:

- The worker must have had a connection since the scheduler's own connections were last all replaced
  at once. That happens when PostgreSQL restarts, recovers from a crash or fails over: it closes
  everybody's connections. The time of the server's start would not do: a crash does not change it.
- A worker that reports on without a connection shows that the connections say nothing about it,
  until it has one again.

All times are seconds of one monotonic clock.
"""

from collections.abc import Set
from dataclasses import dataclass
from datetime import datetime
from typing import NamedTuple


class OpenConnection(NamedTuple):
    """A connection to PostgreSQL. After a restart another one may have its pid."""

    process: str
    pid: int
    started_at: datetime | None
    """`None` for processes of other roles: PostgreSQL hides it."""


@dataclass(slots=True)
class _WorkerSigns:
    reported_at: float
    was_connected: bool = False
    disconnected_at: float | None = None
    """When its connections were first found missing."""


class FailureDetector:
    """The signs of all workers that have reported. `observer` is the scheduler's process name."""

    def __init__(self, *, observer: str, silence_s: float) -> None:
        self._observer = observer
        self._silence_s = silence_s
        self._own_connections: Set[OpenConnection] = frozenset()
        self._workers: dict[str, _WorkerSigns] = {}

    def record_report(self, worker: str, now: float) -> None:
        signs = self._workers.setdefault(worker, _WorkerSigns(now))
        signs.reported_at = now

    def record_connections(self, connections: Set[OpenConnection], now: float) -> None:
        """Record all open connections."""
        own = {one for one in connections if one.process == self._observer}
        connected = {one.process for one in connections}
        if self._own_connections.isdisjoint(own):
            self._forget_connections()
        self._own_connections = own
        for worker, signs in self._workers.items():
            if worker in connected:
                signs.was_connected, signs.disconnected_at = True, None
            elif signs.was_connected and signs.disconnected_at is None:
                signs.disconnected_at = now

    def take_dead_workers(self, now: float) -> list[str]:
        """Return the workers that have died since the last call. Worker names never repeat."""
        dead = [worker for worker, signs in self._workers.items() if self._is_dead(signs, now)]
        for worker in dead:
            del self._workers[worker]
        return dead

    def _is_dead(self, signs: _WorkerSigns, now: float) -> bool:
        disconnected_at = signs.disconnected_at
        if disconnected_at is None or signs.reported_at > disconnected_at + self._silence_s:
            return False
        return now - max(signs.reported_at, disconnected_at) >= self._silence_s

    def _forget_connections(self) -> None:
        for signs in self._workers.values():
            signs.was_connected, signs.disconnected_at = False, None

"""Who is calling: a copy of the API keys in memory, so that accepting a request needs no database.

The copy is refreshed every two seconds with what has changed; a key it does not know waits for a refresh that begins
after it came (at most four a second, shared by all who wait), so a new key works at once and a revoked one stops
within two seconds. While PostgreSQL is away, the last copy serves.
"""

import asyncio
import time
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import asyncpg

from shared.domain.api_keys import KeyChange, hash_key, list_key_changes
from shared.observability.log import get_logger
from shared.runtime.postgres import UNAVAILABLE_ERRORS

log = get_logger(__name__)

_EVERY_S = 2.0
_AT_MOST_EVERY_S = 0.25
_DEADLINE_S = 3.0
"""A server that takes connections and says nothing must not hold up whoever shows an unknown key."""
_OVERLAP = timedelta(seconds=10)
"""Changes are stamped when their transaction began, so one that commits late is older than what was read before."""
_BEGINNING = datetime(1970, 1, 1, tzinfo=UTC)


@dataclass(frozen=True, slots=True, kw_only=True)
class Caller:
    """Who shows a key."""

    store: str | None
    """None: an operator, who may act on every store's jobs."""
    name: str
    """As it is told to others: the store, or the operator."""
    key: bytes
    """The hash of the key that was shown."""


class KeyRing:
    def __init__(self, pool: asyncpg.Pool) -> None:
        self._pool = pool
        self._callers: dict[bytes, Caller] = {}
        self._latest = _BEGINNING
        self._refreshed_at = float("-inf")
        self._refreshing = asyncio.Lock()
        self._away = False

    async def caller_of(self, key: str) -> Caller | None:
        """Whose key it is; None when it is unknown or revoked."""
        digest = hash_key(key)
        if digest not in self._callers:
            await self.refresh()
        return self._callers.get(digest)

    async def hash_of(self, prefix: bytes) -> bytes | None:
        """The hash of the valid key that begins so."""
        found = self._beginning_with(prefix)
        if found is None:
            await self.refresh()
            found = self._beginning_with(prefix)
        return found

    def caller_with(self, digest: bytes) -> Caller:
        """Whose key has this hash, which `hash_of` has just found."""
        return self._callers[digest]

    def is_valid(self, caller: Caller) -> bool:
        """Whether the key that the caller has shown is still good."""
        return caller.key in self._callers

    async def refresh(self) -> None:
        """Take over what has changed up to this call; says once when PostgreSQL is away."""
        asked_at = time.monotonic()
        async with self._refreshing:
            if self._refreshed_at >= asked_at:  # somebody who waited before us has done it
                return
            await asyncio.sleep(max(0.0, self._refreshed_at + _AT_MOST_EVERY_S - asked_at))
            self._refreshed_at = time.monotonic()
            try:
                async with asyncio.timeout(_DEADLINE_S):
                    changed = await list_key_changes(self._pool, self._latest)
            except (*UNAVAILABLE_ERRORS, asyncpg.PostgresError) as error:
                if not self._away:
                    reason = f"{type(error).__name__}: {error}"
                    log.warning("API keys cannot be refreshed: the last copy serves", reason=reason)
                self._away = True
                return
            self._away = False
            for change in changed:
                self._take(change)
                self._latest = max(self._latest, change.changed_at - _OVERLAP)

    async def keep_fresh(self) -> None:
        while True:
            await asyncio.sleep(_EVERY_S)
            await self.refresh()

    def _beginning_with(self, prefix: bytes) -> bytes | None:
        return next((digest for digest in self._callers if digest.startswith(prefix)), None)

    def _take(self, change: KeyChange) -> None:
        if change.revoked:
            self._callers.pop(change.hash, None)
        elif change.scope == "operator":
            self._callers[change.hash] = Caller(
                store=None, name=f"operator {change.name}", key=change.hash
            )
        else:
            self._callers[change.hash] = Caller(
                store=change.store, name=change.store, key=change.hash
            )

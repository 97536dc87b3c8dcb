"""A copy of the API keys in memory, so that accepting a request needs no database.

Every two seconds the copy is refreshed with the changes since the last refresh. A caller with an
unknown key waits for a refresh that begins after its arrival; waiting callers share refreshes, at
most four a second. So a new key works at once, and a revoked key stops within two seconds. While
PostgreSQL is unavailable, the last copy stays in use.
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

_REFRESH_EVERY_S = 2.0
_MIN_REFRESH_PAUSE_S = 0.25
_DEADLINE_S = 3.0
"""A silent server must not delay callers with unknown keys for longer."""
_OVERLAP = timedelta(seconds=10)
"""A change carries the start of its transaction, so a late commit is older than earlier reads."""
_BEGINNING = datetime(1970, 1, 1, tzinfo=UTC)


@dataclass(frozen=True, slots=True, kw_only=True)
class Caller:
    """The owner of an API key."""

    store: str | None
    """`None` for an operator, who may act on every store's jobs."""
    name: str
    """The store's name, or `operator NAME`; appears in logs and in `cancelled by`."""
    key: bytes
    """The hash of the key."""


class KeyRing:
    def __init__(self, pool: asyncpg.Pool) -> None:
        self._pool = pool
        self._callers: dict[bytes, Caller] = {}
        self._latest_change = _BEGINNING
        self._refreshed_at = float("-inf")
        self._refreshing = asyncio.Lock()
        self._unavailable = False

    async def find_caller(self, key: str) -> Caller | None:
        """Return the key's owner; `None` when the key is unknown or revoked."""
        digest = hash_key(key)
        if digest not in self._callers:
            await self.refresh_keys()
        return self._callers.get(digest)

    async def find_hash(self, prefix: bytes) -> bytes | None:
        """Return the hash of the valid key whose hash begins with `prefix`."""
        found = self._hash_with_prefix(prefix)
        if found is None:
            await self.refresh_keys()
            found = self._hash_with_prefix(prefix)
        return found

    def caller_with_hash(self, digest: bytes) -> Caller:
        """Return the owner of a key whose hash `find_hash` has just returned."""
        return self._callers[digest]

    def is_valid(self, caller: Caller) -> bool:
        """Return whether the caller's key is still valid."""
        return caller.key in self._callers

    async def refresh_keys(self) -> None:
        """Apply all changes up to this call; logs once when PostgreSQL becomes unavailable."""
        requested_at = time.monotonic()
        async with self._refreshing:
            if self._refreshed_at >= requested_at:  # an earlier waiter refreshed meanwhile
                return
            pause_s = self._refreshed_at + _MIN_REFRESH_PAUSE_S - requested_at
            await asyncio.sleep(max(0.0, pause_s))
            self._refreshed_at = time.monotonic()
            try:
                async with asyncio.timeout(_DEADLINE_S):
                    changes = await list_key_changes(self._pool, self._latest_change)
            except (*UNAVAILABLE_ERRORS, asyncpg.PostgresError) as error:
                if not self._unavailable:
                    log.warning(
                        "dependency unavailable, retrying",
                        dependency="PostgreSQL",
                        operation="refresh API keys",
                        reason=f"{type(error).__name__}: {error}",
                    )
                self._unavailable = True
                return
            self._unavailable = False
            for change in changes:
                self._apply_change(change)
                self._latest_change = max(self._latest_change, change.changed_at - _OVERLAP)

    async def refresh_periodically(self) -> None:
        while True:
            await asyncio.sleep(_REFRESH_EVERY_S)
            await self.refresh_keys()

    def _hash_with_prefix(self, prefix: bytes) -> bytes | None:
        return next((digest for digest in self._callers if digest.startswith(prefix)), None)

    def _apply_change(self, change: KeyChange) -> None:
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

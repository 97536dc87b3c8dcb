"""API keys: prefixed random tokens of which only the SHA-256 is kept. Each belongs to one store."""

import hashlib
import re
import secrets
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import asyncpg

from shared.postgres import load_queries

PREFIX = "sk_live_"
_QUERIES = load_queries(Path(__file__).parent / "sql" / "keys.sql")
STORE_NAME = re.compile(r"[a-zA-Z0-9][a-zA-Z0-9._-]{0,99}")
"""What a store may be called: it is a Kafka key, a folder's name and part of a URL. `*` stays free for 'all stores'."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ApiKey:
    id: str
    store: str
    hint: str
    """The key's last four characters, to tell keys apart."""
    created_at: datetime
    revoked_at: datetime | None


def hash_key(key: str) -> bytes:
    """SHA-256 of the key. A plain hash is enough: the key has 192 random bits, so there is nothing to guess."""
    return hashlib.sha256(key.encode()).digest()


async def create_key(pool: asyncpg.Pool | asyncpg.Connection, store: str) -> str:
    """Make a key for `store` and return it; it cannot be shown again. ValueError when the name is not allowed."""
    if not STORE_NAME.fullmatch(store):
        raise ValueError(f"{store!r} is no store name: letters, digits, '.', '_' and '-', at most 100")
    key = PREFIX + secrets.token_urlsafe(24)
    await pool.execute(_QUERIES["create"], f"key_{secrets.token_hex(8)}", store, hash_key(key), key[-4:])
    return key


async def list_keys(pool: asyncpg.Pool | asyncpg.Connection) -> list[ApiKey]:
    return [ApiKey(**dict(row)) for row in await pool.fetch(_QUERIES["list"])]


async def revoke_key(pool: asyncpg.Pool | asyncpg.Connection, key_id: str) -> bool:
    """Revoke; False when there is no such key or it was revoked before."""
    return await pool.fetchval(_QUERIES["revoke"], key_id) is not None


async def keys_changed_since(
    pool: asyncpg.Pool | asyncpg.Connection, since: datetime
) -> list[tuple[bytes, str, bool, datetime]]:
    """(hash, store, revoked, changed at) of every key changed after `since`."""
    rows = await pool.fetch(_QUERIES["changed_since"], since)
    return [(row["hash"], row["store"], row["revoked"], row["changed_at"]) for row in rows]


async def is_valid_key(pool: asyncpg.Pool | asyncpg.Connection, key: str) -> bool:
    return bool(await pool.fetchval(_QUERIES["is_valid"], hash_key(key)))

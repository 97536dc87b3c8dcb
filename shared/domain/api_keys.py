"""API keys: prefixed random tokens of which only the SHA-256 is kept. Each belongs to one store, or to an operator."""

import base64
import hashlib
import re
import secrets
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TypeAlias

import asyncpg

from shared.runtime.postgres import ALL_STORES, Connection, load_queries

DatabaseClient: TypeAlias = "asyncpg.Pool | asyncpg.Connection | Connection"
PREFIX = "sk_live_"
OPERATOR_PREFIX = "sk_operator_"
WEBHOOK_PREFIX = "whsec_"
_QUERIES = load_queries(Path(__file__).parent / "sql" / "api_keys.sql")
STORE_NAME = re.compile(r"[a-zA-Z0-9][a-zA-Z0-9._-]{0,99}")
"""What a store may be called: it is a Kafka key, a folder's name and part of a URL. `*` stays free for 'all stores'."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ApiKey:
    id: str
    store: str
    """`*` for an operator's."""
    scope: str
    """`store` or `operator`."""
    name: str | None
    """Who the operator is."""
    hint: str
    """The key's last four characters, to tell keys apart."""
    created_at: datetime
    revoked_at: datetime | None


@dataclass(frozen=True, slots=True, kw_only=True)
class KeyChange:
    """A key that was made or revoked."""

    hash: bytes
    store: str
    scope: str
    name: str | None
    revoked: bool
    changed_at: datetime


def hash_key(key: str) -> bytes:
    """SHA-256 of the key. A plain hash is enough: the key has 192 random bits, so there is nothing to guess."""
    return hashlib.sha256(key.encode()).digest()


async def create_key(pool: DatabaseClient, store: str) -> str:
    """Make a key for `store` and return it; it cannot be shown again. ValueError when the name is not allowed."""
    _check_name(store, "store")
    return await _create(pool, PREFIX, store, "store", None)


async def create_operator_key(pool: DatabaseClient, name: str) -> str:
    """Make a key that may look at, cancel and retry every store's jobs; else as `create_key`."""
    _check_name(name, "operator")
    return await _create(pool, OPERATOR_PREFIX, ALL_STORES, "operator", name)


def _check_name(name: str, of: str) -> None:
    if not STORE_NAME.fullmatch(name):
        raise ValueError(
            f"{name!r} is no {of} name: letters, digits, '.', '_' and '-', at most 100"
        )


async def _create(
    pool: DatabaseClient, prefix: str, store: str, scope: str, name: str | None
) -> str:
    key = prefix + secrets.token_urlsafe(24)
    key_id = f"key_{secrets.token_hex(8)}"
    await pool.execute(_QUERIES["create"], key_id, store, hash_key(key), key[-4:], scope, name)
    return key


async def list_keys(pool: DatabaseClient) -> list[ApiKey]:
    return [ApiKey(**dict(row)) for row in await pool.fetch(_QUERIES["list"])]


async def revoke_key(pool: DatabaseClient, key_id: str) -> bool:
    """Revoke; False when there is no such key or it was revoked before."""
    return await pool.fetchval(_QUERIES["revoke"], key_id) is not None


async def list_key_changes(pool: DatabaseClient, since: datetime) -> list[KeyChange]:
    """Every key changed after `since`, in the order in which it happened."""
    return [KeyChange(**dict(row)) for row in await pool.fetch(_QUERIES["changed_since"], since)]


async def is_valid_key(pool: DatabaseClient, key: str) -> bool:
    return bool(await pool.fetchval(_QUERIES["is_valid"], hash_key(key)))


async def get_or_create_webhook_secret(pool: DatabaseClient, store: str) -> str:
    """The newest secret that signs a store's webhooks; made when there is none. ValueError as for `create_key`."""
    known = await pool.fetchval(_QUERIES["get_or_create_webhook_secret"], store)
    if known is None:
        _check_name(store, "store")
        await pool.execute(_QUERIES["first_webhook_secret"], store, _new_webhook_secret())
        known = await pool.fetchval(
            _QUERIES["get_or_create_webhook_secret"], store
        )  # ours, or that of who was faster
    return str(known)


async def rotate_webhook_secret(pool: DatabaseClient, store: str, *, overlap_s: float) -> str:
    """Make a new secret; those before it sign as well for `overlap_s` seconds, so that receivers can change over."""
    _check_name(store, "store")
    secret = _new_webhook_secret()
    await pool.execute(_QUERIES["rotate_webhook_secret"], store, secret, overlap_s)
    return secret


def _new_webhook_secret() -> str:
    return WEBHOOK_PREFIX + base64.b64encode(secrets.token_bytes(32)).decode()

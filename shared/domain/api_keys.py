"""API keys and webhook secrets of stores and operators.

A key is a prefixed random token. Only its SHA-256 is saved. Each key belongs to one store or to one
operator.
"""

import base64
import hashlib
import re
import secrets
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TypeAlias

import asyncpg

from shared.domain.stores import ALL_STORES
from shared.runtime.postgres import Connection, load_queries

DatabaseClient: TypeAlias = "asyncpg.Pool | asyncpg.Connection | Connection"
PREFIX = "sk_live_"
OPERATOR_PREFIX = "sk_operator_"
WEBHOOK_PREFIX = "whsec_"
_QUERIES = load_queries(Path(__file__).parent / "sql" / "api_keys.sql")
STORE_NAME = re.compile(r"[a-zA-Z0-9][a-zA-Z0-9._-]{0,99}")
"""A valid store name: it is a Kafka key, a folder and part of a URL. `*` means all stores."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ApiKey:
    id: str
    store: str
    """`*` for an operator's key."""
    scope: str
    """`store` or `operator`."""
    name: str | None
    """The operator's name; `None` for a store's key."""
    hint: str
    """The key's last four characters, to tell keys apart."""
    created_at: datetime
    revoked_at: datetime | None


@dataclass(frozen=True, slots=True, kw_only=True)
class KeyChange:
    """A key that was created or revoked."""

    hash: bytes
    store: str
    scope: str
    name: str | None
    revoked: bool
    changed_at: datetime


def hash_key(key: str) -> bytes:
    """SHA-256 of the key. A plain hash is enough, because the key has 192 random bits."""
    return hashlib.sha256(key.encode()).digest()


async def create_key(pool: DatabaseClient, store: str) -> str:
    """Create a key for `store` and return it. It cannot be shown again.

    ValueError when the name is not allowed.
    """
    _check_name(store, "store")
    return await _create(pool, PREFIX, store, "store", None)


async def create_operator_key(pool: DatabaseClient, name: str) -> str:
    """Create an operator's key, for reading, cancelling and retrying the jobs of every store.

    ValueError when the name is not allowed.
    """
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
    """Revoke a key. `False` when it does not exist or was revoked before."""
    return await pool.fetchval(_QUERIES["revoke"], key_id) is not None


async def list_key_changes(pool: DatabaseClient, since: datetime) -> list[KeyChange]:
    """All keys created or revoked after `since`, in the order of the changes."""
    return [KeyChange(**dict(row)) for row in await pool.fetch(_QUERIES["changed_since"], since)]


async def is_valid_key(pool: DatabaseClient, key: str) -> bool:
    return bool(await pool.fetchval(_QUERIES["is_valid"], hash_key(key)))


async def get_or_create_webhook_secret(pool: DatabaseClient, store: str) -> str:
    """The newest secret that signs a store's webhooks, created when there is none.

    ValueError when the name is not allowed.
    """
    known = await pool.fetchval(_QUERIES["webhook_secret"], store)
    if known is None:
        _check_name(store, "store")
        await pool.execute(_QUERIES["first_webhook_secret"], store, _new_webhook_secret())
        # A concurrent call may have inserted its secret first.
        known = await pool.fetchval(_QUERIES["webhook_secret"], store)
    return str(known)


async def rotate_webhook_secret(pool: DatabaseClient, store: str, *, overlap_s: float) -> str:
    """Create a new secret and return it.

    Earlier secrets also sign for `overlap_s` seconds, so that receivers can change over.
    """
    _check_name(store, "store")
    secret = _new_webhook_secret()
    await pool.execute(_QUERIES["rotate_webhook_secret"], store, secret, overlap_s)
    return secret


def _new_webhook_secret() -> str:
    return WEBHOOK_PREFIX + base64.b64encode(secrets.token_bytes(32)).decode()

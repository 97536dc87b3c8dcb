"""PostgreSQL: one pool for each process, SQL from files, and a bounded wait at start."""

import asyncio
import re
import ssl
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any, TypeAlias, TypeVar
from urllib.parse import parse_qsl, urlsplit
from uuid import UUID

import asyncpg
import orjson
from asyncpg.pool import PoolConnectionProxy

from shared.domain.errors import Unavailable
from shared.domain.stores import ALL_STORES
from shared.observability.log import get_logger
from shared.runtime.settings import PostgresSettings

log = get_logger(__name__)
T = TypeVar("T")
Connection: TypeAlias = "PoolConnectionProxy[asyncpg.Record]"
"""A connection that belongs to a pool."""

UNAVAILABLE_ERRORS = (
    OSError,
    TimeoutError,
    asyncpg.PostgresConnectionError,
    asyncpg.InterfaceError,
    asyncpg.CannotConnectNowError,
    asyncpg.TooManyConnectionsError,
    asyncpg.AdminShutdownError,
    asyncpg.CrashShutdownError,
    asyncpg.ObjectNotInPrerequisiteStateError,  # the database is closed for maintenance
    asyncpg.IdleInTransactionSessionTimeoutError,
    asyncpg.TransactionRollbackError,
    asyncpg.InternalClientError,  # a connection lost during a statement
)
"""Errors while the server is unavailable or full. The statement is not at fault: retry it."""

NO_STORE = ""
STORE_SETTING = "blogstream.store"
"""The connection's setting that row-level security reads (migrations/policies.py)."""
_SET_STORE = f"SELECT set_config('{STORE_SETTING}', $1, false)"

_STATEMENTS_PER_CONNECTION = 50_000
_RETRY_S = 1.0
_RELEASE_TIMEOUT_S = 1.0
_EXAMPLE_DSN = "postgresql://user:password@host:port/database"

_TLS_FILES = ("sslrootcert", "sslcert", "sslkey", "sslcrl")

_SHARING_SERVICES = 4
_NAME = re.compile(r"^-- name: (?P<name>[a-z0-9_]+)\s*$", re.MULTILINE)


def load_queries(path: Path) -> Mapping[str, str]:
    """Load the named queries of an .sql file.

    Each query begins with `-- name: NAME` and a comment that describes it.
    """
    text = path.read_text(encoding="utf-8")
    marks = list(_NAME.finditer(text))
    ends = [mark.start() for mark in marks[1:]] + [len(text)]
    return {
        mark["name"]: text[mark.end() : end].strip() for mark, end in zip(marks, ends, strict=True)
    }


def describe_server(dsn: str) -> str:
    """The server in a DSN, without its secrets."""
    parts = urlsplit(dsn)
    return f"{parts.hostname}:{parts.port or 5432}{parts.path}"


async def _prepare_connection(connection: asyncpg.Connection) -> None:
    await connection.set_type_codec(
        "jsonb",
        schema="pg_catalog",
        format="binary",
        encoder=lambda value: b"\x01" + orjson.dumps(value),
        decoder=lambda raw: orjson.loads(raw[1:]),
    )
    # orjson and pydantic do not know asyncpg's own UUID class.
    await connection.set_type_codec(
        "uuid",
        schema="pg_catalog",
        format="binary",
        encoder=lambda value: value.bytes,
        decoder=lambda raw: UUID(bytes=bytes(raw)),
    )


def _check_dsn(dsn: str) -> None:
    """Raise `Unavailable` for faults of a DSN that waiting cannot repair."""
    try:
        parts = urlsplit(dsn)
        is_valid = parts.scheme in ("postgresql", "postgres")
    except ValueError:
        is_valid = False
    if not is_valid:
        raise Unavailable(f"DATABASE_URL cannot be understood; it looks like {_EXAMPLE_DSN}")
    for name, file in parse_qsl(parts.query):
        if name in _TLS_FILES and not Path(file).is_file():
            raise Unavailable(f"{name} in DATABASE_URL is {file}, and there is no such file")


async def connect(dsn: str, *, deadline_s: float) -> asyncpg.Connection:
    """Open one connection. Retries for `deadline_s` seconds, then raises `Unavailable`."""
    _check_dsn(dsn)
    loop = asyncio.get_running_loop()
    give_up = loop.time() + deadline_s
    logged = False
    while True:
        try:
            connection = await asyncpg.connect(
                dsn, timeout=5, server_settings={STORE_SETTING: ALL_STORES}
            )
        except ssl.SSLCertVerificationError as error:
            reason = f"is not trusted: {error.verify_message}; check sslrootcert in DATABASE_URL"
            raise Unavailable(
                f"PostgreSQL at {describe_server(dsn)} {reason}, and the server's name"
            ) from None
        except (ValueError, asyncpg.ClientConfigurationError) as error:
            raise Unavailable(
                f"DATABASE_URL cannot be understood: {error}; it looks like {_EXAMPLE_DSN}"
            ) from None
        except (
            asyncpg.InvalidAuthorizationSpecificationError,
            asyncpg.InvalidCatalogNameError,
        ) as error:
            raise Unavailable(
                f"PostgreSQL at {describe_server(dsn)} refuses: {error}; check DATABASE_URL"
            ) from None
        except UNAVAILABLE_ERRORS as error:
            if loop.time() >= give_up:
                raise Unavailable(
                    f"PostgreSQL at {describe_server(dsn)} did not answer within {deadline_s:g} s"
                    f" ({str(error) or type(error).__name__}); start it, or check DATABASE_URL"
                ) from None
            if not logged:
                log.warning(
                    "dependency unavailable, retrying",
                    dependency="PostgreSQL",
                    operation="connect",
                    server=describe_server(dsn),
                    deadline_s=deadline_s,
                )
                logged = True
            await asyncio.sleep(0.25)
        else:
            await _prepare_connection(connection)
            return connection


class _Pool(asyncpg.Pool):
    """A pool that takes connections back in bounded time.

    asyncpg asks the server to cancel an abandoned statement and waits for the reply: 30 seconds for
    a silent server, whatever the caller's deadline. Here such a connection is terminated.
    """

    async def release(self, connection: Any, *, timeout: float | None = None) -> None:
        # Only the release timed out: the statement's outcome stands, and so does a cancellation.
        with suppress(TimeoutError):
            await super().release(connection, timeout=timeout or _RELEASE_TIMEOUT_S)


async def open_pool(
    settings: PostgresSettings,
    *,
    name: str,
    visible_store: str = ALL_STORES,
    keep_connections: bool = False,
) -> asyncpg.Pool:
    """Open a pool that creates connections on demand and leaves room for other services.

    The pool never takes more than a quarter of `max_connections`, unless DB_POOL_MIN asks for more.
    `visible_store` is the store whose rows a connection sees without `connection_for_store`, where
    its role is restricted. Without `keep_connections` the pool replaces each connection after
    50,000 statements.
    """
    dsn = settings.database_url.get_secret_value()
    connection = await connect(dsn, deadline_s=settings.startup_deadline_s)
    try:
        if not await connection.fetchval("SELECT to_regclass('blog_generations') IS NOT NULL"):
            raise Unavailable(
                f"PostgreSQL at {describe_server(dsn)} has no tables of ours:"
                " run `python -m migrations up`"
            )
        room: int = await connection.fetchval(
            "SELECT current_setting('max_connections')::int"
            " - current_setting('superuser_reserved_connections')::int"
        )
    finally:
        await connection.close()
    size = max(settings.db_pool_min, min(settings.db_pool_max, room // _SHARING_SERVICES), 1)
    return await _Pool(
        dsn,
        min_size=0,
        max_size=size,
        max_queries=sys.maxsize if keep_connections else _STATEMENTS_PER_CONNECTION,
        max_inactive_connection_lifetime=300,
        loop=None,
        connection_class=asyncpg.Connection,
        record_class=asyncpg.Record,
        init=_prepare_connection,
        timeout=5,
        command_timeout=30,
        server_settings={"application_name": name, "timezone": "UTC", STORE_SETTING: visible_store},
    )


@asynccontextmanager
async def connection_for_store(pool: asyncpg.Pool, store: str) -> AsyncIterator[Connection]:
    """A connection that sees this store's rows only (`ALL_STORES`: all) until it is returned.

    PostgreSQL enforces it, whatever the statements ask for, when `migrations grant` restricts the
    role.
    """
    async with pool.acquire() as connection:
        await connection.execute(_SET_STORE, store)
        yield connection  # its release resets or terminates it


async def retry_while_unavailable(
    write: Callable[[], Awaitable[T]], *, operation: str = "write", **about: str
) -> T:
    """Carry out a write, and retry while the server is unavailable: for data that was paid for.

    The write may be carried out twice when only its reply was lost. `operation` and `about` are
    fields of the log.
    """
    logged = False
    while True:
        try:
            return await write()
        except UNAVAILABLE_ERRORS as error:
            if not logged:
                log.warning(
                    "dependency unavailable, retrying",
                    dependency="PostgreSQL",
                    operation=operation,
                    reason=f"{type(error).__name__}: {error}",
                    **about,
                )
                logged = True
            await asyncio.sleep(_RETRY_S)


async def is_reachable(pool: asyncpg.Pool, *, timeout: float = 1.0) -> bool:
    """Return whether the server answers now. For readiness, never for liveness."""
    try:
        async with asyncio.timeout(timeout):  # includes the wait for a connection
            result: Any = await pool.fetchval("SELECT 1")
    except UNAVAILABLE_ERRORS:
        return False
    return bool(result == 1)

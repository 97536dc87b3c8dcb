"""PostgreSQL: one lazy pool a process, SQL from files, and a bounded wait at start."""

import asyncio
import re
import ssl
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
from shared.observability.log import get_logger
from shared.runtime.settings import PostgresSettings

log = get_logger(__name__)
T = TypeVar("T")
Connection: TypeAlias = "PoolConnectionProxy[asyncpg.Record]"
"""One that belongs to a pool."""

UNAVAILABLE_ERRORS = (
    OSError,
    TimeoutError,
    asyncpg.PostgresConnectionError,
    asyncpg.InterfaceError,
    asyncpg.CannotConnectNowError,
    asyncpg.TooManyConnectionsError,
    asyncpg.AdminShutdownError,
    asyncpg.CrashShutdownError,
    asyncpg.ObjectNotInPrerequisiteStateError,  # a database that is closed for maintenance
    asyncpg.IdleInTransactionSessionTimeoutError,
    asyncpg.TransactionRollbackError,
    asyncpg.InternalClientError,  # a connection cut in the middle of a statement may end so
)
"""What asyncpg raises while the server is away or full: worth another try, and no fault of the statement."""

ALL_STORES = "*"
"""Stands in a store's place for all of them: no store may be called so."""
NO_STORE = ""
STORE_SETTING = "blogstream.store"
"""The setting of a connection by which row-level security judges what it may see (migrations/policies.py)."""
_SEE = f"SELECT set_config('{STORE_SETTING}', $1, false)"

_AGAIN_AFTER_S = 1.0
_GIVEN_BACK_WITHIN_S = 1.0
_LIKE = "postgresql://user:password@host:port/database"

_TLS_FILES = ("sslrootcert", "sslcert", "sslkey", "sslcrl")

_SERVICES_SHARING = 4
_NAME = re.compile(r"^-- name: (?P<name>[a-z0-9_]+)\s*$", re.MULTILINE)


def load_queries(path: Path) -> Mapping[str, str]:
    """The named queries of an .sql file: each begins with `-- name: NAME`, then a comment that describes it."""
    text = path.read_text(encoding="utf-8")
    marks = list(_NAME.finditer(text))
    ends = [mark.start() for mark in marks[1:]] + [len(text)]
    return {
        mark["name"]: text[mark.end() : end].strip() for mark, end in zip(marks, ends, strict=True)
    }


def describe_server(dsn: str) -> str:
    """The server a DSN names, without its secrets."""
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
    # asyncpg's own UUID class is a stranger to orjson and pydantic: plain UUIDs, so that no caller has to know.
    await connection.set_type_codec(
        "uuid",
        schema="pg_catalog",
        format="binary",
        encoder=lambda value: value.bytes,
        decoder=lambda raw: UUID(bytes=bytes(raw)),
    )


def _judge(dsn: str) -> None:
    """`Unavailable` for what no waiting will put right."""
    try:
        parts = urlsplit(dsn)
        understood = parts.scheme in ("postgresql", "postgres")
    except ValueError:
        understood = False
    if not understood:
        raise Unavailable(f"DATABASE_URL cannot be understood; it looks like {_LIKE}")
    for name, file in parse_qsl(parts.query):
        if name in _TLS_FILES and not Path(file).is_file():
            raise Unavailable(f"{name} in DATABASE_URL is {file}, and there is no such file")


async def connect(dsn: str, *, deadline_s: float) -> asyncpg.Connection:
    """One connection, tried until `deadline_s` has passed; then `Unavailable` with what, where and what to do."""
    _judge(dsn)
    loop = asyncio.get_running_loop()
    give_up = loop.time() + deadline_s
    told = False
    while True:
        try:
            connection = await asyncpg.connect(
                dsn, timeout=5, server_settings={STORE_SETTING: ALL_STORES}
            )
        except ssl.SSLCertVerificationError as error:
            why = f"is not trusted: {error.verify_message}; check sslrootcert in DATABASE_URL"
            raise Unavailable(
                f"PostgreSQL at {describe_server(dsn)} {why}, and the server's name"
            ) from None
        except (ValueError, asyncpg.ClientConfigurationError) as error:
            raise Unavailable(
                f"DATABASE_URL cannot be understood: {error}; it looks like {_LIKE}"
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
            if not told:
                log.warning(
                    "waiting for PostgreSQL", server=describe_server(dsn), deadline_s=deadline_s
                )
                told = True
            await asyncio.sleep(0.25)
        else:
            await _prepare_connection(connection)
            return connection


class _Pool(asyncpg.Pool):
    """A pool that takes connections back in bounded time.

    asyncpg asks the server to cancel a statement that was given up, and waits for its word: for 30 seconds when it is
    silent, whatever deadline the caller had. Here such a connection is ended.
    """

    async def release(self, connection: Any, *, timeout: float | None = None) -> None:
        with suppress(
            TimeoutError
        ):  # of giving back: the statement's own outcome stands, a cancellation too
            await super().release(connection, timeout=timeout or _GIVEN_BACK_WITHIN_S)


async def open_pool(
    settings: PostgresSettings, *, name: str, seen: str = ALL_STORES
) -> asyncpg.Pool:
    """A pool that opens connections as they are needed and leaves room for the other services on the same server.

    A pool never takes more than a quarter of `max_connections`, unless DB_POOL_MIN asks for more. `seen`: whose rows a
    connection sees that asks for no other's (`connection_for_store`), where its role is restricted.
    """
    dsn = settings.database_url.get_secret_value()
    connection = await connect(dsn, deadline_s=settings.startup_deadline_s)
    try:
        if not await connection.fetchval("SELECT to_regclass('blog_generations') IS NOT NULL"):
            raise Unavailable(
                f"PostgreSQL at {describe_server(dsn)} has no tables of ours: run `python -m migrations up`"
            )
        room: int = await connection.fetchval(
            "SELECT current_setting('max_connections')::int - current_setting('superuser_reserved_connections')::int"
        )
    finally:
        await connection.close()
    size = max(settings.db_pool_min, min(settings.db_pool_max, room // _SERVICES_SHARING), 1)
    return await _Pool(
        dsn,
        min_size=0,
        max_size=size,
        max_queries=50_000,
        max_inactive_connection_lifetime=300,
        loop=None,
        connection_class=asyncpg.Connection,
        record_class=asyncpg.Record,
        init=_prepare_connection,
        timeout=5,
        command_timeout=30,
        server_settings={"application_name": name, "timezone": "UTC", STORE_SETTING: seen},
    )


@asynccontextmanager
async def connection_for_store(pool: asyncpg.Pool, store: str) -> AsyncIterator[Connection]:
    """A connection that sees the rows of this store and no other's (`ALL_STORES`: everybody's) until it is given back.

    Whatever its statements ask for: PostgreSQL sees to it, when the role is one that `migrations grant` restricts.
    """
    async with pool.acquire() as connection:
        await connection.execute(_SEE, store)
        yield connection  # giving it back resets it, or ends it


async def retry_while_unavailable(write: Callable[[], Awaitable[T]], **about: str) -> T:
    """Carry out a write, and go on trying while the server is away: for what must not be lost, once it was paid for.

    The write may be carried out twice, when only its answer got lost. `about` names it in the log.
    """
    told = False
    while True:
        try:
            return await write()
        except UNAVAILABLE_ERRORS as error:
            if not told:
                log.warning(
                    "waiting to save: PostgreSQL is away",
                    reason=f"{type(error).__name__}: {error}",
                    **about,
                )
                told = True
            await asyncio.sleep(_AGAIN_AFTER_S)


async def is_reachable(pool: asyncpg.Pool, *, timeout: float = 1.0) -> bool:
    """Whether the server answers now: for readiness, never for liveness."""
    try:
        async with asyncio.timeout(timeout):  # to wait for a connection, too
            result: Any = await pool.fetchval("SELECT 1")
    except UNAVAILABLE_ERRORS:
        return False
    return bool(result == 1)

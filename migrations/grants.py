"""Grants a service's role exactly what its queries need: no table definitions, no creation of keys.

The role that migrates owns the tables. Services run as another role, or as several, each for one
service or more. Ingest's role sees only the rows of the store it asks for (`policies`).
"""

import hashlib
import hmac
import secrets
from base64 import b64encode
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from unicodedata import normalize
from urllib.parse import unquote, urlsplit

import asyncpg

from migrations import policies
from migrations.runner import hold_migration_lock
from migrations.settings import ServiceLogin
from shared.domain.errors import Unavailable
from shared.runtime.postgres import connect, load_queries

_GRANTS = load_queries(Path(__file__).parent / "sql" / "grants.sql")
SERVICES = tuple(_GRANTS)
_ROLE_RIGHTS = """
SELECT rolsuper OR EXISTS (
           SELECT 1 FROM pg_tables
            WHERE schemaname = 'public' AND pg_has_role($1, tableowner, 'MEMBER')) AS owns,
       rolbypassrls,
       ARRAY(SELECT roleid::regrole::text FROM pg_auth_members
              WHERE member = role.oid ORDER BY 1) AS groups
  FROM pg_roles AS role WHERE rolname = $1"""
_CAN_CREATE_ROLES = "SELECT rolsuper OR rolcreaterole FROM pg_roles WHERE rolname = current_user"
_ITERATIONS = 4096
"""Iterations of PBKDF2, as PostgreSQL uses."""


async def grant_role(
    dsn: str, role: str, services: Sequence[str], *, deadline_s: float = 60
) -> None:
    """Grant `role` what these services need, and revoke everything else. Can be repeated.

    `Unavailable` when the role does not exist, or has rights that cannot be revoked.
    """
    try:
        # The lock, because two concurrent grants would conflict in the catalog.
        async with hold_migration_lock(dsn, deadline_s) as connection:
            await _check_role(connection, role)
            if "ingest" in services:  # before the grants, so that the role never sees too much
                await policies.restrict_role(connection, role)
            async with connection.transaction():
                await _replace_grants(connection, role, services)
            if "ingest" not in services:
                await policies.unrestrict_role(connection, role)
    except asyncpg.UndefinedTableError as error:
        raise Unavailable(
            f"the database lacks a table ({error}): run `python -m migrations up` first"
        ) from None
    except asyncpg.InsufficientPrivilegeError as error:
        raise Unavailable(f"only the owner of the tables can grant anything: {error}") from None


async def _replace_grants(
    connection: asyncpg.Connection, role: str, services: Sequence[str]
) -> None:
    quoted = await connection.fetchval("SELECT quote_ident($1)", role)
    database = await connection.fetchval("SELECT quote_ident(current_database())")
    await connection.execute(f"REVOKE ALL ON ALL TABLES IN SCHEMA public FROM {quoted}")
    await connection.execute(f"REVOKE ALL ON SCHEMA public FROM {quoted}")
    await connection.execute(f"GRANT USAGE ON SCHEMA public TO {quoted}")
    await connection.execute(f"GRANT CONNECT ON DATABASE {database} TO {quoted}")
    for service in services:
        await connection.execute(_GRANTS[service].format(role=quoted))


async def prepare_logins(
    dsn: str, logins: Sequence[ServiceLogin], *, deadline_s: float = 60
) -> Mapping[str, Sequence[str]]:
    """Create the missing roles of the services' logins, and grant each what its services need.

    An existing role keeps its password. Returns the names of the roles with their services.
    `Unavailable` as for `grant_role`, and when an address has no user and password.
    """
    granted = dict[str, list[str]]()
    for login in logins:
        role, password = _parse_login(login.address)
        await _create_role(dsn, role, password, deadline_s)
        granted.setdefault(role, []).extend(login.services)
    for role, services in granted.items():
        await grant_role(dsn, role, services, deadline_s=deadline_s)
    return granted


def _parse_login(address: str) -> tuple[str, str]:
    with suppress(ValueError):  # brackets that do not match
        parts = urlsplit(address)
        if parts.username and parts.password:
            return unquote(parts.username), unquote(parts.password)
    raise Unavailable("INGEST_DATABASE_URL and WORKERS_DATABASE_URL name a user and its password")


async def _create_role(dsn: str, role: str, password: str, deadline_s: float) -> None:
    connection = await connect(dsn, deadline_s=deadline_s)
    try:
        if await connection.fetchval(
            "SELECT EXISTS (SELECT FROM pg_roles WHERE rolname = $1)", role
        ):
            return
        if not await connection.fetchval(_CAN_CREATE_ROLES):
            raise Unavailable(
                f"there is no role {role}, and DATABASE_URL's role may not create one:"
                f" CREATE ROLE {role} LOGIN …"
            )
        create = "SELECT format('CREATE ROLE %I LOGIN PASSWORD %L', $1::text, $2::text)"
        await connection.execute(await connection.fetchval(create, role, scram_verifier(password)))
    except (asyncpg.DuplicateObjectError, asyncpg.UniqueViolationError):
        pass  # a concurrent process created it
    finally:
        await connection.close()


def scram_verifier(password: str) -> str:
    """PostgreSQL's verifier of a password (SCRAM-SHA-256, RFC 5803).

    The statement may appear in the server's log, and the password must not.
    """
    salt = secrets.token_bytes(16)
    salted = hashlib.pbkdf2_hmac("sha256", normalize("NFKC", password).encode(), salt, _ITERATIONS)
    stored = hashlib.sha256(hmac.digest(salted, b"Client Key", "sha256")).digest()
    server = hmac.digest(salted, b"Server Key", "sha256")
    of_salt, of_stored, of_server = (b64encode(part).decode() for part in (salt, stored, server))
    return f"SCRAM-SHA-256${_ITERATIONS}:{of_salt}${of_stored}:{of_server}"


async def _check_role(connection: asyncpg.Connection, role: str) -> None:
    found = await connection.fetchrow(_ROLE_RIGHTS, role)
    if found is None:
        raise Unavailable(f"there is no role {role}: CREATE ROLE {role} LOGIN PASSWORD '…'")
    if found["owns"]:
        raise Unavailable(
            f"{role} is a superuser, or owns the tables: nothing can be withheld from it"
        )
    if found["rolbypassrls"]:
        raise Unavailable(f"{role} passes by row-level security: ALTER ROLE {role} NOBYPASSRLS")
    if found["groups"]:
        raise Unavailable(
            f"{role} may do all that {', '.join(found['groups'])} may: take it out of there first"
        )

"""Roles of services: their queries work, and everything else is refused."""

import asyncio
import uuid
from collections.abc import AsyncIterator
from functools import partial
from pathlib import Path
from urllib.parse import quote

import asyncpg
import pytest

from migrations import grants
from migrations.settings import ServiceLogin
from sandbox.servers.postgres import open_connection
from sandbox.system.home import ROOT
from services.generator import service as generator
from services.scheduler.repository import SchedulerRepository
from shared.domain.api_keys import get_or_create_webhook_secret
from shared.domain.errors import Unavailable
from shared.runtime.postgres import load_queries, open_pool
from shared.runtime.settings import PostgresSettings
from tests.support.backend import Backend, running_service
from tests.support.eventually import eventually
from tests.support.fake_providers import StandIns
from tests.support.generator import worker_settings
from tests.support.ingest import GOOD, PATH, start_ingest
from tests.support.migrations import dsn_of_role, run_migrations
from tests.support.scheduler import start_scheduler
from tests.support.servers import execute
from tests.support.webhook_receiver import is_signed, start_webhook_receiver

KEYS = load_queries(ROOT / "shared" / "domain" / "sql" / "api_keys.sql")
OPERATOR_QUERIES = {"create", "list", "revoke", "is_valid", "rotate_webhook_secret"}
"""Queries that the owner of the tables runs. Ingest runs the others of the file."""


def queries_of(service: str) -> dict[str, str]:
    """The queries of a service without those of `recover`, which the owner runs."""
    files = [
        path for path in (ROOT / "services" / service).rglob("*.sql") if path.name != "recovery.sql"
    ]
    found = {
        f"{path.stem}.{name}": query for path in files for name, query in load_queries(path).items()
    }
    return found | (
        {f"keys.{name}": KEYS[name] for name in KEYS.keys() - OPERATOR_QUERIES}
        if service == "ingest"
        else {}
    )


@pytest.mark.parametrize("service", grants.SERVICES)
async def test_role_of_a_service_may_run_its_queries_only(
    database: str, role: str, service: str
) -> None:
    code, output = await run_migrations(database, "grant", role, service)
    assert (code, output.strip()) == (
        0,
        f"[Migration] {role} may do what {service} need, and no more",
    )
    async with open_connection(dsn_of_role(database, role)) as connection:
        for name, query in queries_of(service).items():
            try:  # planning checks the permissions
                await connection.execute(f"EXPLAIN (GENERIC_PLAN) {query}")
            except asyncpg.InsufficientPrivilegeError as error:
                pytest.fail(
                    f"migrations/sql/grants.sql lacks what {service}'s query {name} needs: {error}"
                )
        for refused in (
            "CREATE TABLE mine (x int)",
            "ALTER TABLE blog_generations ADD COLUMN x int",
            "DROP TABLE blog_posts",
            "TRUNCATE blog_generations",
            "CREATE INDEX ON blog_generations (status)",
            "DELETE FROM blog_generations",
            "UPDATE api_keys SET revoked_at = NULL",
            "DELETE FROM schema_migrations",
            "UPDATE store_spend SET spent_nanousd = 0",
            "DELETE FROM store_spend",
            "DELETE FROM webhook_secrets",
            "UPDATE webhook_secrets SET expires_at = now()",
            "INSERT INTO webhook_secrets (instance_id, secret, created_at) VALUES ('s', 'x',"
            " now())",
            "INSERT INTO api_keys (id, instance_id, hash, hint) VALUES ('k', 's', 'h', 'x')",
        ):
            with pytest.raises(asyncpg.InsufficientPrivilegeError):
                await connection.execute(refused)
        if service != "ingest":
            with pytest.raises(asyncpg.InsufficientPrivilegeError):
                await connection.execute("SELECT hash FROM api_keys")


async def test_scheduler_sees_the_connections_of_other_roles(database: str, role: str) -> None:
    await grants.grant_role(database, role, ["scheduler"])
    workers, own = (
        PostgresSettings.model_validate({"database_url": dsn, "db_pool_min": 1})
        for dsn in (database, dsn_of_role(database, role))
    )
    async with (
        await open_pool(workers, name="worker") as pool,
        await open_pool(own, name="scheduler") as restricted,
    ):
        pid = await pool.fetchval("SELECT pg_backend_pid()")
        connections = await SchedulerRepository(restricted, epoch=1).fetch_connections()
    assert {one.pid for one in connections if one.process == "worker"} == {pid}
    (own_connection,) = (one for one in connections if one.process == "scheduler")
    assert own_connection.started_at is not None


async def test_grant_revokes_rights_of_other_services(database: str, role: str) -> None:
    await grants.grant_role(database, role, ["scheduler"])
    await grants.grant_role(database, role, ["ingest"])
    async with open_connection(dsn_of_role(database, role)) as connection:
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            await connection.execute("SELECT * FROM stores")


async def test_refused_grant_is_one_clear_line(database: str, role: str) -> None:
    with pytest.raises(Unavailable, match="there is no role nobody-here: CREATE ROLE"):
        await grants.grant_role(database, "nobody-here", grants.SERVICES)
    with pytest.raises(Unavailable, match="owns the tables: nothing can be withheld"):
        await grants.grant_role(database, "blogstream", grants.SERVICES)
    with pytest.raises(Unavailable, match="only the owner"):
        await grants.grant_role(dsn_of_role(database, role), role, grants.SERVICES)
    assert (await run_migrations(database, "grant", role, "cook"))[0] == 2


async def test_up_creates_the_roles_of_the_services(database: str, role: str) -> None:
    """Four processes at once, and a fifth run that keeps the passwords."""
    made = f"{role} %/made"
    logins = {
        "INGEST_DATABASE_URL": dsn_of_role(database, quote(made, safe="")),
        "WORKERS_DATABASE_URL": dsn_of_role(database, role),
    }
    try:
        outcomes = await asyncio.gather(
            *(run_migrations(database, "up", **logins) for _ in range(4))
        )
        outcomes.append(await run_migrations(database, "up", **logins))
        for code, output in outcomes:
            assert (code, output.splitlines()[:2]) == (
                0,
                [
                    f"[Migration] {made} may do what ingest need, and no more",
                    f"[Migration] {role} may do what scheduler, generator, metrics need, and no"
                    f" more",
                ],
            )
        async with open_connection(logins["INGEST_DATABASE_URL"]) as ingest:
            assert await ingest.fetchval("SELECT count(*) FROM api_keys") == 0
        async with open_connection(logins["WORKERS_DATABASE_URL"]) as workers:
            with pytest.raises(asyncpg.InsufficientPrivilegeError):
                await workers.execute("SELECT FROM api_keys")
    finally:
        await execute(database, f'DROP OWNED BY "{made}"')
        await execute(database, f'DROP ROLE "{made}"')


@pytest.mark.parametrize(
    "login", ["postgresql://host/db", "postgresql://user@host/db", "postgresql://u:p@[bad"]
)
async def test_login_without_user_or_password_is_one_clear_line(database: str, login: str) -> None:
    code, output = await run_migrations(database, "up", INGEST_DATABASE_URL=login)
    assert (code, output.strip()) == (
        3,
        "INGEST_DATABASE_URL and WORKERS_DATABASE_URL name a user and its password",
    )


async def test_one_role_may_serve_all_services(database: str, role: str) -> None:
    login = dsn_of_role(database, role)
    code, output = await run_migrations(
        database, "up", INGEST_DATABASE_URL=login, WORKERS_DATABASE_URL=login
    )
    assert (code, output.splitlines()[0]) == (
        0,
        f"[Migration] {role} may do what ingest, scheduler, generator, metrics need, and no more",
    )


async def test_password_is_not_part_of_any_statement(database: str, role: str) -> None:
    """The verifier is computed by the client, and accepts the right password only."""
    made, password = f"{role}-made", "p@ss'wörd"
    login = f"postgresql://{made}:{quote(password, safe='')}@{database.split('@')[1]}"
    try:
        await grants.prepare_logins(database, [ServiceLogin(login, ("metrics",))])
        async with open_connection(login) as connection:
            assert await connection.fetchval("SELECT current_user") == made
        with pytest.raises(asyncpg.InvalidPasswordError):
            await asyncpg.connect(login.replace("%40", "%41"))
        async with open_connection(database) as connection:
            kept = await connection.fetchval(
                "SELECT rolpassword FROM pg_authid WHERE rolname = $1", made
            )
        assert kept.startswith("SCRAM-SHA-256$4096:")
        assert password not in grants.scram_verifier(password)
    finally:
        await execute(database, f'DROP OWNED BY "{made}"')
        await execute(database, f'DROP ROLE "{made}"')


async def test_role_with_other_rights_is_refused(database: str, role: str) -> None:
    """Rights by membership in another role, or by BYPASSRLS."""
    other = f"{role}-other"
    await execute(database, f'CREATE ROLE "{other}"')
    try:
        await execute(database, f'GRANT "{other}" TO "{role}"')
        with pytest.raises(
            Unavailable, match=r"may do all that .*-other.* may: take it out of there first"
        ):
            await grants.grant_role(database, role, ["ingest"])
    finally:
        await execute(database, f'DROP ROLE "{other}"')
    await execute(database, f'ALTER ROLE "{role}" BYPASSRLS')
    with pytest.raises(Unavailable, match="passes by row-level security"):
        await grants.grant_role(database, role, ["ingest"])


async def test_migrating_role_without_createrole_is_told_so(database: str, role: str) -> None:
    code, output = await run_migrations(dsn_of_role(database, role), "up")
    assert (
        code,
        output.startswith("only the owner of the tables can migrate: permission denied"),
    ) == (3, True)
    await execute(database, f'GRANT CREATE ON SCHEMA public TO "{role}"')
    login = ServiceLogin("postgresql://nobody-yet:secret@h/db", ("metrics",))
    with pytest.raises(
        Unavailable, match="there is no role nobody-yet, and DATABASE_URL's role may not create one"
    ):
        await grants.prepare_logins(dsn_of_role(database, role), [login])


async def test_owner_is_refused_as_a_login_of_services(database: str) -> None:
    code, output = await run_migrations(database, "up", WORKERS_DATABASE_URL=database)
    assert (code, "nothing can be withheld from it" in output) == (3, True)


@pytest.fixture
async def dsns_of_two_roles(database: str, role: str) -> AsyncIterator[tuple[str, str]]:
    """DSNs of two roles: one for ingest and metrics, one for scheduler and generator."""
    work = f"{role}-work"
    await execute(database, f"CREATE ROLE \"{work}\" LOGIN PASSWORD '{work}'")
    await grants.grant_role(database, role, ["ingest", "metrics"])
    await grants.grant_role(database, work, ["scheduler", "generator"])
    yield dsn_of_role(database, role), dsn_of_role(database, work)
    await execute(database, f'DROP OWNED BY "{work}"')
    await execute(database, f'DROP ROLE "{work}"')


async def test_job_runs_from_post_to_webhook_with_two_roles(
    backend: Backend, standins: StandIns, dsns_of_two_roles: tuple[str, str], tmp_path: Path
) -> None:
    front, work = dsns_of_two_roles
    settings = worker_settings(
        bootstrap=backend.settings.kafka_bootstrap_servers,
        prefix=backend.settings.kafka_topic_prefix,
        database=work,
        standins=standins,
        folder=tmp_path,
    )
    async with (
        start_webhook_receiver() as receiver,
        start_ingest(backend, front, tmp_path, webhook_allow_loopback=True) as ingest,
        start_scheduler(backend, work),
        running_service(partial(generator.run_worker, settings, name="worker")),
    ):
        job = (await ingest.post(GOOD | {"webhookUrl": receiver.url})).json()["id"]
        await eventually(lambda: backend.has_status(uuid.UUID(job), "DONE"), timeout=60)
        assert (await ingest.get(f"{PATH}/{job}")).json()["post"]["html"]
        assert (await ingest.get("/api/stores/shop/budget")).json()["spentUsd"] > 0, (
            "the trigger books the spend, though no role may"
        )
        assert (await ingest.get(PATH)).json()["items"][0]["id"] == job
        answer = await ingest.http.post(
            f"{PATH}/{job}/cancel", headers={"Authorization": f"Bearer {ingest.key}"}
        )  # it has ended: refused by its state, not by the database
        assert answer.status_code == 409
        await eventually(lambda: receiver.has_received(1))
        (_, headers, body) = receiver.received[0]
        assert is_signed(
            await get_or_create_webhook_secret(backend.database, "shop"), headers, body
        ), "a secret was created for the webhook"

"""Services as roles that own nothing: every query of theirs works, no table can be changed, no key made."""

import asyncio
import uuid
from collections.abc import AsyncIterator, Iterator
from functools import partial
from pathlib import Path
from urllib.parse import quote

import asyncpg
import pytest

from migrations import grants
from migrations.settings import Login
from sandbox.servers.postgres import open_connection
from sandbox.system.home import ROOT
from services.generator import service as generator
from shared.domain.api_keys import webhook_secret
from shared.domain.errors import Unavailable
from shared.runtime.postgres import load_queries
from tests.integration.ingest.test_webhooks import a_receiver, is_signed
from tests.integration.migrations.test_migrations import migrate
from tests.support.backend import Backend, running_service
from tests.support.eventually import eventually
from tests.support.fake_providers import StandIns
from tests.support.generator import worker_settings
from tests.support.ingest import GOOD, PATH, start_ingest
from tests.support.scheduler import start_scheduler
from tests.support.servers import execute

KEYS = load_queries(ROOT / "shared" / "sql" / "keys.sql")
OF_COMMANDS = {"create", "list", "revoke", "is_valid", "rotate_webhook_secret"}
"""What `./blogstream keys` and migrations' owner run; all else of that file is ingest's."""


def queries_of(service: str) -> dict[str, str]:
    """All but those of the commands for disasters, which their owner runs."""
    files = [
        path for path in (ROOT / "services" / service).rglob("*.sql") if path.name != "recovery.sql"
    ]
    found = {
        f"{path.stem}.{name}": query for path in files for name, query in load_queries(path).items()
    }
    return found | (
        {f"keys.{name}": KEYS[name] for name in KEYS.keys() - OF_COMMANDS}
        if service == "ingest"
        else {}
    )


@pytest.fixture
def role(postgres: str, database: str) -> Iterator[str]:
    """A role that owns nothing and may nothing: its name, which is its password too."""
    name = f"App-{uuid.uuid4().hex[:8]}"
    asyncio.run(execute(postgres, f"CREATE ROLE \"{name}\" LOGIN PASSWORD '{name}'"))
    yield name
    asyncio.run(execute(database, f'DROP OWNED BY "{name}"'))
    asyncio.run(execute(postgres, f'DROP ROLE "{name}"'))


def as_role(database: str, role: str) -> str:
    """`role` as an address has it."""
    return f"postgresql://{role}:{role}@{database.split('@')[1]}"


@pytest.mark.parametrize("service", grants.SERVICES)
async def test_every_query_of_a_service_works_as_its_role_and_nothing_else_does(
    database: str, role: str, service: str
) -> None:
    code, output = await migrate(database, "grant", role, service)
    assert (code, output.strip()) == (
        0,
        f"[Migration] {role} may do what {service} need, and no more",
    )
    async with open_connection(as_role(database, role)) as connection:
        for name, query in queries_of(service).items():
            try:  # the plan is enough: permissions are judged before anything is carried out
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
            "INSERT INTO webhook_secrets (instance_id, secret, created_at) VALUES ('s', 'x', now())",
            "INSERT INTO api_keys (id, instance_id, hash, hint) VALUES ('k', 's', 'h', 'x')",
        ):
            with pytest.raises(asyncpg.InsufficientPrivilegeError):
                await connection.execute(refused)
        if service != "ingest":
            with pytest.raises(asyncpg.InsufficientPrivilegeError):
                await connection.execute("SELECT hash FROM api_keys")


async def test_a_repeated_grant_takes_back_what_other_services_needed(
    database: str, role: str
) -> None:
    await grants.grant(database, role, ["scheduler"])
    await grants.grant(database, role, ["ingest"])
    async with open_connection(as_role(database, role)) as connection:
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            await connection.execute("SELECT * FROM stores")


async def test_what_cannot_be_granted_is_one_clear_line(database: str, role: str) -> None:
    with pytest.raises(Unavailable, match="there is no role nobody-here: CREATE ROLE"):
        await grants.grant(database, "nobody-here", grants.SERVICES)
    with pytest.raises(Unavailable, match="owns the tables: nothing can be withheld"):
        await grants.grant(database, "blogstream", grants.SERVICES)
    with pytest.raises(Unavailable, match="only the owner"):
        await grants.grant(as_role(database, role), role, grants.SERVICES)
    assert (await migrate(database, "grant", role, "cook"))[0] == 2


async def test_up_makes_the_roles_that_services_log_in_with(database: str, role: str) -> None:
    """Four at once, as ever; and once more, with the password that they have."""
    made = f"{role} %/made"
    logins = {
        "INGEST_DATABASE_URL": as_role(database, quote(made, safe="")),
        "WORKERS_DATABASE_URL": as_role(database, role),
    }
    try:
        outcomes = await asyncio.gather(*(migrate(database, "up", **logins) for _ in range(4)))
        outcomes.append(await migrate(database, "up", **logins))
        for code, output in outcomes:
            assert (code, output.splitlines()[:2]) == (
                0,
                [
                    f"[Migration] {made} may do what ingest need, and no more",
                    f"[Migration] {role} may do what scheduler, generator, metrics need, and no more",
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
async def test_a_login_without_a_user_and_a_password_is_one_clear_line(
    database: str, login: str
) -> None:
    code, output = await migrate(database, "up", INGEST_DATABASE_URL=login)
    assert (code, output.strip()) == (
        3,
        "INGEST_DATABASE_URL and WORKERS_DATABASE_URL name a user and its password",
    )


async def test_one_role_for_all_may_do_what_all_need(database: str, role: str) -> None:
    login = as_role(database, role)
    code, output = await migrate(
        database, "up", INGEST_DATABASE_URL=login, WORKERS_DATABASE_URL=login
    )
    assert (code, output.splitlines()[0]) == (
        0,
        f"[Migration] {role} may do what ingest, scheduler, generator, metrics need, and no more",
    )


async def test_a_password_is_no_part_of_any_statement(database: str, role: str) -> None:
    """What the server keeps is made here: it lets in who has the password, and nobody else."""
    made, password = f"{role}-made", "p@ss'wörd"
    login = f"postgresql://{made}:{quote(password, safe='')}@{database.split('@')[1]}"
    try:
        await grants.prepare(database, [Login(login, ("metrics",))])
        async with open_connection(login) as connection:
            assert await connection.fetchval("SELECT current_user") == made
        with pytest.raises(asyncpg.InvalidPasswordError):
            await asyncpg.connect(login.replace("%40", "%41"))
        async with open_connection(database) as connection:
            kept = await connection.fetchval(
                "SELECT rolpassword FROM pg_authid WHERE rolname = $1", made
            )
        assert kept.startswith("SCRAM-SHA-256$4096:")
        assert password not in grants.verifier(password)
    finally:
        await execute(database, f'DROP OWNED BY "{made}"')
        await execute(database, f'DROP ROLE "{made}"')


async def test_a_role_that_may_more_than_is_granted_is_refused(database: str, role: str) -> None:
    """Whether it passes by row-level security, or by what others may."""
    other = f"{role}-other"
    await execute(database, f'CREATE ROLE "{other}"')
    try:
        await execute(database, f'GRANT "{other}" TO "{role}"')
        with pytest.raises(
            Unavailable, match=r"may do all that .*-other.* may: take it out of there first"
        ):
            await grants.grant(database, role, ["ingest"])
    finally:
        await execute(database, f'DROP ROLE "{other}"')
    await execute(database, f'ALTER ROLE "{role}" BYPASSRLS')
    with pytest.raises(Unavailable, match="passes by row-level security"):
        await grants.grant(database, role, ["ingest"])


async def test_who_may_make_no_roles_is_told_so_before_it_is_tried(
    database: str, role: str
) -> None:
    code, output = await migrate(as_role(database, role), "up")
    assert (
        code,
        output.startswith("only the owner of the tables can migrate: permission denied"),
    ) == (3, True)
    await execute(database, f'GRANT CREATE ON SCHEMA public TO "{role}"')
    login = Login("postgresql://nobody-yet:secret@h/db", ("metrics",))
    with pytest.raises(
        Unavailable, match="there is no role nobody-yet, and who migrates may not make one"
    ):
        await grants.prepare(as_role(database, role), [login])


async def test_services_do_not_log_in_as_the_owner(database: str) -> None:
    code, output = await migrate(database, "up", WORKERS_DATABASE_URL=database)
    assert (code, "nothing can be withheld from it" in output) == (3, True)


@pytest.fixture
async def front_and_work(database: str, role: str) -> AsyncIterator[tuple[str, str]]:
    """Two roles: who faces the backend, and who works. The second is made here."""
    work = f"{role}-work"
    await execute(database, f"CREATE ROLE \"{work}\" LOGIN PASSWORD '{work}'")
    await grants.grant(database, role, ["ingest", "metrics"])
    await grants.grant(database, work, ["scheduler", "generator"])
    yield as_role(database, role), as_role(database, work)
    await execute(database, f'DROP OWNED BY "{work}"')
    await execute(database, f'DROP ROLE "{work}"')


async def test_a_post_becomes_a_blog_with_two_roles(
    backend: Backend, standins: StandIns, front_and_work: tuple[str, str], tmp_path: Path
) -> None:
    front, work = front_and_work
    settings = worker_settings(
        bootstrap=backend.settings.kafka_bootstrap_servers,
        prefix=backend.settings.kafka_topic_prefix,
        database=work,
        standins=standins,
        folder=tmp_path,
    )
    async with (
        a_receiver() as receiver,
        start_ingest(backend, front, tmp_path, webhook_allow_loopback=True) as ingest,
        start_scheduler(backend, work),
        running_service(partial(generator.run, settings, name="worker")),
    ):
        job = (await ingest.post(GOOD | {"webhookUrl": receiver.url})).json()["id"]
        await eventually(lambda: backend.has_status(uuid.UUID(job), "DONE"), timeout=60)
        assert (await ingest.get(f"{PATH}/{job}")).json()["post"]["html"]
        assert (await ingest.get("/api/stores/shop/budget")).json()["spentUsd"] > 0, (
            "booked, though no role may book"
        )
        assert (await ingest.get(PATH)).json()["items"][0]["id"] == job
        answer = await ingest.http.post(
            f"{PATH}/{job}/cancel", headers={"Authorization": f"Bearer {ingest.key}"}
        )  # it has ended: refused by its state, not by the database
        assert answer.status_code == 409
        await eventually(lambda: receiver.has_heard(1))
        (_, headers, body) = receiver.heard[0]
        assert is_signed(await webhook_secret(backend.database, "shop"), headers, body), (
            "a secret was made for it"
        )

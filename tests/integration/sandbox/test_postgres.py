"""The sandbox's PostgreSQL: data survives kills, in any home and for any user."""

import asyncio
import os
import shutil
import signal
from collections.abc import Iterator
from pathlib import Path

import asyncpg
import pytest

from sandbox.servers import postgres
from sandbox.system import leftovers
from sandbox.system.home import Home
from shared.domain.errors import Unavailable
from tests.support.servers import server_folder, start_server, stop_server

as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root runs the server as another user")


@pytest.fixture
def folder() -> Iterator[Path]:
    with server_folder() as made:
        yield made


@pytest.fixture
def home(folder: Path) -> Path:
    """A home that the server's user can enter."""
    return folder / "home"


@pytest.fixture
def closed_home(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home that only its owner can enter, like one under /root."""
    elsewhere = folder / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.setattr(postgres, "_SHARED_FOLDER", elsewhere)
    closed = tmp_path / "closed"
    closed.mkdir(mode=0o700)
    return closed / "home"


async def write(dsn: str) -> None:
    async with postgres.open_connection(dsn) as connection:
        await connection.execute("CREATE TABLE kept (number int); INSERT INTO kept VALUES (42)")


async def read(dsn: str) -> int:
    async with postgres.open_connection(dsn) as connection:
        return int(await connection.fetchval("SELECT number FROM kept"))


def write_once(home: Path) -> None:
    """Start a server in the home, write to it, and stop it."""
    spec, dsn = postgres.prepare_server(home / "postgres", print)
    process = start_server(spec, home / "log")
    try:
        asyncio.run(write(dsn))
    finally:
        assert stop_server(spec, process) == 0


def read_once(home: Path) -> int:
    spec, dsn = postgres.prepare_server(home / "postgres", print)
    process = start_server(spec, home / "log")
    try:
        return asyncio.run(read(dsn))
    finally:
        stop_server(spec, process)


def test_data_survives_a_kill_while_the_server_is_a_zombie(home: Path) -> None:
    spec, dsn = postgres.prepare_server(home / "postgres", print)
    killed = start_server(spec, home / "log")
    asyncio.run(write(dsn))
    with pytest.raises(
        Unavailable, match=r"^port \d+, which PostgreSQL of this home uses, is taken; [^\n]+$"
    ):
        postgres.prepare_server(home / "postgres", print)
    os.kill(killed.pid, signal.SIGKILL)
    os.waitid(os.P_PID, killed.pid, os.WEXITED | os.WNOWAIT)  # a zombie now
    assert read_once(home) == 42
    killed.wait()


def test_interrupted_initialisation_starts_over(home: Path) -> None:
    folder = home / "postgres"
    (folder / "data.new" / "base").mkdir(parents=True)
    (folder / "password.new").write_text("cut half-w")
    write_once(home)
    assert read_once(home) == 42
    assert not (folder / "data.new").exists()
    assert not (folder / "password.new").exists()


def test_orphaned_server_is_stopped_before_the_next_start(home: Path) -> None:
    spec, dsn = postgres.prepare_server(home / "postgres", print)
    orphan = start_server(spec, home / "log")
    try:
        asyncio.run(write(dsn))
        with Home(home).locked():
            Home(home).prepare()
        assert orphan.poll() is None  # the servers of a locked home are in use
        Home(home).prepare()
        assert not leftovers.is_running(orphan.pid)
        assert orphan.wait() == 0  # stopped without a kill
    finally:
        stop_server(spec, orphan)
    assert read_once(home) == 42


def test_lost_password_is_a_one_line_error_and_keeps_the_data(home: Path) -> None:
    write_once(home)
    saved = home / "postgres" / "server.json"
    kept = saved.read_bytes()
    saved.unlink()
    with pytest.raises(
        Unavailable, match=r"server\.json is gone, [^\n]+ remove [^\n]+ to start over$"
    ):
        postgres.prepare_server(home / "postgres", print)
    saved.write_bytes(kept)
    assert read_once(home) == 42


@as_root
def test_data_of_a_closed_home_stays_outside_of_it(closed_home: Path) -> None:
    write_once(closed_home)
    assert not (closed_home / "postgres" / "data").exists()
    assert read_once(closed_home) == 42
    closed_home.parent.chmod(0o755)
    assert read_once(closed_home) == 42


@as_root
def test_recreated_home_starts_with_an_empty_database(closed_home: Path) -> None:
    write_once(closed_home)
    shutil.rmtree(closed_home)
    with pytest.raises(asyncpg.UndefinedTableError):
        read_once(closed_home)


@as_root
def test_data_folder_of_another_user_is_refused(closed_home: Path, folder: Path) -> None:
    write_once(closed_home)
    (data_folder,) = (folder / "elsewhere").iterdir()
    shutil.chown(data_folder, "nobody")
    with pytest.raises(Unavailable, match="belongs to another user; remove it"):
        postgres.prepare_server(closed_home / "postgres", print)

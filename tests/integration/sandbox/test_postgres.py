"""The sandbox's PostgreSQL: its data outlives a kill, wherever the home lies and whoever starts it."""

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

as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root's server runs as another user")


@pytest.fixture
def folder() -> Iterator[Path]:
    with server_folder() as made:
        yield made


@pytest.fixture
def home(folder: Path) -> Path:
    """A home that the server's user may pass through to."""
    return folder / "home"


@pytest.fixture
def closed_home(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home that only its owner may enter, like one under /root."""
    elsewhere = folder / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.setattr(postgres, "_ELSEWHERE", elsewhere)
    closed = tmp_path / "closed"
    closed.mkdir(mode=0o700)
    return closed / "home"


async def write(dsn: str) -> None:
    async with postgres.a_connection(dsn) as connection:
        await connection.execute("CREATE TABLE kept (number int); INSERT INTO kept VALUES (42)")


async def read(dsn: str) -> int:
    async with postgres.a_connection(dsn) as connection:
        return int(await connection.fetchval("SELECT number FROM kept"))


def write_once(home: Path) -> None:
    """Start a server in the home, write, stop it."""
    spec, dsn = postgres.prepare(home / "postgres", print)
    process = start_server(spec, home / "log")
    try:
        asyncio.run(write(dsn))
    finally:
        assert stop_server(spec, process) == 0


def read_once(home: Path) -> int:
    spec, dsn = postgres.prepare(home / "postgres", print)
    process = start_server(spec, home / "log")
    try:
        return asyncio.run(read(dsn))
    finally:
        stop_server(spec, process)


def test_data_outlives_a_kill_also_while_nobody_collects_the_dead_server(home: Path) -> None:
    spec, dsn = postgres.prepare(home / "postgres", print)
    killed = start_server(spec, home / "log")
    asyncio.run(write(dsn))
    with pytest.raises(
        Unavailable, match=r"^port \d+, which PostgreSQL of this home uses, is taken; [^\n]+$"
    ):
        postgres.prepare(home / "postgres", print)
    os.kill(killed.pid, signal.SIGKILL)
    os.waitid(os.P_PID, killed.pid, os.WEXITED | os.WNOWAIT)  # dead, and still holding its number
    assert read_once(home) == 42
    killed.wait()


def test_an_initialisation_cut_half_way_is_made_anew(home: Path) -> None:
    folder = home / "postgres"
    (folder / "data.new" / "base").mkdir(parents=True)
    (folder / "password.new").write_text("cut half-w")
    write_once(home)
    assert read_once(home) == 42
    assert not (folder / "data.new").exists()
    assert not (folder / "password.new").exists()


def test_a_server_whose_supervisor_was_killed_is_ended_before_the_next_start(home: Path) -> None:
    spec, dsn = postgres.prepare(home / "postgres", print)
    orphan = start_server(spec, home / "log")
    try:
        asyncio.run(write(dsn))
        with Home(home).locked():
            Home(home).prepare()
        assert orphan.poll() is None  # a home that is held is somebody's, and so are its servers
        Home(home).prepare()
        assert not leftovers.is_running(orphan.pid)
        assert orphan.wait() == 0  # it stopped in order, and was not killed
    finally:
        stop_server(spec, orphan)
    assert read_once(home) == 42


def test_a_lost_password_is_one_clear_line_and_costs_no_data(home: Path) -> None:
    write_once(home)
    saved = home / "postgres" / "server.json"
    kept = saved.read_bytes()
    saved.unlink()
    with pytest.raises(
        Unavailable, match=r"server\.json is gone, [^\n]+ remove [^\n]+ to begin anew$"
    ):
        postgres.prepare(home / "postgres", print)
    saved.write_bytes(kept)
    assert read_once(home) == 42


@as_root
def test_in_a_home_that_others_may_not_enter_the_data_lies_elsewhere_and_stays_there(
    closed_home: Path,
) -> None:
    write_once(closed_home)
    assert not (closed_home / "postgres" / "data").exists()
    assert read_once(closed_home) == 42
    closed_home.parent.chmod(0o755)
    assert read_once(closed_home) == 42


@as_root
def test_a_home_that_was_removed_and_made_again_begins_anew(closed_home: Path) -> None:
    write_once(closed_home)
    shutil.rmtree(closed_home)
    with pytest.raises(asyncpg.UndefinedTableError):
        read_once(closed_home)


@as_root
def test_a_folder_of_somebody_else_in_the_place_is_refused(closed_home: Path, folder: Path) -> None:
    write_once(closed_home)
    (place,) = (folder / "elsewhere").iterdir()
    shutil.chown(place, "nobody")
    with pytest.raises(Unavailable, match="belongs to somebody else; remove it"):
        postgres.prepare(closed_home / "postgres", print)

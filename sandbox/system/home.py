"""The home: the folder that holds everything a local run leaves. Homes can run side by side."""

import fcntl
import os
import random
import shlex
import socket
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson

from sandbox.system import leftovers
from shared.domain.errors import Unavailable

ROOT = Path(__file__).resolve().parents[2]
"""The root folder of the project, which contains `./blogstream`."""

is_running = leftovers.is_running


class _HomeLocked(Exception):
    """Another process holds the lock of the home."""


@dataclass(frozen=True, slots=True)
class Home:
    """The paths and the lock of one home."""

    path: Path

    @property
    def env_file(self) -> Path:
        return self.path / "env"

    @property
    def postgres(self) -> Path:
        return self.path / "postgres"

    @property
    def kafka(self) -> Path:
        return self.path / "kafka"

    @property
    def posts(self) -> Path:
        return self.path / "posts"

    @property
    def images(self) -> Path:
        return self.path / "images"

    @property
    def metrics(self) -> Path:
        return self.path / "metrics"

    @property
    def log(self) -> Path:
        return self.path / "logs" / "app.log"

    @property
    def state_file(self) -> Path:
        return self.path / "run.json"

    @property
    def extra(self) -> Path:
        """The folder with one file per process started by `./blogstream run`."""
        return self.path / "extra"

    def prepare(self) -> "Home":
        """Create the folder and stop processes that a killed system left running in it.

        Raises `Unavailable` when the folder cannot be written.
        """
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            probe = self.path / f".probe-{os.getpid()}"
            probe.touch()
            probe.unlink()
        except OSError as error:
            raise Unavailable(
                f"cannot write to the home {self.path}: {error.strerror};"
                " set BLOGSTREAM_HOME to another folder"
            ) from None
        self.stop_leftovers()
        return self

    def stop_leftovers(self) -> bool:
        """Stop processes that a killed system left running here. Return whether there were any."""
        try:
            with self._lock():
                found = leftovers.find_leftovers(self.path, leftovers.running_processes())
                if found:
                    named = ", ".join(f"{process.name} (pid {process.pid})" for process in found)
                    print(
                        f"stopping processes left running by a killed system: {named}",
                        file=sys.stderr,
                        flush=True,
                    )
                    leftovers.stop_leftovers(found)
        except (_HomeLocked, OSError):  # a system runs here, or the home does not exist
            return False
        return bool(found)

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Lock the home for one system. The kernel releases the lock when the process ends."""
        try:
            with self._lock():
                yield
        except _HomeLocked:
            raise Unavailable(
                f"a system is already running in {self.path}; `./blogstream down` stops it,"
                " or set BLOGSTREAM_HOME to another folder"
            ) from None

    @contextmanager
    def _lock(self) -> Iterator[None]:
        with (self.path / "lock").open("w") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise _HomeLocked from None
            yield

    def read_state(self) -> dict[str, Any]:
        """Read the state that the supervisor last wrote; empty when nothing runs here."""
        return read_json(self.state_file)

    def read_env(self) -> dict[str, str]:
        """Read the variables of the env file; empty when the file is missing."""
        try:
            lines = self.env_file.read_text(encoding="utf-8").splitlines()
        except FileNotFoundError:
            return {}
        pairs = (
            line.removeprefix("export ").partition("=")
            for line in lines
            if line.startswith("export ")
        )
        return {name: "".join(shlex.split(value)) for name, _, value in pairs}

    def write_env(self, variables: Mapping[str, str]) -> None:
        """Write the env file for `source`. Only the owner may read it: it contains an API key."""
        text = "".join(
            f"export {name}={shlex.quote(value)}\n" for name, value in sorted(variables.items())
        )
        write_atomically(self.env_file, text.encode(), mode=0o600)


def current_home(environ: Mapping[str, str] = os.environ) -> Home:
    """Return the home of BLOGSTREAM_HOME, by default `.blogstream` in the project."""
    chosen = environ.get("BLOGSTREAM_HOME")
    return Home(Path(chosen).expanduser().resolve() if chosen else ROOT / ".blogstream")


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON object; empty when the file is missing or incomplete."""
    try:
        found = orjson.loads(path.read_bytes())
    except (FileNotFoundError, orjson.JSONDecodeError):
        return {}
    return found if isinstance(found, dict) else {}


def write_atomically(path: Path, content: bytes, *, mode: int = 0o644) -> None:
    """Replace a file so that readers see the complete old or the complete new content."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    temporary.touch(mode=mode)
    temporary.write_bytes(content)
    temporary.replace(path)


def free_port() -> int:
    """Return a free port below the kernel's ephemeral range, so that it stays free for restarts."""
    candidates = iter(random.sample(range(20_000, 30_000), 500))
    return next(port for port in candidates if is_port_free(port))


def is_port_free(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True
